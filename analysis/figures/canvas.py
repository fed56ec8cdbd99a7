"""The canvas of every figure: a panel as SVG text, its colours, ticks, legend and pieces.

`panel` draws on a fixed canvas with transparent ground and real text; lines and letters are drawn
in sentinel colours that become CSS (`currentColor`, `var(--c1)`, ...), so one figure serves a
light and a dark page; `standalone` makes a file of it. Letters are large enough for a phone 390
pixels wide; a page makes them smaller where a figure is wider. The legend stands above the axes, so
that it hides no point. N parameters, D tokens, C FLOPs, L nats per token, everywhere. What is drawn
is in `analysis.figures.charts`; nothing else imports matplotlib.

A colour has one meaning in all figures: LAW, FINAL (the planned and the final run), ISOFLOP and
ENVELOPE (Okabe and Ito's, safe for colour-blind readers), and the ramp is model size N. SERIES are
colours that the legend of one figure explains. A band is a table with columns x, y and, where there
is an interval, lo and hi.
"""

import io
import re
from collections.abc import Iterator, Sequence
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
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from numpy.typing import ArrayLike

from analysis.number_text import power, short

INK, GRID = "#010203", "#010204"
SLOTS = {  # the colours of a light page, by CSS variable
    "c1": "#0072b2",
    "c2": "#d55e00",
    "c3": "#008a64",
    "c4": "#a87400",
    "s1": "#0e7c86",
    "s2": "#94552c",
    "s3": "#5b6b7c",
    "s4": "#6f7a12",
    "s5": "#c0506e",
    "s6": "#3b4a8f",
}
# Sentinels differ from the colours they stand for, so that a literal colour stays literal.
LAW, FINAL, ISOFLOP, ENVELOPE, *SERIES = (f"#0102{16 + i:02x}" for i in range(len(SLOTS)))
INCHES = 5.0  # width of a figure: 360 units of its own, about the pixels of a phone's column
LETTERS_POINTS = 11.4  # of all text: at least 11 pixels where a figure is 350 pixels wide
LEGEND_ROW = 0.235  # inches of a row of the legend
RASTER_DPI = 180  # of points and curves that are drawn as an image
MARGINS = {"left": 0.17, "right": 0.985}  # fixed: a layout engine draws everything twice
TEST_LOSS = "test loss (nats/token)"
LABELS = {
    "params": "parameters N",
    "tokens": "training tokens D",
    "flops": "training compute C (FLOPs)",
    "tokens_per_param": "tokens per parameter D/N",
    "loss": TEST_LOSS,
    "unique_tokens": "unique tokens U",
    "examples": "fine-tuning examples",
    "pairs": "comparison pairs",
    "kl": "KL to the initial policy (nats/sequence)",
    "reward": "reward (score)",
    "error": "task error (share)",
}


@contextmanager
def loss_label(label: str) -> Iterator[None]:
    """Draw figures whose axis of the loss has this label, of a named test set or another unit."""
    usual, LABELS["loss"] = LABELS["loss"], label
    try:
        yield
    finally:
        LABELS["loss"] = usual


LETTERS = {"params": "N", "tokens": "D", "flops": "C", "pairs": "n", "examples": "D_f"}
NAMED_SIZES = 6  # of a legend
SHADES = 64
MOST_TIPS = 500  # points of a figure that say what run they are
# Multiples of a power of ten that are labelled on an axis of more than so many decades.
TICKS = (
    (2.2, (1.0,)),
    (1.2, (1.0, 2.0, 5.0)),
    (0.7, (1.0, 2.0, 3.0, 5.0, 7.0)),
    (0.35, tuple(np.arange(1.0, 10.0))),
    (0.0, tuple(np.arange(1.0, 10.0, 0.5))),
)
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
SIZE_RAMP = ("#7080d8", "#9a55bd", "#c03d78")  # ordered, legible on a light and a dark ground


class Panel:
    """An open panel: `ax` to draw on, `svg` once the block has closed.

    `legend` asks for a legend of all labelled marks above the axes, with this title before it.
    """

    def __init__(self, ax: Axes) -> None:
        """Hold the axes."""
        self.ax = ax
        self.svg = ""
        self.title: str | None = None

    def legend(self, title: str = "") -> None:
        """Put a legend above the axes."""
        self.title = title


