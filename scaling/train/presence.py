"""Which ranks are there: who waits for whom at the start, and which rank hangs later.

Every few seconds each rank writes a beat, which says how many collectives its main thread has
entered. Rank 0 reads the beats of all ranks, every other rank reads that of rank 0. A rank hangs
when it has been silent, or the others have waited for it, longer than machine.hang_seconds. The
rank that notices ends the process of the hung rank, so that the collectives of the others fail
instead of waiting for ever. On GPUs collectives may not fail: there each rank ends itself.
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

from scaling.schema import machine_id, process_started

log = logging.getLogger(__name__)
# Seconds between two beats. Where hang_seconds is below 100 s, a twentieth of it.
BEAT_SECONDS = 5.0
# Once a hung rank was ended, the others' collectives have this long to fail by themselves.
GRACE_SECONDS = 30.0
LOST = 70  # The exit code of a rank that ends itself because its collectives did not fail.
# A last beat may take this long, and the rank that keeps the store stays this long for the others.
STOP_SECONDS = 5.0
WAIT_SECONDS = 5.0  # After this long without the other ranks, a rank logs that it waits.
# Where no rank is behind the others, they hang after this many times hang_seconds without a step.
STANDSTILL = 2
VERDICT = "verdict"  # The board's name for the sentence about a hung rank.


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
    """What a rank reports about itself."""

    rank: int
    node: str
    machine: str
    pid: int
    pid_started: int
    number: int = 0
    entered: int = 0
    doing: str = ""  # work of this rank alone; the others wait as long as it takes
    left: bool = False

    @classmethod
    def here(cls, rank: int) -> "Beat":
        """Describe this process."""
        return cls(
            rank=rank,
            node=os.environ.get("SLURMD_NODENAME") or socket.gethostname(),
            machine=machine_id(),
            pid=os.getpid(),
            pid_started=process_started(os.getpid()) or 0,
        )

    def end(self) -> None:
        """End the process if it is on this machine, by SIGKILL: a stopped process ends too."""
        here = self.machine and self.machine == machine_id()
        if here and process_started(self.pid) == self.pid_started:
            with suppress(OSError):
                os.kill(self.pid, signal.SIGKILL)


@dataclass
class LastBeat:
    """The last beat of a rank, when it came and when the rank last showed progress."""

    beat: Beat | None
    at: float
    progressed_at: float


@dataclass
class Presence:
    """This rank's beats and the last beats of the others: `start`, then `stop`."""

    board: Board
    rank: int
    size: int
    hang_seconds: float
    keeper: int | None = None  # the rank whose process keeps the board; None: no rank's
    entered: int = 0
    doing: str = ""
    verdict: str = ""
    last_beats: dict[int, LastBeat] = field(default_factory=dict)
    _over: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)
    _board_answered_at: float = 0.0
    _entered_at: float = 0.0

    @property
    def every(self) -> float:
        """Seconds between two beats."""
        return min(BEAT_SECONDS, self.hang_seconds / 20)

    def start(self) -> None:
        """Begin to write beats and to read those of the others."""
        self.begin_again()
        # Two threads: writing to a store whose process is stopped never returns.
        for work in (self._talk, self._judge):
            self._threads.append(threading.Thread(target=work, daemon=True))
            self._threads[-1].start()

    def stop(self) -> None:
        """Write a last beat, which says that this rank leaves."""
        self._over.set()
        for thread in self._threads:
            thread.join(2 * STOP_SECONDS)

    def enter(self) -> None:
        """Count a collective that the main thread enters."""
        self.entered += 1
        self._entered_at = time.monotonic()

    @contextmanager
    def busy(self, doing: str) -> Iterator[None]:
        """Mark work of this rank alone, for which the others wait as long as it takes."""
        self.doing = doing
        try:
            yield
        finally:
            self.doing = ""
            self.enter()

    def begin_again(self) -> None:
        """Count the others' silence from now on: this process did not run, and could not read."""
        now = time.monotonic()
        others = range(1, self.size) if self.rank == 0 else [0]
        beats = {r: h.beat for r, h in self.last_beats.items()}
        self.last_beats = {r: LastBeat(beats.get(r), now, now) for r in others}
        self._board_answered_at = self._entered_at = now

    def lost(self, *, within: float = 0.0) -> str:
        """Say which rank hangs; empty where no rank was found to hang within some seconds."""
        end = time.monotonic() + within
        while not self.verdict and time.monotonic() < end and not self._over.is_set():
            time.sleep(0.1)
        return self.verdict

    def _talk(self) -> None:
        beat, number = Beat.here(self.rank), 0
        while True:
            left = self._over.wait(self.every if number else 0)
            number += 1
            message = replace(
                beat, number=number, entered=self.entered, doing=self.doing, left=bool(left)
            )
            try:
                self.board.write(f"beat-{self.rank}", json.dumps(asdict(message)))
                if left:
                    self._wait_for_others_to_leave()
                    return
                self._listen()
            except OSError:  # a full disk: the next beat tries again
                if left:
                    return
                continue
            except Exception:  # noqa: BLE001  the process that keeps the store has ended
                return
            self._board_answered_at = time.monotonic()

    def _listen(self) -> None:
        for rank in self.last_beats:
            self._hear(rank, self.board.read(f"beat-{rank}"))
        self.verdict = self.verdict or self.board.read(VERDICT)

    def _wait_for_others_to_leave(self) -> None:
        """Wait until the others have left, if this process keeps the board for them."""
        end = time.monotonic() + STOP_SECONDS
        while self.rank == self.keeper and not self.verdict and time.monotonic() < end:
            self._listen()
            if all(h.beat and h.beat.left for h in self.last_beats.values()):
                return
            time.sleep(0.05)

    def _hear(self, rank: int, text: str) -> None:
        if not text:
            return
        beat, now, before = Beat(**json.loads(text)), time.monotonic(), self.last_beats[rank]
        if before.beat and beat.number == before.beat.number:
            return
        progressed = before.beat is None or beat.entered > before.beat.entered or bool(beat.doing)
        self.last_beats[rank] = LastBeat(beat, now, now if progressed else before.progressed_at)

    def _judge(self) -> None:
        last = time.monotonic()
        while not self._over.wait(self.every):
            now = time.monotonic()
            if now - last > max(10 * self.every, 0.5 * self.hang_seconds):
                self.begin_again()  # this process itself was stopped, or the machine slept
            last = now
            if not self.verdict:
                hung, why = self.hung(now)
                if why:
                    self.verdict = self._sentence(hung, why)
                    self._publish(self.verdict)
                    if hung is not None and (beat := self.last_beats[hung].beat):
                        beat.end()
            if self.verdict:
                if not self._over.wait(GRACE_SECONDS):
                    log.error("%s", self.verdict)
                    logging.shutdown()
                    os._exit(LOST)
                return

    def _publish(self, verdict: str) -> None:
        def write() -> None:
            with suppress(Exception):
                self.board.write(VERDICT, verdict)

        threading.Thread(target=write, daemon=True).start()  # the store itself may hang

    def hung(self, now: float) -> tuple[int | None, str]:
        """Return the rank that hangs, and why.

        The rank is None where no single rank hangs, the reason empty where nothing does.
        """
        limit = self.hang_seconds
        if now - self._board_answered_at > limit:
            return self.keeper, f"the ranks' store has not answered for {limit:.0f} s"
        present = {r: h for r, h in self.last_beats.items() if not (h.beat and h.beat.left)}
        for rank, last in present.items():
            if now - last.at > limit:
                return rank, f"it has given no sign of life for {now - last.at:.0f} s"
        waited = now - self._entered_at
        if waited <= limit or self.doing:
            return None, ""
        for rank, last in present.items():
            if last.beat and not last.beat.doing and last.beat.entered < self.entered:
                behind = min(waited, now - last.progressed_at)
                if behind > limit:
                    return rank, f"the others have waited for it for {behind:.0f} s"
        waiting = [h for h in present.values() if h.beat and not h.beat.doing]
        quiet = min([waited, *(now - h.progressed_at for h in waiting)])
        if waiting and len(waiting) == len(present) and quiet > STANDSTILL * limit:
            return None, f"no rank has gone any further for {quiet:.0f} s"
        return None, ""

    def _sentence(self, hung: int | None, why: str) -> str:
        beat = self.last_beats[hung].beat if hung is not None else None
        where = f" (process {beat.pid} on {beat.node})" if beat else ""
        who = f"rank {hung} of {self.size}{where} hangs: " if hung is not None else ""
        return (
            f"{who}{why} (machine.hang_seconds={self.hang_seconds:g}); the same command goes on "
            "from the last checkpoint"
        )


