"""Forecasts and their outcomes: `runs/forecasts.jsonl`, one line a forecast, never changed.

    {"id": "5f0c..", "study": "quick", "forecast": 3.28, "interval": [3.15, 3.40], "outcome": 3.19}

A line is appended once: the file is locked while its ids are read. Readers drop a line that a
killed process has torn, so that a second attempt appends it again.
"""

import fcntl
import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import NormalDist
from typing import Any

from scaling.schema.files import now, parse_json, read_json, sha256_json
from scaling.schema.measured import NATS_PER_TOKEN, Measure
from scaling.schema.reading import read_as
from scaling.schema.record import Record, Status, read_record

FORECASTS = "forecasts.jsonl"
SCHEMA = 1
CONFIRMING = "-confirmation"  # The confirmation run of a study has the study's name with this.


@dataclass(frozen=True, kw_only=True)
class ForecastScore:
    """One line: a sealed forecast and its outcome, losses in nats/token."""

    schema: int = SCHEMA
    """Version of this layout."""
    id: str
    """sha256 of the sealed forecast; a forecast is scored once."""
    study: str = ""
    """Study whose final run was forecast."""
    run_id: str = ""
    """Id of the run that was scored."""
    forecast: float | None = None
    """Forecast loss, in `unit`."""
    interval: list[float] = field(default_factory=list)
    """Lower and upper end of the prediction interval, in `unit`; empty without one."""
    level: float | None = None
    """Share of outcomes that the interval should hold, as 0.9."""
    outcome: float | None = None
    """Loss that the run reached, in `unit`."""
    outcome_se: float | None = None
    """Standard error of `outcome`, in `unit`."""
    error: float | None = None
    """log(outcome / forecast): about the relative error; positive when the run was worse."""
    z: float | None = None
    """`error` in standard deviations of the forecast; null without an interval."""
    inside: bool | None = None
    """Whether the outcome lies in the interval; null without an interval."""
    extrapolation: float | None = None
    """Compute of the plan over the largest compute that the law was fitted to."""
    flops: float | None = None
    """Compute of the run, in FLOPs."""
    law_sha256: str | None = None
    """sha256 of the law that made the forecast."""
    records_sha256: str | None = None
    """sha256 of the records that the law was fitted to."""
    corpus_sha256: str | None = None
    """sha256 of the corpus of the run."""
    sealed: str | None = None
    """When the forecast was sealed, ISO 8601 in UTC."""
    ended: str | None = None
    """When the run ended, ISO 8601 in UTC."""
    scored: str | None = None
    """When this line was written, ISO 8601 in UTC."""
    target: str = ""
    """Test set of eval.sets that is forecast; empty for the test part."""
    unit: str = NATS_PER_TOKEN
    """Unit of the losses: nats_per_token or bits_per_byte."""


def forecast_score(sealed: dict[str, Any], record: Record, *, study: str) -> dict[str, Any] | None:
    """Return the line of a sealed forecast and its outcome; None where one of them is missing.

    `error` is log(outcome / forecast). `z` is the error in standard deviations: the interval's half
    on the error's side stands for a normal deviation at its level. `z` is None without an interval.
    """
    measure = measure_of(sealed)
    if measure.why_missing(record):
        return None
    record = measure.of(record)
    forecast, outcome, ends = sealed.get("test_loss"), record.test_loss, sealed.get("interval")
    if not forecast or outcome is None or record.status != Status.DONE:
        return None
    error = math.log(outcome / forecast)
    z = inside = None
    if ends and len(ends) == 2 and 0 < ends[0] < forecast < ends[1]:
        z = deviations(forecast, ends, sealed["level"], outcome)
        inside = ends[0] <= outcome <= ends[1]
    score = ForecastScore(
        id=sha256_json(sealed),
        study=study,
        run_id=record.run_id,
        forecast=forecast,
        interval=list(ends or ()),
        level=sealed.get("level"),
        outcome=outcome,
        outcome_se=record.test_loss_se,
        error=error,
        z=z,
        inside=inside,
        extrapolation=sealed.get("extrapolation"),
        flops=record.flops,
        law_sha256=sealed.get("made_from", {}).get("law"),
        records_sha256=sealed.get("made_from", {}).get("records"),
        corpus_sha256=sealed.get("inputs", {}).get("corpus"),
        sealed=sealed.get("sealed"),
        ended=record.ended,
        scored=now(),
        target=measure.target,
        unit=measure.unit,
    )
    return asdict(score)


def measure_of(sealed: dict[str, Any]) -> Measure:
    """Return which loss a sealed forecast is of."""
    return Measure(
        target=str(sealed.get("target", "")), unit=str(sealed.get("unit", NATS_PER_TOKEN))
    )


def deviations(forecast: float, ends: Sequence[float], level: float, outcome: float) -> float:
    """Return log(outcome / forecast) in standard deviations.

    forecast, outcome: losses in nats/token
    ends: the forecast's interval; its half on the error's side stands for a normal deviation
    level: the probability of the interval
    """
    error = math.log(outcome / forecast)
    half = abs(math.log(ends[1 if error > 0 else 0] / forecast))
    return NormalDist().inv_cdf((1 + level) / 2) * error / half


def confirmations(study: str | Path) -> list[tuple[Path, Record, dict[str, Any]]]:
    """Return a study's finished confirmation runs: path and content of record.json, and the score.

    They lie beside the study, in `<study>-confirmation[-2, ..]/final`. The order is by FLOPs.
    """
    study, runs = Path(study), []
    for sealed in study.parent.glob(f"{study.name}{CONFIRMING}*/final/forecast.json"):
        path = sealed.parent / "pretrain" / "record.json"
        record = read_record(path) if path.is_file() else None
        try:
            line = record and forecast_score(
                read_json(sealed), record, study=sealed.parents[1].name
            )
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"{sealed} is no sealed forecast ({error}); plan it again") from error
        if record and line:
            runs.append((path, record, line))
    return sorted(runs, key=lambda run: run[1].flops)


def append_forecast(path: str | Path, line: dict[str, Any]) -> bool:
    """Append a line unless the file holds its `id`; say whether it was appended."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as stream:
        # The lock is released when the stream is closed or the process dies.
        fcntl.flock(stream, fcntl.LOCK_EX)
        stream.seek(0)
        text = stream.read()
        if line["id"] in {other["id"] for other in _lines(text)}:
            return False
        torn = b"\n" if text and not text.endswith(b"\n") else b""
        stream.write(torn + json.dumps(line, allow_nan=False).encode() + b"\n")
        stream.flush()
        os.fsync(stream.fileno())
    return True


def read_forecasts(path: str | Path) -> list[dict[str, Any]]:
    """Read all lines in their order, without torn ones; a missing file is empty.

    A field that an earlier version did not write has its default. ValueError names a line that is
    no score of a forecast.
    """
    path = Path(path)
    fix = "remove its line"
    return [
        asdict(read_as(ForecastScore, line, source=path, noun="forecast", fix=fix, schema=SCHEMA))
        for line in (_lines(path.read_bytes()) if path.is_file() else ())
    ]


def _lines(text: bytes) -> list[dict[str, Any]]:
    lines = []
    for line in text.splitlines():
        try:
            value = parse_json(line)
        except ValueError:  # torn, or cut within a character
            continue
        if isinstance(value, dict) and "id" in value:
            lines.append(value)
    return lines
