"""What the figures show: one function a figure, from tables to SVG text.

The canvas, its colours and pieces are `analysis.figures.canvas`; captions and choice are
`analysis.page.gallery`. N parameters, D tokens, C FLOPs, L nats per token.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from analysis.figures.canvas import (
    ENVELOPE,
    GRID,
    INK,
    ISOFLOP,
    LABELS,
    LAW,
    LETTERS,
    LETTERS_POINTS,
    MOST_TIPS,
    TIP,
    band,
    panel,
    points,
    ramp,
    sized_lines,
    sized_points,
    star,
    tips_of,
)
from analysis.number_text import power

METHODS = {"parametric": "law", "isoflop": "IsoFLOP", "envelope": "envelope"}  # in legends


def loss_compute(
    curves: pd.DataFrame,
    cells: pd.DataFrame,
    *,
    frontier: pd.DataFrame | None = None,
    envelope: pd.DataFrame | None = None,
    planned: Mapping[str, Any] | None = None,
    fitted_to: float | None = None,
) -> str:
    """Draw loss against compute: training curves, cells, envelope, and the law's frontier.

    `curves` has run, params, flops, loss; `cells` params, flops, loss; `planned` flops, loss,
    interval and, where the run has ended, outcome; `fitted_to` marks the largest C fitted.
    """
    with panel(
        "losscompute",
        x=LABELS["flops"],
        y=LABELS["loss"],
        logy=True,
        title="Test loss against training compute",
    ) as drawn:
        axis = drawn.ax
        sized_lines(axis, curves, x="flops")
        sized_points(axis, cells, x="flops")
        if envelope is not None:
            axis.plot(
                envelope["x"],
                envelope["y"],
                color=ENVELOPE,
                dashes=(2, 1.2),
                label="envelope",
                zorder=3,
            )
        if frontier is not None:
            band(axis, frontier, colour=LAW, label="frontier of the law")
        if planned:
            at, ends = planned["flops"], planned.get("interval")
            if ends:
                axis.plot([at, at], ends, color=LAW, linewidth=1.4, zorder=5)
            axis.scatter(
                [at], [planned["loss"]], s=34, color=LAW, label="forecast", zorder=5, linewidth=0
            )
            if planned.get("outcome") is not None:
                star(axis, at, planned["outcome"], label="outcome")
        if fitted_to:
            axis.axvline(fitted_to, color=INK, linewidth=0.8, linestyle=":", label="largest run")
        losses = [*cells["loss"], *([planned["loss"]] if planned else [])]
        losses += [] if frontier is None else [frontier["y"].min()]
        axis.set_ylim(0.95 * min(losses), 1.12 * max(losses))
        drawn.legend()
    return drawn.svg


def isoflop(cells: pd.DataFrame, parabolas: pd.DataFrame, vertices: pd.DataFrame) -> str:
    """Draw loss against N at equal compute, with parabolas and their vertices.

    `cells` has params, loss, budget (FLOPs); `parabolas` and `vertices` have budget, x, y. A budget
    without a vertex has its parabola dotted. Each parabola is named by its budget where it ends.
    """
    with panel("isoflop", x=LABELS["params"], y=LABELS["loss"], title="IsoFLOP curves") as drawn:
        axis = drawn.ax
        sized_points(axis, cells, x="params", label=False)
        for i, budget in enumerate(sorted(cells["budget"].unique())):
            line = parabolas[parabolas["budget"] == budget]
            at = vertices[vertices["budget"] == budget]
            dash, label = ("-", "IsoFLOP parabola") if len(at) else (":", "without a minimum")
            known = axis.get_legend_handles_labels()[1]
            label = label if label not in known else ""
            axis.plot(
                line["x"], line["y"], dash, color=ISOFLOP, linewidth=1.3, zorder=3, label=label
            )
            mark = {"s": 42, "marker": "D", "edgecolor": INK, "linewidth": 0.7}
            label = "minimum" if len(at) and "minimum" not in known else ""
            axis.scatter(at["x"], at["y"], color=ISOFLOP, zorder=4, label=label, **mark)
            if len(line):
                end = line.iloc[-1]
                name = f" {'C = ' if not i else ''}{power(budget)}"
                axis.annotate(
                    name, (end["x"], end["y"]), xytext=(0, 3), textcoords="offset points",
                    annotation_clip=False,
                )  # fmt: skip
        axis.margins(x=0.16, y=0.08)
        drawn.legend()
    return drawn.svg


def observed(fitted: pd.DataFrame) -> str:
    """Draw observed against fitted loss; `fitted` has params, loss, predicted."""
    with panel(
        "observed",
        x=f"fitted {LABELS['loss']}",
        y=f"observed {LABELS['loss']}",
        logy=True,
        title="Observed against fitted loss",
    ) as drawn:
        axis = drawn.ax
        sized_points(axis, fitted, x="predicted")
        ends = [
            fitted[["loss", "predicted"]].min().min(),
            fitted[["loss", "predicted"]].max().max(),
        ]
        axis.plot(ends, ends, color=INK, linewidth=1.0, label="equal")
        drawn.legend()
    return drawn.svg


def surface(
    cells: pd.DataFrame,
    sizes: Any,
    tokens: Any,
    losses: Any,
    ridge: pd.DataFrame | None,
    *,
    convention: str = "C = 6ND",
) -> str:
    """Draw the fitted loss over N (n,) and D (m,) as level lines (m, n), the runs on it.

    Runs whose loss lies above the surface are open, those below it filled; `ridge` (x, y) is the
    optimum where C is counted as `convention` says.
    """
    with panel(
        "surface",
        x=LABELS["params"],
        y=LABELS["tokens"],
        logy=True,
        title="The fitted surface over N and D",
    ) as drawn:
        axis = drawn.ax
        lines = {"colors": INK, "linewidths": 0.8, "alpha": 0.5}
        levels = axis.contour(sizes, tokens, losses, levels=9, **lines)
        axis.clabel(levels, fontsize=LETTERS_POINTS, colors=INK, fmt="%.3g")
        if ridge is not None:
            axis.plot(ridge["x"], ridge["y"], "--", color=LAW, label=f"optimum at {convention}")
        above = cells["loss"] > cells["predicted"]
        signs = ((above, "none", "loss above the law (+)"), (~above, INK, "below the law (−)"))
        for here, face, label in signs:
            part = cells.loc[here]
            marks = axis.scatter(
                part["params"],
                part["tokens"],
                s=20,
                facecolors=face,
                edgecolors=INK,
                linewidths=1.0,
                label=label,
                zorder=4,
            )
            marks.set_rasterized(len(part) > MOST_TIPS)
            if len(tips := tips_of(part)):
                marks.set_urls([f"{TIP}{t}" for t in tips])
        drawn.legend()
    return drawn.svg


def residuals(fitted: pd.DataFrame, against: str) -> str:
    """Draw residuals (% of the fitted loss) against params, tokens, flops or D/N."""
    values = (
        fitted
        if against in fitted
        else fitted.assign(tokens_per_param=fitted["tokens"] / fitted["params"])
    )
    percent = 100 * (np.log(values["loss"]) - np.log(values["predicted"]))
    title = f"Residuals against {LABELS[against]}"
    with panel(
        f"residuals-{against}", x=LABELS[against], y="observed over fitted loss (%)", title=title
    ) as drawn:
        axis = drawn.ax
        sized_points(axis, values.assign(percent=percent), x=against, y="percent")
        axis.axhline(0, color=INK, linewidth=1.0, zorder=2)
        reach = 1.15 * max(float(np.abs(percent).max()), 0.1)
        axis.set_ylim(-reach, reach)
        drawn.legend()
    return drawn.svg


def allocation(
    bands: Mapping[str, pd.DataFrame],
    *,
    what: str,
    planned: tuple[float, float] | None = None,
    fitted_to: float | None = None,
    vertices: pd.DataFrame | None = None,
) -> str:
    """Draw N*(C) or D*(C) of each method with its band; `what` is params or tokens.

    `vertices` are optima of single budgets: x, y and, where they have an interval, lo and hi.
    """
    letter = LETTERS[what]
    with panel(
        f"allocation-{what}",
        x=LABELS["flops"],
        y=f"optimal {LABELS[what]}",
        logy=True,
        title=f"Compute-optimal {letter} against compute",
    ) as drawn:
        axis = drawn.ax
        known = {"isoflop": (ISOFLOP, "--"), "envelope": (ENVELOPE, "-.")}
        for name, table in bands.items():
            colour, dash = known.get(name, (LAW, "-"))
            band(axis, table, colour=colour, label=METHODS.get(name, name), dash=dash)
        if vertices is not None and len(vertices):
            _vertices(axis, vertices)
        if fitted_to:
            axis.axvline(fitted_to, color=INK, linewidth=0.8, linestyle=":", label="largest run")
        if planned:
            star(axis, *planned, label="plan")
        drawn.legend()
    return drawn.svg


def target(
    runs: pd.DataFrame,
    bands: Mapping[str, pd.DataFrame],
    *,
    x: str,
    y: str,
    y_label: str = "",
    others: pd.DataFrame | None = None,
    logx: bool = True,
) -> str:
    """Draw what a form predicts against its main variable: runs, and a curve with band a series.

    `runs` has columns x, y and `series`, the name of its band if any; `others` were not fitted.
    """
    label = y_label or LABELS[y]
    title = f"{label} against {LABELS[x]}"
    with panel("target", x=LABELS[x], y=label, title=title, logx=logx) as drawn:
        axis = drawn.ax
        if others is not None and len(others):
            points(axis, others[x], others[y], colour=GRID, label="not fitted: others beat them")
        unnamed = runs[runs["series"].isna()]
        points(axis, unnamed[x], unnamed[y], colour=GRID)
        colours = ramp(len(bands)) if len(bands) > 1 else [LAW]
        for colour, (name, table) in zip(colours, bands.items(), strict=True):
            here = runs.loc[runs["series"] == name]
            points(axis, here[x], here[y], colour=colour, tips=tips_of(here))
            band(axis, table, colour=colour, label=name)
        drawn.legend()
    return drawn.svg


def _vertices(axis: Any, vertices: pd.DataFrame) -> None:
    """Mark the optima of single budgets with their intervals."""
    if {"lo", "hi"} <= set(vertices):
        axis.vlines(vertices["x"], vertices["lo"], vertices["hi"], color=ISOFLOP, linewidth=1.0)
    points(axis, vertices["x"], vertices["y"], colour=ISOFLOP, label="IsoFLOP minima", marker="D")
