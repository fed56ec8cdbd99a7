"""From a law, a budget and a study to the plan of the final run: the order of its steps.

Each step has a module of its own; this one says which step takes what from which, and gathers the
blocks. The law that decides may predict no loss (an allocation law): then the first of the laws
beside it that predicts one, and counts N alike, makes the forecast.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from analysis.alarms.alarm import Alarm
from analysis.forms import FORMS
from analysis.laws.law import Law
from analysis.laws.published import load_law
from analysis.laws.surface_law import FORM as SURFACE
from analysis.planning.basis import Basis, basis_of
from analysis.planning.budgets import Budget, budget_of
from analysis.planning.confirmation import confirmation_of
from analysis.planning.constraints import Constraints, constraints_of
from analysis.planning.cost import cost_block, idle_alarm, later_flops, memory_alarm
from analysis.planning.critical import beside_critical, critical_alarms
from analysis.planning.experts import (
    check_choice,
    experts_of,
    least_loss,
    mixture_alarm,
)
from analysis.planning.forecast import forecast_block
from analysis.planning.later_stages.all_blocks import later_blocks
from analysis.planning.later_stages.blocks import rounded
from analysis.planning.laws_compared import disagreement_alarm, side_by_side
from analysis.planning.layout import Layout, layout_of
from analysis.planning.machine_block import machine_block, precision_of, ranks_of
from analysis.planning.plan import (
    LATER_STAGES,
    BudgetBlock,
    Forecast,
    LawBlock,
    LawRow,
    Plan,
    PretrainBlock,
)
from analysis.planning.pretrain_block import pretrain_block
from analysis.planning.real_size import explained, explained_steps, toy_alarm
from analysis.planning.schedules.rate import with_rate
from analysis.planning.settings import PlanConfig
from analysis.planning.shapes.shape import PlannedShape, choose_shape
from analysis.planning.split import repeating, split_of
from analysis.planning.written.plan_alarms import plan_alarms, reached_flops
from analysis.planning.written.size_alarms import size_alarms
from analysis.planning.written.steps import steps_of
from analysis.runs.study import Study
from scaling.schema import Shape, code_version, sha256_json


def make_plan(
    law: Law,
    budget: Budget,
    study: Study,
    settings: PlanConfig | None = None,
    *,
    name: str = "the plan's law",
    others: Mapping[str, Law] | None = None,
    scored: Sequence[dict[str, Any]] = (),
) -> Plan:
    """Return the plan of the final run.

    With C the budget, N parameters, D tokens, L(N, D) the law, c(N) the FLOPs per token of the
    study's shapes (6N without a study), f(shape) those of one shape and B the batch in tokens:

        N0, D0 = the N, D of least L(N, D) with c(N) D = C and the constraints
        shape  = a shape of the study's family within 5 % of N0 that loses at most .0005 nats
                 (`analysis.planning.shapes.shape`), and N its parameters
        D      = B floor(C / f(shape) / B)
        L      = L(N, D), with the prediction interval of one run

    Of several numbers of experts, each makes a plan, and the plan of least L is returned.

    law: the law that decides
    budget: C, devices and speed
    study: the study whose shapes, recipe and speed the plan takes
    settings: constraints and choices; None is the defaults
    name: the law's name in the comparison
    others: laws to compare with, by name
    scored: the ledger's lines of earlier forecasts, which widen the interval

    Raises ValueError for a law whose status is not fit for plans (unless `settings.force`), for a
    target that no shape of the study's family has, and for constraints that contradict each other.
    """
    settings = settings or PlanConfig()
    check_choice(law, settings.moe)
    if len(settings.moe.choices()) > 1:
        alone = [
            replace(settings, moe=replace(settings.moe, experts=n)) for n in settings.moe.choices()
        ]
        beside = {"name": name, "others": others, "scored": scored}
        return least_loss([make_plan(law, budget, study, one, **beside) for one in alone])
    basis = basis_of(law, budget, study, settings, others=others or {})
    planned = _planned_shape(basis, budget, settings)
    pretrain = pretrain_block(
        budget,
        basis.study,
        planned,
        lr_batch=_law_of_settings(basis),
        level=basis.level,
    )
    pretrain = beside_critical(
        explained(pretrain, basis.rules), _critical_law(settings), basis.level
    )
    forecast = forecast_block(
        repeating(
            _forecasting_law(basis),
            planned.split.constraints,
            tokens=planned.split.optimum.tokens,
        ),
        basis.study,
        pretrain,
        planned,
        level=basis.level,
        scored=scored,
    )
    pretrain, forecast = with_rate(pretrain, forecast, basis.study, settings.rate)
    return _gathered(basis, budget, settings, planned, pretrain, forecast, name=name)


def _law_of_settings(basis: Basis) -> Law | None:
    """Return the law of learning rate and batch: the one named, else a surface as the law."""
    if basis.lr_batch:
        return load_law(basis.lr_batch)
    return basis.law if basis.law.form == SURFACE else None


def _alarms_of_settings(basis: Basis) -> list[Alarm]:
    """Return the alarms of a law of settings that `lr_batch` names, each with its name."""
    law = _law_of_settings(basis) if basis.lr_batch else None
    alarms = law.alarms if law else ()
    return [replace(a, sentence=f"lr_batch={basis.lr_batch}: {a.sentence}") for a in alarms]


def plan_within_memory(
    law: Law, study: Study, settings: PlanConfig, **named: Any
) -> tuple[PlanConfig, Budget, Plan]:
    """Return the plan, with the settings and the budget that it was made from.

    Where devices need recomputed activations, the plan is made again with the speed that they
    leave. `named` are the other arguments of `make_plan`.
    """
    budget = budget_of(settings, law, study)
    plan = make_plan(law, budget, study, settings, **named)
    recomputes = plan.machine is not None and plan.machine.activation_checkpointing
    if recomputes and settings.activation_checkpointing is None:
        settings = replace(settings, activation_checkpointing=True)
        budget = budget_of(settings, law, study)
        plan = make_plan(law, budget, study, settings, **named)
    return settings, budget, plan


def confirming_plan(
    plan: Plan,
    law: Law,
    budget: Budget,
    study: Study,
    settings: PlanConfig,
    *,
    scored: Sequence[dict[str, Any]] = (),
) -> Plan:
    """Return the plan of the confirmation run that `plan` asks for, which needs none of its own.

    It has the compute and the tokens per parameter of `plan.confirmation`, and no constraint else.

    plan: the plan to confirm
    law, budget, study, settings, scored: what that plan was made from
    """
    confirmation, experts = plan.confirmation, plan.pretrain.model["n_experts"]
    assert confirmation is not None
    assert confirmation.flops is not None
    unconstrained = {f.name: f.default for f in fields(Constraints)}
    settings = replace(settings, **unconstrained | {"overtraining": confirmation.overtraining})
    if settings.moe.choices():
        settings = replace(settings, moe=replace(settings.moe, experts=max(1, experts)))
    budget = replace(budget, flops=confirmation.flops)
    return replace(make_plan(law, budget, study, settings, scored=scored), confirmation=None)


def budget_block(budget: Budget, pretrain: PretrainBlock) -> BudgetBlock:
    """Return what may be spent, on what, and how long that takes."""
    return BudgetBlock(
        flops=budget.flops,
        device=budget.device,
        flops_per_second=budget.flops_per_second or 0.0,
        seconds=pretrain.seconds,
        reasons={
            "flops": budget.reason,
            "flops_per_second": budget.speed_reason,
            "seconds": "pretraining alone",
        },
    )


def _planned_shape(basis: Basis, budget: Budget, settings: PlanConfig) -> PlannedShape:
    """Return the shape that the law and the constraints lead to."""
    split = split_of(
        basis.law,
        budget.flops,
        constraints_of(settings),
        level=basis.level,
        flat_loss=basis.law.measure.of_nats(settings.flat_nats, basis.study.bytes_per_token),
    )

    def memory(shape: Shape) -> float:
        return _layout(shape, budget, settings, basis.study).memory_gib

    return choose_shape(
        split, basis.study, family=settings.shape, memory=memory, device=budget.device
    )


def _layout(
    shape: Shape, budget: Budget, settings: PlanConfig, study: Study, *, rows: int = 1
) -> Layout:
    """Return how the devices share the training of a shape, in steps of `rows` sequences."""
    ranks = ranks_of(rows, budget.devices) if rows > 1 else budget.devices
    return layout_of(
        shape,
        rows=max(1, rows // ranks),
        device=budget.device,
        devices=ranks,
        precision=precision_of(study.config.get("machine", {}), budget.device)[0],
        sharded=settings.sharded,
        checkpointing=settings.activation_checkpointing,
        most_gib=settings.max_memory_gib,
    )


def _forecasting_law(basis: Basis) -> Law:
    """Return the first law that predicts a loss of the same N, else the law that decides."""
    for law in (basis.law, *basis.others.values()):
        if law.form in FORMS and FORMS[law.form].is_surface and law.count == basis.law.count:
            return law
    return basis.law


def _critical_law(settings: PlanConfig) -> Law | None:
    """Return the law of the critical batch that the settings name, if any."""
    return load_law(settings.critical_batch) if settings.critical_batch else None


def _gathered(
    basis: Basis,
    budget: Budget,
    settings: PlanConfig,
    planned: PlannedShape,
    pretrain: PretrainBlock,
    forecast: Forecast,
    *,
    name: str,
) -> Plan:
    """Return the plan around the pretraining block: cost, confirmation, later stages, alarms."""
    law, study = basis.law, basis.study
    reach = reached_flops(law)
    laws = _compared(basis, budget, pretrain, name=name)
    rows = pretrain.batch_tokens // pretrain.context
    layout = _layout(planned.shape, budget, settings, study, rows=rows)
    cell_machine = study.config.get("machine", {})
    machine, machine_reasons = machine_block(
        cell_machine,
        rows=rows,
        devices=budget.devices,
        layout=layout,
        precision_reason=precision_of(cell_machine, budget.device)[1],
    )
    later = later_blocks(settings, planned.shape, pretrain, seed=study.seed, level=basis.level)
    costs = {"shape": planned.shape, "layout": layout}
    costs["stage_flops"] = later_flops(planned.shape, **{s: later[s] for s in LATER_STAGES})
    cost = cost_block(law, budget, planned.split, pretrain, **costs)
    alarms = [
        *size_alarms(planned.split, cost, planned.shape, devices=budget.devices),
        *_alarms_of_settings(basis),
        *_alarms_beside(basis, laws, budget, layout, rows=rows),
        *critical_alarms(pretrain, _critical_law(settings), basis.level),
        *plan_alarms(law, study, pretrain, forecast, forced=not law.usable, far=settings.far),
    ]
    return Plan(
        study=study.name,
        budget=budget_block(budget, pretrain),
        steps=explained_steps(
            steps_of(planned, pretrain, source=study.source, vocab_rule=settings.shape.vocab_rule),
            basis.rules,
        ),
        laws=tuple(laws),
        forecast=forecast,
        confirmation=confirmation_of(
            planned.split,
            pretrain,
            reach,
            study=study.name,
            done=law.inputs.get("confirmations", ()),
        ),
        extrapolation=rounded(pretrain.flops / reach, 4) if reach else 0.0,
        pretrain=pretrain,
        cost=cost,
        **later,
        machine=machine,
        reasons={"machine": machine_reasons},
        cell=study.config or _bare_cell(study.like),
        law=_law_block(law),
        alarms=tuple(alarms),
        made_from={"law": sha256_json([law.form, law.count, law.parameters])},
        versions=code_version(),
    )


def _compared(basis: Basis, budget: Budget, pretrain: PretrainBlock, *, name: str) -> list[LawRow]:
    """Return the laws side by side, [] where one law was given."""
    if not basis.others:
        return []
    laws = {name: basis.law, **basis.others}
    return side_by_side(laws, budget.flops, level=basis.level, params=pretrain.params)


def _alarms_beside(
    basis: Basis,
    laws: Sequence[LawRow],
    budget: Budget,
    layout: Layout,
    *,
    rows: int,
) -> list[Alarm]:
    """Return the alarms of unseen experts, laws that disagree, devices too small or idle."""
    alarms = (
        mixture_alarm(basis.fitted, experts_of(basis.study)),
        disagreement_alarm(laws) if laws else None,
        memory_alarm(budget.device, layout),
        idle_alarm(rows, budget.devices),
        toy_alarm(basis.study, budget.flops),
    )
    return [alarm for alarm in alarms if alarm]


def _law_block(law: Law) -> LawBlock:
    return LawBlock(
        form=law.form,
        count=law.count,
        status=law.status,
        parameters={k: float(v) for k, v in law.parameters.items()},
        source=law.source,
        n_runs=law.n_runs,
    )


def _bare_cell(like: Shape) -> dict[str, Any]:
    """Return the config of a cell where no study has one: vocabulary and context alone."""
    return {"tokenizer": {"vocab_size": like.vocab_size}, "data": {"context": like.context}}
