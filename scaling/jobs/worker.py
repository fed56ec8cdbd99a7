"""Train tasks in a process of their own: take their cells, train, say how each ended.

Tasks that are alike train in turns (scaling.stacked.turns), each with leases and an end of its own.

A fork of a server that has imported this module, torch and all, so that it starts in milliseconds.
"""

import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from scaling.config import CellConfig
from scaling.jobs.tasks import Task, alike, most_together
from scaling.schema import discard_record
from scaling.stacked.turns import Turns
from scaling.study.failures import charge, is_last, refuse_if_stuck, write_failed
from scaling.study.lease import Held, Holder, Lease, Pulse, Stopped, attempts, settled
from scaling.study.places import cell_folder, record_path, status_of, trunk_folder
from scaling.train.local_ranks import start_local_ranks
from scaling.train.ranks import hold_at_all_ranks
from scaling.train.requests import StepRequests, answer_each
from scaling.train.step import prepare
from scaling.train.trunk import longest, trunk_requests

with contextlib.suppress(ImportError):  # no public module
    import torch._dynamo  # the optimiser's first step imports it, for three seconds: here only once

log = logging.getLogger(__name__)
STOPPED, HELD = 75, 76  # exit codes beside 0 and 1: asked to stop; somebody else has cells


class Worker:
    """One task at work: the leases it holds and how it ends.

    In a `gang` its branches leave it as workers of their own, to be trained beside it.
    """

    def __init__(
        self, task: Task, *, holder: Holder, retry: int, gang: Turns | None = None
    ) -> None:
        self.task, self.holder, self.retry, self.gang = task, holder, retry, gang
        self.pulse = Pulse()
        self.charged: list[CellConfig] = []
        self.held = False
        self.code = 0
        self.branches: list[Worker] = []

    def work(self) -> StepRequests[None]:
        """Train the task, asking for each step; `code` says how it ended."""
        self.code = yield from self._work()

    def _work(self) -> StepRequests[int]:
        task = self.task
        trunk = Lease(trunk_folder(task.cells[0]), self.holder, self.pulse)
        try:
            with contextlib.nullcontext() if task.part == "branch" else trunk:
                if task.cells[0].stage == "pretrain":
                    yield from self._train()
                else:
                    self.train_stages()
        except Held as held:
            log.info("trunk %s: %s", task.trunk_id, held)
            return HELD
        except Stopped as stopped:
            log.info("trunk %s: %s at step %d", task.trunk_id, stopped, self.pulse.step)
            return STOPPED
        except Exception as error:
            log.exception("trunk %s failed", task.trunk_id)
            if self.gang or not self.charged:
                self.charge_all(error)
            return 1
        return HELD if self.held else 0

    def _train(self) -> StepRequests[None]:
        cells, part, cell = self.task.cells, self.task.part, longest(self.task.cells)
        places = {c.run_id(): cell_folder(c) for c in cells}
        with start_local_ranks(cells, part=part) as world:
            if self.gang:
                setting = self.gang.prepare(cell, self.pulse)
                part = "lead" if part == "all" and len(cells) > 1 else part
            else:
                setting = prepare(cell, lambda flops: None, self.pulse, world)
            yield from trunk_requests(
                cells,
                setting,
                trunk=trunk_folder(cell),
                places=places,
                hold=hold_at_all_ranks(world, self.hold),
                part=part,
                on_branch_point=self._branch_off,
            )

    def _branch_off(self, cell: CellConfig) -> None:
        """Let the gang train a branch that can start, where no other job is to."""
        if self.gang and self.task.part == "all":
            task = Task(cells=[cell], part="branch")
            branch = Worker(task, holder=self.holder, retry=self.retry, gang=self.gang)
            self.branches.append(branch)
            self.gang.add(branch.work())

    def everyone(self) -> "list[Worker]":
        """Return the worker and its branches."""
        return [self, *self.branches]

    def train_stages(self) -> None:
        """Train the stages of a model; a failure of one leaves the others to be tried."""
        from scaling.stages.cells import train_stages

        train_stages(self.task.cells, pulse=self.pulse, hold=self.hold)

    @contextlib.contextmanager
    def hold(self, cell: CellConfig, folder: Path) -> Iterator[None]:
        """Hold a cell while it is trained; its failure becomes its record once none is left."""
        try:
            lease = Lease(folder, self.holder, self.pulse, final_after=self.final_after(folder))
            with lease:
                done = status_of(cell) == "done"
                if not done:
                    discard_record(record_path(cell))
                    refuse_if_stuck(attempts(folder)[:-1])
                    try:
                        yield
                    except Stopped:
                        raise
                    except Exception as error:
                        if cell in self.task.cells:
                            self.charged.append(cell)
                        if self.final_after(folder)(error) and not self.pulse.superseded:
                            write_failed(cell, error)
                        raise
                    lease.outcome = status_of(cell)
        except Held:
            self.held = True
            raise
        if done:
            raise Held(lease.attempt)

    def final_after(self, folder: Path) -> Callable[[BaseException], bool]:
        """Return whether a failure in a folder is the round's last."""
        return lambda error: is_last(folder, round=self.holder.round, retry=self.retry)

    def charge_all(self, error: Exception) -> None:
        """Note a failure that came before any cell's own training on every cell that waits."""
        elsewhere = [c for branch in self.branches for c in branch.task.cells]
        for cell in self.task.cells:
            folder = cell_folder(cell)
            waits = cell not in self.charged and cell not in elsewhere
            if waits and status_of(cell) != "done" and not settled(folder, self.holder.round):
                with contextlib.suppress(Held, OSError):
                    charge(cell, self.holder, error, retry=self.retry)


