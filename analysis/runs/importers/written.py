"""The table of logs as a CSV, and the lines that say what was read and what is missing."""

from pathlib import Path

import pandas as pd

from analysis.alarms.loss_units import unit_of_name
from analysis.alarms.of_logs import log_alarms
from analysis.runs.columns import NEEDED, Columns
from analysis.runs.importers.options import LogsConfig
from analysis.runs.importers.rows import Table
from analysis.runs.importers.sources import read_curves, read_runs
from scaling.schema import write_text

SHOWN_RUNS = 20  # runs that were left out, a line each, before `..`


def write_runs(
    source: str, out: str | Path, *, columns: Columns, logs: LogsConfig
) -> tuple[Table, list[str]]:
    """Write a row a run; return the table and the lines to print.

    source: logs
    out: the CSV; columns of N, D and the loss are there even where the logs do not say them
    columns: a `loss` other than its default names the metric that is read
    logs: what the logs do not say
    """
    table, inputs = read_runs(source, columns=columns, logs=logs)
    loss = table.loss or "loss"
    rows = table.rows.copy()
    front = ["run", "params", "tokens", loss]
    for name in front:
        if name not in rows:
            rows[name] = pd.NA
    rows = rows.loc[:, [*front, *(c for c in rows if c not in front)]]
    write_text(out, rows.to_csv(index=False))
    tool = inputs["logs"]["tool"]
    count = "1 run" if len(rows) == 1 else f"{len(rows)} runs"
    lines = [f"{count} of {source} (logs of {tool}), {len(table.left_out)} left out"]
    lines += [f"  loss: {table.loss}, its last value"] if table.loss else []
    lines += [f"  {note}" for note in table.notes]
    lines += [f"  missing: {text}" for text in _missing(rows, loss)]
    lines += [f"! {a.code}: {a.sentence}" for a in log_alarms(inputs, [])]
    lines += [f"  left out: {one['run']}: {one['why']}" for one in table.left_out[:SHOWN_RUNS]]
    lines += ["  .."] if len(table.left_out) > SHOWN_RUNS else []
    return table, lines


def write_courses(
    source: str, out: str | Path, *, columns: Columns, logs: LogsConfig
) -> tuple[str, list[str]]:
    """Write the curves of the runs (schedule, step, lr, loss); return the unit and the lines.

    source, out, columns, logs: as of `write_runs`
    """
    curves = read_curves(source, columns=columns, logs=logs)
    write_text(out, curves.to_csv(index=False))
    loss, runs = curves.attrs["loss"], curves["schedule"].nunique()
    lines = [f"{len(curves)} points of {runs} runs of {source}", f"  loss: {loss}"]
    return columns.loss_unit or unit_of_name(loss), lines


def _missing(rows: pd.DataFrame, loss: str) -> list[str]:
    """Return a text for each needed column that some runs lack."""
    texts = []
    for name in (*NEEDED[:2], loss):
        lacking = rows["run"][rows[name].isna()]
        if len(lacking):
            which = "all" if len(lacking) == len(rows) else ", ".join(map(str, lacking[:3]))
            texts.append(f"{name} of {len(lacking)} runs ({which})")
    return texts
