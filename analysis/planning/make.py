"""From a law, a budget and a study to the plan: the blocks, their reasons, the forecast."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from analysis.forms import FORMS
from analysis.laws.law import Law
from analysis.laws.published import load_law
from analysis.planning.budgets import Budget
from analysis.planning.confirmation import confirmation_of
from analysis.planning.constraints import constraints_of
from analysis.planning.cost import cost_block, memory_alarm, memory_gib
from analysis.planning.experts import (
    check_choice,
    experts_of,
    law_for,
    least_loss,
    mixture_alarm,
    with_mixture,
)
from analysis.planning.forecast import forecast_block
from analysis.planning.later_stages.blocks import (
    ppo_block,
    reward_block,
    rounded,
    sft_block,
)
from analysis.planning.later_stages.choices import (
    KL_FORMS,
    REWARD_FORMS,
    SFT_FORMS,
    choose_kl,
    choose_reward,
    choose_sft,
    laws_of,
)
from analysis.planning.laws_compared import disagreement_alarm, side_by_side
from analysis.planning.machine_block import machine_block
from analysis.planning.pretrain_block import pretrain_block
from analysis.planning.settings import DEFAULT_LEVEL, PlanConfig
from analysis.planning.shape import Chosen, choose_shape
from analysis.planning.shape_family import with_family, with_vocabulary
from analysis.planning.split import repeating, split_of
from analysis.planning.written.plan_alarms import plan_alarms, reached_flops
from analysis.planning.written.plan_file import SCHEMA
from analysis.planning.written.steps import steps_of
from analysis.runs.study import Study
from scaling.schema import (
    Shape,
    code_version,
    sha256_json,
)


def make_plan(
    law: Law,
    budget: Budget,
    study: Study,
    settings: PlanConfig | None = None,
    *,
    name: str = "the plan's law",
    others: Mapping[str, Law] | None = None,
    scored: Sequence[dict[str, Any]] = (),
) -> dict[str, Any]:
    """Return the plan as plain values, the keys of plan.yaml.

    `name` is the law's, `others` are laws to compare with, `scored` the ledger's lines of earlier
    forecasts.

    Raises ValueError for a law whose status is not fit for plans (unless `settings.force`), for a
    target that no shape of the study's family has, and for constraints that contradict each other.
    """
    settings = settings or PlanConfig()
    check_choice(law, settings.moe)
    if len(settings.moe.choices()) > 1:
        each = [
            replace(settings, moe=replace(settings.moe, experts=n)) for n in settings.moe.choices()
        ]
        told = {"name": name, "others": others, "scored": scored}
        return least_loss([make_plan(law, budget, study, s, **told) for s in each])
    study = with_mixture(with_family(study, settings.shape), settings.moe)
    experts = experts_of(study)
    unseen = mixture_alarm(law, experts)
    law = law_for(permitted(law, settings), experts)
    compared = {k: law_for(permitted(v, settings), experts) for k, v in (others or {}).items()}
    if settings.unique_tokens is not None:
        study = replace(study, unique_tokens=None)  # the plan prices repetition: no alarm for it
    level = settings.level or (law.intervals or {}).get("level", DEFAULT_LEVEL)
    study = with_vocabulary(
        study,
        settings.shape,
        flops=budget.flops,
        target=law.optimum(budget.flops).params,
        count=law.count,
    )
    chosen, memory = _chosen(law, budget, study, settings, level)
    rates = load_law(settings.lr_batch) if settings.lr_batch else None
    pretrain = pretrain_block(budget, study, chosen, lr_batch=rates, level=level)
    teller = _teller(law, compared)
    forecast = forecast_block(
        repeating(teller, chosen.split.constraints),
        study,
        pretrain,
        chosen,
        level=level,
        scored=scored,
    )
    later = _later_blocks(settings, chosen.shape, pretrain, seed=study.seed, level=level)
    reach = reached_flops(law)
    rows = (
        side_by_side({name: law, **compared}, budget.flops, level=level, params=pretrain["params"])
        if compared
        else []
    )
    needed = memory(chosen.shape)
    machine, reasons = machine_block(
        study.config,
        rows=pretrain["batch_tokens"] // pretrain["context"],
        device=budget.device,
        devices=budget.devices,
        sharded=settings.sharded,
        checkpointing=settings.activation_checkpointing,
    )
    derived = steps_of(chosen, pretrain, source=study.source, vocab_rule=settings.shape.vocab_rule)
    found = plan_alarms(law, study, pretrain, forecast, forced=not law.usable, far=settings.far)
    found = [*_own_alarms(rows, budget, needed, unseen, settings), *found]
    return {
        "schema": SCHEMA,
        "study": study.name,
        "runs": "runs",
        "budget": budget_block(budget, pretrain),
        "steps": [s.as_dict() for s in derived],
        "laws": rows,
        "mixtures": [],
        "forecast": forecast,
        "confirmation": confirmation_of(
            budget,
            chosen.split,
            pretrain,
            reach,
            study=study.name,
            done=law.inputs.get("confirmations", ()),
        ),
        "extrapolation": rounded(pretrain["flops"] / reach, 4) if reach else 0.0,
        "pretrain": pretrain,
        "cost": cost_block(law, budget, chosen.split, pretrain, shape=chosen.shape, memory=needed),
        **later,
        "machine": machine,
        "reasons": {"machine": reasons},
        "cell": study.config or _bare_cell(study.like),
        "law": _law_block(law),
        "alarms": found,
        "made_from": {"law": sha256_json([law.form, law.count, law.parameters])},
        "versions": code_version(),
    }


def _later_blocks(
    settings: PlanConfig, shape: Shape, pretrain: dict[str, Any], *, seed: int, level: float
) -> dict[str, Any]:
    """Return the blocks of fine-tuning, reward model and PPO, by their laws where given."""
    sft, reward, ppo = settings.sft, settings.reward, settings.ppo
    post = {"pretrain_lr": pretrain["peak_lr"], "seed": seed}
    laws = {
        "sft": laws_of(sft.law, forms=SFT_FORMS, key="sft.law"),
        "reward": laws_of(reward.law, forms=REWARD_FORMS, key="reward.law"),
        "ppo": laws_of(ppo.law, forms=KL_FORMS, key="ppo.law"),
    }
    tuning = choose_sft(
        laws["sft"],
        shape,
        examples=sft.examples,
        flat_nats=sft.flat_nats,
        level=level,
    )
    judging = choose_reward(
        laws["reward"],
        shape,
        pairs=reward.pairs,
        flat_nats=reward.flat_nats,
        level=level,
    )
    spending = choose_kl(
        laws["ppo"],
        shape,
        pairs=judging.values["pairs"] if judging else reward.pairs,
        kl_budget=ppo.kl_budget,
        episodes=ppo.episodes,
        level=level,
    )
    return {
        "stage_laws": {stage: list(found) for stage, found in laws.items() if found},
        "sft": sft_block(sft, **post, by_law=tuning),
        "reward": reward_block(reward, **post, by_law=judging),
        "ppo": ppo_block(ppo, **post, by_law=spending),
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


def _chosen(
    law: Law, budget: Budget, study: Study, settings: PlanConfig, level: float
) -> tuple[Chosen, Any]:
    """Return the shape that the law and the constraints lead to, and memory (GiB) by shape."""

    def memory(shape: Shape) -> float:
        return memory_gib(
            shape,
            devices=budget.devices,
            sharded=settings.sharded,
            checkpointing=settings.activation_checkpointing,
        )

    split = split_of(
        law, budget.flops, constraints_of(settings), level=level, flat_nats=settings.flat_nats
    )
    return choose_shape(split, study, family=settings.shape, memory=memory), memory


def _teller(law: Law, others: Mapping[str, Law]) -> Law:
    """Return the law that forecasts: the first that predicts a loss of the same N."""
    for one in (law, *others.values()):
        if one.form in FORMS and FORMS[one.form].is_surface and one.count == law.count:
            return one
    return law


def _own_alarms(
    rows: list[dict[str, Any]],
    budget: Budget,
    needed: float,
    unseen: tuple[str, str] | None,
    settings: PlanConfig,
) -> list[dict[str, str]]:
    """Return the alarms of unseen experts, laws that disagree and a device too small."""
    found = [{"code": unseen[0], "sentence": unseen[1]}] if unseen else []
    if rows and (apart := disagreement_alarm(rows)):
        found.append({"code": apart.code, "sentence": apart.sentence})
    if small := memory_alarm(
        budget.device, needed, spread=settings.sharded and settings.devices > 1
    ):
        found.append({"code": small[0], "sentence": small[1]})
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
