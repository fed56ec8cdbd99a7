"""The figure of the critical batch: each point of each trunk, and the law with its interval."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from analysis.figures.canvas import ENVELOPE, INK, LAW, band, panel

MARKERS = {"inside": "o", "above": "^", "below": "v"}  # where it lies among the batches tried
LABELS = {
    "inside": "measured",
    "above": "above the largest batch tried",
    "below": "at or below the second smallest",
}


def critical(points: Sequence[dict[str, Any]], line: pd.DataFrame) -> str:
    """Draw critical batches against tokens seen, and the law (x, y, lo, hi)."""
    title = "Critical batch against tokens seen"
    with panel(
        "critical", x="tokens seen T", y="critical batch (tokens)", logy=True, title=title
    ) as drawn:
        axis = drawn.ax
        band(axis, line, colour=LAW, label="law with the interval of a new point")
        for where, marker in MARKERS.items():
            here = [p for p in points if p["where"] == where]
            if here:
                axis.scatter(
                    [p["at_tokens"] for p in here],
                    [p["batch"] for p in here],
                    marker=marker,
                    color=ENVELOPE,
                    edgecolor=INK,
                    linewidth=0.6,
                    s=34,
                    zorder=4,
                    label=LABELS[where],
                )
        drawn.legend()
    return drawn.svg
