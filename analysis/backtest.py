"""Backtest a form: withhold the largest budgets, refit, predict them, at several distances.

    scaling backtest runs=table.csv [form=chinchilla|...|all] [out=backtest.json]
    scaling backtest runs=table.csv where="group == 'x'" columns.loss=val plot=true
    scaling backtest runs=FOLDER [forms=[chinchilla,all]] [out=backtest.html]

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
from dataclasses import asdict
from pathlib import Path

from analysis.backtesting.experiments import holds_tables
from analysis.backtesting.folder import backtest_folder, refuse_options_of_one_table
from analysis.backtesting.options import BacktestConfig
from analysis.backtesting.scores import Settings
from analysis.estimation.checks import needed_columns, prepare_rows, restrict_to_frontier
from analysis.estimation.points import best_of_points
from analysis.estimation.withheld import backtest
from analysis.forms import form_named
from analysis.runs.importers.sources import is_logs, is_study
from analysis.runs.table import load_runs
from analysis.solve.objective import Objective
from analysis.solve.progress import progress_on_stderr
from scaling.app.application import start, store
from scaling.app.choices import wrote


def main(config: BacktestConfig) -> None:
    """Read, backtest, write backtest.json (and its figure), then print the table."""
    source = Path(config.runs)
    if holds_tables(source) and not is_logs(source):
        compare_on_folder(config, source)
        return
    runs = load_runs(
        source,
        count=config.count,
        where=config.where,
        columns=config.columns,
        needed=needed_columns(config.form),
        logs=config.logs,
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
    beside = source / "backtest.json" if is_study(source) else Path("backtest.json")
    paths = [result.write(config.out or beside)]
    if config.plot:
        from analysis.page.figure_files import write_backtest_figure  # matplotlib

        form = form_named(result.form)
        table = prepare_rows(runs.table, form, Objective(), "none")
        table = restrict_to_frontier(table, form, config.within)
        paths += write_backtest_figure(table, form, asdict(result), paths[0])
    ends = wrote(paths, here=not config.out and not is_study(source))
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
