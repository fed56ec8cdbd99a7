"""What an alarm is, and how its sentence names rows of the table."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.forms import Array

SHOWN_ROWS = 5


@dataclass(frozen=True, kw_only=True)
class Alarm:
    """A code for programs and one sentence for readers."""

    code: str
    sentence: str


def named_rows(table: pd.DataFrame, chosen: Array, *, most: int = SHOWN_ROWS) -> str:
    """Name chosen rows, a mask or positions: `rows 3, 7, ..`, or of a study `runs 1f0a, ..`.

    Rows are those of the input file before where=, counted from 1 without the header.
    """
    at = np.flatnonzero(chosen) if chosen.dtype == bool else chosen
    from_file = "row" in table or "run" not in table
    names = table["row"].to_numpy() if "row" in table else np.arange(1, len(table) + 1)
    names = names if from_file else table["run"].to_numpy()
    what = ("row" if from_file else "run") + ("s" if len(at) > 1 else "")
    more = ", .." if len(at) > most else ""
    return f"{what} {', '.join(str(names[i]) for i in at[:most])}{more}"
