"""An alarm, and how its sentence names rows of the table."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.forms import Array

SHOWN_ROWS = 5  # rows that a sentence names before it ends in `..`


@dataclass(frozen=True, kw_only=True)
class Alarm:
    """A code for programs and one sentence for readers."""

    code: str
    """Name of the alarm, for programs; docs/reference/alarms.md lists all."""
    sentence: str
    """What is wrong, with the numbers, and what to do."""


def named_rows(table: pd.DataFrame, rows: Array, *, most: int = SHOWN_ROWS) -> str:
    """Name some rows, given as a mask or as positions: `rows 3, 7, ..`.

    Rows are those of the input file before `where=`, counted from 1 without the header. For a study
    the runs are named instead: `runs 1f0a, ..`.
    """
    positions = np.flatnonzero(rows) if rows.dtype == bool else rows
    from_file = "row" in table or "run" not in table
    names = table["row"].to_numpy() if "row" in table else np.arange(1, len(table) + 1)
    names = names if from_file else table["run"].to_numpy()
    what = ("row" if from_file else "run") + ("s" if len(positions) > 1 else "")
    more = ", .." if len(positions) > most else ""
    return f"{what} {', '.join(str(names[i]) for i in positions[:most])}{more}"
