"""Run cells: skip what is done, group by trunk, and hand the trunks to processes or to SLURM.

On this machine each trunk is a process of its own, forked from a server that has torch imported
already, so that it starts in milliseconds and its death is nobody else's. On SLURM each trunk is a
job of an array, through submitit.
"""

import logging
import multiprocessing
import os
import signal
import time
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from scaling.budget import by_trunk, core_seconds, resolve, trunk_flops, trunk_steps
from scaling.config import CellConfig
from scaling.runlog import Progress, clock
from scaling.schema import Record, read_record

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Trunk:
    """The missing cells of one trunk and what they cost."""

    trunk_id: str
    cells: list[CellConfig]
    flops: float


def record_path(cell: CellConfig) -> Path:
    """Return where a cell's record is or will be."""
    return Path(cell.runs) / cell.study / cell.run_id() / "record.json"


def status_of(cell: CellConfig) -> str:
    """Return the status of a cell's record, `missing` without one."""
    path = record_path(cell)
    return read_record(path).status if path.is_file() else "missing"


def group(cells: list[CellConfig]) -> list[Trunk]:
    """Group cells by trunk, the longest first, so that the last process to end ends soon."""
    trunks = [Trunk(trunk_id=k, cells=v, flops=trunk_flops(v)) for k, v in by_trunk(cells).items()]
    return sorted(trunks, key=lambda t: -core_seconds(t.flops, trunk_steps(t.cells)))


def run_cells(cells: list[CellConfig], *, where: str = "local", **options: Any) -> list[Record]:
    """Train every cell whose record is not done; return all records.

    Raises RuntimeError, after all the others have ended, when a cell failed; a diverged cell is a
    result and only said.
    """
    if not cells:
        raise ValueError("the sweep has no cells; widen grid.* or name a sweep with sweeps=NAME")
    cells = resolve_corpus(cells)
    missing = [c for c in cells if status_of(c) != "done"]
    log.info(
        "%s: %d cells, %d done already, %d to train",
        cells[0].study,
        len(cells),
        len(cells) - len(missing),
        len(missing),
    )
    if cells[0].dry_run:
        from scaling.sweep import price

        price(cells)
        return []
    trunks = group(missing)
    if trunks:
        check_corpus(cells)
        {"local": run_local, "slurm": run_slurm}[where](trunks, **options)
    return collect(cells)


def resolve_corpus(cells: list[CellConfig]) -> list[CellConfig]:
    """Put the corpus' content hash into every cell, so that other text is another cell.

    Tokenises what is not cached yet, once, before any process starts.
    """
    from scaling.data import open_corpus

    known: dict[str, str] = {}
    for cell in cells:
        key = repr((cell.data, cell.tokenizer))
        if key not in known:
            known[key] = open_corpus(cell).sha256
        cell.data.sha256 = known[key]
    return cells


def check_corpus(cells: list[CellConfig]) -> None:
    """Resolve every cell before the first trains; say which budgets repeat the corpus."""
    from scaling.data import open_corpus

    largest = max(cells, key=lambda c: resolve(c).n_tokens)
    unique, wanted = len(open_corpus(largest).train), resolve(largest).n_tokens
    if wanted > unique:
        log.warning(
            "the largest budget takes %s tokens but the corpus has %s: up to %.1f epochs; "
            "records keep unique_tokens",
            f"{wanted:,}",
            f"{unique:,}",
            wanted / unique,
        )


def collect(cells: list[CellConfig]) -> list[Record]:
    """Read the records back; say what diverged, raise for what failed."""
    records = [read_record(record_path(c)) for c in cells if record_path(c).is_file()]
    diverged = [r.run_id for r in records if r.status == "diverged"]
    if diverged:
        log.warning("diverged: %s", ", ".join(diverged))
    failed = [r for r in records if r.status == "failed"]
    lost = len(cells) - len(records)
    if failed or lost:
        why = f"; {failed[0].run_id}: {last_line(failed[0])}" if failed else ""
        raise RuntimeError(
            f"{len(failed) + lost} of {len(cells)} cells have no result{why}; "
            "run the same command again to retry them"
        )
    return records


def last_line(record: Record) -> str:
    """Return the sentence of a record's error, without the traceback before it."""
    return ((record.error or "").strip().splitlines() or ["no reason was recorded"])[-1]


# --- this machine --------------------------------------------------------------------------------


