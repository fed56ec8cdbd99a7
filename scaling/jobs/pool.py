"""Run the tasks of one job in processes: on this machine, or within one SLURM job.

    python -m scaling.jobs.pool WORK.json        what a local sweep starts in the background

Each task is a process forked from a server that has torch imported, so that its death, whatever the
cause, is nobody else's; small tasks that are alike share one (scaling.stacked.turns), and where it
dies each is tried again by itself. The pool says why a process died, ends one that is stopped or
hangs, tries again what may be, and on a signal lets every process leave a checkpoint. It does not
import torch.
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
from contextlib import suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import wait
from typing import Any

from scaling.config import CellConfig
from scaling.jobs.stalls import LOOK_SECONDS, Watched
from scaling.jobs.tasks import HELD, STOPPED, Task, Work, alike, gpu_count, most_together
from scaling.schema import read_json, seconds_here
from scaling.study.failures import bury, charge, note_end, refuse_if_stuck, said
from scaling.study.lease import (
    DAMAGED,
    STALE_SECONDS,
    STALLED,
    Held,
    Holder,
    attempts,
    close_dead,
    last_attempt,
    settled,
)
from scaling.study.places import cell_folder, status_of, trunk_folder
from scaling.study.wandb_mirror import PRELOADED, shared_service

log = logging.getLogger(__name__)
HELD_POLL_SECONDS = 2.0
HELD_SECONDS = STALE_SECONDS + 30.0  # by then a silent holder has been taken over
# Attempts at a cell that end without a result and get no step further; then it is a failure. One
# or two happen by accident (a process that is stopped, a file that is damaged), three have a cause.
FRUITLESS = 3
OPEN = (STALLED, DAMAGED, "superseded")  # ends that say nothing of the cell itself


@dataclass
class Pool:
    """Tasks that wait and processes that run."""

    work: Work
    job: str
    waiting: deque[Task] = field(default_factory=deque)
    running: dict[int, "Running"] = field(default_factory=dict)
    apart: set[str] = field(default_factory=set)  # cells that were in a process that died
    held: dict[str, float] = field(default_factory=dict)
    lost: set[str] = field(default_factory=set)  # cells whose failure could not even be written
    fruitless: dict[str, tuple[int, int, int]] = field(default_factory=dict)  # see `cap`
    environment: dict[str, str] = field(default_factory=dict)  # of the processes
    stop: str = ""
    limit_at: float = 0.0
    before: dict[str, int] = field(default_factory=dict)  # attempts at a cell that there were

    def __post_init__(self) -> None:
        """Queue the tasks."""
        self.waiting.extend(self.work.tasks)
        if self.work.seconds_limit:
            cells = [c for t in self.work.tasks for c in t.cells]
            self.before = {c.run_id(): len(attempts(cell_folder(c))) for c in cells}
            began = time.time() - seconds_here()
            self.limit_at = began + self.work.seconds_limit - self.work.signal_seconds - 30

    def run(self) -> None:
        """Train until nothing waits or runs, or until a signal says to stop."""
        mirrored = not self.unmirrored()
        context = server(PRELOADED if mirrored else ())
        if mirrored:  # while the server imports torch
            self.environment = shared_service()
        self.listen()
        ranks, looked = (
            max((c.machine.ranks for t in self.work.tasks for c in t.cells), default=1),
            0.0,
        )
        free = [n * ranks for n in range(max(1, self.work.workers // ranks))]
        while self.running or (self.waiting and not self.stop):
            while free and not self.stop and (tasks := self.next_tasks(len(free))):
                slot = free.pop(0)
                before = [n_attempts(t) for t in tasks]
                process = self.start(context, tasks, slot)
                watched = Watched.of(process.pid, tasks, time.monotonic())
                self.running[process.sentinel] = Running(process, tasks, slot, before, watched)
            if not self.running:
                time.sleep(0.2)  # all that waits is held by others
            if time.monotonic() - looked > LOOK_SECONDS:
                looked = time.monotonic()
                self.end_stalled(looked)
            for sentinel in wait(list(self.running), timeout=0.5):
                ended = self.running.pop(sentinel)  # type: ignore[arg-type]
                ended.process.join()
                free.append(ended.slot)
                self.after(ended)

    def unmirrored(self) -> bool:
        """Say whether no cell has a mirror in wandb, whose import takes more than a second."""
        return all(c.log.wandb == "disabled" for t in self.work.tasks for c in t.cells)

    def next_tasks(self, free: int) -> list[Task]:
        """Take the next task, and those that may share its process; `free` slots wait for work.

        Others are left for the other slots: no more is taken than this slot's share of the time.
        """
        first = self.next_task()
        if first is None:
            return []
        kind, most = alike(first), most_together(first)
        if not kind or self.met_a_death(first):
            return [first]
        taken, now = [first], time.monotonic()
        share = 1.001 * (first.seconds + sum(t.seconds for t in self.waiting)) / free
        for task in list(self.waiting):
            if (
                len(taken) < most
                and sum(t.seconds for t in taken) + task.seconds <= share
                and self.held.get(key(task), 0.0) <= now
                and not self.met_a_death(task)
                and alike(task) == kind
            ):
                taken.append(task)
                self.waiting.remove(task)
        return taken

    def met_a_death(self, task: Task) -> bool:
        """Say whether a process that a task's cells shared with others died."""
        return any(c.run_id() in self.apart for c in task.cells)

    def next_task(self) -> Task | None:
        """Take the next task that nobody was seen to hold a moment ago."""
        now = time.monotonic()
        for _ in range(len(self.waiting)):
            task = self.waiting.popleft()
            if self.held.get(key(task), 0.0) <= now:
                return task
            self.waiting.append(task)
        return None

    def start(self, context: Any, tasks: list[Task], slot: int) -> Any:
        """Start the process of tasks."""
        process = context.Process(
            target=enter,
            args=(tasks,),
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

    def end_stalled(self, moment: float) -> None:
        """End the processes that are stopped or hang; their tasks are taken again."""
        for running in self.running.values():
            if not running.stalled and (why := running.watched.look(moment)):
                running.stalled.append(why)
                os.kill(running.process.pid, signal.SIGKILL)

    def after(self, ended: "Running") -> None:
        """Close what a process left open, and queue again what is left of its tasks."""
        code, shared = ended.process.exitcode or 0, len(ended.tasks) > 1
        died = code not in (0, 1, STOPPED, HELD)
        why = ended.stalled[0] if ended.stalled else said(code)
        outcome = STALLED if ended.stalled else "preempted" if died and shared else ""
        for task, before in zip(ended.tasks, ended.before, strict=True):
            if died:
                log.error("trunk %s: %s", task.trunk_id, why)
            self.close(ended.process.pid, task, why, outcome=outcome)
            self.cap(task, why)
            if died and shared:
                self.apart |= {c.run_id() for c in task.cells}
                self.waiting.append(replace(task, cells=self.left(task)))
            else:
                self.after_task(task, code, before)

    def after_task(self, task: Task, code: int, before: int) -> None:
        """Queue again what is left of a task whose process ended with a code."""
        left = self.left(task)
        if code in (0, 1) or code < 0:
            if left and n_attempts(task) == before and not (code == 0 and task.part == "trunk"):
                self.charge(left, said(code), retry=self.work.retry)
            left = self.left(task)
        if code == HELD and self.give_up(task):
            return
        if code == 0 and task.part == "trunk":
            if self.work.then_branches and left:
                self.waiting.extend(replace(task, cells=left).branches())
            return
        if left:
            self.waiting.append(replace(task, cells=left))

    def cap(self, task: Task, why: str) -> None:
        """Fail the cells whose attempts keep ending without a result and without a step more.

        `fruitless` holds how many there were in a row, their furthest step and the last's number.
        """
        for cell in self.left(task):
            last = last_attempt(cell_folder(cell))
            count, step, seen = self.fruitless.get(cell.run_id(), (0, -1, 0))
            if last is None or last.attempt == seen or last.outcome not in OPEN:
                continue
            count = count + 1 if last.step <= step else 1
            self.fruitless[cell.run_id()] = count, max(step, last.step), last.attempt
            if count >= FRUITLESS:
                told = f"{count} attempts ended without a result and without one more step"
                self.charge([cell], f"{told} than {step}: {last.error or why}", retry=-1)

    def left(self, task: Task) -> list[CellConfig]:
        """Return the cells of a task that this round is not through with."""
        return [
            c
            for c in task.cells
            if status_of(c) != "done"
            and not settled(cell_folder(c), self.work.round)
            and c.run_id() not in self.lost
        ]

    def close(self, pid: int, task: Task, why: str, *, outcome: str) -> None:
        """Write down the end of the attempts that a process left open: failures by default."""
        trunk = trunk_folder(task.cells[0])
        for folder, cell in [(trunk, None), *((cell_folder(c), c) for c in task.cells)]:
            last = last_attempt(folder)
            if not last or last.ended is not None or last.pid != pid:
                continue
            try:
                if cell and not outcome:
                    bury(cell, why, retry=self.work.retry)
                else:
                    close_dead(folder, last, outcome=outcome if cell else "", error=why)
            except OSError as error:
                log.error("%s: %s, and that cannot be written: %s", folder, why, error)
                self.lost |= {cell.run_id()} if cell else set()

    def charge(self, cells: list[CellConfig], why: str, *, retry: int) -> None:
        """Note an end that no attempt at a cell holds; a failure past `retry` is the last."""
        holder = Holder.here(round=self.work.round, job=self.job)
        for cell in cells:
            try:
                charge(cell, holder, why, retry=retry)
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
            for running in list(self.running.values()):
                os.kill(running.process.pid, number)

        signal.signal(signal.SIGUSR2, hear)
        signal.signal(signal.SIGTERM, hear)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR2])

    def note_unbegun(self) -> None:
        """Note an end that came before a cell was begun; as its failure where all ends do.

        Nothing else bounds the turns of a job whose time limit is shorter than its imports.
        """
        holder = Holder.here(round=self.work.round, job=self.job)
        for cell in [c for t in self.work.tasks for c in self.left(t)]:
            folder = cell_folder(cell)
            if len(attempts(folder)) > self.before.get(cell.run_id(), 0):
                continue
            with suppress(Held, OSError):
                note_end(cell, holder, outcome=self.stop)
                try:
                    refuse_if_stuck(attempts(folder))
                except RuntimeError as error:
                    charge(cell, holder, error, retry=self.work.retry)


