"""The valley of a surface: what settings lose at one N and D, over learning rate and batch."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from analysis.figures.canvas import FINAL, INK, LAW, panel
from analysis.forms import Array

LEVELS = (0.0005, 0.0025, 0.01, 0.03, 0.1)  # shares of the loss, from a seed's noise to a bad run


def valley(
    lr: Array,
    batch: Array,
    lost: Array,
    *,
    chosen: tuple[float, float],
    intervals: Mapping[str, Sequence[float]],
    tried: pd.DataFrame,
    others: pd.DataFrame,
) -> str:
    """Draw lines of equal loss over rate and batch, the chosen settings and the tried ones.

    lr: rates (k,)
    batch: batches in tokens (m,)
    lost: share by which the settings lose to the best (m, k)
    chosen: the best rate and batch
    intervals: of both by name, drawn as bars; empty without draws
    tried: settings (columns lr, batch) that were tried at this N and D
    others: settings that were tried at other N and D
    """
    title = "What settings lose, over learning rate and batch"
    with panel(
        "valley", x="peak learning rate", y="batch (tokens)", title=title, logy=True, height=3.6
    ) as drawn:
        axis = drawn.ax
        axis.contourf(lr, batch, lost, levels=[0.0, *LEVELS[:3]], colors=[LAW], alpha=0.12)
        lines = axis.contour(lr, batch, lost, levels=LEVELS, colors=[LAW], linewidths=0.9)
        axis.clabel(lines, fmt={level: f"{100 * level:g} %" for level in LEVELS}, fontsize=9)
        for rows, size, label in ((others, 3, "tried elsewhere"), (tried, 9, "tried here")):
            if len(rows):
                axis.scatter(
                    rows["lr"], rows["batch"], s=size, color=INK, alpha=0.55, linewidth=0,
                    label=label, zorder=3,
                )  # fmt: skip
        if intervals:
            (left, right), (low, high) = intervals["lr"], intervals["batch"]
            axis.hlines(chosen[1], left, right, color=FINAL, linewidth=1.6, zorder=4)
            axis.vlines(chosen[0], low, high, color=FINAL, linewidth=1.6, zorder=4)
        axis.scatter(*chosen, s=26, marker="*", color=FINAL, label="chosen", zorder=5)
        axis.set_xlim(float(np.min(lr)), float(np.max(lr)))
        axis.set_ylim(float(np.min(batch)), float(np.max(batch)))
        drawn.legend()
    return drawn.svg
