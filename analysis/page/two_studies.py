"""Two studies side by side, and what compute one recipe is worth in terms of the other.

The effective-compute multiplier k(C) of A over B: B needs k C to reach the loss that A's law has at
C on its frontier (as Hernandez & Brown 2020, 2005.04305, state algorithmic progress). Intervals
pair bootstrap draws of the two laws, which are independent. Losses must be of one test set.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.figures import charts
from analysis.figures.bands import frontier_band
from analysis.forms import FORMS, Array
from analysis.laws.law import Law
from analysis.number_text import interval, number, power
from analysis.page.contents import Material
from analysis.page.gallery import Picture
from analysis.page.tables import Grid

POINTS = 40
FARTHEST = 1e4  # times the compute: a loss that is not reached within it is said to be out of reach
HALVINGS = 60


@dataclass(frozen=True, kw_only=True)
class Multiplier:
    """k at some C with its interval; infinite where B does not reach the loss."""

    flops: float
    k: float
    low: float
    high: float


def check_comparable(a: Material, b: Material) -> list[dict[str, str]]:
    """Return alarms of two studies that were not measured alike.

    ValueError where no comparison is possible: no law, other counts, forms without an optimum.
    """
    for one in (a, b):
        if one.law is None:
            raise ValueError(f"{one.folder} has no law.json; run scaling fit runs={one.folder}")
        if one.law.form not in FORMS or FORMS[one.law.form].optimum is None:
            raise ValueError(
                f"{one.folder} has a law of form {one.law.form}, which has no frontier in closed"
                " form; fit form=chinchilla"
            )
    first, second = _laws(a, b)
    if first.count != second.count:
        raise ValueError(
            f"one law counts N as {first.count}, the other as {second.count}; fit both with one"
            " count="
        )
    alarms = []
    for what, sentence in (
        ("corpus", "The test sets differ, so that losses do not compare"),
        ("vocab_size", "The vocabularies differ: a loss a token does not compare"),
        ("test_tokens", "Numbers of test tokens differ"),
    ):
        sides = [_setting(m, what) for m in (a, b)]
        if sides[0] != sides[1]:
            text = f"{sentence} ({sides[0]} and {sides[1]}); take one data config for both."
            alarms.append({"code": f"other_{what}", "sentence": text, "where": "records"})
    for one in (a, b):
        law = one.law
        assert law is not None
        alarms += [
            {"code": x.code, "sentence": x.sentence, "where": f"law of {one.folder.name}"}
            for x in law.alarms
        ]
    return alarms


def _setting(material: Material, name: str) -> Any:
    record = material.records[-1]
    if name == "corpus":
        return record.inputs.get("corpus", "unknown")[:12]
    part = "tokenizer" if name == "vocab_size" else "eval"
    return record.config.get(part, {}).get(name)


def _laws(a: Material, b: Material) -> tuple[Law, Law]:
    assert a.law is not None
    assert b.law is not None
    return a.law, b.law


def common_range(a: Law, b: Law) -> tuple[float, float]:
    """Return the compute (6ND) that both laws were fitted to; ValueError where there is none."""
    ranges = [law.ranges.get("flops_6nd", [0.0, np.inf]) for law in (a, b)]
    low, high = max(r[0] for r in ranges), min(r[1] for r in ranges)
    if not low < high:
        raise ValueError(
            "the two studies have no compute in common; extend the smaller one to the other's"
        )
    return low, high


def least_loss(law: Law, parameters: dict[str, Any], flops: Any) -> Array:
    """Return L*(C); parameters and flops broadcast."""
    form = FORMS[law.form]
    assert form.optimum is not None
    n = np.exp(np.asarray(form.optimum(parameters, flops)))
    return form.predict(parameters, {"params": n, "tokens": flops / 6 / n})


def multiplier(a: Law, b: Law, flops: float, *, level: float, seed: int = 0) -> Multiplier:
    """Return the compute that B needs for A's loss at `flops`, over `flops`."""
    point = float(_needed(a, b, a.parameters, b.parameters, flops)) / flops
    if a.draws is None or b.draws is None:
        return Multiplier(flops=flops, k=point, low=np.nan, high=np.nan)
    rng, n = np.random.default_rng(seed), min(len(a.draws), len(b.draws))
    samples = [law.draws[rng.permutation(len(law.draws))[:n]] for law in (a, b)]  # type: ignore[index,arg-type]
    of_a, of_b = (
        {name: draws[:, i] for i, name in enumerate(law.parameters)}
        for law, draws in zip((a, b), samples, strict=True)
    )
    ratios = _needed(a, b, of_a, of_b, flops) / flops
    low, high = np.quantile(ratios, [(1 - level) / 2, (1 + level) / 2], method="nearest")
    return Multiplier(flops=flops, k=point, low=float(low), high=float(high))


