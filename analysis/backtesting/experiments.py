"""The experiments of a folder of tables: a table, or each value of its column `group`."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from analysis.backtesting.splits import splits
from analysis.forms import column
from analysis.runs.columns import Columns
from analysis.runs.table import load_runs
from scaling.schema.safety import check_listable

SUFFIXES = (".csv", ".jsonl", ".parquet")
RECORDS = "*/record.json"  # what makes a folder a study
JOBS = "jobs.jsonl"  # what a study has before its first record


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Runs that one law may hold for.

    file: name of the table
    name: the file, and the group where the table has several
    table: the runs, under our column names
    cutoffs: values of C above which runs are withheld, from nearest to farthest
    """

    file: str
    name: str
    table: pd.DataFrame
    cutoffs: tuple[float, ...]


def holds_tables(folder: Path) -> bool:
    """Say whether a folder holds tables and is no study."""
    if not folder.is_dir() or any(folder.glob(RECORDS)) or (folder / JOBS).exists():
        return False
    return bool(tables_of(folder))


def tables_of(folder: Path) -> list[Path]:
    """Return the tables of a folder by name; those of its sub-folders are not read."""
    paths = check_listable(folder).iterdir()
    return sorted(p for p in paths if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))


def experiments_of(
    folder: Path,
    *,
    form: str,
    most_cutoffs: int,
    columns: Columns | None = None,
    where: str | None = None,
) -> tuple[list[Experiment], list[dict[str, str]]]:
    """Return the experiments of a folder, and what was left out: {"file", "why"}.

    folder: of the tables
    form: of our law with fewest needs, whose parameters say where runs can be withheld
    most_cutoffs: of an experiment
    columns: what our columns are called, in every table
    where: condition that a run must meet, in every table

    Raises ValueError where no table can be used; the sentence names the first reason.
    """
    experiments: list[Experiment] = []
    left_out: list[dict[str, str]] = []
    for path in tables_of(folder):
        try:
            table = load_runs(path, columns=columns, where=where).table
        except (ValueError, OSError) as error:
            left_out.append({"file": path.name, "why": " ".join(str(error).split())})
            continue
        for name, rows in _groups(path.name, table):
            flops = column(rows, "flops")
            cutoffs = tuple(splits(rows, flops, form, most_cutoffs))
            if cutoffs:
                experiments.append(
                    Experiment(file=path.name, name=name, table=rows, cutoffs=cutoffs)
                )
            else:
                span = flops.max() / flops.min()
                why = f"{len(rows)} runs span x{span:.3g} in C, too few to withhold a budget"
                left_out.append({"file": name, "why": why})
    if not experiments:
        reason = f"; {left_out[0]['file']}: {left_out[0]['why']}" if left_out else ""
        raise ValueError(f"no table of {folder} can be backtested{reason}")
    return experiments, left_out


def _groups(file: str, table: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Split a table by its column `group`; rows without a group are one experiment."""
    parts = list(table.groupby("group", dropna=False)) if "group" in table else []
    if len(parts) < 2:
        return [(file, table)]
    return [(f"{file}: {name}", rows.reset_index(drop=True)) for name, rows in parts]
