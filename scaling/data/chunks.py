"""Work on a corpus chunk by chunk: in processes where it is large, and never twice.

What was found of a chunk is one file, put in place whole, so that a build that was killed goes on
where it was.
"""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import IO, Any

from scaling.app.progress import Progress
from scaling.data.documents import Piece
from scaling.schema import replacing

log = logging.getLogger(__name__)
CHUNK = 16 << 20  # bytes on disk that one task reads
POOLED = 64 << 20  # bytes; a smaller corpus is read in this process


def chunks(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    """Put consecutive pieces together to about CHUNK bytes."""
    found: list[Piece] = []
    for piece in pieces:
        if found and sum(p.size for p in found) + piece.size > CHUNK:
            yield found
            found = []
        found.append(piece)
    if found:
        yield found


def each(
    what: str,
    function: Callable[..., Any],
    tasks: Sequence[tuple[list[Piece], Any]],
    *,
    workers: int,
    every_seconds: float = 10.0,
) -> Iterator[Any]:
    """Yield `function(chunk, argument)` of every task in order, with progress by bytes."""
    sizes = [sum(p.size for p in chunk) for chunk, _ in tasks]
    progress = Progress(what, total=sum(sizes), every_seconds=every_seconds)
    done = 0
    with _mapped(sum(sizes) >= POOLED and workers > 1, min(workers, len(tasks))) as mapped:
        for found, size in zip(mapped(function, *zip(*tasks, strict=True)), sizes, strict=True):
            done += size
            progress.update(done, f"{done / 1e6:,.0f} of {sum(sizes) / 1e6:,.0f} MB")
            yield found
    progress.close()


@contextmanager
def _mapped(pooled: bool, workers: int) -> Iterator[Callable[..., Iterator[Any]]]:
    if not pooled:
        yield map
        return
    pool = ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=_enter, initargs=(os.getpid(),)
    )
    try:
        yield pool.map
    finally:
        pool.shutdown(cancel_futures=True)


def _enter(parent: int) -> None:
    """Leave the keyboard to the parent, one core to each process, and end with the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    threading.Thread(target=_outlive, args=(parent,), daemon=True).start()


def _outlive(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


@contextmanager
def whole(path: Path) -> Iterator[IO[bytes]]:
    """Write a file that is there only when it is complete."""
    with replacing(path, advice="set machine.cache") as temporary, temporary.open("wb") as stream:
        yield stream
