"""Run the tasks of one job in processes: on this machine, or within one SLURM job.

    python -m scaling.pool WORK.json        what a local sweep starts in the background

Each task is a process forked from a server that has torch imported, so that its death, whatever the
cause, is nobody else's. The pool says why a process died, tries again what may be, and on a signal
lets every process leave a checkpoint. It imports no torch itself.
"""

import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from scaling.attempt import (
    STALE_SECONDS,
    Held,
    Holder,
    attempts,
    close_dead,
    last_attempt,
    settled,
)
from scaling.config import CellConfig
from scaling.failure import bury, cell_folder, charge, status_of, trunk_folder
from scaling.mirror import PRELOADED, shared_service
from scaling.schema import read_json
from scaling.work import Task, Work

log = logging.getLogger(__name__)
STOPPED, HELD = 75, 76  # as in scaling.worker, which this module cannot import: torch
HELD_POLL_SECONDS = 2.0
HELD_SECONDS = STALE_SECONDS + 30.0  # by then a silent holder has been taken over


@dataclass
class Pool:
    """Tasks that wait and processes that run."""

    work: Work
    job: str
    waiting: deque[Task] = field(default_factory=deque)
    running: dict[int, tuple[Any, Task, int, int]] = field(default_factory=dict)
    held: dict[str, float] = field(default_factory=dict)
    lost: set[str] = field(default_factory=set)  # cells whose failure could not even be written
    environment: dict[str, str] = field(default_factory=dict)  # of the processes
    stop: str = ""
    limit_at: float = 0.0

    def __post_init__(self) -> None:
        """Queue the tasks."""
        self.waiting.extend(self.work.tasks)
        if self.work.seconds_limit:
            self.limit_at = time.time() + self.work.seconds_limit - self.work.signal_seconds - 30

    def run(self) -> None:
        """Train until nothing waits or runs, or until a signal says to stop."""
        mirrored = not self.unmirrored()
        context = server(PRELOADED if mirrored else ())
        if mirrored:  # while the server imports torch
            self.environment = shared_service()
        self.listen()
        free = list(range(self.work.workers))
        while self.running or (self.waiting and not self.stop):
            while free and not self.stop and (task := self.next_task()):
                slot = free.pop(0)
                process = self.start(context, task, slot)
                self.running[process.sentinel] = (process, task, slot, n_attempts(task))
            if not self.running:
                time.sleep(0.2)  # all that waits is held by others
            for sentinel in wait(list(self.running), timeout=0.5):
                process, task, slot, before = self.running.pop(sentinel)  # type: ignore[arg-type]
                process.join()
                free.append(slot)
                self.after(process, task, before)

    def unmirrored(self) -> bool:
        """Say whether no cell has a mirror in wandb, whose import takes more than a second."""
        return all(c.log.wandb == "disabled" for t in self.work.tasks for c in t.cells)

    def next_task(self) -> Task | None:
        """Take the next task that nobody was seen to hold a moment ago."""
        now = time.monotonic()
        for _ in range(len(self.waiting)):
            task = self.waiting.popleft()
            if self.held.get(key(task), 0.0) <= now:
                return task
            self.waiting.append(task)
        return None

    def start(self, context: Any, task: Task, slot: int) -> Any:
        """Start a task's process."""
        process = context.Process(
            target=enter,
            args=(task,),
            kwargs={
                "round": self.work.round,
                "job": self.job,
                "retry": self.work.retry,
                "limit_at": self.limit_at,
                "slot": slot,
                "environment": self.environment,
            },
        )
        process.start()
        return process

    def after(self, process: Any, task: Task, before: int) -> None:
        """Close what a process left open, and queue again what is left of its task."""
        code = process.exitcode or 0
        if code not in (0, 1, STOPPED, HELD):
            self.close(process.pid, task, said(code))
        left = self.left(task)
        if code in (0, 1) or code < 0:
            if left and n_attempts(task) == before and not (code == 0 and task.part == "trunk"):
                self.charge(left, said(code))
            left = self.left(task)
        if code == HELD and self.give_up(task):
            return
        if code == 0 and task.part == "trunk":
            if self.work.then_branches and left:
                self.waiting.extend(replace(task, cells=left).branches())
            return
        if left:
            self.waiting.append(replace(task, cells=left))

    def left(self, task: Task) -> list[CellConfig]:
        """Return the cells of a task that this round is not through with."""
        return [
            c
            for c in task.cells
            if status_of(c) != "done"
            and not settled(cell_folder(c), self.work.round)
            and c.run_id() not in self.lost
        ]

    def close(self, pid: int, task: Task, why: str) -> None:
        """Write down the end of the attempts that a dead process held."""
        log.error("trunk %s: %s", task.trunk_id, why)
        trunk = trunk_folder(task.cells[0])
        last = last_attempt(trunk)
        if last and last.ended is None and last.pid == pid:
            close_dead(trunk, last, requeued=False, error=why)
        for cell in task.cells:
            last = last_attempt(cell_folder(cell))
            if last and last.ended is None and last.pid == pid:
                bury(cell, why, retry=self.work.retry)

    def charge(self, cells: list[CellConfig], why: str) -> None:
        """Note a death that came before any cell of a task was begun."""
        holder = Holder.here(round=self.work.round, job=self.job)
        for cell in cells:
            try:
                charge(cell, holder, why, retry=self.work.retry)
            except Held:
                continue
            except OSError as error:
                log.error("cell %s: %s, and that cannot be written: %s", cell.run_id(), why, error)
                self.lost.add(cell.run_id())

    def give_up(self, task: Task) -> bool:
        """Wait a little for what others hold; say whether it was long enough to leave it."""
        name, moment = key(task), time.monotonic()
        since = self.held.setdefault(f"since {name}", moment)
        self.held[name] = moment + HELD_POLL_SECONDS
        if moment - since < HELD_SECONDS:
            return False
        log.info("trunk %s is trained elsewhere; left to it", task.trunk_id)
        return True

    def listen(self) -> None:
        """On SIGUSR2 or SIGTERM pass the signal on to the processes and start no more."""

        def hear(number: int, frame: object) -> None:
            on_slurm = self.job[:1].isdigit()
            if number == signal.SIGUSR2:
                self.stop = "timeout" if time.time() >= self.limit_at > 0 else "preempted"
            elif not on_slurm:
                self.stop = "stopped"
            for process, *_ in list(self.running.values()):
                os.kill(process.pid, number)

        signal.signal(signal.SIGUSR2, hear)
        signal.signal(signal.SIGTERM, hear)
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def key(task: Task) -> str:
    """Name a task among those of a pool."""
    return "-".join([task.part, task.trunk_id, *(c.run_id() for c in task.cells)])


