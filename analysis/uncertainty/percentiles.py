"""Bias-corrected percentiles of bootstrap draws."""

import numpy as np
from scipy.special import ndtr, ndtri

from analysis.forms import Array

LARGEST_BIAS = 1.0  # median bias, in deviations, beyond which the correction itself is in doubt


def bias_corrected_percentiles(
    draws: Array,
    point: Array,
    level: float,
    *,
    z: float | None = None,
    acceleration: Array | float = 0.0,
) -> tuple[Array, Array]:
    """Return the lower and upper ends (...) of bias-corrected percentile intervals.

    draws: (S, ...)
    point: the point estimate (...)
    level: of the intervals
    z: quantile instead of the normal one of `level`; larger for few rows (Hesterberg 2015, the
        expanded percentile interval)
    acceleration: of BCa (Efron 1987); 0 is BC (Efron 1981)
    """
    z = float(ndtri((1 + level) / 2)) if z is None else z
    ordered = np.sort(draws, axis=0)
    below = ((draws < point).mean(axis=0) + (draws <= point).mean(axis=0)) / 2
    bias = np.clip(ndtri(below), -LARGEST_BIAS, LARGEST_BIAS)
    ends = []
    for sign in (-z, z):
        shifted = bias + sign
        share = ndtr(bias + shifted / np.maximum(1 - acceleration * shifted, 1e-3))
        ends.append(_at_share(ordered, share))
    return ends[0], ends[1]


def _at_share(ordered: Array, share: Array) -> Array:
    """Return quantiles of sorted draws (S, ...), each element's at its own share (...)."""
    at = share * (len(ordered) - 1)
    lower = np.minimum(at.astype(int), len(ordered) - 1)
    upper = np.minimum(lower + 1, len(ordered) - 1)
    low, high = (np.take_along_axis(ordered, k[None], axis=0)[0] for k in (lower, upper))
    return low + (at - lower) * (high - low)
