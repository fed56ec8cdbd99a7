"""How runs scatter about a law: a standard deviation of log loss that changes with the loss.

Seed noise falls with the loss (LAWS 5.2: .05 nats at L >= 7, .002 at L <= 3), so one number for all
runs is too wide where forecasts are made. Here var = c L^(2 growth). The growth is its posterior
mean under the Gaussian likelihood of the residuals (c profiled, n - p rows) and a normal prior
about 0, so few rows shrink it towards constant noise. Below the smallest fitted loss the deviation
is constant. Residuals beyond `FAR_MADS` robust deviations are left out, as long as they are few: a
plain root mean square follows one wrong row (LAWS 5.10: one of 240 rows at a loss of 10.8 widened
the interval at 1e23 FLOPs eighteenfold). Measured on 180 tables for each of three good designs and
two laws: at 10 times the largest C the estimate was .68-1.1 of the truth (median), and the nominal
90 % interval of a new run covered 88-97 %; with one number for all runs it covered 88-100 %.
"""

from collections.abc import Mapping

import numpy as np

from analysis.forms import Array

GROWTH_SD = 3.0  # deviation of the prior of growth; LAWS 5.2 has 2.8 above L = 3 and -1 below
GROWTHS = np.linspace(-3.0, 5.0, 33)  # grid over which the posterior of growth is averaged
MAD = 1.4826  # ratio of a normal standard deviation to the median absolute deviation
FAR_MADS = 6.0  # robust deviations beyond which a residual says nothing about the scatter
MOST_FAR = 0.05  # share of the rows, and at least one row; more of them are the form's own error
LEAST_DEVIATION = 5e-4  # of log loss, as losses are printed with three digits after the point
FEWEST_ROWS = 8  # rows beyond the parameters from which one can be told from the others


def far_rows(residuals: Array, n_parameters: int) -> Array:
    """Return which rows (n,) have residuals too far from the others' to tell the scatter.

    residuals: log Lhat - log L of the runs (n,)
    n_parameters: number of fitted parameters, whose residuals are near 0 and are not counted
    """
    n = len(residuals)
    none = np.zeros(n, dtype=bool)
    if n < n_parameters + FEWEST_ROWS:
        return none
    distance = np.abs(residuals)
    middle = float(np.median(np.sort(distance)[n_parameters:]))
    far = distance > FAR_MADS * max(MAD * middle, LEAST_DEVIATION)
    return far if far.sum() <= max(1, MOST_FAR * n) else none


def scatter(residuals: Array, log_fitted: Array, n_parameters: int) -> dict[str, float]:
    """Return how runs scatter about a law, as the `noise` block of law.json.

    residuals: log Lhat - log L of the runs (n,)
    log_fitted: log of the fitted loss of the runs (n,)
    n_parameters: number of fitted parameters, for the degrees of freedom

    Far rows (`far_rows`) are left out. The block holds sd_log (one number for all runs), least_loss
    (the smallest fitted loss), sd_log_least (the deviation there) and growth (its exponent in the
    loss).
    """
    near = ~far_rows(residuals, n_parameters)
    residuals, log_fitted = residuals[near], log_fitted[near]
    n, squares = len(residuals), residuals**2
    freedom = max(n - n_parameters, 1)
    pooled = float(np.sqrt(squares.sum() / freedom))
    least, middle = float(log_fitted.min()), float(log_fitted.mean())
    noise = {"sd_log": pooled, "least_loss": float(np.exp(least))}
    if not pooled > 0:
        return noise | {"growth": 0.0, "sd_log_least": pooled}
    above = 2 * (log_fitted - middle)
    scale = (squares * np.exp(-GROWTHS[:, None] * above)).sum(axis=1)
    surprise = freedom * np.log(scale) / 2 + (GROWTHS / GROWTH_SD) ** 2 / 2
    weight = np.exp(surprise.min() - surprise)
    growth = float((weight * GROWTHS).sum() / weight.sum())
    variance = (squares * np.exp(-growth * above)).sum() / freedom
    at_least = np.sqrt(variance) * np.exp(growth * (least - middle))
    return noise | {"growth": growth, "sd_log_least": float(at_least)}


def deviation(noise: Mapping[str, float], loss: Array) -> Array:
    """Return the standard deviation of log loss at some losses, given the block of `scatter`."""
    ratio = np.maximum(loss / noise["least_loss"], 1.0)
    return noise["sd_log_least"] * ratio ** noise["growth"]
