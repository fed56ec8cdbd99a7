"""Derive the final run from a law and a budget, every value with its reason and interval.

    python -m analysis.plan law=runs/quick/law.json flops_multiple=3 runs=runs/quick
    python -m analysis.plan law=besiroglu2024 flops=5.76e23 out=plan.yaml

N* and D* are the law's closed form under C = 6ND (Hoffmann et al. 2022, 2203.15556, eq. 4); the
shape is the nearest of the study's ladder, and D then follows from that shape's exact FLOPs per
token in whole steps, so the budget is kept and the rounding is paid in N / D, where the loss is
flat. plan.yaml is the config of `scaling.final`. N parameters, D tokens, C FLOPs, L nats per token.
"""

import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from analysis.budgets import Budget, budget_of
from analysis.derivation import derivation
from analysis.final_shape import choose_shape
from analysis.laws import Law
from analysis.pretrain import forecast_block, pretrain_block
from analysis.published import load_law
from analysis.stages import (
    PpoSettings,
    RewardSettings,
    SftSettings,
    ppo_block,
    reward_block,
    rounded,
    sft_block,
)
from analysis.study import Study, default_study, study_of
from conf.app import start, store
from scaling.schema import Shape, code_version, sha256_file, sha256_json, write_text

SCHEMA = 1
FAR = 1000.0  # times the largest compute fitted: beyond it no ladder has been seen to hold
FEW_WARMUPS = 5  # a run shorter than this many warm-ups is mostly warm-up
DEFAULT_LEVEL = 0.9


@dataclass(kw_only=True)
class PlanConfig:
    """Settings of `analysis.plan`: exactly one of flops, gpu_hours and flops_multiple.

    flops in FLOPs, gpu_hours in device hours, flops_multiple in units of the study's largest cell;
    utilisation is model FLOPs over the peak of `device`.
    """

    law: str = ""
    runs: str = ""
    out: str = ""
    flops: float | None = None
    gpu_hours: float | None = None
    flops_multiple: float | None = None
    device: str = ""
    utilisation: float = 0.4
    flops_per_second: float | None = None
    level: float | None = None
    force: bool = False
    sft: SftSettings = field(default_factory=SftSettings)
    reward: RewardSettings = field(default_factory=RewardSettings)
    ppo: PpoSettings = field(default_factory=PpoSettings)

    def __post_init__(self) -> None:
        """Check ranges that need nothing else."""
        if not 0 < self.utilisation <= 1:
            raise ValueError(
                f"utilisation={self.utilisation} must lie in (0, 1]; 0.3 to 0.5 is usual"
            )
        if self.level is not None and not 0 < self.level < 1:
            raise ValueError(f"level={self.level} must lie between 0 and 1; 0.9 is usual")


def make_plan(
    law: Law, budget: Budget, study: Study, settings: PlanConfig | None = None
) -> dict[str, Any]:
    """Return the plan as plain values, the keys of plan.yaml.

    Raises ValueError for a law whose status is not fit for plans (unless `settings.force`) and for
    a target that no shape of the study's family has.
    """
    settings = settings or PlanConfig()
    law = permitted(law, settings)
    level = settings.level or (law.intervals or {}).get("level", DEFAULT_LEVEL)
    chosen = choose_shape(law, budget.flops, study, level=level)
    pretrain = pretrain_block(law, budget, study, chosen)
    forecast = forecast_block(law, study, pretrain, chosen, level=level)
    post = {"pretrain_lr": pretrain["peak_lr"], "seed": study.seed}
    reach = reached_flops(law)
    return {
        "schema": SCHEMA,
        "study": study.name,
        "runs": "runs",
        "budget": budget_block(budget, pretrain),
        "forecast": forecast,
        "extrapolation": rounded(pretrain["flops"] / reach, 4) if reach else 0.0,
        "pretrain": pretrain,
        "sft": sft_block(settings.sft, **post),
        "reward": reward_block(settings.reward, **post),
        "ppo": ppo_block(settings.ppo, **post),
        "cell": study.config or _bare_cell(study.like),
        "law": _law_block(law),
        "alarms": alarms(law, study, pretrain, forecast, forced=not law.usable),
        "made_from": {"law": sha256_json([law.form, law.count, law.parameters])},
        "versions": code_version(),
    }


def permitted(law: Law, settings: PlanConfig) -> Law:
    """Return the law, forced to extrapolate where it is not usable and `settings.force` is set."""
    if law.usable:
        return law
    if not settings.force:
        raise ValueError(
            f"the law's status is {law.status}, which no plan should rest on; "
            "extend the study or fix its grid, or set force=true to plan all the same"
        )
    return replace(law, forced=True)


def budget_block(budget: Budget, pretrain: dict[str, Any]) -> dict[str, Any]:
    """Return what may be spent, on what, and how long that takes."""
    return {
        "flops": budget.flops,
        "device": budget.device,
        "flops_per_second": budget.flops_per_second or 0.0,
        "seconds": pretrain["seconds"],
        "reasons": {
            "flops": budget.reason,
            "flops_per_second": budget.speed_reason,
            "seconds": (
                "pretraining alone; the stages after it are small beside it or are timed by their"
                " own records"
            ),
        },
    }


