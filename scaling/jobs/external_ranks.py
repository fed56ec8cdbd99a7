"""One cell, or a plan's pretraining, by several ranks, processes that torchrun or srun started.

    torchrun --nproc-per-node=2 -m scaling.sweep model=m1m budget.n_tokens=1e6 '~sweeps'
    torchrun --nproc-per-node=2 -m scaling.final plan=plan.yaml stages=pretrain

A rank that fails takes the others with it (torchrun ends them); the same command goes on from the
last checkpoint. The first rank holds the cell and its trunk for all, so that a sweep on the same
folder leaves them alone, and `scaling.status` shows and cancels them like any other.
"""

import logging
import os
import shlex
import signal
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from scaling.app.progress import Progress
from scaling.budget import resolve
from scaling.config import CellConfig, MachineConfig
from scaling.jobs.cells import resolve_corpus
from scaling.schema import Record, discard_record, read_record
from scaling.study.jobs_file import Job, append_jobs, jobs_folder, local_job, submitter
from scaling.study.lease import Held, Holder, Lease, Pulse, Stopped
from scaling.study.places import cell_folder, record_path, status_of, trunk_folder
from scaling.train.forecast_band import ForecastBand
from scaling.train.local_ranks import follow
from scaling.train.ranks import World, launched_ranks
from scaling.train.trunk import train_trunk

log = logging.getLogger(__name__)


def train_together(cell: CellConfig) -> Record:
    """Train a cell as one of the ranks; return its record.

    SIGTERM and SIGUSR2 at any rank end all of them after a checkpoint. ValueError for a stage after
    pretraining, which one process trains; RuntimeError where it is stopped, and while another
    process trains the cell.
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
        pulse.stop = "preempted" if number == signal.SIGUSR2 else "stopped"

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGUSR2, stop)
    try:
        with launched_ranks(cell.machine) as world:
            # The corpus is tokenised by one; the others find it done.
            with world.busy("reads the corpus"):
                resolved = resolve_corpus([cell]) if world.first else None
            (cell,) = world.share(resolved)
            if world.share(status_of(cell) == "done"):
                return world.share(read_record(record_path(cell)) if world.first else None)
            with held(cell, world, pulse):
                return train_rank(cell, world, pulse)
    except Held as error:
        raise RuntimeError(
            f"{cell_folder(cell)} is {error}; wait for it (python -m scaling.status "
            f"{shlex.quote(str(cell_folder(cell).parent))}) or end it (--cancel)"
        ) from None
    except Stopped as error:
        raise RuntimeError(
            f"{cell_folder(cell)} was {error} at step {pulse.step}, after a checkpoint; the same "
            "command goes on from there"
        ) from None


@contextmanager
def held(cell: CellConfig, world: World, pulse: Pulse) -> Iterator[None]:
    """Hold trunk and cell at the first rank; Held at every rank while another process has one."""
    leases: list[Lease] = []
    with ExitStack() as stack:
        other = None
        if world.first:
            holder = enter_job(cell)
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
        for lease in leases:  # the cell's is the last
            lease.outcome, lease.final = "stopped" if other else status_of(cell), not other
    if other:
        raise Held(other)


def enter_job(cell: CellConfig) -> Holder:
    """Write this process into the study's list of jobs; return what holds the work."""
    folder, round = cell_folder(cell).parent, uuid.uuid4().hex[:10]
    job = local_job(os.getpid(), round=round, cells=[cell.run_id()], log=Path())
    if number := os.environ.get("SLURM_JOB_ID"):
        job = Job(job=number, where="slurm", round=round, part="all", cells=[cell.run_id()], log="")
    while True:
        try:
            with Lease(jobs_folder(folder), submitter(round), Pulse()):
                append_jobs(folder, [job])
            return Holder.here(round=round, job=job.job)
        except Held:  # a sweep submits at this moment
            time.sleep(0.5)


def train_rank(cell: CellConfig, world: World, pulse: Pulse) -> Record:
    """Train with files where this is the first rank, and with files that nobody reads elsewhere."""
    if not world.first:
        return follow(world, [cell], pulse=pulse)[0]
    total = resolve(cell).flops
    progress = Progress(cell.run_id(), total=total, every_seconds=cell.log.every_seconds)
    log.info("%s: %d ranks", cell_folder(cell), world.size)
    (record,) = train_trunk([cell], report=progress.update, pulse=pulse, world=world)
    progress.close()
    log.info("%s: %s, test loss %s", cell_folder(cell), record.status, record.test_loss)
    return record


def pretrain_together(
    run: Callable[[World, Callable[[CellConfig, ForecastBand], None]], list[Record]],
    machine: MachineConfig,
) -> list[Record]:
    """Let rank 0 `run` a plan's pretraining and the others follow; return the records, rank 0's.

    `run` is given the world, and what it calls right before it trains; where it finds nothing to
    train, or something wrong, the others leave.
    """
    with launched_ranks(machine) as world:
        if not world.first:
            if errand := world.share(None):
                cell, band = errand
                follow(world, [cell], band=band)
            return []
        alone = ExitStack()  # until the ranks begin together
        alone.enter_context(world.busy("prepares the run"))

        def begin(cell: CellConfig, band: ForecastBand) -> None:
            alone.close()
            told.append(cell)
            world.share((cell, band))

        told: list[CellConfig] = []
        try:
            return run(world, begin)
        finally:
            alone.close()
            if not told:
                world.share(None)
