"""What `scaling design` proposes: its settings, the proposal, its lines of text.

A proposal is a dict, the content of design.json. `of_cells` proposes the next cells of a study or a
table, `of_law` a whole study before its first cell.
"""

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
    candidate_of,
    flops_of,
    grid_around,
    of_study,
    reached_by,
)
from analysis.designing.goal import QUANTITIES, Goal, check_goal, check_law, half_width
from analysis.designing.next_step import (
    START,
    Options,
    Step,
    fit_if_identified,
    next_step,
    trusting_the_form,
)
from analysis.designing.simulation import from_nothing
from analysis.estimation.points import best_of_points
from analysis.forms import FORMS, column, forms_of_size_and_data
from analysis.laws.law import Law
from analysis.laws.published import load_law
from analysis.number_text import number, power, short
from analysis.runs.columns import Columns
from analysis.runs.importers.options import LogsConfig
from analysis.runs.importers.sources import is_study
from analysis.runs.table import Runs, load_runs
from scaling.app.choices import check_choice_of
from scaling.app.plurals import plural
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
BEYOND_CELLS = 3.0  # a study's pool goes up to this many times its largest cell by default
PILOTS = (1e-4, 1e-2)  # budgets of a study before its first cell, as shares of the target's
DEFAULT_FORM = "chinchilla"  # of a fit where the study has no law of its own
MOST_SHOWN = 60  # cells in the text; the file has all


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
        """Return the goal; ValueError where target.flops is not set."""
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
    """Folder of a study, a table of runs, or logs of another tool; empty designs a first
    study from the law."""
    law: str = ""
    """Published law, or law.json; empty takes the study's own law.json where it is of the same
    records, and fits the runs else."""
    out: str = ""
    """File to write; empty is design.json beside the study, or here."""
    plot: bool = False
    """Write a figure beside it too."""
    form: str = ""
    """Form of the law that is fitted, which gives the loss from N and D; empty takes the study's
    own law, or chinchilla without one."""
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
    logs: LogsConfig = field(default_factory=LogsConfig)
    target: TargetSettings = field(default_factory=TargetSettings)
    pool: PoolSettings = field(default_factory=PoolSettings)

    def __post_init__(self) -> None:
        """Refuse what needs no reading to be wrong."""
        if not self.runs and not self.law:
            raise ValueError(
                "neither runs nor law is set; give cells, as runs=runs/quick, or a law to design"
                " a first study from, as law=besiroglu2024"
            )
        if self.form:
            check_choice_of("form", self.form, forms_of_size_and_data())
        self.target.goal()


def of_cells(config: DesignConfig, goal: Goal) -> dict[str, Any]:
    """Return the proposal of the next cells of a study or a table."""
    runs = load_runs(
        config.runs,
        count=config.count,
        where=config.where,
        columns=config.columns,
        logs=config.logs,
    )
    records = _records(config.runs)
    spent, reached = _spent(runs, records, config.count)
    own, note = _own_law(config, runs)
    form = config.form or (own.form if own else DEFAULT_FORM)
    runs = best_of_points(runs, form)
    options = Options(start=config.start, batch=config.cells, form=form, resamples=config.resamples)
    if config.law:
        law, why = load_law(config.law), ""
    elif own and not note:
        law, why = trusting_the_form(own), "" if own.usable else f"its law is {own.status}"
    else:
        law, why = fit_if_identified(runs, goal, options)
    guide = law if law is not None and not why else load_law(config.prior)
    check_law(guide)
    flops_6nd = 6 * column(runs.table, "params") * column(runs.table, "tokens")
    flops = column(runs.table, "flops") if guide.flop_count else flops_6nd
    largest = float(flops.max())
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
    proposal = _proposal(config, goal, step, candidates, spent=spent, n_runs=len(runs))
    if proposal["law"] and own and not config.law and not note:
        proposal["law"]["name"] = f"{config.runs}/law.json"
    proposal["target"]["unit"] = guide.measure.unit_words
    return proposal | {"note": note}


def of_law(config: DesignConfig, goal: Goal) -> dict[str, Any]:
    """Return a study before its first cell, from a law that is assumed to be true."""
    law = load_law(config.law)
    check_law(law)
    low, high = config.pool.flops or [goal.flops * share for share in PILOTS]
    check_goal(goal, largest=high)
    study = from_nothing(
        law,
        _around(config.pool, law, low, high),
        goal,
        start=config.start,
        cells=config.cells,
        times=config.simulate,
    )
    true_law = {"name": config.law, "status": "taken for true", "parameters": law.parameters}
    start = {"law": true_law, "standing": None, "spent": 0.0, "n_runs": 0}
    head = _head(config, goal)
    head["target"]["unit"] = law.measure.unit_words
    return head | start | study