def roll_call(
    board: Board, *, rank: int, size: int, where: str, seconds: float, description: str = ""
) -> list[str]:
    """Wait until every rank is there; return the description that each gave of itself.

    board: where the ranks write for each other
    rank: of this process
    size: how many ranks there are
    where: the address of the board, for messages
    seconds: how long to wait (machine.meet_seconds)
    description: of this rank, for the others

    Logs after WAIT_SECONDS which ranks are missing. Raises RuntimeError after `seconds`.
    """
    board.write(f"here-{rank}", description or "here")
    missing, began, logged = list(range(size)), time.monotonic(), False
    answers = [""] * size
    while True:
        for r in list(missing):
            answers[r] = board.read(f"here-{r}")
            if not answers[r]:
                break  # one missing rank is enough to go on waiting
            missing.remove(r)
        if not missing:
            return answers
        waited = time.monotonic() - began
        if waited > seconds:
            absent = [r for r in missing if not board.read(f"here-{r}")]
            raise RuntimeError(missing_ranks(rank, size, absent, where, seconds))
        if waited > WAIT_SECONDS and not logged:
            logged = True
            absent = [r for r in missing if not board.read(f"here-{r}")]
            log.info("%s", waiting_for(rank, size, absent, where, seconds))
        time.sleep(min(0.5, 0.02 + waited / 20))


def name_ranks(ranks: list[int]) -> str:
    """Name ranks in words, the first few of many."""
    shown = ", ".join(map(str, ranks[:8])) + (f" and {len(ranks) - 8} more" * (len(ranks) > 8))
    return f"rank{'s' * (len(ranks) > 1)} {shown}"


def waiting_for(rank: int, size: int, absent: list[int], where: str, seconds: float) -> str:
    """Say that a rank waits for others."""
    return (
        f"rank {rank} of {size} waits for {name_ranks(absent)} at {where}, "
        f"{seconds:.0f} s at the most (machine.meet_seconds)"
    )


def missing_ranks(rank: int, size: int, absent: list[int], where: str, seconds: float) -> str:
    """Say that other ranks did not join, and what to check."""
    return (
        f"rank {rank} of {size} waited {seconds:.0f} s for {name_ranks(absent)} at {where}; see "
        f"that all {size} ranks are started (torchrun, or srun --ntasks={size}), that MASTER_ADDR "
        "and MASTER_PORT are a free port of rank 0's node that the others reach, or raise "
        "machine.meet_seconds"
    )


@contextmanager
def call_after(seconds: float, function: Callable[[], None]) -> Iterator[None]:
    """Call a function where the block takes longer than some seconds."""
    timer = threading.Timer(seconds, function)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
