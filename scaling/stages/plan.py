"""How `scaling final` reads plan.yaml, and what the plan says: the stages, the cell to pretrain.

A plan may come from a stranger. It is therefore read strictly: an unknown key is an error, values
are read as data and never as code, and a plan that would write far from its own folder is refused
unless the command names that folder.
"""

import logging
import shlex
from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from scaling.app.errors import sentence
from scaling.app.values import pasted
from scaling.config import BudgetConfig, CellConfig, FinalConfig, with_former_split
from scaling.data.vocabulary_files import with_source
from scaling.schema import CONFIRMING, check_schema, read_yaml, tuning_lr

log = logging.getLogger(__name__)

SCHEMA = 1  # version of plan.yaml
UNKEPT = ("plan", "stages", "check", "out", "resume")  # settings of a command, not of its plan


class StageName(StrEnum):
    """The stages of a final run, as plans, records and folders name them."""

    PRETRAIN = "pretrain"
    SFT = "sft"
    REWARD = "reward"
    PPO = "ppo"


DOCSTRINGS = "docstrings"  # the value of `sft.data` that means pairs cut from the corpus
GOLD = "gold"  # the value of `reward.data` that means pairs sampled and scored by the gold judge


# Each stage, in the order of a run, with the stages whose weights it starts from.
STAGES: dict[StageName, tuple[StageName, ...]] = {
    StageName.PRETRAIN: (),
    StageName.SFT: (StageName.PRETRAIN,),
    StageName.REWARD: (StageName.SFT,),
    StageName.PPO: (StageName.SFT, StageName.REWARD),
}


def final_folder(config: FinalConfig) -> Path:
    """Return the folder of a final run: runs/NAME/final."""
    return Path(config.runs) / config.study / "final"


