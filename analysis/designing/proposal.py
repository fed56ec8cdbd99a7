"""What `python -m analysis.design` proposes, as lines of text and as design.json."""

import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from analysis.designing.batch_file import cell_rows
from analysis.designing.candidates import (
    RATIOS,
    SIZES,
    Candidate,
    flops_of,
    grid_around,
    of_study,
    ran,
    reached_by,
)
from analysis.designing.goal import QUANTITIES, Goal, check_goal, check_law, half_width
from analysis.designing.next_step import START, Options, Step, fitted, next_step
from analysis.designing.simulation import from_nothing
from analysis.forms import FORMS, column
from analysis.laws.law import Law
from analysis.laws.published import load_law
from analysis.number_text import number, power, short
from analysis.runs.columns import Columns
from analysis.runs.table import Runs, load_runs
from scaling.app.choices import check_choice_of
from scaling.schema import (
    COUNTS,
    FLOPS,
    LEVEL,
    MOST_RESAMPLES,
    OneOf,
    Range,
    Record,
    checked,
    code_version,
    read_records,
)

SCHEMA = 1
BEYOND_CELLS = 3.0  # times the largest cell: as far as a study's pool goes by default
PILOTS = (1e-4, 1e-2)  # of the target: budgets of a study that does not exist yet
MOST_SHOWN = 60


@dataclass(kw_only=True)
@checked("target")
class TargetSettings:
    """The final run, and how well it should be known (analysis.designing.goal)."""

    flops: Annotated[float, FLOPS] = 0.0
    """Training FLOPs of the final run, as 1e21; must be set."""
    quantity: Annotated[str, OneOf(*QUANTITIES)] = "loss"
    """What should be known: the loss of the final run, or its optimal number of parameters."""
    precision: Annotated[float, Range(0, 1e3, note="0 leaves it open")] = 0.0
    """Half-width of the interval to reach: in nats for loss, as a factor less one for params; 0
    leaves it open."""
    max_flops: Annotated[float, FLOPS] = 0.0
    """FLOPs of the study at most; 0 leaves it open."""
    level: Annotated[float, LEVEL] = 0.9
    """Level of the interval."""

    def goal(self) -> Goal:
        """Return the goal; ValueError where there is none."""
        if not self.flops:
            raise ValueError("target.flops is not set; give the final run's FLOPs, as 1e21")
        return Goal(**asdict(self))


@dataclass(kw_only=True)
@checked("pool")
class PoolSettings:
    """The cells that may be run."""

    flops: list[Annotated[float, FLOPS]] = field(default_factory=list)
    """Least and most FLOPs of a cell, as [1e17,1e19]; an empty list follows the study."""
    budgets: Annotated[int, Range(1, 1000)] = 7
    """Number of budgets between these, evenly spaced in logs."""
    sizes: Annotated[int, Range(1, 1000)] = SIZES
    """Number of model sizes at a budget, where no study has a ladder of rungs."""
    ratio: Annotated[float, Range(1, 1e9, above=True)] = RATIOS[1]
    """Largest factor between a cell's tokens per parameter and the optimum's."""
    seeds: Annotated[int, Range(1, 1000)] = 2
    """Number of seeds of each cell."""

    def __post_init__(self) -> None:
        """Check that the budgets are a range."""
        if self.flops and not (len(self.flops) == 2 and 0 < self.flops[0] < self.flops[1]):
            raise ValueError(
                f"pool.flops={self.flops} must be the least and the most of a cell, as [1e17,1e19]"
            )


