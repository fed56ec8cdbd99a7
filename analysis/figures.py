"""Figures of the report as SVG text: functions of tables, one panel each.

`panel` draws on a fixed canvas with transparent ground and real text; lines and letters are drawn
in sentinel colours that become CSS (`currentColor`, `var(--c1)`, ...), so one figure serves a
light and a dark page. Slots c1..c6 are Okabe and Ito's colours, safe for colour-blind readers.
Points lie under curves. N parameters, D tokens, C FLOPs, L nats per token, everywhere.

A band is a table with columns x, y and, where there is an interval, lo and hi.
"""

import io
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from numpy.typing import ArrayLike

from analysis.words import power, short

INK, GRID = "#010203", "#010204"
SLOTS = {
    "c1": "#0072b2",
    "c2": "#d55e00",
    "c3": "#009e73",
    "c4": "#cc79a7",
    "c5": "#56b4e9",
    "c6": "#b07d00",
}
# Sentinels differ from the colours they stand for, so that a literal colour stays literal.
C1, C2, C3, C4, C5, C6 = (f"#0102{n:02x}" for n in range(16, 22))
MARGINS = {
    "left": 0.145,
    "right": 0.985,
    "top": 0.975,
}  # fixed: a layout engine draws everything twice
COUNTED = {"params": "N", "tokens": "D", "flops": "C"}
LABELS = {
    "params": "parameters N",
    "tokens": "training tokens D",
    "flops": "training compute C (FLOPs)",
    "tokens_per_param": "tokens per parameter D/N",
    "loss": "test loss (nats/token)",
}
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
CREST = (
    "#3f6fd1",
    "#8a63b8",
    "#c2553f",
    "#b8791a",
)  # ordered, of similar lightness on both grounds


class Panel:
    """An open panel: `ax` to draw on, `svg` once the block has closed."""

    def __init__(self, ax: Axes) -> None:
        """Hold the axes."""
        self.ax = ax
        self.svg = ""


@contextmanager
def panel(
    name: str,
    *,
    x: str,
    y: str,
    title: str,
    logx: bool = True,
    logy: bool = False,
    height: float = 3.55,
) -> Iterator[Panel]:
    """Open a panel with axis labels (units included); leave it and `svg` holds the picture.

    `name` prefixes every id, so that several figures share a page; `title` is read aloud.
    """
    with mpl.rc_context(_style()):
        figure = Figure(figsize=(5.0, height))
        FigureCanvasSVG(figure)
        figure.subplots_adjust(**{**MARGINS, "bottom": 0.5 / height})
        opened = Panel(figure.add_subplot())
        axis = opened.ax
        axis.set(xlabel=x, ylabel=y)
        yield opened
        _scales(axis, logx=logx, logy=logy)
        sns.despine(ax=axis)
        text = io.StringIO()
        figure.savefig(
            text, format="svg", transparent=True, metadata={"Date": None, "Creator": None}
        )
        opened.svg = themed(text.getvalue(), name=name, title=title)


def themed(svg: str, *, name: str, title: str) -> str:
    """Turn matplotlib's SVG file into a fragment: CSS colours, own ids, no size, no metadata."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", svg)
    svg = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', svg)
    svg = re.sub(
        r'<svg [^>]*?viewBox="([^"]+)"[^>]*>',
        rf'<svg {_XMLNS} viewBox="\1" role="img"><title>{_plain(title)}</title>',
        svg,
        count=1,
    )
    svg = re.sub(r"\n\s*", "\n", svg)
    for sentinel, css in _css().items():
        svg = svg.replace(sentinel, css)
    return svg


_XMLNS = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'


def _css() -> dict[str, str]:
    slots = {
        s: f"var(--{n}, {c})"
        for s, (n, c) in zip((C1, C2, C3, C4, C5, C6), SLOTS.items(), strict=True)
    }
    return {INK: "currentColor", GRID: "var(--grid, #8884)", **slots}


def _plain(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _style() -> dict[Any, Any]:
    """Return seaborn's paper style in sentinel colours, text kept as text."""
    style = dict(sns.axes_style("whitegrid"))
    keys = (
        "text.color",
        "axes.labelcolor",
        "axes.edgecolor",
        "xtick.color",
        "ytick.color",
        "legend.labelcolor",
    )
    return {
        **style,
        **dict.fromkeys(keys, INK),
        "grid.color": GRID,
        "grid.linewidth": 0.6,
        "axes.linewidth": 0.8,
        "font.family": "sans-serif",
        "font.sans-serif": ["DejaVu Sans"],
        "font.size": 9.0,
        "legend.fontsize": 8.0,
        "legend.frameon": False,
        "lines.linewidth": 1.6,
        "svg.fonttype": "none",
        "svg.hashsalt": "scaling",
        "xtick.bottom": True,
        "ytick.left": True,
        "xtick.major.size": 3.0,
        "ytick.major.size": 3.0,
    }


