"""What the figures show: one function a figure, from tables to SVG text.

The canvas, its colours and pieces are `analysis.figures.canvas`; captions and choice are
`analysis.page.gallery`. N parameters, D tokens, C FLOPs, L nats per token.
"""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.figures.canvas import (
    C1,
    C2,
    C3,
    C4,
    C5,
    C6,
    GRID,
    INK,
    LABELS,
    LETTERS,
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
from analysis.number_text import power, short

DODGE = 1.02  # between cutoffs that withhold the same runs, so that none hides another


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
    interval; `fitted_to` marks the largest C fitted.
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
                color=C6,
                dashes=(2, 1.2),
                label="envelope",
                zorder=3,
            )
        if frontier is not None:
            band(axis, frontier, colour=C1, label="frontier of the law")
        if planned:
            star(
                axis,
                planned["flops"],
                planned["loss"],
                label="forecast",
                interval=planned.get("interval"),
            )
        if fitted_to:
            axis.axvline(fitted_to, color=INK, linewidth=0.8, linestyle=":", label="largest run")
        losses = [*cells["loss"], *([planned["loss"]] if planned else [])]
        losses += [] if frontier is None else [frontier["y"].min()]
        axis.set_ylim(0.93 * min(losses), 1.3 * max(losses))
        axis.legend(loc="upper right", ncols=2)
    return drawn.svg


def compared(series: Mapping[str, tuple[pd.DataFrame, pd.DataFrame | None]]) -> str:
    """Draw loss against compute of several studies: cells (flops, loss) and frontier by name."""
    title = "Test loss against training compute"
    with panel("compared", x=LABELS["flops"], y=LABELS["loss"], logy=True, title=title) as drawn:
        axis = drawn.ax
        for colour, (name, (cells, frontier)) in zip(
            (C1, C2, C3, C4), series.items(), strict=False
        ):
            label, tips = f"cells of {name}", tips_of(cells)
            points(axis, cells["flops"], cells["loss"], colour=colour, label=label, tips=tips)
            if frontier is not None:
                band(axis, frontier, colour=colour, label=f"frontier of {name}")
        axis.legend(loc="best")
    return drawn.svg


def multiplier(table: pd.DataFrame, label: str) -> str:
    """Draw an effective-compute multiplier (x, y, and lo, hi where known) against compute."""
    title = "Effective compute"
    with panel("multiplier", x=LABELS["flops"], y=label, logy=True, title=title) as drawn:
        band(drawn.ax, table, colour=C1, label="multiplier")
        drawn.ax.axhline(1.0, color=INK, linewidth=0.8, linestyle=":", label="no difference")
        drawn.ax.legend(loc="best")
    return drawn.svg


def isoflop(cells: pd.DataFrame, parabolas: pd.DataFrame, vertices: pd.DataFrame) -> str:
    """Draw loss against N at equal compute, with parabolas and their vertices.

    `cells` has params, loss, budget (FLOPs); `parabolas` and `vertices` have budget, x, y. A budget
    without a vertex has its parabola dotted.
    """
    with panel("isoflop", x=LABELS["params"], y=LABELS["loss"], title="IsoFLOP curves") as drawn:
        axis = drawn.ax
        budgets = sorted(cells["budget"].unique())
        for colour, budget in zip(ramp(len(budgets)), budgets, strict=True):
            here = cells.loc[cells["budget"] == budget]
            label = f"{power(budget)}"
            tips = tips_of(here)
            points(axis, here["params"], here["loss"], colour=colour, label=label, tips=tips)
            line = parabolas[parabolas["budget"] == budget]
            at = vertices[vertices["budget"] == budget]
            dash = "-" if len(at) else ":"
            axis.plot(line["x"], line["y"], dash, color=colour, linewidth=1.3, zorder=3)
            mark = {"s": 42, "marker": "D", "edgecolor": INK, "linewidth": 0.7}
            axis.scatter(at["x"], at["y"], color=colour, zorder=4, **mark)
        axis.margins(y=0.12)
        axis.legend(title="FLOPs", ncols=3, loc="best")
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
        axis.legend(ncols=2, loc="upper left")
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

    Runs above the surface are open, those below it filled; `ridge` (x, y) is the
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
        axis.clabel(levels, fontsize=7, colors=INK, fmt="%.3g")
        if ridge is not None:
            axis.plot(ridge["x"], ridge["y"], "--", color=C1, label=f"optimum at {convention}")
        above = cells["loss"] > cells["predicted"]
        for here, face, label in ((above, "none", "above"), (~above, C2, "below")):
            part = cells.loc[here]
            marks = axis.scatter(
                part["params"],
                part["tokens"],
                s=20,
                facecolors=face,
                edgecolors=C2,
                linewidths=1.0,
                label=f"runs {label} it",
                zorder=4,
            )
            if len(tips := tips_of(part)):
                marks.set_urls([f"{TIP}{t}" for t in tips])
        axis.legend(loc="best")
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
        axis.set_ylim(-reach, 1.4 * reach)
        axis.legend(loc="upper center", ncols=3)
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
        for colour, dash, (name, table) in zip(
            (C1, C3, C6, C4), ("-", "--", "-.", ":"), bands.items(), strict=False
        ):
            band(axis, table, colour=colour, label=name, dash=dash)
        if vertices is not None and len(vertices):
            _vertices(axis, vertices)
        if fitted_to:
            axis.axvline(fitted_to, color=INK, linewidth=0.8, linestyle=":", label="largest run")
        if planned:
            star(axis, *planned, label="plan")
        axis.legend(loc="upper left")
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
        colours = ramp(len(bands)) if len(bands) > 1 else [C1]
        for colour, (name, table) in zip(colours, bands.items(), strict=True):
            here = runs.loc[runs["series"] == name]
            points(axis, here[x], here[y], colour=colour, tips=tips_of(here))
            band(axis, table, colour=colour, label=name)
        axis.legend(loc="best")
    return drawn.svg


