"""Laws of fine-tuning, reward model and PPO as a report shows them: figures, forecasts, outcomes.

plan.yaml names them (`stage_laws`). A law whose file no longer exists is marked as missing.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from analysis.laws.law import Law
from analysis.number_text import interval, number
from analysis.page.figure_files import LEVEL, target_picture
from analysis.page.gallery import Picture
from analysis.page.tables import Grid, Row
from analysis.planning.plan import Plan
from analysis.runs.columns import Columns
from analysis.runs.table import load_runs
from scaling.schema import Record

NAMES = {"sft": "fine-tuning", "reward": "reward model", "ppo": "PPO"}
REACHED = {"sft": "test_loss", "reward": "test_loss", "ppo": "gold gain"}


@dataclass(frozen=True, kw_only=True)
class StageLaw:
    """A law of a later stage, by the name that the plan has for it; None where it is missing."""

    stage: str
    name: str
    law: Law | None


def stage_laws(paths: Mapping[str, Sequence[str]]) -> list[StageLaw]:
    """Read the laws that the plan names for each stage."""
    laws = []
    for stage, names in paths.items():
        for name in names:
            law = Law.read(name) if Path(name).is_file() else None
            laws.append(StageLaw(stage=stage, name=name, law=law))
    return laws


def law_pictures(laws: list[StageLaw]) -> list[Picture]:
    """Draw each law over the runs that it was fitted to, where these are there."""
    return list(_pictures(laws))


def _pictures(laws: list[StageLaw]) -> Iterator[Picture]:
    for one in laws:
        source = Path(str(one.law.inputs.get("source", ""))) if one.law else Path()
        if one.law is None or not source.exists() or source == Path():
            continue
        runs = load_runs(
            source, count=one.law.count, where=one.law.inputs.get("where"), stage=one.stage,
            points=one.law.inputs.get("points", "records"), needed=(),
            columns=Columns(**one.law.inputs.get("columns", {})),
        )  # fmt: skip
        picture = target_picture(one.law, runs.table, None, level=LEVEL)
        text = f"Law of {NAMES[one.stage]}, {one.name}: {picture.caption}"
        yield Picture(svg=picture.svg, caption=text, name=f"{one.stage}-law")


def law_grid(laws: list[StageLaw]) -> Grid:
    """Return a row a law: form, parameters with intervals, runs, what it warns of."""
    rows: list[Row] = []
    for one in laws:
        if one.law is None:
            rows.append((NAMES[one.stage], one.name, "missing", "–", "–"))
            continue
        ends = (one.law.intervals or {}).get("parameters", {})
        values = ", ".join(
            f"{k} {number(v, 3)} {interval(ends.get(k))}" for k, v in one.law.parameters.items()
        )
        warned = ", ".join(a.code for a in one.law.alarms) or "nothing"
        rows.append((NAMES[one.stage], one.name, values, str(one.law.n_runs), warned))
    columns = ("stage", "law", "parameters", "runs", "alarms")
    return Grid(
        name="Laws of the later stages", columns=columns, rows=rows, numeric=(3,), wide=(2, 4)
    )


def forecast_grid(plan: Plan | None, stages: dict[str, Record]) -> Grid:
    """Return a row a stage that a law set: forecast, interval, what was reached, whether inside."""
    rows: list[Row] = []
    for stage, name in NAMES.items():
        block = getattr(plan, stage) if plan else None
        if block is None or not block.forecast_level:
            continue
        forecast = block.forecast_gain if stage == "ppo" else block.forecast_loss
        if forecast is None:
            continue
        ends, reached = block.forecast_interval or (), _reached(stage, stages.get(stage))
        inside = "–"
        if reached is not None and len(ends) == 2:
            inside = "inside" if ends[0] <= reached <= ends[1] else "OUTSIDE"
        rows.append(
            (
                f"{name}: {REACHED[stage].replace('_', ' ')}",
                number(forecast, 4),
                interval(ends) if len(ends) == 2 else "–",
                "–" if reached is None else number(reached, 4),
                inside,
            )
        )
    columns = ("what", "forecast", "interval", "reached", "held")
    return Grid(name="Forecasts of the stages", columns=columns, rows=rows, numeric=(1, 3))


def _reached(stage: str, record: Record | None) -> float | None:
    if record is None:
        return None
    if stage != "ppo":
        return record.test_loss
    gold = record.metrics.get("gold_after")
    return None if gold is None else gold - record.metrics["gold_before"]
