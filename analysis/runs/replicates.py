"""Rows of one (N, D) at several settings are one point of a law L(N, D): the best of each is taken.

A raw sweep over learning rates and batches has many rows at one (N, D). A law of the loss in N and
D is about well-tuned runs, so only the best setting of each point belongs to it (Li et al. 2025,
2503.04715, fit theirs so). Runs that differ in their seed alone measure noise. All of them are
kept, since the least of several noisy losses is biased low.

The rule, for the rows of a point (the same N, D, group, unique tokens and experts; where settings
differ, D may differ by `SAME_TOKENS`, as whole steps of another batch give it):
1. Columns of settings (`analysis.runs.setting_columns`) differ within points: the setting of least
   mean log loss is kept, with all of its seeds.
2. Learning rate or batch are known and equal, or a column `seed` differs: the rows are seeds.
3. Neither is known: rows are settings where points with `FEWEST_ROWS` rows or more say so. The
   spread within points (interquartile range of log loss over 1.349, which is the deviation of
   normal noise; the median over points) must exceed `MOST_SEED_NOISE`, and the rows must be skewed
   upwards, as losses above a flat minimum are and seed noise is not: the mean skewness over points
   must exceed its standard error under normal noise `SURE` times. Otherwise they are seeds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.alarms.alarm import Alarm
from analysis.forms import Array, column
from analysis.runs.setting_columns import PREFIX, kind_of_setting, settings_in
from analysis.solve.seed_noise import SAME
from scaling.app.quoting import override

POINT = "point"  # column that numbers the points of a table that was reduced
IDENTITY = (*(name for name in SAME if name != "tokens"), "experts")  # beside D
LETTERS = {"params": "N", "unique_tokens": "U"}  # short names of the identity
SAME_TOKENS = 0.005  # distance of log D within a point; whole steps move D by less
FEWEST_ROWS = 4  # rows of a point from which a spread and a skewness say something
# Deviation of log loss that no seeds reach: Porian et al. 2024 measure at most .05 nats at a loss
# of 7, .7 %; this is twice that.
MOST_SEED_NOISE = 0.015
SURE = 2.0  # standard errors by which the skewness must exceed that of noise
NORMAL_IQR = 1.349  # interquartile range of a normal distribution, in deviations


@dataclass(frozen=True, kw_only=True)
class Replicates:
    """How many rows were read, how many points they are, and the alarm that says so."""

    rows: int
    points: int
    alarm: Alarm

    def as_json(self) -> dict[str, int]:
        """Return the `replicates` block of law.json."""
        return {"rows": self.rows, "points": self.points}


def best_rows(
    table: pd.DataFrame, inputs: Mapping[str, Any] | None = None
) -> tuple[pd.DataFrame, Replicates | None]:
    """Return the rows of the best setting of each point, and what was reduced (None: nothing).

    table: the runs, with params, tokens and loss
    inputs: what the table was read from and how, as in law.json; for the names of columns

    A reduced table has a column `point`, by which the bootstrap resamples.
    """
    params = column(table, "params")
    if len(np.unique(params)) == len(params):
        return table, None
    settings, points = settings_in(table), points_of(table, SAME_TOKENS)
    varied = [name for name in settings if _varies(_coded(table.loc[:, name]), points)]
    log_loss = np.log(column(table, "loss"))
    if varied:
        codes = np.column_stack([points, *(_coded(table.loc[:, name]) for name in varied)])
        keep = _best_settings(log_loss, points, np.unique(codes, axis=0, return_inverse=True)[1])
        why = _by_columns(varied, settings, inputs or {})
    else:
        points = points_of(table, 0.0)
        spread = (
            None if _known_equal(table, settings, points) else settings_spread(log_loss, points)
        )
        if spread is None:
            return table, None
        keep = _best_settings(log_loss, points, np.arange(len(table)))
        why = (
            f"because rows of a point spread by {spread:.1%}, upwards from the best and beyond any "
            "seed noise, and no column says what differs; if they are seeds, give them a column "
            "seed"
        )
    reduced = table.assign(**{POINT: points}).loc[keep].reset_index(drop=True)
    count = len(np.unique(points))
    seeds = ", with all seeds of its setting," if len(reduced) > count else ""
    sentence = (
        f"{len(table)} rows are {count} ({_identity(table)}) points: the best of each{seeds} is "
        f"fitted, {why}."
    )
    alarm = Alarm(code="replicates", sentence=sentence)
    return reduced, Replicates(rows=len(table), points=count, alarm=alarm)


def settings_spread(log_loss: Array, points: Array) -> float | None:
    """Return the spread within points where it is that of settings, None where it is of seeds.

    log_loss: log of the loss of each row (n,)
    points: the point of each row (n,)

    The rule is number 3 of this module.
    """
    spreads, skews, variances = [], [], []
    for rows in _groups(points):
        n, values = len(rows), log_loss[rows]
        if n < FEWEST_ROWS:
            continue
        spreads.append(np.ptp(np.quantile(values, [0.25, 0.75])) / NORMAL_IQR)
        sd = values.std()
        skews.append(((values - values.mean()) ** 3).mean() / sd**3 if sd > 0 else 0.0)
        variances.append(6 * (n - 2) / ((n + 1) * (n + 3)))  # of the skewness of normal noise
    if not spreads:
        return None
    spread, skewness = float(np.median(spreads)), float(np.mean(skews))
    error = float(np.sqrt(np.sum(variances)) / len(variances))
    return spread if spread > MOST_SEED_NOISE and skewness > SURE * error else None


def points_of(table: pd.DataFrame, same_tokens: float) -> Array:
    """Return the point of each row (n,), from 0; neighbours in log D up to a distance are one.

    table: the runs, with params and tokens, and what else tells points apart (`IDENTITY`)
    same_tokens: distance of log D within a point
    """
    same = table[[name for name in IDENTITY if name in table]]
    if "unique_tokens" in same:  # fresh tokens, however many, are alike
        same = same.assign(
            unique_tokens=np.where(_fresh(table), 0.0, column(table, "unique_tokens"))
        )
    others = same.groupby(list(same), sort=False, dropna=False).ngroup().to_numpy()
    log_d = np.log(column(table, "tokens"))
    order = np.lexsort((log_d, others))
    step = np.diff(log_d[order])
    apart = np.concatenate([[True], (np.diff(others[order]) != 0) | (step > same_tokens)])
    run = np.cumsum(apart) - 1
    first = np.flatnonzero(apart)
    last = np.append(first[1:], len(order)) - 1
    wide = log_d[order][last] - log_d[order][first] > 2 * same_tokens  # D is a continuum there
    apart |= wide[run] & np.concatenate([[True], step > 0])
    points = np.empty(len(table), dtype=int)
    points[order] = np.cumsum(apart) - 1
    return points


def _fresh(table: pd.DataFrame) -> Array:
    """Return the rows (n,) whose tokens do not repeat."""
    return column(table, "unique_tokens") >= column(table, "tokens")


def _coded(values: pd.Series) -> Array:
    """Return a setting as codes (n,); numbers that differ by rounding are the same."""
    if pd.api.types.is_numeric_dtype(values):
        numbers = values.to_numpy(dtype=float, na_value=np.nan)
        digits = np.round(np.log(np.maximum(np.abs(numbers), 1e-300)), 6) + 0.0
        values = pd.Series(np.where(np.isnan(numbers), np.nan, digits))
    return pd.factorize(values.astype(str))[0]


def _varies(codes: Array, points: Array) -> bool:
    """Return whether a column of codes (n,) has two values in some point."""
    pairs = np.unique(np.column_stack([points, codes]), axis=0)
    return len(pairs) > len(np.unique(points))


def _known_equal(table: pd.DataFrame, settings: Mapping[str, str], points: Array) -> bool:
    """Return whether rows of a point are known to be seeds: by their settings or their seed."""
    if {"lr", "batch"} & set(settings.values()):
        return True
    return "seed" in table and _varies(_coded(table.loc[:, "seed"]), points)


def _best_settings(log_loss: Array, points: Array, settings: Array) -> Array:
    """Return which rows (n,) belong to the setting of least mean log loss of their point."""
    settings = settings.reshape(-1)
    mean = np.bincount(settings, log_loss) / np.bincount(settings)
    order = np.lexsort((mean[settings], points))
    first = np.concatenate([[True], np.diff(points[order]) != 0])
    best = settings[order][first]
    return settings == best[points]


def _groups(codes: Array) -> list[Array]:
    """Return the rows of each code."""
    order = np.argsort(codes, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(codes[order])) + 1)


def _identity(table: pd.DataFrame) -> str:
    """Return what tells points apart: N, D and other columns that differ."""
    others = [
        n for n in IDENTITY if n in table and n != "params" and len(table.loc[:, n].unique()) > 1
    ]
    return ", ".join(["N", "D", *(LETTERS.get(name, name) for name in others)])


def _by_columns(
    varied: Sequence[str], settings: Mapping[str, str], inputs: Mapping[str, Any]
) -> str:
    """Return why rows are settings, and the form that such rows are for."""
    ours = inputs.get("columns", {})
    names = [ours.get(name, name.removeprefix(PREFIX)) for name in varied]
    text = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
    why = f"because {text} {'varies' if len(names) == 1 else 'vary'} within points"
    if not {settings[name] for name in varied} & {"lr", "batch"}:
        return why
    maps = []
    for kind in ("lr", "batch"):
        candidates = [
            name for name in settings if kind_of_setting(name.removeprefix(PREFIX)) == kind
        ]
        if kind not in settings and candidates:
            maps.append(override(f"columns.{kind}", candidates[0].removeprefix(PREFIX)))
    return f"{why}; such rows are for a law of settings, {' '.join(['form=lr_batch', *maps])}"