def backtest(
    withheld: pd.DataFrame, notes: Mapping[float, str], tau: pd.DataFrame, *, letter: str = "C"
) -> str:
    """Draw the relative error of every withheld run against how far it lay beyond the fit.

    `withheld` has cutoff, distance, error; `notes` {cutoff: legend}; `tau` x, y, lo, hi.
    """
    with panel(
        "backtest",
        x=f"{letter} of the withheld run over the largest {letter} fitted (times)",
        y="predicted over measured loss (%)",
        title="Relative error of withheld runs against distance",
        height=4.2,
    ) as drawn:
        axis = drawn.ax
        for i, (cutoff, note) in enumerate(notes.items()):
            here = withheld[withheld["cutoff"] == cutoff]
            beside = here["distance"] * DODGE ** (i - (len(notes) - 1) / 2)
            points(axis, beside, 100 * here["error"], colour=ramp(len(notes))[i], label=note)
        percent = tau.assign(**{k: 100 * tau[k] for k in ("y", "lo", "hi")})
        band(axis, percent, colour=C1, label="± tau, by which intervals grow with distance")
        low, high = axis.get_ylim()
        axis.set_ylim(low, high + (0.12 + 0.09 * len(notes)) * (high - low))  # room for the legend
        axis.legend(loc="upper left")
    return drawn.svg


def design(course: pd.DataFrame, *, measured: pd.DataFrame, wanted: float | None, y: str) -> str:
    """Draw the half-width of an interval (y) against a study's FLOPs (x).

    `course` is joined by a line, `measured` are points, each called by its `attrs["label"]`;
    `wanted` is what the design is for.
    """
    with panel("design", x="FLOPs of the study", y=y, title=y, logy=True) as drawn:
        axis = drawn.ax
        axis.plot(course["x"], course["y"], color=C1, zorder=3, label=course.attrs["label"])
        if len(measured):
            label = measured.attrs["label"]
            points(axis, measured["x"], measured["y"], colour=C2, label=label)
        if wanted:
            axis.axhline(wanted, color=INK, linestyle="--", linewidth=1, label="wanted")
        axis.legend(loc="upper right")
    return drawn.svg


def forecast(loss: float, interval: Sequence[float], *, level: float, outcome: float | None) -> str:
    """Draw a forecast loss with its interval and, when it is known, what the run reached.

    loss, interval: nats per token; the interval's two ends
    level: share that the interval holds
    outcome: test loss of the run, None before it has ended
    """
    with panel(
        "forecast",
        x=LABELS["loss"],
        y="",
        logx=False,
        height=1.9,
        title="Forecast against outcome",
    ) as drawn:
        axis = drawn.ax
        axis.plot(
            interval,
            [1, 1],
            color=C1,
            linewidth=9,
            alpha=0.35,
            solid_capstyle="butt",
            label=f"{100 * level:g}% interval",
            zorder=1,
        )
        axis.scatter([loss], [1], s=60, color=C1, label="forecast", zorder=3)
        if outcome is not None:
            axis.scatter([outcome], [0], s=90, marker="*", color=C2, label="outcome", zorder=3)
            axis.plot([outcome, outcome], [0, 1], color=C2, linewidth=0.9, linestyle=":", zorder=2)
        axis.set(yticks=[1, 0], yticklabels=["forecast", "outcome"], ylim=(-0.6, 2.2))
        axis.margins(x=0.12)
        axis.grid(visible=False, axis="y")
        axis.legend(loc="upper left", ncols=3)
    return drawn.svg


