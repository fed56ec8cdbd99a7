"""Two arms: the multiplier with its interval, how sure, its trend, and the seeds it takes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.comparing.arms import Arm
from analysis.comparing.draws import ArmLaw
from analysis.comparing.effects import Believed
from analysis.comparing.evidence import (
    always_valid,
    deviation_about_trend,
    deviation_within,
    seeds_needed,
)
from analysis.comparing.multiplier import log_multiplier, percentiles, trend
from analysis.comparing.points import Places, paired, point_means
from analysis.forms import Array, column
from analysis.laws.law import BEYOND


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What all pairs of a comparison share.

    target: FLOPs
    flops: budgets of the curves (K,)
    points, drawn: curves of log L* of each arm (K,), and of its draws (S, K)
    level: of intervals
    difference: in loss that matters
    whys: why the law of an arm gives no loss at the target, empty where it gives one
    believed: of the losses of the usable arms at the target, None without one
    """

    target: float
    flops: Array
    points: Sequence[Array]
    drawn: Sequence[Array]
    level: float
    difference: float
    whys: Sequence[str]
    believed: Believed | None

    @property
    def usable(self) -> list[int]:
        """The arms whose law gives a loss at the target: the columns of `believed`."""
        return [i for i, why in enumerate(self.whys) if not why]


def refusal(law: ArmLaw, name: str, target: float) -> str:
    """Say why the law of an arm gives no loss at the target; empty where it gives one."""
    if law.why:
        return f"{name} has no law: {law.why}"
    if not law.usable and target > BEYOND * law.largest:
        return (
            f"the law of {name} is {law.status} and says nothing beyond its data (C ="
            f" {law.largest:.3g})"
        )
    return ""


def pair_of(
    i: int, j: int, arms: Sequence[Arm], places: Places, setting: Setting
) -> dict[str, Any]:
    """Return the entry of compare.json of two arms; k is None where a law does not give it.

    i, j: the arms a and b
    arms, places: of all arms
    setting: the target and the curves

    k, its interval, its trend and p_value, which is one-sided, of b being no better than a, are of
    the runs alone. p_better has the prior over effects too (`analysis.comparing.effects`).
    """
    names = [arms[k].name for k in (i, j)]
    pair: dict[str, Any] = {"a": names[0], "b": names[1]}
    why = "; ".join(filter(None, (setting.whys[k] for k in (i, j))))
    keys = ("k", "k_interval", "p_better", "p_value", "trend", "trend_interval", "fades")
    pair |= dict.fromkeys(keys) if why else _from_curves(i, j, setting)
    return pair | _from_runs(i, j, arms, places, setting) | {"why": why}


def _from_curves(i: int, j: int, setting: Setting) -> dict[str, Any]:
    """Return k, how sure it is, and its trend at the target."""
    logs, at = np.log(setting.flops), float(np.log(setting.target))
    both = [~np.isnan(setting.drawn[k]).any(axis=1) for k in (i, j)]
    kept = both[0] & both[1]
    a, b = (setting.drawn[k][kept] for k in (i, j))
    points = (setting.points[i][None], setting.points[j][None])
    log_k = log_multiplier(a, b, logs, at)
    slopes = trend(a, b, logs, at)
    better = 0.5
    if setting.believed:
        better = setting.believed.p_better(setting.usable.index(i), setting.usable.index(j))
    ends, slope_ends = (percentiles(v, setting.level) for v in (log_k, slopes))
    k = float(np.exp(log_multiplier(points[0], points[1], logs, at)[0]))
    slope = float(trend(points[0], points[1], logs, at)[0])
    gain = np.sign(np.log(k)) if k > 0 else -1.0
    fades = bool(slope_ends and max(gain * slope_ends[0], gain * slope_ends[1]) < 0)
    return {
        "k": k,
        "k_interval": None if ends is None else [float(np.exp(e)) for e in ends],
        "p_better": better,
        "p_value": float((1 + (log_k <= 0).sum()) / (1 + len(log_k))),
        "trend": slope,
        "trend_interval": slope_ends,
        "fades": fades,
    }


def _from_runs(
    i: int, j: int, arms: Sequence[Arm], places: Places, setting: Setting
) -> dict[str, Any]:
    """Return what the runs of two arms say in pairs, whatever their laws are."""
    tables = [arms[k].runs.table for k in (i, j)]
    losses = [np.log(column(t, "loss")) for t in tables]
    rows = paired(places, i, j)
    variance = _variance(i, j, arms, places, rows)
    level = float(np.exp(np.mean([x.min() for x in losses])))
    needed = None
    if variance is not None:
        needed = seeds_needed(variance * level**2, setting.difference)
    return {
        "paired_seeds": len(rows[0]),
        "seeds_needed": needed,
        "always_valid_p": always_valid(_unit_differences(i, j, arms, places)),
    }


def _variance(
    i: int, j: int, arms: Sequence[Arm], places: Places, rows: tuple[Array, Array]
) -> float | None:
    """Return the variance of the difference in log loss of two runs, one of each arm.

    Of pairs: within points that have several, else about a plane in log N and log D. Without
    pairs: the sum of the variances between seeds of each arm, else about such a plane at common
    points. None where nothing tells.
    """
    tables = [arms[k].runs.table for k in (i, j)]
    losses = [np.log(column(t, "loss")) for t in tables]
    if len(rows[0]):
        d = losses[1][rows[1]] - losses[0][rows[0]]
        within = deviation_within(d, places.points[i][rows[0]])
        n, tokens = (column(tables[0], name)[rows[0]] for name in ("params", "tokens"))
        sd = within[0] if within else deviation_about_trend(d, n, tokens)
        return None if sd is None else sd**2
    ends = [deviation_within(x, places.points[k]) for k, x in zip((i, j), losses, strict=True)]
    if ends[0] and ends[1]:
        return ends[0][0] ** 2 + ends[1][0] ** 2
    means = [point_means(places.points[k], x) for k, x in zip((i, j), losses, strict=True)]
    sizes = [
        point_means(places.points[i], np.log(column(tables[0], name)))
        for name in ("params", "tokens")
    ]
    both = sorted(means[0].keys() & means[1].keys())
    d = np.array([means[1][p] - means[0][p] for p in both])
    n, tokens = (np.exp([of_point[p] for p in both]) for of_point in sizes)
    sd = deviation_about_trend(d, n, tokens) if both else None
    return None if sd is None else sd**2


def _unit_differences(i: int, j: int, arms: Sequence[Arm], places: Places) -> Array:
    """Return the mean difference of log loss of each pair of units (n,), in the order of time.

    A unit is a trunk or a run; what both units of a pair have at one (N, D) is compared.
    """
    of_arm: list[dict[int, dict[int, float]]] = []
    ended: list[dict[int, float]] = []
    for k in (i, j):
        losses = np.log(column(arms[k].runs.table, "loss"))
        units: dict[int, dict[int, float]] = {}
        last: dict[int, float] = {}
        for unit, point, loss, order in zip(
            places.units[k], places.points[k], losses, arms[k].order, strict=True
        ):
            units.setdefault(int(unit), {})[int(point)] = float(loss)
            last[int(unit)] = max(last.get(int(unit), 0.0), float(order))
        of_arm.append(units)
        ended.append(last)
    differences = []
    for unit in of_arm[0].keys() & of_arm[1].keys():
        a, b = of_arm[0][unit], of_arm[1][unit]
        if both := a.keys() & b.keys():
            time = max(ended[0][unit], ended[1][unit])
            differences.append((time, unit, np.mean([b[p] - a[p] for p in both])))
    return np.array([d for *_, d in sorted(differences)])