@dataclass(kw_only=True)
@checked()
class DesignConfig:
    """The cells so far, the law, and how many cells are chosen."""

    runs: str = ""
    """Folder of a study, or a table of runs; empty designs a first study from the law."""
    law: str = ""
    """Published law, or law.json, to take instead of a fit to the runs; empty fits them."""
    out: str = ""
    """File to write; empty is design.json beside the study, or here."""
    plot: bool = False
    """Write a figure beside it too."""
    form: str = "chinchilla"
    """Form of the law that is fitted; one that gives the loss from N and D."""
    count: Annotated[str, OneOf(*COUNTS)] = "total"
    """Which parameters N counts; tables from outside have one count."""
    where: str | None = None
    """Condition over the table's columns that a run must meet, as "group == 'x'"; null takes every
    run."""
    cells: Annotated[int, Range(1, 100_000)] = 12
    """Number of cells to choose where neither target.precision nor target.max_flops is set."""
    start: Annotated[int, Range(1, 100_000)] = START
    """Number of cells that the first fit needs; the prior spreads these."""
    resamples: Annotated[int, Range(1, MOST_RESAMPLES)] = 1000
    """Number of resamples of the fit's bootstrap."""
    prior: str = "hoffmann2022"
    """Published law, or law.json, that spreads cells while no fit is identified."""
    simulate: Annotated[int, Range(0, 10_000, note="0 simulates nothing")] = 8
    """Number of tables that are drawn for each simulated point of a first study; 0 simulates
    nothing."""
    columns: Columns = field(default_factory=Columns)
    target: TargetSettings = field(default_factory=TargetSettings)
    pool: PoolSettings = field(default_factory=PoolSettings)

    def __post_init__(self) -> None:
        """Refuse what needs no reading to be wrong."""
        if not self.runs and not self.law:
            raise ValueError(
                "neither runs nor law is set; give cells, as runs=runs/quick, or a law to design"
                " a first study from, as law=besiroglu2024"
            )
        check_choice_of("form", self.form, [f.name for f in FORMS.values() if f.is_surface])
        self.target.goal()


def of_cells(config: DesignConfig, goal: Goal) -> dict[str, Any]:
    """Return the next cells of a study or a table."""
    runs = load_runs(config.runs, count=config.count, where=config.where, columns=config.columns)
    records = _records(config.runs)
    spent, reached = _spent(runs, records, config.count)
    options = Options(
        start=config.start, batch=config.cells, form=config.form, resamples=config.resamples
    )
    law, why = (load_law(config.law), "") if config.law else fitted(runs, goal, options)
    guide = law if law is not None and not why else load_law(config.prior)
    check_law(guide)
    largest = float((6 * column(runs.table, "params") * column(runs.table, "tokens")).max())
    check_goal(goal, largest=largest)
    candidates = _pool(config, guide, records, runs, goal)
    if not candidates:
        raise ValueError(
            "the pool has no cells that are not run already; widen pool.flops or pool.ratio, or"
            " raise pool.budgets or pool.seeds"
        )
    step = next_step(
        runs, candidates, goal, prior=load_law(config.prior), spent=spent, reached=reached,
        options=options, law=law if not why else None,
    )  # fmt: skip
    return _found(config, goal, step, candidates, spent=spent, n_runs=len(runs))


def of_law(config: DesignConfig, goal: Goal) -> dict[str, Any]:
    """Return a study from nothing, the law taken for true."""
    law = load_law(config.law)
    check_law(law)
    low, high = config.pool.flops or [goal.flops * share for share in PILOTS]
    check_goal(goal, largest=high)
    found = from_nothing(
        law,
        _around(config.pool, law, low, high),
        goal,
        start=config.start,
        cells=config.cells,
        times=config.simulate,
    )
    taken = {"name": config.law, "status": "taken for true", "parameters": law.parameters}
    return _head(config, goal) | {"law": taken, "standing": None, "spent": 0.0, "n_runs": 0} | found


def lines_of(found: dict[str, Any]) -> list[str]:
    """Return the design as text of at most 100 columns."""
    goal = found["target"]
    what = "loss" if goal["quantity"] == "loss" else "N*"
    unit = "nats" if goal["quantity"] == "loss" else "of N*, relative"
    lines = [f"{what} at {power(goal['flops'])} FLOPs; {found['n_runs']} cells so far, "
             f"{power(found['spent']) if found['spent'] else 'no'} FLOPs"]  # fmt: skip
    now = found["standing"]
    if now:
        lines.append(
            f"now {number(now['value'])} [{number(now['low'])}, {number(now['high'])}], half-width "
            f"{number(now['half'], 3)} {unit}; scatter and hindcasts alone {number(now['bare'], 3)}"
        )
    lines += textwrap.wrap(found["why"], 100)
    if found["cells"]:
        lines += [
            "",
            f"{'cell':<26}{'N':>8}{'D':>8}{'C':>9}{'costs':>9}{'in all':>9}{'then +-':>9}"
            f"{'drop/FLOP':>11}",
        ]
        shown = found["cells"][:MOST_SHOWN]
        lines += [_line(row) for row in shown]
        if len(shown) < len(found["cells"]):
            lines.append(f"... {len(found['cells'])} in all; the rest is in design.json")
    if found["simulated"]:
        lines.append("")
        for row in found["simulated"]:
            half = number(row["half"], 3) if row["half"] else "not identified"
            lines.append(
                f"simulated, {row['cells']} cells, {power(row['total'])} FLOPs: half-width {half}"
                f" ({row['usable']:.0%} of {row['times']} fits usable)"
            )
    return [*lines, *([f"ended: {found['stop']}"] if found["stop"] else [])]