@dataclass(frozen=True)
class Running:
    """A process, its tasks and slot, and the attempts there were at each task before.

    `stalled` says why the pool ended it, if it did.
    """

    process: Any
    tasks: list[Task]
    slot: int
    before: list[int]
    watched: Watched
    stalled: list[str] = field(default_factory=list)


def key(task: Task) -> str:
    """Name a task among those of a pool."""
    return "-".join([task.part, task.trunk_id, *(c.run_id() for c in task.cells)])


def n_attempts(task: Task) -> int:
    """Count the attempts at the cells of a task."""
    return sum(len(attempts(cell_folder(c))) for c in task.cells)


def server(preload: Sequence[str]) -> Any:
    """Start the server that processes are forked from, deaf to the signals that mean `save`.

    SIGUSR2 is held back, not ignored: one that has come already must not be lost.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["scaling.jobs.worker", *preload, "scaling.jobs.gc_freeze"])
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])  # inherited, as is what follows:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the server itself must outlive them
    from multiprocessing.forkserver import ensure_running

    ensure_running()
    return context


def enter(tasks: list[Task], *, environment: dict[str, str], **options: Any) -> None:
    """Import the trainer, which the server has done already, and train."""
    os.environ.update(environment)
    from scaling.jobs.worker import train_tasks

    train_tasks(tasks, **options)


def default_workers(device: str = "auto") -> int:
    """One worker a GPU, or one a core that this process may use."""
    gpus = 0 if device == "cpu" else gpu_count()
    return gpus or len(os.sched_getaffinity(0))


def run_in_job(work: Work) -> None:
    """Run a SLURM job's tasks; on its signal requeue it, once every process left a checkpoint."""
    job = os.environ["SLURM_JOB_ID"]
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    pool = Pool(work=work, job=job)
    pool.run()
    if pool.stop:
        pool.note_unbegun()
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
    try:
        work = Work.from_dict(read_json(path))
    except (ValueError, TypeError, KeyError) as error:
        sys.exit(f"the sweep's list of tasks is damaged ({error}); run the same command again")
    Pool(work=work, job=f"local-{os.getpid()}").run()


if __name__ == "__main__":
    main(sys.argv[1])
