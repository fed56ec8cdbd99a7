"""Run a study's cells: skip those that are done, submit those without a job, show their progress.

On this machine a pool in a background process trains the cells; on SLURM arrays of jobs do, through
submitit. The jobs are written to runs/NAME/jobs.jsonl at once, and the sweep command only watches
them: the same command, given again, attaches to them and submits nothing but what is missing.
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

from scaling.app.application import typed_arguments
from scaling.app.next_command import next_command
from scaling.app.plurals import plural
from scaling.config import CellConfig, check_launcher
from scaling.jobs.cell_states import CellStates, CellStatus
from scaling.jobs.cells import (
    check_corpus,
    check_test_sets,
    collect,
    first_names,
    log_models_needed,
    resolve_corpus,
    unique,
)
from scaling.jobs.live_table import show_until_ended
from scaling.jobs.pricing import price
from scaling.jobs.submission import submit_missing
from scaling.jobs.tasks import gpu_count
from scaling.schema import Command, Record, Status, now, remember_command, sweep_temporaries
from scaling.study.failures import fail_dead_attempt
from scaling.study.jobs_file import read_jobs
from scaling.study.lease import Attempt, is_dead, last_attempt, write_attempt
from scaling.study.places import cell_folder, status_of, study_folder
from scaling.study.precision import choose_precision
from scaling.study.states import TAKEN_AWAY, CellState, Outcome, Where
from scaling.train.memory_check import check_room, host_bytes

log = logging.getLogger(__name__)
FREE_TURNS = 20  # So often one command submits again what was interrupted without a failure.


def run_cells(cells: list[CellConfig], *, where: str = "local", **options: Any) -> list[Record]:
    """Train every cell whose record is not done; return all records, none after `detach`.

    `where` is local or slurm, `options` are the launcher's settings. Raises RuntimeError, after all
    the others have ended, when a cell failed; for a diverged cell there is only a warning.
    """
    check_launcher(options)
    if not cells:
        raise ValueError("the sweep has no cells; widen grid.* or name a sweep with sweeps=NAME")
    sweep_temporaries(study_folder(cells[0]), study_folder(cells[0]) / "final")
    cells = resolve_corpus(unique(cells))
    states = {c.run_id(): status_of(c) for c in cells}
    missing = [c for c in cells if states[c.run_id()] != CellState.DONE]
    log.info(
        "%s: %s, %d done already, %d to train",
        cells[0].study,
        plural(len(cells), "cell"),
        len(cells) - len(missing),
        len(missing),
    )
    if damaged := [name for name, state in states.items() if state == CellState.DAMAGED]:
        log.warning(
            "records that cannot be read, set aside and trained again: %s", first_names(damaged)
        )
    n_bytes = check_test_sets(missing)
    if cells[0].dry_run:
        price(cells, n_bytes)
        return []
    missing = choose_precision(missing) if missing else []
    if typed := typed_arguments():
        remember_command(study_folder(cells[0]), Command.typed("scaling.sweep", typed))
    if missing:
        log_models_needed(missing)
        if where == Where.LOCAL and cells[0].machine.device != "cuda" and not gpu_count():
            for cell in missing:
                check_room(cell, host_bytes(), machine="this machine")
        check_corpus(cells)
        train(missing, where=Where(where), options=options)
    return [] if cells[0].detach else collect(cells)


def log_next(cell: CellConfig, records: list[Record]) -> None:
    """Log that the cells of a sweep are done, and which command fits a law to them.

    cell: one of the sweep's, which says where its study is
    records: those of a sweep that ended; none after a dry run or `detach`, which logs nothing
    """
    if records:
        done = sum(r.status == Status.DONE for r in records)
        form = "critical_batch" if cell.branch.is_set else "all"
        line = next_command("fit", runs=study_folder(cell), form=form)
        log.info("%d done. %s", done, line)


def train(cells: list[CellConfig], *, where: Where, options: dict[str, Any]) -> None:
    """Submit the cells without a job and watch them; submit those again that a dead job left.

    Failures are submitted again `retry` times, interruptions FREE_TURNS times.
    """
    round, failures, interruptions = uuid.uuid4().hex[:10], 0, 0
    todo = cells
    while todo:
        states = CellStates(study_folder(cells[0]))
        with forwarding_sigterm(where, states.folder):
            submit_missing(todo, states, where=where, round=round, options=options)
            if cells[0].detach:
                log_detached(states.folder, "detached")
                return
            try:
                poll_seconds = options.get("poll_seconds", 0.5)
                lost = show_until_ended(cells, states, poll_seconds=poll_seconds)
            except KeyboardInterrupt:
                log_detached(states.folder, "detached by Ctrl-C")
                raise
        again = close_lost(cells, lost, retry=cells[0].retry)
        any_failed = any(not taken_away for _, taken_away in again)
        failures, interruptions = failures + any_failed, interruptions + (not any_failed)
        more = failures <= cells[0].retry and interruptions <= FREE_TURNS
        todo = [c for c, _ in again] if more else []


def log_detached(folder: Path, how: str) -> None:
    """Log that the jobs go on without this command, and how to look, attach and cancel."""
    log.info(
        "%s: the jobs go on; scaling status %s looks, the same command attaches, "
        "--cancel ends them",
        how,
        shlex.quote(str(folder)),
    )


@contextmanager
def forwarding_sigterm(where: Where, folder: Path) -> Iterator[None]:
    """Pass a SIGTERM on to the local pool, which then leaves checkpoints; SLURM's jobs go on."""
    if where != Where.LOCAL:
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
    """Write the end of cells whose job died; return those to try again.

    Beside each cell stands whether SLURM took its machine away, which is no failure. Cells that a
    user cancelled or stopped are not tried again.
    """
    by_id = {c.run_id(): c for c in cells}
    again = []
    for status in lost:
        cell = by_id[status.run_id]
        last = close_attempt(cell, status, retry=retry)
        if last and last.job != status.job:  # the last job began no attempt at the cell
            last = None
        taken_away = bool(status.taken_away or (last and last.outcome in TAKEN_AWAY))
        if status.state == CellState.CANCELLED or (last and last.final):
            continue
        if taken_away or status.state == CellState.FAILED:
            again.append((cell, taken_away))
    return again


def close_attempt(cell: CellConfig, status: CellStatus, *, retry: int) -> Attempt | None:
    """Write the end of the attempt of a cell whose job died; return the cell's last attempt."""
    folder = cell_folder(cell)
    last = last_attempt(folder)
    if status.taken_away:
        log.info("cell %s: %s; it is submitted again", status.run_id, status.error)
    if last is None or last.ended is not None or not is_dead(folder, last):
        return last
    if status.state == CellState.CANCELLED or status.taken_away:
        outcome = status.taken_away or Outcome.STOPPED
        return write_attempt(folder, replace(last, ended=now(), outcome=outcome))
    last = fail_dead_attempt(cell, status.error, retry=retry)
    log_dead_attempt(status, final=last is None or last.final)
    return last


def log_dead_attempt(status: CellStatus, *, final: bool) -> None:
    """Log the failure of a cell whose process is gone and could not log it."""
    again = "" if final else "; it is tried again"
    log.error(
        "cell %s failed (attempt %d)%s: %s", status.run_id, status.attempt, again, status.error
    )