def _line(row: dict[str, Any]) -> str:
    half = number(row["half"], 3) if row["half"] is not None else "-"
    drop = power(row["per_flop"]) if row["per_flop"] else "-"
    return (
        f"{row['run'][:25]:<26}{short(row['params']):>8}{short(row['tokens']):>8}"
        f"{power(row['flops']):>9}{power(row['cost']):>9}{power(row['total']):>9}{half:>9}{drop:>11}"
    )


def _found(
    config: DesignConfig,
    goal: Goal,
    step: Step,
    candidates: Sequence[Candidate],
    *,
    spent: float,
    n_runs: int,
) -> dict[str, Any]:
    rows = cell_rows(step.planned, candidates, step.halves)
    totals = spent + np.cumsum([row["cost"] for row in rows])
    now, law = step.standing, step.law
    bare = half_width(0.0, now.floor, value=now.value, goal=goal) if now else 0.0
    return _head(config, goal) | {
        "law": None
        if law is None
        else {"name": config.law or "fitted", "status": law.status, "parameters": law.parameters},
        "standing": asdict(now) | {"bare": bare} if now else None,
        "spent": spent,
        "n_runs": n_runs,
        "why": step.why,
        "stop": step.stop,
        "cells": [r | {"total": float(t)} for r, t in zip(rows, totals, strict=True)],
        "simulated": [],
    }


def _head(config: DesignConfig, goal: Goal) -> dict[str, Any]:
    inputs = {"runs": config.runs, "law": config.law, "prior": config.prior}
    return {"schema": SCHEMA, "target": asdict(goal), "inputs": inputs, "code": code_version()}


def _records(source: str) -> list[Record]:
    """Return the done pretraining cells of a study, none of a table."""
    if not Path(source).is_dir():
        return []
    return [r for r in read_records(source) if r.status == "done" and r.stage == "pretrain"]


def _spent(runs: Runs, records: Sequence[Record], count: str) -> tuple[float, dict[str, float]]:
    """Return the FLOPs of the cells so far, trunks once, and how far those are kept."""
    if records:
        return flops_of(ran(r, count) for r in records), reached_by(records)
    return float(column(runs.table, "flops").sum()), {}


def _pool(
    config: DesignConfig, law: Law, records: Sequence[Record], runs: Runs, goal: Goal
) -> list[Candidate]:
    pool, flops = config.pool, column(runs.table, "flops")
    most = min(BEYOND_CELLS * float(flops.max()), goal.flops / BEYOND_CELLS)
    low, high = pool.flops or [float(flops.min()), max(most, float(flops.max()))]
    if not records:
        return _around(pool, law, low, high)
    if "model" not in records[-1].config:
        raise ValueError(f"the records of {config.runs} name no model, so their ladder is unknown")
    budgets = np.geomspace(low, high, pool.budgets).tolist()
    ratios = (1 / pool.ratio, pool.ratio)
    return of_study(records, law, budgets, ratios=ratios, seeds=pool.seeds)


def _around(pool: PoolSettings, law: Law, low: float, high: float) -> list[Candidate]:
    return grid_around(
        law,
        np.geomspace(low, high, pool.budgets).tolist(),
        ratios=(1 / pool.ratio, pool.ratio),
        sizes=pool.sizes,
        seeds=pool.seeds,
    )
