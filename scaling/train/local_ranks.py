"""Several processes of one machine that train a model together: machine.ranks=N.

The process that was given the cells is rank 0: it holds the leases and writes files and records. It
starts the other ranks, which take every step with it, and ends them when it ends. Ranks on several
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
from scaling.train.forecast_band import ForecastBand
from scaling.train.presence import GRACE_SECONDS, LOST, FolderBoard, Presence
from scaling.train.rank_exit import end_now
from scaling.train.ranks import ALONE, World, join_group, leave, name_lost_rank
from scaling.train.trunk import train_trunk

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RankJob:
    """What the other ranks train with rank 0.

    `folder` is where the ranks meet and where each writes its error. `first_gpu` is the GPU of
    rank 0, None on CPUs.
    """

    cells: list[CellConfig]
    part: str
    band: ForecastBand
    folder: Path
    first_gpu: int | None

    @property
    def size(self) -> int:
        """How many ranks there are."""
        return self.cells[0].machine.ranks

    def join(self, rank: int) -> World:
        """Join the other ranks."""
        gpu = None if self.first_gpu is None else self.first_gpu + rank
        limit = self.cells[0].machine.hang_seconds
        presence = Presence(FolderBoard(self.folder), rank, self.size, limit)
        store = FileStore(str(self.folder / "meeting"), self.size)
        return join_group(store, gpu=gpu, presence=presence)

    def error_file(self, rank: int) -> Path:
        """Return the file in which a rank writes the error that ended it."""
        return self.folder / f"{rank}.error"


@contextmanager
def start_local_ranks(
    cells: list[CellConfig], *, part: str = "all", band: ForecastBand | None = None
) -> Iterator[World]:
    """Start the other ranks of one trunk's cells; yield the world in which to train them.

    Inside, `train_trunk` or `trunk_requests` is called once, with this `part` and `band`. Raises
    ValueError where a rank would have no GPU of its own, RuntimeError where a rank is lost on the
    way.
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
        job = RankJob(
            cells=cells,
            part=part,
            band=band or ForecastBand(),
            folder=Path(folder),
            first_gpu=gpu,
        )
        with LocalRanks.of(job) as ranks:
            world = FirstRank(rank=0, size=job.size, presence=ranks.presence, ranks=ranks)
            with name_lost_rank(world):
                yield world


def train_by_ranks(
    cells: list[CellConfig],
    *,
    part: str = "all",
    band: ForecastBand | None = None,
    **options: Any,
) -> list[Record]:
    """Train the cells of a trunk by `machine.ranks` processes, which are started here.

    cells: the cells of one trunk
    part, band, options: those of `train_trunk`
    """
    with start_local_ranks(cells, part=part, band=band) as world:
        return train_trunk(cells, part=part, band=band, world=world, **options)


@dataclass
class LocalRanks:
    """The processes of the other ranks, as rank 0 sees them; a context manager around the work."""

    job: RankJob
    processes: list[Any]  # of ranks 1, 2, ...
    over: threading.Event = field(default_factory=threading.Event)
    presence: Presence | None = None
    # Of two threads that ask for an exit status at once, one would be told that there is none yet.
    asking: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def of(cls, job: RankJob) -> "LocalRanks":
        """Start the processes."""
        context = multiprocessing.get_context("spawn")
        processes = [
            context.Process(target=run_rank, args=(job, rank, os.getpid()), daemon=True)
            for rank in range(1, job.size)
        ]
        for process in processes:
            process.start()
        return cls(job, processes)

    def __enter__(self) -> "LocalRanks":
        """Join the ranks as rank 0, and watch for one that ends."""
        threading.Thread(target=self._watch, daemon=True).start()
        self.presence = self.job.join(0).presence
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        """Wait for the ranks to end; where rank 0 failed, end them at once."""
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
        """Say which rank ended too early and why; empty where none does within some seconds."""
        ready = wait([p.sentinel for p in self.processes], timeout=within)
        with self.asking:
            for process in self.processes:
                if process.sentinel in ready:
                    process.join(GRACE_SECONDS)  # its pipe is closed a moment before it has ended
            codes = [process.exitcode for process in self.processes]
        for rank, code in enumerate(codes, start=1):
            if code:
                file = self.job.error_file(rank)
                why = file.read_text() if file.is_file() else describe_exit(code)
                return (
                    f"rank {rank} of {self.job.size} was lost: {why}; "
                    "the same command goes on from the last checkpoint"
                )
        return ""

    def _watch(self) -> None:
        """End rank 0 where it waits for a rank that has ended: on GPUs it would wait minutes."""
        sentinels = [p.sentinel for p in self.processes]
        while sentinels and not self.over.is_set():
            for sentinel in wait(sentinels, timeout=1.0):
                sentinels.remove(sentinel)  # type: ignore[arg-type]
            if (sentence := self.lost()) and not self.over.wait(GRACE_SECONDS):
                log.error("%s", sentence)
                os._exit(LOST)


@dataclass(frozen=True, kw_only=True)
class FirstRank(World):
    """Rank 0, which sees the processes of the ranks that it started."""

    ranks: LocalRanks

    def lost(self, error: RuntimeError) -> str:
        """Say which rank was lost; a collective's error may come before the process has ended."""
        hung = self.presence.lost() if self.presence else ""
        return hung or self.ranks.lost(within=2.0)


def run_rank(job: RankJob, rank: int, parent: int) -> None:
    """Be one of the ranks after the first: train with it, then end this process."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)  # rank 0 handles signals for all ranks
    threading.Thread(target=end_with, args=(parent,), daemon=True).start()
    logging.disable(logging.WARNING)
    code = 0
    try:
        with suppress(Stopped):
            world = job.join(rank)
            follow(world, job.cells, part=job.part, band=job.band)
    except Exception as error:  # noqa: BLE001  rank 0 reports it
        job.error_file(rank).write_text(f"{type(error).__name__}: {error}")
        code = 1
    leave()
    end_now(code)


def follow(
    world: World,
    cells: list[CellConfig],
    *,
    part: str = "all",
    band: ForecastBand | None = None,
    pulse: Pulse | None = None,
) -> list[Record]:
    """Train what rank 0 trains, as `train_trunk` does, with files that nobody reads.

    world: of this rank, which is not the first
    cells, part, band, pulse: those of `train_trunk` at rank 0
    """
    with tempfile.TemporaryDirectory() as folder:
        temporary = Path(folder)
        return train_trunk(
            [replace(c, log=replace(c.log, wandb="disabled")) for c in cells],
            folders=[temporary / c.run_id() for c in cells],
            part=part,
            world=world,
            band=replace(band or ForecastBand(), path=temporary / "curve.json"),
            pulse=pulse,
        )


def end_with(parent: int) -> None:
    """End this process once its parent is gone."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)
