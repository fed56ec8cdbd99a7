"""Run the tasks of one job in processes, on this machine or within one SLURM job.

    python -m scaling.jobs.pool TASKS.json        a local sweep starts this in the background

Each task runs in a process of its own, so that no death of a process harms another task; small
tasks that can be stacked share a process (scaling.stacked.turns), and where it dies each is tried
again alone. The processes are forked from a server that has imported torch. The pool says why a
process died, ends one that is stopped or hangs, tries failed cells again, and passes signals on, so
that every process writes a checkpoint. The pool itself does not import torch.
"""

import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import wait
from multiprocessing.forkserver import ensure_running
from typing import Any

from scaling.config import CellConfig
from scaling.jobs.stalls import LOOK_SECONDS, ProcessWatch
from scaling.jobs.tasks import ExitCode, JobTasks, Task, gpu_count, max_stack, stack_key
from scaling.schema import process_start, read_json, seconds_here
from scaling.study.failures import (
    describe_exit,
    fail_dead_attempt,
    note_end,
    record_failure,
    refuse_if_stuck,
)
from scaling.study.lease import (
    STALE_SECONDS,
    Held,
    Holder,
    attempts,
    close_dead,
    is_settled,
    last_attempt,
)
from scaling.study.places import cell_folder, status_of, trunk_folder
from scaling.study.states import CellState, Outcome, Part
from scaling.study.wandb_mirror import PRELOADED, shared_service

log = logging.getLogger(__name__)
HELD_POLL_SECONDS = 2.0  # A task that another process holds is tried again this often, in seconds.
# The pool leaves a task to its holder after so many seconds; by then a silent holder would have
# been taken over.
HELD_SECONDS = STALE_SECONDS + 30.0
# So many attempts at a cell that end without a result and without one more step are a failure. One
# or two happen by accident (a process that is stopped, a file that is damaged); three have a cause.
FRUITLESS = 3
UNRELATED = (Outcome.STALLED, Outcome.DAMAGED, Outcome.SUPERSEDED)  # Ends that no cell causes.
LIMIT_SLACK_SECONDS = 30  # A signal so long before SLURM's own warning still means the time limit.


