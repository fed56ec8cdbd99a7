"""Derive the final run from a law and a budget, every value with its reason and interval.

    python -m analysis.plan law=runs/quick/law.json flops_multiple=3 runs=runs/quick
    python -m analysis.plan law=besiroglu2024 flops=5.76e23 out=plan.yaml
    python -m analysis.plan law=[besiroglu2024,hoffmann2022] gpu_hours=1e6 device=h100 \\
        unique_tokens=2e12 inference_tokens=1e13
    python -m analysis.plan examples=bloomberggpt

N* and D* are the law's closed form under C = 6ND (Hoffmann et al. 2022, 2203.15556, eq. 4), moved
by the constraints (`analysis.planning.split`); the shape is the nearest of the study's ladder, and
D then follows from that shape's exact FLOPs per token in whole steps, so the budget is kept and the
rounding is paid in N / D, where the loss is flat. Of several laws the first decides and the others
stand beside it. plan.yaml is the config of `scaling.final`; dry_run=true prints and writes nothing.
N parameters, D tokens, C FLOPs, L nats per token.
"""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from analysis.laws.law import Law
from analysis.laws.published import load_law
from analysis.planning.budgets import Budget, budget_of
from analysis.planning.constraints import Constraints
from analysis.planning.experts import (
    MixtureSettings,
)
from analysis.planning.make import make_plan, permitted
from analysis.planning.settings import PlanConfig
from analysis.planning.shape_family import FamilySettings
from analysis.planning.written.derivation import derivation, shown
from analysis.planning.written.plan_file import write_plan
from analysis.runs.cells import sha256_of
from analysis.runs.study import Study, default_study, study_of
from scaling.app.application import start, store
from scaling.schema import (
    FORECASTS,
    check_study,
    read_forecasts,
    sha256_file,
    sha256_json,
)


def main(config: PlanConfig) -> None:
    """Read laws and study, derive, print the derivation, write plan.yaml."""
    laws = _laws(config.law)
    name, law = next(iter(laws.items()))
    others = {k: v for k, v in laws.items() if k != name}
    folder = _folder(config, name, law)
    study = study_of(folder, count=law.count) if folder else default_study()
    law = permitted(law, config)
    budget = budget_of(config, law, study)
    scored = read_forecasts((folder.parent if folder else Path("runs")) / FORECASTS)
    plan = make_plan(law, budget, study, config, name=name, others=others, scored=scored)
    out = Path(config.out) if config.out else _beside(config, name, folder) / "plan.yaml"
    plan = _named(plan, name, law, folder)
    plan["command"] = command_of(config)
    sys.stdout.write("\n".join(derivation(plan)) + "\n")
    if config.dry_run:
        return
    if "test_loss" not in plan["forecast"]:
        raise ValueError(
            f"law={name} gives N and D but no loss, so there is no forecast to hold the run"
            f" to and {out} was not written; give a law that predicts loss beside it, as"
            f" law=[{name},besiroglu2024], or dry_run=true to see N and D alone"
        )
    write_plan(out, plan)
    sys.stdout.write(f"plan written to {out}\n")
    if plan["confirmation"]["needed"]:
        smaller = _confirming(plan, law, budget, study, config, scored)
        smaller = _named(smaller, name, law, folder)
        smaller |= {"study": plan["confirmation"]["study"], "confirmation": {}}
        path = write_plan(out.with_name(f"{out.stem}.confirmation{out.suffix}"), smaller)
        first = smaller["pretrain"]
        sys.stdout.write(
            f"confirmation written to {path}: N = {first['params']:.4g}, D = {first['tokens']:.4g},"
            f" C = {first['flops']:.4g}, forecast {smaller['forecast']['test_loss']:.4f}"
            f" {shown(smaller['forecast']['interval'])}; run it first,"
            f" python -m scaling.final plan={path} stages=pretrain\n"
        )


def _confirming(
    plan: dict[str, Any],
    law: Law,
    budget: Budget,
    study: Study,
    config: PlanConfig,
    scored: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    """Return the plan of the confirmation run."""
    confirmation, experts = plan["confirmation"], plan["pretrain"]["model"]["n_experts"]
    free = {f.name: f.default for f in fields(Constraints)}
    asked = replace(config, **free | {"overtraining": confirmation["overtraining"]})
    if config.moe.choices():
        asked = replace(asked, moe=replace(config.moe, experts=max(1, experts)))
    return make_plan(law, replace(budget, flops=confirmation["flops"]), study, asked, scored=scored)


def command_of(config: PlanConfig) -> str:
    """Return the command that asks for the same plan; sizes of later stages are left to conf."""
    asked = []
    for prefix, block, usual in (
        ("", config, PlanConfig()),
        ("shape.", config.shape, FamilySettings()),
        ("moe.", config.moe, MixtureSettings()),
    ):
        for f in fields(block):
            value = getattr(block, f.name)
            if not is_dataclass(value) and value != getattr(usual, f.name):
                asked.append(f"{prefix}{f.name}={_written(value)}")
    for name in ("sft", "reward", "ppo"):
        if law := getattr(config, name).law:
            asked.append(f"{name}.law={_written(law)}")
    kept = (a for a in asked if not a.startswith(("out=", "dry_run=")))
    return shlex.join(["python", "-m", "analysis.plan", *kept])


def _written(value: Any) -> str:
    """Write a value as Hydra reads it."""
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_written, value))}]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _named(plan: dict[str, Any], name: str, law: Law, folder: Path | None) -> dict[str, Any]:
    """Return the plan with the names and hashes of what it was made from."""
    if folder:
        plan |= {"study": check_study(folder.name), "runs": folder.parent.as_posix()}
    plan["made_from"] = _made_from(name, law, folder)
    plan["law"]["name"] = name
    return plan


def _laws(names: Any) -> dict[str, Law]:
    """Return the laws by name, the deciding one first; ValueError for none and for one twice."""
    if isinstance(names, str) and names.startswith("[") and names.endswith("]"):
        names = [n.strip() for n in names[1:-1].split(",") if n.strip()]
    listed = [names] if isinstance(names, str) else [str(n) for n in names or []]
    if not listed or not all(listed):
        raise ValueError(
            "law is not set; give law=runs/NAME/law.json or a published one, as law=besiroglu2024"
        )
    if len(set(listed)) < len(listed):
        raise ValueError(f"law={listed} names a law twice; name each once")
    return {name: load_law(name) for name in listed}


def _folder(config: PlanConfig, name: str, law: Law) -> Path | None:
    """Return the study: `runs`, else the one the law was fitted on, else the law's own folder."""
    if config.runs:
        folder = Path(config.runs)
        return folder if folder.name not in ("", "..") else folder.resolve()  # as of runs=.
    named, beside = Path(str(law.inputs.get("source", ""))), Path(name).parent
    for folder in (named, beside):
        if folder != Path() and any(folder.glob("*/record.json")):
            return folder
    return None


def _beside(config: PlanConfig, name: str, folder: Path | None) -> Path:
    """Return where the plan goes: to its study, unless only the law's file says where that is.

    A law of somebody else names a folder that it was fitted on; one that lies elsewhere on this
    machine is read and not written to.
    """
    if folder is None:
        return Path()
    place, law = folder.resolve(), Path(name).resolve()
    near = place.is_relative_to(Path.cwd()) or law.is_relative_to(place)
    return folder if config.runs or near or place.is_relative_to(law.parent) else Path()


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
        found["records"] = sha256_json(sha256_of(folder))
    return found


store("plan", PlanConfig)

if __name__ == "__main__":
    start(main, config_name="plan", schema=PlanConfig)
