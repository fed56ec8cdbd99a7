"""The arms of a comparison: studies, or the groups of one table by a column.

An arm is named by the last part of its folder or by its value of the column. The reference comes
first. A point with several settings is reduced to its best one, as a fit does.
"""

import difflib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.alarms.loss_units import unit_of_law
from analysis.comparing.options import CompareConfig
from analysis.estimation.points import best_of_points
from analysis.forms import Array
from analysis.runs.columns import NEEDED
from analysis.runs.condition import rows
from analysis.runs.importers.complete import complete
from analysis.runs.importers.sources import is_study
from analysis.runs.table import Runs, load_runs, read_rows
from scaling.app.choices import check_choice_of
from scaling.schema import Measure, Record, read_records

MOST_ARMS = 100  # values of `by` beyond which the column is a number and no arm


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One arm: its name, its runs, and of a study its folder and records.

    order: rank of each run in time (n,): when it ended, or its place in the table
    raw: the rows of a table as they were read, None for a study
    """

    name: str
    runs: Runs
    order: Array
    folder: str = ""
    records: tuple[Record, ...] = ()
    raw: pd.DataFrame | None = None

    @property
    def seeds(self) -> int:
        """How many seeds the runs have at most at one (N, D)."""
        return int(self.runs.table.groupby(["params", "tokens"]).size().to_numpy().max())


def measure_of(config: CompareConfig) -> Measure:
    """Return which loss of the studies' records is compared."""
    return Measure(target=config.target.test_set, unit=config.unit)


def records_of(folder: str) -> tuple[Record, ...]:
    """Return the done pretraining records of a study; ValueError without one."""
    records = tuple(r for r in read_records(folder) if r.status == "done" and r.stage == "pretrain")
    if not records:
        raise ValueError(f"{folder} has no cell that is done; run the sweep first")
    return records


def study_arms(config: CompareConfig) -> list[Arm]:
    """Read the studies, the reference first; ValueError as `load_runs` raises it."""
    measure, arms = measure_of(config), []
    for folder, name in zip(config.studies, names_of(config.studies), strict=True):
        runs = load_runs(
            folder,
            count=config.count,
            where=config.where,
            columns=config.columns,
            measure=measure,
        )
        runs = best_of_points(runs, config.form)
        records = records_of(folder)
        ended = {r.run_id: r.ended for r in records}
        times = [ended.get(str(run), "") for run in runs.table["run"]]
        order = np.argsort(np.argsort(times, kind="stable"), kind="stable")
        arms.append(Arm(name=name, runs=runs, order=order, folder=folder, records=records))
    return _reference_first(arms, config.reference)


def names_of(folders: Sequence[str]) -> list[str]:
    """Return the last part of each folder, or the whole path where two have one name."""
    last = [Path(f).resolve().name for f in folders]
    twice = {name for name, n in Counter(last).items() if n > 1}
    names = [f if name in twice else name for f, name in zip(folders, last, strict=True)]
    if len(set(names)) < len(names):
        raise ValueError(
            f"studies={list(folders)} names one folder twice; name two different studies"
        )
    return names


def table_arms(config: CompareConfig) -> list[Arm]:
    """Read one table and part it by a column, the reference first.

    Raises ValueError for a column that is not there, rows without a value of it, fewer than two
    values or more than `MOST_ARMS`, and as `load_runs` does for the rows of an arm.
    """
    if is_study(config.runs):
        raise ValueError(
            f"runs={config.runs} is a study, which is one arm; name two studies, as"
            f" studies=[{config.runs},OTHER], or a table"
        )
    raw, dropped, inputs, columns = read_rows(config.runs, config.columns, config.logs)
    if "logs" in inputs:
        raw, dropped = complete(raw, columns, NEEDED, dropped, inputs)
    values = _arm_values(raw, config)
    matching = rows(raw, config.where) if config.where else np.ones(len(raw), dtype=bool)
    arms = []
    for name in dict.fromkeys(values[matching]):
        of_arm = raw.loc[matching & (values == name)]
        try:
            runs = load_runs(of_arm, count=config.count, columns=columns)
        except ValueError as error:
            raise ValueError(f"arm {name}: {error}") from error
        runs = best_of_points(runs, config.form)
        order = np.arange(len(runs.table))
        runs = replace(runs, inputs={**runs.inputs, **inputs})
        arms.append(Arm(name=name, runs=runs, order=order, raw=of_arm))
    if len(arms) < 2:
        kept = f" where {config.where}" if config.where else ""
        raise ValueError(
            f"by={config.by} has one value, {values[0]}{kept}; a comparison needs two or more"
        )
    return _reference_first(arms, config.reference)


def _arm_values(raw: pd.DataFrame, config: CompareConfig) -> Array:
    """Return the arm of each row as text (n,)."""
    if config.by not in raw:
        names = [str(c) for c in raw.columns]
        near = difflib.get_close_matches(config.by, names, n=1, cutoff=0.5)
        hint = f"did you mean by={near[0]}? " if near else ""
        raise ValueError(
            f"the table has no column {config.by!r}; {hint}its columns are {', '.join(names)}"
        )
    column = raw.loc[:, config.by]
    if column.isna().any():
        empty = np.flatnonzero(column.isna())
        raise ValueError(
            f"column {config.by!r} is empty in {len(empty)} of {len(raw)} rows (the first is row"
            f" {empty[0] + 1}); fill it, or leave these rows out of the table"
        )
    values = column.astype(str).to_numpy()
    if len(set(values)) > MOST_ARMS:
        raise ValueError(
            f"by={config.by} has {len(set(values))} values, more than {MOST_ARMS} arms; name the"
            " column that tells corpora or recipes apart"
        )
    return values


def _reference_first(arms: list[Arm], reference: str) -> list[Arm]:
    if not reference:
        return arms
    check_choice_of("reference", reference, [arm.name for arm in arms])
    return sorted(arms, key=lambda arm: arm.name != reference)


def unit_of(config: CompareConfig, arms: Sequence[Arm]) -> str:
    """Return the unit of the losses: of a table, that of its column."""
    return config.unit if config.studies else unit_of_law(arms[0].runs.inputs)