@contextmanager
def panel(
    name: str,
    *,
    x: str,
    y: str,
    title: str,
    logx: bool = True,
    logy: bool = False,
    height: float = 3.0,
) -> Iterator[Panel]:
    """Open a panel with axis labels (units included); leave it and `svg` holds the picture.

    name: prefix of every id, so that several figures share a page
    x, y: labels of the axes
    title: read aloud
    logx, logy: whether an axis is logarithmic
    height: inches of axes and labels, to which the legend is added
    """
    with mpl.rc_context(_style()):
        figure = Figure(figsize=(INCHES, height))
        FigureCanvasSVG(figure)
        opened = Panel(figure.add_subplot())
        axis = opened.ax
        axis.set(xlabel=x, ylabel=y)
        yield opened
        _scales(axis, logx=logx, logy=logy)
        sns.despine(ax=axis)
        above = _legend(figure, axis, opened.title) if opened.title is not None else 0.0
        total = height + above
        figure.set_size_inches(INCHES, total)
        top = 1 - (above + 0.1) / total
        figure.subplots_adjust(**MARGINS, bottom=0.55 / total, top=top)
        text = io.StringIO()
        plain = {"Date": None, "Creator": None}
        figure.savefig(text, format="svg", transparent=True, metadata=plain, dpi=RASTER_DPI)
        opened.svg = themed(text.getvalue(), name=name, title=title)


def _legend(figure: Figure, axis: Axes, title: str) -> float:
    """Put the legend at the top of the figure, in as many columns as fit; returns its inches."""
    handles, labels = axis.get_legend_handles_labels()
    if not labels:
        return 0.0
    if title:
        handles, labels = [axis.plot([], [], alpha=0)[0], *handles], [title, *labels]
    widths = [_inches(label) + 0.42 for label in labels]
    columns = next(
        (
            n
            for n in range(min(6, len(labels)), 0, -1)
            if sum(max(part) for part in np.array_split(widths, n)) < INCHES - 0.1
        ),
        1,
    )
    figure.legend(
        handles,
        labels,
        ncols=columns,
        loc="upper left",
        bbox_to_anchor=(0.0, 1.0),
        borderaxespad=0.0,
        borderpad=0.2,
        handlelength=1.4,
        handletextpad=0.5,
        columnspacing=0.9,
        labelspacing=0.35,
    )
    return -(-len(labels) // columns) * LEGEND_ROW + 0.05


def _inches(text: str) -> float:
    """Return the width of a legend's text."""
    font = FontProperties(family="DejaVu Sans", size=LETTERS_POINTS)
    return text_to_path.get_text_width_height_descent(text, font, ismath=False)[0] / 72


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
    svg = re.sub(rf'<a xlink:href="{TIP}([^"]*)"[^>]*>(.*?)</a>', _TIPPED, svg, flags=re.S)
    svg = re.sub(r"\n\s*", "\n", svg)
    for sentinel, css in _css().items():
        svg = svg.replace(sentinel, css)
    return svg


def standalone(svg: str) -> str:
    """Turn a figure into a file of its own: plain colours, white ground, a size in points."""
    svg = re.sub(r"var\(--\w+, (#[0-9a-f]{6})\)", r"\1", svg)
    svg = svg.replace("var(--grid, #8884)", "#dddddd").replace("currentColor", "#222222")
    return re.sub(
        r'viewBox="0 0 ([0-9.]+) ([0-9.]+)" role="img">(<title>.*?</title>)',
        r'viewBox="0 0 \1 \2" width="\1pt" height="\2pt" role="img">\3'
        r'<rect width="\1" height="\2" fill="#ffffff"/>',
        svg,
        count=1,
    )


TIP = "tip:"  # marks an address that is none: what is shown over a point
_TIPPED = r'<g class="tip"><title>\1</title>\2</g>'
_XMLNS = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'


def _css() -> dict[str, str]:
    sentinels = (LAW, FINAL, ISOFLOP, ENVELOPE, *SERIES)
    slots = {s: f"var(--{n}, {c})" for s, (n, c) in zip(sentinels, SLOTS.items(), strict=True)}
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
        "font.size": LETTERS_POINTS,
        "axes.labelsize": LETTERS_POINTS,
        "xtick.labelsize": LETTERS_POINTS,
        "ytick.labelsize": LETTERS_POINTS,
        "legend.fontsize": LETTERS_POINTS,
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
    for is_log, name in ((logx, "x"), (logy, "y")):
        if is_log:
            axis.set(**{f"{name}scale": "log"})
            _ticks(axis, name)


def _ticks(axis: Axes, name: str) -> None:
    """Label decades as powers of ten; within two decades, also multiples of each.

    FLOPs are written with their exponent (3e12), not as counts (3T), in every figure.
    """
    write = power if "FLOPs" in getattr(axis, f"get_{name}label")() else short
    which = getattr(axis, f"{name}axis")
    low, high = sorted(getattr(axis, f"get_{name}lim")())
    decades = np.log10(high / low)
    subs = next(subs for least, subs in TICKS if decades > least)
    which.set_major_locator(LogLocator(subs=subs, numticks=8 if name == "x" else 10))
    which.set_minor_locator(NullLocator())
    which.set_major_formatter(
        FuncFormatter(lambda value, _: _decade(value) if decades > 2.2 else write(value))
    )


def _decade(value: float) -> str:
    """Write 1e13 as a power of ten, without the cost of a mathematics typesetter."""
    return "10" + str(round(np.log10(value))).translate(SUPERSCRIPTS)


def ramp(n: int) -> list[str]:
    """Return n ordered colours: those of model sizes, from the smallest."""
    return sns.blend_palette(SIZE_RAMP, max(n, 2)).as_hex()[:n]


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
    tips: Sequence[str] = (),
) -> None:
    """Draw runs as small open-edged points under the curves; `tips` are shown over each."""
    artist = axis.scatter(
        x, y, s=18, color=colour, marker=marker, label=label, alpha=0.85, linewidth=0, zorder=1
    )
    artist.set_rasterized(bool(np.size(x) > MOST_TIPS))
    if len(tips):
        artist.set_urls([f"{TIP}{t}" for t in tips])


