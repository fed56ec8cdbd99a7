"""Print what a grid costs: N, D, FLOPs, time and memory of each cell."""

import sys
from collections.abc import Mapping, Sequence

from scaling.app.plurals import plural
from scaling.app.progress import clock
from scaling.budget import (
    Resolved,
    core_seconds,
    planned,
    resolve,
    scoring_seconds,
    trunk_flops,
    workload,
)
from scaling.config import CellConfig
from scaling.jobs.isoflop_edges import edge_warnings
from scaling.jobs.pool import default_workers
from scaling.jobs.tasks import Task, gpu_count, tasks_of
from scaling.study.places import status_of, trained_at


def price(
    cells: list[CellConfig], set_bytes: Mapping[str, Mapping[str, int]] | None = None
) -> None:
    """Print what the grid costs: model, seed, N, D, D/N, FLOPs, time and memory of each cell.

    cells: the grid
    set_bytes: by the id of a cell that is to train, the bytes of each test set that it is scored on

    Warnings name the budgets whose IsoFLOP minimum would lie outside their sizes.
    For a stage after pretraining, D is the number of tokens of its model, and FLOPs and time are
    upper limits.
    """
    out = sys.stdout.write
    out(
        f"{'cell':10} {'model':>8} {'seed':>4} {'N (head)':>10} {'D':>11} {'D/N':>7} "
        f"{'FLOPs':>9} {'steps':>6} "
        f"{'lr':>8} {'time':>8} {'memory':>8} status\n"
    )
    scoring = scoring_of(cells, set_bytes or {})
    for cell in sorted(cells, key=lambda c: (workload(c)[0], resolve(c).shape.params.total)):
        out(_line(cell, resolve(cell), scoring.get(cell.run_id())))
    tasks = tasks_of(cells)
    total = sum(map(task_flops, tasks))
    alone = sum(workload(c)[0] for c in cells)
    seconds = sum(t.seconds for t in tasks) + sum(scoring.values())
    out("memory: of one device, activations of the rows at once and copies of a trunk included\n")
    out(
        f"{plural(len(cells), 'cell')}, {total:.3g} FLOPs in trunks and branches "
        f"({alone:.3g} if each were trained alone), about {clock(seconds)} of one core, "
        f"{clock(seconds / default_workers())} here\n"
    )
    for line in set_lines(set_bytes or {}, scoring):
        out(f"{line}\n")
    for warning in edge_warnings(cells):
        out(f"{warning}\n")
    before = {b.run_id() for c in cells if (b := c.before()) and not trained_at(b)}
    if before:
        out(f"not counted: {plural(len(before), 'model')} to train first, which cells start from\n")


def scoring_of(
    cells: Sequence[CellConfig], set_bytes: Mapping[str, Mapping[str, int]]
) -> dict[str, float]:
    """Return the seconds on one core that each cell is scored on its test sets, by cell id."""
    return {
        cell.run_id(): scoring_seconds(cell, sum(sets.values()))
        for cell in cells
        if (sets := set_bytes.get(cell.run_id()))
    }


def set_lines(
    set_bytes: Mapping[str, Mapping[str, int]], scoring: Mapping[str, float]
) -> list[str]:
    """Return a line on the named test sets and what scoring takes; [] without sets."""
    sizes = {name: size for sets in set_bytes.values() for name, size in sets.items()}
    if not scoring:
        return []
    listed = ", ".join(f"{name} {size / 1e6:.3g} MB" for name, size in sizes.items())
    each = [clock(end) for end in (min(scoring.values()), max(scoring.values()))]
    return [
        f"test sets (eval.sets): {listed}; scoring takes {' to '.join(dict.fromkeys(each))} of one"
        f" core a cell, {clock(sum(scoring.values()))} in all, which is counted above"
    ]


def task_flops(task: Task) -> float:
    """Return the FLOPs of a task's cells; the shared part of a trunk counts once."""
    if task.cells[0].stage == "pretrain":
        return trunk_flops(task.cells)
    return sum(workload(c)[0] for c in task.cells)


def _line(cell: CellConfig, r: Resolved, scoring: float | None) -> str:
    flops, steps = workload(cell)
    on_gpu = cell.machine.device != "cpu" and gpu_count()
    n_bytes = r.memory_bytes + (0 if on_gpu else r.copied_bytes)
    scored = "" if scoring is None else f"  + {clock(scoring)} scoring"
    stage = "" if cell.stage == "pretrain" else f"  {describe_stage(cell)}"
    return (
        f"{cell.run_id():10} {f'{r.shape.n_layer}x{r.shape.d_model}':>8} {cell.seed:>4} "
        f"{r.shape.params.with_head:10,} {r.n_tokens:11,} "
        f"{r.tokens_per_param:7.2f} {flops:9.2e} {steps:6} {stage_lr(cell, r.peak_lr):8.2g} "
        f"{clock(core_seconds(flops, steps)):>8} "
        f"{n_bytes / 2**20:5.0f} MB {status_of(cell)}{scored}{stage}\n"
    )


def describe_stage(cell: CellConfig) -> str:
    """Say in a few words what a cell of a stage after pretraining does."""
    if cell.stage == "sft":
        return f"sft {cell.sft.method}, {cell.sft.examples} examples x {cell.sft.epochs}"
    if cell.stage == "ppo":
        return f"ppo, KL {cell.ppo.kl_budget:g}, {cell.ppo.episodes} episodes"
    return f"reward model, {cell.reward.pairs} pairs x {cell.reward.epochs}"


def stage_lr(cell: CellConfig, pretrain_lr: float) -> float:
    """Return the peak learning rate of a cell."""
    if cell.stage == "pretrain":
        return pretrain_lr
    return getattr(planned(cell), cell.stage).peak_lr
