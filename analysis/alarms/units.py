"""Columns of N, D and C that are in thousands, millions, ..., or N and D that are swapped.

N and D are checked by themselves: only where their counts, or the ratio D/N, are those of no run is
a unit (or a swap) named for them. C is compared with 6ND: where the two agree except for a unit of
compute, C is in that unit. A C that no unit explains only gives the alarm that it is far from 6ND:
N and D that make sense are not blamed for it.
"""

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd

from analysis.alarms.alarm import Alarm, named_rows
from analysis.alarms.outliers import odd_counts
from analysis.forms import Array, column
from scaling.app.quoting import override

UNIT_GAP = 300.0  # ratio of neighbouring values of one column from which they may be in two units
UNITS = {1e3: "thousands", 1e6: "millions", 1e9: "billions", 1e12: "trillions"}
# How unusual a unit is, as the tenfold steps of D/N that a usual one may be worse by.
RARE_UNIT = {1.0: 0.0, 1e3: 1.0, 1e6: 0.5, 1e9: 0.5, 1e12: 0.6}
RARE_SWAP = 0.5  # the same of N and D in each other's column
RARE_COMPUTE = 0.7  # the same of C in another unit beside N or D
USUAL_RATIO = 20.0  # tokens per parameter near which a guessed unit should lead
USUAL_PARAMS = 3e8  # parameters near which it should lead
POSSIBLE_RATIO = (0.02, 2e4)  # tokens per parameter of runs that anyone made
FEWEST_COUNTS = {"params": 1e3, "tokens": 1e4}  # medians below mean a larger unit
COMPUTE_UNITS = {
    1e6: "MFLOPs",
    1e9: "GFLOPs",
    1e12: "TFLOPs",
    1e15: "PFLOPs",
    1e18: "EFLOPs",
    8.64e19: "petaFLOP/s-days",
    1e21: "ZFLOPs",
}
UNIT_FIT = 3.3  # ratio to 6ND up to which a unit explains C; PFLOP-days and ZFLOPs lie 11.6 apart
FEWEST_IN_UNIT = 3  # rows; one or two are outliers
DERIVED = 1e-6  # relative difference of C from 6ND below which it was computed from N and D


def unit_alarms(table: pd.DataFrame, names: Mapping[str, str]) -> list[Alarm]:
    """Return the alarms; `names` {ours: the table's} are for the settings in their sentences."""
    rows = _rows_in_units(table)
    if rows:
        return rows
    wrong = _whole_columns(table, names)
    return wrong or list(_compute_unit(table))


def over_6nd(table: pd.DataFrame) -> Array:
    """Return C over 6ND (n,), with C in the unit that explains each row."""
    return _over_6nd(table) * _compute_factors(table)


def _rows_in_units(table: pd.DataFrame) -> list[Alarm]:
    """Find some rows of params or tokens that are not counted in ones."""
    counts = {name: column(table, name) for name in FEWEST_COUNTS}
    alarms: list[Alarm] = []
    for name, other in (("params", "tokens"), ("tokens", "params")):
        low = _low_rows(counts[name], counts[other], _over_6nd(table), name)
        if low is None:
            continue
        factor = _guess(counts[name][low], counts[name][~low])
        alarms.append(
            wrong_unit_alarm(table, name, UNITS[factor], f"multiply them by {factor:.0e}", low)
        )
        counts[name] = np.where(low, counts[name] * factor, counts[name])
    return alarms


def _whole_columns(table: pd.DataFrame, names: Mapping[str, str]) -> list[Alarm]:
    """Find params or tokens that are not counted in ones, or in each other's column."""
    counts = {name: column(table, name) for name in FEWEST_COUNTS}
    n, d = (float(np.median(counts[name])) for name in ("params", "tokens"))
    small = any(np.median(v) < FEWEST_COUNTS[name] for name, v in counts.items())
    ratio = float(np.median(counts["tokens"] / counts["params"]))
    possible = not small and POSSIBLE_RATIO[0] <= ratio <= POSSIBLE_RATIO[1]
    if possible and (ratio >= 1 or _one_size_a_trunk(table)):
        return []
    over = _over_6nd(table)
    off = None if np.allclose(over, 1, rtol=DERIVED) else 1 / float(np.median(over))
    best = min(
        ((f, g) for f in (1.0, *UNITS) for g in (1.0, *UNITS) if f * g > 1),
        key=lambda pair: _strangeness(n, d, pair, off),
    )
    swap = RARE_SWAP + _strangeness(d, n, (1.0, 1.0), off)
    if ratio < 1 and (possible or swap < _strangeness(n, d, best, off)):
        return [_swapped_alarm(ratio, names)]
    every = np.ones(len(table), dtype=bool)
    return [
        wrong_unit_alarm(table, name, UNITS[factor], f"multiply them by {factor:.0e}", every)
        for name, factor in zip(("params", "tokens"), best, strict=True)
        if factor > 1
    ]