def _needed(a: Law, b: Law, of_a: dict[str, Any], of_b: dict[str, Any], flops: float) -> Array:
    """Return the compute at which B's frontier has A's loss, by halving in log C."""
    loss = np.asarray(least_loss(a, of_a, flops))
    low = np.full(loss.shape, np.log(flops / FARTHEST))
    high = np.full(loss.shape, np.log(flops * FARTHEST))
    never = least_loss(b, of_b, np.exp(high)) > loss
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        above = least_loss(b, of_b, np.exp(middle)) > loss
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    return np.where(never, np.inf, np.exp(high))


def sentence(m: Multiplier, names: tuple[str, str], *, level: float) -> str:
    """State a multiplier in words."""
    if not np.isfinite(m.k):
        return (
            f"At C = {power(m.flops)} {names[0]} reaches a loss that {names[1]} reaches at no"
            " compute, by the two laws."
        )
    ends = "" if np.isnan(m.low) else f" {ends_of(m)}"
    return (
        f"At C = {power(m.flops)} the recipe of {names[0]} is worth {number(m.k, 3)} times the"
        f" compute of {names[1]}{ends}"
        + ("" if np.isnan(m.low) else f" ({100 * level:g}% interval)")
        + "."
    )


def ends_of(m: Multiplier) -> str:
    """Write an interval whose upper end may be infinite."""
    high = number(m.high, 3) if np.isfinite(m.high) else "∞"
    return f"[{number(m.low, 3)}, {high}]"


def side_by_side(a: Material, b: Material, flops: float, *, level: float) -> Grid:
    """Return what the two laws say at one compute."""
    laws = _laws(a, b)
    optima = [law.optimum(flops, level, force=True) for law in laws]
    rows = [
        ("runs", *(str(law.n_runs) for law in laws)),
        ("status", *(law.status for law in laws)),
    ]
    for name in laws[0].parameters if laws[0].form == laws[1].form else ():
        ends = [(law.intervals or {}).get("parameters", {}).get(name) for law in laws]
        values = [
            f"{number(law.parameters[name], 4)} {interval(e)}"
            for law, e in zip(laws, ends, strict=True)
        ]
        rows.append((name, *values))
    rows.append(("N ~ C^a, a", *(number(o.a, 3) for o in optima)))
    for what, label in (("params", "N*"), ("tokens", "D*"), ("loss", "least loss")):
        values = [
            f"{number(getattr(o, what), 4)} {interval(o.intervals.get(what))}" for o in optima
        ]
        rows.append((f"{label} at C = {power(flops)}", *values))
    columns = ("what", a.folder.name, b.folder.name)
    return Grid(name="The two laws", columns=columns, rows=rows, wide=(1, 2))


def pictures(a: Material, b: Material, *, level: float) -> list[Picture]:
    """Draw both frontiers with their cells, and the multiplier over the common compute."""
    laws, names = _laws(a, b), (a.folder.name, b.folder.name)
    low, high = common_range(*laws)
    series = {}
    for name, material, law in zip(names, (a, b), laws, strict=True):
        cells = material.cells()
        reach = np.geomspace(cells["flops"].min(), cells["flops"].max(), POINTS)
        series[name] = (cells, frontier_band(law, reach, level=level))
    multipliers = [multiplier(*laws, c, level=level) for c in np.geomspace(low, high, POINTS)]
    table = pd.DataFrame(
        [
            {"x": m.flops, "y": m.k, "lo": m.low, "hi": m.high}
            for m in multipliers
            if np.isfinite(m.k)
        ]
    )
    figures = [
        Picture(
            name="compared",
            svg=charts.compared(series),
            caption=f"Cells of both studies and the frontiers of their laws, with {100 * level:g}%"
            " intervals of the mean.",
        )
    ]
    if len(table):
        if not np.isfinite(table["hi"]).all():
            table = table.drop(columns=["lo", "hi"])
        svg = charts.multiplier(table, f"compute of {names[1]} over that of {names[0]}")
        caption = (
            f"Compute that {names[1]} needs to reach {names[0]}, over the compute of {names[0]}."
        )
        figures.append(Picture(name="multiplier", svg=svg, caption=caption))
    return figures
