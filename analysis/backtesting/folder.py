"""The backtest of a folder of tables: all experiments and cutoffs, on several processes."""

import os
from collections.abc import Iterator
from concurrent.futures import as_completed
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from analysis.backtesting.chinchilla_package import MISSING, is_installed
from analysis.backtesting.experiments import Experiment, experiments_of, tables_of
from analysis.backtesting.scores import PACKAGE, Settings, rows_of, score
from analysis.backtesting.summary import by_experiment, summary
from analysis.runs.columns import Columns
from analysis.solve.progress import OnProgress, no_progress
from scaling.app.process_pool import process_pool
from scaling.schema import code_version, sha256_file, write_json

SCHEMA = 1
KIND = "folder"  # tells backtest.json of a folder from that of one table
FEWEST_NEEDS = "chinchilla"  # the form whose parameters say where runs can be withheld
OF_ONE_TABLE = ("form", "count", "within", "plot", "fixed", "objective")  # settings
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True, kw_only=True)
class FolderBacktest:
    """The fields of backtest.json of a folder.

    settings: forms, starts, level and seed
    methods: names of the methods, in the order that they are shown in
    absent: {method: why} of methods that are not compared
    summary: `analysis.backtesting.summary.summary`
    experiments: `analysis.backtesting.summary.by_experiment`
    usable: {method: [usable, fitted]} laws of ours; the others predict all the same
    left_out: {"file", "why"} of tables and experiments that could not be used
    splits: `analysis.backtesting.scores.score` of each experiment and cutoff
    inputs: the folder, and the sha256 of each table
    """

    settings: dict[str, Any]
    methods: list[str]
    absent: dict[str, str]
    summary: list[dict[str, Any]]
    experiments: list[dict[str, Any]]
    usable: dict[str, list[int]]
    left_out: list[dict[str, str]]
    splits: list[dict[str, Any]]
    inputs: dict[str, Any]
    code: dict[str, Any] = field(default_factory=code_version)
    kind: str = KIND
    schema: int = SCHEMA

    def write(self, path: str | Path) -> Path:
        """Write backtest.json atomically, numbers unrounded."""
        values = asdict(self)
        return write_json(path, {"schema": values.pop("schema"), **values})

    def text(self) -> str:
        """Return the errors as text of at most 100 columns."""
        lines = [
            f"{len(self.experiments)} experiments, {len(self.splits)} cutoffs",
            f"{'':<46}{'runs':>7}{'rms':>9}{'median':>9}{'of tables':>11}{'inside':>8}",
        ]
        group = ""
        for row in self.summary:
            if group != (group := f"{row['runs']}, {row['distance']}"):
                lines.append(group)
            inside = "-" if row["coverage"] is None else f"{row['coverage']:.0%}"
            lines.append(
                f"  {row['method'][:42]:<44}{row['n_runs']:>7}{row['rms']:>9.2%}"
                f"{row['median']:>9.2%}{row['median_rms']:>11.2%}{inside:>8}"
            )
        lines += [f"left out: {row['file']}: {row['why']}" for row in self.left_out]
        return "\n".join(lines)


def refuse_options_of_one_table(config: Any) -> None:
    """Refuse settings of scaling backtest that a folder's backtest does not read.

    config: the dataclass of the command's settings
    """
    default = type(config)(runs=config.runs)
    unsuitable = [n for n in OF_ONE_TABLE if getattr(config, n) != getattr(default, n)]
    if unsuitable:
        raise ValueError(
            f"{', '.join(unsuitable)} is for one study or table; for a folder of tables give"
            " forms=, cutoffs=, starts=, level=, seed=, where= or columns="
        )


def backtest_folder(
    folder: str | Path,
    settings: Settings,
    *,
    most_cutoffs: int = 3,
    columns: Columns | None = None,
    where: str | None = None,
    processes: int = 0,
    on_progress: OnProgress = no_progress,
) -> FolderBacktest:
    """Withhold the largest budgets of every table of a folder, and let each method predict them.

    folder: of CSV, JSONL and Parquet tables
    settings: the methods
    most_cutoffs: of an experiment, from the nearest to the farthest that can be tested
    columns: what our columns are called, in every table
    where: condition that a run must meet, in every table
    processes: at a time; 0 is one a core
    on_progress: takes (stage, done, total)

    Raises ValueError where no table of the folder can be used.
    """
    folder = Path(folder)
    options = {"form": FEWEST_NEEDS, "most_cutoffs": most_cutoffs}
    experiments, left_out = experiments_of(folder, columns=columns, where=where, **options)
    tasks = [(e, cutoff) for e in experiments for cutoff in e.cutoffs]
    splits = _scored(tasks, settings, processes or os.cpu_count() or 1, on_progress)
    rows, methods = rows_of(splits), settings.methods
    return FolderBacktest(
        settings=asdict(settings) | {"most_cutoffs": most_cutoffs},
        methods=list(methods),
        absent={} if is_installed() else {PACKAGE: MISSING},
        summary=summary(rows, methods),
        experiments=by_experiment(rows, methods),
        usable=_usable(splits),
        left_out=left_out,
        splits=splits,
        inputs={
            "folder": folder.as_posix(),
            "sha256": {path.name: sha256_file(path) for path in tables_of(folder)},
            **({"where": where} if where else {}),
        },
    )


def _scored(
    tasks: list[tuple[Experiment, float]],
    settings: Settings,
    processes: int,
    on_progress: OnProgress,
) -> list[dict[str, Any]]:
    """Score all tasks, and return the results in their order."""
    results: dict[int, dict[str, Any]] = {}
    on_progress("backtests", 0, len(tasks))
    for i, result in _results(tasks, settings, min(processes, len(tasks))):
        results[i] = result
        on_progress("backtests", len(results), len(tasks))
    return [results[i] for i in range(len(tasks))]


def _results(
    tasks: list[tuple[Experiment, float]], settings: Settings, processes: int
) -> Iterator[tuple[int, dict[str, Any]]]:
    if processes == 1:
        yield from ((i, score(*task, settings)) for i, task in enumerate(tasks))
        return
    with process_pool(processes, dict.fromkeys(THREADS, "1")) as pool:
        futures = {pool.submit(score, *task, settings): i for i, task in enumerate(tasks)}
        for future in as_completed(futures):
            yield futures[future], future.result()


def _usable(splits: list[dict[str, Any]]) -> dict[str, list[int]]:
    """Count the usable laws of each method that says whether its law is."""
    said: dict[str, list[bool]] = {}
    for split in splits:
        for name, answer in split["methods"].items():
            if "usable" in answer:
                said.setdefault(name, []).append(answer["usable"])
    return {name: [sum(flags), len(flags)] for name, flags in said.items()}
