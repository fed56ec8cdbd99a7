"""Laws of a task's accuracy, chosen by the larger models that they predict.

Two steps: a law of the loss, then a sigmoid of that loss (`accuracy_two_steps` in N and D,
`accuracy_two_steps_flops` in C; Bhagia et al. 2024, 2412.04403). Direct: accuracy from C, or from
N and D, without a loss (`accuracy_flops`, `accuracy_size`; Krajewski et al. 2025, 2512.08894). Each
is refitted to the models below several cutoffs in C and predicts the accuracy of those above, whose
loss it does not see. The score is the geometric mean over cutoffs of the RMS error of accuracy.
A fit with a parameter at its bound, or without a minimum, is no law at that cutoff and is given the
worst error of the others there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.estimation.fit_blocks import ranges_of
from analysis.forms import FORMS, Array, Form, column
from analysis.forms.accuracy import LOSS_OF
from analysis.laws.law import Law
from analysis.laws.law_file import LawStatus
from analysis.runs.table import Runs
from analysis.solve.objective import Objective, Problem, problem_of
from analysis.solve.progress import OnProgress, no_progress
from analysis.solve.solver import Solution, minimise
from analysis.uncertainty.bootstrap import Bootstrap, bootstrap, units_of
from analysis.validate.form_ranking import SPARE_ROWS, best_first
from analysis.validate.hindcast import FEWEST_TESTED, LEAST_SHARE, cutoffs

ASKED = "downstream"  # the form= that this ranking answers
DIRECT = ("accuracy_flops", "accuracy_size", "pass_at_k")
SIGMOID = "downstream_accuracy"
UNTESTED = (
    "form=downstream ranks laws of accuracy by larger models that it withholds, and this table is"
    " too small or too narrow in C for that; name a form, as form=accuracy_flops +fixed.chance=0.25"
)


@dataclass(frozen=True, kw_only=True)
class Step:
    """One fitted part of a law: the problem, its end points, and its parameters by name."""

    problem: Problem
    solution: Solution
    parameters: dict[str, float]

    @property
    def is_law(self) -> bool:
        """Whether it is a minimum with no parameter at its bound but an irreducible loss of 0."""
        form, one = self.problem.design.form, self.solution
        free = [p not in (form.offset, "chance") for p in form.parameters]
        at_bound = one.at_bound[0] & np.array(free)
        return bool(one.converged[0] and not at_bound.any())


def downstream_forms(table: pd.DataFrame) -> list[Form]:
    """Return the laws of accuracy that a table can carry."""
    forms = [FORMS[name] for name in (*LOSS_OF, *DIRECT)]
    return [
        form
        for form in forms
        if all(v in table and np.ptp(column(table, v)) > 0 for v in form.variables)
        and len(table) >= len(form.parameters) + SPARE_ROWS
    ]


def rank_downstream(
    table: pd.DataFrame,
    *,
    fixed: Mapping[str, float] | None = None,
    on_progress: OnProgress = no_progress,
) -> list[dict[str, Any]]:
    """Return the laws of accuracy best first, as the `comparison` of law.json.

    table: the models, with params, tokens, flops, loss, error (1 - accuracy), and perhaps weight
    fixed: values that parameters keep, as the chance
    on_progress: takes ("laws", done, total)

    Errors are of the accuracy itself, from 0 to 1. Raises ValueError where no model can be
    withheld.
    """
    forms, flops = downstream_forms(table), column(table, "flops")
    cuts = [c for c in cutoffs(flops) if _is_enough(flops, c)]
    if not cuts or not forms:
        raise ValueError(UNTESTED)
    rows = []
    for done, form in enumerate(forms):
        on_progress("laws", done, len(forms))
        rows.append(_row(table, form, cuts, dict(fixed or {})))
    on_progress("laws", len(forms), len(forms))
    rows = best_first(rows)
    if rows[0]["score"] is None:
        raise ValueError(UNTESTED)
    return rows


def fit_steps(table: pd.DataFrame, form: Form, fixed: Mapping[str, float]) -> list[Step]:
    """Return the fitted parts of a law: its loss and its sigmoid, or the direct law alone.

    table: the models
    form: a law of accuracy
    fixed: values that parameters keep; each part takes those that it has
    """
    parts = [LOSS_OF[form.name], FORMS[SIGMOID]] if form.name in LOSS_OF else [form]
    return [_step(table, part, fixed) for part in parts]


def two_steps_law(
    runs: Runs,
    form: Form,
    *,
    fixed: Mapping[str, float],
    resamples: int,
    level: float,
    seed: int,
) -> Law:
    """Return the law of a task's error by way of the loss, with its intervals.

    runs: the models, with loss and error
    form: `accuracy_two_steps` or `accuracy_two_steps_flops`
    fixed: values that parameters keep
    resamples: of the bootstrap, which draws the same models for both steps; 0 is no interval
    level: of the intervals
    seed: of the resamples
    """
    table = runs.table
    steps = fit_steps(table, form, fixed)
    parameters = {k: v for step in steps for k, v in step.parameters.items()}
    boots: list[Bootstrap] = []
    if resamples and all(np.isfinite(s.solution.value[0]) for s in steps):
        units = units_of(table)
        boots = [
            bootstrap(s.problem, s.solution, units, resamples=resamples, seed=seed) for s in steps
        ]
    draws = _joined(boots) if boots else None
    draws = draws if draws is not None and len(draws) > resamples / 2 else None
    errors = _predicted(form, parameters, table) - column(table, "error")
    freedom = max(len(table) - len(parameters), 1)
    return Law(
        form=form.name,
        count=runs.count,
        parameters=parameters,
        objective={**steps[1].problem.objective.as_block(), "value": float((errors**2).sum() / 2)},
        status=_status(steps, draws, resamples),
        intervals=None if draws is None else _intervals(boots[0], parameters, draws, level),
        draws=draws,
        n_runs=len(table),
        dropped=runs.dropped,
        ranges=ranges_of(table),
        noise={"sd": float(np.sqrt((errors**2).sum() / freedom))},
        fixed=dict(fixed),
        inputs=runs.inputs,
    )


def _step(table: pd.DataFrame, form: Form, fixed: Mapping[str, float]) -> Step:
    own = {name: value for name, value in fixed.items() if name in form.parameters}
    rows = table if form.target == "error" else table.drop(columns="weight", errors="ignore")
    problem = problem_of(rows, form, Objective(name=form.objective), fixed=own)
    solution = minimise(problem)
    values = problem.design.external(solution.theta[0]).tolist()
    parameters = dict(zip(form.parameters, values, strict=True))
    return Step(problem=problem, solution=solution, parameters=parameters)


def _intervals(
    boot: Bootstrap, names: Mapping[str, float], draws: Array, level: float
) -> dict[str, Any]:
    """Return the `intervals` block of law.json."""
    ends = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0).T
    return {
        "level": level,
        "method": boot.method,
        "resamples": boot.resamples,
        "converged": len(draws),
        "unit": boot.units.name,
        "units": boot.units.count,
        "parameters": {name: pair.tolist() for name, pair in zip(names, ends, strict=True)},
    }


def _joined(boots: Sequence[Bootstrap]) -> Array:
    """Return the draws of both steps (S, P) of the resamples that have a minimum in both."""
    both = np.logical_and.reduce([boot.kept for boot in boots])
    return np.hstack([boot.draws[both[boot.kept]] for boot in boots])


def _status(steps: Sequence[Step], draws: Array | None, resamples: int) -> LawStatus:
    if not all(s.solution.converged[0] for s in steps):
        return "max_iter"
    if resamples and draws is None:
        return "not_identified"
    return "converged" if all(s.is_law for s in steps) else "bound_hit"


def _predicted(form: Form, parameters: Mapping[str, float], table: pd.DataFrame) -> Array:
    return form.predict(parameters, {v: column(table, v) for v in form.variables})


def _is_enough(flops: Array, cutoff: float) -> bool:
    below = flops <= cutoff
    return bool(below.mean() >= LEAST_SHARE and (~below).sum() >= FEWEST_TESTED)


def _withheld(table: pd.DataFrame, form: Form, fixed: Mapping[str, float], cut: float) -> float:
    """Return the RMS error of the accuracy of models above a cutoff in C; NaN without a law."""
    below = column(table, "flops") <= cut
    train, test = (table.iloc[np.flatnonzero(rows)] for rows in (below, ~below))
    if len(train) < len(form.parameters) + SPARE_ROWS:
        return float("nan")
    steps = fit_steps(train.reset_index(drop=True), form, fixed)
    if not all(step.is_law for step in steps):
        return float("nan")
    parameters = {k: v for step in steps for k, v in step.parameters.items()}
    return float(
        np.sqrt(((_predicted(form, parameters, test) - column(test, "error")) ** 2).mean())
    )


def _row(
    table: pd.DataFrame, form: Form, cuts: Sequence[float], fixed: Mapping[str, float]
) -> dict[str, Any]:
    steps = fit_steps(table, form, fixed)
    parameters = {k: v for step in steps for k, v in step.parameters.items()}
    inside = _predicted(form, parameters, table) - column(table, "error")
    most = float(column(table, "flops").max())
    errors = {most / cut: _withheld(table, form, fixed, cut) for cut in cuts}
    known = {reach: error for reach, error in errors.items() if np.isfinite(error)}
    pooled = float(np.sqrt(np.mean(np.square(list(known.values()))))) if known else None
    return {
        "form": form.name,
        "n_parameters": len(form.parameters),
        "converged": all(step.is_law for step in steps),
        "rms_in_range": float(np.sqrt((inside**2).mean())),
        "score": None,
        "rms_relative_error": pooled,
        "n_cutoffs": len(known),
        "by_cutoff": [[reach, error] for reach, error in known.items()],
        "asked": ASKED,
    }
