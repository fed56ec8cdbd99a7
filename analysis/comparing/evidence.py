"""Whether a difference is real: runs in pairs, false promotions, looks in between, seeds needed.

Differences are of log loss, arm b less arm a, of runs at one (N, D) with one seed: what both runs
share cancels, so that their deviation is far below that of one run.

`always_valid` is a mixture sequential test. Its statistic is the Bayes factor of a normal effect in
units of the unknown deviation (Rouder et al. 2009, eq. for a normal prior of variance g), which is
a martingale without an effect (Perez-Ortiz et al. 2022, 2208.07610). Its inverse is a p-value at
every look, however often one looks (Ville's inequality).
"""

import math

import numpy as np
from scipy.special import nctdtr, ndtri, stdtrit

from analysis.forms import Array

POWER = 0.8  # chance that a difference that matters is seen with `seeds_needed`
ERROR = 0.05  # two-sided error rate of that test
EFFECT_VARIANCE = 1.0  # g, of the effect in deviations of one pair: the unit information prior
MOST_SEEDS = 1_000_000  # a count beyond it is written as it is


def benjamini_hochberg(p_values: Array) -> Array:
    """Return the q-value of each p-value (m,): the least false discovery rate that selects it.

    Benjamini and Hochberg 1995. NaN stays NaN and does not count as a test.
    """
    q = np.full(len(p_values), np.nan)
    known = np.flatnonzero(~np.isnan(p_values))
    order = known[np.argsort(p_values[known])]
    m = len(order)
    if m:
        raw = p_values[order] * m / np.arange(1, m + 1)
        q[order] = np.minimum(np.minimum.accumulate(raw[::-1])[::-1], 1.0)
    return q


def always_valid(differences: Array) -> float | None:
    """Return a p-value of no difference that holds at every look; None for fewer than two pairs.

    differences: one number an independent pair (n,), in the order in which the pairs ended
    """
    n = np.arange(2, len(differences) + 1)
    if not len(n):
        return None
    sums, squares = np.cumsum(differences)[1:], np.cumsum(differences**2)[1:]
    mean = sums / n
    variance = np.maximum(squares - n * mean**2, 0.0) / (n - 1)
    if not np.any(squares > 0):
        return 1.0
    with np.errstate(divide="ignore", invalid="ignore"):
        t2 = np.where(variance > 0, n * mean**2 / variance, np.inf)
        wide = 1 + n * EFFECT_VARIANCE
        ratio = np.where(np.isinf(t2), wide, (1 + t2 / (n - 1)) / (1 + t2 / ((n - 1) * wide)))
    log_factor = n / 2 * np.log(ratio) - np.log(wide) / 2
    return float(min(1.0, np.exp(-np.max(log_factor))))


def deviation_within(differences: Array, points: Array) -> tuple[float, int] | None:
    """Return the deviation of a difference between seeds, and its degrees of freedom.

    differences: of log loss, one a pair (n,)
    points: the (N, D) of each pair

    None where no point has two pairs, or all differ alike.
    """
    codes = np.unique(points, return_inverse=True)[1].reshape(-1)
    count = np.bincount(codes)
    mean = np.bincount(codes, differences) / count
    freedom = int((count - 1).sum())
    squares = float(((differences - mean[codes]) ** 2).sum())
    return (math.sqrt(squares / freedom), freedom) if freedom and squares > 0 else None


def deviation_about_trend(differences: Array, params: Array, tokens: Array) -> float | None:
    """Return the deviation of differences (n,) about a plane in log N and log D; None for few."""
    plane = np.column_stack([np.ones(len(differences)), np.log(params), np.log(tokens)])
    freedom = len(differences) - np.linalg.matrix_rank(plane)
    if freedom < 1:
        return None
    left = differences - plane @ np.linalg.lstsq(plane, differences, rcond=None)[0]
    sd = float(np.sqrt((left**2).sum() / freedom))
    return sd if sd > 0 else None


def seeds_needed(variance: float, difference: float) -> int:
    """Return the seeds of each arm that see a difference with power `POWER`, 2 or more.

    variance: of the difference of two runs: sd_d^2 of pairs, sd_a^2 + sd_b^2 of runs without
    difference: that matters, in the unit of the deviations

    n = variance (z_a + z_b)^2 / difference^2, then more seeds until Student's test has the power.
    """
    z = float(ndtri(1 - ERROR / 2) + ndtri(POWER))
    n = max(2, math.ceil(variance * z**2 / difference**2))
    while n < MOST_SEEDS and _power(n, difference / math.sqrt(variance)) < POWER:
        n += 1
    return n


def _power(n: int, effect: float) -> float:
    """Return the power of a paired t test of n pairs for an effect in deviations of one pair."""
    critical = float(stdtrit(n - 1, 1 - ERROR / 2))
    return 1 - float(nctdtr(n - 1, effect * math.sqrt(n), critical))
