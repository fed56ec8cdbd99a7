"""Cells handed to a pool on this machine or to SLURM."""

import logging
import subprocess
import uuid
from pathlib import Path
from typing import Any

from scaling.app.child_python import module_command, module_environment
from scaling.config import CellConfig
from scaling.jobs.cell_states import Survey
from scaling.jobs.pool import default_workers
from scaling.jobs.tasks import Work, tasks_of
from scaling.schema import write_json
from scaling.study.jobs_file import append_jobs, jobs_folder, local_job, mend, submitter
from scaling.study.lease import (
    Held,
    Lease,
    Pulse,
)

log = logging.getLogger(__name__)


def submit_missing(
    cells: list[CellConfig],
    survey: Survey,
    *,
    where: str,
    round: str,
    options: dict[str, Any],
) -> None:
    """Submit the cells that no live job or process has; one sweep at a time does so."""
    try:
        with Lease(jobs_folder(survey.folder), submitter(round), Pulse()):
            mend(survey.folder)
            if where == "slurm":
                adopt_orphans(survey.folder)
            survey.refresh()
            known = {s.run_id: s for s in survey.cells([c.run_id() for c in cells])}
            busy = [c for c in cells if known[c.run_id()].state in ("queued", "running")]
            free = [c for c in cells if known[c.run_id()].state not in ("queued", "running")]
            if busy:
                log.info("attached to %d cells that are queued or running already", len(busy))
            if free:
                {"local": submit_local, "slurm": submit_slurm}[where](
                    free, survey.folder, round=round, options=options
                )
    except Held as held:
        log.info("another sweep submits to this study now (%s); watching it", held)


def submit_local(
    cells: list[CellConfig], folder: Path, *, round: str, options: dict[str, Any]
) -> None:
    """Start a pool in the background, which outlives this command."""
    device = cells[0].machine.device
    if device == "cuda":
        from scaling.train.device import pick_device

        pick_device(cells[0].machine)  # a missing GPU is said before any process starts
    by_branch = cells[0].branches == "jobs"
    work = Work(
        round=round,
        tasks=tasks_of(cells, part="trunk" if by_branch else "all"),
        retry=cells[0].retry,
        workers=options.get("workers") or cells[0].machine.workers or default_workers(device),
        then_branches=by_branch,
    )
    place = jobs_folder(folder)
    path = write_json(place / f"{round}-{uuid.uuid4().hex[:6]}.json", work.to_dict())
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


def submit_slurm(
    cells: list[CellConfig], folder: Path, *, round: str, options: dict[str, Any]
) -> None:
    """Submit arrays of jobs."""
    from scaling.jobs.slurm.submit import submit

    submit(cells, folder, round=round, options=options)


def adopt_orphans(folder: Path) -> None:
    """Find the jobs of a sweep that was killed while it submitted."""
    from scaling.jobs.slurm.submit import adopt

    adopt(folder)
