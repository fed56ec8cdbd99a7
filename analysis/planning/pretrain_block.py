"""The plan's pretraining block: N, D, shape, learning rate, batch, schedule.

The plan spends the budget exactly: D = C / (exact FLOPs per token of the rounded shape), in whole
steps. Context, schedule and recipe stay those of the study: a change moves the law's offset.
"""

from dataclasses import dataclass

from analysis.estimation.lr_batch import AXES, settings
from analysis.laws.law import Law
from analysis.laws.published import load_law
from analysis.laws.surface_law import FORM as SURFACE
from analysis.laws.surface_law import BestSettings
from analysis.planning.budgets import Budget
from analysis.planning.experts import OF_A_TOKEN
from analysis.planning.later_stages.blocks import rounded
from analysis.planning.passes import Choice, chosen_decay
from analysis.planning.plan import PretrainBlock
from analysis.planning.shapes.shape import PlannedShape
from analysis.runs.study import Study
from scaling.app.plurals import plural
from scaling.schema import Recipe, Shape, whole_batch

WHOLE = 1 + 1e-12  # a D that is a whole number of steps must not lose a step by rounding
WARMUP_SHARE = 0.02  # warm-up tokens are at most this share of D


def pretrain_block(
    budget: Budget,
    study: Study,
    planned: PlannedShape,
    *,
    lr_batch: Law | None = None,
    level: float = 0.9,
) -> PretrainBlock:
    """Return the pretraining block: N, D, shape, learning rate, batch, schedule.

    budget: C, devices and speed
    study: the study whose context, schedule and recipe are kept
    planned: the shape, and the split of C before rounding
    lr_batch: a law of learning rate and batch, which goes before the study's rule
    level: share that the intervals in the reasons hold
    """
    shape, count = planned.shape, planned.split.law.count
    params = getattr(shape.params, count)
    rates = _rates(study, shape, planned.tokens, lr_batch, level)
    steps = max(1, int(planned.tokens * WHOLE / rates.batch))
    tokens = steps * rates.batch
    flops = tokens * shape.flops_per_token
    warmup, warmup_reason = _warmup(study, params=params, tokens=tokens, batch=rates.batch)
    speed = budget.flops_per_second
    unique = planned.split.constraints.unique_tokens
    decay = chosen_decay(planned.split.law, float(params), float(tokens), unique, level)
    weight_decay, decay_reason = _weight_decay(study, rates, decay)
    return PretrainBlock(
        params_target=float(planned.split.params),
        params=int(params),
        count=count,
        tokens=int(tokens),
        flops=float(flops),
        seconds=float(flops / speed / budget.devices) if speed else 0.0,
        model={**study.family, **shape.as_model()},
        context=shape.context,
        peak_lr=rates.lr,
        batch_tokens=int(rates.batch),
        warmup_steps=warmup,
        weight_decay=weight_decay,
        schedule=study.schedule,
        decay=study.decay,
        seed=study.seed,
        reasons={
            **planned.reasons(),
            "tokens": (
                f"{planned.interval('tokens', f'D* at {planned.split.law.convention}')};"
                f" {_tokens_reason(planned)},"
                f" {steps} whole steps of {rates.batch} tokens"
            ),
            "flops": (
                f"{tokens} tokens x {shape.flops_per_token:.6g} FLOPs per token, counted exactly;"
                f" {100 * (1 - flops / budget.flops):.2g}% of the budget is left;"
                f" 6ND would say {6.0 * params * tokens:.3g}"
            ),
            "seconds": _seconds_reason(budget),
            "context": f"that of the {study.source}: another context is another law",
            "peak_lr": rates.lr_reason,
            "batch_tokens": rates.batch_reason,
            "warmup_steps": warmup_reason,
            "weight_decay": _decay_reason(decay_reason, weight_decay, rates, tokens=tokens),
            "schedule": f"that of the {study.source}: another schedule is another offset E",
            "decay": f"that of the {study.source}",
            "seed": f"that of the {study.source}",
        },
    )


def _seconds_reason(budget: Budget) -> str:
    """Say what the seconds are made of."""
    if not budget.flops_per_second:
        return budget.speed_reason
    return (
        f"FLOPs / {budget.flops_per_second:.3g} FLOP/s / {plural(budget.devices, 'device')}:"
        f" {budget.speed_reason}"
    )


def _tokens_reason(planned: PlannedShape) -> str:
    """Say what D follows from."""
    if planned.split.rises:
        return f"D = {planned.split.tokens:.4g}, past which more passes would raise the loss"
    if planned.split.limited:
        return f"D = {planned.split.tokens:.4g}, all that constraints allow"
    cost = f"{planned.shape.flops_per_token:.4g} FLOPs per token of the rounded shape"
    if planned.split.constraints.given():
        return f"D = what the constraints leave of C / {cost}"
    return f"D = C / {cost}"


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Peak learning rate and batch (tokens), with the reason of each."""

    lr: float
    batch: int
    lr_reason: str
    batch_reason: str
    weight_decay: float | None = None
    decay_reason: str = ""


def _rates(study: Study, shape: Shape, tokens: float, law: Law | None, level: float) -> Rates:
    """Return learning rate and batch: of `law`, else of the study's rule, else of Step Law."""
    if law and law.form == SURFACE:
        return _by_surface(law, shape, tokens, level)
    rates = _by_law(law, shape, tokens, level) if law else {}
    if study.recipe is None:
        rates = {**_by_law(load_law("steplaw2025"), shape, tokens, level), **rates}
    elif len(rates) < len(AXES):
        rates = {**_by_rule(study.recipe, study.source, shape), **rates}
    (lr, lr_reason), (exact_batch, batch_reason) = rates["lr"], rates["batch"]
    return Rates(
        lr=lr,
        batch=whole_batch(exact_batch, shape.context),
        lr_reason=lr_reason,
        batch_reason=(
            f"{batch_reason}; from {exact_batch:.4g} tokens to a power of two of sequences of"
            f" {shape.context}"
        ),
    )