def _scales(axis: Axes, *, logx: bool, logy: bool) -> None:
    for wanted, name in ((logx, "x"), (logy, "y")):
        if wanted:
            axis.set(**{f"{name}scale": "log"})
            _ticks(axis, name)


def _ticks(axis: Axes, name: str) -> None:
    """Label decades as powers of ten; within two decades, also 2 and 5 of each."""
    which = getattr(axis, f"{name}axis")
    low, high = sorted(getattr(axis, f"get_{name}lim")())
    decades = np.log10(high / low)
    subs = (
        (1.0,)
        if decades > 2.2
        else (1.0, 2.0, 5.0)
        if decades > 0.7
        else tuple(np.arange(1.0, 10.0))
    )
    which.set_major_locator(LogLocator(subs=subs, numticks=12))
    which.set_minor_locator(NullLocator())
    which.set_major_formatter(
        FuncFormatter(lambda value, _: _decade(value) if decades > 2.2 else short(value))
    )


def _decade(value: float) -> str:
    """Write 1e13 as a power of ten, without the cost of a mathematics typesetter."""
    return "10" + str(round(np.log10(value))).translate(SUPERSCRIPTS)


def ramp(n: int) -> list[str]:
    """Return n ordered colours."""
    return sns.blend_palette(CREST, max(n, 2)).as_hex()[:n]


def band(
    axis: Axes, table: pd.DataFrame, *, colour: str, label: str | None = None, dash: str = "-"
) -> None:
    """Draw a line with its interval."""
    if {"lo", "hi"} <= set(table):
        axis.fill_between(
            table["x"], table["lo"], table["hi"], color=colour, alpha=0.16, linewidth=0, zorder=2
        )
    axis.plot(table["x"], table["y"], dash, color=colour, label=label, zorder=3)


def points(
    axis: Axes,
    x: ArrayLike,
    y: ArrayLike,
    *,
    colour: str,
    label: str | None = None,
    marker: str = "o",
) -> None:
    """Draw runs as small open-edged points under the curves."""
    axis.scatter(
        x, y, s=16, color=colour, marker=marker, label=label, alpha=0.85, linewidth=0, zorder=1
    )


def star(
    axis: Axes, x: float, y: float, *, label: str, interval: tuple[float, float] | None = None
) -> None:
    """Mark the planned or final run, with its interval in y."""
    if interval:
        axis.plot([x, x], interval, color=C2, linewidth=1.4, zorder=5)
    axis.scatter([x], [y], s=70, marker="*", color=C2, label=label, zorder=6, linewidth=0)


# --- the law and its data ------------------------------------------------------------------------


