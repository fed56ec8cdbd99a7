"""The command that asks for a plan: the laws and folders that it names, and how to write it again.

A study is the folder of `runs=`, else the one that the law was fitted on, else the law's own.
"""

import shlex
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from analysis.laws.law import Law
from analysis.laws.published import load_law
from analysis.planning.experts import MixtureSettings
from analysis.planning.plan import Plan
from analysis.planning.schedules.rate import RateSettings
from analysis.planning.settings import PlanConfig
from analysis.planning.shapes.family import FamilySettings
from analysis.runs.cells import sha256_of
from scaling.schema import check_study, sha256_file, sha256_json


def command_of(config: PlanConfig) -> str:
    """Return the command that asks for the same plan; sizes of later stages are left to conf."""
    arguments = []
    for prefix, block, usual in (
        ("", config, PlanConfig()),
        ("shape.", config.shape, FamilySettings()),
        ("moe.", config.moe, MixtureSettings()),
        ("rate.", config.rate, RateSettings()),
    ):
        for f in fields(block):
            value = getattr(block, f.name)
            if not is_dataclass(value) and value != getattr(usual, f.name):
                arguments.append(f"{prefix}{f.name}={_in_hydra(value)}")
    for name in ("sft", "reward", "ppo"):
        if law := getattr(config, name).law:
            arguments.append(f"{name}.law={_in_hydra(law)}")
    asking = (a for a in arguments if not a.startswith(("out=", "dry_run=")))
    return shlex.join(["python", "-m", "analysis.plan", *asking])


def _in_hydra(value: Any) -> str:
    """Write a value as Hydra reads it."""
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_in_hydra, value))}]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def laws_named(names: Any) -> dict[str, Law]:
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


def study_folder(config: PlanConfig, name: str, law: Law) -> Path | None:
    """Return the study's folder, None where only a published law is given.

    `name` is the law's, which may be the path of its file.
    """
    if config.runs:
        folder = Path(config.runs)
        return folder if folder.name not in ("", "..") else folder.resolve()  # as of runs=.
    fitted_on, beside = Path(str(law.inputs.get("source", ""))), Path(name).parent
    for folder in (fitted_on, beside):
        if folder != Path() and any(folder.glob("*/record.json")):
            return folder
    return None


def plan_folder(config: PlanConfig, name: str, folder: Path | None) -> Path:
    """Return where the plan goes: to its study's folder, or here where the study is not ours.

    The law file of somebody else names the folder that it was fitted on. Where that folder exists
    elsewhere on this machine, it is read but nothing is written to it.
    """
    if folder is None:
        return Path()
    study, law = folder.resolve(), Path(name).resolve()
    near = study.is_relative_to(Path.cwd()) or law.is_relative_to(study)
    return folder if config.runs or near or study.is_relative_to(law.parent) else Path()


def with_sources(plan: Plan, name: str, law: Law, folder: Path | None) -> Plan:
    """Return the plan with the names and hashes of what it was made from.

    plan: the plan, which may name no study yet
    name: the law's name or path
    law: the law that decided
    folder: the study's folder, None without one
    """
    if folder:
        plan = replace(plan, study=check_study(folder.name), runs=folder.parent.as_posix())
    assert plan.law is not None
    return replace(plan, made_from=_hashes(name, law, folder), law=replace(plan.law, name=name))


def _hashes(name: str, law: Law, folder: Path | None) -> dict[str, str]:
    """Return the sha256 of the law and of the study's records."""
    path = Path(name)
    of_law = (
        sha256_file(path) if path.is_file() else sha256_json([law.form, law.count, law.parameters])
    )
    return {"law": of_law} | ({"records": sha256_json(sha256_of(folder))} if folder else {})
