"""How much the law depends on choices: each objective, with and without the rows at the ends.

Besiroglu et al. 2024 (2404.10102) leave out five of 245 points, those of highest loss, and a moves
from .56 to .51. Such a table belongs beside every law ("(Mis)fitting", 2502.18969).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from analysis.forms import Array, Form, column
from analysis.forms.optimum import optimal_split
from analysis.forms.token_flops import TokenFlops
from analysis.solve.objective import Objective, problem_of
from analysis.solve.solver import minimise_near
from analysis.validate.near_frontier import WITHIN, is_near_frontier

HIGHEST_LOSS = 0.02  # share of the rows of highest loss that a subset leaves out, at least one row
LOWEST_COMPUTE = 0.1  # share of the rows of lowest C that a subset leaves out, at least one row
MOST_ROWS = 2000  # of a longer table so many evenly spaced rows are fitted, as `n_runs` says
SPARE_ROWS = 2  # rows beyond the parameters that a fit needs at least


def sensitivity(
    table: pd.DataFrame,
    form: Form,
    objective: Objective,
    guesses: Array,
    *,
    flops: float,
    fixed: Mapping[str, float],
    token_flops: TokenFlops | None = None,
) -> list[dict[str, Any]]:
    """Return one line a fit: objective, rows, parameters and, for a surface, a and D*/N*.

    table: the runs
    form: the form
    objective: of the law itself, used in place of the default one of the same name
    guesses: parameters (S, P) of the law's best minima, where the fits start
    flops: C at which a and D*/N* are given
    fixed: values that some parameters keep
    token_flops: FLOPs per token of the runs' shapes, None for C = 6ND
    """
    lines = []
    bounded = np.array([name != form.offset for name in form.parameters])  # 0 is an answer for E
    if len(table) > MOST_ROWS:
        table = table.iloc[np.linspace(0, len(table) - 1, MOST_ROWS).astype(int)]
    for rows, positions in subsets(table).items():
        if len(positions) < len(form.parameters) + SPARE_ROWS:
            continue
        for name in dict.fromkeys(("huber_log", "lad_log", "ls_log", "ls", objective.name)):
            objective_of_row = objective if name == objective.name else Objective(name=name)
            problem = problem_of(table.iloc[positions], form, objective_of_row, fixed=dict(fixed))
            solution = minimise_near(guesses, problem)
            values = problem.design.external(solution.theta[0])
            parameters = dict(zip(form.parameters, values.tolist(), strict=True))
            row: dict[str, Any] = {
                "objective": name,
                "delta": objective_of_row.delta if name in ("huber_log", "envelope") else None,
                "rows": rows,
                "n_runs": len(positions),
                "converged": bool(
                    solution.converged[0] and not (solution.at_bound[0] & bounded).any()
                ),
                "parameters": parameters,
            }
            if form.is_surface and row["converged"]:
                split = optimal_split(form, parameters, flops, token_flops=token_flops)
                row |= {"a": float(split["a"]), "flops": flops}
                row |= {"tokens_per_param": float(split["tokens_per_param"])}
            lines.append(row)
    return lines


def subsets(table: pd.DataFrame) -> dict[str, Array]:
    """Return positions of all rows, and without the rows of highest loss, lowest C, or far off."""
    everything = np.arange(len(table))
    loss, flops = column(table, "loss"), column(table, "flops")
    n_high = max(1, round(HIGHEST_LOSS * len(table)))
    n_low = max(1, round(LOWEST_COMPUTE * len(table)))
    near_rows = np.flatnonzero(is_near_frontier(table))
    positions = {
        "all": everything,
        f"without the {n_high} of highest loss": np.sort(np.argsort(-loss, kind="stable")[n_high:]),
        f"without the {n_low} of lowest C": np.sort(np.argsort(flops, kind="stable")[n_low:]),
    }
    if len(near_rows) < len(table):
        positions[f"{len(near_rows)} within {WITHIN:.0%} of the best"] = near_rows
    return positions
