"""Work on a corpus chunk by chunk: in several processes where it is large, and never twice.

The result of a chunk is one file, which is there only when it is complete. So a build that was
killed goes on with the next chunk.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from scaling.app.process_pool import process_pool
from scaling.app.progress import Progress
from scaling.data.documents import Piece
from scaling.schema import replacing

log = logging.getLogger(__name__)
CHUNK = 16 << 20  # Bytes on disk that one task reads.
POOLED = 64 << 20  # Bytes; a smaller corpus is read in this process: starting others takes longer.


def chunks(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    """Group consecutive pieces into chunks of about CHUNK bytes."""
    chunk: list[Piece] = []
    for piece in pieces:
        if chunk and sum(p.size for p in chunk) + piece.size > CHUNK:
            yield chunk
            chunk = []
        chunk.append(piece)
    if chunk:
        yield chunk


def each(
    what: str,
    function: Callable[..., Any],
    tasks: Sequence[tuple[list[Piece], Any]],
    *,
    workers: int,
    every_seconds: float = 10.0,
) -> Iterator[Any]:
    """Yield `function(chunk, argument)` of every task in order, with progress by bytes.

    what: the work, for the progress
    function: a function of a module, so that other processes can import it
    tasks: chunks and their arguments
    workers: the most processes
    every_seconds: the interval of the progress
    """
    sizes = [sum(p.size for p in chunk) for chunk, _ in tasks]
    progress = Progress(what, total=sum(sizes), every_seconds=every_seconds, unit="bytes")
    done = 0
    with _mapped(sum(sizes) >= POOLED and workers > 1, min(workers, len(tasks))) as mapped:
        for result, size in zip(mapped(function, *zip(*tasks, strict=True)), sizes, strict=True):
            done += size
            progress.update(done, f"{done / 1e6:,.0f} of {sum(sizes) / 1e6:,.0f} MB")
            yield result
    progress.close()


@contextmanager
def _mapped(pooled: bool, workers: int) -> Iterator[Callable[..., Iterator[Any]]]:
    if not pooled:
        yield map
        return
    with process_pool(workers, {"TOKENIZERS_PARALLELISM": "false"}) as pool:
        yield pool.map


@contextmanager
def write_whole(path: Path) -> Iterator[IO[bytes]]:
    """Write a file that is there only when it is complete."""
    with replacing(path, advice="set machine.cache") as temporary, temporary.open("wb") as stream:
        yield stream
