"""Rank forms by how well they predict larger runs that were withheld.

The error within the data favours the form with most parameters. Each form is therefore refitted
below several cutoffs in C and predicts the runs above them (rolling origin). Its score is the
geometric mean over cutoffs of the RMS relative error there, so that the farthest cutoff, where all
forms err most, does not decide alone. At a cutoff where a form has no minimum it is given the worst
error of the forms that have one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.forms import FORMS, Form, column
from analysis.solve.objective import Objective, problem_of, residuals
from analysis.solve.progress import OnProgress, no_progress
from analysis.solve.residual_spread import far_rows
from analysis.solve.solver import minimise
from analysis.validate.hindcast import Hindcast, each_hindcast

SPARE_ROWS = 2  # rows beyond the parameters that a fit needs at least
UNTESTED = (
    "form=all ranks forms by larger runs that it withholds, and this table is too small or too "
    "narrow in C for that; name a form, as form=chinchilla"
)
EXACT = 1e-6  # error below which a form counts as exact, so that its weight stays finite
# Rows near the frontier show the curve L(C), the line N*(C) and the valley about it: 6 numbers. A
# surface with more of them takes the rest from the noise.
MOST_PARAMETERS_NEAR = 6
POWER = 4.0  # of the score in the weights
LEAST_WEIGHT = 0.01  # below which a form is left out


def candidates(table: pd.DataFrame) -> list[Form]:
    """Return the forms that a table can carry and that use most of its variables.

    Forms that hold near the frontier alone, or that another comparison ranks, are left out. Raises
    ValueError where there is none.
    """
    ranked = [f for f in FORMS.values() if f.compared_by == "all" and not f.own_method]
    forms = [f for f in ranked if _carries(table, f) and not f.near_frontier]
    targets = [t for t in ("loss", "reward", "error") if any(f.target == t for f in forms)]
    if not targets:
        names = ", ".join(map(str, table.columns))
        raise ValueError(f"form=all finds no form for columns {names}; name one, or add columns")
    forms = [form for form in forms if form.target == targets[0]]
    surfaces = [form for form in forms if form.is_surface]
    if surfaces:
        return surfaces
    most = max(len(form.variables) for form in forms)
    return [form for form in forms if len(form.variables) == most]


def candidates_near(table: pd.DataFrame) -> list[Form]:
    """Return the forms that rows near the frontier can carry; ValueError where there is none."""
    own = [form for form in FORMS.values() if form.near_frontier and _carries(table, form)]
    return [form for form in [*candidates(table), *own] if is_carried_near(form)]


def is_carried_near(form: Form) -> bool:
    """Return whether rows near the frontier can determine a form."""
    return not form.is_surface or len(form.parameters) <= MOST_PARAMETERS_NEAR


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """How well each form predicts withheld runs.

    rows: a form a row, best first, as the `comparison` of law.json; `score` is None for a form that
        has no minimum below any cutoff, and for all where no larger runs can be withheld
    hindcasts: by form
    table: the rows that were ranked on, without the few that lie far from every surface
    """

    rows: list[dict[str, Any]]
    hindcasts: dict[str, list[Hindcast]]
    table: pd.DataFrame

    @property
    def is_tested(self) -> bool:
        """Whether larger runs were withheld and predicted by any form."""
        return any(row["score"] is not None for row in self.rows)


def rank_forms(
    table: pd.DataFrame,
    objective: Objective | None,
    *,
    near: bool = False,
    level: float = 0.9,
    seed: int = 0,
    on_progress: OnProgress = no_progress,
) -> Ranking:
    """Return the ranking of the forms that apply to a table; ValueError where there are none.

    table: the runs
    objective: None for each form's own
    near: whether the table holds rows near the frontier alone, which more forms describe
    level: of the intervals whose coverage is counted
    seed: of the resamples
    on_progress: takes ("forms", done, total)
    """
    forms = candidates_near(table) if near else candidates(table)
    rows, found = [], {}
    table = _without_far_rows(table, forms)
    for done, form in enumerate(forms):
        on_progress("forms", done, len(forms))
        found[form.name] = each_hindcast(
            table, form, objective or Objective(name=form.objective), level=level, seed=seed
        )
        rows.append(_row(table, form, objective, found[form.name]))
    on_progress("forms", len(forms), len(forms))
    return Ranking(rows=best_first(rows), hindcasts=found, table=table)


def best_first(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows with their scores, best first (the rule at the head of this module).

    rows: a form a row, with `n_parameters`, and `by_cutoff`, pairs of a cutoff and the error there
    """
    worst: dict[float, float] = {}
    for cutoff, error in (point for row in rows for point in row["by_cutoff"]):
        worst[cutoff] = max(error, worst.get(cutoff, 0.0))
    scored = []
    for row in rows:
        score = None
        if row["by_cutoff"]:
            errors = list({**worst, **dict(row["by_cutoff"])}.values())
            score = float(np.exp(np.log(np.maximum(errors, EXACT)).mean()))
        scored.append({**row, "score": score})
    return sorted(
        scored, key=lambda row: (row["score"] is None, row["score"] or 0.0, row["n_parameters"])
    )


def weights_of(rows: Sequence[Mapping[str, Any]], power: float = POWER) -> dict[str, float]:
    """Return the weight of each form, without those that hardly count.

    rows: of the ranking, of forms that have a minimum; those without a score weigh nothing unless
        none has one
    power: of the scores
    """
    rows = [row for row in rows if row["score"] is not None] or list(rows)
    best = min((row["score"] for row in rows if row["score"]), default=1.0)
    shares = {row["form"]: ((row["score"] or best) / best) ** -power for row in rows}
    total = sum(shares.values())
    weights = {name: share for name, share in shares.items() if share >= LEAST_WEIGHT * total}
    return {name: share / sum(weights.values()) for name, share in weights.items()}


def _without_far_rows(table: pd.DataFrame, forms: list[Form]) -> pd.DataFrame:
    """Return the table without the few rows that lie far from every surface fitted to it."""
    far = np.full(len(table), all(form.is_surface for form in forms))
    for form in forms:
        problem = problem_of(table, form, Objective())
        errors = residuals(minimise(problem, n_best=1).theta[:1], problem)[0]
        far &= far_rows(errors, len(form.parameters))
    return table.loc[~far].reset_index(drop=True)


def _carries(table: pd.DataFrame, form: Form) -> bool:
    varying = all(v in table and np.ptp(column(table, v)) > 0 for v in form.variables)
    enough = len(table) >= len(form.parameters) + SPARE_ROWS
    return varying and enough and form.target in table


def _row(
    table: pd.DataFrame, form: Form, objective: Objective | None, found: list[Hindcast]
) -> dict[str, Any]:
    problem = problem_of(table, form, objective or Objective(name=form.objective))
    solution = minimise(problem)
    inside = residuals(solution.theta[:1], problem)[0]
    rows = [one.row for one in found if one.row["converged"]]
    errors = np.array([row["rms_relative_error"] for row in rows])
    return {
        "form": form.name,
        "n_parameters": len(form.parameters),
        "converged": bool(solution.converged[0]),
        "rms_in_range": float(np.sqrt((inside**2).mean())),
        "score": None,
        "rms_relative_error": float(np.sqrt((errors**2).mean())) if len(rows) else None,
        "n_cutoffs": len(rows),
        "by_cutoff": [[row["distance"], row["rms_relative_error"]] for row in rows],
    }