def load_plan(path: str | Path, overrides: Sequence[str] = ()) -> FinalConfig:
    """Read a plan, then apply `key=value` overrides; unknown keys are refused by name.

    Raises FileNotFoundError for a missing plan and ValueError for a file that is no plan, or for a
    plan that would write far from its folder.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"no plan {path}; write one with scaling plan law=... {pasted(f'out={path}')}"
        )
    composed = OmegaConf.structured(FinalConfig)
    values = read_yaml(path)
    if not isinstance(values, dict) or StageName.PRETRAIN not in values:
        raise ValueError(f"{path} holds no plan (no block pretrain); write one with scaling plan")
    version = {"schema": values.get("schema", SCHEMA)}
    check_schema(version, source=path, noun="plan", fix="write it again", schema=SCHEMA)
    try:
        composed = OmegaConf.merge(composed, values)
    except OmegaConfBaseException as error:
        raise ValueError(
            f"{path}: {sentence(error, FinalConfig)}; write the plan again or mend the key"
        ) from error
    apply_overrides(composed, overrides)
    config = OmegaConf.to_object(composed)
    assert isinstance(config, FinalConfig)
    refuse_far_folders(config, Path(path), overrides)
    refuse_data_of_another_start(config, Path(path))
    config = with_learning_rates(config, values)
    typed = [o for o in overrides if o.partition("=")[0] not in UNKEPT]
    return replace(config, plan=str(path), overrides=[*config.overrides, *typed])


def with_learning_rates(config: FinalConfig, values: dict[str, Any]) -> FinalConfig:
    """Return the plan with a learning rate for each stage that is to run.

    config: the plan with the command's overrides
    values: the plan's file, which has no block of a stage that was not planned

    A stage that was not planned has default settings, and a share of pretraining's peak rate.
    """
    for stage in chosen_stages(config.stages):
        block = getattr(config, stage)
        if stage == StageName.PRETRAIN or block.peak_lr or not config.pretrain.peak_lr:
            continue
        method = block.method if stage == StageName.SFT else "full"
        rate = tuning_lr(block.lr_fraction, pretrain_lr=config.pretrain.peak_lr, method=method)
        config = replace(config, **{stage: replace(block, peak_lr=rate)})
        if not values.get(stage):
            log.warning(
                "the plan has no stage %s: its settings are defaults and those of the command,"
                " whatever the model's size; scaling plan stages=... plans it by rule",
                stage,
            )
    return config


def refuse_far_folders(config: FinalConfig, path: Path, overrides: Sequence[str]) -> None:
    """Raise ValueError for a plan that would write far from itself.

    These folders are near: any folder below the plan's or the current one, the study's folder that
    the plan lies in (or its final/, where the plan that ran is), and a folder that is a study or a
    cache already. A folder that the command names (`overrides`) may lie anywhere.
    """
    override_names = {o.partition("=")[0].lstrip("+") for o in overrides}
    here, beside = Path.cwd().resolve(), path.resolve().parent
    runs, cache = Path(config.runs), Path(config.machine.cache)
    folder = (runs / config.study.partition(CONFIRMING)[0]).resolve()
    own_study = beside in (folder, final_folder(config).resolve())
    existing_study = any((runs / config.study).glob("*/record.json"))
    for setting, place, in_use in (
        ("runs", runs, own_study or existing_study),
        ("machine.cache", cache, any(cache.glob("tokens-*"))),
    ):
        full = place.resolve()
        near = in_use or full.is_relative_to(beside) or full.is_relative_to(here)
        if not near and setting not in override_names:
            raise ValueError(
                f"{path} would write to {setting}={place}, which is neither beside it nor in the "
                f"current folder; if you want that, add {shlex.quote(f'{setting}={place}')} to the "
                "command"
            )


def refuse_data_of_another_start(config: FinalConfig, path: Path) -> None:
    """Raise ValueError where relative data paths of a plan hold from another folder than this one.

    A plan in runs/NAME says by its own place from which folder its sweep was started. The paths are
    part of the cells' ids, so that they are not written in another way here.
    """
    study = Path(config.runs, config.study)
    beside = path.resolve().parent
    beside = beside.parent if beside.name == "final" else beside
    if study.is_absolute() or beside.parts[-len(study.parts) :] != study.parts:
        return
    start = Path(*beside.parts[: -len(study.parts)])
    data = config.cell.get("data", {})
    named = [*data.get("train", ()), *data.get("test", ())]
    named += [v for stage in (config.sft, config.reward) for v in (stage.data, stage.test) if v]
    for name in named:
        if not Path(name).exists() and (start / name).exists():
            raise ValueError(
                f"{path} names the data {name} relative to the folder where the sweep was started;"
                f" run the command there: cd {shlex.quote(str(start))}, and give"
                f" {pasted(f'plan={path.resolve().relative_to(start)}')}"
            )


def apply_overrides(composed: Any, overrides: Sequence[str]) -> None:
    """Apply Hydra's overrides in place; those of `plan`, `hydra` and config groups are ignored."""
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        key = override.key_or_group
        if key != "plan" and not key.startswith("hydra"):
            OmegaConf.update(composed, key, override.value(), force_add=bool(override.is_add()))


def chosen_stages(text: str) -> list[StageName]:
    """Return the stages that a comma-separated list names, in the order of a run.

    ValueError for an unknown name and for an empty list.
    """
    names = [n.strip() for n in text.split(",") if n.strip()]
    unknown = sorted(set(names) - set(STAGES))
    if unknown or not names:
        raise ValueError(
            f"stages={text!r} names {', '.join(unknown) or 'nothing'}; "
            f"choose among {', '.join(STAGES)}"
        )
    return [n for n in STAGES if n in names]


def planned_cell(config: FinalConfig) -> CellConfig:
    """Return the cell to pretrain: the study's settings, with the plan's values put in."""
    plan = config.pretrain
    if plan.tokens < 1:
        raise ValueError(
            f"pretrain.tokens={plan.tokens} must be positive; write the plan with scaling plan"
        )
    settings = {k: v for k, v in config.cell.items() if k not in ("budget", "model")}
    settings = with_former_split(settings)
    try:
        composed = OmegaConf.merge(OmegaConf.structured(CellConfig), settings)
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
        tokenizer=with_source(cell.tokenizer),
        model=plan.model,
        data=replace(cell.data, context=plan.context),
        optim=replace(cell.optim, **optim),
        schedule=replace(cell.schedule, **schedule),
        budget=BudgetConfig(n_tokens=plan.tokens, count=plan.count),
        seed=plan.seed,
        machine=config.machine,
        log=config.log,
    )
