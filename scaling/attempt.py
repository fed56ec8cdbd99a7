"""Attempts at a piece of work: who has it, since when, how far it is, how it ended.

`<folder>/attempts/0003.json` is the history and the lease in one. An attempt is taken by
hard-linking the next number, which exactly one process can do, on network file systems too; no lock
of the operating system and no clock but the file server's is relied on. The holder rewrites its
file every few seconds; one that is silent for STALE_SECONDS, or whose process is seen to be gone,
is taken over by the next number, and a holder that finds a higher number than its own stops.
"""

import errno
import json
import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from scaling.schema import (
    machine_id,
    now,
    process_started,
    sweep_temporaries,
    temporary_name,
    write_json,
)

BEAT_SECONDS = 5.0
STALE_SECONDS = 60.0  # far above what a busy file server or a paused machine keeps a beat back
OUTCOMES = ("done", "diverged", "failed", "preempted", "timeout", "stopped", "superseded")
TAKEN_AWAY = ("preempted", "timeout", "superseded")  # no failures: they use no retry


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
    """One attempt, as its file holds it. `final`: this round does not try the work again."""

    attempt: int
    started: str
    step: int = 0
    test_loss: float | None = None
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
    paths = sorted((Path(folder) / "attempts").glob("[0-9]*.json"))
    return [a for a in map(_read, paths) if a is not None]


def last_attempt(folder: str | Path) -> Attempt | None:
    """Read the last attempt; None where there was none."""
    try:
        names = sorted(n for n in os.listdir(Path(folder) / "attempts") if n[:1].isdigit())
    except FileNotFoundError:
        return None
    return _read(Path(folder) / "attempts" / names[-1]) if names else None


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
            temporary.write_text(json.dumps(asdict(mine), indent=1).ljust(3500))
            moment = temporary.stat().st_mtime  # the file server's clock, as of the beats
            if last and last.ended is None:
                mine_before = last.job == holder.job != "" and last.pid != holder.pid
                if not (dead(folder, last, moment) or (mine_before and last.job[:1].isdigit())):
                    raise Held(last)
            if _link(temporary, attempt_path(folder, number)):
                if last and last.ended is None:
                    close_dead(folder, last, requeued=last.job == holder.job)
                return mine
        finally:
            temporary.unlink(missing_ok=True)
    raise OSError(errno.EAGAIN, f"cannot take {folder}: it changes hands all the time")


def close_dead(folder: Path, attempt: Attempt, *, requeued: bool, error: str = "") -> Attempt:
    """Write how an attempt ended whose holder cannot: requeued, or killed."""
    ended = replace(
        attempt,
        ended=now(),
        outcome="preempted" if requeued else "failed",
        error=error or f"its process on {attempt.node} ended without a word (killed, or node lost)",
    )
    return write_attempt(folder, ended)


def write_attempt(folder: Path, attempt: Attempt) -> Attempt:
    """Write an attempt's file, in place where the disk has no room for a new one."""
    path = attempt_path(folder, attempt.attempt)
    try:
        write_json(path, asdict(attempt))
    except OSError:
        text = json.dumps(asdict(replace(attempt, error=(attempt.error or "")[-1500:])), indent=1)
        with path.open("r+") as stream:
            stream.write(text.ljust(3500))
    return attempt


def _read(path: Path) -> Attempt | None:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    known = {f.name for f in fields(Attempt)}
    return Attempt(**{k: v for k, v in values.items() if k in known})


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
        self._thread = threading.Thread(target=self._live, daemon=True)
        self._thread.start()
        return self

    def _live(self) -> None:
        while not self._closed.wait(BEAT_SECONDS):
            if attempt_path(self.folder, self.attempt.attempt + 1).exists():
                self.pulse.stop = "superseded"
            else:
                self._write()

    def _write(self, **changes: Any) -> None:
        values = {"step": self.pulse.step, "test_loss": self.pulse.test_loss} | changes
        try:
            self.attempt = write_attempt(self.folder, replace(self.attempt, **values))
        except OSError:
            os.utime(attempt_path(self.folder, self.attempt.attempt))  # the beat alone

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Write how it ended."""
        self._closed.set()
        self._thread.join()
        outcome, text, final = self.outcome, self.error, self.final
        if isinstance(error, Stopped):
            outcome, text, final = str(error), None, False
        elif error is not None:
            final = self.final_after(error)
            outcome, text = "failed", f"{type(error).__name__}: {error}"
        self._write(ended=now(), outcome=outcome, error=text, final=final)
