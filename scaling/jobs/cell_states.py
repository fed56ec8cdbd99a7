"""The state of every cell of a study, from its files and from SLURM."""

import os
import shlex
import signal
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from scaling.jobs.slurm import queries as slurm
from scaling.schema import EndForecast, Record, Status, no_study, read_record
from scaling.study.failures import last_line, tail
from scaling.study.jobs_file import Job, append, cancelled_jobs, damaged_lines, read_jobs
from scaling.study.lease import (
    Attempt,
    attempts,
    is_dead,
    last_attempt,
    silent_seconds,
)
from scaling.study.states import CellState, Outcome, Where

FINAL_RUN = "final/pretrain"  # The folder of the final run's pretraining, within the study's.
WATCH_SECONDS = 2.0  # `scaling status --watch` shows the table this often, in seconds.
ACTIVE = (CellState.QUEUED, CellState.RUNNING)  # States of cells that a job will train or trains.


@dataclass(frozen=True, kw_only=True)
class CellStatus:
    """The state of one cell, as `scaling status` shows it.

    attempt, node, job, step, test_loss: of the last attempt, or of the cell's job
    at_end: the forecast of the final test loss of a cell that runs; None where too little is known
    tokens: tokens of a cell with a record
    test_sets: names of the test sets (eval.sets) that a cell with a record was scored on
    error: why the cell has this state, in a sentence
    taken_away: timeout or preempted, where SLURM ended the job before it could write so
    """

    run_id: str
    state: CellState
    attempt: int = 0
    node: str = ""
    job: str = ""
    step: int = 0
    tokens: int = 0
    test_loss: float | None = None
    at_end: EndForecast | None = None
    test_sets: tuple[str, ...] = ()
    error: str = ""
    taken_away: Outcome | Literal[""] = ""


