"""Approach 2: a parabola in log N at each FLOP budget, its vertex, and a line through the vertices.

Hoffmann et al. 2022 section 3.2. A vertex counts only if the parabola opens upwards and the vertex
lies inside the sizes that were run; other vertices are listed with the reason. D at the vertex
comes from the budget's own line of log D in log N, so it holds for any way of counting C. A
parabola is biased on an asymmetric valley: near zero at alpha = beta, else by a few per cent at
+-8x. The bias is the same at every budget, so it moves the intercepts and not a or b. Wide grids
are cut to the sizes near the best one; `analysis.estimation.isoflops.answers` gives the answer with
all sizes beside it. C is the column flops, which is 6ND only where the table has none. On the 15
experiments of Porian et al. 2024 a is then within 0.010 (median; at worst 0.033) of what they
publish, and with every size 0.019 (at worst 0.104).

For intervals, residuals about the parabolas, inflated for their three parameters, are drawn anew on
the fixed design. The line weighs each vertex by its deviation over draws, which is at least a third
of the grid's step (Porian et al. 2024). Legend: S resamples, n rows of a budget.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from analysis.forms import Array, column

SAME_BUDGET = 0.12  # distance in log C up to which neighbours share a budget
WIDEST_BUDGET = 0.3  # range of log C of a budget; a wider group is a continuum
NEAR = 6.0  # sizes beyond this factor of the best one tilt the parabola more than they steady it
FEWEST_SIZES = 4  # sizes of a budget; a parabola through three points has no residual
FEWEST_VERTICES = 3  # budgets with a vertex that a line needs


@dataclass(frozen=True, kw_only=True)
class Vertex:
    """One budget: its optimum, or None and the reason `why`, and the parabola it comes from."""

    flops: float
    params: float | None
    tokens: float | None
    loss: float | None
    n_runs: int
    why: str | None = None
    coefficients: tuple[float, ...] | None = None  # of L = c0 + c1 x + c2 x^2, x = log(N / centre)
    centre: float | None = None
    params_interval: list[float] | None = None


@dataclass(frozen=True, kw_only=True)
class Isoflop:
    """The vertices and the lines N* = k_params C^a, D* = k_tokens C^b through them."""

    a: float
    b: float
    k_params: float
    k_tokens: float
    a_interval: list[float] | None
    b_interval: list[float] | None
    vertices: tuple[Vertex, ...]
    method: str = "parabola"
    near: float | None = None  # factor of the best size up to which sizes were taken; None: all
    n_cut: int = 0  # rows of the budgets beyond that factor
    all_sizes: "Isoflop | None" = None  # the answer without the cut
    convention: str | None = None  # what C is

    def as_method(self) -> dict[str, Any]:
        """Return the `methods.isoflop` block of law.json."""
        points = [
            {
                "flops": v.flops,
                "params": v.params,
                "tokens": v.tokens,
                "loss": v.loss,
                "n_runs": v.n_runs,
                "why": v.why,
                "coefficients": v.coefficients,
                "centre": v.centre,
                "params_interval": v.params_interval,
            }
            for v in self.vertices
        ]
        names = ("a", "b", "k_params", "k_tokens", "a_interval", "b_interval", "method")
        block = {**{name: getattr(self, name) for name in names}, "points": points}
        if self.convention is not None:
            block["convention"] = self.convention
        if self.near is not None:
            lines = ("a", "b", "k_params", "k_tokens", "a_interval", "b_interval")
            wide = self.all_sizes
            values = {name: getattr(wide, name) for name in lines} if wide else None
            block |= {"near": self.near, "n_cut": self.n_cut, "all_sizes": values}
        return block

    @property
    def edges(self) -> list[float]:
        """Budgets whose minimum is at the edge of the sizes or that have no minimum."""
        return [v.flops for v in self.vertices if v.why]


def budgets(table: pd.DataFrame) -> list[Array]:
    """Return row positions of each IsoFLOP budget with at least `FEWEST_SIZES` sizes, by C."""
    flops = np.log(table["flops"].to_numpy())
    sizes = table["params"].to_numpy()
    order = np.argsort(flops, kind="stable")
    splits = np.flatnonzero(np.diff(flops[order]) > SAME_BUDGET) + 1
    groups = np.split(order, splits)
    return [
        rows
        for rows in groups
        if np.ptp(flops[rows]) <= WIDEST_BUDGET and len(np.unique(sizes[rows])) >= FEWEST_SIZES
    ]


def isoflop(
    table: pd.DataFrame,
    *,
    resamples: int = 1000,
    level: float = 0.9,
    seed: int = 0,
    near: float = NEAR,
) -> Isoflop | None:
    """Fit Approach 2; None where fewer than three budgets have a vertex.

    table: the runs
    resamples: of the residuals, 0 for no intervals
    level: of the intervals
    seed: of the resamples
    near: factor of a budget's best size up to which its sizes are taken; infinite takes all

    `vertices` returns the budgets without a vertex too.
    """
    every = budgets(table)
    groups = [_rows_near_best(table, rows, near) for rows in every]
    points = [vertex(table.iloc[rows]) for rows in groups]
    good = [i for i, v in enumerate(points) if v.why is None]
    if len(good) < FEWEST_VERTICES:
        return None
    draws = _draws(table, [groups[i] for i in good], [points[i] for i in good], resamples, seed)
    deviations = _deviations(draws[0], [table.iloc[groups[i]] for i in good])
    log_c = np.log([points[i].flops for i in good])
    tails = [(1 - level) / 2, (1 + level) / 2]
    lines, intervals = [], []
    for k, name in enumerate(("params", "tokens")):
        values = np.log([getattr(points[i], name) for i in good])
        lines.append(weighted_lines(log_c, values[None], deviations)[:, 0])
        slopes = weighted_lines(log_c, draws[k], deviations)[0]
        intervals.append(interval_of(slopes, tails) if resamples else None)
    points = _with_intervals(points, good, draws[0], tails)
    return Isoflop(
        a=float(lines[0][0]),
        b=float(lines[1][0]),
        k_params=float(np.exp(lines[0][1])),
        k_tokens=float(np.exp(lines[1][1])),
        a_interval=intervals[0],
        b_interval=intervals[1],
        vertices=tuple(points),
        near=near if np.isfinite(near) else None,
        n_cut=sum(map(len, every)) - sum(map(len, groups)),
    )


def vertices(table: pd.DataFrame) -> list[Vertex]:
    """Return one entry a budget, with the reason for a budget without a vertex."""
    return [vertex(table.iloc[_rows_near_best(table, rows)]) for rows in budgets(table)]


def vertex(rows: pd.DataFrame) -> Vertex:
    """Fit L = c0 + c1 x + c2 x^2 in x = log(N / centre) to one budget's rows."""
    log_n, loss = np.log(rows["params"].to_numpy()), rows["loss"].to_numpy()
    flops = float(np.exp(np.log(rows["flops"]).mean()))
    centre = log_n.mean()
    c2, c1, c0 = np.polyfit(log_n - centre, loss, 2)
    shared = {"flops": flops, "n_runs": len(rows), "centre": float(np.exp(centre))}
    shared["coefficients"] = (float(c0), float(c1), float(c2))
    why = _refusal(log_n, loss, c1, c2)
    if why:
        return Vertex(params=None, tokens=None, loss=None, why=why, **shared)
    x = -c1 / (2 * c2)
    slope, intercept = np.polyfit(log_n - centre, np.log(rows["tokens"].to_numpy()), 1)
    return Vertex(
        params=float(np.exp(centre + x)),
        tokens=float(np.exp(intercept + slope * x)),
        loss=float(c0 + c1 * x / 2),
        **shared,
    )


