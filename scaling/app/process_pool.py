"""A pool of processes that end with the process that started them."""

import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import active_children, get_context


@contextmanager
def process_pool(
    workers: int, environment: Mapping[str, str] | None = None
) -> Iterator[ProcessPoolExecutor]:
    """Yield a pool of fresh processes; what still waits is dropped at the end.

    workers: processes
    environment: variables that they start with, as those that libraries read on import; the
        calling process has them too while the pool is open

    The processes ignore Ctrl-C, which ends the pool through the caller, and end with the caller
    even where that is killed. An error of the caller ends them in the middle of their tasks.
    """
    variables = dict(environment or {})
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    others = set(active_children())
    pool = ProcessPoolExecutor(
        workers,
        mp_context=get_context("spawn"),
        initializer=_start_process,
        initargs=(os.getpid(),),
    )
    try:
        yield pool
    except BaseException:
        for process in set(active_children()) - others:
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _start_process(parent: int) -> None:
    """Ignore Ctrl-C, and end with the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
