"""Train a grid of cells.

    python -m scaling.sweep -m [sweeps=NAME] [key=value ...] [hydra/launcher=slurm] [dry_run=true]

One question per file in sweeps/. A cell whose record is done is skipped, so the same command
resumes a killed sweep, retries what failed, and grows a grid. Without -m it trains one cell.
"""

import logging
import sys
from collections.abc import Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, open_dict

from scaling.app.application import start, store, to_dataclass
from scaling.app.progress import clock
from scaling.budget import Resolved, core_seconds, planned, resolve, trunk_flops, workload
from scaling.config import CellConfig
from scaling.jobs.pool import default_workers
from scaling.jobs.study_run import run_cells
from scaling.jobs.tasks import Task, gpu_count, tasks_of
from scaling.study.failures import status_of, trained_at
from scaling.train.rank_exit import run_to_end

log = logging.getLogger(__name__)
store("sweep", CellConfig)


def compose_cells(
    loader: Any, config: DictConfig, job_overrides: Sequence[Sequence[str]]
) -> list[CellConfig]:
    """Compose each cell of a multirun; drop those outside the limits of `grid`."""
    composed: dict[tuple[str, ...], DictConfig] = {}
    standing: dict[tuple[str, ...], dict[str, Any]] = {}  # the values that each config has now
    cells, split = [], Splitter(loader)
    for overrides in job_overrides:
        groups, values = split(overrides)
        if groups not in composed:
            composed[groups] = compose_cell(loader, config, groups)
            standing[groups] = {}
        if standing[groups].keys() - dict(values):  # an override that only some cells have
            composed[groups], standing[groups] = compose_cell(loader, config, groups), {}
        for key, value in values:
            if key not in standing[groups] or standing[groups][key] != value:
                OmegaConf.update(composed[groups], key, value)
                standing[groups][key] = value
        cells.append(to_dataclass(composed[groups], CellConfig))
    kept = [c for c in cells if in_grid(c)]
    if len(kept) < len(cells):
        log.info("grid: %d of %d cells lie within its limits", len(kept), len(cells))
    return kept


class Splitter:
    """Part the overrides that need composing from plain values, which are set far faster.

    Each override is parsed once for the whole grid: Hydra takes a sixth of a second for a cell's.
    """

    def __init__(self, loader: Any) -> None:
        self.loader, self.parser = loader, OverridesParser.create()
        self.plain: dict[str, tuple[str, Any] | None] = {}
        self.is_group: dict[str, bool] = {}

    def __call__(self, overrides: Sequence[str]) -> tuple[tuple[str, ...], list[tuple[str, Any]]]:
        """Return the overrides to compose, and the keys and values to set."""
        found = [(text, self.parse(text)) for text in overrides]
        return tuple(t for t, plain in found if plain is None), [p for _, p in found if p]

    def parse(self, text: str) -> tuple[str, Any] | None:
        """Return key and value of a plain override, None for one that must be composed."""
        if text not in self.plain:
            parsed = self.parser.parse_override(text)
            key = parsed.key_or_group
            if key not in self.is_group:
                self.is_group[key] = bool(self.loader.get_group_options(key))
            odd = parsed.is_add() or parsed.is_delete() or parsed.package or self.is_group[key]
            self.plain[text] = None if odd else (key, parsed.value())
        return self.plain[text]


def compose_cell(loader: Any, config: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """Compose one config of the multirun, without Hydra's own part."""
    cell = loader.load_sweep_config(config, list(overrides))
    with open_dict(cell):
        cell.pop("hydra")
    OmegaConf.set_struct(cell, True)
    return cell


def in_grid(cell: CellConfig) -> bool:
    """Say whether a cell lies within its grid's limits (0 for no limit)."""
    grid, r = cell.grid, resolve(cell)
    return (
        r.n_steps >= grid.min_steps
        and r.tokens_per_param >= grid.min_tokens_per_param
        and (not grid.max_tokens_per_param or r.tokens_per_param <= grid.max_tokens_per_param)
        and (not grid.max_flops or r.flops <= grid.max_flops * 1.05)
        and (
            not grid.max_flops_repeated
            or cell.seed == 0
            or r.flops <= grid.max_flops_repeated * 1.05
        )
    )


def price(cells: list[CellConfig]) -> None:
    """Print what the grid costs: N, D, D/N, FLOPs, time and the device's memory of each cell.

    Of a stage D is the model's, and FLOPs and time are the most that it takes.
    """
    out = sys.stdout.write
    out(
        f"{'cell':10} {'N (head)':>10} {'D':>11} {'D/N':>7} {'FLOPs':>9} {'steps':>6} "
        f"{'lr':>8} {'time':>8} {'memory':>8} status\n"
    )
    for cell in sorted(cells, key=lambda c: (workload(c)[0], resolve(c).shape.params.total)):
        out(_row(cell, resolve(cell)))
    tasks = tasks_of(cells)
    total = sum(map(task_flops, tasks))
    alone = sum(workload(c)[0] for c in cells)
    seconds = sum(t.seconds for t in tasks)
    out(
        f"{len(cells)} cells, {total:.3g} FLOPs in trunks and branches ({alone:.3g} if each were "
        f"trained alone), about {clock(seconds)} of one core, "
        f"{clock(seconds / default_workers())} here\n"
    )
    before = {b.run_id() for c in cells if (b := c.before()) and not trained_at(b)}
    if before:
        out(f"{len(before)} models that these start from are trained first, which is not counted\n")


def task_flops(task: Task) -> float:
    """Return the FLOPs of a task's cells, a trunk's shared part counted once."""
    if task.cells[0].stage == "pretrain":
        return trunk_flops(task.cells)
    return sum(workload(c)[0] for c in task.cells)


def _row(cell: CellConfig, r: Resolved) -> str:
    flops, steps = workload(cell)
    on_gpu = cell.machine.device != "cpu" and gpu_count()
    held = r.memory_bytes + (0 if on_gpu else r.copied_bytes)
    kind = "" if cell.stage == "pretrain" else f"  {said(cell)}"
    return (
        f"{cell.run_id():10} {r.shape.params.with_head:10,} {r.n_tokens:11,} "
        f"{r.tokens_per_param:7.2f} {flops:9.2e} {steps:6} {stage_lr(cell, r.peak_lr):8.2g} "
        f"{clock(core_seconds(flops, steps)):>8} "
        f"{held / 2**20:5.0f} MB {status_of(cell)}{kind}\n"
    )


def said(cell: CellConfig) -> str:
    """Say what a stage's cell does, in a few words."""
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


def main(config: CellConfig) -> None:
    """Train the one cell of the config, together with the other ranks where torchrun started us."""
    from scaling.train.ranks import started_ranks

    if started_ranks() > 1:
        from scaling.jobs.external_ranks import train_together

        train_together(config)
    else:
        run_cells([config])


if __name__ == "__main__":
    run_to_end(lambda: start(main, config_name="sweep", schema=CellConfig, sweeps=True))
