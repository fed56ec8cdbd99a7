"""Submit cells to SLURM through submitit: arrays of jobs, dependent ones for branches.

Everything that can be refused is asked first (sbatch --test-only, a look from a node), so that a
refusal leaves nothing submitted; what is refused after all takes back what went before it.
"""

import logging
import os
import shlex
import sys
from itertools import groupby
from pathlib import Path
from typing import Any

from scaling.config import CellConfig
from scaling.jobs.pool import run_in_job
from scaling.jobs.slurm import queries as slurm
from scaling.jobs.slurm.code_snapshot import take_snapshot
from scaling.jobs.tasks import Parcel, Work, parcels
from scaling.study.jobs_file import Job, append, append_jobs, jobs_folder, unfinished_submissions

log = logging.getLogger(__name__)
# submitit counts requeues and gives up; here a requeued job that gets no further is found out by
# scaling.jobs.worker, and any number of preemptions is in order.
ENDLESS = 10**6
SIGNAL_SECONDS = 90
# Hold SIGUSR2 back, through exec, until scaling.jobs.pool can hear it: a program of the shell that
# does so is not on every cluster (env --block-signal is of coreutils 8.31).
HOLD_BACK = (
    "import os, signal, sys; signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2]); "
    "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
)


def submit(cells: list[CellConfig], folder: Path, *, round: str, options: dict[str, Any]) -> None:
    """Submit cells as jobs and write them down; ValueError where the cluster refuses them."""
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
        "where": "slurm",
        "round": round,
        "code": code.name,
        "partition": options.get("partition"),
    }
    done: list[Job] = []
    trunk_jobs: dict[str, str] = {}
    try:
        for number, chunk in enumerate(chunks(divided, size)):
            name = f"scaling-{cells[0].study}-{round}-{number}"
            after = trunk_jobs[chunk[0].after] if chunk[0].after else None
            announce(folder, name, chunk, common | {"after": after})
            works = [work_of(p, cells[0], round=round, options=options) for p in chunk]
            ids = send(executor, works, name=name, after=after)
            jobs = job_lines(folder, name, chunk, ids, common | {"after": after})
            append_jobs(folder, jobs)
            done += jobs
            trunk_jobs |= {
                p.tasks[0].trunk_id: i
                for p, i in zip(chunk, ids, strict=True)
                if p.tasks[0].part == "trunk"
            }
    except ValueError:
        slurm.cancel({j.job: j.name for j in done})
        raise
    shown = ", ".join(j.job for j in done[:4]) + (" ..." if len(done) > 4 else "")
    log.info("submitted %d jobs: %s", len(done), shown)


def room_for_ranks(ranks: int, *, gpus_per_node: int = 0, cpus_per_task: int = 1, **_: Any) -> None:
    """Raise ValueError where a job asks for fewer GPUs, or cores without any, than ranks."""
    name, has = (
        ("gpus_per_node", gpus_per_node) if gpus_per_node else ("cpus_per_task", cpus_per_task)
    )
    if ranks > has:
        raise ValueError(
            f"machine.ranks={ranks} is more than a job's hydra.launcher.{name}={has}; set "
            f"hydra.launcher.{name}={ranks}, or gpus_per_node for ranks on GPUs"
        )


def chunks(divided: list[Parcel], size: int) -> list[list[Parcel]]:
    """Cut parcels into arrays: at most `size` jobs, all of which wait for the same trunk or none.

    Those that wait come last, so that the ids of what they wait for are known.
    """
    ordered = sorted(divided, key=lambda p: p.after or "")
    groups = [list(members) for _, members in groupby(ordered, key=lambda p: p.after)]
    return [g[i : i + size] for g in groups for i in range(0, len(g), size)]


def make_executor(place: Path, code: Path, options: dict[str, Any], parameters: dict) -> Any:
    """Return submitit's executor with the launcher's options."""
    import submitit

    executor = submitit.AutoExecutor(
        folder=place,
        cluster="slurm",
        slurm_python=python_command(code, container=options.get("container") or ""),
        slurm_max_num_timeout=ENDLESS,
    )
    executor.update_parameters(**parameters)
    return executor


def send(executor: Any, works: list[Work], *, name: str, after: str | None) -> list[str]:
    """Submit one array; return the job of each work. ValueError with sbatch's refusal."""
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    dependency = {"slurm_dependency": f"afterok:{after}" if after else None}
    executor.update_parameters(slurm_job_name=name, **dependency)
    try:
        with slurm.outside(), executor.batch():
            jobs = [executor.submit(run_in_job, w) for w in works]
    except (FailedJobError, FailedSubmissionError) as error:
        raise ValueError(slurm.refusal(str(error), [f"--job-name={name}"])) from error
    return [j.job_id for j in jobs]


def work_of(parcel: Parcel, cell: CellConfig, *, round: str, options: dict[str, Any]) -> Work:
    """Return what a parcel's job has to do."""
    return Work(
        round=round,
        tasks=parcel.tasks,
        retry=cell.retry,
        workers=max(1, options.get("gpus_per_node") or 1),
        seconds_limit=60.0 * options.get("timeout_min", 60),
        signal_seconds=lead_seconds(**options),
    )


def announce(folder: Path, name: str, chunk: list[Parcel], common: dict[str, Any]) -> None:
    """Write down what is about to be submitted, in case nobody is left to write its ids."""
    line = {"submitting": name, "parcels": [p.cells for p in chunk]}
    append(folder, [line | {"parts": [p.tasks[0].part for p in chunk]} | common])


def job_lines(
    folder: Path, name: str, chunk: list[Parcel], ids: list[str], common: dict[str, Any]
) -> list[Job]:
    """Describe the jobs of an array."""
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
    """Write down the jobs of a sweep that was killed between submitting and doing so."""
    slurm.require()
    for line in unfinished_submissions(folder):
        name, found = line["submitting"], slurm.jobs_named(line["submitting"])
        if not found:
            append(folder, [{"closed": name}])
            continue
        n = len(line["parcels"])
        ids = [f"{found[0]}_{i}" for i in range(n)] if n > 1 else found[:1]
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
    """Return the command that starts Python in a job: in a container if asked, on the snapshot.

    A SIGUSR2 that comes while Python imports waits until scaling.jobs.pool hears it; one that comes
    before, while a container starts, is ignored, not deadly: the job lives until SLURM ends it.
    PYTHONSAFEPATH keeps the working folder, where the data paths start, out of the imports.
    """
    path = os.pathsep.join([str(code), *filter(None, [os.environ.get("PYTHONPATH")])])
    return " ".join(
        [
            'sh -c \'trap "" USR2; exec "$@"\' sh',
            *([container] if container else []),
            f"env PYTHONSAFEPATH=1 PYTHONPATH={shlex.quote(path)}",
            f"{shlex.quote(sys.executable)} -S -c {shlex.quote(HOLD_BACK)}",
        ]
    )


def lead_seconds(timeout_min: int = 60, signal_seconds: int = SIGNAL_SECONDS, **_: Any) -> int:
    """Return how long before its time limit a job hears of it: half of the limit at the most.

    A job that hears of it as soon as it starts would train nothing in any of its turns.
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
    """Translate the launcher's options into submitit's."""
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
        # Without it a branch whose trunk failed would wait for ever.
        "slurm_additional_parameters": {"kill-on-invalid-dep": "yes"} | dict(additional or {}),
    }
    return {k: v for k, v in values.items() if v is not None}
