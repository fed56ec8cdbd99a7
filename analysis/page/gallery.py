"""The figures of a report, each with its caption; a figure without data is left out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.estimation.isoflops.isoflop import NEAR, vertices
from analysis.estimation.surfaces.grid import BOUND
from analysis.figures import charts, check_charts
from analysis.figures.bands import (
    allocation_bands,
    frontier_band,
    has_optimum,
    parabolas_of,
    span,
)
from analysis.forms import FORMS, column
from analysis.laws.law import Law
from analysis.laws.surface_law import FORM as SETTINGS
from analysis.page.contents import Material
from analysis.planning.plan import Plan
from scaling.schema import Record

LEAST_SHARE = 0.5  # share of cells that must lie in budgets, else their grouping is an accident
SURFACE, EDGE = 60, 1.3  # points of an axis, and the margin around the runs as a factor
RESIDUALS = ("params", "tokens", "flops", "tokens_per_param")


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One figure and what it shows; `name` is for a file of it."""

    svg: str
    caption: str
    name: str = ""


def law_pictures(material: Material, *, level: float) -> list[Picture]:
    """Draw a study's loss against compute and its IsoFLOP curves."""
    return loss_pictures(
        material.law, material.cells(), material.training, plan=material.plan, level=level,
        reached=material.final.stages.get("pretrain"),
    )  # fmt: skip


def loss_pictures(
    law: Law | None,
    cells: pd.DataFrame,
    curves: pd.DataFrame,
    *,
    level: float,
    plan: Plan | None = None,
    reached: Record | None = None,
    beyond: float = 1.0,
) -> list[Picture]:
    """Draw loss against compute and the IsoFLOP curves; `reached` is the planned run's record.

    The frontier goes on to `beyond` times the largest C, where the law may be extrapolated.
    """
    if not len(cells):
        return []
    low, high = _reach(cells, plan)
    frontier = frontier_band(law, span(low, high * beyond), level=level)
    method = (law.methods.get("envelope") if law else None) or {}
    envelope = pd.DataFrame(method.get("points") or []).rename(columns={"flops": "x", "loss": "y"})
    planned = _planned(plan, reached)
    picture = Picture(
        name="loss",
        svg=charts.loss_compute(
            curves,
            cells,
            frontier=frontier,
            envelope=envelope if {"x", "y"} <= set(envelope) else None,
            planned=planned,
            fitted_to=high if beyond > 1 else None,
        ),
        caption=(
            f"Every cell (points){' and its training curve (thin lines)' if len(curves) else ''},"
            f" coloured by N. The frontier is the law's least loss at each compute, with the"
            f" {100 * level:g}% interval of its mean"
        )
        + (f"; the large point is the plan's forecast{_outcome(planned)}." if planned else "."),
    )
    return [picture, *_isoflop_picture(law, cells)]


def _isoflop_picture(law: Law | None, cells: pd.DataFrame) -> list[Picture]:
    points = _isoflop_points(law, cells)
    in_budgets, parabolas, minima = parabolas_of(points, cells)
    if not len(parabolas) or len(in_budgets) < LEAST_SHARE * len(cells):
        return []
    optima = dict(zip(minima["budget"], minima["x"], strict=True))
    at = np.array([optima.get(budget, np.nan) for budget in parabolas["budget"]])
    away = np.abs(np.log(column(parabolas, "x") / at))
    parabolas = parabolas.loc[~(away > np.log(NEAR))]  # sizes farther away were not fitted
    caption = (
        "Loss at equal compute C, points coloured by N. Diamonds are the minima of"
        f" {len(minima)} of {len(points)} budgets; a budget without one has its least loss at the"
        " edge of the sizes or no minimum."
    )
    return [
        Picture(name="isoflop", svg=charts.isoflop(in_budgets, parabolas, minima), caption=caption)
    ]


def fit_pictures(law: Law | None, cells: pd.DataFrame) -> list[Picture]:
    """Draw observed against fitted loss and the residuals against N, D, C and D/N."""
    if law is None or not _predicts_loss(law, cells) or not len(cells):
        return []
    if law.form == SETTINGS:  # rows far from the best of their point were not fitted
        points = cells.groupby(["params", "tokens"])["loss"]
        best = column(cells.assign(best=points.transform("min")), "best")
        cells = cells.loc[column(cells, "loss") <= (1 + BOUND) * best].reset_index(drop=True)
    prediction = law.predict_table(cells, noise=False, force=True)
    fitted = cells.assign(predicted=prediction["loss"])
    spread = 100 * float(np.sqrt((np.log(fitted["loss"] / fitted["predicted"]) ** 2).mean()))
    pictures = [
        Picture(
            name="observed",
            svg=charts.observed(fitted),
            caption=f"Observed against fitted loss; root mean square residual {spread:.2g}%.",
        )
    ]
    pictures += _surface(law, fitted)
    texts = {
        "params": "model size",
        "tokens": "tokens",
        "flops": "compute",
        "tokens_per_param": "tokens per parameter",
    }
    return pictures + [
        Picture(
            name=f"residuals_{name}",
            svg=charts.residuals(fitted, name),
            caption=f"Residuals against {texts[name]}, above 0 where the loss lies above the law; a"
            " trend would say the form is wrong.",
        )
        for name in RESIDUALS
    ]


