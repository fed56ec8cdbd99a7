"""A study designed before any of its cells exists, from a law that is assumed to be true.

The first cells tell all parameters apart; each further cell is the one of the largest drop of the
target's variance per FLOP. Linear theory gives the interval that is expected after each cell. At
some numbers of cells, fits to simulated losses check it, with the usual noise
(`analysis.solve.seed_noise.usual_deviation`).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from analysis.designing.batch_file import cell_rows
from analysis.designing.candidates import Candidate, flops_of
from analysis.designing.goal import Goal, half_width, standing
from analysis.designing.information import information_of, noise_at
from analysis.designing.next_step import Options, fit_if_identified, table_of
from analysis.designing.selection import MOST, select, spread
from analysis.estimation.checks import SPARE_ROWS
from analysis.estimation.fit_alarms import FEWEST_UNITS
from analysis.forms import FORMS
from analysis.forms.optimum import optimal_split
from analysis.laws.law import Law
from analysis.runs.table import Runs
from analysis.solve.seed_noise import usual_deviation

RESAMPLES = 200
POINTS = 4  # numbers of cells that are simulated


def from_nothing(
    law: Law, pool: Sequence[Candidate], goal: Goal, *, start: int, cells: int, times: int
) -> dict[str, Any]:
    """Return the cells in order with the expected half-width after each, and the simulations.

    law: the law that is assumed to be true
    pool: the cells that may run
    goal: target, precision and budget
    start: how many cells tell all parameters apart first
    cells: how many follow where neither precision nor budget is set
    times: how many tables are drawn for each simulated number of cells

    Raises ValueError where the budget affords too few cells, and where the precision is below the
    scatter of one run.
    """
    budget = goal.max_flops or np.inf
    prior = information_of(law, pool, goal, is_prior=True)
    picks = spread(prior, pool, reached={}, number=start, budget=budget, trunks=FEWEST_UNITS)
    if len(picks) < len(law.parameters) + SPARE_ROWS:
        raise ValueError(
            f"target.max_flops={goal.max_flops:g} affords {len(picks)} cells of the pool, too few"
            f" for a law of {len(law.parameters)} parameters; raise it, or lower pool.flops"
        )
    first = [pool[p.index] for p in picks]
    rest = [c for c in pool if c not in first]
    information = information_of(law, rest, goal, table=table_of(first, [1.0] * len(first)))
    floor, value = _at_target(law, goal)
    limit = _variance_limit(goal, value, floor, unit=law.measure.unit_words)
    most = MOST if limit or goal.max_flops else cells
    unspent = budget - flops_of(first)
    further = select(information, rest, reached={}, limit=limit, budget=unspent, most=most)
    variances = [information.variance(), *(p.variance for p in further)]
    halves = [half_width(v**0.5, floor, value=value, goal=goal) for v in variances]
    rows = cell_rows(picks, pool, []) + cell_rows(further, rest, halves[1:])
    rows[len(first) - 1]["half"] = halves[0]
    spent = np.cumsum([row["cost"] for row in rows]).tolist()
    short = bool(goal.precision) and halves[-1] > 1.001 * goal.precision
    order = first + [rest[p.index] for p in further]
    return {
        "why": f"the law taken for true; the first {len(first)} cells tell all parameters apart,"
        " the others are the largest drop of variance per FLOP",
        "stop": "pool or budget end before the precision is reached" if short else "",
        "cells": [row | {"total": total} for row, total in zip(rows, spent, strict=True)],
        "simulated": simulated(law, order, spent, goal, start=len(first), times=times),
    }


def simulated(
    law: Law,
    cells: Sequence[Candidate],
    spent: Sequence[float],
    goal: Goal,
    *,
    start: int,
    times: int,
) -> list[dict[str, Any]]:
    """Return the median half-width of fits to simulated losses at some numbers of cells.

    `usable` is the share of the fits that give the target an interval; below half of them there is
    no median.

    law: the law that is assumed to be true
    cells: in the order in which they would run
    spent: FLOPs in all after each of them
    goal: the target
    start: the least number of cells to simulate
    times: how many tables are drawn for each number of cells, 0 for no simulation
    """
    counts = np.geomspace(start, len(cells), POINTS).round().astype(int) if times else np.array([])
    rows = []
    for count in map(int, np.unique(counts)):
        halves = _simulated_halves(law, cells[:count], goal, times)
        row = {"cells": count, "total": spent[count - 1], "times": times}
        half = float(np.median(halves)) if len(halves) > times / 2 else None
        rows.append(row | {"usable": len(halves) / times, "half": half})
    return rows


def _simulated_halves(law: Law, cells: Sequence[Candidate], goal: Goal, times: int) -> list[float]:
    """Return the half-widths of the usable fits among `times` fits to simulated losses."""
    table = table_of(cells, [1.0] * len(cells))
    values = {v: table[v].to_numpy(float) for v in ("params", "tokens", "flops")}
    true = FORMS[law.form].predict(law.parameters, values)
    options = Options(resamples=RESAMPLES, form=law.form, start=1)
    halves = []
    for seed in range(times):
        rng = np.random.default_rng([seed, len(cells)])
        losses = true + usual_deviation(true) * rng.standard_normal(len(true))
        refit, why = fit_if_identified(Runs(table=table.assign(loss=losses)), goal, options)
        now = standing(refit, goal) if refit is not None and not why else None
        halves += [now.half] if now else []
    return halves


def _at_target(law: Law, goal: Goal) -> tuple[float, float]:
    """Return the deviation of one run's log loss at the target (0 for N*), and the value there."""
    best = optimal_split(FORMS[law.form], law.parameters, goal.flops)
    if goal.quantity == "params":
        return 0.0, float(best["params"])
    values = {k: np.asarray([best[k]], dtype=float) for k in ("params", "tokens")}
    loss = FORMS[law.form].predict(law.parameters, values | {"flops": np.array([goal.flops])})
    return float(noise_at(law, loss)[0]), float(loss[0])


def _variance_limit(goal: Goal, value: float, floor: float, *, unit: str) -> float:
    """Return the variance (of the logarithm) that the precision allows, 0 without a precision."""
    if not goal.precision:
        return 0.0
    half = np.log1p(goal.precision) if goal.quantity == "params" else goal.precision / value
    limit = float(half / goal.z) ** 2 - floor**2
    if limit <= 0:
        raise ValueError(
            f"target.precision={goal.precision:g} is less than the scatter of one run,"
            f" {goal.z * floor * value:.3g} {unit} at {100 * goal.level:g}%; ask for more"
        )
    return limit
