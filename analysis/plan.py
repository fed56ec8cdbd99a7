"""Derive the final run from a law and a budget, every value with its reason and interval.

    scaling plan law=runs/quick/law.json flops_multiple=3 runs=runs/quick
    scaling plan law=besiroglu2024 flops=5.76e23 out=plan.yaml
    scaling plan law=[besiroglu2024,hoffmann2022] gpu_hours=1e6 device=h100 \\
        unique_tokens=2e12 inference_tokens=1e13
    scaling plan examples=bloomberggpt

N* and D* have the least loss with C = c(N) D, c(N) being the FLOPs per token of the study's shapes
(6N without a study), moved by the constraints (`analysis.planning.split`). The shape is a trained
one or one next to the study's line of depth against width, within 5 % of N*. D then follows from
that shape's exact FLOPs per token in whole steps: the plan keeps the budget and pays the rounding
in D/N, where the loss is flat. Of several laws the first decides and the others
stand beside it. plan.yaml is the config of `scaling final`; dry_run=true prints and writes nothing.
N parameters, D tokens, C FLOPs, L nats per token.
"""

import sys
from dataclasses import replace
from pathlib import Path

from analysis.laws.published import check_measure
from analysis.planning.basis import counted, require_usable
from analysis.planning.checks import with_stages
from analysis.planning.command import (
    command_of,
    laws_named,
    plan_folder,
    study_folder,
    with_sources,
)
from analysis.planning.make import confirming_plan, plan_within_memory
from analysis.planning.plan import Plan
from analysis.planning.settings import PlanConfig
from analysis.planning.written.answer import closing
from analysis.planning.written.derivation import derivation, shown
from analysis.planning.written.plan_file import write_plan
from analysis.runs.study import default_study, study_of
from scaling.app.application import start, store, typed_arguments
from scaling.app.next_command import next_command
from scaling.schema import FORECASTS, Command, Measure, read_forecasts


def main(config: PlanConfig) -> None:
    """Read laws and study, derive, print the derivation, write plan.yaml."""
    laws = laws_named(config.law)
    name, law = next(iter(laws.items()))
    others = {k: v for k, v in laws.items() if k != name}
    folder = study_folder(config, name, law)
    check_measure(law, name, target=config.target, unit=config.unit)
    measure = law.measure
    study = study_of(folder, count=law.count, measure=measure) if folder else default_study()
    law = counted(require_usable(law, config), study)
    scored = read_forecasts((folder.parent if folder else Path("runs")) / FORECASTS)
    config, budget, plan = plan_within_memory(
        law, study, config, name=name, others=others, scored=scored
    )
    typed = typed_arguments()
    command = Command.typed("analysis.plan", typed).line() if typed else command_of(config)
    plan = replace(with_sources(plan, name, law, folder), command=command)
    plan = with_stages(plan, config)
    sys.stdout.write("\n".join([*derivation(plan), *closing(plan)]) + "\n")
    if config.dry_run:
        return
    out = (
        Path(config.out)
        if config.out
        else plan_folder(config, name, folder)
        / (measure if folder else Measure()).file("plan.yaml")
    )
    if plan.forecast.test_loss is None:
        raise ValueError(
            f"law={name} gives N and D but no loss, so there is no forecast to hold the run"
            f" to and {out} was not written; give a law that predicts loss beside it, as"
            f" law=[{name},besiroglu2024], or dry_run=true to see N and D alone"
        )
    write_plan(out, plan)
    sys.stdout.write(f"plan written to {out}\n")
    if plan.confirmation and plan.confirmation.needed:
        smaller = confirming_plan(plan, law, budget, study, config, scored=scored)
        smaller = with_sources(smaller, name, law, folder)
        smaller = replace(smaller.of_stages(["pretrain"]), study=plan.confirmation.study)
        path = write_plan(out.with_name(f"{out.stem}.confirmation{out.suffix}"), smaller)
        sys.stdout.write(f"{_confirmation_line(smaller, path)}\n")
        sys.stdout.write(f"{next_command('final', plan=path, stages='pretrain')}\n")
    else:
        sys.stdout.write(f"{next_command('final', plan=out)}\n")


def _confirmation_line(plan: Plan, path: Path) -> str:
    """Say where the plan of the confirmation is, what it is, and how to run it."""
    first, forecast = plan.pretrain, plan.forecast
    return (
        f"confirmation written to {path}: N = {first.params:.4g}, D = {first.tokens:.4g},"
        f" C = {first.flops:.4g}, forecast {forecast.test_loss:.4f}"
        f" {shown(forecast.interval)}; run it first"
    )


store("plan", PlanConfig)

if __name__ == "__main__":
    start(main, config_name="plan", schema=PlanConfig)
