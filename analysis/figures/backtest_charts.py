"""Charts of a folder's backtest: error and coverage of every method by distance."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.figures.canvas import INK, SERIES, Panel, panel

COLOURS = tuple(SERIES)
MARKERS = ("o", "s", "^", "D", "v", "P")
SPREAD = 0.08  # of a bin's width between the marks of neighbouring methods
AXIS = "C of the withheld run over the largest C fitted"


def errors(
    table: pd.DataFrame, *, distances: Sequence[str], methods: Sequence[str], name: str, title: str
) -> str:
    """Draw the median over experiments of the rms error by distance, a line a method.

    table: columns distance, method, median_rms (share)
    distances: bins, from nearest to farthest
    methods: in the order of colours
    name: prefix of the ids
    title: read aloud
    """
    with panel(name, x=AXIS, y="rms error (%)", title=title, logx=False, logy=True) as drawn:
        for i, method in enumerate(methods):
            here = table.loc[table["method"] == method]
            if not len(here):  # it answers for other runs; its colour stays its own
                continue
            x = _places(here, distances, i, len(methods))
            style: dict[str, Any] = {
                "color": COLOURS[i % len(COLOURS)],
                "marker": MARKERS[i % len(MARKERS)],
            }
            drawn.ax.plot(x, 100 * here["median_rms"], label=method, markersize=4, **style)
        _finish(drawn, distances)
    return drawn.svg


def coverage(
    table: pd.DataFrame, *, distances: Sequence[str], methods: Sequence[str], level: float
) -> str:
    """Draw the share of withheld runs inside their intervals by distance, with its own interval.

    table: columns distance, method, coverage, low, high (shares)
    distances: bins, from nearest to farthest
    methods: that give intervals
    level: nominal
    """
    title = "Coverage of intervals by distance"
    with panel(
        "coverage", x=AXIS, y="runs inside their interval (%)", title=title, logx=False
    ) as drawn:
        axis = drawn.ax
        for i, method in enumerate(methods):
            here = table.loc[table["method"] == method]
            x, share = _places(here, distances, i, len(methods)), 100 * here["coverage"]
            ends = [share - 100 * here["low"], 100 * here["high"] - share]
            style: dict[str, Any] = {
                "color": COLOURS[i % len(COLOURS)],
                "marker": MARKERS[i % len(MARKERS)],
            }
            axis.errorbar(x, share, yerr=np.abs(ends), label=method, markersize=4, **style)
        axis.axhline(100 * level, color=INK, linewidth=0.8, linestyle=":", label="nominal")
        axis.set_ylim(0, 105)
        _finish(drawn, distances)
    return drawn.svg


def _places(here: pd.DataFrame, distances: Sequence[str], i: int, n: int) -> np.ndarray:
    """Return where a method's marks stand: beside those of the others, so that none hides."""
    order = list(distances)
    at = np.array([order.index(d) for d in here["distance"]], dtype=float)
    return at + SPREAD * (i - (n - 1) / 2)


def _finish(drawn: Panel, distances: Sequence[str]) -> None:
    drawn.ax.set_xticks(range(len(distances)), distances)
    drawn.ax.set_xlim(-0.5, len(distances) - 0.5)
    drawn.legend()
