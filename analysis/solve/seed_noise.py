"""Seed noise measured in a table, and the weights that follow from it.

Runs that differ in their seed alone (the same N, D and group) give the deviation of log loss. With
enough such groups the deviation is a power of the loss, as Porian et al. 2024 (2406.19146) assume;
with few it is one number. Weights are 1/sd^2 for least squares and 1/sd for absolute deviations.
"""

import numpy as np
import pandas as pd

from analysis.forms import Array, column

SAME = ("params", "tokens", "unique_tokens", "group")  # columns that replicates of a run share
FEWEST_GROUPS = 4  # groups of replicates from which the deviation may change with the loss
LEAST_SPREAD = 0.1  # range of log loss over those groups from which it may
LARGEST_SLOPE = 12.0  # of log deviation in log loss; steeper is chance in few groups


def usual_deviation(loss: Array) -> Array:
    """Return the usual deviation of a run's loss in nats, for tables without replicates.

    It is .002 at L <= 3 and rises as a power of L to .05 at L >= 7: what Porian et al. 2024 say
    that they assume.
    """
    slope = np.log(0.05 / 0.002) / np.log(7 / 3)
    return 0.002 * np.clip(np.asarray(loss) / 3, 1.0, 7 / 3) ** slope


def seed_deviation(table: pd.DataFrame) -> Array:
    """Return each row's deviation of log loss (n,); ValueError for a table without replicates."""
    keys = [name for name in SAME if name in table]
    logs = np.log(column(table, "loss"))
    codes = table.groupby(keys, sort=False, dropna=False).ngroup().to_numpy()
    count = np.bincount(codes)
    mean = np.bincount(codes, logs) / count
    square = np.bincount(codes, (logs - mean[codes]) ** 2)
    several = count > 1
    if not several.any() or not square[several].sum() > 0:
        raise ValueError(
            "objective.weighting=seed_noise needs runs that differ in their seed alone (the same "
            f"{', '.join(keys)}); repeat the cheapest cells with other seeds, or weigh by a column"
        )
    freedom = (count - 1)[several]
    pooled = np.sqrt(square[several].sum() / freedom.sum())
    levels, variance = mean[several], square[several] / freedom
    if several.sum() < FEWEST_GROUPS or np.ptp(levels) < LEAST_SPREAD:
        return np.full(len(table), pooled)
    floor = 0.01 * pooled**2  # two seeds may agree by chance
    log_sd = 0.5 * np.log(np.maximum(variance, floor))
    slope, _ = np.polyfit(levels, log_sd, 1, w=np.sqrt(freedom))
    slope = float(np.clip(slope, 0.0, LARGEST_SLOPE))  # noise falls with the loss or stays
    shape = np.exp(slope * (logs - np.average(levels, weights=freedom)))
    scale = np.sqrt(square[several].sum() / (freedom * shape_at(levels, slope, freedom)).sum())
    return shape * scale


def shape_at(levels: Array, slope: float, freedom: Array) -> Array:
    """Return the squared relative deviation at log losses (groups,)."""
    return np.exp(2 * slope * (levels - np.average(levels, weights=freedom)))


def weight_by_seed_noise(table: pd.DataFrame, *, squared: bool) -> pd.DataFrame:
    """Return the table with a `weight` of mean 1 from its seed noise, times its own `weight`.

    `squared` takes 1/sd^2, as least squares needs, instead of 1/sd.
    """
    weight = 1 / seed_deviation(table) ** (2 if squared else 1)
    weights = column(table, "weight") if "weight" in table else 1.0
    return table.assign(weight=weight / weight.mean() * weights)
