"""Attempts at a piece of work: who has it, since when, how far it is, how it ended.

`<folder>/attempts/0003.json` is the history and the lease in one. An attempt is taken by
hard-linking the next number, which exactly one process can do, on network file systems too; no lock
of the operating system and no clock but the file server's is relied on. The holder rewrites its
file every few seconds; one that is silent for STALE_SECONDS, or whose process is seen to be gone,
is taken over by the next number, and a holder that finds a higher number than its own stops without
writing anything more of the work. A file that cannot be read counts as an attempt that is over.
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
    Later,
    machine_id,
    now,
    parse_json,
    process_started,
    read_as,
    readable,
    set_aside,
    sweep_temporaries,
    temporary_name,
    write_json,
)
from scaling.study.activity import moves

BEAT_SECONDS = 5.0
STALE_SECONDS = 60.0  # far above what a busy file server or a paused machine keeps a beat back
# A holder that lives writes its file again within one beat, and so mends it; where a file system
# has no hard links a new file is unreadable for a moment.
DAMAGED_SECONDS = 2 * BEAT_SECONDS
DAMAGED = "damaged"  # the outcome of an attempt whose file cannot be read
STALLED = "stalled"  # the outcome of an attempt whose process was stopped or hung, and was ended
OUTCOMES = (
    "done", "diverged", "failed", "preempted", "timeout", "stopped", "superseded", STALLED, DAMAGED,
)  # fmt: skip
TAKEN_AWAY = ("preempted", "timeout", "superseded", STALLED, DAMAGED)  # these use no retry
FILE = re.compile(r"(\d+)(\.damaged-\d+)?\.json")


class Held(Exception):
    """Somebody else has the work; `attempt` says who."""

    def __init__(self, attempt: "Attempt") -> None:
        super().__init__(f"held by job {attempt.job} on {attempt.node}")
        self.attempt = attempt


class Stopped(Exception):
    """The work was asked to stop and left a checkpoint; the message is its outcome."""


@dataclass
class Pulse:
    """What a worker says of itself and hears from outside, between two steps."""

    step: int = 0
    test_loss: float | None = None
    stop: str = ""  # an outcome: leave a checkpoint and end as that
    save: bool = False  # leave a checkpoint and go on
    leases: list["Lease"] = field(default_factory=list)  # what is held now

    @property
    def superseded(self) -> bool:
        """Whether somebody else has taken over what is held, so that nothing may be written."""
        return any(lease.superseded for lease in self.leases)

    def fence(self) -> None:
        """Raise Stopped where somebody else has taken over; to be called right before a write.

        A process that was stopped for a while learns of it here before its next beat does.
        """
        if self.superseded:
            raise Stopped("superseded")


@dataclass(frozen=True, kw_only=True)
class Holder:
    """A process that does work: its round and job, and what tells whether it still lives."""

    round: str
    job: str
    node: str
    machine: str
    pid: int
    pid_started: int

    @classmethod
    def here(cls, *, round: str, job: str) -> Self:
        """Describe this process."""
        return cls(
            round=round,
            job=job,
            node=os.environ.get("SLURMD_NODENAME") or socket.gethostname(),
            machine=machine_id(),
            pid=os.getpid(),
            pid_started=process_started(os.getpid()) or 0,
        )

    def gone(self) -> bool:
        """Say whether the process is seen to be gone; False where that cannot be seen from here."""
        return bool(
            self.machine
            and self.machine == machine_id()
            and process_started(self.pid) != self.pid_started
        )


@dataclass(frozen=True, kw_only=True)
class Attempt(Holder):
    """One attempt, as its file holds it. `final`: this round does not try the work again.

    `moves` grows while the process gets on (scaling.study.activity).
    """

    attempt: int
    started: str
    step: int = 0
    test_loss: float | None = None
    moves: int = 0
    ended: str | None = None
    outcome: str | None = None
    error: str | None = None
    final: bool = False
    schema: int = 1

    @property
    def failed(self) -> bool:
        """Whether it ended in a failure, which uses up a retry."""
        return self.outcome == "failed"


def attempt_path(folder: Path, number: int) -> Path:
    """Return the file of an attempt."""
    return folder / "attempts" / f"{number:04}.json"


def attempts(folder: str | Path) -> list[Attempt]:
    """Read all attempts at the work of a folder, the first one first."""
    return [a for a in map(_read, attempt_files(folder).values()) if a is not None]


def last_attempt(folder: str | Path) -> Attempt | None:
    """Read the last attempt; None where there was none."""
    while files := attempt_files(folder):
        if last := _read(files[max(files)]):
            return last  # else it was renamed between the two looks
    return None


def attempt_files(folder: str | Path) -> dict[int, Path]:
    """Return the files of all attempts by number, in its order; those set aside are among them."""
    place = Path(folder) / "attempts"
    found: dict[int, Path] = {}
    with suppress(FileNotFoundError):
        for name in os.listdir(place):
            if (match := FILE.fullmatch(name)) and not (match[2] and int(match[1]) in found):
                found[int(match[1])] = place / name
    return dict(sorted(found.items()))


def failures(found: list[Attempt], round: str) -> int:
    """Count the attempts of a round that failed."""
    return sum(a.failed for a in found if a.round == round)


def silent_seconds(folder: Path, attempt: Attempt, now: float | None = None) -> float:
    """Return how long an attempt's file has not been written, by `now` (default: our clock)."""
    try:
        written = attempt_path(folder, attempt.attempt).stat().st_mtime
    except OSError:
        return 0.0
    return (time.time() if now is None else now) - written


