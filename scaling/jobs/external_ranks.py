"""Train one cell, or the pretraining of a plan, by ranks that torchrun or srun started.

    torchrun --nproc-per-node=2 -m scaling.sweep model=m1m budget.n_tokens=1e6 '~sweeps'
    torchrun --nproc-per-node=2 -m scaling.final plan=plan.yaml stages=pretrain

When one rank fails, torchrun ends the others; the same command goes on from the last checkpoint.
The first rank holds the leases of the cell and its trunk, so that a sweep on the same folder leaves
them alone, and `scaling status` shows and cancels the cell like any other.
"""

import logging
import os
import shlex
import signal
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from scaling.app.progress import Progress
from scaling.budget import resolve
from scaling.config import CellConfig, MachineConfig
from scaling.jobs.cells import resolve_corpus
from scaling.schema import Record, discard_record, read_record
from scaling.study.jobs_file import Job, append_jobs, jobs_folder, local_job, submitter
from scaling.study.lease import Held, Holder, Lease, Pulse, Stopped
from scaling.study.places import cell_folder, record_path, status_of, trunk_folder
from scaling.study.precision import settled
from scaling.study.states import CellState, Outcome, Part, Where
from scaling.study.stop_signals import stop_on_signal
from scaling.train.forecast_band import ForecastBand
from scaling.train.local_ranks import follow
from scaling.train.ranks import World, launched_ranks
from scaling.train.trunk import train_trunk

log = logging.getLogger(__name__)


def train_on_ranks(cell: CellConfig) -> Record:
    """Train a cell as one of the ranks; return its record.

    SIGTERM or SIGUSR2 at any rank ends all ranks after a checkpoint. Raises ValueError for a stage
    after pretraining, which one process trains, RuntimeError where the training is stopped or
    another process trains the cell.
    """
    if cell.stage != "pretrain":
        raise ValueError(
            f"stage={cell.stage} is trained by one process; start it without torchrun or srun"
        )
    if cell.machine.ranks > 1:
        raise ValueError(
            f"machine.ranks={cell.machine.ranks} is for a sweep that starts the ranks itself; "
            "leave it out under torchrun or srun"
        )
    pulse = Pulse()

    def stop(number: int, frame: object) -> None:
        pulse.stop = Outcome.PREEMPTED if number == signal.SIGUSR2 else Outcome.STOPPED

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGUSR2, stop)
    try:
        with launched_ranks(cell.machine) as world:
            # The first rank tokenises the corpus; the others read the cache.
            with world.busy("reads the corpus"):
                resolved = resolve_corpus([cell]) if world.first else None
            (cell,) = map(settled, world.share(resolved))
            if world.share(status_of(cell) == CellState.DONE):
                return world.share(read_record(record_path(cell)) if world.first else None)
            with leases_of(cell, world, pulse):
                return train_rank(cell, world, pulse)
    except Held as error:
        raise RuntimeError(
            f"{cell_folder(cell)} is {error}; wait for it (scaling status "
            f"{shlex.quote(str(cell_folder(cell).parent))}) or end it (--cancel)"
        ) from None
    except Stopped as error:
        raise RuntimeError(
            f"{cell_folder(cell)} was {error} at step {pulse.step}, after a checkpoint; the same "
            "command goes on from there"
        ) from None


@contextmanager
def leases_of(cell: CellConfig, world: World, pulse: Pulse) -> Iterator[None]:
    """Hold trunk and cell at the first rank; raise Held at every rank where another has one."""
    leases: list[Lease] = []
    with ExitStack() as stack:
        other = None
        if world.first:
            holder = append_own_job(cell)
            try:
                for folder in (trunk_folder(cell), cell_folder(cell)):
                    leases.append(stack.enter_context(Lease(folder, holder, pulse)))
            except Held as error:
                other = error.attempt
        other = world.share(other)
        if not other:
            if world.first:
                discard_record(record_path(cell))
            yield
        for lease in leases:
            lease.outcome = Outcome.STOPPED if other else status_of(cell)
            lease.final = not other
    if other:
        raise Held(other)


def append_own_job(cell: CellConfig) -> Holder:
    """Append this process to the study's list of jobs; return it as a holder of leases."""
    folder, round, cells = cell_folder(cell).parent, uuid.uuid4().hex[:10], [cell.run_id()]
    job = local_job(os.getpid(), round=round, cells=cells, log=Path())
    if slurm_id := os.environ.get("SLURM_JOB_ID"):
        job = Job(job=slurm_id, where=Where.SLURM, round=round, part=Part.ALL, cells=cells, log="")
    while True:
        try:
            with Lease(jobs_folder(folder), submitter(round), Pulse()):
                append_jobs(folder, [job])
            return Holder.here(round=round, job=job.job)
        except Held:  # a sweep submits at this moment
            time.sleep(0.5)


def train_rank(cell: CellConfig, world: World, pulse: Pulse) -> Record:
    """Train a cell as this rank; only the first rank writes the cell's files and reports."""
    if not world.first:
        return follow(world, [cell], pulse=pulse)[0]
    total = resolve(cell).flops
    progress = Progress(
        cell.run_id(), total=total, every_seconds=cell.log.every_seconds, unit="FLOP"
    )
    log.info("%s: %d ranks", cell_folder(cell), world.size)
    (record,) = train_trunk([cell], report=progress.update, pulse=pulse, world=world)
    progress.close()
    log.info("%s: %s, test loss %s", cell_folder(cell), record.status, record.test_loss)
    return record


def pretrain_on_ranks(
    run: Callable[[World, Callable[[CellConfig, ForecastBand], None]], list[Record]],
    machine: MachineConfig,
) -> list[Record]:
    """Let rank 0 `run` a plan's pretraining and the others follow; return the records of rank 0.

    `run` takes the world and a function that it must call right before it trains. Where `run` ends
    without that call, because nothing is to train or something is wrong, the other ranks leave.
    """
    with launched_ranks(machine) as world:
        if not world.first:
            if job := world.share(None):
                cell, band = job
                pulse = Pulse()
                with stop_on_signal(pulse), suppress(Stopped):  # rank 0 says so
                    follow(world, [cell], band=band, pulse=pulse)
            return []
        preparing = ExitStack()  # closed when the ranks begin to train
        preparing.enter_context(world.busy("prepares the run"))
        shared: list[CellConfig] = []  # the cell, once the other ranks have it

        def begin(cell: CellConfig, band: ForecastBand) -> None:
            preparing.close()
            shared.append(cell)
            world.share((cell, band))

        try:
            return run(world, begin)
        finally:
            preparing.close()
            if not shared:
                world.share(None)