@dataclass
class Pool:
    """The tasks that wait and the processes that run.

    job_tasks, job: the tasks, and the job's name as leases hold it
    waiting: tasks without a process
    running: processes by their sentinel
    crashed: cells of a process that died while it trained several tasks; each trains alone now
    retry_at: when a task that another process holds is tried again, by its key
    held_since: when a task was first seen to be held by another process, by its key
    lost: cells whose failure could not be written
    fruitless: attempts of a cell without progress (`fail_fruitless`)
    environment: variables that are set in every process
    stop: the outcome that a signal asks for; None while no signal has come
    limit_at: seconds since the epoch; a signal from then on means the time limit; 0 for no limit
    before: attempts at each cell before this job
    owner: process without which those of the pool end too; 0 lets them outlive a killed pool
    """

    job_tasks: JobTasks
    job: str
    waiting: deque[Task] = field(default_factory=deque)
    running: dict[int, "Running"] = field(default_factory=dict)
    crashed: set[str] = field(default_factory=set)
    retry_at: dict[str, float] = field(default_factory=dict)
    held_since: dict[str, float] = field(default_factory=dict)
    lost: set[str] = field(default_factory=set)
    fruitless: dict[str, "Fruitless"] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    stop: Outcome | None = None
    limit_at: float = 0.0
    before: dict[str, int] = field(default_factory=dict)
    owner: int = 0

    def __post_init__(self) -> None:
        """Queue the tasks."""
        self.waiting.extend(self.job_tasks.tasks)
        if self.job_tasks.seconds_limit:
            cells = [c for t in self.job_tasks.tasks for c in t.cells]
            self.before = {c.run_id(): len(attempts(cell_folder(c))) for c in cells}
            began = time.time() - seconds_here()
            signalled = self.job_tasks.seconds_limit - self.job_tasks.signal_seconds
            self.limit_at = began + signalled - LIMIT_SLACK_SECONDS

    def run(self) -> None:
        """Train until nothing waits or runs, or until a signal says to stop."""
        mirrored = self.has_mirror()
        context = start_server(PRELOADED if mirrored else ())
        if mirrored:  # the server imports torch meanwhile
            self.environment = shared_service()
        self.listen()
        ranks = max((c.machine.ranks for t in self.job_tasks.tasks for c in t.cells), default=1)
        looked = 0.0
        free = [n * ranks for n in range(max(1, self.job_tasks.workers // ranks))]
        while self.running or (self.waiting and not self.stop):
            while free and not self.stop and (tasks := self.next_tasks(len(free))):
                slot = free.pop(0)
                before = [n_attempts(t) for t in tasks]
                process = self.start(context, tasks, slot)
                watch = ProcessWatch.of(process.pid, tasks, time.monotonic())
                self.running[process.sentinel] = Running(process, tasks, slot, before, watch)
            if not self.running:
                time.sleep(0.2)  # other processes hold all tasks that wait
            if time.monotonic() - looked > LOOK_SECONDS:
                looked = time.monotonic()
                self.end_stalled(looked)
            for sentinel in wait(list(self.running), timeout=0.5):
                ended = self.running.pop(sentinel)  # type: ignore[arg-type]
                ended.process.join()
                free.append(ended.slot)
                self.handle_end(ended)

    def has_mirror(self) -> bool:
        """Say whether any cell has a mirror in wandb, whose import takes more than a second."""
        return any(c.log.wandb != "disabled" for t in self.job_tasks.tasks for c in t.cells)

    def next_tasks(self, free: int) -> list[Task]:
        """Take the next task, and the tasks that may share its process, off the queue.

        `free` is the number of slots without a process. The tasks of one process take no more than
        its share of the estimated time; the others stay for the other slots.
        """
        first = self.next_task()
        if first is None:
            return []
        stack, most = stack_key(first), max_stack(first)
        if not stack or self.has_crashed(first):
            return [first]
        tasks, now = [first], time.monotonic()
        share = 1.001 * (first.seconds + sum(t.seconds for t in self.waiting)) / free
        for task in list(self.waiting):
            if (
                len(tasks) < most
                and sum(t.seconds for t in tasks) + task.seconds <= share
                and self.retry_at.get(task_key(task), 0.0) <= now
                and not self.has_crashed(task)
                and stack_key(task) == stack
            ):
                tasks.append(task)
                self.waiting.remove(task)
        return tasks

    def has_crashed(self, task: Task) -> bool:
        """Say whether a process died that a cell of the task shared with other tasks."""
        return any(c.run_id() in self.crashed for c in task.cells)

    def next_task(self) -> Task | None:
        """Take the next task off the queue, without those that were just seen to be held."""
        now = time.monotonic()
        for _ in range(len(self.waiting)):
            task = self.waiting.popleft()
            if self.retry_at.get(task_key(task), 0.0) <= now:
                return task
            self.waiting.append(task)
        return None

    def start(self, context: Any, tasks: list[Task], slot: int) -> Any:
        """Start a process that trains tasks."""
        process = context.Process(
            target=train_in_fork,
            args=(tasks,),
            kwargs={
                "round": self.job_tasks.round,
                "job": self.job,
                "retry": self.job_tasks.retry,
                "limit_at": self.limit_at,
                "slot": slot,
                "environment": self.environment,
                "owner": self.owner,
            },
        )
        process.start()
        return process

    def end_stalled(self, moment: float) -> None:
        """Kill the processes that are stopped or hang; their tasks are queued again."""
        for running in self.running.values():
            if not running.stalled and (why := running.watch.look(moment)):
                running.stalled.append(why)
                os.kill(running.process.pid, signal.SIGKILL)

    def handle_end(self, ended: "Running") -> None:
        """Close the attempts that a process left open, and queue its remaining cells again."""
        code, shared = ended.process.exitcode or 0, len(ended.tasks) > 1
        died = code not in tuple(ExitCode)
        why = ended.stalled[0] if ended.stalled else describe_exit(code)
        outcome = Outcome.PREEMPTED if died and shared else Outcome.FAILED
        if ended.stalled:
            outcome = Outcome.STALLED
        for task, before in zip(ended.tasks, ended.before, strict=True):
            if died:
                log.error("trunk %s: %s", task.trunk_id, why)
            self.close_attempts(ended.process.pid, task, why, outcome=outcome)
            self.fail_fruitless(task, why)
            if died and shared:
                self.crashed |= {c.run_id() for c in task.cells}
                self.waiting.append(replace(task, cells=self.remaining(task)))
            else:
                self.queue_again(task, code, before)

    def queue_again(self, task: Task, code: int, before: int) -> None:
        """Queue the remaining cells of a task whose process ended by itself.

        task: the task
        code: exit code of its process, negative for a signal
        before: attempts at its cells before the process started; without one more, the end of the
            process is a failure of every remaining cell
        """
        cells = self.remaining(task)
        trunk_done = code == ExitCode.DONE and task.part == Part.TRUNK
        if code in (ExitCode.DONE, ExitCode.FAILED) or code < 0:
            if cells and n_attempts(task) == before and not trunk_done:
                self.record_failures(cells, describe_exit(code), retry=self.job_tasks.retry)
            cells = self.remaining(task)
        if code == ExitCode.HELD and self.leave_to_holder(task):
            return
        if trunk_done:
            if self.job_tasks.then_branches and cells:
                self.waiting.extend(replace(task, cells=cells).branches())
            return
        if cells:
            self.waiting.append(replace(task, cells=cells))

    def fail_fruitless(self, task: Task, why: str) -> None:
        """Fail the cells whose attempts keep ending without a result and without one more step."""
        for cell in self.remaining(task):
            last = last_attempt(cell_folder(cell))
            former = self.fruitless.get(cell.run_id(), Fruitless())
            if last is None or last.attempt == former.attempt or last.outcome not in UNRELATED:
                continue
            count = former.count + 1 if last.step <= former.step else 1
            step = max(former.step, last.step)
            self.fruitless[cell.run_id()] = Fruitless(count, step, last.attempt)
            if count >= FRUITLESS:
                reason = (
                    f"{count} attempts ended without a result and without one more step than "
                    f"{former.step}: {last.error or why}"
                )
                self.record_failures([cell], reason, retry=-1)

    def remaining(self, task: Task) -> list[CellConfig]:
        """Return the cells of a task that this round still has to train."""
        return [
            c
            for c in task.cells
            if status_of(c) != CellState.DONE
            and not is_settled(cell_folder(c), self.job_tasks.round)
            and c.run_id() not in self.lost
        ]

    def close_attempts(self, pid: int, task: Task, why: str, *, outcome: Outcome) -> None:
        """Write the end of the attempts that a process left open; the trunk's is always a failure.

        pid: the process
        task: its cells and trunk are looked through
        why: what happened to the process
        outcome: how the attempts at its cells ended
        """
        trunk = trunk_folder(task.cells[0])
        for folder, cell in [(trunk, None), *((cell_folder(c), c) for c in task.cells)]:
            last = last_attempt(folder)
            if not last or last.ended is not None or last.pid != pid:
                continue
            try:
                if cell is None:
                    close_dead(folder, last, error=why)
                elif outcome == Outcome.FAILED:
                    fail_dead_attempt(cell, why, retry=self.job_tasks.retry)
                else:
                    close_dead(folder, last, outcome, error=why)
            except OSError as error:
                log.error("%s: %s, and that cannot be written: %s", folder, why, error)
                self.lost |= {cell.run_id()} if cell else set()

    def record_failures(self, cells: list[CellConfig], why: str, *, retry: int) -> None:
        """Write a failure of each cell outside any attempt; see `record_failure` for `retry`."""
        holder = Holder.here(round=self.job_tasks.round, job=self.job)
        for cell in cells:
            try:
                record_failure(cell, holder, why, retry=retry)
            except Held:
                continue
            except OSError as error:
                log.error("cell %s: %s, and that cannot be written: %s", cell.run_id(), why, error)
                self.lost.add(cell.run_id())

    def leave_to_holder(self, task: Task) -> bool:
        """Say whether another process has held a task for so long that the pool leaves it alone.

        Else the task is tried again in a moment.
        """
        name, moment = task_key(task), time.monotonic()
        since = self.held_since.setdefault(name, moment)
        self.retry_at[name] = moment + HELD_POLL_SECONDS
        if moment - since < HELD_SECONDS:
            return False
        log.info("trunk %s is trained elsewhere; left to it", task.trunk_id)
        return True

    def listen(self) -> None:
        """Install the handlers of SIGUSR2 and SIGTERM: pass the signal on, start no more tasks."""

        def pass_on(number: int, frame: object) -> None:
            on_slurm = self.job[:1].isdigit()
            if number == signal.SIGUSR2:
                late = time.time() >= self.limit_at > 0
                self.stop = Outcome.TIMEOUT if late else Outcome.PREEMPTED
            elif not on_slurm:
                self.stop = Outcome.STOPPED
            for running in list(self.running.values()):
                os.kill(running.process.pid, number)

        signal.signal(signal.SIGUSR2, pass_on)
        signal.signal(signal.SIGTERM, pass_on)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR2])

    def note_unbegun(self, outcome: Outcome) -> None:
        """Write the job's end as an attempt at every cell that it did not begin.

        Where all attempts at a cell end so, the cell fails: nothing else bounds the turns of a job
        whose time limit is shorter than its imports.
        """
        holder = Holder.here(round=self.job_tasks.round, job=self.job)
        for cell in [c for t in self.job_tasks.tasks for c in self.remaining(t)]:
            folder = cell_folder(cell)
            if len(attempts(folder)) > self.before.get(cell.run_id(), 0):
                continue
            with suppress(Held, OSError):
                note_end(cell, holder, outcome=outcome)
                try:
                    refuse_if_stuck(attempts(folder))
                except RuntimeError as error:
                    record_failure(cell, holder, error, retry=self.job_tasks.retry)


@dataclass(frozen=True)
class Running:
    """One process of the pool.

    process: of multiprocessing
    tasks: what it trains
    slot: its number, which is free again after its end
    before: attempts at the cells of each task before it started
    watch: what is seen of its progress
    stalled: why the pool killed it; empty where it did not
    """

    process: Any
    tasks: list[Task]
    slot: int
    before: list[int]
    watch: ProcessWatch
    stalled: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Fruitless:
    """Attempts at a cell in a row without one more step: their count, step and last number."""

    count: int = 0
    step: int = -1
    attempt: int = 0


def task_key(task: Task) -> str:
    """Return a name that no other task of a pool has."""
    return "-".join([task.part, task.trunk_id, *(c.run_id() for c in task.cells)])


def n_attempts(task: Task) -> int:
    """Count the attempts at the cells of a task."""
    return sum(len(attempts(cell_folder(c))) for c in task.cells)


def start_server(preload: Sequence[str]) -> Any:
    """Start the server that processes are forked from; signals do not end it.

    SIGUSR2 is blocked, not ignored: a signal that has come already must not be lost.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["scaling.jobs.worker", *preload, "scaling.jobs.gc_freeze"])
    # The server inherits both, so that it outlives the signals.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    ensure_running()
    return context


def train_in_fork(
    tasks: list[Task], *, environment: dict[str, str], owner: int = 0, **options: Any
) -> None:
    """Train tasks in a process that was forked from the server; see `Pool` for `owner`."""
    os.environ.update(environment)
    if owner:
        threading.Thread(target=end_without, args=(owner,), daemon=True).start()
    from scaling.jobs.worker import train_tasks  # the server has torch, the pool must not load it

    train_tasks(tasks, **options)


def end_without(owner: int) -> None:
    """Kill this process once another one is gone, so that what it holds can be taken over."""
    started = process_start(owner)
    while started is not None and process_start(owner) == started:
        time.sleep(1.0)
    os.kill(os.getpid(), signal.SIGKILL)


def default_workers(device: str = "auto") -> int:
    """Return one worker for each GPU, or for each core that this process may use."""
    gpus = 0 if device == "cpu" else gpu_count()
    return gpus or len(os.sched_getaffinity(0))


def run_in_job(job_tasks: JobTasks) -> None:
    """Run the tasks of a SLURM job; on SLURM's signal requeue the job once all have checkpoints."""
    job = os.environ["SLURM_JOB_ID"]
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    pool = Pool(job_tasks=job_tasks, job=job)
    pool.run()
    if pool.stop:
        pool.note_unbegun(pool.stop)
    cells = [c for t in job_tasks.tasks for c in pool.remaining(t)]
    if pool.stop and cells:
        log.info("%s with %d cells left: back into the queue", pool.stop, len(cells))
        subprocess.run(["scontrol", "requeue", job], check=True, timeout=60)
        time.sleep(30)  # SLURM ends the job; if the job ended first, it would count as completed
    if any(status_of(c) == CellState.FAILED for t in job_tasks.tasks for c in t.cells):
        sys.exit(1)


def main(path: str) -> None:
    """Run the tasks of a local sweep, from their file."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    try:
        job_tasks = JobTasks.from_dict(read_json(path))
    except (ValueError, TypeError, KeyError) as error:
        sys.exit(f"the sweep's list of tasks is damaged ({error}); run the same command again")
    Pool(job_tasks=job_tasks, job=f"local-{os.getpid()}").run()


if __name__ == "__main__":
    main(sys.argv[1])
