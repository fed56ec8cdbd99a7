"""A process of the pool: it leases the cells of its tasks, trains them and says how each ended.

Tasks that can be stacked train in turns (scaling.stacked.turns), each with leases and an end of its
own. The process is forked from a server that has imported this module and torch, so that it starts
in milliseconds.
"""

import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from scaling.config import CellConfig
from scaling.jobs.tasks import ExitCode, Task, max_stack, stack_key
from scaling.schema import discard_record
from scaling.stacked.turns import Turns
from scaling.study.failures import is_last, record_failure, refuse_if_stuck, write_failed
from scaling.study.lease import Held, Holder, Lease, Pulse, Stopped, attempts, is_settled
from scaling.study.places import cell_folder, record_path, status_of, trunk_folder
from scaling.study.states import CellState, Outcome, Part
from scaling.train.local_ranks import start_local_ranks
from scaling.train.pilot import decided
from scaling.train.ranks import hold_at_all_ranks
from scaling.train.requests import StepRequests, answer_each
from scaling.train.step import prepare
from scaling.train.trunk import longest, trunk_requests

with contextlib.suppress(ImportError):  # it is no public module
    # The optimiser's first step imports it, which takes three seconds: once in the server, not in
    # each fork.
    import torch._dynamo

log = logging.getLogger(__name__)


class Worker:
    """One task: the leases it holds, how it is trained and how it ends.

    task: its cells are trained here, or in a stack by workers for each branch
    holder: this process, as leases name it
    retry: failures of a cell that are tried again in this round
    stack: the stack that this task trains in; None for a task that trains alone
    """

    def __init__(
        self, task: Task, *, holder: Holder, retry: int, stack: Turns | None = None
    ) -> None:
        self.task, self.holder, self.retry, self.stack = task, holder, retry, stack
        self.pulse = Pulse()
        self.failed_cells: list[CellConfig] = []
        self.held = False
        self.code = ExitCode.DONE
        self.branches: list[Worker] = []

    def work(self) -> StepRequests[None]:
        """Train the task, a generator that asks for each step; `code` then says how it ended."""
        self.code = yield from self._work()

    def _work(self) -> StepRequests[ExitCode]:
        task = self.task
        trunk = Lease(trunk_folder(task.cells[0]), self.holder, self.pulse)
        try:
            with contextlib.nullcontext() if task.part == Part.BRANCH else trunk:
                if task.cells[0].stage == "pretrain":
                    yield from self._train()
                else:
                    self.train_stages()
        except Held as held:
            log.info("trunk %s: %s", task.trunk_id, held)
            return ExitCode.HELD
        except Stopped as stopped:
            log.info("trunk %s: %s at step %d", task.trunk_id, stopped, self.pulse.step)
            return ExitCode.STOPPED
        except Exception as error:
            log.exception("trunk %s failed", task.trunk_id)
            if self.stack or not self.failed_cells:
                self.fail_waiting(error)
            return ExitCode.FAILED
        return ExitCode.HELD if self.held else ExitCode.DONE

    def _train(self) -> StepRequests[None]:
        cells, part, cell = self.task.cells, self.task.part, longest(self.task.cells)
        places = {c.run_id(): cell_folder(c) for c in cells}
        with start_local_ranks(cells, part=part) as world:
            if self.stack:
                setting = self.stack.prepare(cell, self.pulse)
                part = Part.LEAD if part == Part.ALL and len(cells) > 1 else part
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
        """Let the stack train a branch that can start now, unless another job trains it."""
        if self.stack and self.task.part == Part.ALL:
            task = Task(cells=[cell], part=Part.BRANCH)
            branch = Worker(task, holder=self.holder, retry=self.retry, stack=self.stack)
            self.branches.append(branch)
            self.stack.add(branch.work())

    def everyone(self) -> "list[Worker]":
        """Return this worker and those of its branches."""
        return [self, *self.branches]

    def train_stages(self) -> None:
        """Train the stages of a model; where one fails, the others are still tried."""
        from scaling.stages.cells import train_stages  # for speed: pretraining needs none of it

        train_stages(self.task.cells, pulse=self.pulse, hold=self.hold)

    @contextlib.contextmanager
    def hold(self, cell: CellConfig, folder: Path) -> Iterator[None]:
        """Hold a cell while it is trained; its last failure of the round becomes its record."""
        try:
            lease = Lease(folder, self.holder, self.pulse, final_after=self.final_after(folder))
            with lease:
                done = status_of(cell) == CellState.DONE
                if not done:
                    discard_record(record_path(cell))
                    refuse_if_stuck(attempts(folder)[:-1])
                    try:
                        yield
                    except Stopped:
                        raise
                    except Exception as error:
                        if cell in self.task.cells:
                            self.failed_cells.append(cell)
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
        """Return a function that says whether a failure in a folder is the round's last."""
        return lambda error: is_last(folder, round=self.holder.round, retry=self.retry)

    def fail_waiting(self, error: Exception) -> None:
        """Record a failure of the trunk as one of every cell that has not begun."""
        elsewhere = [c for branch in self.branches for c in branch.task.cells]
        for cell in self.task.cells:
            folder = cell_folder(cell)
            waits = cell not in self.failed_cells and cell not in elsewhere
            unsettled = not is_settled(folder, self.holder.round)
            if waits and unsettled and status_of(cell) != CellState.DONE:
                with contextlib.suppress(Held, OSError):
                    record_failure(cell, self.holder, error, retry=self.retry)


