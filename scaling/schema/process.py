"""Name this machine, and look whether a process that a file names still lives."""

import functools
import os
import socket
import time
from pathlib import Path


@functools.cache
def machine_id() -> str:
    """Return a name of this boot and its process namespace; empty where they are unknown.

    Within one name a process id means one process.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{socket.gethostname()}-{boot}-{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return ""


def process_start(pid: int) -> int | None:
    """Return a process' start in clock ticks since boot; None when it is gone or a zombie."""
    state, *rest = _stat(pid)
    return None if state in "ZX" else int(rest[18])


def seconds_here() -> float:
    """Return the age of this process in seconds, with its imports; 0 where it is unknown."""
    started = process_start(os.getpid())
    if started is None:
        return 0.0
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - started / os.sysconf("SC_CLK_TCK"))


def is_stopped(pid: int) -> bool:
    """Say whether a process is stopped (SIGSTOP, Ctrl-Z); by a debugger does not count."""
    return process_state(pid) == "T"


def process_state(pid: int) -> str:
    """Return the letter of a process' state, as in ps(1); X for a process that is gone."""
    return _stat(pid)[0]


def _stat(pid: int) -> list[str]:
    """Return the letter of a process' state and the fields after it; X alone if it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ["X"]


def own_process() -> tuple[int, int]:
    """Return the id and the start of this process; a forked child has its own."""
    return os.getpid(), process_start(os.getpid()) or 0