def tips_of(cells: pd.DataFrame) -> list[str]:
    """Say what run is behind each point: its name, N, D and loss, as far as the table has them."""
    if "run" not in cells or len(cells) > MOST_TIPS:
        return []
    names = {"params": "N", "tokens": "D", "flops": "C", "loss": "loss"}
    known = {k: n for k, n in names.items() if k in cells}
    return [
        ", ".join([str(row["run"]), *(f"{n} {short(row[k])}" for k, n in known.items())])
        for row in cells.to_dict(orient="records")
    ]


def star(
    axis: Axes, x: float, y: float, *, label: str, interval: tuple[float, float] | None = None
) -> None:
    """Mark the planned or final run, with its interval in y."""
    if interval:
        axis.plot([x, x], interval, color=FINAL, linewidth=1.4, zorder=5)
    axis.scatter([x], [y], s=90, marker="*", color=FINAL, label=label, zorder=6, linewidth=0)


def sized_lines(
    axis: Axes, curves: pd.DataFrame, *, x: str, label: bool = False, named: bool = False
) -> None:
    """Draw one thin line a run, coloured by its size.

    Where they are `named`, each has the id run-<run>, to be linked to, and says its run.
    """
    sizes = sorted(curves["params"].unique())
    many = len(set(curves["run"])) > MOST_TIPS
    step = max(1, -(-len(sizes) // NAMED_SIZES))
    for i, (colour, size) in enumerate(zip(ramp(len(sizes)), sizes, strict=True)):
        here = curves[curves["params"] == size]
        lines = [np.column_stack([run[x], run["loss"]]) for _, run in here.groupby("run")]
        text = f"N = {short(size)}" if label and i % step == 0 else None
        artist = LineCollection(lines, colors=colour, linewidths=0.8, alpha=0.55, zorder=1)
        artist.set_rasterized(many)
        if named and not many:
            for name, run in here.groupby("run"):
                (line,) = axis.plot(run[x], run["loss"], color=colour, linewidth=0.8, alpha=0.7)
                line.set_gid(f"run-{name}")
                line.set_url(f"{TIP}{name}, N {short(size)}")
            artist.set_segments([])
        axis.add_collection(artist)
        if text:
            axis.plot([], [], color=colour, linewidth=1.6, label=text)
    axis.autoscale_view()


def sized_points(
    axis: Axes, cells: pd.DataFrame, *, x: str, y: str = "loss", label: bool = True
) -> None:
    """Draw one point a cell, coloured by its size; the legend names at most six sizes."""
    sizes, rank = np.unique(np.asarray(cells["params"], dtype=float), return_inverse=True)
    shades = np.array(ramp(min(len(sizes), SHADES)))
    colours = shades[np.arange(len(sizes)) * len(shades) // len(sizes)]
    artist = axis.scatter(
        cells[x], cells[y], s=18, color=colours[rank], alpha=0.85, linewidth=0, zorder=1
    )
    artist.set_rasterized(len(cells) > MOST_TIPS)
    if found := tips_of(cells):
        artist.set_urls([f"{TIP}{t}" for t in found])
    step = max(1, -(-len(sizes) // NAMED_SIZES))
    for size, colour in list(zip(sizes, colours, strict=True))[::step] if label else []:
        points(axis, [], [], colour=colour, label=f"N = {short(size)}")
