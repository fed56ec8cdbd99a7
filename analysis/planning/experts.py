"""A planned mixture of experts: its shapes, the law that holds for it, and the choice of experts.

C and the law's N count what one token passes; memory counts every expert (LAWS 1.2). A law of form
`experts` knows experts and may choose among several numbers of them. Any other law of dense runs
treats a mixture as the dense model of equal active parameters, and an alarm says so. The active
parameters stay those of the dense model: routed and shared experts divide d_ff between them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np

from analysis.alarms.alarm import Alarm
from analysis.forms.experts import dense_at
from analysis.laws.law import Law
from analysis.planning.plan import MixtureRow, Plan
from analysis.runs.study import Study
from scaling.schema import Range, checked

# the count of what one token passes, by the count that agrees with it on dense models
OF_A_TOKEN = {"total": "active", "with_head": "multiplying", "non_embedding": "active_body"}
DENSE = 1  # experts of a dense model
USUAL_TOP = 2  # experts that serve a token where neither setting nor study says how many


@dataclass(kw_only=True)
@checked("moe")
class MixtureSettings:
    """Experts of the final run."""

    experts: Any = None
    """Number of experts: null as the study, 1 for a dense model, a list as [1,8,16] lets the law
    choose."""
    top_k: Annotated[int, Range(0, 65_536, note="0 is the study's, or 2")] = 0
    """Number of experts that each token takes; 0 takes the study's, or 2."""
    shared: Annotated[int, Range(0, 65_536)] | None = None
    """Number of experts that every token takes beside these; null takes the study's."""

    def __post_init__(self) -> None:
        """Check the numbers of experts."""
        for n in self.choices():
            if n != int(n) or n < DENSE:
                raise ValueError(f"moe.experts={n} must be a whole number, 1 for a dense model")
        if self.experts is None and (self.top_k or self.shared):
            raise ValueError(
                "moe.top_k and moe.shared need experts; give moe.experts=8 or the like"
            )

    def choices(self) -> tuple[int, ...]:
        """Return the numbers of experts to plan with; () keeps the study's."""
        if self.experts is None:
            return ()
        numbers = self.experts if isinstance(self.experts, Sequence) else [self.experts]
        return tuple(numbers)


def with_mixture(study: Study, settings: MixtureSettings) -> Study:
    """Return the study whose family divides its feed-forward layers among the experts to plan."""
    choices = settings.choices()
    if not choices:
        return study
    (experts,) = choices
    like = study.like
    if experts == DENSE:
        dense = {"n_experts": 0, "top_k": 0, "d_expert": 0, "n_shared_experts": 0}
        return replace(study, like=replace(like, **dense))
    top_k = settings.top_k or like.top_k or min(USUAL_TOP, experts)
    shared = like.n_shared_experts if settings.shared is None else settings.shared
    if top_k > experts:
        raise ValueError(f"moe.top_k={top_k} is more than moe.experts={experts}; lower it")
    if like.bias:
        raise ValueError(
            f"moe.experts={experts} needs layers without biases; set shape.bias=false, or"
            " moe.experts=1 for a dense model"
        )
    shape = replace(
        like,
        n_experts=experts,
        top_k=top_k,
        n_shared_experts=shared,
        d_expert=max(1, round(like.d_ff / (top_k + shared))),
    )
    return replace(study, like=shape)


def experts_of(study: Study) -> int:
    """Return the number of experts of a study's family, 1 for a dense one."""
    return max(DENSE, study.like.n_experts)


