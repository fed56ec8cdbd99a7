"""Lines with their intervals, as tables for the figures: frontier, allocation, IsoFLOP curves.

Columns x, y and, where the law has draws, lo and hi. C = 6ND on the x axis; N parameters, D tokens.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from analysis.forms import FORMS
from analysis.laws.law import Law

POINTS = 40
STEEP = 1.5  # an end of a band that moves by more than this power of x, against its line, jumps
SAME_BUDGET = 0.15  # in log C: cells this near to an IsoFLOP budget belong to it


def span(low: float, high: float, *, margin: float = 1.3) -> np.ndarray:
    """Return log-spaced values that reach a little beyond both ends."""
    return np.geomspace(low / margin, high * margin, POINTS)


def within(law: Law, flops: np.ndarray) -> np.ndarray:
    """Return the budgets that a law may be drawn at: beyond its data only where it answers."""
    reach = law.ranges.get("flops_6nd", [0.0, np.inf])[1]
    return flops if law.extrapolates else flops[flops <= reach]


def has_optimum(law: Law | None) -> bool:
    """Tell whether a law says how to split a budget; a power law in one variable does not."""
    if law is None:
        return False
    return (law.form in FORMS and FORMS[law.form].is_surface) or "k_params" in law.allocation


def frontier_band(law: Law | None, flops: np.ndarray, *, level: float) -> pd.DataFrame | None:
    """Return the least loss at each compute with the interval of the mean; None without a loss."""
    if law is None or not has_optimum(law):
        return None
    flops = within(law, flops)
    optima = [law.optimum(c, level) for c in flops]
    if optima[0].loss is None:
        return None
    n, d = np.array([o.params for o in optima]), np.array([o.tokens for o in optima])
    prediction = law.predict(n, d, level, noise=False)
    table = pd.DataFrame({"x": flops, "y": prediction.loss})
    return table if prediction.low is None else table.assign(lo=prediction.low, hi=prediction.high)


def allocation_bands(
    law: Law, flops: np.ndarray, *, level: float
) -> dict[str, dict[str, pd.DataFrame]]:
    """Return {"params" | "tokens": {method: band}} of the law and the regressions beside it."""
    bands: dict[str, dict[str, pd.DataFrame]] = {"params": {}, "tokens": {}}
    flops = within(law, flops)
    optima = [law.optimum(c, level) for c in flops]
    for what, of_what in bands.items():
        table = pd.DataFrame({"x": flops, "y": [getattr(o, what) for o in optima]})
        if what in optima[0].intervals:
            low, high = zip(*(o.intervals[what] for o in optima), strict=True)
            table = broken_at_jumps(table.assign(lo=low, hi=high))
        of_what["parametric"] = table
        for method in ("isoflop", "envelope"):
            line = method_line(law.methods.get(method), flops, what=what)
            if line is not None:
                of_what[method] = line
    return bands


def broken_at_jumps(table: pd.DataFrame) -> pd.DataFrame:
    """Return a band with a gap where an end of it jumps against its line.

    An optimum of some draws ends at the bound of the search from some budget on. The percentile
    that meets them jumps there, and a slope drawn across says what no draw does.

    table: x, y, lo and hi, all above 0; the gap is a row of NaN in lo and hi
    """
    logs = np.diff(np.log(table[["x", "y", "lo", "hi"]].to_numpy()), axis=0)
    steep = np.abs(logs[:, 2:] - logs[:, 1:2]) > STEEP * logs[:, :1]
    gaps = [
        {"x": np.sqrt(x[0] * x[1]), "y": np.sqrt(y[0] * y[1]), "lo": np.nan, "hi": np.nan}
        for i in np.flatnonzero(steep.any(axis=1))
        for x, y in [(table["x"].to_numpy()[i : i + 2], table["y"].to_numpy()[i : i + 2])]
    ]
    return pd.concat([table, pd.DataFrame(gaps)]).sort_values("x") if gaps else table


def method_line(
    method: Mapping[str, Any] | None, flops: np.ndarray, *, what: str
) -> pd.DataFrame | None:
    """Return N or D = k C^exponent of a regression; the band turns about its middle point."""
    exponent, k = {"params": ("a", "k_params"), "tokens": ("b", "k_tokens")}[what]
    if not method or not all(np.isfinite(method.get(key) or np.nan) for key in (exponent, k)):
        return None
    table = pd.DataFrame({"x": flops, "y": method[k] * flops ** method[exponent]})
    interval = method.get(f"{exponent}_interval")
    budgets = [p["flops"] for p in method.get("points", ()) if p.get("flops") and p.get("params")]
    if not interval or not budgets:
        return table
    middle = np.exp(np.mean(np.log(budgets)))
    edges = [table["y"] * (flops / middle) ** (end - method[exponent]) for end in interval]
    return table.assign(lo=np.minimum(*edges), hi=np.maximum(*edges))


def parabolas_of(points: list[dict[str, Any]], cells: pd.DataFrame) -> tuple[pd.DataFrame, ...]:
    """Return cells with their IsoFLOP budget, parabolas and vertices (both budget, x, y).

    `points` are `methods.isoflop.points` of law.json; a refused budget has a parabola alone.
    """
    in_budgets, lines, vertices = [], [], []
    for point in points:
        near = cells.loc[np.abs(np.log(cells["flops"] / point["flops"])) < SAME_BUDGET]
        if point.get("coefficients") is None or not len(near):
            continue
        in_budgets.append(near.assign(budget=point["flops"]))
        sizes = span(*_ends(near["params"]), margin=1.1)
        x = np.log(sizes / point["centre"])
        y = np.polynomial.polynomial.polyval(x, point["coefficients"])
        lines.append(pd.DataFrame({"budget": point["flops"], "x": sizes, "y": y}))
        if point["params"] is not None:
            vertices.append({"budget": point["flops"], "x": point["params"], "y": point["loss"]})
    empty = pd.DataFrame(columns=["budget", "x", "y"])
    return (
        pd.concat(in_budgets) if in_budgets else cells.assign(budget=cells["flops"]).iloc[:0],
        pd.concat(lines) if lines else empty,
        pd.DataFrame(vertices) if vertices else empty,
    )


def _ends(values: pd.Series) -> tuple[float, float]:
    numbers = values.to_numpy(float)
    return float(numbers.min()), float(numbers.max())
