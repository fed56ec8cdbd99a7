"""Plain power laws of the loss in one variable, L = [E +] k x^-exponent, x = C, N or D.

Kaplan et al. 2020 eq. 1.1-1.3. Each law is fitted to its frontier: the runs that no run with at
most as much x beats, since other runs are limited by another variable. On a grid at fixed budgets
even the frontier is, so these exponents describe the grid. The objective is least squares on log L:
a plain power law bends away from data with an offset, and the median of few curved residuals is not
unique.
"""

from typing import Any

import numpy as np
import pandas as pd

from analysis.forms import FORMS, column, form_named
from analysis.laws.law_file import LawStatus
from analysis.solve.objective import Objective, problem_of
from analysis.solve.solver import minimise
from analysis.uncertainty.bootstrap import bootstrap, units_of

VARIABLES = ("flops", "params", "tokens")
OBJECTIVE = "ls_log"
MOST_RESAMPLES = 200  # of each of the six laws
SPARE_ROWS = 2  # rows beyond the parameters that a fit needs at least


def frontier_runs(table: pd.DataFrame, variable: str) -> pd.DataFrame:
    """Return the runs that no run with at most as much of a variable beats, sorted by it."""
    x, loss = column(table, variable), column(table, "loss")
    order = np.lexsort((loss, x))
    earlier = np.minimum.accumulate(np.concatenate([[np.inf], loss[order][:-1]]))
    return table.iloc[order[loss[order] < earlier]]


def power_laws(
    table: pd.DataFrame, *, resamples: int, level: float, seed: int = 0
) -> list[dict[str, Any]]:
    """Fit L(C), L(N) and L(D), each with and without an offset.

    table: the runs
    resamples: of the bootstrap, at most `MOST_RESAMPLES`
    level: of the intervals
    seed: of the resamples

    Returns the `power_laws` blocks of law.json.
    """
    options = {"resamples": min(resamples, MOST_RESAMPLES), "level": level, "seed": seed}
    return [
        _fit_power_law(frontier_runs(table, variable), f"power_{variable}{ending}", **options)
        for variable in VARIABLES
        for ending in ("", "_offset")
    ]


def _fit_power_law(
    rows: pd.DataFrame, name: str, *, resamples: int, level: float, seed: int
) -> dict[str, Any]:
    form = form_named(name)
    (variable,) = form.variables
    block = {
        "form": name,
        "formula": form.formula,
        "variable": variable,
        "offset": form.offset is not None,
        "objective": OBJECTIVE,
        "n_runs": len(rows),
        "parameters": None,
        "intervals": None,
        "points": {v: rows[v].tolist() for v in (variable, "loss")},
    }
    if len(rows) < len(form.parameters) + SPARE_ROWS:
        return {**block, "status": "not_identified"}
    problem = problem_of(rows, form, Objective(name=OBJECTIVE))
    solution = minimise(problem, n_best=4)
    if not solution.converged[0]:
        return {**block, "status": "not_identified"}
    values = problem.design.external(solution.theta[0])
    status: LawStatus = "bound_hit" if solution.at_bound[0].any() else "converged"
    block |= {
        "status": status,
        "parameters": dict(zip(form.parameters, values.tolist(), strict=True)),
    }
    if resamples and status == "converged":
        boot = bootstrap(problem, solution, units_of(rows), resamples=resamples, seed=seed)
        if len(boot.draws) > resamples / 2:
            block["intervals"] = {
                p: boot.interval(boot.draws[:, i], level) for i, p in enumerate(form.parameters)
            }
    return block


def predict_power(block: dict[str, Any], values: np.ndarray) -> np.ndarray:
    """Return L at values of the block's variable."""
    return FORMS[block["form"]].predict(block["parameters"], {block["variable"]: values})
