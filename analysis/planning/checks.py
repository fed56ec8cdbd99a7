"""Which stages a plan has: those whose data can be used, and which one device holds.

`scaling final check=data` reads the data of every stage as the stage itself does, in a process of
its own: this package imports nothing that tokenises. The stages end before the first one that
cannot run. Data that the user named and that cannot be used are an error instead.
"""

import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from analysis.alarms.alarm import Alarm
from analysis.planning.plan import LATER_STAGES, Plan
from analysis.planning.settings import PlanConfig
from analysis.planning.written.plan_file import write_plan
from scaling.app.child_python import module_command, module_environment
from scaling.app.quoting import override
from scaling.schema import (
    DEVICES,
    Shape,
    activation_bytes,
    device_named,
    read_json,
    stage_memory_bytes,
)

GIB = 2.0**30  # bytes
MADE_FROM_PYTHON = {"sft": "docstrings", "reward": "gold"}  # data cut from a corpus of functions
ADD = (
    "name data to add stages: sft.data=PAIRS.jsonl (prompt, completion) and"
    " reward.data=PREFERENCES.jsonl (prompt, chosen, rejected)"
)
NO_TEXT = (
    "a table or a published law names no text; the run needs it, as cell.data.source=files"
    " 'cell.data.train=[FOLDER]' of scaling final, which checks it first"
)


def with_stages(plan: Plan, settings: PlanConfig) -> Plan:
    """Return the plan with its stages, what was found of each, and why one is left out.

    plan: the plan, whose study's folder is known
    settings: of the command, which may name data

    Raises ValueError where pretraining, or a stage or data that the user named, cannot be used.
    """
    stage_names = settings.stages.split(",") if settings.stages else []
    findings, unread = _checked(plan)
    stages, reasons = [], {}
    for stage in ("pretrain", *LATER_STAGES):
        if stage_names and stage not in stage_names:
            reasons[stage] = f"stages={settings.stages} leaves it out, and those after it"
            break
        check = findings.get(stage, {})
        problem = check.get("problem", "")
        named = stage == "pretrain" or _named(stage, settings)
        if problem and (named or stage_names):
            raise ValueError(f"stage {stage} cannot run: {problem}")
        stop = problem or _left_out(plan, stage, settings, unread=unread)
        if stop and stage_names:
            raise ValueError(f"stages={settings.stages} names {stage}, but {stop}")
        if stop:
            reasons[stage] = stop if ADD in stop or "sft" in stages else f"{stop}; {ADD}"
            break
        stages.append(stage)
        reasons[stage] = check.get("found") or unread
    of_data = (Alarm(**a) for stage in stages for a in findings.get(stage, {}).get("alarms", ()))
    return replace(
        plan.of_stages(stages),
        alarms=(*of_data, *plan.alarms),
        checks=tuple(c for c in findings.values() if c["stage"] in reasons),
        reasons={**plan.reasons, "stages": reasons},
    )


def _named(stage: str, settings: PlanConfig) -> bool:
    """Say whether the user named the data that a stage needs."""
    own = {s for s, usual in MADE_FROM_PYTHON.items() if getattr(settings, s).data != usual}
    return stage in own or (stage == "ppo" and bool(own))


def _left_out(plan: Plan, stage: str, settings: PlanConfig, *, unread: str) -> str:
    """Say why a stage is not planned, without its data; empty where it is."""
    if stage == "pretrain":
        return ""
    device = plan.budget.device
    if device in DEVICES:
        needed, room = _memory_of(plan, stage, settings), device_named(device).memory
        if needed > room:
            return (
                f"it takes {needed / GIB:.3g} GiB with one row of the whole context at once, in"
                f" fp32 on one device, where the stages after pretraining run, and {device} has"
                f" {room / GIB:.3g}; export the model (scaling export) and tune it elsewhere"
            )
    source = plan.cell.get("data", {}).get("source", "")
    generated = not _named(stage, settings) and settings.sft.data == MADE_FROM_PYTHON["sft"]
    if unread and generated and source != "stdlib":
        return f"whether the text has documented Python functions is not known ({unread}); {ADD}"
    if unread and stage != "sft" and not generated and settings.reward.data == "gold":
        return f"reward.data=gold judges Python functions, and sft.data is a file; {ADD}"
    return ""


def _memory_of(plan: Plan, stage: str, settings: PlanConfig) -> float:
    """Return the bytes of a stage with one example as long as the context."""
    pretrain = plan.pretrain
    vocab_size = plan.cell["tokenizer"]["vocab_size"]
    shape = Shape.from_config(pretrain.model, vocab_size=vocab_size, context=pretrain.context)
    critic = settings.ppo.estimator == "gae"
    method = settings.sft.method
    return activation_bytes(shape, 1) + stage_memory_bytes(
        shape.params.total, stage, method=method, critic=critic
    )


def _checked(plan: Plan) -> tuple[dict[str, dict[str, Any]], str]:
    """Return what `scaling final` found by stage, or else the reason why nothing was read."""
    if "source" not in plan.cell.get("data", {}):
        return {}, NO_TEXT
    if not any(Path(plan.runs, ".cache").glob("tokens-*")):
        return {}, f"no tokens in {plan.runs}/.cache; scaling final checks before it trains"
    with tempfile.TemporaryDirectory() as folder:
        path, out = write_plan(Path(folder) / "plan.yaml", plan), Path(folder) / "checks.json"
        arguments = (f"plan={path}", "check=data", f"out={out}", "stages=pretrain,sft,reward,ppo")
        done = subprocess.run(
            module_command("scaling.final", *arguments, override("runs", plan.runs), "force=true"),
            env=module_environment() | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        if out.is_file():
            return {c["stage"]: c for c in read_json(out)["checks"]}, ""
    words = (done.stderr.strip().splitlines() or ["no answer"])[-1].removeprefix("error: ")
    return {}, f"not read: {words}"