def lines_of(proposal: dict[str, Any]) -> list[str]:
    """Return a proposal as text of at most 100 columns."""
    goal = proposal["target"]
    what = "loss" if goal["quantity"] == "loss" else "N*"
    unit = goal.get("unit", "nats") if goal["quantity"] == "loss" else "of N*, relative"
    so_far = plural(proposal["n_runs"], "cell")
    lines = [f"{what} at {power(goal['flops'])} FLOPs; {so_far} so far, "
             f"{power(proposal['spent']) if proposal['spent'] else 'no'} FLOPs"]  # fmt: skip
    lines += textwrap.wrap(_law_line(proposal), 100)
    now = proposal["standing"]
    if now:
        lines.append(
            f"now {number(now['value'])} [{number(now['low'])}, {number(now['high'])}], half-width "
            f"{number(now['half'], 3)} {unit}; scatter and hindcasts alone {number(now['bare'], 3)}"
        )
    lines += textwrap.wrap(proposal["why"], 100)
    if proposal["cells"]:
        lines += [
            "",
            f"{'cell':<26}{'N':>8}{'D':>8}{'C':>9}{'costs':>9}{'in all':>9}{'then +-':>9}"
            f"{'drop/FLOP':>11}",
        ]
        shown = proposal["cells"][:MOST_SHOWN]
        lines += [_line(row) for row in shown]
        if len(shown) < len(proposal["cells"]):
            lines.append(f"... {len(proposal['cells'])} in all; the rest is in design.json")
    if proposal["simulated"]:
        lines.append("")
        for row in proposal["simulated"]:
            half = number(row["half"], 3) if row["half"] else "not identified"
            lines.append(
                f"simulated, {plural(row['cells'], 'cell')}, {power(row['total'])} FLOPs:"
                f" half-width {half}"
                f" ({row['usable']:.0%} of {row['times']} fits usable)"
            )
    return [*lines, *([f"ended: {proposal['stop']}"] if proposal["stop"] else [])]


def _law_line(proposal: dict[str, Any]) -> str:
    """Say which law the design starts from, and why it is not the study's own where it is not."""
    law, note = proposal["law"], proposal.get("note", "")
    if not law:
        return note
    weights = law.get("weights", {})
    mean = ", ".join(f"{k} {v:.2f}" for k, v in sorted(weights.items(), key=lambda kv: -kv[1]))
    form = f"mean of log L over forms: {mean}" if len(weights) > 1 else f"form {law.get('form')}"
    form = form if weights else "its parameters"
    return f"law: {law['name']}, {form}; {law['status']}" + (f"; {note}" if note else "")


def _own_law(config: DesignConfig, runs: Runs) -> tuple[Law | None, str]:
    """Return the law beside a study's cells, and why it must be fitted again, "" where not."""
    path = Path(config.runs) / "law.json"
    if config.law or config.form or not path.is_file():
        return None, ""
    law = load_law(path)
    if law.form not in FORMS or not FORMS[law.form].is_surface or law.count != config.count:
        return None, f"{path} is no law of N ({config.count}) and D, so one was fitted"
    if config.where or law.inputs.get("sha256") != runs.inputs.get("sha256"):
        return law, f"{path} is of other runs, so its form {law.form} was fitted again"
    return law, ""


def _line(row: dict[str, Any]) -> str:
    half = number(row["half"], 3) if row["half"] is not None else "-"
    drop = power(row["per_flop"]) if row["per_flop"] else "-"
    return (
        f"{row['run'][:25]:<26}{short(row['params']):>8}{short(row['tokens']):>8}"
        f"{power(row['flops']):>9}{power(row['cost']):>9}{power(row['total']):>9}{half:>9}{drop:>11}"
    )


def _proposal(
    config: DesignConfig,
    goal: Goal,
    step: Step,
    candidates: Sequence[Candidate],
    *,
    spent: float,
    n_runs: int,
) -> dict[str, Any]:
    """Return a step as the content of design.json."""
    rows = cell_rows(step.planned, candidates, step.halves)
    totals = spent + np.cumsum([row["cost"] for row in rows])
    now, law = step.standing, step.law
    bare = half_width(0.0, now.floor, value=now.value, goal=goal) if now else 0.0
    return _head(config, goal) | {
        "law": None
        if law is None
        else {
            "name": config.law or "fitted",
            "form": "all" if law.forecast else law.form,
            "weights": {m.form.name: m.weight for m in law.members},
            "status": law.status,
            "parameters": law.parameters,
        },
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
    if not is_study(source):
        return []
    return [r for r in read_records(source) if r.status == "done" and r.stage == "pretrain"]


def _spent(runs: Runs, records: Sequence[Record], count: str) -> tuple[float, dict[str, float]]:
    """Return the FLOPs of the cells so far, trunks once, and the tokens that trunks have."""
    if records:
        return flops_of(candidate_of(r, count) for r in records), reached_by(records)
    return float(column(runs.table, "flops").sum()), {}


def _pool(
    config: DesignConfig, law: Law, records: Sequence[Record], runs: Runs, goal: Goal
) -> list[Candidate]:
    """Return the cells that may run: of the study's rungs, of a table around the optimum."""
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
    """Return cells around the law's optimum of each budget."""
    return grid_around(
        law,
        np.geomspace(low, high, pool.budgets).tolist(),
        ratios=(1 / pool.ratio, pool.ratio),
        sizes=pool.sizes,
        seeds=pool.seeds,
    )