def loss_compute(
    curves: pd.DataFrame,
    cells: pd.DataFrame,
    *,
    frontier: pd.DataFrame | None = None,
    envelope: pd.DataFrame | None = None,
    planned: Mapping[str, Any] | None = None,
) -> str:
    """Draw loss against compute: training curves, cells, envelope, and the law's frontier.

    `curves` has run, params, flops, loss; `cells` params, flops, loss; `planned` flops, loss,
    interval.
    """
    with panel(
        "losscompute",
        x=LABELS["flops"],
        y=LABELS["loss"],
        logy=True,
        title="Test loss against training compute",
    ) as drawn:
        axis = drawn.ax
        _sized_lines(axis, curves, x="flops")
        _sized_points(axis, cells, x="flops")
        if envelope is not None:
            axis.plot(
                envelope["x"],
                envelope["y"],
                color=C6,
                dashes=(2, 1.2),
                label="envelope of the curves",
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
        seen = [*cells["loss"], *([planned["loss"]] if planned else [])]
        axis.set_ylim(0.93 * min(seen), 1.3 * max(seen))
        axis.legend(loc="lower left", ncols=2)
    return drawn.svg


def isoflop(cells: pd.DataFrame, parabolas: pd.DataFrame, vertices: pd.DataFrame) -> str:
    """Draw loss against N at equal compute, with parabolas and their vertices.

    `cells` has params, loss, budget (FLOPs); `parabolas` and `vertices` have budget, x, y.
    """
    with panel("isoflop", x=LABELS["params"], y=LABELS["loss"], title="IsoFLOP curves") as drawn:
        axis = drawn.ax
        budgets = sorted(cells["budget"].unique())
        for colour, budget in zip(ramp(len(budgets)), budgets, strict=True):
            here = cells[cells["budget"] == budget]
            points(axis, here["params"], here["loss"], colour=colour, label=f"{power(budget)}")
            line = parabolas[parabolas["budget"] == budget]
            axis.plot(line["x"], line["y"], color=colour, linewidth=1.3, zorder=3)
            at = vertices[vertices["budget"] == budget]
            mark = {"s": 42, "marker": "D", "edgecolor": INK, "linewidth": 0.7}
            axis.scatter(at["x"], at["y"], color=colour, zorder=4, **mark)
        axis.margins(y=0.12)
        axis.legend(title="FLOPs", ncols=3, loc="best")
    return drawn.svg


def observed(fitted: pd.DataFrame) -> str:
    """Draw observed against fitted loss; `fitted` has params, loss, predicted."""
    with panel(
        "observed",
        x="fitted loss (nats/token)",
        y="observed test loss (nats/token)",
        logy=True,
        title="Observed against fitted loss",
    ) as drawn:
        axis = drawn.ax
        _sized_points(axis, fitted, x="predicted")
        ends = [
            fitted[["loss", "predicted"]].min().min(),
            fitted[["loss", "predicted"]].max().max(),
        ]
        axis.plot(ends, ends, color=INK, linewidth=1.0, label="equal")
        axis.legend(ncols=2, loc="upper left")
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
        _sized_points(axis, values.assign(percent=percent), x=against, y="percent", label=False)
        axis.axhline(0, color=INK, linewidth=1.0, zorder=2)
        reach = 1.15 * max(float(np.abs(percent).max()), 0.1)
        axis.set_ylim(-reach, reach)
    return drawn.svg


def allocation(
    bands: Mapping[str, pd.DataFrame],
    *,
    what: str,
    planned: tuple[float, float] | None = None,
    fitted_to: float | None = None,
) -> str:
    """Draw N*(C) or D*(C) of each method with its band; `what` is params or tokens."""
    letter = COUNTED[what]
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
        if fitted_to:
            axis.axvline(fitted_to, color=INK, linewidth=0.8, linestyle=":", label="largest cell")
        if planned:
            star(axis, *planned, label="plan")
        axis.legend(loc="upper left")
    return drawn.svg


def forecast(expected: Mapping[str, Any], outcome: float | None) -> str:
    """Draw the forecast with its interval and, when it is known, what the run reached."""
    with panel(
        "forecast",
        x=LABELS["loss"],
        y="",
        logx=False,
        height=1.9,
        title="Forecast against outcome",
    ) as drawn:
        axis = drawn.ax
        low, high = expected["interval"]
        label = f"{100 * expected['level']:g}% interval"
        axis.plot(
            [low, high],
            [1, 1],
            color=C1,
            linewidth=9,
            alpha=0.35,
            solid_capstyle="butt",
            label=label,
            zorder=1,
        )
        axis.scatter([expected["test_loss"]], [1], s=60, color=C1, label="forecast", zorder=3)
        if outcome is not None:
            axis.scatter([outcome], [0], s=90, marker="*", color=C2, label="outcome", zorder=3)
            axis.plot([outcome, outcome], [0, 1], color=C2, linewidth=0.9, linestyle=":", zorder=2)
        axis.set(yticks=[1, 0], yticklabels=["forecast", "outcome"], ylim=(-0.6, 2.2))
        axis.margins(x=0.12)
        axis.grid(visible=False, axis="y")
        axis.legend(loc="upper left", ncols=3)
    return drawn.svg


def training_curves(curves: pd.DataFrame, *, final: pd.DataFrame | None = None) -> str:
    """Draw loss against tokens, a line a cell; `curves` has run, params, tokens, loss."""
    with panel(
        "curves", x=LABELS["tokens"], y=LABELS["loss"], logy=True, title="Training curves"
    ) as drawn:
        axis = drawn.ax
        _sized_lines(axis, curves, x="tokens", label=True)
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


# --- the stages after pretraining ----------------------------------------------------------------


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
            kept = rows[[x[0], column]].dropna()
            marker = "o" if len(kept) < 30 else ""
            axis.plot(
                kept[x[0]], kept[column], color=colour, label=label, marker=marker, markersize=3
            )
        for label, value in (lines or {}).items():
            axis.axhline(value, color=INK, linewidth=1.0, linestyle="--", label=label)
        axis.legend(loc="best")
    return drawn.svg


# --- pieces --------------------------------------------------------------------------------------


def _sized_lines(axis: Axes, curves: pd.DataFrame, *, x: str, label: bool = False) -> None:
    """Draw one thin line a run, coloured by its size."""
    sizes = sorted(curves["params"].unique())
    for colour, size in zip(ramp(len(sizes)), sizes, strict=True):
        here = curves[curves["params"] == size]
        lines = [np.column_stack([run[x], run["loss"]]) for _, run in here.groupby("run")]
        text = short(size) if label else None
        axis.add_collection(
            LineCollection(lines, colors=colour, linewidths=0.8, alpha=0.55, zorder=1, label=text)
        )
    axis.autoscale_view()


def _sized_points(
    axis: Axes, cells: pd.DataFrame, *, x: str, y: str = "loss", label: bool = True
) -> None:
    """Draw one point a cell, coloured by its size; the legend names at most six sizes."""
    sizes = sorted(cells["params"].unique())
    named = set(sizes[:: max(1, -(-len(sizes) // 6))])
    for colour, size in zip(ramp(len(sizes)), sizes, strict=True):
        here = cells[cells["params"] == size]
        text = f"N = {short(size)}" if label and size in named else None
        points(axis, here[x], here[y], colour=colour, label=text)