def _by_rule(rule: Recipe, source: str, shape: Shape) -> dict[str, tuple[float, str]]:
    """Return {"lr" | "batch": (value, reason)} of the study's rule."""
    width = shape.d_model
    return {
        "lr": (
            rounded(rule.peak_lr(width), 6),
            f"rule of the {source}: {rule.lr_base:g} x ({rule.lr_base_width} /"
            f" width)^{rule.lr_width_exponent:g} at width {width}",
        ),
        "batch": (
            rule.unrounded_batch(shape.params.active_body),
            f"rule of the {source}: {rule.batch_base} x (N /"
            f" {rule.batch_base_params:g})^{rule.batch_exponent:g}",
        ),
    }


def _by_law(law: Law, shape: Shape, tokens: float, level: float) -> dict[str, tuple[float, str]]:
    """Return {"lr" | "batch": (value, reason)} of a law of learning rate and batch."""
    n = getattr(shape.params, OF_A_TOKEN.get(law.count, law.count))
    rates = {}
    for axis, (value, low, high) in settings(law, n, tokens, level).items():
        powers = "".join(
            f" {letter}^{law.parameters[f'{p}_{axis}']:.3g}"
            for p, letter in (("p", "N"), ("q", "D"))
            if f"{p}_{axis}" in law.parameters
        )
        ends = f" ({100 * level:g}% [{low:.4g}, {high:.4g}])" if high > low else ""
        source = law.source if law.source != "fitted" else f"fitted on {law.n_runs} runs"
        tuned = "" if law.n_runs else "; not tuned here"
        reason = f"{law.parameters[f'k_{axis}']:.3g}{powers}{ends}: {source}, N {law.count}{tuned}"
        rates[axis] = (rounded(value) if axis == "lr" else value, reason)
    return rates


def _by_surface(law: Law, shape: Shape, tokens: float, level: float) -> Rates:
    """Return the settings of a surface: a whole batch, and the best rate at that batch."""
    n = getattr(shape.params, OF_A_TOKEN.get(law.count, law.count))
    free = law.settings(n, tokens, level)
    batch = whole_batch(free.batch, shape.context)
    at = law.settings(n, tokens, level, batch=float(batch))
    rest = "".join(f"; {sentence}" for sentence in at.outside)
    source = f"surface of {law.n_runs} runs, N {law.count}"

    def ends(name: str, settings: BestSettings) -> str:
        pair = settings.intervals.get(name)
        return f" ({100 * level:g}% [{pair[0]:.4g}, {pair[1]:.4g}])" if pair else ""

    decay = at.weight_decay
    return Rates(
        lr=rounded(at.lr),
        batch=batch,
        lr_reason=f"best rate at this batch{ends('lr', at)}: {source}{rest}",
        batch_reason=(
            f"best batch {free.batch:.4g}{ends('batch', free)}: {source}; from {free.batch:.4g}"
            f" tokens to a power of two of sequences of {shape.context}"
        ),
        weight_decay=None if decay is None else rounded(decay),
        decay_reason="" if decay is None else f"best{ends('weight_decay', at)}: {source}",
    )


def _weight_decay(study: Study, rates: Rates, decay: Choice | None) -> tuple[float, str]:
    """Return the weight decay and where it comes from.

    That is a law of repeated data that knows it, a surface that knows it, else the study.
    """
    if decay is not None:
        return rounded(decay.value), decay.reason
    if rates.weight_decay is not None:
        return rates.weight_decay, rates.decay_reason
    return study.weight_decay, f"that of the {study.source}"


def _decay_reason(source: str, decay: float, rates: Rates, *, tokens: int) -> str:
    """Say where weight decay comes from, and over how much of the run it averages.

    The weights of AdamW are a mean over the last B / (lr wd D) of D (Wang & Aitchison 2024,
    2405.13698).
    """
    if not decay:
        return source
    scale = rates.batch / (rates.lr * decay * tokens)
    return (
        f"{source}; AdamW then averages over B / (lr wd D) = {scale:.3g} of the run (Wang &"
        " Aitchison 2024, 2405.13698)"
    )


def _warmup(study: Study, *, params: float, tokens: float, batch: int) -> tuple[int, str]:
    """Return the warm-up steps and their reason."""
    if study.warmup_steps is not None:
        return study.warmup_steps, f"that of the {study.source}"
    steps = max(1, round(min(params, WARMUP_SHARE * tokens) / batch))
    return steps, "warm-up tokens = min(N, 0.02 D): Porian et al. 2024 (2406.19146), capped"