def n_attempts(task: Task) -> int:
    """Count the attempts at the cells of a task."""
    return sum(len(attempts(cell_folder(c))) for c in task.cells)


def said(code: int) -> str:
    """Say how a process ended."""
    if code >= 0:
        return f"its process ended with exit code {code} and left no record"
    name = signal.Signals(-code).name
    hint = " (kill -9, or the machine ran out of memory)" if name == "SIGKILL" else ""
    return f"its process was ended by {name}{hint}"


def server(preload: Sequence[str]) -> Any:
    """Start the server that processes are forked from, deaf to the signals that mean `save`."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["scaling.worker", *preload, "scaling.frozen"])
    for number in (signal.SIGUSR2, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # inherited: the server itself must outlive them
    from multiprocessing.forkserver import ensure_running

    ensure_running()
    return context


def enter(task: Task, *, environment: dict[str, str], **options: Any) -> None:
    """Import the trainer, which the server has done already, and train."""
    os.environ.update(environment)
    from scaling.worker import train_task

    train_task(task, **options)


def default_workers(device: str = "auto") -> int:
    """One worker a GPU, or one a core that this process may use."""
    gpus = 0 if device == "cpu" else gpu_count()
    return gpus or len(os.sched_getaffinity(0))


def gpu_count() -> int:
    """Count the GPUs that a process here would see, without torch, whose import takes seconds."""
    if version("torch").endswith("+cpu"):
        return 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([v for v in visible.split(",") if v.strip() not in ("", "-1")])
    return len(list(Path("/dev").glob("nvidia[0-9]*")))


def run_in_job(work: Work) -> None:
    """Run a SLURM job's tasks; on its signal requeue it, once every process left a checkpoint."""
    job = os.environ["SLURM_JOB_ID"]
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    pool = Pool(work=work, job=job)
    pool.run()
    left = [c for t in work.tasks for c in pool.left(t)]
    if pool.stop and left:
        log.info("%s with %d cells left: back into the queue", pool.stop, len(left))
        subprocess.run(["scontrol", "requeue", job], check=True, timeout=60)
        time.sleep(30)  # SLURM ends the job; leaving first would make it a completed one
    if any(status_of(c) == "failed" for t in work.tasks for c in t.cells):
        sys.exit(1)


def main(path: str) -> None:
    """Run a local sweep's tasks."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    work = Work.from_dict(read_json(path))
    Pool(work=work, job=f"local-{os.getpid()}").run()


if __name__ == "__main__":
    main(sys.argv[1])
