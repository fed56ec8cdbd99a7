"""Submit cells: to a pool on this machine, to SLURM, or to whoever starts `scaling work`."""

import logging
import subprocess
import uuid
from pathlib import Path
from shlex import quote
from typing import Any

from scaling.app.child_python import module_command, module_environment
from scaling.app.plurals import plural
from scaling.config import CellConfig
from scaling.jobs.cell_states import ACTIVE, CellStates
from scaling.jobs.pool import default_workers
from scaling.jobs.slurm.submit import adopt, submit
from scaling.jobs.tasks import JobTasks, tasks_of
from scaling.schema import write_json
from scaling.study.jobs_file import Job, append_jobs, jobs_folder, local_job, repair, submitter
from scaling.study.lease import Held, Lease, Pulse
from scaling.study.states import Part, Where

log = logging.getLogger(__name__)


def submit_missing(
    cells: list[CellConfig],
    states: CellStates,
    *,
    where: Where,
    round: str,
    options: dict[str, Any],
) -> None:
    """Submit the cells that no live job has; one sweep at a time does so.

    cells: cells of one study without a result
    states: the study
    where: on this machine, on SLURM, or none, which starts nothing
    round: this sweep command; retries are counted within it
    options: the launcher's settings
    """
    try:
        with Lease(jobs_folder(states.folder), submitter(round), Pulse()):
            repair(states.folder)
            if where == Where.SLURM:
                adopt(states.folder)
            states.refresh()
            active = {
                s.run_id for s in states.cells([c.run_id() for c in cells]) if s.state in ACTIVE
            }
            free = [c for c in cells if c.run_id() not in active]
            if n_active := len(cells) - len(free):
                log.info("attached to %s queued or running already", plural(n_active, "cell"))
            if free:
                SUBMIT[where](free, states.folder, round=round, options=options)
    except Held as held:
        log.info("another sweep submits to this study now (%s); watching it", held)


def write_open_job(
    cells: list[CellConfig], folder: Path, *, round: str, options: dict[str, Any]
) -> None:
    """Write cells where any worker may take them (`scaling.jobs.open_work`); start nothing.

    cells: what is to be trained
    folder: the study
    round: this sweep command
    options: the launcher's settings, of which none counts here
    """
    tasks = tasks_of(cells)
    job_tasks = JobTasks(round=round, tasks=tasks, retry=cells[0].retry)
    name = f"open-{uuid.uuid4().hex[:10]}"
    write_json(jobs_folder(folder) / f"{name}.json", job_tasks.to_dict())
    job = Job(
        job=name,
        where=Where.NONE,
        round=round,
        part=Part.ALL,
        cells=[c.run_id() for c in cells],
        log="",
    )
    append_jobs(folder, [job])
    log.info("%s for workers: scaling work %s", plural(len(cells), "cell"), quote(str(folder)))


def submit_local(
    cells: list[CellConfig], folder: Path, *, round: str, options: dict[str, Any]
) -> None:
    """Start a pool in the background, which outlives this command.

    cells: what it trains
    folder: the study
    round: this sweep command
    options: the launcher's settings, of which `workers` counts here
    """
    device = cells[0].machine.device
    if device == "cuda":
        from scaling.train.device import pick_device  # for speed: it loads torch

        pick_device(cells[0].machine)  # raises for a missing GPU before any process starts
    by_branch = cells[0].branches == "jobs"
    job_tasks = JobTasks(
        round=round,
        tasks=tasks_of(cells, part=Part.TRUNK if by_branch else Part.ALL),
        retry=cells[0].retry,
        workers=options.get("workers") or cells[0].machine.workers or default_workers(device),
        then_branches=by_branch,
    )
    place = jobs_folder(folder)
    path = write_json(place / f"{round}-{uuid.uuid4().hex[:6]}.json", job_tasks.to_dict())
    output = path.with_suffix(".log")
    with output.open("ab") as stream:
        process = subprocess.Popen(
            module_command("scaling.jobs.pool", str(path)),
            env=module_environment(),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
    job = local_job(process.pid, round=round, cells=[c.run_id() for c in cells], log=output)
    append_jobs(folder, [job])


SUBMIT = {Where.LOCAL: submit_local, Where.SLURM: submit, Where.NONE: write_open_job}
