"""Loss curves and their forecasts on a page: a law of form=schedule with its curves."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.figures import schedule_charts
from analysis.laws.curve_law import fit_of
from analysis.laws.law import Law
from analysis.number_text import number, short
from analysis.page.gallery import Picture
from analysis.page.tables import Grid
from analysis.runs.curves import SizeCurves
from scaling.curves import Curve, CurveFit

MOST_CURVES = 6  # drawn; the table has all
MOST_POINTS = 150  # of one curve in a figure


def errors_of(law: Law, sizes: Sequence[SizeCurves]) -> list[dict[str, Any]]:
    """Return for each curve its mean error, its error at the end, and the share in the band.

    law: of form=schedule
    sizes: curves, which the law was fitted to or not
    """
    rows = []
    for size in sizes:
        fit = fit_of(law.curves, size.params)
        for curve in size.curves:
            rows.append(_errors(fit, curve, law) | {"params": size.params})
    return rows


def _errors(fit: CurveFit, curve: Curve, law: Law) -> dict[str, Any]:
    here = curve.measured
    level = (law.curves or {})["level"]
    row: dict[str, Any] = {"name": curve.name, "fitted": curve.name in fit.names, "why": ""}
    try:
        got = fit.predict(
            curve.step, curve.lr, level, warmup_steps=curve.warmup_steps, peak_lr=curve.peak_lr
        )
    except ValueError as error:
        return row | {"why": str(error), "mean": None, "end": None, "inside": None, "half": None}
    loss = curve.loss[here]
    inside = (got.low[here] <= loss) & (loss <= got.high[here])
    return row | {
        "mean": float(np.mean(np.abs(got.loss[here] / loss - 1))),
        "end": float(got.loss[here][-1] / loss[-1] - 1),
        "inside": float(inside.mean()),
        "half": float(np.mean((got.high - got.low)[here] / 2 / got.loss[here])),
    }


def error_grid(law: Law, sizes: Sequence[SizeCurves]) -> Grid:
    """Return the errors as a table, a curve a row."""
    several = len(sizes) > 1
    rows = []
    for one in errors_of(law, sizes):
        values = [
            "-" if one[key] is None else f"{100 * one[key]:{sign}.2f}%"
            for key, sign in (("mean", ""), ("end", "+"), ("half", ""))
        ]
        inside = "-" if one["inside"] is None else f"{100 * one['inside']:.0f}%"
        kind = "fitted" if one["fitted"] else "forecast"
        size = (short(one["params"]),) if several else ()
        rows.append((one["name"], *size, kind, *values, inside))
    columns = (
        "curve", *(("N",) if several else ()), "", "mean error", "at the end", "half band",
        "in the band",
    )  # fmt: skip
    first = 3 if several else 2
    numeric = tuple(range(first, first + 4))
    return Grid(name="Curves against the law", columns=columns, rows=rows, numeric=numeric)


def parameter_grid(law: Law) -> Grid:
    """Return parameters and weights of each law at each size."""
    rows = []
    for size in (law.curves or {})["sizes"]:
        fit = fit_of(law.curves, size["params"])
        for one, weight in zip(fit.laws, fit.weights, strict=True):
            values = ", ".join(f"{k} {number(v, 4)}" for k, v in one.parameters().items())
            of = "" if size["params"] is None else short(size["params"])
            error = f"{100 * fit.error:.2f}%"
            rows.append((f"{of} {one.law.name}".strip(), number(weight, 2), error, values))
    columns = ("law", "weight", "error", "parameters")
    return Grid(name="Laws of the curves", columns=columns, rows=rows, numeric=(1, 2), wide=(3,))


def curve_pictures(law: Law, sizes: Sequence[SizeCurves]) -> list[Picture]:
    """Draw curves with their forecasts, those that were not fitted first, and the best decay."""
    several = len(sizes) > 1
    every = [(size, curve) for size in sizes for curve in size.curves]
    fits = {size.params: fit_of(law.curves, size.params) for size in sizes}

    def order(pair: tuple[SizeCurves, Curve]) -> tuple[bool, float]:
        return pair[1].name in fits[pair[0].params].names, -float(pair[1].step[-1])

    drawn = []
    for size, curve in sorted(every, key=order):
        picture = _picture(law, fits[size.params], size, curve, len(drawn), several=several)
        if picture:
            drawn.append(picture)
        if len(drawn) == MOST_CURVES:
            break
    return [*drawn, *_decay_pictures(law)]


def _picture(
    law: Law, fit: CurveFit, size: SizeCurves, curve: Curve, index: int, *, several: bool
) -> Picture | None:
    """Draw one curve; None where the law does not forecast it."""
    level = (law.curves or {})["level"]
    try:
        got = fit.predict(
            curve.step, curve.lr, level, warmup_steps=curve.warmup_steps, peak_lr=curve.peak_lr
        )
    except ValueError:
        return None
    table = pd.DataFrame({"x": curve.step, "y": got.loss, "lo": got.low, "hi": got.high})
    seen = pd.DataFrame({"x": curve.step[curve.measured], "y": curve.loss[curve.measured]})
    from_row = max(0, int(np.searchsorted(curve.step, seen["x"].iloc[0])) - 1)
    kind = "fitted" if curve.name in fit.names else "not fitted: this is a forecast"
    of = f", N = {short(size.params)}" if several and size.params else ""
    return Picture(
        name=f"schedule-{index}",
        svg=schedule_charts.curve_forecast(
            thinned(table.iloc[from_row:]),
            thinned(seen),
            name=f"schedule-{index}",
            title=f"Loss along {curve.name}",
            level=level,
        ),
        caption=f"{curve.name}{of} ({kind}). The band is for one measured loss.",
    )


def _decay_pictures(law: Law) -> list[Picture]:
    decays = (law.curves or {}).get("best_decay") or []
    if not decays:
        return []
    series = {
        one["shape"]: pd.DataFrame({"x": 100 * np.array(one["fractions"]), "y": one["losses"]})
        for one in decays
    }
    best = {one["shape"]: (100 * one["fraction"], one["loss"]) for one in decays}
    shares = "; ".join(
        f"{one['shape']}: {100 * one['fraction']:.0f}%"
        f" [{100 * one['fraction_interval'][0]:.0f}, {100 * one['fraction_interval'][1]:.0f}]"
        for one in decays
    )
    caption = (
        f"Loss at the end of {decays[0]['n_steps']:,} steps against the share of them that decays."
        f" Best {shares}."
    )
    return [Picture(name="decay", svg=schedule_charts.decay_loss(series, best), caption=caption)]


def thinned(table: pd.DataFrame) -> pd.DataFrame:
    """Return at most about MOST_POINTS rows, the last one among them."""
    step = max(1, len(table) // MOST_POINTS)
    return pd.concat([table.iloc[:-1:step], table.iloc[-1:]])
