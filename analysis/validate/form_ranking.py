"""Rank forms by how well they predict larger runs that were withheld.

The error within the data favours the form with most parameters. Each form is therefore refitted
below several cutoffs in C and predicts the runs above them (rolling origin). Its score is the
geometric mean over cutoffs of the RMS relative error there, so that the farthest cutoff, where all
forms err most, does not decide alone. At a cutoff where a form has no minimum it is given the worst
error of the forms that have one.
"""

from typing import Any

import numpy as np
import pandas as pd

from analysis.forms import FORMS, Form, column
from analysis.solve.objective import Objective, problem_of, residuals
from analysis.solve.progress import OnProgress, no_progress
from analysis.solve.solver import minimise
from analysis.validate.hindcast import hindcasts

SPARE_ROWS = 2  # rows beyond the parameters that a fit needs at least


def candidates(table: pd.DataFrame) -> list[Form]:
    """Return the forms that a table can carry and that use most of its variables.

    Raises ValueError where there is none.
    """
    forms = [form for form in FORMS.values() if _carries(table, form)]
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


def compare(
    table: pd.DataFrame, objective: Objective | None, on_progress: OnProgress = no_progress
) -> list[dict[str, Any]]:
    """Return one row a form, best first; ValueError where no larger runs can be withheld."""
    forms, rows = candidates(table), []
    for done, form in enumerate(forms):
        on_progress("forms", done, len(forms))
        rows.append(_score(table, form, objective))
    on_progress("forms", len(forms), len(forms))
    if not any(row["rms_relative_error"] is not None for row in rows):
        raise ValueError(
            "form=all ranks forms by larger runs that it withholds, and this table is too small "
            "or too narrow in C for that; name a form, as form=chinchilla"
        )
    worst: dict[float, float] = {}
    for distance, error in (point for row in rows for point in row["by_cutoff"]):
        worst[distance] = max(error, worst.get(distance, 0.0))
    for row in rows:
        if row["by_cutoff"]:
            errors = list({**worst, **dict(row["by_cutoff"])}.values())
            row["score"] = float(np.exp(np.log(errors).mean()))
    return sorted(rows, key=lambda row: (row["score"] is None, row["score"] or np.inf))


def _carries(table: pd.DataFrame, form: Form) -> bool:
    varying = all(v in table and np.ptp(column(table, v)) > 0 for v in form.variables)
    enough = len(table) >= len(form.parameters) + SPARE_ROWS
    return varying and enough and form.target in table


def _score(table: pd.DataFrame, form: Form, objective: Objective | None) -> dict[str, Any]:
    objective_of_form = objective or Objective(name=form.objective)
    problem = problem_of(table, form, objective_of_form)
    solution = minimise(problem)
    inside = residuals(solution.theta[:1], problem)[0]
    backtest = hindcasts(table, form, objective_of_form)
    rows = [row for row in (backtest or {}).get("rows", []) if row["converged"]]
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