def alarms(
    law: Law, study: Study, pretrain: dict[str, Any], forecast: dict[str, Any], *, forced: bool
) -> list[dict[str, str]]:
    """Return what to know before believing the plan: its own alarms, then the law's."""
    found = []
    if forced:
        found.append(
            (
                "forced",
                f"this plan rests on a law whose status is {law.status}; force=true allowed it",
            )
        )
    if law.status == "offset_not_identified":
        found.append(
            (
                "offset",
                (
                    "the law's offset E is not identified: the loss far beyond the study is"
                    " uncertain, as the interval says"
                ),
            )
        )
    if "test_loss" not in forecast:
        found.append(("no_forecast", forecast["reasons"]["test_loss"]))
    found += _range_alarms(law, pretrain["flops"])
    steps = pretrain["tokens"] // pretrain["batch_tokens"]
    if steps < FEW_WARMUPS * pretrain["warmup_steps"]:
        found.append(
            (
                "short_run",
                (
                    f"the run has {steps} steps, of which {pretrain['warmup_steps']} are warm-up;"
                    " raise the budget"
                ),
            )
        )
    if study.unique_tokens and pretrain["tokens"] > study.unique_tokens:
        passes = pretrain["tokens"] / study.unique_tokens
        found.append(
            (
                "repeats",
                (
                    f"{passes:.2g} passes over the corpus of {study.unique_tokens:.3g} tokens; the"
                    " law knows fresh tokens alone"
                ),
            )
        )
    own = [{"code": code, "sentence": sentence} for code, sentence in found]
    return own + [{"code": a.code, "sentence": a.sentence} for a in law.alarms]


def reached_flops(law: Law) -> float | None:
    """Return the largest compute fitted, or None where a published law does not say it."""
    for name in ("flops", "flops_6nd"):
        if law.ranges.get(name):
            return float(law.ranges[name][1])
    return None


def main(config: PlanConfig) -> None:
    """Read law and study, derive, print the derivation, write plan.yaml."""
    law = _law(config.law)
    folder = _folder(config, law)
    study = study_of(folder, count=law.count) if folder else default_study()
    law = permitted(law, config)
    budget = budget_of(config, law, study)
    plan = make_plan(law, budget, study, config)
    out = Path(config.out) if config.out else (folder or Path()) / "plan.yaml"
    if folder:
        plan |= {"study": folder.name, "runs": folder.parent.as_posix()}
    plan["made_from"] = _made_from(config.law, law, folder)
    plan["law"]["name"] = config.law
    text = "\n".join(derivation(plan))
    sys.stdout.write(text + "\n")
    if "test_loss" not in plan["forecast"]:
        raise ValueError(
            f"law={config.law} gives N and D but no loss, so there is no forecast to hold the run"
            f" to and {out} was not written; give a law that predicts loss, as law=besiroglu2024"
        )
    write_plan(out, plan)
    sys.stdout.write(f"plan written to {out}\n")


def write_plan(path: str | Path, plan: dict[str, Any]) -> Path:
    """Write plan.yaml atomically; a blank line between blocks, reasons under each."""
    parts = [
        yaml.safe_dump({key: value}, sort_keys=False, width=98, allow_unicode=True)
        for key, value in plan.items()
    ]
    head = "# Made by analysis.plan; `python -m scaling.final plan=...` executes it.\n"
    return write_text(
        path, head + "".join(part if len(part) < 60 else f"\n{part}" for part in parts)
    )


def read_plan(path: str | Path) -> dict[str, Any]:
    """Read plan.yaml; a missing or other file raises with its name."""
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no plan {path}; make one with analysis.plan")
    plan = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(plan, dict) or plan.get("schema") != SCHEMA or "pretrain" not in plan:
        raise ValueError(
            f"{path} is not a plan of schema {SCHEMA}; make it again with analysis.plan"
        )
    return plan


def _law(name: str) -> Law:
    if not name:
        raise ValueError(
            "law is not set; give law=runs/NAME/law.json or a published one, as law=besiroglu2024"
        )
    return load_law(name)


def _folder(config: PlanConfig, law: Law) -> Path | None:
    """Return the study: `runs`, else the one the law was fitted on, else the law's own folder."""
    if config.runs:
        return Path(config.runs)
    named, beside = Path(str(law.inputs.get("source", ""))), Path(config.law).parent
    for folder in (named, beside):
        if folder != Path() and any(folder.glob("*/record.json")):
            return folder
    return None


def _made_from(name: str, law: Law, folder: Path | None) -> dict[str, str]:
    path = Path(name)
    found = {
        "law": (
            sha256_file(path)
            if path.is_file()
            else sha256_json([law.form, law.count, law.parameters])
        )
    }
    if folder:
        records = sorted(folder.glob("*/record.json"))
        found["records"] = sha256_json({p.parent.name: sha256_file(p) for p in records})
    return found


def _law_block(law: Law) -> dict[str, Any]:
    return {
        "form": law.form,
        "count": law.count,
        "status": law.status,
        "parameters": {k: float(v) for k, v in law.parameters.items()},
        "source": law.source,
        "n_runs": law.n_runs,
    }


def _bare_cell(like: Shape) -> dict[str, Any]:
    return {"tokenizer": {"vocab_size": like.vocab_size}, "data": {"context": like.context}}


def _range_alarms(law: Law, flops: float) -> list[tuple[str, str]]:
    reach = reached_flops(law)
    if not reach:
        return [
            (
                "range_unknown",
                (
                    "the law does not say up to which compute it was fitted, so the extrapolation"
                    " is unknown"
                ),
            )
        ]
    low = float((law.ranges.get("flops") or law.ranges["flops_6nd"])[0])
    if flops < low:
        return [
            (
                "below_range",
                (
                    f"C = {flops:.3g} FLOPs is below the smallest fitted, {low:.3g}: the law was"
                    " not seen to hold there"
                ),
            )
        ]
    if flops > FAR * reach:
        return [
            (
                "far",
                (
                    f"C = {flops:.3g} FLOPs is {flops / reach:.3g} times the largest fitted,"
                    f" {reach:.3g}; beyond {FAR:g} times, run a confirmation first"
                ),
            )
        ]
    return []


store("plan", PlanConfig)

if __name__ == "__main__":
    start(main, config_name="plan", schema=PlanConfig)
