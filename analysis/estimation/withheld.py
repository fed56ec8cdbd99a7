"""The backtest of a form: how well a law of small runs predicts larger runs of the same table."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.estimation.allocation_laws import CRITICAL_BATCH, METHODS
from analysis.estimation.checks import (
    check_columns,
    check_table,
    needed_columns,
    prepare_rows,
    restrict_to_frontier,
)
from analysis.estimation.form_average import average_hindcasts, weights_of
from analysis.estimation.points import best_of_points
from analysis.forms import FORMS, Form, form_named
from analysis.runs.table import Runs
from analysis.solve.objective import Objective
from analysis.solve.progress import OnProgress, no_progress
from analysis.validate.form_ranking import UNTESTED
from analysis.validate.hindcast import FEWEST_SIZES, LEAST_SHARE, LEAST_SPAN, hindcasts, reach_of
from analysis.validate.row_choice import rank_rows_and_forms
from scaling.schema import code_version, write_json

SCHEMA = 1
WIDTH = 100


@dataclass(frozen=True, kw_only=True)
class Backtest:
    """The fields of backtest.json: what was withheld, how well it was predicted, and from what."""

    form: str
    count: str
    objective: dict[str, Any]
    level: float
    resamples: int
    n_runs: int
    rows: list[dict[str, Any]]
    tau: list[list[float]]
    comparison: list[dict[str, Any]] = field(default_factory=list)
    fixed: dict[str, float] = field(default_factory=dict)
    dropped: list[dict[str, str]] = field(default_factory=list)
    inputs: dict[str, Any] = field(default_factory=dict)
    replicates: dict[str, int] | None = None
    code: dict[str, Any] = field(default_factory=code_version)
    schema: int = SCHEMA

    def summary(self) -> str:
        """Return the tables as text of at most 100 columns."""
        return "\n\n".join("\n".join(b) for b in (_comparison(self), _head(self), _rows(self)) if b)

    def write(self, path: str | Path) -> Path:
        """Write backtest.json atomically, numbers unrounded."""
        values = asdict(self)
        return write_json(path, {"schema": values.pop("schema"), **values})


def backtest(
    runs: Runs,
    form: str = "chinchilla",
    *,
    objective: Objective | None = None,
    weighting: str = "column",
    fixed: dict[str, float] | None = None,
    within: float | None = None,
    level: float = 0.9,
    seed: int = 0,
    on_progress: OnProgress = no_progress,
) -> Backtest:
    """Withhold the largest budgets of a table, refit, and predict them.

    runs: the runs
    form: a form of the loss, or `all` for the average over the forms that apply
    objective: None for the form's own
    weighting: `column`, `seed_noise` or `none`
    fixed: values that some parameters keep
    within: only runs whose loss is within this share of the best of no more compute; `all` chooses
        between these and all runs where it is None
    level: of the intervals whose coverage is counted
    seed: of the resamples
    on_progress: takes (stage, done, total)

    Raises ValueError for a form without a loss, and for a table too narrow to withhold a budget.
    """
    refuse_untestable(form)
    check_columns(runs.table, needed_columns(form), form)
    runs = best_of_points(runs, form)
    ranking = None
    if form == "all":
        ranking, choice = rank_rows_and_forms(
            runs.table,
            objective,
            within=within,
            level=level,
            seed=seed,
            on_progress=on_progress,
        )
        if not ranking.is_tested:
            raise ValueError(UNTESTED)
        within = choice.within if choice else within
    form_tested = form_named(ranking.rows[0]["form"] if ranking else form)
    objective = objective or Objective(name=form_tested.objective)
    table = prepare_rows(runs.table, form_tested, objective, weighting)
    table = restrict_to_frontier(table, form_tested, within)
    check_table(table, form_tested)
    if ranking and form_tested.is_surface:
        converged = [row for row in ranking.rows if row["converged"]]
        results = average_hindcasts(ranking, weights_of(converged), level)
    else:
        results = hindcasts(
            table,
            form_tested,
            objective,
            fixed=fixed,
            level=level,
            seed=seed,
            on_progress=on_progress,
        )
    if results is None:
        raise ValueError(_too_narrow(table, form_tested))
    return Backtest(
        form=form_tested.name,
        count=runs.count,
        objective={
            **objective.as_block(),
            "weighting": weighting if "weight" in table else "none",
        },
        n_runs=len(table),
        comparison=ranking.rows if ranking else [],
        fixed=dict(fixed or {}),
        dropped=runs.dropped,
        inputs=runs.inputs | ({} if within is None else {"within": within}),
        replicates=runs.replicates.as_json() if runs.replicates else None,
        **results,
    )


def refuse_untestable(form: str) -> None:
    """Refuse a form that predicts no loss."""
    testable = [f.name for f in FORMS.values() if f.target == "loss" and not f.own_method]
    if form == "surface":
        raise ValueError(
            "form=surface withholds its largest points itself; scaling fit form=surface prints what"
            f" its settings lose there. A backtest takes all, {', '.join(testable)}"
        )
    if form == "all" or (form not in METHODS and form_named(form).target == "loss"):
        return
    of_settings = form in ("lr_batch", CRITICAL_BATCH)
    of_method = "predicts no loss" if of_settings else "gives N and D only"
    what = of_method if form in METHODS else f"predicts {form_named(form).target}"
    raise ValueError(
        f"form={form} {what}; a backtest needs a form of the loss: all, {', '.join(testable)}"
    )


def _too_narrow(table: pd.DataFrame, form: Form) -> str:
    along = reach_of(table, form)
    needed = max(len(form.parameters) + 2, int(np.ceil(LEAST_SHARE * len(table))))
    name = "C" if "flops" in table else form.variables[0]
    return (
        f"no budget can be withheld: {len(table)} rows span x{along.max() / along.min():.3g} in "
        f"{name}, and below a cutoff there must be {needed} rows, {FEWEST_SIZES} sizes and "
        f"x{LEAST_SPAN:g} of {name}; add smaller or larger budgets"
    )


def _head(result: Backtest) -> list[str]:
    source = result.inputs.get("source", "data")
    reads_delta = result.objective["name"] in ("huber_log", "envelope")
    delta = result.objective["delta"] if reads_delta else None
    by = result.objective["name"] + (f" delta {delta:g}" if delta else "")
    rows = result.replicates
    runs = f"{result.n_runs} runs"
    if rows:
        runs += f", the best of each of {rows['points']} (N, D) points of {rows['rows']} rows,"
    averaged = any("forms" in row for row in result.rows)
    form = f"the average over forms, which {result.form} leads," if averaged else result.form
    return [f"{runs} of {source}"[:WIDTH], f"{form} by {by}, refitted below C"]


def _rows(result: Backtest) -> list[str]:
    lines = [
        f"{'C fitted up to':<16}{'reach':>8}{'fitted':>8}{'tested':>8}{'rms error':>11}"
        f"{'bias':>9}{f'covered ({result.level:.0%})':>15}"
    ]
    for row in result.rows:
        reach = f"x{row['distance']:.3g}"
        start = f"{row['cutoff_flops']:<16.3e}{reach:>8}{row['n_train']:>8}{row['n_test']:>8}"
        if row["converged"]:
            start += (
                f"{row['rms_relative_error']:>11.2%}{row['mean_relative_error']:>9.2%}"
                f"{row['coverage']:>15.0%}"
            )
        else:
            start += "  no minimum below this cutoff"
        lines.append(start)
    return lines


def _comparison(result: Backtest) -> list[str]:
    if not result.comparison:
        return []
    lines = [f"{'form':<24}{'parameters':>11}{'in range':>10}{'withheld':>10}  rms error by reach"]
    for row in result.comparison:
        error = row["score"]
        score = "-" if error is None else f"{error:.2%}"
        reaches = " ".join(f"x{d:.3g} {e:.2%}" for d, e in row["by_cutoff"])
        lines.append(
            f"{row['form']:<24}{row['n_parameters']:>11}{row['rms_in_range']:>10.2%}"
            f"{score:>10}  {reaches or 'no minimum below any cutoff'}"[:WIDTH]
        )
    return lines
