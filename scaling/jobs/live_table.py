"""Watch a study's cells to their end: a live table, failures at once with their last lines.

On a terminal the table is redrawn in place; in a log file it is one line now and then.
"""

import logging
import math
import shutil
import sys
import time
from pathlib import Path

from scaling.app.progress import clock
from scaling.budget import workload
from scaling.config import CellConfig
from scaling.jobs.cell_states import CellStatus, Survey, counts
from scaling.schema import find_record
from scaling.study.failures import LAST_LINES, last_lines, tail
from scaling.study.jobs_file import Job
from scaling.study.lease import DAMAGED, STALLED, attempts

log = logging.getLogger(__name__)
FILES_SECONDS = 0.5
ROWS = 12  # running cells shown at once
WAITING = ("queued", "running")


def watch(cells: list[CellConfig], survey: Survey, *, poll_seconds: float) -> list[CellStatus]:
    """Show the cells until none waits or runs; return those whose job died and left them.

    Reads files every half second (less often where that takes long) and asks SLURM every
    `poll_seconds`.
    """
    names = [c.run_id() for c in cells]
    table = Table(cells)
    shown = {n: len(attempts(survey.folder / n)) for n in names}
    asked, doubts = -math.inf, 0
    try:
        while True:
            began = time.monotonic()
            if began - asked > poll_seconds:
                survey.refresh()
                asked = began
            found = survey.cells(names)
            table.close()
            for status in found:
                tell_failures(survey, status, shown)
            table.update(found)
            if not any(s.state in WAITING for s in found):
                # A job may have ended between the two looks, its record still on its way here.
                doubts += 1
                if doubts > 1 or all(s.state == "done" for s in found):
                    return [s for s in found if is_lost(survey, s)]
                asked = -math.inf
            else:
                doubts = 0
            time.sleep(max(FILES_SECONDS, 10 * (time.monotonic() - began)))
    finally:
        table.close()


def is_lost(survey: Survey, status: CellStatus) -> bool:
    """Say whether a cell's job ended without being through with it."""
    if status.state in ("done", "diverged"):
        return False
    found, job = attempts(survey.folder / status.run_id), survey.job_of(status.run_id)
    unbegun = found and job and job.where == "slurm" and found[-1].job != job.job
    return bool(unbegun) or not (found and found[-1].final)


def tell_failures(survey: Survey, status: CellStatus, shown: dict[str, int]) -> None:
    """Log the failures of a cell that were not logged yet, with their last lines.

    An attempt that stalled, or whose file is damaged, is a line.
    """
    if status.attempt < shown[status.run_id] or status.state == "done":
        return
    folder = survey.folder / status.run_id
    found = attempts(folder)
    ended = [a for a in found[shown[status.run_id] :] if a.ended]
    for attempt in ended:
        shown[status.run_id] = attempt.attempt
        if attempt.outcome in (STALLED, DAMAGED):
            log.warning("cell %s, attempt %d: %s", status.run_id, attempt.attempt, attempt.error)
        if attempt.failed:
            again = "" if attempt.final else "; it is tried again"
            log.error(
                "cell %s failed (attempt %d, job %s on %s)%s:\n%s",
                status.run_id,
                attempt.attempt,
                attempt.job,
                attempt.node,
                again,
                why(folder, attempt.error or "", survey.jobs.get(status.run_id, [])),
            )


def why(folder: Path, error: str, jobs: list[Job]) -> str:
    """Return the last lines of a failure: its traceback, or the end of its job's output."""
    found = find_record(folder / "record.json")
    text = (found.error or "") if found else ""
    if len(text.splitlines()) < 2 and jobs:
        text = f"{tail(jobs[-1].log)}\n{error}"
    return last_lines(text or error, LAST_LINES)


class Table:
    """Counts, running cells and the time left."""

    def __init__(self, cells: list[CellConfig]) -> None:
        works = {c.run_id(): workload(c) for c in cells}
        self.flops = {name: flops for name, (flops, _) in works.items()}
        self.steps = {name: steps for name, (_, steps) in works.items()}
        self.every = cells[0].log.every_seconds
        self.terminal = sys.stderr.isatty()
        self.began = self.last = time.monotonic()
        self.at_start: float | None = None
        self.drawn = 0

    def share(self, cells: list[CellStatus]) -> float:
        """Return the part of the study's FLOPs that is behind it."""
        done = sum(
            self.flops[c.run_id]
            * (min(1.0, c.step / self.steps[c.run_id]) if c.state in WAITING else 1.0)
            for c in cells
        )
        return done / sum(self.flops.values())

    def line(self, cells: list[CellStatus]) -> str:
        """Return the counts with the time gone and left."""
        share, gone = self.share(cells), time.monotonic() - self.began
        if self.at_start is None:
            self.at_start = share
        gained = share - self.at_start
        left = gone * (1 - share) / gained if gained > 0 else math.inf
        return f"sweep: {share:4.0%}, {clock(gone)} gone, {clock(left)} left  {counts(cells)}"

    def update(self, cells: list[CellStatus]) -> None:
        """Show it when it is time to."""
        now = time.monotonic()
        if not self.terminal:
            if now - self.last >= self.every:
                self.last = now
                log.info(self.line(cells))
            else:
                self.line(cells)  # the share at the start
            return
        width = shutil.get_terminal_size().columns - 1
        running = [c for c in cells if c.state == "running"]
        rows = [self.line(cells)]
        rows += [
            f"  {c.run_id}  {c.node:10} {c.job:12} step {c.step:>6} of {self.steps[c.run_id]:<6} "
            + ("" if c.test_loss is None else f"test loss {c.test_loss:.4f}")
            for c in running[:ROWS]
        ]
        if len(running) > ROWS:
            rows.append(f"  and {len(running) - ROWS} more")
        self.close()
        sys.stderr.write("".join(f"{r[:width]}\n" for r in rows))
        sys.stderr.flush()
        self.drawn = len(rows)

    def close(self) -> None:
        """Remove what is drawn, so that log lines stand above the table."""
        if self.drawn:
            sys.stderr.write(f"\033[{self.drawn}A\033[J")
            self.drawn = 0
