"""Submit cells to SLURM through submitit: arrays of jobs, with dependent ones for branches.

What a cluster may refuse is checked first (sbatch --test-only, a probe from a node), so that a
refusal leaves nothing submitted. A later refusal cancels the jobs that were submitted before it.
"""

import logging
import os
import shlex
import sys
from itertools import groupby
from pathlib import Path
from typing import Any

from scaling.app.plurals import plural
from scaling.config import CellConfig
from scaling.jobs.pool import run_in_job
from scaling.jobs.slurm import queries as slurm
from scaling.jobs.slurm.code_snapshot import take_snapshot
from scaling.jobs.tasks import JobTasks, Parcel, parcels
from scaling.study.jobs_file import Job, append, append_jobs, jobs_folder, unfinished_submissions
from scaling.study.states import Part, Where

log = logging.getLogger(__name__)
# submitit would give up a job after so many requeues. Here any number of preemptions is fine, and
# scaling.jobs.worker fails a requeued job that makes no progress.
ENDLESS = 10**6
SIGNAL_SECONDS = 90  # SLURM sends its signal so long before the time limit: time for a checkpoint.
# This program blocks SIGUSR2 through exec, until scaling.jobs.pool has a handler. The shell's own
# way (env --block-signal, coreutils 8.31) is not on every cluster.
BLOCK_SIGNAL = (
    "import os, signal, sys; signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2]); "
    "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
)


def submit(cells: list[CellConfig], folder: Path, *, round: str, options: dict[str, Any]) -> None:
    """Submit cells as jobs and append these to the study's list.

    cells: cells of one study
    folder: the study
    round: this sweep command
    options: the launcher's settings

    Raises ValueError where the cluster refuses the jobs.
    """
    slurm.require()
    room_for_ranks(max(c.machine.ranks for c in cells), **options)
    divided = parcels(cells, cells_per_job=cells[0].cells_per_job, branches=cells[0].branches)
    parameters = slurm_parameters(**options)
    size = slurm.max_array(options.get("array_size", 0))
    flags = slurm.flags_of(parameters)
    slurm.test_only(flags, n_jobs=min(size, len(divided)))
    place = jobs_folder(folder).resolve()
    if options.get("probe", True):
        slurm.check_shared(place, flags)
    code = take_snapshot(place)
    executor = make_executor(place, code, options, parameters)
    common = {
        "where": Where.SLURM,
        "round": round,
        "code": code.name,
        "partition": options.get("partition"),
    }
    submitted: list[Job] = []
    trunk_jobs: dict[str, str] = {}  # the job of each trunk's shared part
    try:
        for number, chunk in enumerate(chunks(divided, size)):
            name = f"scaling-{cells[0].study}-{round}-{number}"
            after = trunk_jobs[chunk[0].after] if chunk[0].after else None
            announce(folder, name, chunk, common | {"after": after})
            jobs = [job_tasks_of(p, cells[0], round=round, options=options) for p in chunk]
            ids = send(executor, jobs, name=name, after=after)
            lines = job_lines(folder, name, chunk, ids, common | {"after": after})
            append_jobs(folder, lines)
            submitted += lines
            trunk_jobs |= {
                p.tasks[0].trunk_id: i
                for p, i in zip(chunk, ids, strict=True)
                if p.tasks[0].part == Part.TRUNK
            }
    except ValueError:
        slurm.cancel({j.job: j.name for j in submitted})
        raise
    shown = ", ".join(j.job for j in submitted[:4]) + (" ..." if len(submitted) > 4 else "")
    log.info("submitted %s: %s", plural(len(submitted), "job"), shown)


def room_for_ranks(ranks: int, *, gpus_per_node: int = 0, cpus_per_task: int = 1, **_: Any) -> None:
    """Raise ValueError where a job has fewer GPUs than ranks, or fewer cores if it has no GPU."""
    name, number = (
        ("gpus_per_node", gpus_per_node) if gpus_per_node else ("cpus_per_task", cpus_per_task)
    )
    if ranks > number:
        raise ValueError(
            f"machine.ranks={ranks} is more than a job's hydra.launcher.{name}={number}; set "
            f"hydra.launcher.{name}={ranks}, or gpus_per_node for ranks on GPUs"
        )


def chunks(divided: list[Parcel], size: int) -> list[list[Parcel]]:
    """Divide parcels into arrays of at most `size` jobs that wait for the same trunk, or for none.

    Arrays that wait come last: by then the job of their trunk has an id.
    """
    ordered = sorted(divided, key=lambda p: p.after or "")
    groups = [list(members) for _, members in groupby(ordered, key=lambda p: p.after)]
    return [g[i : i + size] for g in groups for i in range(0, len(g), size)]


def make_executor(place: Path, code: Path, options: dict[str, Any], parameters: dict) -> Any:
    """Return submitit's executor.

    place: folder of scripts and output
    code: folder of the code snapshot
    options: the launcher's settings
    parameters: the same in submitit's words (`slurm_parameters`)
    """
    import submitit  # for speed, as below: a local sweep imports this module too

    executor = submitit.AutoExecutor(
        folder=place,
        cluster="slurm",
        slurm_python=python_command(code, container=options.get("container") or ""),
        slurm_max_num_timeout=ENDLESS,
    )
    executor.update_parameters(**parameters)
    return executor


