"""Several processes of one machine that train a model together: machine.ranks=N.

The process that has the work is rank 0: it holds the leases and keeps files and records. It starts
the others, which do every step with it, and takes them with it when it ends. Ranks on several
machines are started by torchrun or srun (scaling.jobs.external_ranks).
"""

import logging
import multiprocessing
import os
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import torch
from torch.distributed import FileStore  # type: ignore[attr-defined]

from scaling.config import CellConfig
from scaling.schema import Record
from scaling.study.failures import describe_exit
from scaling.study.lease import Pulse, Stopped
from scaling.train.forecast_band import Corridor
from scaling.train.presence import GRACE_SECONDS, LOST, FolderBoard, Presence
from scaling.train.rank_exit import end_now
from scaling.train.ranks import ALONE, World, leave, meet, telling
from scaling.train.trunk import train_trunk

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Errand:
    """What the companions of rank 0 train with it; `folder` is where they meet and say errors."""

    cells: list[CellConfig]
    part: str
    corridor: Corridor
    folder: Path
    first_gpu: int | None

    @property
    def size(self) -> int:
        """How many ranks there are."""
        return self.cells[0].machine.ranks

    def meet(self, rank: int) -> World:
        """Join the other ranks."""
        gpu = None if self.first_gpu is None else self.first_gpu + rank
        limit = self.cells[0].machine.hang_seconds
        presence = Presence(FolderBoard(self.folder), rank, self.size, limit)
        store = FileStore(str(self.folder / "meeting"), self.size)
        return meet(store, gpu=gpu, presence=presence)


@contextmanager
def companions(
    cells: list[CellConfig], *, part: str = "all", corridor: Corridor | None = None
) -> Iterator[World]:
    """Start the other ranks of one trunk's cells; yield the world in which to train them.

    Inside, `train_trunk` or `trunk_work` is called once, with this `part` and `corridor`. Raises
    ValueError where a rank would have no GPU of its own, RuntimeError where one is lost on the way.
    """
    machine = cells[0].machine
    if machine.ranks == 1:
        yield ALONE
        return
    gpu = None
    if machine.device != "cpu" and torch.cuda.is_available():
        gpu, count = torch.cuda.current_device(), torch.cuda.device_count()
        if gpu + machine.ranks > count:
            raise ValueError(
                f"machine.ranks={machine.ranks} needs a GPU each, from GPU {gpu} on, and {count} "
                "are here; start fewer, start them on several machines by srun, or set "
                "machine.device=cpu"
            )
    with tempfile.TemporaryDirectory(prefix="scaling-ranks-") as folder:
        errand = Errand(
            cells=cells,
            part=part,
            corridor=corridor or Corridor(),
            folder=Path(folder),
            first_gpu=gpu,
        )
        with Company.of(errand) as company:
            world = Leader(rank=0, size=errand.size, presence=company.presence, company=company)
            with telling(world):
                yield world


def train_by_ranks(
    cells: list[CellConfig],
    *,
    part: str = "all",
    corridor: Corridor | None = None,
    **options: Any,
) -> list[Record]:
    """Train the cells of a trunk by `machine.ranks` processes, which are started here.

    cells: of one trunk
    part, corridor, options: those of `train_trunk`
    """
    with companions(cells, part=part, corridor=corridor) as world:
        return train_trunk(cells, part=part, corridor=corridor, world=world, **options)


@dataclass
class Company:
    """The companions at work, as rank 0 sees them."""

    errand: Errand
    processes: list[Any]  # of ranks 1, 2, ...
    over: threading.Event = field(default_factory=threading.Event)
    presence: Presence | None = None

    @classmethod
    def of(cls, errand: Errand) -> "Company":
        """Start them."""
        context = multiprocessing.get_context("spawn")
        processes = [
            context.Process(target=accompany, args=(errand, rank, os.getpid()), daemon=True)
            for rank in range(1, errand.size)
        ]
        for process in processes:
            process.start()
        return cls(errand, processes)

    def __enter__(self) -> "Company":
        """Meet them."""
        threading.Thread(target=self._watch, daemon=True).start()
        self.presence = self.errand.meet(0).presence
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        """Let them end, or end them where rank 0 failed."""
        try:
            if error is None or isinstance(error, Stopped):
                leave()
                for process in self.processes:
                    process.join(GRACE_SECONDS)
        finally:
            self.over.set()
            for process in self.processes:
                process.kill()
            leave()

    def lost(self, *, within: float = 0.0) -> str:
        """Say which rank ended by itself and why; empty where none does within some seconds."""
        wait([p.sentinel for p in self.processes], timeout=within)
        for rank, process in enumerate(self.processes, start=1):
            if process.exitcode:
                told = self.errand.folder / f"{rank}.error"
                why = told.read_text() if told.is_file() else describe_exit(process.exitcode)
                return (
                    f"rank {rank} of {self.errand.size} was lost: {why}; "
                    "the same command goes on from the last checkpoint"
                )
        return ""

    def _watch(self) -> None:
        """End rank 0 where it waits for one that is gone: on GPUs it would for minutes."""
        sentinels = [p.sentinel for p in self.processes]
        while sentinels and not self.over.is_set():
            for sentinel in wait(sentinels, timeout=1.0):
                sentinels.remove(sentinel)  # type: ignore[arg-type]
            if (lost := self.lost()) and not self.over.wait(GRACE_SECONDS):
                log.error("%s", lost)
                os._exit(LOST)


@dataclass(frozen=True, kw_only=True)
class Leader(World):
    """Rank 0, which knows of the companions it started."""

    company: Company

    def lost(self, error: RuntimeError) -> str:
        """Say which was lost; a collective's error may come before its end is seen."""
        hung = self.presence.lost() if self.presence else ""
        return hung or self.company.lost(within=2.0)


def accompany(errand: Errand, rank: int, parent: int) -> None:
    """Be one of the ranks after the first."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)  # rank 0 hears them for all
    threading.Thread(target=end_with, args=(parent,), daemon=True).start()
    logging.disable(logging.WARNING)
    code = 0
    try:
        with suppress(Stopped):
            world = errand.meet(rank)
            follow(world, errand.cells, part=errand.part, corridor=errand.corridor)
    except Exception as error:  # noqa: BLE001  told by rank 0
        (errand.folder / f"{rank}.error").write_text(f"{type(error).__name__}: {error}")
        code = 1
    leave()
    end_now(code)


def follow(
    world: World,
    cells: list[CellConfig],
    *,
    part: str = "all",
    corridor: Corridor | None = None,
    pulse: Pulse | None = None,
) -> list[Record]:
    """Train what rank 0 trains, as `train_trunk` does, with files that nobody reads."""
    with tempfile.TemporaryDirectory() as folder:
        own = Path(folder)
        return train_trunk(
            [replace(c, log=replace(c.log, wandb="disabled")) for c in cells],
            folders=[own / c.run_id() for c in cells],
            part=part,
            world=world,
            corridor=replace(corridor or Corridor(), path=own / "curve.json"),
            pulse=pulse,
        )


def end_with(parent: int) -> None:
    """End this process once its parent is gone."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)
