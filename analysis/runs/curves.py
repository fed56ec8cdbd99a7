"""Loss curves from a table: a row is one step of one schedule (form=schedule).

The columns are schedule, step, lr and loss. The rate of a row holds from its step to that of the
next. Rows of the warm-up may be there or not: `curve.warmup_steps` and `curve.peak_lr` say what the
table leaves out, and by default the first rows do.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd

from analysis.alarms.loss_units import NATS, convert_loss
from analysis.runs.columns import Columns, loss_unit_of, missing_message, numbers
from analysis.runs.condition import rows
from analysis.runs.example import example_or
from analysis.runs.files import read_file
from analysis.runs.importers.options import LogsConfig
from analysis.runs.importers.sources import is_logs, read_curves
from scaling.curves import Curve, make_curve
from scaling.schema import MOST, Range, checked

NEEDED = ("schedule", "step", "lr", "loss")
MOST_STEPS = 1e12  # a step beyond is none
ONE_PEAK = 1.05  # factor within which curves have one peak rate
RISE = 1.001  # a rate that rises by more than this from row to row is still warming up


@dataclass(kw_only=True)
@checked("curve")
class CurveOptions:
    """The warm-up of the curves of form=schedule."""

    warmup_steps: Annotated[float, Range(0, MOST)] | None = None
    """Steps of the linear warm-up from 0; null takes the first row after which the rate does not
    rise, the earliest of all curves."""
    peak_lr: Annotated[float, Range(0, MOST, above=True)] | None = None
    """Rate at the end of the warm-up; null takes that of the first row after it."""


@dataclass(frozen=True, kw_only=True)
class SizeCurves:
    """The curves of one model size.

    params: N; None for a table, whose curves are of one model
    curves: of the schedules, or of the cells
    """

    params: float | None
    curves: tuple[Curve, ...]


@dataclass(frozen=True, kw_only=True)
class CurveRuns:
    """Curves, and where they come from.

    sizes: the curves of each model size, in order of size
    dropped: [{"run", "why"}] of curves and cells that were left out
    inputs: the source, its sha256, and the options of reading, as in law.json
    """

    sizes: tuple[SizeCurves, ...]
    dropped: list[dict[str, str]] = field(default_factory=list)
    inputs: dict[str, Any] = field(default_factory=dict)


def table_curves(
    source: str | Path | pd.DataFrame,
    *,
    where: str | None = None,
    columns: Columns | None = None,
    options: CurveOptions | None = None,
    logs: LogsConfig | None = None,
) -> CurveRuns:
    """Read the curves of a table, one a schedule.

    source: path of a CSV, Parquet or JSONL file, logs of another tool, or a data frame
    where: condition over the table's columns, which chooses the schedules
    columns: what our columns are called there
    options: the warm-up that the table leaves out
    logs: what the logs of another tool do not say

    Raises ValueError in one sentence for a missing column, a value that is no number, and rows that
    are no curve.
    """
    columns, options = columns or Columns(), options or CurveOptions()
    source = example_or(source)
    if isinstance(source, pd.DataFrame):
        raw, inputs = source.copy(), {"source": "data frame"}
    elif is_logs(source):
        raw, inputs = read_curves(source, columns=columns, logs=logs), {"source": str(source)}
        columns = Columns(loss_unit=columns.loss_unit)  # the reader has named them
    else:
        raw, inputs = read_file(Path(source))
    if where:
        matching = rows(raw, where)
        if not matching.any():
            names = ", ".join(map(str, raw.columns))
            raise ValueError(f"where={where} keeps none of {len(raw)} rows; columns are {names}")
        raw, inputs = raw.loc[matching], {**inputs, "where": where}
    names = {name: getattr(columns, name) for name in NEEDED}
    absent = {name: source for name, source in names.items() if source not in raw}
    if absent:
        raise ValueError(missing_message(absent, list(map(str, raw.columns))))
    table = pd.DataFrame({name: _checked(raw, name, names[name]) for name in NEEDED})
    unit = loss_unit_of(columns)
    if unit != NATS:
        table["loss"] = convert_loss(table["loss"].to_numpy(), unit, columns.loss)
        reading = {"column": columns.loss, "unit": unit, "stated": bool(columns.loss_unit)}
        inputs |= {"loss_unit": reading}
    renamed = {name: source for name, source in names.items() if name != source}
    inputs |= {"columns": renamed} if renamed else {}
    curves, dropped = [], []
    by_name = {str(n): t.sort_values("step") for n, t in table.groupby("schedule", sort=False)}
    options = _with_warmup(by_name, options)
    for name, one in by_name.items():
        curve, early = _curve(name, one, options)
        curves.append(curve)
        if early:
            dropped.append({"run": name, "why": f"{early} rows of its warm-up are left out"})
    return CurveRuns(
        sizes=(SizeCurves(params=None, curves=tuple(curves)),), dropped=dropped, inputs=inputs
    )


def _with_warmup(by_name: dict[str, pd.DataFrame], options: CurveOptions) -> CurveOptions:
    """Return the options with the warm-up of the first rows, where all curves have one peak rate.

    Curves that are logged at other steps then share the earliest end.
    """
    rows = [t.iloc[_end_of_warmup(t["lr"].to_numpy())] for t in by_name.values()]
    peaks = [float(row["lr"]) for row in rows]
    if options.warmup_steps is not None or max(peaks) > ONE_PEAK * min(peaks):
        return options
    return replace(options, warmup_steps=float(min(row["step"] for row in rows)))


def _curve(name: str, table: pd.DataFrame, options: CurveOptions) -> tuple[Curve, int]:
    """Return the curve of a schedule, and how many rows of the warm-up were left out."""
    step, lr = table["step"].to_numpy(), table["lr"].to_numpy()
    end = _end_of_warmup(lr)
    warmup = float(step[end]) if options.warmup_steps is None else options.warmup_steps
    peak = float(lr[end]) if options.peak_lr is None else options.peak_lr
    if not peak > 0:
        raise ValueError(
            f"the first rate of schedule {name} is 0, so its warm-up is not known; set"
            " curve.warmup_steps and curve.peak_lr"
        )
    curve = make_curve(
        step,
        lr,
        table["loss"].to_numpy(),
        warmup_steps=warmup,
        peak_lr=peak,
        name=name,
    )
    return curve, int((step < warmup).sum())


def _end_of_warmup(lr: np.ndarray) -> int:
    """Return the row at which the rate has stopped rising."""
    row = 0
    while row + 1 < len(lr) and lr[row + 1] > RISE * lr[row]:
        row += 1
    return row


def _checked(raw: pd.DataFrame, name: str, source: str) -> np.ndarray:
    """Return a column as text or as numbers; ValueError names the first wrong row."""
    column = raw.loc[:, [source]].iloc[:, 0]
    if name == "schedule":
        if column.isna().any():
            row = int(np.argmax(column.isna().to_numpy())) + 1
            raise ValueError(
                f"column {source!r} is empty in row {row}; name the schedule, or drop the row with"
                " where="
            )
        return column.astype(str).to_numpy()
    values = numbers(column)
    least = 1e-9 if name == "loss" else 0.0
    wrong = ~(np.isfinite(values) & (values >= least) & (values <= MOST_STEPS))
    if wrong.any():
        row = int(np.argmax(wrong))
        above = "above 0" if name == "loss" else "of at least 0"
        raise ValueError(
            f"column {source!r} is not a finite number {above} in {int(wrong.sum())} of"
            f" {len(values)} rows (the first, row {row + 1}, holds {column.iloc[row]}); repair or"
            " drop them with where="
        )
    return values
