"""Which runs are withheld, and how errors are grouped by distance."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from analysis.forms import FORMS, Array, column
from analysis.validate.hindcast import FEWEST_SIZES, LEAST_SHARE, LEAST_SPAN, cutoffs

BINS = {  # of C over the largest C that was fitted: more than the first end, up to the second
    "up to x3": (1.0, 3.0),
    "x3 to x10": (3.0, 10.0),
    "x10 to x30": (10.0, 30.0),
    "beyond x30": (30.0, np.inf),
}
VARIABLES = ("params", "tokens")


def splits(table: pd.DataFrame, flops: Array, form: str, most: int) -> list[float]:
    """Return at most `most` cutoffs for `analysis.validate.hindcast`, from nearest to farthest.

    table: the runs
    flops: C of each (n,)
    form: form of the law, whose parameters say how many runs must remain below a cutoff
    most: cutoffs, spread evenly over those that there are
    """
    needed = max(len(FORMS[form].parameters) + 2, LEAST_SHARE * len(table))
    splits = []
    for cutoff in cutoffs(flops):
        below = table.loc[flops <= cutoff]
        span = flops[flops <= cutoff].max() / flops.min()
        sizes = min(len(np.unique(column(below, v))) for v in VARIABLES)
        if len(below) >= needed and sizes >= FEWEST_SIZES and span >= LEAST_SPAN:
            splits.append(cutoff)
    at = np.unique(np.linspace(0, len(splits) - 1, min(most, len(splits))).round().astype(int))
    return [splits[i] for i in at]


def by_distance(
    rows: pd.DataFrame, bins: Mapping[str, tuple[float, float]] | None = None
) -> dict[str, pd.DataFrame]:
    """Split rows by their column `distance`; bins without rows are left out."""
    if not len(rows):
        return {}
    at = column(rows, "distance")
    ends = (bins or BINS).items()
    parts = {name: rows.loc[(at > low) & (at <= high)] for name, (low, high) in ends}
    return {name: part for name, part in parts.items() if len(part)}


def rms(values: Any) -> float:
    """Return the root mean square."""
    return float(np.sqrt((np.asarray(values, dtype=float) ** 2).mean()))
