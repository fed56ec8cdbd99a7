"""Which ranks are there: who waits for whom at the start, and which rank hangs later.

Each rank writes a beat every few seconds: how many collectives its main thread has entered. Rank 0
reads the beats of all, the others that of rank 0. A rank that is silent, or that the others wait
for, longer than machine.hang_seconds is named and ended, so that the others' collectives fail
instead of waiting for ever; where they do not fail, as on GPUs, each rank ends itself.
"""

import json
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from scaling.schema import machine_id, process_start

log = logging.getLogger(__name__)
BEAT_SECONDS = 5.0  # between two beats; a twentieth of a hang_seconds that is shorter than 100 s
GRACE_SECONDS = 30.0  # that a rank's collectives have to fail by themselves, once a rank is ended
LOST = 70  # exit code of a rank whose collectives do not
STOP_SECONDS = 5.0  # that a last beat may take, and the rank that keeps the store stays for others
WAIT_SECONDS = 5.0  # of waiting for other ranks at the start, before it is said
STANDSTILL = 2  # times hang_seconds without a step of any rank, where none is behind the others
VERDICT = "verdict"


class Board(Protocol):
    """Where ranks write for each other."""

    def write(self, name: str, text: str) -> None:
        """Put a text under a name."""
        ...

    def read(self, name: str) -> str:
        """Return the text of a name, empty where there is none."""
        ...


@dataclass(frozen=True)
class FolderBoard:
    """A folder of one machine."""

    folder: Path

    def write(self, name: str, text: str) -> None:
        """Put a text under a name."""
        path = self.folder / f"{name}-{os.getpid()}.new"
        path.write_text(text)
        path.replace(self.folder / name)

    def read(self, name: str) -> str:
        """Return the text of a name, empty where there is none."""
        try:
            return (self.folder / name).read_text()
        except FileNotFoundError:
            return ""


@dataclass(frozen=True)
class StoreBoard:
    """A key-value store of torch.distributed, over several machines."""

    store: Any

    def write(self, name: str, text: str) -> None:
        """Put a text under a name."""
        self.store.set(name, text)

    def read(self, name: str) -> str:
        """Return the text of a name, empty where there is none."""
        return self.store.get(name).decode() if self.store.check([name]) else ""


@dataclass(frozen=True, kw_only=True)
class Beat:
    """What a rank says of itself."""

    rank: int
    node: str
    machine: str
    pid: int
    pid_started: int
    number: int = 0
    entered: int = 0
    doing: str = ""  # work of this rank alone, for which the others wait as long as it takes
    left: bool = False

    @classmethod
    def here(cls, rank: int) -> "Beat":
        """Describe this process."""
        return cls(
            rank=rank,
            node=os.environ.get("SLURMD_NODENAME") or socket.gethostname(),
            machine=machine_id(),
            pid=os.getpid(),
            pid_started=process_start(os.getpid()) or 0,
        )

    def end(self) -> None:
        """End the process where it is one of this machine; SIGKILL ends a stopped one too."""
        here = self.machine and self.machine == machine_id()
        if here and process_start(self.pid) == self.pid_started:
            with suppress(OSError):
                os.kill(self.pid, signal.SIGKILL)


@dataclass
class Heard:
    """The last beat of a rank, when it came and when it last showed progress."""

    beat: Beat | None
    at: float
    moved: float


