"""Figures of a mixture: shares as bars, three sources as a triangle, worth of sources as a matrix.

One function a figure, from plain values to SVG text, as in `analysis.figures.charts`.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from analysis.figures.canvas import FINAL, INK, LAW, panel
from analysis.forms import Array

ROW = 0.34  # inches of a source's row of bars
LETTERS = 9  # of a domain's name that the margin of a figure has room for
CORNERS = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, np.sqrt(0.75)]])  # of the triangle


def shares(
    proposed: Mapping[str, float],
    natural: Mapping[str, float],
    intervals: Mapping[str, Sequence[float]],
) -> str:
    """Draw the proposed share of each source with its interval, and the natural one beside it.

    proposed, natural: {source: share}, drawn in the order of `proposed`
    intervals: {source: [low, high]}
    """
    names = list(proposed)
    with panel(
        "mixture_shares", x="share of the mixture", y="", title="Proposed and natural shares",
        logx=False, height=1.0 + ROW * len(names),
    ) as drawn:  # fmt: skip
        axis = drawn.ax
        for i, name in enumerate(names):
            low, high = intervals[name]
            value = proposed[name]
            axis.barh(-i, value, height=0.5, color=LAW, alpha=0.45, label="" if i else "proposed")
            axis.plot([low, high], [-i, -i], color=LAW, linewidth=2, label="" if i else "interval")
            axis.plot(
                natural[name], -i, "D", color=FINAL, markersize=5, label="" if i else "natural"
            )
            axis.text(0.99, -i, name, transform=axis.get_yaxis_transform(), ha="right", color=INK)
        axis.set(yticks=[])
        axis.set_xlim(0, 1.25 * max(*proposed.values(), *natural.values(), 1e-3))
        drawn.legend()
    return drawn.svg


def triangle(
    names: Sequence[str], points: Array, losses: Array, *, proposed: Array, natural: Array
) -> str:
    """Draw the weighted loss over mixtures of three sources, with the proposal.

    names: of the sources, at the left, the right and the upper corner
    points: shares at which the loss is known (n, 3)
    losses: weighted losses there (n,)
    proposed, natural: shares (3,)
    """
    title = "Weighted loss over mixtures of three sources"
    with panel("mixture_triangle", x="", y="", title=title, logx=False, height=3.9) as drawn:
        axis = drawn.ax
        x, y = (points @ CORNERS).T
        order = np.argsort(np.argsort(losses)) / max(1, len(losses) - 1)
        axis.scatter(x, y, c=order, cmap="viridis_r", s=16, rasterized=True)
        axis.plot(*np.vstack([CORNERS, CORNERS[:1]]).T, color=INK, linewidth=0.8)
        for mix, colour, marker, label in (
            (proposed, LAW, "*", "proposed"),
            (natural, FINAL, "D", "natural"),
        ):
            at = mix @ CORNERS
            axis.scatter(*at, s=110 if marker == "*" else 45, color=colour, marker=marker,
                         label=label, zorder=4)  # fmt: skip
        for name, corner, side in zip(names, CORNERS, ("left", "right", "center"), strict=True):
            up = corner[1] > 0
            axis.text(corner[0], corner[1] + (0.03 if up else -0.04), name, ha=side, color=INK,
                      va="bottom" if up else "top")  # fmt: skip
        axis.set(xticks=[], yticks=[], xlim=(-0.1, 1.1), ylim=(-0.14, 1.0))
        axis.grid(visible=False)
        axis.spines[:].set_visible(False)
        drawn.legend()
    return drawn.svg


def worth(domains: Sequence[str], sources: Sequence[str], values: Array) -> str:
    """Draw what each source is worth for each domain, darker for more.

    domains, sources: names of rows and columns
    values: 0 to 1 (domains, sources): worth over the largest of the row
    """
    title = "What a source is worth for a domain"
    with panel("mixture_worth", x="source, by its number", y="", title=title, logx=False,
               height=1.0 + 0.25 * len(domains)) as drawn:  # fmt: skip
        axis = drawn.ax
        axis.imshow(values, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        axis.set_xticks(range(len(sources)), [str(j + 1) for j in range(len(sources))])
        axis.set_yticks(range(len(domains)), [_short(name) for name in domains])
        axis.grid(visible=False)
    return drawn.svg


def _short(name: str) -> str:
    return name if len(name) <= LETTERS else f"{name[: LETTERS - 1]}…"
