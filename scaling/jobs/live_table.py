"""Show a study's cells until they have ended: a live table, and each failure as it happens.

On a terminal the table is redrawn in place; in a log file it is one line every `log.every_seconds`.
"""

import logging
import math
import shutil
import sys
import time
from pathlib import Path

from scaling.app.progress import bar, clock, rate, rest
from scaling.budget import workload
from scaling.config import CellConfig
from scaling.jobs.cell_states import ACTIVE, CellStates, CellStatus, counts
from scaling.schema import find_record
from scaling.study.failures import LAST_LINES, last_lines, tail
from scaling.study.jobs_file import Job
from scaling.study.lease import attempts
from scaling.study.states import CellState, Outcome, Where

log = logging.getLogger(__name__)
FILES_SECONDS = 0.5  # The files are read this often, in seconds, or less where reading is slow.
MOST_FORECASTS = 2  # Forecasts in a line of a log.
ROWS = 12  # The most running cells that the table shows.


def show_until_ended(
    cells: list[CellConfig], states: CellStates, *, poll_seconds: float
) -> list[CellStatus]:
    """Show the cells until none waits or runs; return those that their job left without an end.

    `poll_seconds` is the time between two questions to SLURM.
    """
    run_ids = [c.run_id() for c in cells]
    table = Table(cells)
    logged = {n: len(attempts(states.folder / n)) for n in run_ids}
    refreshed, idle_looks = -math.inf, 0
    try:
        while True:
            began = time.monotonic()
            if began - refreshed > poll_seconds:
                states.refresh()
                refreshed = began
            statuses = states.cells(run_ids)
            table.close()
            for status in statuses:
                log_failures(states, status, logged)
            table.update(statuses)
            if not any(s.state in ACTIVE for s in statuses):
                # Look twice: a job may have ended after its record was looked for.
                idle_looks += 1
                if idle_looks > 1 or all(s.state == CellState.DONE for s in statuses):
                    table.close()
                    log.info(table.line(statuses))
                    return [s for s in statuses if is_lost(states, s)]
                refreshed = -math.inf
            else:
                idle_looks = 0
            time.sleep(max(FILES_SECONDS, 10 * (time.monotonic() - began)))
    finally:
        table.close()


def is_lost(states: CellStates, status: CellStatus) -> bool:
    """Say whether a cell's job ended before the cell had an end."""
    if status.state in (CellState.DONE, CellState.DIVERGED):
        return False
    tries, job = attempts(states.folder / status.run_id), states.job_of(status.run_id)
    unbegun = tries and job and job.where == Where.SLURM and tries[-1].job != job.job
    return bool(unbegun) or not (tries and tries[-1].final)


def log_failures(states: CellStates, status: CellStatus, logged: dict[str, int]) -> None:
    """Log the failures of a cell that were not logged yet, with their last lines.

    `logged` holds the number of the last attempt that was logged, by run id. An attempt that
    stalled, or whose file is damaged, is one line.
    """
    if status.attempt < logged[status.run_id] or status.state == CellState.DONE:
        return
    folder = states.folder / status.run_id
    ended = [a for a in attempts(folder)[logged[status.run_id] :] if a.ended]
    for attempt in ended:
        logged[status.run_id] = attempt.attempt
        if attempt.outcome in (Outcome.STALLED, Outcome.DAMAGED):
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
                failure_lines(folder, attempt.error or "", states.jobs.get(status.run_id, [])),
            )


def failure_lines(folder: Path, error: str, jobs: list[Job]) -> str:
    """Return the last lines of a failure: of its traceback, or of its job's output."""
    record = find_record(folder / "record.json")
    text = (record.error or "") if record else ""
    if len(text.splitlines()) < 2 and jobs:
        text = f"{tail(jobs[-1].log)}\n{error}"
    return last_lines(text or error, LAST_LINES)


def forecasts(cells: list[CellStatus]) -> str:
    """Return the forecasts of the cells that are furthest, for a line of a log."""
    known = sorted((c for c in cells if c.at_end), key=lambda c: c.step, reverse=True)
    return "".join(f"  {c.run_id} {c.at_end}" for c in known[:MOST_FORECASTS])


class Table:
    """The table: counts, running cells and the time left."""

    def __init__(self, cells: list[CellConfig]) -> None:
        loads = {c.run_id(): workload(c) for c in cells}
        self.flops = {name: flops for name, (flops, _) in loads.items()}
        self.steps = {name: steps for name, (_, steps) in loads.items()}
        self.every = cells[0].log.every_seconds
        self.terminal = sys.stderr.isatty()
        self.began = self.last = time.monotonic()
        self.at_start: float | None = None
        self.drawn = 0

    def share(self, cells: list[CellStatus]) -> float:
        """Return the share of the study's FLOPs that is done."""
        done = sum(
            self.flops[c.run_id]
            * (min(1.0, c.step / self.steps[c.run_id]) if c.state in ACTIVE else 1.0)
            for c in cells
        )
        return done / sum(self.flops.values())

    def line(self, cells: list[CellStatus]) -> str:
        """Return the first line: the share of FLOPs that is done, rate, times, counts."""
        share, seconds = self.share(cells), time.monotonic() - self.began
        if self.at_start is None:
            self.at_start = share
        gained = share - self.at_start
        speed = rate(gained * sum(self.flops.values()) / max(seconds, 1e-9), "FLOP")
        times = f"{clock(seconds)} gone, {clock(rest(seconds, gained, 1 - share))} left"
        start = f"sweep  {bar(share)} " if self.terminal else "sweep: "
        ends = "" if self.terminal else forecasts(cells)
        return f"{start}{share:4.0%}  {speed}  {times}  {counts(cells)}{ends}"

    def update(self, cells: list[CellStatus]) -> None:
        """Draw the table on a terminal; else log its first line where it is time to."""
        now = time.monotonic()
        if not self.terminal:
            if now - self.last >= self.every:
                self.last = now
                log.info(self.line(cells))
            else:
                self.line(cells)  # notes the share at the start
            return
        width = shutil.get_terminal_size().columns - 1
        running = [c for c in cells if c.state == CellState.RUNNING]
        rows = [self.line(cells)]
        rows += [
            f"  {c.run_id}  {c.node:10} {c.job:12} step {c.step:>6} of {self.steps[c.run_id]:<6} "
            + ("" if c.test_loss is None else f"test loss {c.test_loss:.4f}")
            + (f"  {c.at_end}" if c.at_end else "")
            for c in running[:ROWS]
        ]
        if len(running) > ROWS:
            rows.append(f"  and {len(running) - ROWS} more")
        self.close()
        sys.stderr.write("".join(f"{r[:width]}\n" for r in rows))
        sys.stderr.flush()
        self.drawn = len(rows)

    def close(self) -> None:
        """Remove the table, so that log lines stand above it."""
        if self.drawn:
            sys.stderr.write(f"\033[{self.drawn}A\033[J")
            self.drawn = 0
