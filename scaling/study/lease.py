"""Leases: which process holds a piece of work, since when, how far it is, how it ended.

`<folder>/attempts/0003.json` is the third attempt: history and lease in one file. A process takes
an attempt by hard-linking the next number, which only one process can do, on network file systems
too. The holder rewrites its file every few seconds. The next number may be taken when the holder
was silent for STALE_SECONDS or its process is gone; a holder that sees a higher number than its own
stops and writes nothing more. A file that cannot be read counts as an attempt that is over.

Written by hand on purpose: a lock of the operating system cannot be relied on over network file
systems, and does not say how far its holder is. This needs no clock but the file server's.
"""

import errno
import json
import math
import os
import re
import socket
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from scaling.config import CellConfig
from scaling.schema import (
    EndForecast,
    LaterVersion,
    check_readable,
    machine_id,
    now,
    parse_json,
    process_start,
    read_as,
    set_aside,
    sweep_temporaries,
    temporary_name,
    write_json,
)
from scaling.study.activity import moves
from scaling.study.states import CellState, Outcome

BEAT_SECONDS = 5.0  # The holder of a lease rewrites its file this often, in seconds.
# A holder that is silent for so many seconds is taken over: far longer than a busy file server or a
# paused machine delays a beat.
STALE_SECONDS = 60.0
# An attempt whose file cannot be read is over after so many seconds. A live holder repairs its file
# within one beat; where a file system has no hard links, a new file is unreadable for a moment.
DAMAGED_SECONDS = 2 * BEAT_SECONDS
PADDED_BYTES = 3500  # Size of an attempt's file: its block has room for the end of the attempt.
FILE = re.compile(r"(\d+)(\.damaged-\d+)?\.json")


class Held(Exception):
    """Another process has the work; `attempt` says which."""

    def __init__(self, attempt: "Attempt") -> None:
        super().__init__(f"held by job {attempt.job} on {attempt.node}")
        self.attempt = attempt


class Stopped(Exception):
    """The work stopped on request, after a checkpoint; the message is the outcome."""


@dataclass
class Pulse:
    """What a worker reports, and what it is asked for, between two steps.

    step, test_loss: progress of the cell that is trained now
    at_end: the forecast of its final test loss; None while too little is known
    stop: write a checkpoint and end with this outcome; empty: go on
    save: write a checkpoint and go on
    leases: the leases that the worker holds now
    """

    step: int = 0
    test_loss: float | None = None
    at_end: EndForecast | None = None
    stop: str = ""
    save: bool = False
    leases: list["Lease"] = field(default_factory=list)

    @property
    def superseded(self) -> bool:
        """Whether another process has taken over a lease, so that nothing may be written."""
        return any(lease.superseded for lease in self.leases)

    def fence(self) -> None:
        """Raise Stopped where another process has taken over; call this right before a write.

        A process that was suspended for a while learns of a takeover here, before its next beat.
        """
        if self.superseded:
            raise Stopped(Outcome.SUPERSEDED)


@dataclass(frozen=True, kw_only=True)
class Holder:
    """A process that does work: its round and job, and by what one sees whether it still lives."""

    round: str
    """Id of the sweep command that the process works for."""
    job: str
    """Job of the process: SLURM's id or local-<process id>."""
    node: str
    """Name of the machine, for people."""
    machine: str
    """Id of the machine and its boot, by which another process knows whether it may look for
    `pid`."""
    pid: int
    """Process id."""
    pid_started: int
    """Start time of the process in the kernel's clock ticks."""

    @classmethod
    def here(cls, *, round: str, job: str) -> Self:
        """Describe this process."""
        return cls(
            round=round,
            job=job,
            node=os.environ.get("SLURMD_NODENAME") or socket.gethostname(),
            machine=machine_id(),
            pid=os.getpid(),
            pid_started=process_start(os.getpid()) or 0,
        )

    def gone(self) -> bool:
        """Say whether the process has ended; False where this machine cannot see the process."""
        return bool(
            self.machine
            and self.machine == machine_id()
            and process_start(self.pid) != self.pid_started
        )


@dataclass(frozen=True, kw_only=True)
class Attempt(Holder):
    """One attempt, as its file holds it."""

    attempt: int
    """Number of the attempt, from 1; also the file's name."""
    started: str
    """When the attempt began, ISO 8601 in UTC."""
    step: int = 0
    """Last optimiser step that was reported."""
    test_loss: float | None = None
    """Last test loss that was reported, in nats per token; null before the first."""
    at_end: EndForecast | None = None
    """Forecast of the final test loss, in nats per token; null while too little is known."""
    moves: int = 0
    """Count that grows while the process makes progress; one that stands still is a hang."""
    ended: str | None = None
    """When the attempt ended, ISO 8601 in UTC; null while it runs."""
    outcome: Outcome | None = None
    """How it ended: done, diverged, failed, preempted, timeout, stopped, superseded, stalled or
    damaged; null while it runs."""
    error: str | None = None
    """Last lines of the error of a failed attempt; null otherwise."""
    final: bool = False
    """Whether this round does not try the work again."""
    schema: int = 1
    """Version of this layout."""

    @property
    def failed(self) -> bool:
        """Whether the attempt ended in a failure, which uses up a retry."""
        return self.outcome == Outcome.FAILED


