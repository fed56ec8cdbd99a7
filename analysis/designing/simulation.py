"""A study designed before any of its cells exists, from a law taken for true.

The first cells tell all parameters apart, the others are the largest drop of the target's variance
per FLOP; the interval is what linear theory expects after each, and at some numbers of cells what
fits to drawn losses say, with the noise that is usual
(`analysis.solve.seed_noise.usual_deviation`).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from analysis.designing.batch_file import cell_rows
from analysis.designing.candidates import Candidate, flops_of
from analysis.designing.goal import Goal, half_width, standing
from analysis.designing.information import believed, noise_at
from analysis.designing.next_step import Options, fitted, table_of
from analysis.designing.selection import MOST, allot, spread
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
    """Return the cells in order with the expected half-width after each, and the simulated ones.

    ValueError where the budget affords too few cells, or the precision is below a run's scatter.
    """
    budget = goal.max_flops or np.inf
    belief = believed(law, pool, goal, loose=True)
    picks = spread(belief, pool, reached={}, number=start, budget=budget, trunks=FEWEST_UNITS)
    if len(picks) < len(law.parameters) + SPARE_ROWS:
        raise ValueError(
            f"target.max_flops={goal.max_flops:g} affords {len(picks)} cells of the pool, too few"
            f" for a law of {len(law.parameters)} parameters; raise it, or lower pool.flops"
        )
    first = [pool[p.index] for p in picks]
    rest = [c for c in pool if c not in first]
    belief = believed(law, rest, goal, table=table_of(first, [1.0] * len(first)))
    floor, value = _at_target(law, goal)
    wanted = _wanted(goal, value, floor)
    most = MOST if wanted or goal.max_flops else cells
    left = budget - flops_of(first)
    chosen = allot(belief, rest, reached={}, wanted=wanted, budget=left, most=most)
    variances = [belief.variance(), *(p.variance for p in chosen)]
    halves = [half_width(v**0.5, floor, value=value, goal=goal) for v in variances]
    rows = cell_rows(picks, pool, []) + cell_rows(chosen, rest, halves[1:])
    rows[len(first) - 1]["half"] = halves[0]
    spent = np.cumsum([row["cost"] for row in rows]).tolist()
    short = bool(goal.precision) and halves[-1] > 1.001 * goal.precision
    order = first + [rest[p.index] for p in chosen]
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
    """Return the median half-width of fits to drawn losses at some numbers of cells.

    `usable` is the share of the fits that say where the target lies; without half of them there is
    no median.
    """
    counts = np.geomspace(start, len(cells), POINTS).round().astype(int) if times else np.array([])
    found = []
    for count in map(int, np.unique(counts)):
        halves = _drawn(law, cells[:count], goal, times)
        row = {"cells": count, "total": spent[count - 1], "times": times}
        half = float(np.median(halves)) if len(halves) > times / 2 else None
        found.append(row | {"usable": len(halves) / times, "half": half})
    return found


def _drawn(law: Law, cells: Sequence[Candidate], goal: Goal, times: int) -> list[float]:
    """Return the half-widths of usable fits to losses drawn `times` times."""
    table = table_of(cells, [1.0] * len(cells))
    values = {v: table[v].to_numpy(float) for v in ("params", "tokens", "flops")}
    true = FORMS[law.form].predict(law.parameters, values)
    options = Options(resamples=RESAMPLES, form=law.form, start=1)
    halves = []
    for seed in range(times):
        rng = np.random.default_rng([seed, len(cells)])
        losses = true + usual_deviation(true) * rng.standard_normal(len(true))
        drawn, why = fitted(Runs(table=table.assign(loss=losses)), goal, options)
        now = standing(drawn, goal) if drawn is not None and not why else None
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


def _wanted(goal: Goal, value: float, floor: float) -> float:
    """Return the variance of the logarithm that the precision leaves to the parameters."""
    if not goal.precision:
        return 0.0
    half = np.log1p(goal.precision) if goal.quantity == "params" else goal.precision / value
    left = float(half / goal.z) ** 2 - floor**2
    if left <= 0:
        raise ValueError(
            f"target.precision={goal.precision:g} is less than the scatter of one run,"
            f" {goal.z * floor * value:.3g} nats at {100 * goal.level:g}%; ask for more"
        )
    return left