@dataclass
class Presence:
    """This rank's beats and what it hears of the others; a context manager around their work."""

    board: Board
    rank: int
    size: int
    hang_seconds: float
    keeper: int | None = None  # the rank whose process keeps the board, where one does
    entered: int = 0
    doing: str = ""
    verdict: str = ""
    heard: dict[int, Heard] = field(default_factory=dict)
    _over: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)
    _spoke: float = 0.0
    _entered_at: float = 0.0

    @property
    def every(self) -> float:
        """Seconds between two beats."""
        return min(BEAT_SECONDS, self.hang_seconds / 20)

    def start(self) -> None:
        """Begin to beat and to listen."""
        self.begin_again()
        # Two threads: writing to a store whose process is stopped never returns.
        for work in (self._talk, self._judge):
            self._threads.append(threading.Thread(target=work, daemon=True))
            self._threads[-1].start()

    def stop(self) -> None:
        """Say that this rank leaves, and be silent."""
        self._over.set()
        for thread in self._threads:
            thread.join(2 * STOP_SECONDS)

    def enter(self) -> None:
        """Count a collective that the main thread enters."""
        self.entered += 1
        self._entered_at = time.monotonic()

    @contextmanager
    def busy(self, doing: str) -> Iterator[None]:
        """Do work of this rank alone, for which the others wait as long as it takes."""
        self.doing = doing
        try:
            yield
        finally:
            self.doing = ""
            self.enter()

    def begin_again(self) -> None:
        """Forget how long the others have been silent: this process was not there to hear them."""
        now = time.monotonic()
        others = range(1, self.size) if self.rank == 0 else [0]
        known = {r: h.beat for r, h in self.heard.items()}
        self.heard = {r: Heard(known.get(r), now, now) for r in others}
        self._spoke = self._entered_at = now

    def lost(self, *, within: float = 0.0) -> str:
        """Say which rank hangs; empty where none is known to within some seconds."""
        end = time.monotonic() + within
        while not self.verdict and time.monotonic() < end and not self._over.is_set():
            time.sleep(0.1)
        return self.verdict

    def _talk(self) -> None:
        beat, number = Beat.here(self.rank), 0
        while True:
            left = self._over.wait(self.every if number else 0)
            number += 1
            said = replace(
                beat, number=number, entered=self.entered, doing=self.doing, left=bool(left)
            )
            try:
                self.board.write(f"beat-{self.rank}", json.dumps(asdict(said)))
                if left:
                    self._see_off()
                    return
                self._listen()
            except OSError:  # of a full disk: later
                if left:
                    return
                continue
            except Exception:  # noqa: BLE001  of a store whose process has ended
                return
            self._spoke = time.monotonic()

    def _listen(self) -> None:
        for rank in self.heard:
            self._hear(rank, self.board.read(f"beat-{rank}"))
        self.verdict = self.verdict or self.board.read(VERDICT)

    def _see_off(self) -> None:
        """Stay until the others have left, where this process keeps the board for them."""
        end = time.monotonic() + STOP_SECONDS
        while self.rank == self.keeper and not self.verdict and time.monotonic() < end:
            self._listen()
            if all(h.beat and h.beat.left for h in self.heard.values()):
                return
            time.sleep(0.05)

    def _hear(self, rank: int, text: str) -> None:
        if not text:
            return
        beat, now, before = Beat(**json.loads(text)), time.monotonic(), self.heard[rank]
        if before.beat and beat.number == before.beat.number:
            return
        moved = before.beat is None or beat.entered > before.beat.entered or bool(beat.doing)
        self.heard[rank] = Heard(beat, now, now if moved else before.moved)

    def _judge(self) -> None:
        last = time.monotonic()
        while not self._over.wait(self.every):
            now = time.monotonic()
            if now - last > max(10 * self.every, 0.5 * self.hang_seconds):
                self.begin_again()  # this process was stopped itself, or the machine slept
            last = now
            if not self.verdict:
                hung, why = self.hung(now)
                if why:
                    self.verdict = self._sentence(hung, why)
                    self._tell(self.verdict)
                    if hung is not None and (beat := self.heard[hung].beat):
                        beat.end()
            if self.verdict:
                if not self._over.wait(GRACE_SECONDS):
                    log.error("%s", self.verdict)
                    logging.shutdown()
                    os._exit(LOST)
                return

    def _tell(self, verdict: str) -> None:
        def write() -> None:
            with suppress(Exception):
                self.board.write(VERDICT, verdict)

        threading.Thread(target=write, daemon=True).start()  # the store may be the one that hangs

    def hung(self, now: float) -> tuple[int | None, str]:
        """Return the rank that hangs and why, None for no single one; no reason where none does."""
        limit = self.hang_seconds
        if now - self._spoke > limit:
            return self.keeper, f"the ranks' store has not answered for {limit:.0f} s"
        there = {r: h for r, h in self.heard.items() if not (h.beat and h.beat.left)}
        for rank, heard in there.items():
            if now - heard.at > limit:
                return rank, f"it has given no sign of life for {now - heard.at:.0f} s"
        waited = now - self._entered_at
        if waited <= limit or self.doing:
            return None, ""
        for rank, heard in there.items():
            if heard.beat and not heard.beat.doing and heard.beat.entered < self.entered:
                behind = min(waited, now - heard.moved)
                if behind > limit:
                    return rank, f"the others have waited for it for {behind:.0f} s"
        still = [h for h in there.values() if h.beat and not h.beat.doing]
        quiet = min([waited, *(now - h.moved for h in still)])
        if still and len(still) == len(there) and quiet > STANDSTILL * limit:
            return None, f"no rank has gone any further for {quiet:.0f} s"
        return None, ""

    def _sentence(self, hung: int | None, why: str) -> str:
        beat = self.heard[hung].beat if hung is not None else None
        where = f" (process {beat.pid} on {beat.node})" if beat else ""
        who = f"rank {hung} of {self.size}{where} hangs: " if hung is not None else ""
        return (
            f"{who}{why} (machine.hang_seconds={self.hang_seconds:g}); the same command goes on "
            "from the last checkpoint"
        )


