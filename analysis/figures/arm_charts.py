"""Figures of arms that are compared: one row an arm, a point and its interval.

The canvas, its colours and pieces are `analysis.figures.canvas`.
"""

from collections.abc import Sequence

from analysis.figures.canvas import INK, LAW, LETTERS_POINTS, panel

Row = tuple[str, float, Sequence[float] | None]  # name, value, ends of its interval
ROW_INCHES = 0.36  # height of a row: a name above its interval
FRAME_INCHES = 0.9  # of axis, labels and margins


def losses(rows: Sequence[Row], label: str) -> str:
    """Draw the loss of each arm with its interval, the least on top.

    label: of the axis
    """
    return _forest(sorted(rows, key=lambda row: -row[1]), label, name="arms", title="Loss by arm")


def multipliers(rows: Sequence[Row], label: str) -> str:
    """Draw the compute multiplier of each arm with its interval, the largest on top, and 1."""
    ordered = sorted(rows, key=lambda row: row[1])
    title = "Compute multiplier by arm"
    return _forest(ordered, label, name="multipliers", title=title, logx=True, mark=1.0)


def _forest(
    rows: Sequence[Row],
    label: str,
    *,
    name: str,
    title: str,
    logx: bool = False,
    mark: float | None = None,
) -> str:
    """Draw rows from the bottom up; `mark` is a value at which a line says no difference."""
    height = FRAME_INCHES + ROW_INCHES * len(rows)
    with panel(name, x=label, y="", title=title, logx=logx, height=height) as drawn:
        axis = drawn.ax
        for at, (arm, value, ends) in enumerate(rows):
            low, high = ends or (value, value)
            if low > 0 or not logx:
                axis.plot([low, high], [at, at], color=LAW, linewidth=1.6, zorder=3)
            axis.scatter([value], [at], color=LAW, edgecolor=INK, linewidth=0.6, s=34, zorder=4)
            axis.annotate(
                arm,
                (value, at),
                xytext=(0, 5),
                textcoords="offset points",
                ha="center",
                fontsize=LETTERS_POINTS,
                color=INK,
            )
        if mark is not None:
            axis.axvline(mark, color=INK, linewidth=0.8, linestyle=":", label="no difference")
            drawn.legend()
        axis.set_ylim(-0.5, len(rows) - 0.2)
        axis.set_yticks([])
        axis.margins(x=0.12)
    return drawn.svg
