"""How far a law may be trusted, as figures: withheld runs, sensitivity, the precision of a design.

One function a figure, from tables to SVG text, as in `analysis.figures.charts`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from analysis.figures.canvas import (
    INK,
    LAW,
    SERIES,
    band,
    panel,
    points,
)

DODGE = 1.02  # between cutoffs that withhold the same runs, so that none hides another
OBJECTIVES = {  # in legends
    "huber_log": "Huber, log loss",
    "lad_log": "absolute, log loss",
    "ls_log": "squares, log loss",
    "ls": "squares, loss",
}


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
    ) as drawn:
        axis = drawn.ax
        for i, (cutoff, note) in enumerate(notes.items()):
            here = withheld[withheld["cutoff"] == cutoff]
            beside = here["distance"] * DODGE ** (i - (len(notes) - 1) / 2)
            colour = SERIES[i % len(SERIES)]
            points(axis, beside, 100 * here["error"], colour=colour, label=note)
        percent = tau.assign(**{k: 100 * tau[k] for k in ("y", "lo", "hi")})
        band(axis, percent, colour=LAW, label="± tau, by which intervals grow with distance")
        drawn.legend()
    return drawn.svg


def design(course: pd.DataFrame, *, measured: pd.DataFrame, wanted: float | None, y: str) -> str:
    """Draw the half-width of an interval (y) against a study's FLOPs (x).

    `course` is joined by a line, `measured` are points, each called by its `attrs["label"]`;
    `wanted` is what the design is for.
    """
    with panel("design", x="FLOPs of the study", y=y, title=y, logy=True) as drawn:
        axis = drawn.ax
        axis.plot(course["x"], course["y"], color=LAW, zorder=3, label=course.attrs["label"])
        if len(measured):
            label = measured.attrs["label"]
            points(axis, measured["x"], measured["y"], colour=INK, label=label)
        if wanted:
            axis.axhline(wanted, color=INK, linestyle="--", linewidth=1, label="wanted")
        drawn.legend()
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
        height=0.9 + 0.5 * len(subsets),
    ) as drawn:
        axis = drawn.ax
        ends = best.intervals.get("tokens_per_param")
        if ends:
            axis.axvspan(*ends, color=LAW, alpha=0.13, linewidth=0)
        axis.axvline(best.tokens_per_param, color=LAW, linewidth=1.0)
        styles = zip(SERIES, ("o", "D", "s", "^"), objectives, strict=False)
        for colour, marker, objective in styles:
            here = [r for r in rows if r["objective"] == objective]
            y = [-subsets.index(r["rows"]) for r in here]
            x = [r["tokens_per_param"] for r in here]
            axis.scatter(
                x,
                y,
                s=26,
                color=colour,
                marker=marker,
                label=OBJECTIVES.get(objective, objective),
                zorder=3,
            )
        for i, subset in enumerate(subsets):
            where = axis.get_yaxis_transform()
            axis.text(0.01, 0.22 - i, subset, transform=where, va="bottom", color=INK)
        axis.set(yticks=[])
        axis.set_ylim(0.6 - len(subsets), 0.7)
        drawn.legend()
    return drawn.svg