def law_for(law: Law, experts: int) -> Law:
    """Return the law at a number of experts, with N counting what one token passes.

    Raises ValueError for a law whose N counted idle experts.
    """
    if law.count in OF_A_TOKEN and _experts_fitted(law)[1] > DENSE:
        raise ValueError(
            f"this law's runs had up to {_experts_fitted(law)[1]:g} experts and count={law.count}"
            f" counts the idle ones, which cost no FLOPs; refit with count={OF_A_TOKEN[law.count]}"
        )
    if experts > DENSE:
        law = replace(
            law, count=OF_A_TOKEN.get(law.count, law.count)
        )  # equal to the former count on dense runs
    if law.form != "experts":
        return law
    law = law.of_form(law.form) if law.forecast else law
    draws = None
    if law.draws is not None:
        named = {name: law.draws[:, i] for i, name in enumerate(law.parameters)}
        draws = np.column_stack(list(dense_at(named, experts).values()))
    intervals = None if law.intervals is None else {**law.intervals, "parameters": {}}
    return replace(
        law,
        form="chinchilla",
        parameters={k: float(v) for k, v in dense_at(law.parameters, experts).items()},
        draws=draws,
        intervals=intervals,
        source=f"{law.source}, at {_with_experts(experts)} of form experts",
    )


def mixture_alarm(law: Law, experts: int) -> Alarm | None:
    """Return an alarm where the law's runs had other experts than the plan.

    `law` is the one that was fitted, before `law_for`.
    """
    low, high = _experts_fitted(law)
    if low <= experts <= high and (law.form == "experts" or low == high):
        return None
    fitted = "no experts" if high == DENSE else f"{low:g} to {high:g} experts"
    if law.form == "experts":
        text = "the gain by experts is extrapolated"
    else:
        text = (
            "N, loss and learning rate are those of a model of as many active parameters"
            " with the experts that the law's runs had; sweep model.n_experts and fit form=experts"
            " count=active to know"
        )
    return Alarm(
        code="experts_unseen",
        sentence=f"the plan has {_with_experts(experts)} and the law's runs had {fitted}: {text}",
    )


def check_choice(law: Law, settings: MixtureSettings) -> None:
    """Refuse several numbers of experts where the law cannot choose, and a number given twice."""
    choices = settings.choices()
    if len(set(choices)) < len(choices):
        raise ValueError(f"moe.experts={list(choices)} names a number twice; name each once")
    if len(choices) > 1 and law.form != "experts":
        raise ValueError(
            f"moe.experts={list(choices)} asks the law to choose, and one of form {law.form} does"
            " not know experts; fit form=experts count=active on a sweep of model.n_experts, or"
            " give one number"
        )


def least_loss(plans: Sequence[Plan]) -> Plan:
    """Return the plan of least forecast loss, with a row for each plan that it was weighed with."""
    best = min(plans, key=_loss_of)
    return replace(best, mixtures=tuple(_row(plan, chosen=plan is best) for plan in plans))


def choice_lines(rows: Sequence[MixtureRow]) -> list[str]:
    """Return the weighed mixtures as text, at most 100 columns."""
    head = f"  {'experts':>7} {'N active':>10} {'N in all':>10} {'D':>10} {'loss':>8} {'GiB':>9}"
    lines = ["experts weighed by the law, each for the same FLOPs; the least loss is taken", head]
    for row in rows:
        lines.append(
            f"  {row.experts:>7} {row.params:>10.4g} {row.params_total:>10.4g}"
            f" {row.tokens:>10.4g} {row.test_loss:>8.4f} {row.memory_gib:>9.3g}"
            f"{'  taken' if row.chosen else ''}"
        )
    return lines


def _loss_of(plan: Plan) -> float:
    assert plan.forecast.test_loss is not None  # a law of form experts predicts a loss
    return plan.forecast.test_loss


def _row(plan: Plan, *, chosen: bool) -> MixtureRow:
    assert plan.cost is not None
    assert plan.cost.params_total is not None
    return MixtureRow(
        experts=max(DENSE, plan.pretrain.model["n_experts"]),
        params=plan.pretrain.params,
        params_total=plan.cost.params_total,
        tokens=plan.pretrain.tokens,
        test_loss=_loss_of(plan),
        interval=plan.forecast.interval,
        memory_gib=plan.cost.memory_per_device_gib,
        chosen=chosen,
    )


def _experts_fitted(law: Law) -> tuple[float, float]:
    """Return the least and the most experts of the runs that the law was fitted to."""
    low, high = law.ranges.get("experts", (DENSE, DENSE))
    return float(low), float(high)


def _with_experts(experts: int) -> str:
    return "no experts" if experts == DENSE else f"{experts} experts"
