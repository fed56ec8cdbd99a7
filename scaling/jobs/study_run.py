"""Run a study's cells: skip what is done, submit what nobody has, watch it to its end.

Locally a pool in a background process trains the cells; on SLURM arrays of jobs do, through
submitit. Either way the jobs are written to runs/NAME/jobs.jsonl before anything waits, the sweep
command only watches, and the same command attaches again, submits what is missing and nothing else.
"""

import logging
import os
import shlex
import signal
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from scaling.config import CellConfig, check_launcher
from scaling.jobs.cell_states import CellStatus, Survey
from scaling.jobs.cells import check_corpus, collect, few, resolve_corpus, say_models, unique
from scaling.jobs.live_table import watch
from scaling.jobs.submission import submit_missing
from scaling.jobs.tasks import gpu_count
from scaling.schema import Record, now, sweep_temporaries
from scaling.study.failures import bury
from scaling.study.jobs_file import read_jobs
from scaling.study.lease import (
    TAKEN_AWAY,
    Attempt,
    dead,
    last_attempt,
    write_attempt,
)
from scaling.study.places import cell_folder, status_of, study_folder
from scaling.train.memory_check import check_room, host_bytes

log = logging.getLogger(__name__)
FREE_TURNS = 20  # resubmissions of what was interrupted, not failed, that one command makes


def run_cells(cells: list[CellConfig], *, where: str = "local", **options: Any) -> list[Record]:
    """Train every cell whose record is not done; return all records, none after `detach`.

    Raises RuntimeError, after all the others have ended, when a cell failed; a diverged cell is a
    result and only said.
    """
    check_launcher(options)
    if not cells:
        raise ValueError("the sweep has no cells; widen grid.* or name a sweep with sweeps=NAME")
    sweep_temporaries(study_folder(cells[0]), study_folder(cells[0]) / "final")
    cells = resolve_corpus(unique(cells))
    states = {c.run_id(): status_of(c) for c in cells}
    missing = [c for c in cells if states[c.run_id()] != "done"]
    log.info(
        "%s: %d cells, %d done already, %d to train",
        cells[0].study,
        len(cells),
        len(cells) - len(missing),
        len(missing),
    )
    if damaged := [name for name, state in states.items() if state == "damaged"]:
        log.warning("records that cannot be read, set aside and trained again: %s", few(damaged))
    if cells[0].dry_run:
        from scaling.jobs.pricing import price

        price(cells)
        return []
    if missing:
        say_models(missing)
        if where == "local" and cells[0].machine.device != "cuda" and not gpu_count():
            for cell in missing:
                check_room(cell, host_bytes(), machine="this machine")
        check_corpus(cells)
        train(missing, where=where, options=options)
    return [] if cells[0].detach else collect(cells)


def train(cells: list[CellConfig], *, where: str, options: dict[str, Any]) -> None:
    """Submit what nobody has and watch, again for what a dead job left and may be tried again."""
    round, turn, free = uuid.uuid4().hex[:10], 0, 0
    todo = cells
    while todo:
        survey = Survey(study_folder(cells[0]))
        with stopped_with_us(where, survey.folder):
            submit_missing(todo, survey, where=where, round=round, options=options)
            if cells[0].detach:
                say_detached(survey.folder, "detached")
                return
            try:
                lost = watch(cells, survey, poll_seconds=options.get("poll_seconds", 0.5))
            except KeyboardInterrupt:
                say_detached(survey.folder, "detached by Ctrl-C")
                raise
        again = close_lost(cells, lost, retry=cells[0].retry)
        failed = [c for c, taken_away in again if not taken_away]
        turn, free = turn + bool(failed), free + (not failed)
        todo = [c for c, _ in again] if turn <= cells[0].retry and free <= FREE_TURNS else []


def say_detached(folder: Path, how: str) -> None:
    """Say that the jobs go on without us, and how to look, attach and cancel."""
    log.info(
        "%s: the jobs go on; python -m scaling.status %s looks, the same command attaches, "
        "--cancel ends them",
        how,
        shlex.quote(str(folder)),
    )


@contextmanager
def stopped_with_us(where: str, folder: Path) -> Iterator[None]:
    """Pass a SIGTERM on to the local pool, which then leaves checkpoints; SLURM's jobs stay."""
    if where != "local":
        yield
        return

    def end(number: int, frame: object) -> None:
        for job in read_jobs(folder):
            if job.process_lives:
                os.kill(job.pid, signal.SIGTERM)
        log.info("stopped: the cells leave checkpoints; the same command resumes them")
        os._exit(143)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def close_lost(
    cells: list[CellConfig], lost: list[CellStatus], *, retry: int
) -> list[tuple[CellConfig, bool]]:
    """Write down the end of cells whose job died; return those to try again.

    With each comes whether SLURM took its machine away, which is no failure. What somebody
    cancelled or stopped is left alone.
    """
    by_id = {c.run_id(): c for c in cells}
    again = []
    for status in lost:
        cell = by_id[status.run_id]
        last = end_of(cell, status, retry=retry)
        if last and last.job != status.job:  # the last job left nothing of it
            last = None
        taken_away = bool(status.taken_away or (last and last.outcome in TAKEN_AWAY))
        if status.state == "cancelled" or (last and last.final):
            continue
        if taken_away or status.state == "failed":
            again.append((cell, taken_away))
    return again


def end_of(cell: CellConfig, status: CellStatus, *, retry: int) -> Attempt | None:
    """Write down how a cell's attempt ended whose job died; return the cell's last attempt."""
    folder = cell_folder(cell)
    last = last_attempt(folder)
    if status.taken_away:
        log.info("cell %s: %s; it is submitted again", status.run_id, status.error)
    if last is None or last.ended is not None or not dead(folder, last):
        return last
    if status.state == "cancelled" or status.taken_away:
        outcome = status.taken_away or "stopped"
        return write_attempt(folder, replace(last, ended=now(), outcome=outcome))
    last = bury(cell, status.error, retry=retry)
    tell_buried(status, final=last is None or last.final)
    return last


def tell_buried(status: CellStatus, *, final: bool) -> None:
    """Log a failure that nobody was left to report but us."""
    again = "" if final else "; it is tried again"
    log.error(
        "cell %s failed (attempt %d)%s: %s", status.run_id, status.attempt, again, status.error
    )