def roll_call(
    board: Board, *, rank: int, size: int, where: str, seconds: float, me: str = ""
) -> list[str]:
    """Wait until every rank is there; return what each said of itself (`me`).

    Says after a few seconds which ranks are missing, RuntimeError after `seconds`.
    """
    board.write(f"here-{rank}", me or "here")
    missing, began, said = list(range(size)), time.monotonic(), False
    found = [""] * size
    while True:
        for r in list(missing):
            found[r] = board.read(f"here-{r}")
            if not found[r]:
                break  # one that is missing is enough to go on waiting
            missing.remove(r)
        if not missing:
            return found
        waited = time.monotonic() - began
        if waited > seconds:
            absent = [r for r in missing if not board.read(f"here-{r}")]
            raise RuntimeError(never_came(rank, size, absent, where, seconds))
        if waited > WAIT_SECONDS and not said:
            said = True
            absent = [r for r in missing if not board.read(f"here-{r}")]
            log.info("%s", waits(rank, size, absent, where, seconds))
        time.sleep(min(0.5, 0.02 + waited / 20))


def named(ranks: list[int]) -> str:
    """Name ranks in words, the first few of many."""
    shown = ", ".join(map(str, ranks[:8])) + (f" and {len(ranks) - 8} more" * (len(ranks) > 8))
    return f"rank{'s' * (len(ranks) > 1)} {shown}"


def waits(rank: int, size: int, absent: list[int], where: str, seconds: float) -> str:
    """Say that a rank waits for others."""
    return (
        f"rank {rank} of {size} waits for {named(absent)} at {where}, "
        f"{seconds:.0f} s at the most (machine.meet_seconds)"
    )


def never_came(rank: int, size: int, absent: list[int], where: str, seconds: float) -> str:
    """Say that other ranks did not come."""
    return (
        f"rank {rank} of {size} waited {seconds:.0f} s for {named(absent)} at {where}; see that "
        f"all {size} ranks are started (torchrun, or srun --ntasks={size}), that MASTER_ADDR and "
        "MASTER_PORT are a free port of rank 0's node that the others reach, or raise "
        "machine.meet_seconds"
    )


@contextmanager
def said_after(seconds: float, say: Callable[[], None]) -> Iterator[None]:
    """Say something where what is inside takes longer than some seconds."""
    timer = threading.Timer(seconds, say)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
