"""Which jobs a study was given: `runs/NAME/jobs.jsonl`, one line a job, appended and never changed.

    {"job": "123_4", "where": "slurm", "round": "5f0c...", "part": "all", "cells": ["9ad3..."], ...}

A SLURM submission is announced by a line of its own before it is made (`submitting`), so that jobs
of a sweep that was killed in between are found again by their name.
"""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from scaling.attempt import Holder, machine_id, process_started
from scaling.schema import now, read_as


@dataclass(frozen=True, kw_only=True)
class Job:
    """One job: where it runs, what is in it, where its output goes."""

    job: str
    where: str
    round: str
    part: str
    cells: list[str]
    log: str
    name: str = ""
    after: str | None = None
    code: str | None = None
    partition: str | None = None
    machine: str = ""
    pid: int = 0
    pid_started: int = 0
    submitted: str = field(default_factory=now)
    schema: int = 1

    @property
    def process_lives(self) -> bool:
        """Whether a local job's process is seen to be there."""
        return bool(
            self.pid
            and self.machine == machine_id()
            and process_started(self.pid) == self.pid_started
        )


def jobs_folder(study: str | Path) -> Path:
    """Return where a study's job files are: scripts, output, code."""
    return Path(study) / ".jobs"


def ledger_path(study: str | Path) -> Path:
    """Return a study's list of jobs."""
    return Path(study) / "jobs.jsonl"


def local_job(pid: int, *, round: str, cells: list[str], log: Path) -> Job:
    """Describe a local sweep's background process."""
    return Job(
        job=f"local-{pid}",
        where="local",
        round=round,
        part="all",
        cells=cells,
        log=str(log),
        machine=machine_id(),
        pid=pid,
        pid_started=process_started(pid) or 0,
    )


def append(study: str | Path, lines: list[dict[str, Any]]) -> None:
    """Append lines in one write, flushed to the disk; callers hold the study's lease."""
    path = ledger_path(study)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines)
    with path.open("a+b") as stream:
        stream.seek(0, os.SEEK_END)
        if stream.tell():
            stream.seek(-1, os.SEEK_END)
            if stream.read(1) != b"\n":  # the torn line of a killed sweep
                text = "\n" + text
        stream.write(text.encode())
        stream.flush()
        os.fsync(stream.fileno())


def append_jobs(study: str | Path, jobs: list[Job]) -> None:
    """Append jobs."""
    append(study, [asdict(j) for j in jobs])


def read_lines(study: str | Path) -> list[dict[str, Any]]:
    """Read all lines; torn ones are dropped."""
    path = ledger_path(study)
    found = []
    for line in path.read_bytes().splitlines() if path.is_file() else []:
        try:
            value = json.loads(line)
        except ValueError:  # torn, or cut within a character
            continue
        if isinstance(value, dict):
            found.append(value)
    return found


def read_jobs(study: str | Path) -> list[Job]:
    """Read the jobs, the first submitted first."""
    path = ledger_path(study)
    return [
        read_as(Job, line, source=path, noun="job", fix="remove its line")
        for line in read_lines(study)
        if "job" in line
    ]


def unfinished_submissions(study: str | Path) -> list[dict[str, Any]]:
    """Return the announced submissions that no job followed, killed in between."""
    lines = read_lines(study)
    known = {line.get("name") for line in lines if "job" in line}
    closed = {line["closed"] for line in lines if "closed" in line}
    return [
        line for line in lines if "submitting" in line and line["submitting"] not in known | closed
    ]


def cancelled(study: str | Path) -> set[str]:
    """Return the jobs that were cancelled by our own command, which SLURM may not remember."""
    return {job for line in read_lines(study) for job in line.get("cancelled", [])}


def submitter(round: str) -> Holder:
    """Describe the process that submits, for the lease that one sweep at a time holds."""
    return Holder.here(round=round, job=f"submit-{os.getpid()}")