def attempt_path(folder: Path, number: int) -> Path:
    """Return the file of an attempt."""
    return folder / "attempts" / f"{number:04}.json"


def attempts(folder: str | Path) -> list[Attempt]:
    """Read all attempts at the work of a folder, in their order."""
    return [a for a in map(_read, attempt_files(folder).values()) if a is not None]


def last_attempt(folder: str | Path) -> Attempt | None:
    """Read the last attempt; None where there is none."""
    while files := attempt_files(folder):
        if last := _read(files[max(files)]):
            return last  # else the file was renamed after it was listed: list again
    return None


def attempt_files(folder: str | Path) -> dict[int, Path]:
    """Return the files of all attempts by number, in order; files that were set aside too."""
    place = Path(folder) / "attempts"
    files: dict[int, Path] = {}
    with suppress(FileNotFoundError):
        for name in os.listdir(place):
            if (match := FILE.fullmatch(name)) and not (match[2] and int(match[1]) in files):
                files[int(match[1])] = place / name
    return dict(sorted(files.items()))


def count_failures(tries: list[Attempt], round: str) -> int:
    """Count the attempts of a round that failed."""
    return sum(a.failed for a in tries if a.round == round)


def silent_seconds(folder: Path, attempt: Attempt, now: float | None = None) -> float:
    """Return how long ago an attempt's file was written; `now` replaces this machine's clock."""
    try:
        written_at = attempt_path(folder, attempt.attempt).stat().st_mtime
    except OSError:
        return 0.0
    return (time.time() if now is None else now) - written_at


def is_dead(folder: Path, attempt: Attempt, now: float | None = None) -> bool:
    """Say whether an attempt has no end and its process is gone, or silent for too long."""
    return attempt.ended is None and (
        attempt.gone() or silent_seconds(folder, attempt, now) > STALE_SECONDS
    )


def is_settled(folder: Path, round: str) -> bool:
    """Say whether a round does not try the work of a folder again."""
    last = last_attempt(folder)
    return last is not None and last.round == round and last.final


def take(folder: Path, holder: Holder) -> Attempt:
    """Begin the next attempt.

    Raises Held while another attempt lives, OSError where the folder cannot be written.
    """
    place = folder / "attempts"
    place.mkdir(parents=True, exist_ok=True)
    for _ in range(100):
        last = last_attempt(folder)
        number = last.attempt + 1 if last else 1
        mine = Attempt(**asdict(holder), attempt=number, started=now())
        temporary = place / temporary_name("next")
        try:
            # The padding keeps a block: the end can be written even if the disk is full by then.
            _write_through(temporary, json.dumps(asdict(mine), indent=1).ljust(PADDED_BYTES))
            moment = temporary.stat().st_mtime  # by the file server's clock, like the beats
            if last and not _may_follow(folder, last, holder, moment):
                raise Held(last)
            if _link(temporary, attempt_path(folder, number)):
                _sync_folder(place)
                if last and last.ended is None:
                    requeued = last.job == holder.job
                    close_dead(folder, last, Outcome.PREEMPTED if requeued else Outcome.FAILED)
                set_damaged_aside(folder)
                return mine
        finally:
            temporary.unlink(missing_ok=True)
    raise OSError(errno.EAGAIN, f"cannot take {folder}: it changes hands all the time")


def _may_follow(folder: Path, last: Attempt, holder: Holder, moment: float) -> bool:
    """Say whether the last attempt is over at `moment`, or is an earlier turn of the same job.

    Only a job of SLURM, whose name is a number, is requeued under its own name.
    """
    if last.outcome == Outcome.DAMAGED:
        path = attempt_path(folder, last.attempt)
        return not path.exists() or silent_seconds(folder, last, moment) > DAMAGED_SECONDS
    requeued = last.job == holder.job != "" and last.pid != holder.pid and last.job[:1].isdigit()
    return last.ended is not None or requeued or is_dead(folder, last, moment)


def set_damaged_aside(folder: Path) -> None:
    """Rename the attempts that cannot be read; only the process that holds the work does so."""
    for number, path in attempt_files(folder).items():
        attempt = _read(path)
        if attempt and attempt.outcome == Outcome.DAMAGED and path == attempt_path(folder, number):
            set_aside(path, attempt.error or "")


def close_dead(
    folder: Path, attempt: Attempt, outcome: Outcome = Outcome.FAILED, error: str = ""
) -> Attempt:
    """Write the end of an attempt whose own process cannot.

    folder: where the attempt's work lies
    attempt: the attempt as its file holds it
    outcome: how it ended
    error: what happened; empty for a sentence that says that the process is gone
    """
    ended = replace(
        attempt,
        ended=now(),
        outcome=outcome,
        error=error or f"its process on {attempt.node} ended without a word (killed, or node lost)",
    )
    return write_attempt(folder, ended)


