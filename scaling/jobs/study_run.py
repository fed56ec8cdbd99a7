"""Run a study's cells: skip what is done, submit what nobody has, watch it to its end.

Locally a pool in a background process trains the cells; on SLURM arrays of jobs do, through
submitit. Either way the jobs are written to runs/NAME/jobs.jsonl before anything waits, the sweep
command only watches, and the same command attaches again, submits what is missing and nothing else.
"""

import logging
import os
import shlex
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from scaling.config import CellConfig, check_launcher
from scaling.jobs.live_table import watch
from scaling.jobs.pool import default_workers
from scaling.jobs.tasks import Work, gpu_count, tasks_of
from scaling.schema import Record, find_record, now, sweep_temporaries, write_json
from scaling.status import CellStatus, Survey
from scaling.study.failures import bury, cell_folder, record_path, status_of, trained_at
from scaling.study.jobs_file import append_jobs, jobs_folder, local_job, mend, read_jobs, submitter
from scaling.study.lease import (
    TAKEN_AWAY,
    Attempt,
    Held,
    Lease,
    Pulse,
    dead,
    last_attempt,
    write_attempt,
)
from scaling.train.memory_check import check_room, host_bytes

log = logging.getLogger(__name__)
MOST_REASONS = 12  # lines about cells without a result at the end of a sweep: half a screen
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
        from scaling.sweep import price

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


def say_models(cells: list[CellConfig]) -> None:
    """Say how many models must be trained before the stages that start from them."""
    before = {b.run_id() for c in cells if (b := c.before()) and not trained_at(b)}
    if before:
        log.info("%d models that these start from are trained first", len(before))


def unique(cells: list[CellConfig]) -> list[CellConfig]:
    """Drop cells that are the same as one before.

    Raises ValueError where they differ in how they are run, which tells no cells apart.
    """
    kept: dict[str, CellConfig] = {}
    for cell in cells:
        first = kept.setdefault(cell.run_id(), cell)
        if (one := settings(first)) != (other := settings(cell)):
            name = next(n for n in one if one[n] != other[n])
            raise ValueError(
                f"{name}={one[name]} and {name}={other[name]} make one cell, {cell.run_id()}: it "
                f"is known by what it trains, not by how; start each with a study of its own"
            )
    return list(kept.values())


def settings(cell: CellConfig) -> dict[str, Any]:
    """Return what a sweep may set of a cell without making it another."""
    named = {"study": cell.study, "runs": cell.runs}
    for group in ("machine", "log"):
        named |= {f"{group}.{k}": v for k, v in asdict(getattr(cell, group)).items()}
    return named


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


def study_folder(cell: CellConfig) -> Path:
    """Return the folder of a cell's study."""
    return Path(cell.runs) / cell.study


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
            [sys.executable, "-m", "scaling.jobs.pool", str(path)],
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


def resolve_corpus(cells: list[CellConfig]) -> list[CellConfig]:
    """Put the content hashes of corpus and policy into every cell: others make another cell.

    Tokenises what is not cached yet, once, before any process starts.
    """
    from scaling.data.tokens import open_corpus

    known: dict[str, str] = {}
    for cell in cells:
        key = repr((cell.data, cell.tokenizer))
        if key not in known:
            known[key] = open_corpus(cell).sha256
        cell.data.sha256 = known[key]
    if any(c.stage in ("reward", "ppo") and c.reward.policy for c in cells):
        from scaling.stages.cells import resolve_policies

        resolve_policies(cells)
    if any(c.stage != "pretrain" for c in cells):
        from scaling.stages.cells import refuse_changed_files

        refuse_changed_files(cells)
    return unique(cells)


def check_corpus(cells: list[CellConfig]) -> None:
    """Resolve every cell before the first trains; say which budgets repeat the corpus."""
    from scaling.budget import resolve
    from scaling.data.batches import Batches
    from scaling.data.tokens import open_corpus

    largest = max(cells, key=lambda c: resolve(c).n_tokens)
    budget, corpus = resolve(largest), open_corpus(largest)
    batches = Batches.of(corpus, largest.data, rows=budget.rows, seed=largest.seed)
    if (epochs := batches.epochs(budget.n_tokens)) > 1:
        log.warning(
            "the largest budget takes %s tokens, of which %s are unique: up to %.1f epochs; "
            "records keep unique_tokens",
            f"{budget.n_tokens:,}",
            f"{batches.unique(budget.n_tokens):,}",
            epochs,
        )


def collect(cells: list[CellConfig]) -> list[Record]:
    """Read the records back; say what diverged and why, raise for what failed."""
    found = [find_record(record_path(c)) for c in cells]
    records = [r for r in found if r is not None]
    diverged = [r.run_id for r in records if r.status == "diverged"]
    if diverged:
        log.warning("diverged: %s", ", ".join(diverged))
    settled = {r.run_id for r in records if r.status != "failed"}
    without = [c for c in cells if c.run_id() not in settled]
    if without:
        reasons = why_without(without)
        for line in reasons[:-1]:
            log.error("%s", line)
        why = f"; {reasons[-1]}" if reasons else ""
        raise RuntimeError(
            f"{len(without)} of {len(cells)} cells have no result{why}; run the same command "
            "again to retry them"
        )
    return records


def why_without(cells: list[CellConfig]) -> list[str]:
    """Return why cells have no result, a line each, as scaling.status gives it; MOST_REASONS."""
    folder = study_folder(cells[0])
    survey = Survey(folder)
    survey.refresh()
    lines = []
    for status in survey.cells([c.run_id() for c in cells]):
        why = status.error or disk_error(folder)
        lines.append(f"{status.run_id} {status.state}" + (f": {why}" if why else ""))
    if len(lines) <= MOST_REASONS:
        return lines
    rest = len(lines) - MOST_REASONS
    more = f"and {rest} more, which python -m scaling.status {shlex.quote(str(folder))} lists"
    return [*lines[: MOST_REASONS - 1], more, lines[MOST_REASONS - 1]]


def disk_error(folder: Path) -> str:
    """Say why nothing can be written to a study's folder; empty where it can."""
    probe = folder / ".probe"
    try:
        probe.write_text("x" * 4096)
        probe.unlink()
    except OSError as error:
        return f"{folder} cannot be written: {error.strerror}"
    return ""


def few(names: list[str]) -> str:
    """Return some names and how many more there are."""
    more = f" and {len(names) - MOST_REASONS} more" if len(names) > MOST_REASONS else ""
    return ", ".join(names[:MOST_REASONS]) + more
