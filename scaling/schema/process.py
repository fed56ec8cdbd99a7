"""Which machine this is, and whether a process that a file names still lives."""

import functools
import os
import socket
import time
from pathlib import Path


@functools.cache
def machine_id() -> str:
    """Name this boot of this kernel and its process namespace; empty where that is unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{socket.gethostname()}-{boot}-{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return ""


def process_started(pid: int) -> int | None:
    """Return a process' start in clock ticks since boot; None when it is gone or a zombie."""
    state, *rest = _stat(pid)
    return None if state in "ZX" else int(rest[18])


def seconds_here() -> float:
    """Return how long this process is there, its imports included; 0 where that is unknown."""
    started = process_started(os.getpid())
    if started is None:
        return 0.0
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - started / os.sysconf("SC_CLK_TCK"))


def process_stopped(pid: int) -> bool:
    """Say whether a process is stopped (SIGSTOP, Ctrl-Z), not by a debugger."""
    return process_state(pid) == "T"


def process_state(pid: int) -> str:
    """Return a process' state letter (ps(1)); X where it is gone."""
    return _stat(pid)[0]


def _stat(pid: int) -> list[str]:
    """Return a process' state letter and the fields after it; X alone where it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ["X"]


def own_process() -> tuple[int, int]:
    """Return this process' number and start; a forked child has its own."""
    return os.getpid(), process_started(os.getpid()) or 0
