"""The cells of a study that any worker may take: `scaling work`, started by anything.

A sweep with hydra/launcher=none writes its cells to `runs/NAME/.jobs/open-<id>.json` and starts
nothing. Workers on any machine that sees the folder take cells that no live lease holds, until all
cells have ended. What a lost worker held is taken over after `STALE_SECONDS`, at once where its
process can be seen to be gone.
"""

import logging
import os
import shlex
import signal
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from scaling.app.plurals import plural
from scaling.jobs.pool import Pool, Running, default_workers, task_key
from scaling.jobs.tasks import JobTasks, Task
from scaling.schema import code_version, read_json
from scaling.study.jobs_file import cancelled_jobs, jobs_folder, read_jobs
from scaling.study.lease import is_dead, last_attempt
from scaling.study.places import cell_folder, trunk_folder
from scaling.study.states import Outcome, Where

log = logging.getLogger(__name__)
LOOK_SECONDS = 2.0  # Jobs and leases of others are read this often, in seconds.


@dataclass
class OpenPool(Pool):
    """A pool that takes the tasks of an open job which no other worker has.

    is_cancelled: whether a user has cancelled the open job
    looked: when the leases of others were last read
    owner: this process, without which its processes end too
    """

    is_cancelled: Callable[[], bool] = lambda: False
    looked: float = field(default=0.0)
    owner: int = field(default_factory=os.getpid)

    def look(self) -> None:
        """Let those tasks wait that have not ended and that nobody holds."""
        self.looked = time.monotonic()
        busy = {task_key(t) for running in self.running.values() for t in running.tasks}
        tasks = [t for t in map(self.shortened, self.job_tasks.tasks) if t.cells]
        self.waiting = deque(t for t in tasks if task_key(t) not in busy and not is_held(t))

    def next_task(self) -> Task | None:
        """Take the next task that nobody has; those of others are looked at again later."""
        if time.monotonic() - self.looked > LOOK_SECONDS:
            self.look()
        return None if self.stop else super().next_task()

    def end_stalled(self, moment: float) -> None:
        """End what hangs, and everything once a user has cancelled the job."""
        super().end_stalled(moment)
        if not self.stop and self.is_cancelled():
            self.end(signal.SIGTERM)

    def shortened(self, task: Task) -> Task:
        """Return a task without the cells that have ended."""
        return replace(task, cells=self.remaining(task))

    def handle_end(self, ended: Running) -> None:
        """Close what a process left open, and log how many cells are left."""
        super().handle_end(ended)
        left = sum(len(self.remaining(t)) for t in self.job_tasks.tasks)
        total = sum(len(t.cells) for t in self.job_tasks.tasks)
        log.info("%d of %s left", left, plural(total, "cell"))

    def listen(self) -> None:
        """Let Ctrl-C do what SIGTERM does: every process writes a checkpoint and ends."""
        super().listen()
        signal.signal(signal.SIGINT, lambda number, frame: self.end(signal.SIGTERM))

    def end(self, number: signal.Signals) -> None:
        """Start no more tasks, and pass a signal on to those that run."""
        self.stop = self.stop or Outcome.STOPPED
        for running in list(self.running.values()):
            with suppress(ProcessLookupError):
                os.kill(running.process.pid, number)


def is_held(task: Task) -> bool:
    """Say whether a live process holds the task's trunk or one of its cells."""
    folders = [trunk_folder(task.cells[0]), *map(cell_folder, task.cells)]
    tries = ((folder, last_attempt(folder)) for folder in folders)
    return any(a and a.ended is None and not is_dead(folder, a) for folder, a in tries)


def read_open_jobs(study: Path) -> dict[str, JobTasks]:
    """Return the open jobs of a study that are not cancelled, by name.

    study: the folder

    Raises ValueError where a list of tasks cannot be read, was made by other code or is of another
    study.
    """
    cancelled = cancelled_jobs(study)
    names = [j.job for j in read_jobs(study) if j.where == Where.NONE and j.job not in cancelled]
    return {name: read_open_job(study, name) for name in names}


def read_open_job(study: Path, name: str) -> JobTasks:
    """Read the tasks of an open job, for this machine's path of the study; see `read_open_jobs`."""
    path = jobs_folder(study) / f"{name}.json"
    again = f"give the sweep command with hydra/launcher=none again after removing {path}"
    try:
        job_tasks = JobTasks.from_dict(read_json(path))
    except (FileNotFoundError, ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is no list of cells ({error}); {again}") from None
    here = code_version()
    if job_tasks.code != here:
        raise ValueError(
            f"{study} was submitted by version {_words(job_tasks.code)}, and this is version"
            f" {_words(here)}; start the worker with that version, or cancel (scaling status"
            f" {shlex.quote(str(study))} --cancel) and give the sweep command again"
        )
    runs = str(study.parent)
    tasks = [replace(t, cells=[replace(c, runs=runs) for c in t.cells]) for t in job_tasks.tasks]
    for cell in (c for t in tasks for c in t.cells):
        if cell.study != study.name:
            raise ValueError(
                f"{path} is of the study {cell.study!r}, in a folder called {study.name!r}; give"
                " the folder its name back"
            )
    return replace(job_tasks, tasks=tasks)


def _words(code: dict[str, str | None]) -> str:
    return f"{code.get('version')} {code.get('git_sha') or ''}".strip()


def work(study: Path, *, workers: int = 0, leave: bool = False) -> Outcome | None:
    """Train cells that nobody has until all cells of the study's open jobs have ended.

    study: the folder
    workers: processes at a time; 0 is one a core, or one a GPU
    leave: end once others have all that is left, instead of waiting for what they may lose

    Returns the outcome that a signal or a cancellation asked for, None where all has ended. Raises
    what `read_open_jobs` raises.
    """
    study = study.resolve()
    waits = False
    pools: dict[str, OpenPool] = {}  # they remember what could not be written
    while True:
        jobs = read_open_jobs(study)
        for name in jobs.keys() - pools.keys():
            pools[name] = make_pool(study, name, jobs[name], workers=workers)
        left = [
            (pools[name], task)
            for name, job_tasks in jobs.items()
            for task in job_tasks.tasks
            if pools[name].remaining(task)
        ]
        if not left:
            return None
        free = next((pool for pool, t in left if not is_held(pool.shortened(t))), None)
        if free:
            free.look()
            free.run()
            if free.stop:
                return free.stop
            waits = False
            continue
        n_cells = sum(len(pool.remaining(t)) for pool, t in left)
        if leave:
            log.info("%s left, which other workers train", plural(n_cells, "cell"))
            return None
        if not waits:
            log.info(
                "%s left, which others train: waits for what they lose", plural(n_cells, "cell")
            )
        waits = True
        time.sleep(LOOK_SECONDS)


def make_pool(study: Path, name: str, job_tasks: JobTasks, *, workers: int) -> OpenPool:
    """Return a pool for the tasks of an open job.

    study: the folder
    name: of the job
    job_tasks: its tasks
    workers: processes at a time; 0 is one a core, or one a GPU
    """
    device = job_tasks.tasks[0].cells[0].machine.device
    return OpenPool(
        job_tasks=replace(job_tasks, workers=workers or default_workers(device)),
        job=f"worker-{os.getpid()}",
        is_cancelled=lambda: name in cancelled_jobs(study),
    )
