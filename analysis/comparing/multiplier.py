"""Compute multipliers of one arm in terms of another, and how they change with scale.

k(C) = C_a / C_b, where b reaches with C_b the loss that a reaches with C_a = C: k above 1 says that
b is better. It is read from the frontiers L*(C) of two laws (Hernandez and Brown 2020, 2005.04305).
The trend is s = d log k / d log C at the target; a gain whose s is negative fades with scale.
"""

import numpy as np

from analysis.comparing.draws import FARTHEST
from analysis.forms import Array

STEP = 0.5  # distance in log C, to both sides of the target, over which the trend is taken


def log_multiplier(a: Array, b: Array, log_flops: Array, at: float) -> Array:
    """Return log k at one log C, for curves of log loss (S, K) on budgets with logs (K,).

    a, b: falling curves of the two arms
    log_flops: logs of the budgets, evenly spaced
    at: log of C_a

    -inf where b does not reach a's loss with `FARTHEST` times the compute. A loss that b undercuts
    at every budget gives log k at the least budget, so that |log k| is at most log `FARTHEST`.
    """
    step = log_flops[1] - log_flops[0]
    place = np.clip((at - log_flops[0]) / step, 0, a.shape[1] - 1)
    left = min(int(place), a.shape[1] - 2)
    loss = (a[:, left] + (place - left) * (a[:, left + 1] - a[:, left]))[:, None]
    above = (b > loss).sum(axis=1)
    rows, last = np.arange(len(b)), b.shape[1] - 1
    right = np.clip(above, 1, last)
    high, low = b[rows, right - 1], b[rows, right]
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(high > low, (high - loss[:, 0]) / (high - low), 0.0)
    needed = log_flops[right - 1] + step * np.clip(share, 0.0, 1.0)
    log_k = np.where(above > last, -np.inf, at - needed)
    return np.where(np.isnan(loss[:, 0]) | np.isnan(b).any(axis=1), np.nan, log_k)


def trend(a: Array, b: Array, log_flops: Array, at: float) -> Array:
    """Return s = d log k / d log C about one log C (S,), as `log_multiplier` reads k."""
    limit = np.log(FARTHEST)
    below, above = (
        np.maximum(log_multiplier(a, b, log_flops, at + side * STEP), -limit) for side in (-1, 1)
    )
    return (above - below) / (2 * STEP)


def percentiles(values: Array, level: float) -> list[float] | None:
    """Return the percentile interval of the values that are numbers; None where there are none."""
    known = values[~np.isnan(values)]
    if not len(known):
        return None
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2], method="nearest")
    return [float(low), float(high)]