def forecast_band(
    curve: pd.DataFrame,
    measured: Sequence[Mapping[str, Any]],
    *,
    level: float,
    outcome: float | None,
) -> str:
    """Draw a forecast curve with its band, and what was measured on the way.

    curve: x in tokens, y, lo and hi in nats per token; the last row is the end of the run
    measured: rows of final/curve.json, with tokens and test_loss
    level: share that the band holds
    outcome: test loss of the run, None before it has ended
    """
    name = "forecast-band"
    with panel(name, x=LABELS["tokens"], y=LABELS["loss"], title="Forecast curve") as drawn:
        axis = drawn.ax
        band(axis, curve, colour=C1, label=f"forecast, {100 * level:g}% band")
        axis.scatter(curve["x"], curve["y"], s=14, color=C1, zorder=4)
        if measured:
            x, y = [r["tokens"] for r in measured], [r["test_loss"] for r in measured]
            axis.plot(x, y, "o", color=C2, markersize=4, label="measured", zorder=5)
        if outcome is not None:
            star(axis, float(curve["x"].iloc[-1]), outcome, label="outcome")
        axis.legend(loc="best")
    return drawn.svg


def sensitivity(rows: Sequence[Mapping[str, Any]], best: Any) -> str:
    """Draw tokens per parameter of each refit, a line a choice of rows, a mark an objective."""
    subsets = list(dict.fromkeys(r["rows"] for r in rows))
    objectives = list(dict.fromkeys(r["objective"] for r in rows))
    with panel(
        "sensitivity",
        x="tokens per parameter of the optimum",
        y="",
        title="Sensitivity to objective and rows",
        height=1.5 + 0.42 * len(subsets),
    ) as drawn:
        axis = drawn.ax
        ends = best.intervals.get("tokens_per_param")
        if ends:
            axis.axvspan(*ends, color=C1, alpha=0.13, linewidth=0)
        axis.axvline(best.tokens_per_param, color=C1, linewidth=1.0)
        styles = zip((C1, C2, C3, C4), ("o", "D", "s", "^"), objectives, strict=False)
        for colour, marker, objective in styles:
            here = [r for r in rows if r["objective"] == objective]
            y = [-subsets.index(r["rows"]) for r in here]
            x = [r["tokens_per_param"] for r in here]
            axis.scatter(x, y, s=26, color=colour, marker=marker, label=objective, zorder=3)
        axis.set(
            yticks=[-i for i in range(len(subsets))], yticklabels=[_folded(s) for s in subsets]
        )
        axis.set_ylim(0.5 - len(subsets), 1.1)
        axis.legend(loc="upper left", ncols=2)
    return drawn.svg


def _folded(text: str, width: int = 14) -> str:
    return "\n".join(textwrap.wrap(text, width))


def tuning(swept: Sequence[Mapping[str, Any]], cells: pd.DataFrame, *, axis: str, x: str) -> str:
    """Draw loss against a setting for the first six (N, D); `cells` has N, D, lr, batch, loss."""
    with panel(f"tuning-{axis}", x=x, y=LABELS["loss"], title=f"Loss against {x}") as drawn:
        for colour, point in zip((C1, C2, C3, C4, C5, C6), swept, strict=False):
            same = (cells["params"] == point["params"]) & (cells["tokens"] == point["tokens"])
            here = cells.loc[same].sort_values(by=axis)
            label = f"N {short(point['params'])}, D {short(point['tokens'])}"
            drawn.ax.plot(here[axis], here["loss"], "o-", color=colour, markersize=3, label=label)
            optimum = point["optima"][axis]
            if not optimum["why"]:
                at = point["loss"]
                drawn.ax.hlines(at, *optimum["flat"], color=colour, linewidth=2.0, alpha=0.5)
                drawn.ax.scatter([optimum["value"]], [at], s=34, marker="D", color=colour, zorder=4)
        drawn.ax.legend(loc="best")
    return drawn.svg


