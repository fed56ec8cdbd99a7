"""Rank forms of repeated data by how well they predict more passes than they were fitted to.

A hindcast over C says little about repetition: the withheld runs are larger, not more repeated.
Here each form is refitted to the runs of at most c passes over their unique tokens, and predicts
those of more, up to `REACH` times c (rolling origin over several c). Its score is the geometric
mean over c of the RMS error of log loss, as that of `analysis.validate.form_ranking`. No form is
asked farther than that: in Muennighoff's table passes go to 9000, where a risen loss stands still.
A fit with a parameter at its bound is no law, and counts as one without a minimum.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.forms import FORMS, Array, Form, column
from analysis.solve.objective import Objective, problem_of, residuals
from analysis.solve.progress import OnProgress, no_progress
from analysis.solve.solver import Solution, minimise
from analysis.validate.form_ranking import SPARE_ROWS, best_first

BESIDE = ("chinchilla", "data_constrained")  # forms that cannot rise, ranked with those that can
REACH = 4.0  # passes that are predicted, over those of the fit
MOST_CUTOFFS = 6  # cutoffs, each of which is a fit of every form
LEAST_SHARE = 0.3  # share of the rows that must remain below a cutoff
FEWEST_TESTED = 3  # withheld runs of a cutoff
FEWEST_PASSES = 8.0  # passes of a cutoff: fewer than about 4 hardly cost (2305.16264)
SAME = 1.05  # ratio of passes up to which they are one cutoff
ASKED = "repetition"  # the form= that this ranking answers
UNTESTED = (
    "form=repetition ranks forms by runs of more epochs that it withholds, and this table has too"
    " few runs that pass over their unique tokens more than twice; add runs of more epochs, or name"
    " a form, as form=data_constrained"
)


def passes_of(table: pd.DataFrame) -> Array:
    """Return the passes of each run over its unique tokens (n,), at least 1."""
    return np.maximum(column(table, "tokens") / column(table, "unique_tokens"), 1.0)


def epoch_cutoffs(passes: Array) -> list[float]:
    """Return the cutoffs in passes, smallest first; none where nothing can be withheld."""
    steps = np.floor(np.log(np.unique(passes)) / np.log(SAME) + 0.5)
    levels = np.unique(passes)[np.concatenate([np.diff(steps) > 0, [True]])]
    possible = [
        float(c)
        for c in levels
        if c >= FEWEST_PASSES
        and (passes <= c).mean() >= LEAST_SHARE
        and ((passes > c * SAME) & (passes <= c * REACH * SAME)).sum() >= FEWEST_TESTED
    ]
    if len(possible) <= MOST_CUTOFFS:
        return possible
    apart = np.linspace(0, len(possible) - 1, MOST_CUTOFFS).round().astype(int)
    return [possible[i] for i in apart]


def repetition_forms(table: pd.DataFrame) -> list[Form]:
    """Return the forms of repeated data that a table can carry, beside those that cannot rise."""
    forms = [f for f in FORMS.values() if f.compared_by == ASKED or f.name in BESIDE]
    return [f for f in forms if _carries(table, f)]


def rank_by_epochs(
    table: pd.DataFrame,
    objective: Objective | None = None,
    *,
    on_progress: OnProgress = no_progress,
) -> list[dict[str, Any]]:
    """Return the forms best first, as the `comparison` of law.json; cutoffs are epochs.

    table: the runs, with unique_tokens
    objective: None for each form's own
    on_progress: takes ("forms", done, total)

    Raises ValueError for a table in which no runs of more passes can be withheld.
    """
    passes, forms = passes_of(table), repetition_forms(table)
    cutoffs = epoch_cutoffs(passes)
    if not cutoffs:
        raise ValueError(UNTESTED)
    rows = []
    for done, form in enumerate(forms):
        on_progress("forms", done, len(forms))
        rows.append(_row(table, form, objective or Objective(name=form.objective), cutoffs))
    on_progress("forms", len(forms), len(forms))
    rows = best_first(rows)
    if not rows or rows[0]["score"] is None:
        raise ValueError(UNTESTED)
    return rows


def withheld_errors(
    table: pd.DataFrame, form: Form, objective: Objective, cutoff: float
) -> Array | None:
    """Return log predicted less log measured loss of the withheld runs (m,); None: no minimum.

    table: the runs
    form: the form
    objective: the objective
    cutoff: most passes of the runs that are fitted
    """
    passes = passes_of(table)
    below = passes <= cutoff * SAME
    above = ~below & (passes <= cutoff * REACH * SAME)
    if below.sum() < len(form.parameters) + SPARE_ROWS:
        return None
    train, test = (table.iloc[np.flatnonzero(rows)] for rows in (below, above))
    problem = problem_of(train.reset_index(drop=True), form, objective)
    solution = minimise(problem, n_best=4)
    if not np.isfinite(solution.value[0]) or _is_at_bound(form, solution):
        return None
    parameters = dict(zip(form.parameters, problem.design.external(solution.theta[0]), strict=True))
    values = {v: column(test, v) for v in form.variables}
    errors = np.log(form.predict(parameters, values)) - np.log(column(test, form.target))
    return errors if np.isfinite(errors).all() else None


def _row(
    table: pd.DataFrame, form: Form, objective: Objective, cutoffs: Sequence[float]
) -> dict[str, Any]:
    problem = problem_of(table, form, objective)
    solution = minimise(problem, n_best=4)
    inside = residuals(solution.theta[:1], problem)[0]
    errors = {c: withheld_errors(table, form, objective, c) for c in cutoffs}
    rms = {c: float(np.sqrt((e**2).mean())) for c, e in errors.items() if e is not None}
    pooled = float(np.sqrt(np.mean(np.square(list(rms.values()))))) if rms else None
    return {
        "form": form.name,
        "n_parameters": len(form.parameters),
        "converged": bool(solution.converged[0]),
        "rms_in_range": float(np.sqrt((inside**2).mean())),
        "score": None,
        "rms_relative_error": pooled,
        "n_cutoffs": len(rms),
        "by_cutoff": [[c, error] for c, error in rms.items()],
        "asked": ASKED,
    }


def _is_at_bound(form: Form, solution: Solution) -> bool:
    """Return whether the best end point is no law: a parameter other than E is at its bound."""
    at_bound = dict(zip(form.parameters, solution.at_bound[0], strict=True))
    return any(hit for name, hit in at_bound.items() if name != form.offset)


def _carries(table: pd.DataFrame, form: Form) -> bool:
    varying = all(v in table and np.ptp(column(table, v)) > 0 for v in form.variables)
    return varying and len(table) >= len(form.parameters) + SPARE_ROWS
