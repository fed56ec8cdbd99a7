"""Which runs of several arms belong together: the same (N, D), the same seed, the same trunk.

Two arms that were swept over one grid are wrong about their law in the same way, and with one seed
they see their data in the same order. Draws of a comparison therefore give runs that belong
together the same weight, so that what the arms share cancels in their difference.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.forms import Array, column

SAME = 0.02  # distance of log N, and of log D, up to which runs of two arms are at one point
SPREAD = 2 * SAME  # extent of such a point at most


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where the runs of each arm stand, as codes that all arms share.

    sizes: N of each run, a code (n,) for each arm
    points: (N, D) of each run
    units: what is resampled as one, a trunk or a run; equal codes of two arms are paired
    seeds: the seed of each run, -1 where the arm knows none
    n_units: number of different units
    """

    sizes: tuple[Array, ...]
    points: tuple[Array, ...]
    units: tuple[Array, ...]
    seeds: tuple[Array, ...]
    n_units: int


def places(tables: Sequence[pd.DataFrame]) -> Places:
    """Find the sizes, points and units of the arms' runs.

    tables: the runs of each arm, with params, tokens and loss, and optionally seed and trunk
    """
    ends = np.cumsum([len(t) for t in tables])[:-1]
    sizes = near_codes(np.log(np.concatenate([column(t, "params") for t in tables])))
    data = near_codes(np.log(np.concatenate([column(t, "tokens") for t in tables])))
    points = pd.factorize(pd.Series(list(zip(sizes, data, strict=True))))[0]
    of_arm = [np.split(codes, ends) for codes in (sizes, points)]
    seeds = [_seeds(t) for t in tables]
    by_seed = bool(set.intersection(*(set(s[s >= 0].tolist()) for s in seeds)))
    labels: list[tuple[int, ...]] = []
    for table, n, point, seed in zip(tables, *of_arm, seeds, strict=True):
        labels += _units(table, n, point, seed, by_seed=by_seed)
    units, names = pd.factorize(pd.Series(labels))
    return Places(
        sizes=tuple(of_arm[0]),
        points=tuple(of_arm[1]),
        units=tuple(np.split(units, ends)),
        seeds=tuple(seeds),
        n_units=len(names),
    )


def near_codes(values: Array) -> Array:
    """Return a code for each value (n,); values nearer than `SAME` share one.

    A run of near values that is wider than `SPREAD` is cut.
    """
    order = np.argsort(values, kind="stable")
    codes, code, first, last = np.empty(len(values), dtype=int), -1, -np.inf, -np.inf
    for i in order:
        if values[i] - last > SAME or values[i] - first > SPREAD:
            code, first = code + 1, values[i]
        codes[i], last = code, values[i]
    return codes


def _seeds(table: pd.DataFrame) -> Array:
    """Return the seed of each run as a number; -1 without a column `seed`."""
    if "seed" not in table or bool(np.any(table["seed"].isna())):
        return np.full(len(table), -1)
    values = table["seed"].tolist()
    if all(isinstance(v, int | float) and v == int(v) and v >= 0 for v in values):
        return np.array(values, dtype=int)
    return pd.factorize(table["seed"].astype(str))[0]


def _units(
    table: pd.DataFrame, sizes: Array, points: Array, seeds: Array, *, by_seed: bool
) -> list[tuple[int, ...]]:
    """Return the unit of each run: its size or point, and its seed or its rank among the others.

    Runs of a trunk are one unit. Arms without a seed in common pair the first unit of a place with
    the first, and so on; a seed that a place has twice counts by rank as well.
    """
    trunks = "trunk" in table and bool(table["trunk"].notna().all())
    group = sizes if trunks else points
    member = pd.factorize(table["trunk"])[0] if trunks else np.arange(len(table))
    ranks: dict[tuple[int, int], dict[int, int]] = {}
    labels: list[tuple[int, ...]] = [()] * len(table)
    for i in np.lexsort((np.arange(len(table)), seeds)):
        s = int(seeds[i]) if by_seed else -1
        known = ranks.setdefault((int(group[i]), s), {})
        rank = known.setdefault(int(member[i]), len(known))
        labels[i] = (int(trunks), int(group[i]), s, rank)
    return labels


def paired(places: Places, a: int, b: int) -> tuple[Array, Array]:
    """Return the rows of two arms that are at one (N, D) with one seed, (k,) each.

    Runs without a seed pair with none.
    """
    keys = [
        {(int(p), int(s)): i for i, (p, s) in enumerate(zip(points, seeds, strict=True)) if s >= 0}
        for points, seeds in ((places.points[i], places.seeds[i]) for i in (a, b))
    ]
    both = [key for key in keys[0] if key in keys[1]]
    return np.array([keys[0][k] for k in both], int), np.array([keys[1][k] for k in both], int)


def point_means(points: Array, values: Array) -> Mapping[int, float]:
    """Return the mean of values at each point."""
    codes, place = np.unique(points, return_inverse=True)
    means = np.bincount(place, values) / np.bincount(place)
    return {int(code): float(mean) for code, mean in zip(codes, means, strict=True)}


def common_points(places: Places, arms: Sequence[int]) -> set[int]:
    """Return the points that all of some arms have."""
    return set.intersection(*(set(places.points[i].tolist()) for i in arms))
