"""Loss curves under schedules of the learning rate, as figures from tables to SVG text."""

from collections.abc import Mapping

import pandas as pd

from analysis.figures.canvas import FINAL, LABELS, LAW, SERIES, band, panel, points


def curve_forecast(
    curve: pd.DataFrame, measured: pd.DataFrame, *, name: str, title: str, level: float
) -> str:
    """Draw the loss that the law gives along one schedule, with its band, and what was measured.

    curve: x in steps, y, lo, hi in nats per token
    measured: x in steps, y in nats per token
    name: prefix of ids in the figure
    title: read aloud
    level: share that the band holds
    """
    with panel(name, x="training step", y=LABELS["loss"], logx=False, title=title) as drawn:
        band(drawn.ax, curve, colour=LAW, label=f"law, {100 * level:g}% band")
        points(drawn.ax, measured["x"], measured["y"], colour=FINAL, label="measured")
        drawn.legend()
    return drawn.svg


def decay_loss(series: Mapping[str, pd.DataFrame], best: Mapping[str, tuple[float, float]]) -> str:
    """Draw the forecast loss at the end against the share of the steps that decays.

    series: x share in percent, y in nats per token, by the shape of the decay
    best: the best share and its loss, by the shape
    """
    title = "Loss at the end against the share of the decay"
    with panel("decay", x="steps that decay (%)", y=LABELS["loss"], title=title) as drawn:
        for colour, (shape, table) in zip((LAW, *SERIES), series.items(), strict=False):
            drawn.ax.plot(table["x"], table["y"], color=colour, label=f"{shape} decay", zorder=3)
            x, y = best[shape]
            drawn.ax.scatter([x], [y], s=50, color=colour, zorder=4, linewidth=0)
        drawn.legend()
    return drawn.svg
