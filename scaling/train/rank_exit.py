"""The end of a command that joined other ranks: at once, with its exit status.

Threads of gloo, NCCL and the ranks' store outlive the process group. When the interpreter shuts
down it removes what these threads use, and one that still runs then sometimes ends the process with
SIGABRT although all work was done. This module imports no torch, so that every command may use it.
"""

import atexit
import logging
import os
import sys
import threading
import traceback
from collections.abc import Callable

joined = threading.Event()  # Set by scaling.train.ranks once this process joins other ranks.


def run_to_end(command: Callable[[], None]) -> None:
    """Run a command; end the process here if it joined other ranks, else return to Python."""
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
    """End the process with an exit status, after the functions registered with atexit."""
    atexit._run_exitfuncs()
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):  # a closed pipe, or none
            continue
    os._exit(code)