def _rows_near_best(table: pd.DataFrame, rows: Array, near: float = NEAR) -> Array:
    """Return a budget's rows within a factor of its best size, or the closest few sizes."""
    log_n = np.log(column(table, "params")[rows])
    sizes, which = np.unique(log_n, return_inverse=True)
    means = np.bincount(which, weights=column(table, "loss")[rows]) / np.bincount(which)
    distance = np.abs(sizes - sizes[means.argmin()])
    reach = max(np.log(near), np.sort(distance)[min(FEWEST_SIZES, len(sizes) - 1)])
    return rows[np.abs(log_n - sizes[means.argmin()]) <= reach + 1e-9]


def _refusal(log_n: Array, loss: Array, c1: float, c2: float) -> str | None:
    if c2 <= 0:
        return "the parabola opens downwards"
    x = log_n.mean() - c1 / (2 * c2)
    if not log_n.min() < x < log_n.max():
        return "the vertex lies outside the sizes"
    sizes, which = np.unique(log_n, return_inverse=True)
    means = np.bincount(which, weights=loss) / np.bincount(which)
    if means.argmin() in (0, len(sizes) - 1):
        return "the least loss is at the edge of the sizes"
    return None


def _draws(
    table: pd.DataFrame,
    groups: Sequence[Array],
    points: Sequence[Vertex],
    resamples: int,
    seed: int,
) -> tuple[Array, Array]:
    """Return log N* and log D* (S, budgets) of resampled residuals; NaN where refused."""
    rng = np.random.default_rng(seed)
    pools = [_residuals(table.iloc[rows], v) for rows, v in zip(groups, points, strict=True)]
    pool = np.concatenate(pools)
    log_params = np.full((resamples, len(groups)), np.nan)
    log_tokens = log_params.copy()
    for k, rows in enumerate(groups):
        log_n = np.log(table["params"].to_numpy()[rows])
        x = log_n - log_n.mean()
        powers = np.stack([np.ones_like(x), x, x * x], axis=1)  # (n, 3)
        curve = powers @ np.array(points[k].coefficients)
        losses = curve + rng.choice(pool, size=(resamples, len(rows)))
        _, c1, c2 = np.linalg.pinv(powers) @ losses.T  # each (S,)
        with np.errstate(divide="ignore", invalid="ignore"):
            at = np.where(c2 > 0, -c1 / (2 * c2), np.nan)
        at = np.where((at > x.min()) & (at < x.max()), at, np.nan)
        slope, intercept = np.polyfit(x, np.log(table["tokens"].to_numpy()[rows]), 1)
        log_params[:, k] = log_n.mean() + at
        log_tokens[:, k] = intercept + slope * at
    return log_params, log_tokens


