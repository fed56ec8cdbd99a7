"""Approach 2 by Akima interpolation with a noise bootstrap, as Porian et al. 2024 (2406.19146).

At each budget log L is interpolated in log N, and its least point on a fine grid is the optimum.
Unlike a parabola this has no bias on an asymmetric valley. Draws add noise to every log loss. A
budget whose optimum lies at the edge of its sizes in more than half of the draws is dropped. The
line through the optima weighs each by its deviation over draws, which is at least a third of the
step between sizes. Porian et al. say that the noise grows with the loss, but their released code
compares log L with losses, so that in fact it is constant: .002 (.01 on OpenWebText2). The default
here is .002; a measured deviation is better. On their 15 experiments a is within .0023 of what they
publish (median; at worst .0083), with parabolas within .0096 (.032).
"""

from dataclasses import replace

import numpy as np
import pandas as pd

from analysis.estimation.isoflops.isoflop import (
    FEWEST_VERTICES,
    Isoflop,
    Vertex,
    budgets,
    interval_of,
    weighted_lines,
)
from analysis.forms import Array, column

NOISE = 0.002  # standard deviation of a run's log loss
GRID = 200  # sizes tried between the smallest and the largest
DRAWS = 1000  # of the noise, where the caller wants no intervals
EDGE_SHARE = 0.5  # share of draws at the edge from which a budget is dropped


def akima(
    table: pd.DataFrame,
    *,
    resamples: int = DRAWS,
    level: float = 0.9,
    seed: int = 0,
    noise: float = NOISE,
) -> Isoflop | None:
    """Fit Approach 2 by interpolation; None where fewer than three budgets have an optimum inside.

    table: the runs
    resamples: draws of the noise; with 0 there are no intervals, but `DRAWS` draws still weigh the
        optima
    level: of the intervals
    seed: of the draws
    noise: standard deviation of a run's log loss
    """
    rng = np.random.default_rng(seed)
    points, log_params, log_tokens, steps = [], [], [], []
    for rows in budgets(table):
        point, optima_drawn, step = _optimum(table.iloc[rows], rng, resamples or DRAWS, noise)
        points.append(point)
        if point.why is None:
            log_params.append(optima_drawn[0])
            log_tokens.append(optima_drawn[1])
            steps.append(step)
    good = [i for i, v in enumerate(points) if v.why is None]
    if len(good) < FEWEST_VERTICES:
        return None
    tails = [(1 - level) / 2, (1 + level) / 2]
    deviations = np.maximum([np.std(d) for d in log_params], steps)
    log_c = np.log([points[i].flops for i in good])
    lines, intervals = [], []
    for name, draws in (("params", log_params), ("tokens", log_tokens)):
        values = np.log([getattr(points[i], name) for i in good])
        lines.append(weighted_lines(log_c, values[None], deviations)[:, 0])
        slopes = weighted_lines(log_c, np.array(draws).T, deviations)[0]
        intervals.append(interval_of(slopes, tails) if resamples else None)
    for i, draws in zip(good, log_params, strict=True):
        ends = [float(q) for q in np.exp(np.quantile(draws, tails))]
        points[i] = replace(points[i], params_interval=ends)
    return Isoflop(
        a=float(lines[0][0]),
        b=float(lines[1][0]),
        k_params=float(np.exp(lines[0][1])),
        k_tokens=float(np.exp(lines[1][1])),
        a_interval=intervals[0],
        b_interval=intervals[1],
        vertices=tuple(points),
        method="akima",
    )


def _optimum(
    rows: pd.DataFrame, rng: np.random.Generator, draws: int, noise: float
) -> tuple[Vertex, Array, float]:
    """Return a budget's optimum, draws of its log N and log D (2, S), and its least deviation."""
    from scipy.interpolate import Akima1DInterpolator  # .4 s, for this method alone

    log_n, which = np.unique(np.log(column(rows, "params")), return_inverse=True)
    count = np.bincount(which)
    log_loss = np.bincount(which, np.log(column(rows, "loss"))) / count
    grid = np.linspace(log_n[0], log_n[-1], GRID)
    noisy = log_loss[:, None] + noise / np.sqrt(count)[:, None] * rng.standard_normal(
        (len(log_n), draws)
    )
    curve = Akima1DInterpolator(log_n, log_loss)(grid)
    at = np.argmin(Akima1DInterpolator(log_n, noisy)(grid), axis=0)  # (S,)
    best = int(np.argmin(curve))
    slope, intercept = np.polyfit(np.log(column(rows, "params")), np.log(column(rows, "tokens")), 1)
    edge = float(np.mean((at == 0) | (at == GRID - 1)))
    shared = {
        "flops": float(np.exp(np.log(column(rows, "flops")).mean())),
        "n_runs": len(rows),
        "centre": float(np.exp(log_n.mean())),
    }
    if edge > EDGE_SHARE or best in (0, GRID - 1):
        why = f"the least loss is at the edge of the sizes in {edge:.0%} of draws"
        return Vertex(params=None, tokens=None, loss=None, why=why, **shared), np.empty((2, 0)), 0.0
    vertex = Vertex(
        params=float(np.exp(grid[best])),
        tokens=float(np.exp(intercept + slope * grid[best])),
        loss=float(np.exp(curve[best])),
        **shared,
    )
    optima = np.stack([grid[at], intercept + slope * grid[at]])
    return vertex, optima, float(np.median(np.diff(log_n)) / 3)