@dataclass
class CellStates:
    """The cells of a study; `refresh` reads its jobs and asks SLURM about them.

    folder: the study
    jobs: the jobs of each cell, in the order of their submission
    slurm_states: the state of each SLURM job; None while SLURM does not answer
    ended: cells that are done, which are not read again
    cancelled: jobs that a user cancelled
    """

    folder: Path
    jobs: dict[str, list[Job]] = field(default_factory=dict)
    slurm_states: dict[str, slurm.State] | None = field(default_factory=dict)
    ended: dict[str, CellStatus] = field(default_factory=dict)
    cancelled: set[str] = field(default_factory=set)

    def refresh(self) -> None:
        """Read the list of jobs and ask SLURM about the jobs of cells that are not done."""
        self.jobs = {}
        for job in read_jobs(self.folder):
            for cell in job.cells:
                self.jobs.setdefault(cell, []).append(job)
        open_jobs = {
            j.job
            for cell, jobs in self.jobs.items()
            if cell not in self.ended
            for j in jobs
            if j.where == Where.SLURM
        }
        self.slurm_states = slurm.states(sorted(open_jobs))
        self.cancelled = cancelled_jobs(self.folder)
        if self.slurm_states is not None:
            forgotten = self.cancelled - self.slurm_states.keys()
            self.slurm_states |= dict.fromkeys(forgotten, slurm.State(state="CANCELLED"))

    def cells(self, run_ids: list[str] | None = None) -> list[CellStatus]:
        """Return the status of these cells, or of all cells of the study and its final run.

        The final run is shown while it trains.
        """
        if run_ids is not None:
            return [self.of(run_id) for run_id in run_ids]
        final = self.read(FINAL_RUN) if (self.folder / FINAL_RUN).is_dir() else None
        running = [final] if final and final.state == CellState.RUNNING else []
        return [*map(self.of, self.all_cells()), *running]

    def all_cells(self) -> list[str]:
        """List the cells that have a folder or a job."""
        folders = {
            p.name
            for p in self.folder.iterdir()
            if p.is_dir() and not p.name.startswith(".") and p.name not in ("final", "wandb")
        }
        return sorted(folders | set(self.jobs))

    def of(self, run_id: str) -> CellStatus:
        """Return one cell's status; a cell that is done is read once."""
        if run_id not in self.ended:
            status = self.read(run_id)
            if status.state != CellState.DONE:
                return status
            self.ended[run_id] = status
        return self.ended[run_id]

    def read(self, run_id: str) -> CellStatus:
        """Work out one cell's status from its record, its last attempt and its job."""
        folder = self.folder / run_id
        record, damage = _record(folder / "record.json")
        last = last_attempt(folder)
        job = self.job_of(run_id)
        live = self.is_live(job)
        common: dict[str, Any] = {"run_id": run_id, "job": job.job if job else ""}
        if last:
            common |= {"attempt": last.attempt, "node": last.node, "job": last.job}
            begun = last.step or last.attempt == 1 or last.ended
            far = last if begun else max(attempts(folder), key=lambda a: a.step)
            common |= {"step": far.step, "test_loss": far.test_loss}
        if record and record.status == Status.DONE:
            return CellStatus(**common | record_fields(record), state=CellState.DONE)
        if last and last.ended is None and not is_dead(folder, last):
            return CellStatus(**common, at_end=last.at_end, state=CellState.RUNNING)
        if live and not (last and job and last.round == job.round and last.final):
            why = self.why_queued(folder, last, job)
            return CellStatus(**common, state=CellState.QUEUED, error=why)
        if lost := self.lost_job(last, job):
            return CellStatus(**common | lost)
        if record:
            return CellStatus(**common | record_fields(record), state=CellState(record.status))
        if damage:
            return CellStatus(**common, state=CellState.DAMAGED, error=damage)
        return CellStatus(**common, **self.without_record(folder, last, job))

    def job_of(self, run_id: str) -> Job | None:
        """Return the cell's last job that waits or runs; without one, its last job."""
        jobs = self.jobs.get(run_id, [])
        return next((j for j in reversed(jobs) if self.is_live(j)), jobs[-1] if jobs else None)

    def is_live(self, job: Job | None) -> bool:
        """Say whether a job waits or runs; while SLURM does not answer, its jobs count as live."""
        if job is None:
            return False
        if job.where == Where.LOCAL:
            return job.process_lives
        if job.where == Where.NONE:
            return job.job not in self.cancelled
        if self.slurm_states is None:
            return True
        state = self.slurm_states.get(job.job)
        return state is not None and state.live

    def slurm_state(self, job: Job | None) -> slurm.State | None:
        """Return the state of a job as SLURM has it; None where SLURM does not know the job."""
        return (self.slurm_states or {}).get(job.job) if job else None

    def why_queued(self, folder: Path, last: Attempt | None, job: Job | None) -> str:
        """Say why a cell waits: how its last attempt ended, a silent node, or SLURM's reason."""
        if job and job.where == Where.SLURM and self.slurm_states is None:
            return "SLURM does not answer"
        if last and last.ended is None:
            return f"no word from {last.node} for {silent_seconds(folder, last):.0f} s"
        if last and last.outcome in (Outcome.FAILED, Outcome.STALLED, Outcome.DAMAGED):
            return f"attempt {last.attempt} {last.outcome}: {last.error}"
        if job and job.where == Where.NONE:
            return f"waits for a worker: scaling work {shlex.quote(str(self.folder))}"
        state = self.slurm_state(job)
        return state.reason if state and state.state == "PENDING" else ""

    def how_ended(self, job: Job | None) -> str:
        """Say in words how a job ended, as SLURM has it."""
        state = self.slurm_state(job)
        if job and job.where == Where.NONE:
            return f"{job.job} was cancelled"
        how = f"job {job.job} ended" if job else "no job has it"
        if state:
            how += f" as {state.state}" + (f" on {state.node}" if state.node else "")
        return how

    def lost_job(self, last: Attempt | None, job: Job | None) -> dict[str, Any]:
        """Return the fields for a cell whose SLURM job ended without writing so; empty for others.

        An earlier job may have left a failure of the cell; its state is then that of the last job.
        """
        if job is None or job.where != Where.SLURM:
            return {}
        begun = last if last and last.job == job.job else None
        if begun and begun.ended is not None:
            return {}
        state, how = self.slurm_state(job), self.how_ended(job)
        fields = {"job": job.job} | ({"node": state.node} if state and state.node else {})
        if state and state.taken_away:
            at = f"at step {begun.step}" if begun else "before the cell began"
            return fields | {
                "state": CellState.STOPPED,
                "error": f"{how} {at}",
                "taken_away": state.taken_away,
            }
        if begun or (state and state.state == "CANCELLED"):
            return {}
        completed = state and state.state == "COMPLETED"
        return fields | {
            "state": CellState.STOPPED if completed else CellState.FAILED,
            "error": self.why_unbegun(job, state.reason if state else ""),
        }

    def why_unbegun(self, job: Job, reason: str = "") -> str:
        """Say why a job ended before it began a cell: by its output, else by SLURM's reason."""
        why = last_line(tail(job.log)) or reason
        return f"{self.how_ended(job)} before the cell began" + (f": {why}" if why else "")

    def without_record(self, folder: Path, last: Attempt | None, job: Job | None) -> dict[str, Any]:
        """Return the fields for a cell without a record and without a live job."""
        state, how = self.slurm_state(job), self.how_ended(job)
        if last and last.outcome == Outcome.FAILED:
            return {"state": CellState.FAILED, "error": last.error or ""}
        is_open = job is not None and job.where == Where.NONE
        if is_open or (state and state.state == "CANCELLED"):
            return {"state": CellState.CANCELLED, "error": how}
        if last and last.ended is None:
            silence = f"no word from {last.node} for {silent_seconds(folder, last):.0f} s"
            return {"state": CellState.FAILED, "error": f"{how}; {silence}"}
        if last:
            why = last.error or f"{last.outcome} at step {last.step}"
            return {"state": CellState.STOPPED, "error": f"{why}; {how}"}
        if job is None:
            return {"state": CellState.MISSING, "error": how}
        return {"state": CellState.STOPPED, "error": self.why_unbegun(job)}


