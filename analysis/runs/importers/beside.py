"""The CSV beside the logs, `logs.beside`: what the logs do not say, for each run by its name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.runs.files import read_file
from analysis.runs.importers.logged_run import printable, quantity


@dataclass(frozen=True, kw_only=True)
class Beside:
    """Values by run.

    rows: {run: {column: value}}
    columns: all columns but `run`
    """

    rows: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    columns: tuple[str, ...] = ()

    @classmethod
    def read(cls, path: str, runs: Sequence[str]) -> "Beside":
        """Read the CSV; an empty path gives no values.

        path: of a CSV with a column run, which holds names or patterns as `opt-*`
        runs: names of all runs of the logs

        Raises ValueError for no such column, a row that no run is called as, and a run that two
        rows give values for.
        """
        if not path:
            return cls()
        table, _ = read_file(Path(path))
        if "run" not in table:
            raise ValueError(
                f"logs.beside={path} has no column run; its first column is {table.columns[0]!r},"
                " and run must hold the runs' names or patterns as opt-*"
            )
        columns = tuple(str(c) for c in table.columns if c != "run")
        rows: dict[str, dict[str, Any]] = {}
        for number, values in enumerate(table.to_dict("records"), 1):
            pattern = str(values.pop("run"))
            matches = [r for r in runs if r == pattern] or [
                r for r in runs if fnmatchcase(r, pattern)
            ]
            if not matches:
                raise ValueError(
                    f"row {number} of logs.beside={path} is of the run {printable(pattern)!r}, and"
                    f" there is none; runs are {', '.join(sorted(runs)[:4])}"
                )
            twice = next((r for r in matches if r in rows), None)
            if twice:
                raise ValueError(
                    f"two rows of logs.beside={path} are of the run {twice!r}; keep one"
                )
            given = {str(k): _value(v) for k, v in values.items() if not pd.isna(v)}
            rows |= dict.fromkeys(matches, given)
        return cls(rows=rows, columns=columns)

    def of(self, run: str) -> Mapping[str, Any]:
        """Return the values of a run; {} for one that the CSV does not name."""
        return self.rows.get(run, {})


def _value(value: Any) -> Any:
    """Return a text that is no number and no `125M` as text, all else as it stands."""
    if isinstance(value, str):
        return value if quantity(value) is not None else printable(value)
    return value.item() if hasattr(value, "item") else value
