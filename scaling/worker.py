"""Train one task in a process of its own: take its cells, train, say how each ended.

A fork of a server that has imported this module, torch and all, so that it starts in milliseconds.
"""

import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch._dynamo  # the optimiser's first step imports it, for three seconds: here only once

from scaling.attempt import Attempt, Held, Holder, Lease, Pulse, Stopped, attempts, settled
from scaling.config import CellConfig
from scaling.failure import (
    cell_folder,
    charge,
    is_last,
    record_path,
    status_of,
    trunk_folder,
    write_failed,
)
from scaling.trainer import train_trunk
from scaling.work import Task

log = logging.getLogger(__name__)
STOPPED, HELD = 75, 76  # exit codes beside 0 and 1: asked to stop; somebody else has cells
STUCK_LIMITS = 3  # time limits in a row without one more step


class Worker:
    """One task's process: the lease it holds and the signals it hears."""

    def __init__(self, task: Task, *, round: str, job: str, retry: int, limit_at: float) -> None:
        self.task, self.retry, self.limit_at = task, retry, limit_at
        self.holder = Holder.here(round=round, job=job)
        self.pulse = Pulse()
        self.charged = self.held = False

    def listen(self) -> None:
        """Hear SIGUSR2 (SLURM takes the machine away) and SIGTERM.

        Under SLURM a SIGTERM comes before a preemption and before a cancellation alike, and only a
        job that is still there is requeued by SLURM itself: so save and go on.
        """
        on_slurm = self.holder.job[:1].isdigit()

        def leave(number: int, frame: object) -> None:
            self.pulse.stop = "timeout" if time.time() >= self.limit_at > 0 else "preempted"

        def end(number: int, frame: object) -> None:
            if on_slurm:
                self.pulse.save = True
            else:
                self.pulse.stop = "stopped"

        signal.signal(signal.SIGUSR2, leave)
        signal.signal(signal.SIGTERM, end)
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def run(self) -> int:
        """Train the task; return the exit code."""
        task = self.task
        trunk = Lease(trunk_folder(task.cells[0]), self.holder, self.pulse)
        try:
            with contextlib.nullcontext() if task.part == "branch" else trunk:
                if task.cells[0].stage == "pretrain":
                    train_trunk(task.cells, pulse=self.pulse, hold=self.hold, part=task.part)
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
            if not self.charged:
                self.charge_all(error)
            return 1
        return HELD if self.held else 0

    def train_stages(self) -> None:
        """Train the stages of a model; a failure of one leaves the others to be tried."""
        from scaling.stage_cells import train_stages

        train_stages(self.task.cells, pulse=self.pulse, hold=self.hold)

    @contextlib.contextmanager
    def hold(self, cell: CellConfig, folder: Path) -> Iterator[None]:
        """Hold a cell while it is trained; its failure becomes its record once none is left."""
        try:
            lease = Lease(folder, self.holder, self.pulse, final_after=self.final_after(folder))
            with lease:
                done = status_of(cell) == "done"
                if not done:
                    record_path(cell).unlink(missing_ok=True)
                    refuse_if_stuck(attempts(folder)[:-1])
                    try:
                        yield
                    except Stopped:
                        raise
                    except Exception as error:
                        self.charged = self.charged or cell in self.task.cells
                        if self.final_after(folder)(error):
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
        for cell in self.task.cells:
            folder = cell_folder(cell)
            if status_of(cell) != "done" and not settled(folder, self.holder.round):
                with contextlib.suppress(Held, OSError):
                    charge(cell, self.holder, error, retry=self.retry)


def refuse_if_stuck(before: list[Attempt]) -> None:
    """Raise where the last attempts all ran into the time limit and none got any further."""
    recent = before[-STUCK_LIMITS:]
    if (
        len(recent) == STUCK_LIMITS
        and all(a.outcome == "timeout" for a in recent)
        and recent[-1].step <= recent[0].step
    ):
        raise RuntimeError(
            f"{STUCK_LIMITS} time limits passed without one more step than {recent[0].step}; "
            "raise hydra.launcher.timeout_min"
        )


def train_task(task: Task, *, round: str, job: str, retry: int, limit_at: float, slot: int) -> None:
    """Train one task and exit with its code; the target of the pool's processes."""
    worker = Worker(task, round=round, job=job, retry=retry, limit_at=limit_at)
    worker.listen()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    if torch.cuda.is_available():
        torch.cuda.set_device(slot % torch.cuda.device_count())
    code = worker.run()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # nothing is left to do; the interpreter's own end would take a third of a cell