def listen(workers: Sequence[Worker], *, on_slurm: bool, limit_at: float) -> None:
    """Install the handlers of SIGUSR2 (SLURM takes the machine away) and SIGTERM for all workers.

    SLURM sends SIGTERM before a preemption and before a cancellation, and itself requeues only a
    job that still runs: so under SLURM a worker saves on SIGTERM and goes on.
    """

    def pulses() -> list[Pulse]:
        return [w.pulse for worker in workers for w in worker.everyone()]

    def leave(number: int, frame: object) -> None:
        for pulse in pulses():
            late = time.time() >= limit_at > 0
            pulse.stop = Outcome.TIMEOUT if late else Outcome.PREEMPTED

    def end(number: int, frame: object) -> None:
        for pulse in pulses():
            if on_slurm:
                pulse.save = True
            else:
                pulse.stop = Outcome.STOPPED

    signal.signal(signal.SIGUSR2, leave)
    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR2, signal.SIGTERM])


def make_workers(tasks: Sequence[Task], *, holder: Holder, retry: int) -> list[Worker]:
    """Return a worker for each task, all in one stack where the tasks can be stacked.

    A task that could be stacked trains in a stack even when it is the only one: its numbers are
    then the same to the bit whatever trains beside it, now or after a resume.
    """
    stack = Turns(most=max_stack(tasks[0])) if stack_key(tasks[0]) else None
    return [Worker(task, holder=holder, retry=retry, stack=stack) for task in tasks]


def train(workers: Sequence[Worker]) -> ExitCode:
    """Train the tasks; return the exit code of the gravest end."""
    stack = workers[0].stack
    if stack is None:
        answer_each(workers[0].work())
    else:
        for worker in workers:
            stack.add(worker.work())
        stack.run()
    codes = {w.code for worker in workers for w in worker.everyone()}
    gravest = (ExitCode.STOPPED, ExitCode.FAILED, ExitCode.HELD)
    return next((code for code in gravest if code in codes), ExitCode.DONE)


def train_tasks(
    tasks: Sequence[Task], *, round: str, job: str, retry: int, limit_at: float, slot: int
) -> None:
    """Train tasks and exit with their code; the pool's processes run this.

    tasks: one task, or several that can be stacked
    round, job: the sweep command and the job, as leases name them
    retry: failures of a cell that are tried again in this round
    limit_at: seconds since the epoch; a signal from then on means the time limit; 0 for no limit
    slot: number of the process among those of the pool, which chooses its GPU
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    if torch.cuda.is_available():
        torch.cuda.set_device(slot % torch.cuda.device_count())
    holder = Holder.here(round=round, job=job)
    # A signal waits until `listen`: it is blocked from the start of the process.
    tasks = [replace(task, cells=decided(task.cells, holder=holder)) for task in tasks]
    workers = make_workers(tasks, holder=holder, retry=retry)
    listen(workers, on_slurm=job[:1].isdigit(), limit_at=limit_at)
    code = train(workers)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # the interpreter's own end would take a third of a small cell's time