def _residuals(rows: pd.DataFrame, point: Vertex) -> Array:
    x = np.log(rows["params"].to_numpy() / point.centre)
    c0, c1, c2 = point.coefficients or (0.0, 0.0, 0.0)
    errors = rows["loss"].to_numpy() - (c0 + c1 * x + c2 * x * x)
    return errors * np.sqrt(len(errors) / max(len(errors) - 3, 1))


def _deviations(draws: Array, rows: Sequence[pd.DataFrame]) -> Array:
    """Return the deviation of each vertex's log N (budgets,), at least a third of the step."""
    steps = [np.median(np.diff(np.unique(np.log(r["params"].to_numpy())))) / 3 for r in rows]
    enough = np.isfinite(draws).sum(axis=0) > 1
    sd = np.array([np.nanstd(d) if ok else np.inf for d, ok in zip(draws.T, enough, strict=True)])
    return np.maximum(np.where(np.isfinite(sd), sd, 0.0), steps)


def interval_of(values: Array, tails: Sequence[float]) -> list[float] | None:
    """Return quantiles of the finite values, None where fewer than half of all are finite."""
    finite = values[np.isfinite(values)]
    return [float(q) for q in np.quantile(finite, tails)] if len(finite) > len(values) / 2 else None


def weighted_lines(log_c: Array, values: Array, deviations: Array) -> Array:
    """Return slope and intercept (2, S) of weighted lines through values with gaps.

    log_c: (budgets,)
    values: (S, budgets), NaN for a gap
    deviations: of the values (budgets,)
    """
    weights = np.where(np.isfinite(values), 1 / deviations**2, 0.0)
    enough = (weights > 0).sum(axis=1) >= 2
    filled = np.where(np.isfinite(values), values, 0.0)
    total = np.maximum(weights.sum(axis=1), 1e-300)
    mean_c, mean_v = (weights * log_c).sum(axis=1) / total, (weights * filled).sum(axis=1) / total
    across = log_c - mean_c[:, None]
    square = np.where(enough, (weights * across**2).sum(axis=1), 1.0)
    slope = (weights * across * (filled - mean_v[:, None])).sum(axis=1) / square
    slope = np.where(enough, slope, np.nan)
    return np.stack([slope, mean_v - slope * mean_c])


def _with_intervals(
    points: list[Vertex], good: Sequence[int], draws: Array, tails: Sequence[float]
) -> list[Vertex]:
    out = list(points)
    for k, i in enumerate(good):
        finite = draws[:, k][np.isfinite(draws[:, k])]
        if len(finite) > 1:
            out[i] = replace(
                out[i], params_interval=[float(q) for q in np.exp(np.quantile(finite, tails))]
            )
    return out