def _record(path: Path) -> tuple[Record | None, str]:
    """Return a cell's record or None, and why the record cannot be read."""
    try:
        return read_record(path), ""
    except FileNotFoundError:
        return None, ""
    except ValueError as error:
        why = " ".join(str(error).removeprefix(f"{path}: ").removeprefix(f"{path} ").split())
        return None, f"record.json {why}; the same sweep command sets it aside and trains again"


def record_fields(record: Record) -> dict[str, Any]:
    """Return the fields of a status that a record holds."""
    loss = {"test_loss": record.test_loss} if record.test_loss is not None else {}
    error = last_line(record.error or "")
    sets = {"test_sets": tuple(record.test_sets)}
    return {"step": record.steps, "tokens": record.tokens, "error": error} | loss | sets


def read_status(folder: str | Path) -> list[CellStatus]:
    """Return the status of every cell of a study; FileNotFoundError for a missing folder."""
    folder = Path(folder)
    if not folder.is_dir():
        raise no_study(folder)
    states = CellStates(folder)
    states.refresh()
    return states.cells()


def warn_of_damage(folder: str | Path) -> None:
    """Write to stderr how many lines of the list of jobs cannot be read; the file stays."""
    if damaged := damaged_lines(folder):
        sys.stderr.write(
            f"jobs.jsonl: {damaged} lines cannot be read and are left out; the same sweep command "
            "sets the file aside and goes on with the others\n"
        )


def counts(cells: list[CellStatus]) -> str:
    """Say in words how many cells are in each state."""
    numbers = Counter(c.state for c in cells)
    return ", ".join(f"{numbers[s]} {s}" for s in sorted(numbers))


def cancel(folder: str | Path) -> int:
    """Cancel the live jobs of a study; return how many there were."""
    states = CellStates(Path(folder))
    states.refresh()
    live = {j.job: j for jobs in states.jobs.values() for j in jobs if states.is_live(j)}
    for job in live.values():
        if job.where == Where.LOCAL:
            os.kill(job.pid, signal.SIGTERM)
    slurm.cancel({j.job: j.name for j in live.values() if j.where == Where.SLURM})
    if live:
        append(Path(folder), [{"cancelled": sorted(live)}])
    return len(live)