def write_attempt(folder: Path, attempt: Attempt) -> Attempt:
    """Write an attempt's file; where the disk is full, into the block that the file has."""
    path = attempt_path(folder, attempt.attempt)
    if attempt.test_loss is not None and not math.isfinite(attempt.test_loss):
        attempt = replace(attempt, test_loss=None)  # no number of JSON; the record says `diverged`
    try:
        write_json(path, asdict(attempt))
    except OSError:
        text = json.dumps(asdict(replace(attempt, error=(attempt.error or "")[-1500:])), indent=1)
        with path.open("r+") as stream:
            stream.write(text.ljust(PADDED_BYTES))
    return attempt


def _read(path: Path) -> Attempt | None:
    """Read an attempt's file; None where it is missing.

    A damaged file counts as an attempt that is over.
    """
    match = FILE.fullmatch(path.name)
    assert match
    number = int(match[1])
    try:
        if match[2]:
            return _damaged(path, number, "it was set aside")
        try:
            text = check_readable(path).read_bytes()
        except ValueError as error:  # a folder, pipe or device in its place
            return _damaged(path, number, str(error))
        try:
            values = parse_json(text)
            attempt = read_as(Attempt, values, source=path.name, noun="attempt", fix="it is over")
            return replace(attempt, attempt=number)
        except LaterVersion:
            raise
        except ValueError as error:
            return _damaged(path, number, str(error) if text else "it is empty")
    except FileNotFoundError:
        return None


def _damaged(path: Path, number: int, why: str) -> Attempt:
    moment = datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat(timespec="seconds")
    nobody: dict[str, Any] = dict.fromkeys(("round", "job", "node", "machine"), "")
    return Attempt(
        **nobody,
        pid=0,
        pid_started=0,
        attempt=number,
        started=moment,
        ended=moment,
        outcome=Outcome.DAMAGED,
        error=f"the file of attempt {number} cannot be read: {why}",
    )


def _write_through(path: Path, text: str) -> None:
    """Write a file and wait until its content is on the disk."""
    with path.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())


def _sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk, where the file system can do that."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _link(source: Path, target: Path) -> bool:
    """Give a file a second name; False where another file has that name."""
    try:
        os.link(source, target)
    except FileExistsError:
        # NFS may lose the reply to a link that was made, and then refuse the second try.
        return source.stat().st_nlink == 2
    except OSError:  # the file system has no hard links: create the name exclusively instead
        try:
            with target.open("x") as stream:
                stream.write(source.read_text())
                stream.flush()
                os.fsync(stream.fileno())
        except FileExistsError:
            return False
    return True


@dataclass
class Lease:
    """A context manager that holds the work of a folder: takes it, beats, writes how it ended.

    A Stopped error inside ends the attempt with the outcome that the error names, any other error
    as failed.

    folder: where the work lies
    holder: this process
    pulse: progress, which each beat writes; a takeover sets its `stop`
    final_after: whether a failure is the round's last
    outcome, error, final: how the attempt ends without an error; the block inside may set them
    """

    folder: Path
    holder: Holder
    pulse: Pulse
    final_after: Callable[[BaseException], bool] = lambda error: True
    attempt: Any = None
    outcome: Outcome | CellState = Outcome.DONE
    error: str | None = None
    final: bool = True
    _closed: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        """Take the work; raise Held while another process has it."""
        self.attempt = take(self.folder, self.holder)
        sweep_temporaries(self.folder, self.folder / "attempts")
        self.pulse.step, self.pulse.test_loss, self.pulse.at_end = 0, None, None
        self.pulse.leases.append(self)
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()
        return self

    def _beat(self) -> None:
        while not self._closed.wait(BEAT_SECONDS):
            if self.superseded:
                self.pulse.stop = Outcome.SUPERSEDED
            else:
                self._write()

    @property
    def superseded(self) -> bool:
        """Whether there is a later attempt than this one."""
        return max(attempt_files(self.folder), default=0) > self.attempt.attempt

    def _write(self, **changes: Any) -> None:
        pulse = self.pulse
        values = {"step": pulse.step, "test_loss": pulse.test_loss, "at_end": pulse.at_end}
        values |= {"moves": moves(), **changes}
        try:
            self.attempt = write_attempt(self.folder, replace(self.attempt, **values))
        except OSError:
            with suppress(OSError):  # beats go on: the disk may have room again
                os.utime(attempt_path(self.folder, self.attempt.attempt))  # a beat without content

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the beats and write how the attempt ended."""
        self._closed.set()
        self._thread.join()
        self.pulse.leases.remove(self)
        outcome, text, final = self.outcome, self.error, self.final
        if isinstance(error, Stopped):
            outcome, text, final = str(error), None, False
        elif error is not None:
            final = self.final_after(error)
            outcome, text = Outcome.FAILED, f"{type(error).__name__}: {error}"
        self._write(ended=now(), outcome=outcome, error=text, final=final)


# A context manager that holds a cell, whose folder is given, while it is trained.
Hold = Callable[[CellConfig, Path], AbstractContextManager[Any]]