def run_local(trunks: list[Trunk], *, workers: int = 0, **_: Any) -> None:
    """Train trunks in at most `workers` processes at once (0: one a GPU, else one a core)."""
    from scaling.device import pick_device

    pick_device(trunks[0].cells[0].machine)  # a missing GPU is said once, before any process starts
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["scaling.trainer"])
    slots = workers or default_workers()
    progress = Progress(
        "sweep",
        total=sum(t.flops for t in trunks),
        every_seconds=trunks[0].cells[0].log.every_seconds,
    )
    waiting, running = list(trunks), {}
    counters = {t.trunk_id: context.Value("d", 0.0) for t in trunks}
    n_cells, began = sum(len(t.cells) for t in trunks), time.monotonic()
    try:
        while waiting or running:
            while waiting and len(running) < slots:
                trunk = waiting.pop(0)
                process = context.Process(
                    target=train_process, args=(trunk, counters[trunk.trunk_id], len(running))
                )
                process.start()
                running[process.sentinel] = (process, trunk)
            for sentinel in wait(list(running), timeout=0.5):
                process, trunk = running.pop(sentinel)  # type: ignore[index]
                process.join()
                after_process(process.exitcode or 0, trunk)
            ended = sum(record_path(c).is_file() for t in trunks for c in t.cells)
            progress.update(sum(c.value for c in counters.values()), f"{ended}/{n_cells} cells")
    finally:
        for process, _trunk in running.values():
            process.terminate()
        progress.close()
    log.info("sweep: %d cells in %s", n_cells, clock(time.monotonic() - began))


def default_workers() -> int:
    """One worker a GPU, or one a core that this process may use."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.device_count()
    return len(os.sched_getaffinity(0))


def after_process(code: int, trunk: Trunk) -> None:
    """Say at once when a trunk's process died without a Python error, as under kill -9."""
    if code < 0:
        name = signal.Signals(-code).name
        log.error(
            "trunk %s was ended by %s; its finished cells are kept, "
            "run the command again to resume it",
            trunk.trunk_id,
            name,
        )


def train_process(trunk: Trunk, counter: Any, slot: int) -> None:
    """Train one trunk in its own process."""
    import torch

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    if torch.cuda.is_available():
        torch.cuda.set_device(slot % torch.cuda.device_count())

    def report(flops: float) -> None:
        counter.value = min(trunk.flops, flops)

    train_cells(trunk.cells, report=report)
    counter.value = trunk.flops


def train_cells(cells: list[CellConfig], report: Any = None) -> list[Record]:
    """Train the cells of one trunk; an exception becomes a `failed` record of those without one."""
    from scaling.trainer import failed_record, train_trunk

    try:
        return train_trunk(cells, report=report or (lambda flops: None))
    except Exception as error:
        for cell in cells:
            if status_of(cell) == "missing":
                failed_record(cell, error).write(record_path(cell))
        log.error("trunk %s failed: %s: %s", cells[0].trunk_id(), type(error).__name__, error)
        raise SystemExit(1) from error


# --- SLURM ---------------------------------------------------------------------------------------


def run_slurm(trunks: list[Trunk], *, poll_seconds: float = 5.0, **options: Any) -> None:
    """Submit one job a trunk as an array and wait for them, saying each failure as it comes."""
    jobs = submit(trunks, **options)
    progress = Progress("sweep", total=len(jobs), every_seconds=30.0)
    pending = dict(jobs)
    while pending:
        for trunk_id, job in list(pending.items()):
            if job.done():
                del pending[trunk_id]
                error = job.exception()
                if error is not None:
                    log.error(
                        "job %s (trunk %s) failed: %s",
                        job.job_id,
                        trunk_id,
                        str(error).strip().splitlines()[-1],
                    )
        progress.update(len(jobs) - len(pending), f"{len(pending)} jobs left")
        if pending:
            time.sleep(poll_seconds)
    progress.close()


def submit(trunks: list[Trunk], **options: Any) -> dict[str, Any]:
    """Submit the trunks; return submitit's job of each. ValueError where there is no SLURM."""
    import submitit

    folder = Path(trunks[0].cells[0].runs) / trunks[0].cells[0].study / ".jobs"
    try:
        executor = submitit.AutoExecutor(folder=folder, cluster="slurm")
    except RuntimeError as error:
        raise ValueError(
            f"no SLURM here ({error}); use hydra/launcher=local, or load your cluster's module"
        ) from error
    executor.update_parameters(
        **slurm_parameters(**options), slurm_job_name=f"scaling-{trunks[0].cells[0].study}"
    )
    with executor.batch():
        jobs = [executor.submit(train_cells, t.cells) for t in trunks]
    log.info(
        "submitted %d jobs: %s",
        len(jobs),
        ", ".join(j.job_id for j in jobs[:4]) + (" ..." if len(jobs) > 4 else ""),
    )
    return {t.trunk_id: j for t, j in zip(trunks, jobs, strict=True)}


def slurm_parameters(
    *,
    partition: str | None = None,
    account: str | None = None,
    timeout_min: int = 60,
    cpus_per_task: int = 1,
    mem_gb: float = 4,
    gpus_per_node: int = 0,
    array_parallelism: int = 64,
    setup: list[str] | None = None,
    additional: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Translate the launcher's options into submitit's."""
    values: dict[str, Any] = {
        "timeout_min": timeout_min,
        "cpus_per_task": cpus_per_task,
        "mem_gb": mem_gb,
        "slurm_array_parallelism": array_parallelism,
        "slurm_setup": list(setup or []) or None,
        "slurm_additional_parameters": dict(additional or {})
        | ({"account": account} if account else {}),
    }
    if partition:
        values["slurm_partition"] = partition
    if gpus_per_node:
        values["gpus_per_node"] = gpus_per_node
    return {k: v for k, v in values.items() if v is not None}
