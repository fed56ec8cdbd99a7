"""What a plan rests on before any number is chosen: the study's family, and the laws at it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from analysis.laws.law import Law
from analysis.laws.surface_law import FORM as SURFACE
from analysis.planning.budgets import Budget
from analysis.planning.experts import experts_of, law_for, with_mixture
from analysis.planning.real_size import at_real_size
from analysis.planning.settings import DEFAULT_LEVEL, PlanConfig
from analysis.planning.shapes.family import with_family, with_vocabulary
from analysis.runs.study import Study


@dataclass(frozen=True, kw_only=True)
class Basis:
    """What a plan rests on, settled before any number is chosen.

    `law` decides, `others` stand beside it by name, `fitted` is the law as it was fitted; the first
    two hold at the experts of the study's family. `level` is the share that intervals hold,
    `rules` the reasons of settings that follow the budget's size, `lr_batch` the name of the law of
    learning rate and batch, "" for the settings of a law of form surface, else the study's rule.
    """

    fitted: Law
    law: Law
    others: dict[str, Law]
    study: Study
    level: float
    rules: dict[str, str]
    lr_batch: str


def basis_of(
    law: Law, budget: Budget, study: Study, settings: PlanConfig, *, others: Mapping[str, Law]
) -> Basis:
    """Settle the study's family, and the laws at its experts.

    law: the law that decides, as it was fitted
    budget: C, for the vocabulary where a rule takes it from C
    study: the study whose family is planned with
    settings: changes of the family, experts, level, force
    others: laws to compare with, by name
    """
    study = with_mixture(with_family(study, settings.shape), settings.moe)

    def settled(one: Law) -> Law:
        one = law_for(require_usable(one, settings), experts_of(study))
        return counted(one, study, anew=bool(settings.moe.choices()))

    at_experts, beside = settled(law), {name: settled(one) for name, one in others.items()}
    if settings.unique_tokens is not None:
        study = replace(study, unique_tokens=None)  # the plan prices repetition: no alarm for it
    size = at_real_size(study, settings.shape, flops=budget.flops, law=at_experts)
    study = with_vocabulary(
        size.study,
        settings.shape,
        flops=budget.flops,
        target=at_experts.optimum(budget.flops).params,
        count=at_experts.count,
    )
    level = settings.level or (at_experts.intervals or {}).get("level", DEFAULT_LEVEL)
    return Basis(
        fitted=law,
        law=at_experts,
        others=beside,
        study=study,
        level=level,
        rules=size.rules,
        lr_batch=settings.lr_batch or ("" if at_experts.form == SURFACE else size.lr_batch),
    )


def counted(law: Law, study: Study, *, anew: bool = False) -> Law:
    """Return the law with the FLOPs per token of a study's shapes, where it has none of its own.

    law: a law; one that was fitted on a study's folder has them
    study: whose trained shapes count; without any, the law stays as it is
    anew: whether the family is not the one that the law knows, as with other experts
    """
    if not study.shapes or (law.token_flops is not None and not anew):
        return law
    token_flops = study.token_flops(law.count)
    return replace(law, token_flops=token_flops.as_block() if token_flops else None)


def require_usable(law: Law, settings: PlanConfig) -> Law:
    """Return the law; one that is not usable may extrapolate where `settings.force` is set.

    Raises ValueError without `force` for a law that is not usable, and for one whose error by
    distance is the usual one because nothing could be withheld.
    """
    untested = any(alarm.code == "default_form_error" for alarm in law.alarms)
    if law.usable and not untested:
        return law
    if not settings.force:
        what = f"status is {law.status}" if not law.usable else "forms were not tested"
        raise ValueError(
            f"the law's {what}, which no plan should rest on; "
            "extend the study or fix its grid, or set force=true to plan all the same"
        )
    return replace(law, forced=True)
