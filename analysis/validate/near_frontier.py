"""The runs near the frontier, and whether the runs far from it spoil the law.

An additive law holds near the optimum only. Runs far from it, such as a large model on few tokens,
lie off the law by more than their scatter, and Huber's objective follows them where there are many.
On 15 IsoFLOP tables of Porian et al. 2024 (2406.19146) laws of the runs within 10 % of the frontier
predicted withheld runs with a half to a third of the error (`benchmarks/backtest.py`).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from analysis.forms import Array, Form, column
from analysis.solve.objective import Objective, problem_of
from analysis.solve.solver import minimise
from analysis.validate.hindcast import cutoffs, reach_of

WITHIN = 0.10  # share of the frontier's loss up to which a run is near
SAME_C = 1.10  # ratio of C up to which two runs have the same budget
FEWEST_ROWS = 2  # rows beyond the parameters that a fit needs at least
FEWEST_TESTED = 3  # withheld runs near the frontier that a comparison needs


def is_near_frontier(table: pd.DataFrame, within: float = WITHIN) -> Array:
    """Return which rows (n,) have a loss within a share of the best loss of no more C."""
    flops, loss = column(table, "flops"), column(table, "loss")
    order = np.argsort(flops, kind="stable")
    best = np.minimum.accumulate(loss[order])
    last = np.searchsorted(flops[order], SAME_C * flops, side="right") - 1
    return loss <= (1 + within) * best[last]


def near_frontier(table: pd.DataFrame, within: float | None) -> pd.DataFrame:
    """Return the rows near the frontier, or all rows for None.

    Raises ValueError for a share that is not positive.
    """
    if within is None:
        return table
    check_within(within)
    return table.loc[is_near_frontier(table, within)].reset_index(drop=True)


def check_within(within: float | None) -> None:
    """Refuse a share that is not positive."""
    if within is not None and not within > 0:
        raise ValueError(f"within={within} is not positive; 0.1 keeps runs within 10 % of the best")


def far_runs(
    table: pd.DataFrame,
    form: Form,
    objective: Objective,
    rows: list[dict[str, Any]],
    *,
    fixed: Mapping[str, float],
) -> dict[str, float] | None:
    """Compare the law of all runs with that of the runs near the frontier, on withheld near runs.

    table: the runs
    form: the form
    objective: the objective
    rows: the hindcasts of all runs
    fixed: values that some parameters keep

    Returns the RMS errors in log loss, `all` and `near`, over the cutoffs where both have a
    minimum, and the number of near runs as `n_near`; None where no cutoff could be tested.
    """
    is_near = is_near_frontier(table)
    if is_near.all():
        return None
    along = reach_of(table, form)
    errors: dict[str, list[Array]] = {"all": [], "near": []}
    by_cutoff = {row["cutoff_flops"]: row for row in rows if row["converged"]}
    for cutoff in cutoffs(along):
        below, above = is_near & (along <= cutoff), is_near & (along > cutoff)
        few = below.sum() < len(form.parameters) + FEWEST_ROWS or above.sum() < FEWEST_TESTED
        if few or cutoff not in by_cutoff:
            continue
        problem = problem_of(table.loc[below], form, objective, fixed=dict(fixed))
        solution = minimise(problem, n_best=4)
        if not solution.converged[0]:
            continue
        values = problem.design.external(solution.theta[:1])[0]
        laws = {
            "all": by_cutoff[cutoff]["parameters"],
            "near": dict(zip(form.parameters, values, strict=True)),
        }
        withheld = table.loc[above]
        columns = {v: column(withheld, v) for v in form.variables if v in withheld}
        for name, law in laws.items():
            errors[name].append(np.log(form.predict(law, columns) / column(withheld, "loss")))
    if not errors["near"]:
        return None
    rms = {k: float(np.sqrt((np.concatenate(v) ** 2).mean())) for k, v in errors.items()}
    return {**rms, "n_near": int(is_near.sum())}