def dead(folder: Path, attempt: Attempt, now: float | None = None) -> bool:
    """Say whether the holder of an unended attempt is gone: seen to be, or silent for too long."""
    return attempt.ended is None and (
        attempt.gone() or silent_seconds(folder, attempt, now) > STALE_SECONDS
    )


def alive(folder: Path) -> Attempt | None:
    """Return the attempt that is at work in a folder now, if any."""
    last = last_attempt(folder)
    return None if last is None or last.ended is not None or dead(folder, last) else last


def settled(folder: Path, round: str) -> bool:
    """Say whether a round is through with the work of a folder."""
    last = last_attempt(folder)
    return last is not None and last.round == round and last.final


def take(folder: Path, holder: Holder) -> Attempt:
    """Begin the next attempt; raises Held while another one lives, OSError without a disk."""
    place = folder / "attempts"
    place.mkdir(parents=True, exist_ok=True)
    for _ in range(100):
        last = last_attempt(folder)
        number = last.attempt + 1 if last else 1
        mine = Attempt(**asdict(holder), attempt=number, started=now())
        temporary = place / temporary_name("next")
        try:
            # Padded to keep its block: the end can be written on a disk that is full by then.
            _write_through(temporary, json.dumps(asdict(mine), indent=1).ljust(3500))
            moment = temporary.stat().st_mtime  # the file server's clock, as of the beats
            if last and not _may_follow(folder, last, holder, moment):
                raise Held(last)
            if _link(temporary, attempt_path(folder, number)):
                _sync_folder(place)
                if last and last.ended is None:
                    close_dead(folder, last, outcome="preempted" if last.job == holder.job else "")
                put_damaged_aside(folder)
                return mine
        finally:
            temporary.unlink(missing_ok=True)
    raise OSError(errno.EAGAIN, f"cannot take {folder}: it changes hands all the time")


def _may_follow(folder: Path, last: Attempt, holder: Holder, moment: float) -> bool:
    """Say whether the last attempt is over, by the file server's clock, or a requeued job's own."""
    if last.outcome == DAMAGED:
        path = attempt_path(folder, last.attempt)
        return not path.exists() or silent_seconds(folder, last, moment) > DAMAGED_SECONDS
    requeued = last.job == holder.job != "" and last.pid != holder.pid and last.job[:1].isdigit()
    return last.ended is not None or requeued or dead(folder, last, moment)


def put_damaged_aside(folder: Path) -> None:
    """Rename the attempts that cannot be read; for the process that holds the work."""
    for number, path in attempt_files(folder).items():
        found = _read(path)
        if found and found.outcome == DAMAGED and path == attempt_path(folder, number):
            set_aside(path, found.error or "")


