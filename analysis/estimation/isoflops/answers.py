"""IsoFLOP answers beside the usual one: with all sizes of each budget, and from optima alone.

A parabola is symmetric and a valley is not, so sizes far from the minimum tilt it. Where the grids
of the budgets are not alike, the tilt changes with C and so do a and b: on the runs of Llama 3
(Dubey et al. 2024, 2407.21783), b is .509 from sizes near the minimum and .537 from all of them, as
published. Neither is wrong by itself, so a law holds both.

A table of published optima has a row a budget and no loss. Its lines are least squares of log N and
log D on log C, with intervals by Student's t at n - 2 degrees of freedom: the scatter of the optima
about the lines is all that it tells of their errors.
"""

from dataclasses import replace

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from analysis.alarms.units import DERIVED
from analysis.estimation.isoflops.isoflop import (
    FEWEST_VERTICES,
    SAME_BUDGET,
    Isoflop,
    Vertex,
    isoflop,
)
from analysis.forms import Array, column

OPTIMA = "optima of the table"  # the method of lines through optima that were read


def isoflop_both(
    table: pd.DataFrame, *, resamples: int = 1000, level: float = 0.9, seed: int = 0
) -> Isoflop | None:
    """Fit Approach 2 near the minima, and with all sizes as its `all_sizes`.

    table: the runs
    resamples: of the residuals, 0 for no intervals
    level: of the intervals
    seed: of the resamples

    Returns None where fewer than three budgets have a vertex near their minima.
    """
    options = {"resamples": resamples, "level": level, "seed": seed}
    lines = isoflop(table, **options)
    if lines is None:
        return None
    wide = isoflop(table, near=np.inf, **options) if lines.n_cut else replace(lines, near=None)
    return replace(lines, all_sizes=wide, convention=convention_of(table))


def lines_of_optima(table: pd.DataFrame, *, intervals: bool = True, level: float = 0.9) -> Isoflop:
    """Return the lines through optima that a table states.

    table: a row a budget, with flops (C), params (N*) and tokens (D*)
    intervals: whether a and b get theirs
    level: of the intervals

    Raises ValueError for fewer than three budgets, and for several rows of one budget.
    """
    log_c = np.log(column(table, "flops"))
    step = np.diff(np.sort(log_c))
    shared = int((step <= SAME_BUDGET).sum())
    if shared:
        raise ValueError(
            f"the table has no column 'loss', and {shared} of its {len(table)} rows share a budget "
            "(C) with another; a table of optima has one row a budget: set columns.loss=NAME for a "
            "table of runs, or keep one row of each budget"
        )
    if len(table) < FEWEST_VERTICES:
        raise ValueError(
            f"{len(table)} optima determine no line; form=isoflop needs at least {FEWEST_VERTICES} "
            "budgets: add rows"
        )
    slopes, constants, ends = [], [], []
    for name in ("params", "tokens"):
        slope, constant, interval = _line(log_c, np.log(column(table, name)), level)
        slopes.append(slope)
        constants.append(float(np.exp(constant)))
        ends.append(interval if intervals else None)
    rows = zip(*(column(table, name) for name in ("flops", "params", "tokens")), strict=True)
    points = [
        Vertex(flops=float(c), params=float(n), tokens=float(d), loss=None, n_runs=1)
        for c, n, d in sorted(rows)
    ]
    return Isoflop(
        a=slopes[0],
        b=slopes[1],
        k_params=constants[0],
        k_tokens=constants[1],
        a_interval=ends[0],
        b_interval=ends[1],
        vertices=tuple(points),
        method=OPTIMA,
    )


def convention_of(table: pd.DataFrame, name: str = "flops") -> str:
    """Return what C is: the table's column of FLOPs, or 6ND where it has none or holds just that.

    table: the runs, with flops, params and tokens
    name: of the column in the source
    """
    product = 6 * column(table, "params") * column(table, "tokens")
    derived = bool(np.all(np.abs(column(table, "flops") / product - 1) <= DERIVED))
    return "C = 6 N D" if derived else f"C = column {name}"


def _line(x: Array, y: Array, level: float) -> tuple[float, float, list[float]]:
    """Return slope and constant of least squares, and the slope's interval by Student's t."""
    across = x - x.mean()
    square = float((across**2).sum())
    slope = float((across * y).sum() / square)
    constant = float(y.mean() - slope * x.mean())
    errors = y - constant - slope * x
    freedom = len(x) - 2
    half = stdtrit(freedom, (1 + level) / 2) * np.sqrt((errors**2).sum() / freedom / square)
    return slope, constant, [float(slope - half), float(slope + half)]
