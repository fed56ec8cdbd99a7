"""Read runs into one table, from a study's records or from any CSV, Parquet or JSONL.

Columns afterwards: params (N, under the chosen count), tokens (D), loss (L, nats per token), flops
(C; 6ND where the source has none), run, and where the source has them trunk, group, weight, seed,
unique_tokens, experts (1: dense), lr, batch, curve (path of metrics.jsonl), and those of
post-training (examples, pairs, epochs, kl, reward, error). Which must be there is for the form to
say, and of a study which stage: pretraining unless the form is a law of another. Of that stage the
cells that are done enter, and of pretraining the study's confirmation runs (LAWS 8, step 9); failed
ones are listed in `dropped` with the reason. With `points=updates` a PPO run is a row for every
update at which held-out prompts were scored, not one where it ended. Every mistake is one sentence.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.alarms.loss_units import NATS
from analysis.runs.cells import held_settings, study_rows
from analysis.runs.columns import NEEDED, Columns, canonical, loss_unit_of
from analysis.runs.condition import rows
from analysis.runs.files import read_file
from scaling.app.choices import check_choice_of
from scaling.schema import (
    COUNTS,
)

log = logging.getLogger(__name__)

POINTS = ("records", "updates")


@dataclass(frozen=True, kw_only=True)
class Runs:
    """A table of runs (one row each), what was left out and why, and what it was read from."""

    table: pd.DataFrame
    dropped: list[dict[str, str]] = field(default_factory=list)
    inputs: dict[str, Any] = field(default_factory=dict)
    count: str = "total"

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
) -> Runs:
    """Read a study's folder, a file, or a data frame into checked `Runs`.

    `where` is a condition over the source's own columns (`analysis.runs.condition`); `needed` names
    the columns that must be there, `stage` the cells of a study that are meant, `points` what a row
    of them is. Raises ValueError or FileNotFoundError with one sentence.
    """
    check_choice_of("count", count, COUNTS)
    check_points(points, stage)
    columns = columns or Columns()
    dropped: list[dict[str, str]] = []
    if isinstance(source, pd.DataFrame):
        raw, inputs = source.copy(), {"source": "data frame"}
    elif Path(source).is_dir():
        raw, dropped, inputs = study_rows(Path(source), count, stage, points)
    else:
        raw, inputs = read_file(Path(source))
    if where:
        raw, inputs = _filter(raw, where), {**inputs, "where": where}
    if stage != "pretrain" and "lr_fraction" in raw:
        inputs = {**inputs, "settings": held_settings(raw)}
    table = canonical(raw, columns, needed=needed)
    renamed = {k: v for k, v in columns.names().items() if k != v}
    inputs |= {"columns": renamed} if renamed else {}
    if "loss" in table and (unit := loss_unit_of(columns)) != NATS:
        read = {"column": columns.loss, "unit": unit, "stated": bool(columns.loss_unit)}
        inputs |= {"loss_unit": read}
    return Runs(table=table, dropped=dropped, inputs=inputs, count=count)


def check_points(points: str, stage: str) -> None:
    """Refuse unknown points, and updates of a stage whose law is not one of its course."""
    if points not in POINTS or (points == "updates" and stage != "ppo"):
        raise ValueError(
            f"points={points} of stage {stage} is not known; choose records, or updates for a form"
            " of PPO"
        )


def _filter(raw: pd.DataFrame, where: str) -> pd.DataFrame:
    met = rows(raw, where)
    if not met.any():
        names = ", ".join(map(str, raw.columns))
        raise ValueError(f"where={where} keeps none of {len(raw)} rows; columns are {names}")
    return raw.loc[met]
