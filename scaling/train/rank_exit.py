"""The end of a command that joined other ranks: at once, with its exit status.

Threads of gloo, NCCL and the ranks' store outlive the process group. The interpreter's own end
takes away what they use, and one that is met there by it ends the process with SIGABRT, now and
then, after all work was done. Imports no torch: an ordinary command need not.
"""

import atexit
import logging
import os
import sys
import threading
import traceback
from collections.abc import Callable

joined = threading.Event()  # set by scaling.train.ranks once this process meets other ranks


def run_to_end(command: Callable[[], None]) -> None:
    """Run a command; end the process here where it joined others, else leave that to Python."""
    try:
        command()
        code: object = 0
    except SystemExit as stop:
        if not joined.is_set():
            raise
        code = stop.code
    except BaseException:
        if not joined.is_set():
            raise
        traceback.print_exc()
        code = 1
    if joined.is_set():
        if isinstance(code, str):
            sys.stderr.write(f"{code}\n")
        end_now(code if isinstance(code, int) else int(code is not None))


def end_now(code: int) -> None:
    """End the process with an exit status, after what was registered for its end."""
    atexit._run_exitfuncs()
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):  # a closed pipe, or none
            continue
    os._exit(code)