def training_curves(curves: pd.DataFrame, *, final: pd.DataFrame | None = None) -> str:
    """Draw loss against tokens, a line a cell; `curves` has run, params, tokens, loss."""
    with panel(
        "curves", x=LABELS["tokens"], y=LABELS["loss"], logy=True, title="Training curves"
    ) as drawn:
        axis = drawn.ax
        sized_lines(axis, curves, x="tokens", label=True, named=True)
        if final is not None and len(final):
            axis.plot(
                final["tokens"],
                final["loss"],
                color=C2,
                linewidth=2.0,
                label="final run",
                zorder=4,
            )
        axis.legend(title="N", ncols=2, loc="upper right")
    return drawn.svg


def curve(
    rows: pd.DataFrame,
    series: Mapping[str, str],
    *,
    name: str,
    y: str,
    title: str,
    x: tuple[str, str] = ("step", "optimiser step"),
    lines: Mapping[str, float] | None = None,
) -> str:
    """Draw some columns of a stage's metrics against steps; `series` is {column: label}.

    `lines` are horizontal marks {label: value}, such as the KL budget.
    """
    with panel(name, x=x[1], y=y, title=title, logx=False) as drawn:
        axis = drawn.ax
        for colour, (column, label) in zip((C1, C2, C3, C4), series.items(), strict=False):
            pairs = rows[[x[0], column]].dropna()
            marker = "o" if len(pairs) < 30 else ""
            axis.plot(
                pairs[x[0]], pairs[column], color=colour, label=label, marker=marker, markersize=3
            )
        for label, value in (lines or {}).items():
            axis.axhline(value, color=INK, linewidth=1.0, linestyle="--", label=label)
        axis.legend(loc="best")
    return drawn.svg


def overoptimised(
    curves: Sequence[tuple[str, pd.DataFrame, Callable[[Any], Any]]], *, name: str, title: str
) -> str:
    """Draw gold gains (kl, reward, error) against sqrt(KL) with the law of each, by label."""
    y = "gold reward gained over one sample"
    with panel(name, x="sqrt(KL), KL in nats", y=y, title=title, logx=False) as drawn:
        axis = drawn.ax
        for colour, (label, rows, law) in zip((C1, C2, C3, C4, C5, C6), curves, strict=False):
            x = np.sqrt(rows["kl"])
            axis.errorbar(
                x, rows["reward"], rows["error"], color=colour, fmt="o", markersize=3, label=label
            )
            along = np.linspace(x.min(), x.max(), 100)
            axis.plot(along, law(along**2), color=colour, linewidth=1.0)
        axis.axhline(0.0, color=INK, linewidth=0.6)
        axis.legend(loc="best")
    return drawn.svg


def scores(
    series: Mapping[str, tuple[pd.DataFrame, pd.DataFrame | None]],
    *,
    name: str,
    x: str,
    y: str,
    logx: bool,
    levels: Sequence[float] = (),
) -> str:
    """Draw tasks' points (x, y, and a bar of half-length `bar`) and the band of each one's law.

    `series` {task: (points, band or None)}; `levels` are marked by dashed lines.
    """
    with panel(name, x=x, y=y, title=f"{y} against {x}", logx=logx) as drawn:
        axis = drawn.ax
        for colour, (label, (rows, law)) in zip(
            (C1, C2, C3, C4, C5, C6), series.items(), strict=False
        ):
            if "bar" in rows:
                axis.errorbar(
                    rows["x"], rows["y"], rows["bar"], fmt="none", ecolor=colour, alpha=0.35
                )
            points(axis, rows["x"], rows["y"], colour=colour, label=label, tips=tips_of(rows))
            if law is not None:
                band(axis, law, colour=colour)
        for level in sorted(set(levels)):
            axis.axhline(level, color=INK, linewidth=0.6, linestyle="--")
        axis.legend(loc="best")
    return drawn.svg


def _vertices(axis: Any, vertices: pd.DataFrame) -> None:
    """Mark the optima of single budgets with their intervals."""
    if {"lo", "hi"} <= set(vertices):
        axis.vlines(vertices["x"], vertices["lo"], vertices["hi"], color=C3, linewidth=1.0)
    points(axis, vertices["x"], vertices["y"], colour=C3, label="IsoFLOP minima", marker="D")