def close_dead(folder: Path, attempt: Attempt, *, outcome: str = "", error: str = "") -> Attempt:
    """Write how an attempt ended whose holder cannot: a failure without an `outcome`."""
    ended = replace(
        attempt,
        ended=now(),
        outcome=outcome or "failed",
        error=error or f"its process on {attempt.node} ended without a word (killed, or node lost)",
    )
    return write_attempt(folder, ended)


def write_attempt(folder: Path, attempt: Attempt) -> Attempt:
    """Write an attempt's file, in place where the disk has no room for a new one."""
    path = attempt_path(folder, attempt.attempt)
    if attempt.test_loss is not None and not math.isfinite(attempt.test_loss):
        attempt = replace(attempt, test_loss=None)  # JSON has no such number; the record says it
    try:
        write_json(path, asdict(attempt))
    except OSError:
        text = json.dumps(asdict(replace(attempt, error=(attempt.error or "")[-1500:])), indent=1)
        with path.open("r+") as stream:
            stream.write(text.ljust(3500))
    return attempt


def _read(path: Path) -> Attempt | None:
    """Read an attempt's file; one that is damaged as an attempt that is over; None without one."""
    match = FILE.fullmatch(path.name)
    assert match
    number = int(match[1])
    try:
        if match[2]:
            return _damaged(path, number, "it was set aside")
        try:
            text = readable(path).read_bytes()
        except ValueError as error:  # a folder, pipe or device in its place
            return _damaged(path, number, str(error))
        try:
            values = parse_json(text)
            found = read_as(Attempt, values, source=path.name, noun="attempt", fix="it is over")
            return replace(found, attempt=number)
        except Later:
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
        outcome=DAMAGED,
        error=f"the file of attempt {number} cannot be read: {why}",
    )


def _write_through(path: Path, text: str) -> None:
    """Write a file that is on the disk before it gets its name there."""
    with path.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())


def _sync_folder(folder: Path) -> None:
    """Put the names in a folder on the disk, where its file system can."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _link(source: Path, target: Path) -> bool:
    try:
        os.link(source, target)
    except FileExistsError:
        # Over NFS the reply to a link that was made may be lost and the second try refused.
        return source.stat().st_nlink == 2
    except OSError:  # a file system without hard links: create the name exclusively instead
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
    """Hold the work of a folder: take it, keep it alive, write how it ended.

    A context manager. A Stopped error ends it as that word, any other as failed; `final_after`
    says of a failure whether it is the round's last.
    """

    folder: Path
    holder: Holder
    pulse: Pulse
    final_after: Callable[[BaseException], bool] = lambda error: True
    attempt: Any = None
    outcome: str = "done"
    error: str | None = None
    final: bool = True
    _closed: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        """Take the work; Held while another has it."""
        self.attempt = take(self.folder, self.holder)
        sweep_temporaries(self.folder, self.folder / "attempts")
        self.pulse.step, self.pulse.test_loss = 0, None
        self.pulse.leases.append(self)
        self._thread = threading.Thread(target=self._live, daemon=True)
        self._thread.start()
        return self

    def _live(self) -> None:
        while not self._closed.wait(BEAT_SECONDS):
            if self.superseded:
                self.pulse.stop = "superseded"
            else:
                self._write()

    @property
    def superseded(self) -> bool:
        """Whether there is a later attempt than this one."""
        return max(attempt_files(self.folder), default=0) > self.attempt.attempt

    def _write(self, **changes: Any) -> None:
        values = {"step": self.pulse.step, "test_loss": self.pulse.test_loss, "moves": moves()}
        try:
            self.attempt = write_attempt(self.folder, replace(self.attempt, **values | changes))
        except OSError:
            with suppress(OSError):  # the beat goes on: a disk may have room again
                os.utime(attempt_path(self.folder, self.attempt.attempt))  # the beat alone

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Write how it ended."""
        self._closed.set()
        self._thread.join()
        self.pulse.leases.remove(self)
        outcome, text, final = self.outcome, self.error, self.final
        if isinstance(error, Stopped):
            outcome, text, final = str(error), None, False
        elif error is not None:
            final = self.final_after(error)
            outcome, text = "failed", f"{type(error).__name__}: {error}"
        self._write(ended=now(), outcome=outcome, error=text, final=final)


Hold = Callable[[CellConfig, Path], AbstractContextManager[Any]]  # takes a cell while it is trained
