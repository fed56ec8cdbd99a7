"""What a run does, as figures: forecasts, training curves, the stages of a final run, task scores.

One function a figure, from tables to SVG text, as in `analysis.figures.charts`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.figures.canvas import (
    FINAL,
    INK,
    LABELS,
    LAW,
    SERIES,
    band,
    panel,
    points,
    sized_lines,
    star,
    tips_of,
)
from analysis.number_text import short


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
        height=1.6,
        title="Forecast against outcome",
    ) as drawn:
        axis = drawn.ax
        axis.plot(
            interval,
            [1, 1],
            color=LAW,
            linewidth=9,
            alpha=0.35,
            solid_capstyle="butt",
            label=f"{100 * level:g}% interval",
            zorder=1,
        )
        axis.scatter([loss], [1], s=60, color=LAW, label="forecast", zorder=3)
        if outcome is not None:
            axis.scatter([outcome], [0], s=90, marker="*", color=FINAL, label="outcome", zorder=3)
            axis.plot(
                [outcome, outcome], [0, 1], color=FINAL, linewidth=0.9, linestyle=":", zorder=2
            )
        axis.set(yticks=[1, 0], yticklabels=["forecast", "outcome"], ylim=(-0.6, 1.6))
        axis.margins(x=0.12)
        axis.grid(visible=False, axis="y")
        drawn.legend()
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
        band(axis, curve, colour=LAW, label=f"forecast, {100 * level:g}% band")
        axis.scatter(curve["x"], curve["y"], s=14, color=LAW, zorder=4)
        if measured:
            x, y = [r["tokens"] for r in measured], [r["test_loss"] for r in measured]
            axis.plot(x, y, "o", color=FINAL, markersize=4, label="measured", zorder=5)
        if outcome is not None:
            star(axis, float(curve["x"].iloc[-1]), outcome, label="outcome")
        drawn.legend()
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
                color=FINAL,
                linewidth=2.0,
                label="final run",
                zorder=4,
            )
        drawn.legend()
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
        for column, label in series.items():
            colour = _SERIES_COLOURS.get(label, FINAL)
            pairs = rows[[x[0], column]].dropna()
            marker = "o" if len(pairs) < 30 else ""
            axis.plot(
                pairs[x[0]], pairs[column], color=colour, label=label, marker=marker, markersize=3
            )
        for label, value in (lines or {}).items():
            axis.axhline(value, color=INK, linewidth=1.0, linestyle="--", label=label)
        axis.locator_params(axis="x", integer=True, nbins=7)
        drawn.legend()
    return drawn.svg


# Colours of a stage's curves by their legend; any other is a measurement of the final run.
_SERIES_COLOURS = {
    "training": SERIES[2],
    "gold judge": SERIES[3],
    "reward model": SERIES[0],
    "explained variance of the critic": SERIES[1],
}


def overoptimised(
    curves: Sequence[tuple[str, pd.DataFrame, Callable[[Any], Any]]], *, name: str, title: str
) -> str:
    """Draw gold gains (kl, reward, error) against sqrt(KL) with the law of each, by label."""
    y = "gold reward gained over one sample"
    with panel(name, x="sqrt(KL), KL in nats", y=y, title=title, logx=False) as drawn:
        axis = drawn.ax
        for colour, (label, rows, law) in zip(SERIES, curves, strict=False):
            x = np.sqrt(rows["kl"])
            axis.errorbar(
                x, rows["reward"], rows["error"], color=colour, fmt="o", markersize=3, label=label
            )
            along = np.linspace(x.min(), x.max(), 100)
            axis.plot(along, law(along**2), color=colour, linewidth=1.0)
        axis.axhline(0.0, color=INK, linewidth=0.6)
        drawn.legend()
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
        for colour, (label, (rows, law)) in zip(SERIES, series.items(), strict=False):
            if "bar" in rows:
                axis.errorbar(
                    rows["x"], rows["y"], rows["bar"], fmt="none", ecolor=colour, alpha=0.35
                )
            points(axis, rows["x"], rows["y"], colour=colour, label=label, tips=tips_of(rows))
            if law is not None:
                band(axis, law, colour=colour)
        for level in sorted(set(levels)):
            axis.axhline(level, color=INK, linewidth=0.6, linestyle="--")
        drawn.legend()
    return drawn.svg


def tuning(swept: Sequence[Mapping[str, Any]], cells: pd.DataFrame, *, axis: str, x: str) -> str:
    """Draw loss against a setting for the first six (N, D); `cells` has N, D, lr, batch, loss."""
    with panel(f"tuning-{axis}", x=x, y=LABELS["loss"], title=f"Loss against {x}") as drawn:
        for colour, point in zip(SERIES, swept, strict=False):
            same = (cells["params"] == point["params"]) & (cells["tokens"] == point["tokens"])
            here = cells.loc[same].sort_values(by=axis)
            label = f"N {short(point['params'])}, D {short(point['tokens'])}"
            drawn.ax.plot(here[axis], here["loss"], "o-", color=colour, markersize=3, label=label)
            optimum = point["optima"][axis]
            if not optimum["why"]:
                at = point["loss"]
                drawn.ax.hlines(at, *optimum["flat"], color=colour, linewidth=2.0, alpha=0.5)
                drawn.ax.scatter([optimum["value"]], [at], s=34, marker="D", color=colour, zorder=4)
        drawn.legend()
    return drawn.svg
