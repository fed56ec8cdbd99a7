"""The page of a folder's backtest: errors, coverage, experiments, and what was left out."""

from pathlib import Path
from typing import Any

import pandas as pd

from analysis.backtesting.folder import FolderBacktest
from analysis.backtesting.splits import BINS
from analysis.backtesting.summary import ALL_RUNS, BINOMIAL_LEVEL, FRONTIER
from analysis.figures import backtest_charts
from analysis.number_text import power, short
from analysis.page.gallery import Picture
from analysis.page.tables import Grid
from analysis.page.template import inline, page_script, render
from scaling.schema import write_text

MOST_EXPERIMENTS = 200  # rows of the page's table; backtest.json has all
MOST_SILENT = 50  # rows of fits without an answer
METHOD_NOTES = (
    (
        "ours, form=F",
        "scaling fit with form=F and its defaults, fitted below the cutoff. A law that"
        " is not usable predicts all the same.",
    ),
    (
        "L-BFGS, published grid",
        "scipy's L-BFGS-B on the Huber loss (delta 1e-3) of log residuals, by exact gradients and"
        " with default tolerances, from the {starts} points of least objective of the 4500 starts"
        " of Hoffmann et al. 2022; the lowest end is taken.",
    ),
    (
        "package chinchilla",
        "the package of PyPI with its own objective, from a grid over the ranges of its README.",
    ),
    (
        "log-linear frontier",
        "log loss as a line of log C through the runs that no run of as much or less compute beats;"
        " it predicts the best loss at a C and no other run.",
    ),
)


def write_page(result: FolderBacktest, out: str | Path) -> list[Path]:
    """Write the page as `out` with the suffix .html, its numbers beside it; returns the paths."""
    page = Path(out).with_suffix(".html")
    return [write_text(page, backtest_page(result)), result.write(page.with_suffix(".json"))]


def backtest_page(result: FolderBacktest) -> str:
    """Return the page of a folder's backtest."""
    level = result.settings["level"]
    splits = result.splits
    return render(
        "backtest.html.j2",
        folder=result.inputs["folder"],
        lede=(
            f"{len(result.experiments)} experiments of {len({s['file'] for s in splits})} tables,"
            f" {len(splits)} cutoffs in C. Below each cutoff every method is fitted; the"
            f" {sum(s['n_test'] for s in splits)} runs above (a run counts once a cutoff) are"
            f" predicted. Distance is the run's C over the largest C fitted; intervals are nominal"
            f" {level:.0%}."
        ),
        absent=[f"{name}: {why}" for name, why in result.absent.items()],
        usable=[
            f"{name}: {good} of {n} laws usable by their own alarms"
            for name, (good, n) in result.usable.items()
        ],
        tables=[error_grid(result, FRONTIER), error_grid(result, ALL_RUNS)],
        figures_shown=inline(pictures(result)),
        script=page_script(),
        experiments=experiment_grid(result),
        hidden=max(0, len(result.experiments) - MOST_EXPERIMENTS),
        left_out=Grid(
            name="Left out",
            columns=("table", "why"),
            rows=[(row["file"], row["why"]) for row in result.left_out],
            wide=(1,),
        ),
        silent=silent_grid(result),
        methods=Grid(
            name="Methods",
            columns=("method", "what it is"),
            rows=[(name, note.format(**result.settings)) for name, note in METHOD_NOTES],
            wide=(1,),
        ),
        binomial=f"{BINOMIAL_LEVEL:.0%}",
        footer=(
            f"Made by scaling backtest, version {result.code['version']}, from the tables of the"
            " folder; backtest.json holds every number, and the page asks nothing of any network."
        ),
    )


def error_grid(result: FolderBacktest, runs: str) -> Grid:
    """Return the table of errors and coverage over one set of runs."""
    rows = [row for row in result.summary if row["runs"] == runs]
    return Grid(
        name=f"Relative error of the loss, {runs}",
        columns=(
            *("distance", "method", "runs", "experiments", "rms", "median"),
            *("rms, median over experiments", "inside interval"),
        ),
        rows=[
            (
                row["distance"],
                row["method"],
                str(row["n_runs"]),
                str(row["n_experiments"]),
                percent(row["rms"]),
                percent(row["median"]),
                percent(row["median_rms"]),
                share(row),
            )
            for row in rows
        ],
        numeric=(2, 3, 4, 5, 6, 7),
    )


def silent_grid(result: FolderBacktest) -> Grid:
    """Return the table of fits that gave no answer, and why."""
    rows = [
        (split["experiment"], f"C = {power(split['cutoff_flops'])}", method, answer["note"])
        for split in result.splits
        for method, answer in split["methods"].items()
        if answer["predicted"] is None
    ]
    name = f"Fits without an answer: {len(rows)}"
    columns = ("experiment", "fitted up to", "method", "why")
    return Grid(name=name, columns=columns, rows=rows[:MOST_SILENT], wide=(3,))


def experiment_grid(result: FolderBacktest) -> Grid:
    """Return the table of experiments, with each method's error on the best run at each compute."""
    rows = [
        (
            row["experiment"],
            f"x{row['reach']:.3g}",
            short(row["n_frontier"]),
            *(percent(row["rms"][method]) for method in result.methods),
        )
        for row in result.experiments[:MOST_EXPERIMENTS]
    ]
    numeric = tuple(range(1, 3 + len(result.methods)))
    columns = ("experiment", "farthest", "runs", *result.methods)
    return Grid(name=f"Rms error, {FRONTIER}", columns=columns, rows=rows, numeric=numeric)


def pictures(result: FolderBacktest) -> list[Picture]:
    """Draw error by distance, over both sets of runs, and coverage."""
    table = pd.DataFrame(result.summary)
    tables = []
    for runs, name in ((FRONTIER, "frontier"), (ALL_RUNS, "allruns")):
        here = table.loc[table["runs"] == runs]
        if len(here):
            title = f"Rms error by distance, {runs}"
            svg = backtest_charts.errors(
                here, distances=_distances(here), methods=result.methods, name=name, title=title
            )
            caption = f"{title}; the median over experiments."
            tables.append(Picture(svg=svg, caption=caption, name=name))
    known = table.loc[(table["runs"] == ALL_RUNS) & table["coverage"].notna()]
    if len(known):
        ends = known["coverage_interval"].tolist()
        known = known.assign(low=[e[0] for e in ends], high=[e[1] for e in ends])
        methods = [m for m in result.methods if m in set(known["method"])]
        svg = backtest_charts.coverage(
            known, distances=_distances(known), methods=methods, level=result.settings["level"]
        )
        caption = f"Share of withheld runs inside their interval, {ALL_RUNS}."
        tables.append(Picture(svg=svg, caption=caption, name="coverage"))
    return tables


def percent(value: float | None) -> str:
    """Write a relative error; a dash for None."""
    return "–" if value is None else f"{value:.2%}"


def share(row: dict[str, Any]) -> str:
    """Write a coverage with its interval; a dash for a method without intervals."""
    if row["coverage"] is None:
        return "–"
    low, high = row["coverage_interval"]
    return f"{row['coverage']:.0%} [{low:.0%}, {high:.0%}]"


def _distances(table: pd.DataFrame) -> list[str]:
    return [name for name in BINS if name in set(table["distance"])]