def _one_size_a_trunk(table: pd.DataFrame) -> bool:
    """Say whether every trunk has one N and some have several D, which shows which column is N."""
    if "trunk" not in table:
        return False
    several = table.groupby("trunk")[["params", "tokens"]].nunique()
    return bool((several["params"] == 1).all() and (several["tokens"] > 1).any())


def _swapped_alarm(ratio: float, names: Mapping[str, str]) -> Alarm:
    there = {name: names.get(name, name) for name in FEWEST_COUNTS}
    remedy = [
        override("columns.params", there["tokens"]),
        override("columns.tokens", there["params"]),
    ]
    return Alarm(
        code="swapped_columns",
        sentence=f"Columns params and tokens seem to be swapped, the median run having {ratio:.2g} "
        f"tokens per parameter: unless the runs were that short, add {' '.join(remedy)}, or the "
        "exponents are those of each other.",
    )


def _strangeness(n: float, d: float, pair: tuple[float, float], off: float | None) -> float:
    """Return how unlike real runs N and D would be after multiplication by the pair.

    n, d: median N and D
    pair: the factors of N and D
    off: 6ND over counted FLOPs, which the pair and a unit of compute should make 1; None where
        these FLOPs were computed as 6ND

    Real runs have about 20 tokens for each of some 3e8 parameters, and usual units are preferred.
    """
    f, g = pair
    compute_misfit = 0.0
    if off is not None:
        misses = [
            10 * max(abs(np.log10(f * g * off / unit)) - np.log10(UNIT_FIT), 0.0)
            + RARE_COMPUTE * (unit > 1)
            for unit in (1.0, *COMPUTE_UNITS)
        ]
        compute_misfit = float(min(misses))
    rare = sum(RARE_UNIT[x] for x in pair)
    ratio = abs(np.log10(d * g / (n * f) / USUAL_RATIO))
    return compute_misfit + rare + ratio + 0.1 * abs(np.log10(n * f / USUAL_PARAMS))


def _low_rows(values: Array, other: Array, over: Array, name: str) -> Array | None:
    """Return the rows far below the others, if only these make no sense as counts."""
    ordered = np.sort(values)
    gaps = ordered[1:] / ordered[:-1]
    if not len(gaps) or gaps.max() < UNIT_GAP:
        return None
    low = values <= ordered[gaps.argmax()]
    if min(low.sum(), (~low).sum()) < FEWEST_IN_UNIT:
        return None
    ratio = values / other if name == "tokens" else other / values
    outside = not POSSIBLE_RATIO[0] <= np.median(ratio[low]) <= POSSIBLE_RATIO[1]
    by_compute = over[low].min() > UNIT_GAP and _explains(float(np.median(over[~low])), 1.0)
    return low if outside or by_compute else None


def _explains(value: float, place: float) -> bool:
    return abs(np.log(value / place)) < np.log(UNIT_FIT)


def _guess(low: Array, high: Array) -> float:
    """Return the factor that brings the low rows of a column nearest to its other rows."""
    return min(UNITS, key=lambda f: abs(np.log(np.median(low) * f / np.median(high))))


def _compute_factors(table: pd.DataFrame) -> Array:
    """Return the factor that brings each row's C (n,) to FLOPs, 1 where no unit explains the row.

    A unit counts only where at least a few rows share it, not all of them odd ones.
    """
    over = _over_6nd(table)
    units = np.array(list(COMPUTE_UNITS))
    misses = np.abs(np.log(over[:, None] * units))  # (n, units)
    nearest = misses.argmin(axis=1)
    fits = misses.min(axis=1) < np.log(UNIT_FIT)
    factors = np.where(fits, units[nearest], 1.0)
    odd = odd_counts(over)
    for factor in np.unique(factors):
        rows = factors == factor
        if rows.sum() < min(FEWEST_IN_UNIT, len(rows)) or (odd[rows].all() and rows.mean() <= 0.1):
            factors[rows] = 1.0
    return factors


def _compute_unit(table: pd.DataFrame) -> Iterator[Alarm]:
    factors = _compute_factors(table)
    for factor in np.unique(factors[factors > 1]):
        rows = factors == factor
        yield wrong_unit_alarm(
            table,
            "flops",
            COMPUTE_UNITS[float(factor)],
            f"multiply them by {factor:.3g}",
            rows,
            code="compute_unit",
        )


def _over_6nd(table: pd.DataFrame) -> Array:
    return column(table, "flops") / (6 * column(table, "params") * column(table, "tokens"))


def wrong_unit_alarm(
    table: pd.DataFrame,
    name: str,
    unit: str,
    repair: str,
    rows: Array,
    *,
    code: str = "mixed_units",
) -> Alarm:
    """Say that rows of a column are in another unit.

    table: the runs
    name: the column
    unit: the unit that its values seem to be in
    repair: what to do, as `multiply them by 1e+06`
    rows: which rows, as a mask (n,)
    code: of the alarm
    """
    at = int(rows.sum())
    where = "" if rows.all() else f" in {at} of {len(rows)} rows ({named_rows(table, rows)})"
    return Alarm(
        code=code,
        sentence=f"Column {name} seems to be in {unit}{where}: {repair}, or constants and "
        "forecasts hold in no known unit.",
    )
