"""Approach 1: the lower envelope of the training curves over C, and lines through its N and D.

Hoffmann et al. 2022 section 3.1, for any schedule. The curve of one trunk (or of one size in a
table without trunks) joins its end points, each fully decayed, with the readings of metrics.jsonl
between them. Its lower convex hull in log C and log L drops the points before the decay of the
learning rate, which lie above the line between end points. Raw intermediate points would favour
runs whose schedule is nearly over and bias the exponent. Where no trunk has two points the envelope
is that of the end points alone.

At log-spaced C the lowest curve is taken, unless it belongs to the smallest or the largest size
that reaches that C: there the grid chose the size, and not the loss. A minimum over noisy curves
lies low by about a seed's deviation, which moves the loss and hardly the exponents. Intervals
resample the trunks. On grids of a few sizes most resamples have no envelope. There the losses are
perturbed by the scatter of runs, and each size is drawn within half a step of the grid, since the
envelope determines the optimum no better than that.

Legend: S resamples, R curves, G grid points of C.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.forms import Array, column
from scaling.schema import read_curve

AXES = ("flops", "tokens", "loss")
GRID = 200  # values of C at which the lowest curve is found
FEWEST_SIZES = 3  # sizes that an envelope with an interior optimum needs
MOST_CURVES = 1000  # curves of an interval; with more, resampling would take minutes
MOST_READ = 5000  # sizes whose curves are read; more sizes are a continuum without curves
LOST_SHARE = 0.1  # share of resamples without a slope from which losses are perturbed instead
FEWEST_CHOSEN = 2  # sizes on the envelope that a slope needs
BLOCK = 4_000_000  # perturbed losses in memory at a time
SKIPPED_SHARE = 0.05  # share of a run's tokens that is warm-up and not read


@dataclass(frozen=True, kw_only=True)
class Envelope:
    """The chosen points (C, N, D, L) and the lines N = k_params C^a, D = k_tokens C^b."""

    a: float
    b: float
    k_params: float
    k_tokens: float
    a_interval: list[float] | None
    b_interval: list[float] | None
    points: pd.DataFrame
    source: str
    spread: str

    def as_method(self) -> dict[str, Any]:
        """Return the `methods.envelope` block of law.json."""
        names = ("a", "b", "k_params", "k_tokens", "a_interval", "b_interval", "source", "spread")
        points = self.points.to_dict(orient="records")
        return {**{name: getattr(self, name) for name in names}, "points": points}


@dataclass(frozen=True, kw_only=True)
class Curve:
    """The lower hull of one trunk or size: logs of C, D and L (points,), sorted by C."""

    params: float
    log_flops: Array
    log_tokens: Array
    log_loss: Array


def envelope(
    table: pd.DataFrame,
    *,
    resamples: int = 1000,
    level: float = 0.9,
    seed: int = 0,
    scatter: float = 0.0,
) -> Envelope | None:
    """Fit Approach 1; None for fewer than three sizes or no interior optimum.

    table: the runs
    resamples: of the trunks, 0 for no intervals
    level: of the intervals
    seed: of the resamples
    scatter: standard deviation of one run's log loss, for the interval of small grids
    """
    if _count_sizes(table) > MOST_READ:
        return None
    curves, source = curves_of(table)
    if len({c.params for c in curves}) < FEWEST_SIZES:
        return None
    log_flops = np.concatenate([c.log_flops for c in curves])
    grid = np.linspace(log_flops.min(), log_flops.max(), GRID)
    losses, tokens = _on_grid(curves, grid)
    log_n = np.log([c.params for c in curves])
    best = _best_curves(losses, log_n, np.ones((1, len(curves)), dtype=bool))[0]
    interior = np.flatnonzero(best >= 0)
    if len(np.unique(log_n[best[interior]])) < FEWEST_CHOSEN:
        return None
    lines = _fit_lines(grid, best[None], log_n, tokens)[0]
    rng = np.random.default_rng(seed)
    intervals: list[list[float] | None] = [None, None]
    spread = "trunks resampled"
    if resamples and len(curves) <= MOST_CURVES:
        even = np.full(len(curves), 1 / len(curves))
        present = rng.multinomial(len(curves), even, resamples) > 0
        draws = _fit_lines(grid, _best_curves(losses, log_n, present), log_n, tokens)
        if np.isnan(draws[:, 0]).mean() > LOST_SHARE:
            draws = _perturb_losses(grid, losses, log_n, tokens, rng, resamples, scatter)
            spread = "losses perturbed, sizes within the grid's steps"
        intervals = [_interval(draws[:, k], level) for k in (0, 2)]
    points = pd.DataFrame(
        {
            "flops": np.exp(grid[interior]),
            "params": np.exp(log_n[best[interior]]),
            "tokens": np.exp(tokens[best[interior], interior]),
            "loss": np.exp(losses[best[interior], interior]),
        }
    )
    return Envelope(
        a=float(lines[0]),
        b=float(lines[2]),
        k_params=float(np.exp(lines[1])),
        k_tokens=float(np.exp(lines[3])),
        a_interval=intervals[0],
        b_interval=intervals[1],
        points=points,
        source=source,
        spread=spread,
    )


def _count_sizes(table: pd.DataFrame) -> int:
    """Return how many sizes there are."""
    return len(np.unique(column(table, "params")))


def curves_of(table: pd.DataFrame) -> tuple[list[Curve], str]:
    """Return one hull for each trunk (or size, without trunks), and what the hulls come from."""
    keys = [column(table, "params")]
    if "trunk" in table and bool(np.all(table["trunk"].notna())):
        keys.append(pd.factorize(table["trunk"])[0])
    order = np.lexsort(keys)
    changes = np.any([np.diff(key[order]) != 0 for key in keys], axis=0)
    points = np.stack([column(table, name) for name in AXES], axis=1)
    paths = table["curve"].tolist() if "curve" in table else [None] * len(table)
    factors = table["curve_factor"].tolist() if "curve_factor" in table else [1.0] * len(table)
    curves, source = [], "end points"
    for rows in np.split(order, np.flatnonzero(changes) + 1):
        between = [
            _readings(paths[row], factors[row]) for row in rows if isinstance(paths[row], str)
        ]
        if any(len(b) for b in between):
            source = "training curves"
        hull = np.log(lower_hull(np.concatenate([points[rows], *between])))
        curves.append(
            Curve(
                params=float(keys[0][rows[0]]),
                log_flops=hull[:, 0],
                log_tokens=hull[:, 1],
                log_loss=hull[:, 2],
            )
        )
    return curves, source


def lower_hull(points: Array) -> Array:
    """Return the falling part of the lower convex hull in log C and log L of rows (C, D, L)."""
    points = points[np.lexsort((points[:, 2], points[:, 0]))]
    x, y = np.log(points[:, 0]), np.log(points[:, 2])
    hull: list[int] = []
    for i in range(len(x)):
        if hull and x[i] == x[hull[-1]]:
            continue
        while len(hull) > 1 and _above(x, y, hull[-2], hull[-1], i):
            hull.pop()
        hull.append(i)
    while len(hull) > 1 and y[hull[-1]] >= y[hull[-2]]:
        hull.pop()
    return points[hull]


def _above(x: Array, y: Array, first: int, middle: int, last: int) -> bool:
    """Return whether the middle point lies on or above the chord from first to last."""
    chord = (y[last] - y[first]) * (x[middle] - x[first])
    return bool((y[middle] - y[first]) * (x[last] - x[first]) >= chord)


def _readings(path: str, factor: float) -> Array:
    """Return the evaluations of a curve after warm-up as rows (C, D, L), L times `factor`."""
    names = ("flops", "tokens", "test_loss")
    rows = [[r.get(name) or np.nan for name in names] for r in read_curve(path)]
    points = np.array(rows, dtype=float).reshape(-1, 3) * [1.0, 1.0, factor]
    points = points[np.isfinite(points).all(axis=1) & (points > 0).all(axis=1)]
    return points[points[:, 1] > SKIPPED_SHARE * points[:, 1].max(initial=0.0)]


def _on_grid(curves: list[Curve], grid: Array) -> tuple[Array, Array]:
    """Interpolate log L and log D of each curve on the grid (R, G); infinite outside its span."""
    losses = np.full((len(curves), len(grid)), np.inf)
    tokens = losses.copy()
    step = grid[1] - grid[0]
    for row, curve in enumerate(curves):
        x = curve.log_flops
        inside = (grid >= x[0] - step / 2) & (grid <= x[-1] + step / 2)
        losses[row, inside] = np.interp(grid[inside], x, curve.log_loss)
        tokens[row, inside] = np.interp(grid[inside], x, curve.log_tokens)
    return losses, tokens


def _best_curves(losses: Array, log_n: Array, present: Array) -> Array:
    """Return the lowest curve (S, G) among those present (S, R), -1 where it is at the grid's edge.

    The curves are sorted once at each C; a resample's lowest is the first one that it holds.
    """
    in_span = np.isfinite(losses)
    by_loss, by_size = np.argsort(losses, axis=0, kind="stable"), np.argsort(log_n, kind="stable")
    out = np.full((len(present), losses.shape[1]), -1)
    for g in range(losses.shape[1]):
        here = by_loss[: in_span[:, g].sum(), g]
        sizes = by_size[in_span[by_size, g]]
        if not len(here):
            continue
        best = here[present[:, here].argmax(axis=1)]
        ordered = present[:, sizes]
        smallest = log_n[sizes[ordered.argmax(axis=1)]]
        largest = log_n[sizes[::-1][ordered[:, ::-1].argmax(axis=1)]]
        inside = ordered.any(axis=1) & (log_n[best] > smallest) & (log_n[best] < largest)
        out[inside, g] = best[inside]
    return out


def _fit_lines(
    grid: Array, chosen: Array, log_n: Array, tokens: Array, shift: Array | None = None
) -> Array:
    """Return slope and intercept of log N, then of log D, in log C (S, 4); NaN where too few.

    `shift` (S, R) moves each curve's size, and its tokens the other way.
    """
    weights = (chosen >= 0).astype(float)
    count = weights.sum(axis=1)
    n = log_n[chosen]
    d = np.where(chosen >= 0, tokens[chosen, np.arange(len(grid))], 0.0)
    several = np.where(chosen >= 0, n, -np.inf).max(axis=1) > np.where(chosen >= 0, n, np.inf).min(
        axis=1
    )
    if shift is not None:
        offset = np.take_along_axis(shift, np.maximum(chosen, 0), axis=1)
        n, d = n + offset, d - offset
    safe = np.maximum(count, 1)
    mean = (weights @ grid) / safe
    x = (grid - mean[:, None]) * weights
    square = np.where(several, (x * x).sum(axis=1), np.nan)
    out = []
    for values in (n, d):
        slope = (x * values).sum(axis=1) / square
        out += [slope, (weights * values).sum(axis=1) / safe - slope * mean]
    return np.stack(out, axis=1)


def _perturb_losses(
    grid: Array,
    losses: Array,
    log_n: Array,
    tokens: Array,
    rng: np.random.Generator,
    resamples: int,
    scatter: float,
) -> Array:
    """Return the lines (S, 4) with noise in the losses and in the sizes."""
    sizes = np.unique(log_n)
    step = float(np.median(np.diff(sizes)))
    in_span = np.isfinite(losses)
    smallest = np.where(in_span, log_n[:, None], np.inf).min(axis=0)
    largest = np.where(in_span, log_n[:, None], -np.inf).max(axis=0)
    block = max(1, BLOCK // losses.size)
    out = []
    for low in range(0, resamples, block):
        count = min(block, resamples - low)
        noise = scatter * rng.standard_normal((count, len(log_n), 1))
        best = (losses + noise).argmin(axis=1)  # (S, G)
        inside = (log_n[best] > smallest) & (log_n[best] < largest)
        shift = rng.uniform(-step / 2, step / 2, (count, len(sizes)))
        of_curve = shift[:, np.searchsorted(sizes, log_n)]
        out.append(_fit_lines(grid, np.where(inside, best, -1), log_n, tokens, of_curve))
    return np.concatenate(out)


def _interval(values: Array, level: float) -> list[float] | None:
    finite = values[np.isfinite(values)]
    if len(finite) < len(values) / 2:
        return None
    return [float(q) for q in np.quantile(finite, [(1 - level) / 2, (1 + level) / 2])]
