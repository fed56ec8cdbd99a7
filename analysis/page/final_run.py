"""The final run of a study, where it is the plan's: records, curves, samples, sealed forecast.

A study has one folder for its final run, and each plan of the study runs there. A stage counts as
the plan's where its pretrained cell has the plan's model, tokens and recipe. The seed is not
compared: the interval of a forecast covers every seed.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.planning.plan import Forecast, Plan
from scaling.schema import (
    Measure,
    Record,
    check_schema,
    measure_of,
    read_as,
    read_curve,
    read_json,
    read_record,
)

STAGES = ("pretrain", "sft", "reward", "ppo")
NAMED = 2  # differences from the plan that the sentence names
FIX = "remove it, or run scaling final again"


@dataclass(frozen=True, kw_only=True)
class FinalRun:
    """What the final run of the plan left; `others` are the stages that ran for another plan.

    stages, curves: the record and the curve of each stage
    samples: completions before and after PPO
    sealed: the forecast as it stood before the run; None for none of this loss
    band: the run against the curve of that forecast (final/curve.json)
    files: the files that were read
    other_plan: says which stages ran for another plan, and how it differs; empty for none
    """

    stages: dict[str, Record] = field(default_factory=dict)
    curves: dict[str, pd.DataFrame] = field(default_factory=dict)
    samples: list[dict[str, Any]] = field(default_factory=list)
    sealed: Forecast | None = None
    band: dict[str, Any] = field(default_factory=dict)
    others: tuple[str, ...] = ()
    other_plan: str = ""
    files: tuple[Path, ...] = ()


def read_final(folder: Path, plan: Plan | None, measure: Measure, *, plan_sha256: str) -> FinalRun:
    """Read what the final run of a plan left in `folder`; what another plan left is only named.

    folder: `final` of a study
    plan: None takes whatever ran
    measure: which loss of the pretrained model is meant
    plan_sha256: of the plan's file; before the run has ended it tells whose forecast was sealed

    Raises ValueError for a file that cannot be read.
    """
    paths = {s: folder / s / "record.json" for s in STAGES}
    records = {s: read_record(path) for s, path in paths.items() if path.exists()}
    others = {
        s: text
        for s, r in records.items()
        if plan and (text := ", ".join(tuple(_unlike(plan, r))[:NAMED]))
    }
    own = {s: r for s, r in records.items() if s not in others}
    sealed, curve, samples = (
        folder / "forecast.json",
        folder / "curve.json",
        folder / "ppo" / "samples.json",
    )
    sealed_values = _object(sealed, "sealed forecast")
    sealed_for = sealed_values.get("plan_sha256") or plan_sha256
    is_sealed = "pretrain" in own or ("pretrain" not in others and sealed_for == plan_sha256)
    read = [
        *([sealed] if is_sealed else []),
        *([curve] if "pretrain" in own else []),
        *(paths[s] for s in own),
        *([samples] if "ppo" not in others else []),
    ]
    return FinalRun(
        stages={
            s: measure.of(r) if s == "pretrain" else r
            for s, r in own.items()
            if s != "pretrain" or not measure.why_missing(r)
        },
        curves={
            s: rows
            for s, r in own.items()
            if len(rows := _curve(r, paths[s].parent, measure)) or s != "pretrain"
        },
        samples=[] if "ppo" in others else _samples(samples),
        sealed=_sealed(sealed_values, sealed, measure) if is_sealed else None,
        band=_object(curve, "forecast curve") if "pretrain" in own and measure.is_default else {},
        others=tuple(others),
        other_plan=_sentence(folder, others),
        files=tuple(path for path in read if path.exists()),
    )


def _unlike(plan: Plan, record: Record) -> Iterator[str]:
    """Yield how the pretrained cell of a record differs from the plan's; nothing where it is it.

    Settings that a record of an earlier version does not hold are not compared.
    """
    config, asked = record.config.get("cell", record.config), plan.pretrain
    ran = {k: config.get(k) or {} for k in ("model", "budget", "data", "optim", "schedule")}
    tokens = ran["budget"].get("n_tokens")
    if tokens is None and record.stage == "pretrain":
        tokens = record.tokens
    yield from _unequal("D", tokens, asked.tokens)
    for name, value in asked.model.items():
        yield from _unequal(name, ran["model"].get(name), value)
    yield from _unequal("context", ran["data"].get("context"), asked.context)
    yield from _unequal("corpus", *(c.get("data", {}).get("sha256") for c in (config, plan.cell)))
    for name in ("batch_tokens", "peak_lr"):
        yield from _unequal(name, ran["optim"].get(name) or None, getattr(asked, name) or None)
    yield from _unequal("weight_decay", ran["optim"].get("weight_decay"), asked.weight_decay)
    yield from _unequal("schedule", ran["schedule"].get("name"), asked.schedule)


def _unequal(name: str, ran: Any, asked: Any) -> Iterator[str]:
    if ran in (None, "") or asked in (None, ""):
        return
    if isinstance(ran, int | float) and isinstance(asked, int | float):
        equal = math.isclose(ran, asked, rel_tol=1e-9)
    else:
        equal = str(ran) == str(asked)
    if not equal:
        yield f"{name} is {_short(ran)}, the plan's {_short(asked)}"


def _short(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)[:12]


def _sentence(folder: Path, others: Mapping[str, str]) -> str:
    """Say which stages ran for another plan; empty for none."""
    if not others:
        return ""
    what = f"The final run in {folder} is" if "pretrain" in others else f"Stages in {folder} are"
    first = next(iter(others.values()))
    return (
        f"{what} of another plan ({first}): nothing of {', '.join(others)} is shown or compared"
        " with this plan's forecast. Run scaling final with this plan to see its outcome."
    )


def _curve(record: Record, folder: Path, measure: Measure) -> pd.DataFrame:
    """Return the curve of a stage; of pretraining in the loss that is meant, empty without it."""
    rows = read_curve(folder / "metrics.jsonl")
    if record.stage != "pretrain" or measure.is_default:
        return pd.DataFrame(rows)
    factor, names = measure.curve_factor(record), ("train_loss", "test_loss")
    if factor is None:
        return pd.DataFrame()
    return pd.DataFrame([r | {k: r[k] * factor for k in names if r.get(k)} for r in rows])


def _object(path: Path, noun: str) -> dict[str, Any]:
    """Read a file of the final run; empty where there is none."""
    if not path.exists():
        return {}
    values = read_json(path)
    check_schema(values, source=path, noun=noun, fix=FIX)
    return values


def _sealed(values: dict[str, Any], path: Path, measure: Measure) -> Forecast | None:
    """Return the sealed forecast without what it was sealed with; None for none of this loss."""
    if measure_of(values) != measure:
        return None
    own = {f.name: values[f.name] for f in fields(Forecast) if f.name in values}
    return read_as(Forecast, own, source=path, noun="sealed forecast", fix=FIX) if own else None


def _samples(path: Path) -> list[dict[str, Any]]:
    samples = read_json(path) if path.exists() else []
    if not isinstance(samples, list) or not all(isinstance(s, dict) for s in samples):
        raise ValueError(f"{path} is not a list of samples; run the ppo stage again")
    return samples
