"""Alarms: what in a table or a fit should make its reader stop, and what to do about it.

Each is a code and one sentence. Alarms about the table look at N, D, C and L alone; those about the
fit look at residuals, the second-best minimum and the bootstrap draws. Thresholds are named here.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import fdtrc

from analysis.forms import Array, column

RAY_SPREAD = 0.15  # sd of log D about a line in log N (a factor of 1.16): below, a ray
FEWEST_BUDGETS = 3
LEAST_SPAN = 10.0  # largest over smallest C
UNIT_GAP = 300.0  # neighbouring values of one column this far apart are in two units
COUNT_FACTOR = 1.5  # C over 6ND beyond this, or varying by it squared, is another count
BASIN_VALUE = 0.01  # relative excess of a second minimum's objective that still competes
BASIN_EXPONENT = 0.05  # relative difference of exponents that makes it another minimum
USUAL_A = (0.35, 0.65)
MOST_EPOCHS = 4.0  # beyond, repeated tokens are worth less than fresh ones (Muennighoff 2023)
TREND_P, TREND_R2 = 1e-4, 0.25
HIGHEST_LOSS = float(np.log(1e6))  # nats of a uniform guess among a million tokens
BITS_WIDTH = 0.06
BITS = float(-np.log(np.log(2)))  # log of bits per nat


@dataclass(frozen=True, kw_only=True)
class Alarm:
    """A code for programs and one sentence for readers."""

    code: str
    sentence: str


def table_alarms(table: pd.DataFrame) -> list[Alarm]:
    """Return what is wrong with the design or the units of a table of runs."""
    found = [
        _single_ray(table),
        _too_few_budgets(table),
        _mixed_units(table),
        _duplicate_rows(table),
        _count_disagrees(table),
        _repeated_data(table),
    ]
    return [alarm for alarm in found if alarm]


def residual_alarms(table: pd.DataFrame, residuals: Array) -> list[Alarm]:
    """Return what the residuals log Lhat - log L (n,) say about form and units."""
    found = [_residual_trend(table, residuals), _bits_among_nats(residuals)]
    return [alarm for alarm in found if alarm]


def status_alarm(status: str, form: str) -> Alarm | None:
    """Say first that an answer is no law, for the statuses that no plan should rest on."""
    what = {
        "not_identified": f"These runs do not determine form={form}",
        "bound_hit": f"A parameter of form={form} is at its bound, its term no power law here",
        "max_iter": f"No minimum of form={form} was found",
    }
    if status not in what:
        return None
    return Alarm(
        code=status,
        sentence=f"{what[status]}: do not extrapolate; act on the alarms that follow, or choose a "
        "form with fewer parameters.",
    )


def is_ray(table: pd.DataFrame) -> bool:
    """Tell whether D follows N along one line in logs, so that their terms cannot be told apart."""
    x, y = np.log(table["params"].to_numpy()), np.log(table["tokens"].to_numpy())
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return True
    slope, intercept = np.polyfit(x - x.mean(), y - y.mean(), 1)
    about_y = (y - y.mean()) - slope * (x - x.mean()) - intercept
    return bool(slope > 0 and about_y.std() < RAY_SPREAD)


def two_basins(values: Array, exponents: Array, converged: Array) -> Alarm | None:
    """Compare the minima found: values (S,) best first, exponents (S, k)."""
    close = converged & (values <= values[0] * (1 + BASIN_VALUE))
    apart = np.abs(exponents / exponents[0] - 1).max(axis=1) > BASIN_EXPONENT
    others = np.flatnonzero(close & apart)
    if not len(others):
        return None
    other = exponents[others[0]]
    shown = [", ".join(f"{e:.3f}" for e in row) for row in (exponents[0], other)]
    excess = values[others[0]] / values[0] - 1
    return Alarm(
        code="two_basins",
        sentence=f"A second minimum with exponents {shown[1]} (best: {shown[0]}) is only "
        f"{excess:.2%} worse: add runs where the two differ, and do not extrapolate far.",
    )


def offset_alarm(offset: float, interval: Sequence[float] | None, smallest: float) -> Alarm | None:
    """Say when E is at 0, has an interval reaching 0, or sits at the smallest loss."""
    if offset <= 1e-9 * smallest:
        return Alarm(
            code="offset_at_bound",
            sentence="E is at its bound 0: the runs do not show where the loss levels off, so use "
            "the law near its data only, or add larger runs.",
        )
    if interval is not None and interval[0] <= 1e-3 * smallest:
        return Alarm(
            code="offset_not_identified",
            sentence=f"The interval of E reaches {interval[0]:.3g}: the runs do not show where the "
            "loss levels off, so trust the wider intervals of far forecasts, or add larger runs.",
        )
    if offset >= 0.995 * smallest:
        return Alarm(
            code="offset_at_smallest_loss",
            sentence=f"E = {offset:.4g} is not below the smallest loss {smallest:.4g}: the largest "
            "runs show no further gain; check them for repeated data or another test set.",
        )
    return None


def inseparable_alarm(a: float, interval: Sequence[float], widest: float) -> Alarm | None:
    """Say when the interval of a = beta / (alpha + beta) is too wide to choose N by."""
    if interval[1] - interval[0] <= widest:
        return None
    return Alarm(
        code="exponents_inseparable",
        sentence=f"a = {a:.3f} has the interval [{interval[0]:.3f}, {interval[1]:.3f}]: the runs "
        "do not separate the terms in N and D; vary tokens per parameter more at each budget.",
    )


def unusual_a(a: float) -> Alarm | None:
    """Say when a lies outside what well-tuned ladders give."""
    if USUAL_A[0] <= a <= USUAL_A[1]:
        return None
    return Alarm(
        code="unusual_exponent",
        sentence=f"a = {a:.3f} is outside {USUAL_A[0]}-{USUAL_A[1]}: check that learning rate, "
        "batch and warm-up were tuned at every size and that N and C count the same parameters.",
    )


def edge_alarm(edges: Sequence[float], n_budgets: int) -> Alarm | None:
    """Say which IsoFLOP budgets have their minimum at the edge of their sizes."""
    if not edges:
        return None
    shown = ", ".join(f"{c:.2e}" for c in edges[:4]) + (", .." if len(edges) > 4 else "")
    return Alarm(
        code="edge_minimum",
        sentence=f"{len(edges)} of {n_budgets} budgets (C = {shown}) have no minimum inside their "
        "sizes and were left out of the parabolas: widen the sizes at those budgets.",
    )


def few_units_alarm(unit: str, count: int) -> Alarm:
    """Say that too few independent units were there to be resampled."""
    return Alarm(
        code="few_units",
        sentence=f"Only {count} independent units ({unit}): resampling them "
        "gives rough intervals; add sizes or seeds.",
    )


def lost_alarm(lost: int, resamples: int) -> Alarm:
    """Say that some resamples had no minimum."""
    return Alarm(
        code="resamples_lost",
        sentence=f"{lost} of {resamples} resamples did not converge and were left out of the "
        "intervals, which are therefore too narrow: add runs.",
    )


def _single_ray(table: pd.DataFrame) -> Alarm | None:
    if not is_ray(table):
        return None
    ratio = (table["tokens"] / table["params"]).median()
    return Alarm(
        code="single_ray",
        sentence=f"All runs lie along one line D ~ N (near {ratio:.3g} tokens per parameter), "
        "which cannot tell the terms in N and D apart: add runs from 1/8 to 8 times that ratio.",
    )


def _too_few_budgets(table: pd.DataFrame) -> Alarm | None:
    flops = np.log(column(table, "flops"))
    span = float(np.exp(np.ptp(flops)))
    levels = 1 + int((np.diff(np.sort(flops)) > np.log(1.25)).sum())
    sizes, horizons = (len(np.unique(column(table, v))) for v in ("params", "tokens"))
    if span >= LEAST_SPAN and min(levels, sizes, horizons) >= FEWEST_BUDGETS:
        return None
    return Alarm(
        code="too_few_budgets",
        sentence=f"{levels} budgets over a {span:.3g}-fold span of C, {sizes} sizes and {horizons} "
        f"token counts: a law needs at least {FEWEST_BUDGETS} of each over a tenfold span of C.",
    )


def _mixed_units(table: pd.DataFrame) -> Alarm | None:
    for name in ("params", "tokens"):
        values = np.sort(column(table, name))
        gap = float((values[1:] / values[:-1]).max(initial=1.0))
        if gap > UNIT_GAP:
            return _units(f"{name} jump {gap:.0f}-fold between neighbouring rows", name)
    ratio = float(np.median(_over_6nd(table)))
    if not 1 / UNIT_GAP < ratio < UNIT_GAP:
        return _units(f"C is {ratio:.3g} times 6ND", "params, tokens and flops")
    for name, least in (("params", 100.0), ("tokens", 1e4)):
        middle = float(np.median(column(table, name)))
        if middle < least:
            return _units(f"{name} have the median {middle:.3g}", name)
    middle = float(np.median(column(table, "loss")))
    if middle > HIGHEST_LOSS:
        return _units(f"loss has the median {middle:.3g}, a perplexity?", "loss")
    return None


def _over_6nd(table: pd.DataFrame) -> Array:
    return column(table, "flops") / (6 * column(table, "params") * column(table, "tokens"))


def _units(what: str, columns: str) -> Alarm:
    return Alarm(
        code="mixed_units",
        sentence=f"{what[0].upper()}{what[1:]}: give {columns} in one unit (parameters, tokens, "
        "FLOPs, nats per token), or A, B and every forecast are in the table's own units.",
    )


def _bits_among_nats(residuals: Array) -> Alarm | None:
    """Find rows that stand alone, all at the factor between bits and nats."""
    size = np.abs(residuals)
    far = size > BITS / 2
    at_factor = np.abs(size[far] - BITS) < BITS_WIDTH
    if far.sum() < 2 or not at_factor.all():
        return None
    return _units(f"{far.sum()} rows lie a factor 1/ln 2 = 1.44 off the law: bits?", "loss")


def _duplicate_rows(table: pd.DataFrame) -> Alarm | None:
    repeated = int(table.duplicated(["params", "tokens", "loss"]).sum())
    if not repeated:
        return None
    return Alarm(
        code="duplicate_rows",
        sentence=f"{repeated} rows repeat another row's params, tokens and loss and count twice: "
        "drop them, or give them a weight column.",
    )


def _count_disagrees(table: pd.DataFrame) -> Alarm | None:
    low, middle, high = np.quantile(_over_6nd(table), [0, 0.5, 1])
    factor = max(middle, 1 / middle)
    if factor > UNIT_GAP or (factor < COUNT_FACTOR and high / low < COUNT_FACTOR**2):
        return None
    return Alarm(
        code="count_disagrees",
        sentence=f"Counted C is {low:.2f} to {high:.2f} times 6ND: optima at C = 6ND are not those "
        "at equal counted FLOPs; choose the count= that multiplies, or read a from IsoFLOP.",
    )


def _repeated_data(table: pd.DataFrame) -> Alarm | None:
    if "unique_tokens" not in table:
        return None
    epochs = column(table, "tokens") / column(table, "unique_tokens")
    repeated = int((epochs > MOST_EPOCHS).sum())
    if not repeated:
        return None
    return Alarm(
        code="repeated_data",
        sentence=f"{repeated} runs pass more than {MOST_EPOCHS:g} times over their data (up to "
        f"{epochs.max():.3g}), which a law of fresh tokens mistakes for a small beta: leave them "
        "out with where=, or enlarge the corpus.",
    )


def _residual_trend(table: pd.DataFrame, residuals: Array) -> Alarm | None:
    n = len(residuals)
    if n < 14 or residuals.std() < 1e-7:
        return None
    c = np.log(table["flops"].to_numpy())
    m = np.log((table["tokens"] / table["params"]).to_numpy())
    c, m = ((v - v.mean()) / max(v.std(), 1e-12) for v in (c, m))
    trends = np.stack([np.ones(n), c, m, c * c, m * m, c * m], axis=1)
    limit = 4 * np.median(np.abs(residuals))
    clipped = np.clip(residuals, -limit, limit)
    left = clipped - trends @ np.linalg.lstsq(trends, clipped, rcond=None)[0]
    r2 = 1 - left.var() / clipped.var()
    statistic = (r2 / 5) / ((1 - r2) / (n - 6))
    if fdtrc(5, n - 6, statistic) > TREND_P or r2 < TREND_R2:
        return None
    return Alarm(
        code="residual_trend",
        sentence=f"Residuals follow C and D/N (R2 = {r2:.2f}): the form or the tuning changes with "
        "scale, so compare form= options and fit without the smallest runs.",
    )
