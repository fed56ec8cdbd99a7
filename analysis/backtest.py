"""Backtest a form: withhold the largest budgets, refit, predict them, at several distances.

    python -m analysis.backtest runs=table.csv [form=chinchilla|...|all] [out=backtest.json]
    python -m analysis.backtest runs=table.csv where="group == 'x'" columns.loss=val plot=true
    python -m analysis.backtest runs=FOLDER [forms=[chinchilla,all]] [out=backtest.html]

The command prints one row for each cutoff in C, and writes the rows and their inputs to
backtest.json. Errors are logs of predicted over measured loss. `covered` is the share of withheld
runs inside the intervals of the fit below the cutoff, which hold its parameters and the scatter of
runs only. Where that share is under the nominal level, the hindcast term of a law's own prediction
intervals makes up for it (`analysis.validate.hindcast`). `form=all` ranks the forms first and shows
the rows of their average.

A FOLDER of tables is no study: it holds CSV, JSONL or Parquet files and no records. Every table,
and each value of its column `group`, is one experiment. The command compares our laws with other
methods on the runs that are withheld, and writes one page and backtest.json beside it.
"""

import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

from analysis.backtesting.baselines import GRID_SIZE
from analysis.backtesting.experiments import holds_tables
from analysis.backtesting.folder import backtest_folder, refuse_options_of_one_table
from analysis.backtesting.scores import Settings
from analysis.estimation.checks import needed_columns, prepare_rows, restrict_to_frontier
from analysis.estimation.options import ObjectiveConfig
from analysis.estimation.points import best_of_points
from analysis.estimation.withheld import backtest, refuse_untestable
from analysis.forms import form_named
from analysis.runs.columns import Columns
from analysis.runs.table import load_runs
from analysis.solve.objective import Objective
from analysis.solve.progress import progress_on_stderr
from scaling.app.application import start, store
from scaling.app.choices import wrote
from scaling.schema import COUNTS, LEVEL, MOST, OneOf, Range, Seed, checked


@dataclass(kw_only=True)
@checked()
class BacktestConfig:
    """The runs, the form that is tested on them, and what is written."""

    runs: str = ""
    """Folder of a study, a table of runs (CSV, JSONL or Parquet), or a folder of tables."""
    form: str = "chinchilla"
    """Form of the law; all ranks the forms first and tests the best."""
    count: Annotated[str, OneOf(*COUNTS)] = "total"
    """Which parameters N counts; tables from outside have one count."""
    where: str | None = None
    """Condition over the table's columns that a run must meet, as "group == 'x'"; null takes every
    run."""
    within: Annotated[float, Range(0, MOST, above=True)] | None = None
    """Keep runs whose loss is within this share of the frontier's, as 0.1; null keeps all."""
    out: str | None = None
    """File to write; null is backtest.json beside the study, or here for a table. Of a folder of
    tables it is the page, backtest.html here, with a file of that name and .json beside it."""
    plot: bool = False
    """Write a figure beside it too."""
    level: Annotated[float, LEVEL] = 0.9
    """Level of the intervals that withheld runs are compared with."""
    seed: Seed = 0
    """Seed of the resamples."""
    fixed: dict[str, Annotated[float, Range(-MOST, MOST)]] = field(default_factory=dict)
    """Parameters that are held at a value instead of fitted, as +fixed.alpha=0.35."""
    forms: list[str] = field(default_factory=lambda: ["chinchilla", "all"])
    """Forms of our law that are compared over a folder of tables; form= is for one table."""
    cutoffs: Annotated[int, Range(1, 5)] = 3
    """Cutoffs in C of each experiment of a folder, from the nearest to the farthest."""
    starts: Annotated[int, Range(1, GRID_SIZE)] = 100
    """Points of the published grid that L-BFGS descends from, those of least objective first."""
    processes: Annotated[int, Range(0, 4096, note="0 is one a core")] = 0
    """Processes that backtest a folder at the same time; 0 is one a core."""
    columns: Columns = field(default_factory=Columns)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)

    def __post_init__(self) -> None:
        """Refuse options that no table could make right, before anything is read."""
        if not self.runs:
            raise ValueError("runs is not set; give a study or a table, as runs=runs/quick")
        for form in (self.form, *self.forms):
            refuse_untestable(form)
        if not self.forms:
            raise ValueError("forms=[] names no form; give some, as forms=[chinchilla,all]")


def main(config: BacktestConfig) -> None:
    """Read, backtest, write backtest.json (and its figure), then print the table."""
    source = Path(config.runs)
    if holds_tables(source):
        compare_on_folder(config, source)
        return
    runs = load_runs(
        source,
        count=config.count,
        where=config.where,
        columns=config.columns,
        needed=needed_columns(config.form),
    )
    runs = best_of_points(runs, config.form)
    result = backtest(
        runs,
        config.form,
        objective=config.objective.chosen(),
        weighting=config.objective.weighting,
        fixed=config.fixed,
        within=config.within,
        level=config.level,
        seed=config.seed,
        on_progress=progress_on_stderr(),
    )
    beside = source / "backtest.json" if source.is_dir() else Path("backtest.json")
    paths = [result.write(config.out or beside)]
    if config.plot:
        from analysis.page.figure_files import write_backtest_figure  # matplotlib

        form = form_named(result.form)
        table = prepare_rows(runs.table, form, Objective(), "none")
        table = restrict_to_frontier(table, form, config.within)
        paths += write_backtest_figure(table, form, asdict(result), paths[0])
    ends = wrote(paths, here=not config.out and not source.is_dir())
    sys.stdout.write(f"{result.summary()}\n\n{ends}\n")


def compare_on_folder(config: BacktestConfig, folder: Path) -> None:
    """Backtest a folder of tables, write its page and numbers, then print the errors."""
    refuse_options_of_one_table(config)
    forms = tuple(dict.fromkeys(config.forms))
    of_ours = {"forms": forms, "level": config.level, "seed": config.seed}
    result = backtest_folder(
        folder,
        Settings(starts=config.starts, **of_ours),
        most_cutoffs=config.cutoffs,
        columns=config.columns,
        where=config.where,
        processes=config.processes,
        on_progress=progress_on_stderr(),
    )
    from analysis.page.backtest_page import write_page  # matplotlib

    ends = wrote(write_page(result, config.out or "backtest.html"), here=not config.out)
    sys.stdout.write(f"{result.text()}\n\n{ends}\n")


store("backtest", BacktestConfig)

if __name__ == "__main__":
    start(main, config_name="backtest", schema=BacktestConfig)
