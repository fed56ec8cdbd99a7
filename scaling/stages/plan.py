"""A plan as `scaling.final` reads it: strictly, and near where it lies."""

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from scaling.app.errors import sentence
from scaling.app.values import pasted
from scaling.config import (
    BudgetConfig,
    CellConfig,
    FinalConfig,
)
from scaling.schema import (
    CONFIRMING,
    check_schema,
    read_yaml,
)

if TYPE_CHECKING:
    pass


SCHEMA = 1  # of plan.yaml
STAGES = {"pretrain": (), "sft": ("pretrain",), "reward": ("sft",), "ppo": ("sft", "reward")}


def load_plan(path: str | Path, overrides: Sequence[str] = ()) -> FinalConfig:
    """Read a plan, then apply `key=value` overrides; unknown keys are refused by name.

    A plan may come from anybody: it writes beside itself or into a relative folder, and what it
    holds is read as values alone (`read_yaml`). Raises FileNotFoundError for a missing plan and
    ValueError for one that is none.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"no plan {path}; write one with python -m analysis.plan law=... "
            f"{pasted(f'out={path}')}"
        )
    composed = OmegaConf.structured(FinalConfig)
    values = read_yaml(path)
    if not isinstance(values, dict) or "pretrain" not in values:
        raise ValueError(
            f"{path} holds no plan (no block pretrain); write one with python -m analysis.plan"
        )
    number = {"schema": values.get("schema", SCHEMA)}
    check_schema(number, source=path, noun="plan", fix="write it again", schema=SCHEMA)
    try:
        composed = OmegaConf.merge(composed, values)
    except OmegaConfBaseException as error:
        raise ValueError(
            f"{path}: {sentence(error, FinalConfig)}; write the plan again or mend the key"
        ) from error
    apply(composed, overrides)
    config = OmegaConf.to_object(composed)
    assert isinstance(config, FinalConfig)
    stays_near(config, Path(path), overrides)
    return replace(config, plan=str(path))


def stays_near(config: FinalConfig, path: Path, overrides: Sequence[str]) -> None:
    """Refuse a plan that would write far from itself, unless the command names the folder too.

    Near is below the plan or the current folder, the study's folder that the plan lies in, and
    what is a study or a cache already.
    """
    named = {o.partition("=")[0].lstrip("+") for o in overrides}
    here, beside = Path.cwd().resolve(), path.resolve().parent
    runs, cache = Path(config.runs), Path(config.machine.cache)
    own = beside == (runs / config.study.partition(CONFIRMING)[0]).resolve()
    study = any((runs / config.study).glob("*/record.json"))
    for setting, place, in_use in (
        ("runs", runs, own or study),
        ("machine.cache", cache, any(cache.glob("tokens-*"))),
    ):
        full = place.resolve()
        near = in_use or full.is_relative_to(beside) or full.is_relative_to(here)
        if not near and setting not in named:
            raise ValueError(
                f"{path} would write to {setting}={place}, which is neither beside it nor in the "
                f"current folder; if you want that, add {shlex.quote(f'{setting}={place}')} to the "
                "command"
            )


def apply(composed: Any, overrides: Sequence[str]) -> None:
    """Apply Hydra's overrides of values (not of groups) in place."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    for override in OverridesParser.create().parse_overrides(list(overrides)):
        key = override.key_or_group
        if key != "plan" and not key.startswith("hydra"):
            OmegaConf.update(composed, key, override.value(), force_add=bool(override.is_add()))


def chosen_stages(text: str) -> list[str]:
    """Return the stages of a comma-separated list in their order; ValueError for an unknown one."""
    names = [n.strip() for n in text.split(",") if n.strip()]
    unknown = sorted(set(names) - set(STAGES))
    if unknown or not names:
        raise ValueError(
            f"stages={text!r} names {', '.join(unknown) or 'nothing'}; "
            f"choose among {', '.join(STAGES)}"
        )
    return [n for n in STAGES if n in names]


def planned_cell(config: FinalConfig) -> CellConfig:
    """Return the pretraining cell: the study's science config with the plan's values put in."""
    plan = config.pretrain
    if plan.tokens < 1:
        raise ValueError(
            f"pretrain.tokens={plan.tokens} must be positive; "
            "write the plan with python -m analysis.plan"
        )
    known = {k: v for k, v in config.cell.items() if k not in ("budget", "model")}
    try:
        composed = OmegaConf.merge(OmegaConf.structured(CellConfig), known)
    except OmegaConfBaseException as error:
        raise ValueError(
            f"the plan's cell: {sentence(error, CellConfig)}; write the plan again"
        ) from error
    cell = OmegaConf.to_object(composed)
    assert isinstance(cell, CellConfig)
    optim = {"weight_decay": plan.weight_decay}
    optim |= {k: getattr(plan, k) for k in ("peak_lr", "batch_tokens") if getattr(plan, k)}
    schedule = {"name": plan.schedule, "warmup_steps": plan.warmup_steps, "decay": plan.decay}
    return replace(
        cell,
        study=config.study,
        runs=config.runs,
        model=plan.model,
        data=replace(cell.data, context=plan.context),
        optim=replace(cell.optim, **optim),
        schedule=replace(cell.schedule, **schedule),
        budget=BudgetConfig(n_tokens=plan.tokens, count=plan.count),
        seed=plan.seed,
        machine=config.machine,
        log=config.log,
    )
