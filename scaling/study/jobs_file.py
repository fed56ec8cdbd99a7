"""Which jobs a study was given: `runs/NAME/jobs.jsonl`, one line a job, appended and never changed.

    {"job": "123_4", "where": "slurm", "round": "5f0c...", "part": "all", "cells": ["9ad3..."], ...}

A SLURM submission is announced by a line of its own before it is made (`submitting`), so that jobs
of a sweep that was killed in between are found again by their name. Lines that cannot be read are
left out, which the next sweep says: it sets the file aside and goes on with the whole lines.
"""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from scaling.schema import (
    Later,
    check_folder,
    machine_id,
    now,
    parse_json,
    process_started,
    read_as,
    set_aside,
    write_text,
)
from scaling.study.lease import Holder

T = TypeVar("T")


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

    def __post_init__(self) -> None:
        """Refuse a cell whose name is not that of one folder: the list may come from anybody."""
        for cell in self.cells:
            check_folder("cells", cell)

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
    """Read all lines that can be read."""
    return _read(study)[0]


def damaged_lines(study: str | Path) -> int:
    """Count the lines that cannot be read; the torn last line of a killed sweep is none."""
    return _read(study)[1]


def mend(study: str | Path) -> None:
    """Set a list of jobs with damaged lines aside and go on with its whole lines.

    For the holder of the study's lease.
    """
    lines, damaged = _read(study)
    if damaged:
        path = ledger_path(study)
        set_aside(path, f"{damaged} of its lines cannot be read; the others are kept")
        write_text(path, "".join(json.dumps(line) + "\n" for line in lines))


def _read(study: str | Path) -> tuple[list[dict[str, Any]], int]:
    path = ledger_path(study)
    texts = path.read_bytes().split(b"\n") if path.is_file() else []
    found, damaged = [], 0
    for number, text in enumerate(texts, start=1):
        try:
            found.append(_line(text))
        except Later:
            raise
        except ValueError:
            damaged += bool(text) and number < len(texts)
    return found, damaged


def _line(text: bytes) -> dict[str, Any]:
    line = parse_json(text)
    if not isinstance(line, dict):
        raise ValueError("no object")
    if "job" in line:
        _built(Job, line)
    elif "submitting" in line:
        _built(Submission, line)
    return line


@dataclass(frozen=True, kw_only=True)
class Submission:
    """What is announced before it is submitted."""

    submitting: str
    parcels: list[list[str]]
    parts: list[str]
    where: str
    round: str
    code: str | None
    partition: str | None
    after: str | None


def read_jobs(study: str | Path) -> list[Job]:
    """Read the jobs, the first submitted first."""
    return [_built(Job, line) for line in read_lines(study) if "job" in line]


def _built(kind: type[T], line: dict[str, Any]) -> T:
    return read_as(kind, line, source="jobs.jsonl", noun="job", fix="remove its line")


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
    lines = [line.get("cancelled") for line in read_lines(study)]
    return {str(job) for jobs in lines if isinstance(jobs, list) for job in jobs}


def submitter(round: str) -> Holder:
    """Describe the process that submits, for the lease that one sweep at a time holds."""
    return Holder.here(round=round, job=f"submit-{os.getpid()}")