def listen(workers: Sequence[Worker], *, on_slurm: bool, limit_at: float) -> None:
    """Hear SIGUSR2 (SLURM takes the machine away) and SIGTERM, for all workers.

    Under SLURM a SIGTERM comes before a preemption and before a cancellation alike, and only a
    job that is still there is requeued by SLURM itself: so save and go on.
    """

    def pulses() -> list[Pulse]:
        return [w.pulse for worker in workers for w in worker.everyone()]

    def leave(number: int, frame: object) -> None:
        for pulse in pulses():
            pulse.stop = "timeout" if time.time() >= limit_at > 0 else "preempted"

    def end(number: int, frame: object) -> None:
        for pulse in pulses():
            if on_slurm:
                pulse.save = True
            else:
                pulse.stop = "stopped"

    signal.signal(signal.SIGUSR2, leave)
    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR2, signal.SIGTERM])


def make_workers(tasks: Sequence[Task], *, holder: Holder, retry: int) -> list[Worker]:
    """Return a worker a task, in a gang where they can be in one.

    One that is small enough is in a gang even by itself: its numbers are then the same to the bit
    whatever is trained beside it, now or after a resume.
    """
    gang = Turns(most=most_together(tasks[0])) if alike(tasks[0]) else None
    return [Worker(task, holder=holder, retry=retry, gang=gang) for task in tasks]


def train(workers: Sequence[Worker]) -> int:
    """Train the tasks; return the exit code, that of the gravest end."""
    gang = workers[0].gang
    if gang is None:
        answer_each(workers[0].work())
    else:
        for worker in workers:
            gang.add(worker.work())
        gang.run()
    codes = {w.code for worker in workers for w in worker.everyone()}
    return next((code for code in (STOPPED, 1, HELD) if code in codes), 0)


def train_tasks(
    tasks: Sequence[Task], *, round: str, job: str, retry: int, limit_at: float, slot: int
) -> None:
    """Train tasks and exit with their code; the target of the pool's processes."""
    workers = make_workers(tasks, holder=Holder.here(round=round, job=job), retry=retry)
    listen(workers, on_slurm=job[:1].isdigit(), limit_at=limit_at)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    if torch.cuda.is_available():
        torch.cuda.set_device(slot % torch.cuda.device_count())
    code = train(workers)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # nothing is left to do; the interpreter's own end would take a third of a cell
