"""How every cell of a study stands, from its files and from SLURM."""

import os
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scaling.jobs.slurm import queries as slurm
from scaling.schema import Record, no_study, read_record
from scaling.study.failures import last_line, tail
from scaling.study.jobs_file import Job, append, cancelled, damaged_lines, read_jobs
from scaling.study.lease import (
    DAMAGED,
    STALLED,
    Attempt,
    attempts,
    dead,
    last_attempt,
    silent_seconds,
)

WATCH_SECONDS = 2.0


@dataclass(frozen=True, kw_only=True)
class CellStatus:
    """One cell: done, diverged, failed, running, queued, stopped, cancelled, damaged or missing."""

    run_id: str
    state: str
    attempt: int = 0
    node: str = ""
    job: str = ""
    step: int = 0
    tokens: int = 0
    test_loss: float | None = None
    error: str = ""
    taken_away: str = ""  # timeout or preempted, where SLURM ended the job and it could not say so


@dataclass
class Survey:
    """A study's files and jobs; `refresh` asks SLURM and reads the jobs again."""

    folder: Path
    jobs: dict[str, list[Job]] = field(default_factory=dict)
    states: dict[str, slurm.State] | None = field(default_factory=dict)
    ended: dict[str, CellStatus] = field(default_factory=dict)

    def refresh(self) -> None:
        """Read the list of jobs and ask SLURM about those that may still matter."""
        self.jobs = {}
        for job in read_jobs(self.folder):
            for cell in job.cells:
                self.jobs.setdefault(cell, []).append(job)
        asked = {
            j.job
            for cell, jobs in self.jobs.items()
            if cell not in self.ended
            for j in jobs
            if j.where == "slurm"
        }
        self.states = slurm.states(sorted(asked))
        if self.states is not None:
            forgotten = cancelled(self.folder) - self.states.keys()
            self.states |= dict.fromkeys(forgotten, slurm.State(state="CANCELLED"))

    def cells(self, wanted: list[str] | None = None) -> list[CellStatus]:
        """Return the status of the cells that are named, or of all that the study knows."""
        return [self.of(run_id) for run_id in (self.all_cells() if wanted is None else wanted)]

    def all_cells(self) -> list[str]:
        """List the cells that have a folder or a job."""
        folders = {
            p.name
            for p in self.folder.iterdir()
            if p.is_dir() and not p.name.startswith(".") and p.name not in ("final", "wandb")
        }
        return sorted(folders | set(self.jobs))

    def of(self, run_id: str) -> CellStatus:
        """Return one cell's status; a done one is read once."""
        if run_id not in self.ended:
            found = self.judge(run_id)
            if found.state != "done":
                return found
            self.ended[run_id] = found
        return self.ended[run_id]

    def judge(self, run_id: str) -> CellStatus:
        """Put record, last attempt and job together."""
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
        if record and record.status == "done":
            return CellStatus(**common | of_record(record), state="done")
        if last and last.ended is None and not dead(folder, last):
            return CellStatus(**common, state="running")
        if live and not (last and job and last.round == job.round and last.final):
            return CellStatus(**common, state="queued", error=self.why_queued(folder, last, job))
        if lost := self.lost_job(last, job):
            return CellStatus(**common | lost)
        if record:
            return CellStatus(**common | of_record(record), state=record.status)
        if damage:
            return CellStatus(**common, state="damaged", error=damage)
        return CellStatus(**common, **self.without_record(folder, last, job))

    def job_of(self, run_id: str) -> Job | None:
        """Return the cell's job: the last that lives, else the last."""
        jobs = self.jobs.get(run_id, [])
        return next((j for j in reversed(jobs) if self.is_live(j)), jobs[-1] if jobs else None)

    def is_live(self, job: Job | None) -> bool:
        """Say whether a job waits or runs; one of a SLURM that does not answer is thought to."""
        if job is None:
            return False
        if job.where == "local":
            return job.process_lives
        if self.states is None:
            return True
        state = self.states.get(job.job)
        return state is not None and state.live

    def why_queued(self, folder: Path, last: Attempt | None, job: Job | None) -> str:
        """Say why a cell waits: its last end, a node that fell silent, what SLURM gives."""
        if job and job.where == "slurm" and self.states is None:
            return "SLURM does not answer"
        if last and last.ended is None:
            return f"no word from {last.node} for {silent_seconds(folder, last):.0f} s"
        if last and last.outcome in ("failed", STALLED, DAMAGED):
            return f"attempt {last.attempt} {last.outcome}: {last.error}"
        state = (self.states or {}).get(job.job) if job else None
        return state.reason if state and state.state == "PENDING" else ""

    def how_ended(self, job: Job | None) -> str:
        """Say how a job ended, as SLURM has it."""
        state = (self.states or {}).get(job.job) if job else None
        how = f"job {job.job} ended" if job else "no job has it"
        if state:
            how += f" as {state.state}" + (f" on {state.node}" if state.node else "")
        return how

    def lost_job(self, last: Attempt | None, job: Job | None) -> dict[str, Any]:
        """Say how a job of SLURM ended that did not write so itself; empty for any other.

        What an earlier job left of the cell, a failure perhaps, is then not how the cell stands.
        """
        if job is None or job.where != "slurm":
            return {}
        begun = last if last and last.job == job.job else None
        if begun and begun.ended is not None:
            return {}
        state, how = (self.states or {}).get(job.job), self.how_ended(job)
        known = {"job": job.job} | ({"node": state.node} if state and state.node else {})
        if state and state.taken_away:
            at = f"at step {begun.step}" if begun else "before the cell began"
            return known | {
                "state": "stopped",
                "error": f"{how} {at}",
                "taken_away": state.taken_away,
            }
        if begun or (state and state.state == "CANCELLED"):
            return {}
        reason = state.reason if state else ""
        why = last_line(tail(job.log)) or reason
        bad = not (state and state.state == "COMPLETED")
        said = f"{how} before the cell began" + (f": {why}" if why else "")
        return known | {"state": "failed" if bad else "stopped", "error": said}

    def without_record(self, folder: Path, last: Attempt | None, job: Job | None) -> dict[str, Any]:
        """Say how a cell stands that has no record and no live job."""
        state, how = (self.states or {}).get(job.job) if job else None, self.how_ended(job)
        if last and last.outcome == "failed":
            return {"state": "failed", "error": last.error or ""}
        if state and state.state == "CANCELLED":
            return {"state": "cancelled", "error": how}
        if last and last.ended is None:
            quiet = silent_seconds(folder, last)
            return {
                "state": "failed",
                "error": f"{how}; no word from {last.node} for {quiet:.0f} s",
            }
        if last:
            why = f"{last.outcome} at step {last.step}; {how}"
            return {"state": "stopped", "error": f"{last.error}; {how}" if last.error else why}
        if job is None:
            return {"state": "missing", "error": how}
        why = last_line(tail(job.log))
        said = f"{how} before the cell began" + (f": {why}" if why else "")
        return {"state": "stopped", "error": said}