def send(executor: Any, jobs: list[JobTasks], *, name: str, after: str | None) -> list[str]:
    """Submit one array and return the id of each job; ValueError where sbatch refuses it.

    executor: submitit's
    jobs: the tasks of each job
    name: the name of the array
    after: the job that must end well before these start
    """
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    dependency = {"slurm_dependency": f"afterok:{after}" if after else None}
    executor.update_parameters(slurm_job_name=name, **dependency)
    try:
        with slurm.outside(), executor.batch():
            submitted = [executor.submit(run_in_job, j) for j in jobs]
    except (FailedJobError, FailedSubmissionError) as error:
        raise ValueError(slurm.refusal(str(error), [f"--job-name={name}"])) from error
    return [j.job_id for j in submitted]


def job_tasks_of(
    parcel: Parcel, cell: CellConfig, *, round: str, options: dict[str, Any]
) -> JobTasks:
    """Return the tasks of a parcel's job with what the job needs to run them.

    parcel: the tasks
    cell: any cell of the sweep, for settings that all share
    round: this sweep command
    options: the launcher's settings
    """
    return JobTasks(
        round=round,
        tasks=parcel.tasks,
        retry=cell.retry,
        workers=max(1, options.get("gpus_per_node") or 1),
        seconds_limit=60.0 * options.get("timeout_min", 60),
        signal_seconds=lead_seconds(**options),
    )


def announce(folder: Path, name: str, chunk: list[Parcel], common: dict[str, Any]) -> None:
    """Append the line of an array before it is submitted: the sweep may be killed before its ids.

    folder: the study
    name: the name of the array
    chunk: what becomes its jobs
    common: fields that its jobs share
    """
    line = {"submitting": name, "parcels": [p.cells for p in chunk]}
    append(folder, [line | {"parts": [p.tasks[0].part for p in chunk]} | common])


def job_lines(
    folder: Path, name: str, chunk: list[Parcel], ids: list[str], common: dict[str, Any]
) -> list[Job]:
    """Return the jobs of an array; the arguments are those of `announce`, with SLURM's ids."""
    return [
        Job(
            job=job,
            name=name,
            part=parcel.tasks[0].part,
            cells=parcel.cells,
            log=str(jobs_folder(folder) / f"{job}_0_log.err"),
            **common,
        )
        for parcel, job in zip(chunk, ids, strict=True)
    ]


def adopt(folder: Path) -> None:
    """Append the jobs of a sweep that was killed after it submitted them and before it did so."""
    slurm.require()
    for line in unfinished_submissions(folder):
        name, live = line["submitting"], slurm.jobs_named(line["submitting"])
        if not live:
            append(folder, [{"closed": name}])
            continue
        n = len(line["parcels"])
        ids = [f"{live[0]}_{i}" for i in range(n)] if n > 1 else live[:1]
        common = {k: line[k] for k in ("where", "round", "code", "partition", "after")}
        jobs = [
            Job(
                job=job,
                name=name,
                part=part,
                cells=cells,
                log=str(jobs_folder(folder) / f"{job}_0_log.err"),
                **common,
            )
            for job, part, cells in zip(ids, line["parts"], line["parcels"], strict=True)
        ]
        append_jobs(folder, jobs)
        log.info("found %d jobs of a sweep that was killed while it submitted", len(jobs))


def python_command(code: Path, *, container: str) -> str:
    """Return the command that starts Python in a job, on the code snapshot.

    `container` is the command that enters a container, empty for none. A SIGUSR2 that comes while
    Python imports waits for the handler of scaling.jobs.pool. An earlier one, while a container
    starts, is ignored and does not kill the job. PYTHONSAFEPATH keeps the working folder out of the
    imports.
    """
    path = os.pathsep.join([str(code), *filter(None, [os.environ.get("PYTHONPATH")])])
    return " ".join(
        [
            'sh -c \'trap "" USR2; exec "$@"\' sh',
            *([container] if container else []),
            f"env PYTHONSAFEPATH=1 PYTHONPATH={shlex.quote(path)}",
            f"{shlex.quote(sys.executable)} -S -c {shlex.quote(BLOCK_SIGNAL)}",
        ]
    )


def lead_seconds(timeout_min: int = 60, signal_seconds: int = SIGNAL_SECONDS, **_: Any) -> int:
    """Return how many seconds before its time limit a job gets the signal: at most half of them.

    A job that got the signal right after its start would train nothing in any of its turns.
    """
    return min(signal_seconds, 30 * timeout_min)


def slurm_parameters(
    *,
    partition: str | None = None,
    account: str | None = None,
    qos: str | None = None,
    constraint: str | None = None,
    timeout_min: int = 60,
    signal_seconds: int = SIGNAL_SECONDS,
    cpus_per_task: int = 1,
    mem_gb: float = 4,
    gpus_per_node: int = 0,
    array_parallelism: int = 64,
    setup: list[str] | None = None,
    additional: dict[str, Any] | None = None,
    **_: Any,
) -> dict[str, Any]:
    """Return the launcher's settings (scaling_launcher) in submitit's words."""
    values: dict[str, Any] = {
        "timeout_min": timeout_min,
        "cpus_per_task": cpus_per_task,
        "mem_gb": mem_gb,
        "gpus_per_node": gpus_per_node or None,
        "slurm_partition": partition,
        "slurm_account": account,
        "slurm_qos": qos,
        "slurm_constraint": constraint,
        "slurm_signal_delay_s": lead_seconds(timeout_min, signal_seconds),
        "slurm_array_parallelism": array_parallelism,
        "slurm_setup": list(setup or []) or None,
        # Without it, a branch would wait for ever once its trunk has failed.
        "slurm_additional_parameters": {"kill-on-invalid-dep": "yes"} | dict(additional or {}),
    }
    return {k: v for k, v in values.items() if v is not None}
