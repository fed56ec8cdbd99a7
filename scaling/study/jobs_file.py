"""The jobs of a study: `runs/NAME/jobs.jsonl`, one line a job, appended and never changed.

    {"job": "123_4", "where": "slurm", "round": "5f0c...", "part": "all", "cells": ["9ad3..."], ...}

A line with `submitting` announces a SLURM submission before it is made: the jobs of a sweep that
was killed in between are found again by their name. Lines that cannot be read are left out; the
next sweep says so, sets the file aside and goes on with the whole lines.
"""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from scaling.schema import (
    LaterVersion,
    check_folder,
    machine_id,
    now,
    parse_json,
    process_start,
    read_as,
    set_aside,
    write_text,
)
from scaling.study.lease import Holder
from scaling.study.states import Part, Where

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Job:
    """One job: where it runs, which cells it trains, where its output goes."""

    job: str
    """SLURM's job id, local-<process id>, or open-<id> for cells that any worker may take."""
    where: Where
    """Where the job runs: local, slurm, or none for cells that wait for `scaling work`."""
    round: str
    """Id of the sweep command that submitted the job."""
    part: Part
    """Which part of its trunks the job trains: all, trunk, branch or lead."""
    cells: list[str]
    """Ids of the cells that the job trains."""
    log: str
    """File of the job's output."""
    name: str = ""
    """Name of the job array in SLURM; empty for a local job."""
    after: str | None = None
    """SLURM job that must end well before this one starts; null for none."""
    code: str | None = None
    """Folder of the code snapshot that the job runs; null for the installed code."""
    partition: str | None = None
    """SLURM partition; null for the cluster's default."""
    machine: str = ""
    """Id of the machine of a local job."""
    pid: int = 0
    """Process id of a local job; 0 on SLURM."""
    pid_started: int = 0
    """Start time of that process in the kernel's clock ticks, which tells it from a later process
    of the same id."""
    submitted: str = field(default_factory=now)
    """When the job was submitted, ISO 8601 in UTC."""
    schema: int = 1
    """Version of this layout."""

    def __post_init__(self) -> None:
        """Refuse a cell whose name is no name of one folder: the file may come from anybody."""
        for cell in self.cells:
            check_folder("cells", cell)

    @property
    def process_lives(self) -> bool:
        """Whether the process of a local job runs on this machine."""
        return bool(
            self.pid
            and self.machine == machine_id()
            and process_start(self.pid) == self.pid_started
        )


def jobs_folder(study: str | Path) -> Path:
    """Return the folder of a study's job files: scripts, output, code."""
    return Path(study) / ".jobs"


def jobs_path(study: str | Path) -> Path:
    """Return the path of a study's list of jobs."""
    return Path(study) / "jobs.jsonl"


def local_job(pid: int, *, round: str, cells: list[str], log: Path) -> Job:
    """Return the job of a background process on this machine.

    pid: the process
    round: the sweep command that started it
    cells: run ids
    log: the file of its output
    """
    return Job(
        job=f"local-{pid}",
        where=Where.LOCAL,
        round=round,
        part=Part.ALL,
        cells=cells,
        log=str(log),
        machine=machine_id(),
        pid=pid,
        pid_started=process_start(pid) or 0,
    )


def append(study: str | Path, lines: list[dict[str, Any]]) -> None:
    """Append lines in one write and flush them to the disk; the caller holds the study's lease."""
    path = jobs_path(study)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines)
    with path.open("a+b") as stream:
        stream.seek(0, os.SEEK_END)
        if stream.tell():
            stream.seek(-1, os.SEEK_END)
            if stream.read(1) != b"\n":  # a killed sweep left a torn line
                text = "\n" + text
        stream.write(text.encode())
        stream.flush()
        os.fsync(stream.fileno())


def append_jobs(study: str | Path, jobs: list[Job]) -> None:
    """Append the lines of jobs."""
    append(study, [asdict(j) for j in jobs])


def read_lines(study: str | Path) -> list[dict[str, Any]]:
    """Return all lines that can be read."""
    return _read(study)[0]


def damaged_lines(study: str | Path) -> int:
    """Count the lines that cannot be read, without the torn last line of a killed sweep."""
    return _read(study)[1]


def repair(study: str | Path) -> None:
    """Set a list of jobs with damaged lines aside and write its whole lines again.

    Only the process that holds the study's lease calls this.
    """
    lines, damaged = _read(study)
    if damaged:
        path = jobs_path(study)
        set_aside(path, f"{damaged} of its lines cannot be read; the others are kept")
        write_text(path, "".join(json.dumps(line) + "\n" for line in lines))


def _read(study: str | Path) -> tuple[list[dict[str, Any]], int]:
    """Return the lines that can be read, and how many cannot."""
    path = jobs_path(study)
    texts = path.read_bytes().split(b"\n") if path.is_file() else []
    lines, damaged = [], 0
    for number, text in enumerate(texts, start=1):
        try:
            lines.append(_line(text))
        except LaterVersion:
            raise
        except ValueError:
            damaged += bool(text) and number < len(texts)
    return lines, damaged


def _line(text: bytes) -> dict[str, Any]:
    """Return the values of a line; ValueError where they do not fit its kind."""
    line = parse_json(text)
    if not isinstance(line, dict):
        raise ValueError("no object")
    if "job" in line:
        _parse(Job, line)
    elif "submitting" in line:
        _parse(Submission, line)
    return line


@dataclass(frozen=True, kw_only=True)
class Submission:
    """The line that announces an array of jobs before it is submitted."""

    submitting: str
    """Name of the job array that is about to be submitted."""
    parcels: list[list[str]]
    """Ids of the cells of each job of the array."""
    parts: list[Part]
    """Which part of its trunks each job trains."""
    where: Where
    """Where the jobs run: local or slurm."""
    round: str
    """Id of the sweep command."""
    code: str | None
    """Folder of the code snapshot; null for the installed code."""
    partition: str | None
    """SLURM partition; null for the cluster's default."""
    after: str | None
    """SLURM job that must end well first; null for none."""


def read_jobs(study: str | Path) -> list[Job]:
    """Return the jobs in the order in which they were submitted."""
    return [_parse(Job, line) for line in read_lines(study) if "job" in line]


def _parse(kind: type[T], line: dict[str, Any]) -> T:
    return read_as(kind, line, source="jobs.jsonl", noun="job", fix="remove its line")


def unfinished_submissions(study: str | Path) -> list[dict[str, Any]]:
    """Return the announced submissions without a line of a job: the sweep was killed before it."""
    lines = read_lines(study)
    submitted = {line.get("name") for line in lines if "job" in line}
    closed = {line["closed"] for line in lines if "closed" in line}
    return [
        line
        for line in lines
        if "submitting" in line and line["submitting"] not in submitted | closed
    ]


def cancelled_jobs(study: str | Path) -> set[str]:
    """Return the jobs that `scaling status --cancel` cancelled: SLURM may not remember them."""
    lines = [line.get("cancelled") for line in read_lines(study)]
    return {str(job) for jobs in lines if isinstance(jobs, list) for job in jobs}


def submitter(round: str) -> Holder:
    """Return this process as the holder of the study's lease: one sweep at a time submits."""
    return Holder.here(round=round, job=f"submit-{os.getpid()}")
