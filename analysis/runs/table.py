"""Read runs into one table, from a study, any CSV, Parquet or JSONL, or the logs of another tool.

The table has the columns params (N, under the chosen count), tokens (D), loss (L, nats per token),
flops (C; 6ND where the source has none) and run. Where the source has them it also has trunk,
group, weight, seed, unique_tokens, experts (1: dense), lr, batch, at_tokens, curve (path of
metrics.jsonl), curve_factor (of its losses, for another unit), and for post-training examples,
pairs, epochs, kl, reward, error; other settings of training stand under
`analysis.runs.setting_columns.PREFIX` and their own name. The form says which columns must be
there. From a study come the done cells of one stage; for pretraining also its confirmation runs
(LAWS 8, step 9). `dropped` lists the other cells with the reason. Every mistake is one sentence.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.alarms.loss_units import NATS
from analysis.forms import column
from analysis.forms.token_flops import TokenFlops
from analysis.runs.cells import refuse_several_texts, stage_settings, study_rows
from analysis.runs.columns import NEEDED, Columns, canonical, loss_unit_of
from analysis.runs.condition import as_column, rows
from analysis.runs.example import EXAMPLE, TABLE, example_or
from analysis.runs.files import read_file
from analysis.runs.importers.complete import complete
from analysis.runs.importers.options import LogsConfig
from analysis.runs.importers.sources import is_logs, is_study, read_runs
from analysis.runs.replicates import Replicates
from scaling.app.choices import check_choice_of
from scaling.schema import COUNTS, NATS_PER_TOKEN, Measure

log = logging.getLogger(__name__)

EPOCHS_ROUNDING = 0.02  # relative error of a column of passes that was written in round numbers
MOST_WARNED = 20  # runs that were left out, a line of the log each; law.json has all
POINTS = ("records", "updates")  # a row of PPO: the run's end, or an update that was scored


@dataclass(frozen=True, kw_only=True)
class Runs:
    """A table of runs, and where it comes from.

    table: a run a row, under our column names
    dropped: [{"run", "why"}] of cells that were left out
    inputs: the source, its sha256, and the options of reading, as in law.json
    count: how N is counted
    replicates: what the rows were reduced from, None where each row of the source is still there
    token_flops: FLOPs per token by N of a study's shapes, None for a table, which has no shapes
    """

    table: pd.DataFrame
    dropped: list[dict[str, str]] = field(default_factory=list)
    inputs: dict[str, Any] = field(default_factory=dict)
    count: str = "total"
    replicates: Replicates | None = None
    token_flops: TokenFlops | None = None

    def __len__(self) -> int:
        """Count the runs."""
        return len(self.table)


def load_runs(
    source: str | Path | pd.DataFrame,
    *,
    count: str = "total",
    where: str | None = None,
    columns: Columns | None = None,
    needed: Sequence[str] = NEEDED,
    stage: str = "pretrain",
    points: str = "records",
    measure: Measure | None = None,
    context: float | None = None,
    logs: LogsConfig | None = None,
) -> Runs:
    """Read a study's folder, a file, logs, or a data frame into checked `Runs`.

    source: folder of a study, path of a CSV, Parquet or JSONL file, logs of another tool
        (`analysis.runs.importers.sources`), a data frame, or `example` for the table that comes
        with the package
    count: how N is counted in a study (`scaling.schema.COUNTS`); a table has one column of N
    where: condition over the source's own columns (`analysis.runs.condition`)
    columns: what our columns are called in the source; by default the same
    needed: columns that must be there; by default those of a law of pretraining
    stage: cells of a study to read: pretrain, sft, reward or ppo
    points: `records` for a row where each run ended, `updates` for a row of PPO at every update
        at which held-out prompts were scored
    measure: which loss of a study's cells is meant; None for the test loss in nats per token
    context: tokens of a sequence, for a table whose column batch_sequences counts sequences
    logs: what the logs of another tool do not say; None for nothing

    Raises FileNotFoundError for a source that is not there, and ValueError in one sentence for a
    source that cannot be read, a condition that no row meets, a missing column or a value that is
    no number.
    """
    check_choice_of("count", count, COUNTS)
    check_points(points, stage)
    measure, source = measure or Measure(), example_or(source)
    if not measure.is_default:
        columns = _measured_columns(source, columns, stage, measure)
    columns = columns or Columns()
    of_logs = not isinstance(source, pd.DataFrame) and is_logs(source)
    of_study = not isinstance(source, pd.DataFrame) and is_study(source)
    token_flops = None
    if not isinstance(source, pd.DataFrame) and is_study(source):
        raw, dropped, inputs, token_flops = study_rows(
            Path(source), count, stage, points, measure, branches="at_tokens" in needed
        )
    else:
        raw, dropped, inputs, columns = read_rows(source, columns, logs)
    if where:
        raw, inputs = _filter(raw, where), {**inputs, "where": where}
    if of_study:
        raw = refuse_several_texts(raw, str(source))
    if of_logs:
        raw, dropped = complete(raw, columns, needed, dropped, inputs)
    if stage != "pretrain" and "lr_fraction" in raw:
        inputs = {**inputs, "settings": stage_settings(raw)}
    table = canonical(raw, columns, needed=needed, context=context)
    if passes := epochs_column(raw, table):
        inputs = {**inputs, "epochs_column": passes}
    renamed = {k: v for k, v in columns.names().items() if k != v}
    inputs |= {"columns": renamed} if renamed else {}
    inputs |= {"context": context} if context is not None else {}
    if "loss" in table and (unit := loss_unit_of(columns)) != NATS:
        reading = {"column": columns.loss, "unit": unit, "stated": bool(columns.loss_unit)}
        inputs |= {"loss_unit": reading}
    return Runs(table=table, dropped=dropped, inputs=inputs, count=count, token_flops=token_flops)


def read_rows(
    source: str | Path | pd.DataFrame,
    columns: Columns | None = None,
    logs: LogsConfig | None = None,
) -> tuple[pd.DataFrame, list[dict[str, str]], dict[str, Any], Columns]:
    """Return the rows of a source as they are there, what was left out, `inputs`, and the columns.

    source: path of a table, logs of another tool, a data frame, or `example`
    columns: what our columns are called there; of logs, the loss that was chosen is filled in
    logs: what the logs do not say
    """
    columns, source = columns or Columns(), example_or(source)
    if isinstance(source, pd.DataFrame):
        return source.copy(), [], {"source": "data frame"}, columns
    if is_logs(source):
        table, inputs = read_runs(source, columns=columns, logs=logs)
        for one in table.left_out[:MOST_WARNED]:
            log.warning("left out: %s: %s", one["run"], one["why"])
        return table.rows, table.left_out, inputs, replace(columns, loss=table.loss or columns.loss)
    raw, inputs = read_file(Path(source))
    return raw, [], inputs | ({"source": EXAMPLE} if source is TABLE else {}), columns


def _measured_columns(
    source: str | Path | pd.DataFrame, columns: Columns | None, stage: str, measure: Measure
) -> Columns:
    """Return the columns with the unit of the loss; ValueError where there are no test sets."""
    if isinstance(source, pd.DataFrame) or not is_study(source):
        raise ValueError(
            f"{measure.settings} is for a study, whose records hold the losses; for a table name"
            " the column, as columns.loss=COLUMN columns.loss_unit=bits_per_byte"
        )
    if stage != "pretrain":
        raise ValueError(f"{measure.settings} is for cells of pretraining, not of stage {stage}")
    unit = "" if measure.unit == NATS_PER_TOKEN else measure.unit
    return replace(columns or Columns(), loss_unit=unit)


def epochs_column(raw: pd.DataFrame, table: pd.DataFrame) -> str | None:
    """Return the source's column of passes, D over unique tokens, as a condition writes it.

    None where no column holds them.

    raw: the source
    table: the same rows under our names
    """
    if not {"tokens", "unique_tokens"} <= set(table):
        return None
    passes = column(table, "tokens") / column(table, "unique_tokens")
    for name in raw.columns:
        values = raw.loc[:, [name]].iloc[:, 0]
        if pd.api.types.is_bool_dtype(values) or not pd.api.types.is_numeric_dtype(values):
            continue
        numbers = values.to_numpy(dtype=float, na_value=np.nan)
        if np.ptp(passes) > 0 and np.allclose(numbers, passes, rtol=EPOCHS_ROUNDING):
            return as_column(str(name)) if "`" not in str(name) else None
    return None


def check_points(points: str, stage: str) -> None:
    """Refuse unknown points, and `updates` for another stage than PPO."""
    if points not in POINTS or (points == "updates" and stage != "ppo"):
        raise ValueError(
            f"points={points} of stage {stage} is not known; choose records, or updates for a form"
            " of PPO"
        )


def _filter(raw: pd.DataFrame, where: str) -> pd.DataFrame:
    matching = rows(raw, where)
    if not matching.any():
        names = ", ".join(map(str, raw.columns))
        raise ValueError(f"where={where} keeps none of {len(raw)} rows; columns are {names}")
    return raw.loc[matching]