def _surface(law: Law, fitted: pd.DataFrame) -> list[Picture]:
    """Draw the surface of a law of N and D."""
    if not FORMS[law.form].is_surface:
        return []
    sizes, tokens = (
        np.geomspace(fitted[k].min() / EDGE, fitted[k].max() * EDGE, SURFACE)
        for k in ("params", "tokens")
    )
    n, d = np.meshgrid(sizes, tokens)
    losses = law.predict(n, d, noise=False, force=True).loss
    ridge = None
    if has_optimum(law):
        optima = [law.optimum(c, force=True) for c in span(*_reach(fitted, None))]
        line = pd.DataFrame({"x": [o.params for o in optima], "y": [o.tokens for o in optima]})
        ridge = line.loc[line["x"].between(sizes[0], sizes[-1])]
    svg = charts.surface(fitted, sizes, tokens, losses, ridge, convention=law.convention)
    caption = (
        f"The fitted {law.measure.words} as level lines over N and D, and the runs: open where"
        " their loss lies above the law (residual +), filled where it lies below (residual −)."
    )
    return [Picture(name="surface", svg=svg, caption=caption)]


def allocation_pictures(
    law: Law | None,
    cells: pd.DataFrame,
    plan: Plan | None,
    *,
    level: float,
    beyond: float = 1.0,
) -> list[Picture]:
    """Draw N*(C) and D*(C) of the three methods, with the planned point."""
    if law is None or not has_optimum(law) or not len(cells):
        return []
    low, high = _reach(cells, plan)
    bands = allocation_bands(law, span(low, high * beyond), level=level)
    if law.form in bands["params"]:  # a regression alone: it is its own only method
        bands = {what: {law.form: of_what[law.form]} for what, of_what in bands.items()}
    planned = plan.pretrain if plan else None
    dense = " of the dense model" if law.form == "experts" else ""
    return [
        Picture(
            name=f"optimum_{what}",
            svg=charts.allocation(
                bands[what],
                what=what,
                planned=(planned.flops, getattr(planned, what)) if planned else None,
                fitted_to=max(cells["flops"]),
                vertices=_vertices(law, what),
            ),
            caption=(
                f"Compute-optimal {name}{dense} by"
                f" {', '.join(charts.METHODS.get(m, m) for m in bands[what])}, with"
                f" {100 * level:g}% bands."
            ),
        )
        for what, name in (("params", "model size"), ("tokens", "training tokens"))
    ]


def design_pictures(
    expected: Sequence[tuple[float, float | None]],
    measured: Sequence[tuple[float, float | None]],
    *,
    quantity: str,
    wanted: float | None,
    unit: str = "nats",
) -> list[Picture]:
    """Draw (FLOPs, half-width) of a design: what was expected, and what fits said.

    expected, measured: FLOPs with half-widths
    quantity: loss or params
    wanted: the half-width to reach, None for none
    unit: of a loss, in words
    """
    course, points = _halves(expected, "expected"), _halves(measured, "fitted")
    if not len(course):
        course, points = points, course
    if not len(course):
        return []
    what = f"loss ({unit})" if quantity == "loss" else "N* (relative)"
    y = f"half-width of the interval of {what}"
    return [
        Picture(
            name="design",
            svg=check_charts.design(course, measured=points, wanted=wanted, y=y),
            caption="The target's interval against the FLOPs spent on cells.",
        )
    ]


def _halves(rows: Sequence[tuple[float, float | None]], label: str) -> pd.DataFrame:
    """Return FLOPs x and half-widths y where there are both."""
    pairs = [(flops, half) for flops, half in rows if flops > 0 and half]
    table = pd.DataFrame(pairs, columns=["x", "y"])
    table.attrs["label"] = label
    return table


def sensitivity_pictures(law: Law | None) -> list[Picture]:
    """Draw D*/N* at the largest C fitted by objective, with and without the rows at the ends."""
    rows = [r for r in (law.sensitivity if law else ()) if "tokens_per_param" in r]
    if law is None or not rows:
        return []
    svg = check_charts.sensitivity(rows, law.optimum(rows[0]["flops"], force=True))
    caption = (
        "Tokens per parameter of the optimum at the largest compute fitted, by objective and"
        " choice of rows; the band is the law's interval."
    )
    return [Picture(name="sensitivity", svg=svg, caption=caption)]


def _predicts_loss(law: Law, cells: pd.DataFrame) -> bool:
    form = FORMS.get(law.form)
    if form is None or form.target != "loss":
        return False
    return all(v in cells for v in form.variables if v not in form.optional)


def _vertices(law: Law, what: str) -> pd.DataFrame:
    """Return the optima of single budgets that a regression was read off."""
    points = (law.methods.get("isoflop") or {}).get("points") or []
    rows = []
    for point in points:
        if point.get("params") is None or point.get("why"):
            continue
        ends = point.get("params_interval") if what == "params" else None
        low, high = ends or (np.nan, np.nan)
        rows.append({"x": point["flops"], "y": point[what], "lo": low, "hi": high})
    return pd.DataFrame(rows)


def _reach(cells: pd.DataFrame, plan: Plan | None) -> tuple[float, float]:
    flops = [*cells["flops"], *([plan.pretrain.flops] if plan else [])]
    return min(flops), max(flops)


def _outcome(planned: dict[str, Any]) -> str:
    return ", the star what the run reached" if planned["outcome"] is not None else ""


def _planned(plan: Plan | None, reached: Record | None) -> dict[str, Any] | None:
    if not plan or plan.forecast.test_loss is None:
        return None
    return {
        "flops": plan.pretrain.flops,
        "loss": plan.forecast.test_loss,
        "interval": plan.forecast.interval or None,
        "outcome": reached.test_loss if reached else None,
    }


def _isoflop_points(law: Law | None, cells: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the law's IsoFLOP points, or fresh ones where its regression had too few vertices."""
    method = law.methods.get("isoflop") if law else None
    if method and method.get("points"):
        return list(method["points"])
    return [
        {
            "flops": v.flops,
            "params": v.params,
            "loss": v.loss,
            "centre": v.centre,
            "coefficients": v.coefficients,
        }
        for v in vertices(cells)
    ]