def _record(path: Path) -> tuple[Record | None, str]:
    """Return a record, or why it cannot be read."""
    try:
        return read_record(path), ""
    except FileNotFoundError:
        return None, ""
    except ValueError as error:
        why = " ".join(str(error).removeprefix(f"{path}: ").removeprefix(f"{path} ").split())
        return None, f"record.json {why}; the same sweep command sets it aside and trains again"


def of_record(record: Record) -> dict:
    """Return the parts of a status that a record states."""
    known = {"test_loss": record.test_loss} if record.test_loss is not None else {}
    error = last_line(record.error or "")
    return {"step": record.steps, "tokens": record.tokens, "error": error} | known


def read_status(folder: str | Path) -> list[CellStatus]:
    """Return every cell of a study folder; FileNotFoundError without one."""
    folder = Path(folder)
    if not folder.is_dir():
        raise no_study(folder)
    survey = Survey(folder)
    survey.refresh()
    return survey.cells()


def say_damage(folder: str | Path) -> None:
    """Say on stderr how much of the list of jobs cannot be read; nothing is written."""
    if damaged := damaged_lines(folder):
        sys.stderr.write(
            f"jobs.jsonl: {damaged} lines cannot be read and are left out; the same sweep command "
            "sets the file aside and goes on with the others\n"
        )


def counts(cells: list[CellStatus]) -> str:
    """Return how many cells are in each state, in words."""
    found = {s: sum(c.state == s for c in cells) for s in sorted({c.state for c in cells})}
    return ", ".join(f"{n} {s}" for s, n in found.items())


def cancel(folder: str | Path) -> int:
    """Cancel the live jobs of a study; return how many there were."""
    survey = Survey(Path(folder))
    survey.refresh()
    live = {j.job: j for jobs in survey.jobs.values() for j in jobs if survey.is_live(j)}
    for job in live.values():
        if job.where == "local":
            os.kill(job.pid, signal.SIGTERM)
    slurm.cancel({j.job: j.name for j in live.values() if j.where == "slurm"})
    if live:
        append(Path(folder), [{"cancelled": sorted(live)}])
    return len(live)
