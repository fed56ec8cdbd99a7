"""Other ways to extrapolate a table: L-BFGS from many starts, one descent, the frontier's line.

The descents fit L = E + A N^-alpha + B D^-beta by Huber's loss of log residuals with scipy's
L-BFGS-B, as Hoffmann et al. 2022 (2203.15556, appendix D.3) describe: theta = (log A, log B, log E,
alpha, beta), started from the points of their grid.
"""

from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import minimize
from scipy.special import huber, logsumexp

from analysis.forms import Array, column
from analysis.validate.near_frontier import is_near_frontier

DELTA = 1e-3  # of Huber's loss, as published
HOFFMANN = (np.log(406.4), np.log(410.7), np.log(1.69), 0.34, 0.28)  # log A, log B, log E, ..
GRID = {  # starts of Hoffmann et al. 2022: 6 x 6 x 5 x 5 x 5 = 4500
    "logs": np.arange(0.0, 30, 5),
    "e": np.arange(-1, 1.5, 0.5),
    "powers": np.arange(0, 2.5, 0.5),
}
GRID_SIZE = 4500
TIE = 1e-9  # share of a loss up to which a run still is the best of no more C
FEWEST_ON_LINE = 3  # runs on the frontier that its line needs


def grid_starts(n: int, seed: int = 0) -> Array:
    """Return n starts (n, 5) of the published grid: all of it, or a sample that the seed names.

    The sample is drawn with replacement below GRID_SIZE.
    """
    axes = [GRID[name] for name in ("logs", "logs", "e", "powers", "powers")]
    if n >= GRID_SIZE:
        return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(axes))
    rng = np.random.default_rng(seed)
    return np.stack([rng.choice(axis, n) for axis in axes], axis=1)


def single_descent(table: pd.DataFrame, start: Any) -> Array:
    """Return theta (5,) of one descent by finite differences of the mean, wherever it stops."""
    x, y, z = _logs(table)

    def mean_huber(theta: Array) -> float:
        a, b, e, alpha, beta = theta
        predicted = logsumexp([a - alpha * x, b - beta * y, np.full_like(x, e)], axis=0)
        return float(huber(DELTA, predicted - z).mean())

    return minimize(mean_huber, start, method="L-BFGS-B").x


def multi_start(table: pd.DataFrame, starts: int) -> Array:
    """Return theta (5,) of the lowest descent of the sum, by exact gradients, from several starts.

    table: the runs
    starts: points of the published grid to descend from, those of the lowest objective first;
        GRID_SIZE descends from all of them, as published
    """
    x, y, z = _logs(table)

    def sum_huber(theta: Array) -> tuple[float, Array]:
        residual, shares = _residual(theta, x, y, z)
        slope = np.clip(residual, -DELTA, DELTA) * shares  # of the loss in each term
        in_a, in_b, in_e = slope.sum(axis=1)
        gradient = [in_a, in_b, in_e, -(slope[0] * x).sum(), -(slope[1] * y).sum()]
        return float(huber(DELTA, residual).sum()), np.array(gradient)

    grid = grid_starts(GRID_SIZE)
    values = [float(huber(DELTA, _residual(start, x, y, z)[0]).sum()) for start in grid]
    best = grid[np.argsort(values, kind="stable")[:starts]]
    ends = [minimize(sum_huber, start, jac=True, method="L-BFGS-B") for start in best]
    return min(ends, key=lambda end: end.fun if np.isfinite(end.fun) else np.inf).x


def _residual(theta: Array, x: Array, y: Array, z: Array) -> tuple[Array, Array]:
    """Return log of predicted over measured loss (n,), and each term's share of it (3, n)."""
    a, b, e, alpha, beta = theta
    terms = np.stack([a - alpha * x, b - beta * y, np.full_like(x, e)])
    highest = terms.max(axis=0)
    shares = np.exp(terms - highest)
    total = shares.sum(axis=0)
    return highest + np.log(total) - z, shares / total


def surface_of(theta: Array, table: pd.DataFrame) -> Array:
    """Return the loss (n,) that theta predicts for a table's N and D."""
    a, b, e, alpha, beta = theta
    x, y = np.log(column(table, "params")), np.log(column(table, "tokens"))
    with np.errstate(over="ignore"):
        return np.exp(a - alpha * x) + np.exp(b - beta * y) + np.exp(e)


def is_frontier(table: pd.DataFrame) -> Array:
    """Return which runs (n,) no run of as much or less compute beats."""
    return is_near_frontier(table, TIE)


def frontier_line(below: pd.DataFrame, flops: Any) -> Array:
    """Extend log loss = p + q log C, fitted to the frontier of a table, to other C.

    below: the runs that are fitted
    flops: C at which the best loss is predicted (n,)

    Raises ValueError for fewer than FEWEST_ON_LINE runs on the frontier.
    """
    best = below.loc[is_frontier(below)]
    if len(best) < FEWEST_ON_LINE:
        raise ValueError(f"{len(best)} runs on the frontier; a line needs {FEWEST_ON_LINE}")
    log_c, log_l = np.log(column(best, "flops")), np.log(column(best, "loss"))
    slope, intercept = np.polyfit(log_c, log_l, 1)
    return np.exp(intercept + slope * np.log(np.asarray(flops, dtype=float)))


def _logs(table: pd.DataFrame) -> tuple[Array, Array, Array]:
    x, y, z = (np.log(column(table, c)) for c in ("params", "tokens", "loss"))
    return x, y, z
