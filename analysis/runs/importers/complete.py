"""What a form needs and logs do not say: asked for, or the run is left out."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from analysis.runs.columns import NUMBERS, Columns
from analysis.runs.importers.logged_run import quantity

ASKED = {  # what gives a column that logs do not have, beside a CSV
    "tokens": "logs.tokens_per_step=N where steps are logged, ",
    "batch": "logs.tokens_per_step=N, ",
}


def complete(
    raw: pd.DataFrame,
    columns: Columns,
    needed: Sequence[str],
    dropped: Sequence[Mapping[str, str]],
    inputs: Mapping[str, Any],
) -> tuple[pd.DataFrame, list[dict[str, str]]]:
    """Return the rows that have what is needed, and all that are left out.

    raw: rows of logs, whose index is then the runs' names
    columns: what our columns are called there
    needed: columns that must be there
    dropped: runs that were left out before
    inputs: of the rows; `logs` names the tool

    Texts as `125M` become numbers. Raises ValueError, which says how to give it, for a column that
    no run has.
    """
    left_out = [dict(one) for one in dropped]
    names = {n: s for n, s in columns.names().items() if n in NUMBERS and s in raw}
    numbers = {s: raw[s].map(_number) for s in dict.fromkeys(names.values())}
    raw = raw.assign(**numbers)
    raw.index = pd.Index(raw["run"].tolist())  # runs are named, not counted
    for name in needed:
        source = getattr(columns, name, name)
        values = raw[source] if source in raw else pd.Series(index=raw.index, dtype=float)
        has = values.notna().to_numpy()
        if not bool(has.any()):
            raise ValueError(_asking(name, source, inputs["logs"]["tool"]))
        why = f"its logs have no {source}"
        left_out += [{"run": run, "why": why} for run in raw.loc[~has, "run"]]
        raw = raw.loc[has]
    return raw, left_out


def _number(value: Any) -> Any:
    """Return a text that stands for a number as one; all else as it is."""
    number = quantity(value) if isinstance(value, str) else None
    return value if number is None else number


def _asking(name: str, source: str, tool: str) -> str:
    what = name if source == name else f"{source} for {name}"
    return (
        f"the {tool} logs have no {what}; give {ASKED.get(name, '')}logs.beside=FILE.csv with"
        f" columns run and {name}, or name the metric or setting that holds it, as"
        f" columns.{name}=NAME (scaling table lists all)"
    )
