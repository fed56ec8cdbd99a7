"""The plan's pretraining block and its forecast: N, D, shape, learning rate, batch, schedule.

The budget is kept exactly: D = C / (exact FLOPs per token of the rounded shape), in whole steps.
What the law was fitted under (context, schedule, recipe) is kept, since a change moves its offset.
"""

from dataclasses import dataclass
from typing import Any

from analysis.estimation.lr_batch import AXES, settings
from analysis.laws.law import Law
from analysis.laws.published import load_law
from analysis.number_text import number
from analysis.planning.budgets import Budget
from analysis.planning.experts import OF_A_TOKEN
from analysis.planning.later_stages.blocks import rounded
from analysis.planning.shape import Chosen
from analysis.runs.study import Study
from scaling.schema import Shape, whole_batch

WHOLE = 1 + 1e-12  # a D given in whole steps is not to lose one by rounding


def pretrain_block(
    budget: Budget,
    study: Study,
    chosen: Chosen,
    *,
    lr_batch: Law | None = None,
    level: float = 0.9,
) -> dict[str, Any]:
    """Return the pretraining block: N, D, shape, learning rate, batch, schedule.

    `lr_batch` is a law of learning rate and batch, which goes before the study's rule.
    """
    shape, count, planned = chosen.shape, chosen.split.law.count, chosen.tokens
    params = getattr(shape.params, count)
    per_token = shape.flops_per_token
    rates = _rates(study, shape, planned, lr_batch, level)
    batch = rates.batch
    steps = max(1, int(planned * WHOLE / batch))
    tokens = steps * batch
    flops = tokens * per_token
    warmup, warmup_reason = _warmup(study, params=params, tokens=tokens, batch=batch)
    speed = budget.flops_per_second
    return {
        "params_target": float(chosen.split.params),
        "params": int(params),
        "count": count,
        "tokens": int(tokens),
        "flops": float(flops),
        "seconds": float(flops / speed / budget.devices) if speed else 0.0,
        "model": {**study.family, **shape.as_model()},
        "context": shape.context,
        "peak_lr": rates.lr,
        "batch_tokens": int(batch),
        "warmup_steps": warmup,
        "weight_decay": study.weight_decay,
        "schedule": study.schedule,
        "decay": study.decay,
        "seed": study.seed,
        "reasons": {
            **chosen.reasons(),
            "tokens": (
                f"{chosen.interval('tokens', 'D* at C = 6ND')}; {_tokens_reason(chosen)},"
                f" {steps} whole steps of {batch} tokens"
            ),
            "flops": (
                f"{tokens} tokens x {per_token:.6g} FLOPs per token, counted exactly;"
                f" {100 * (1 - flops / budget.flops):.2g}% of the budget is left;"
                f" 6ND would say {6.0 * params * tokens:.3g}"
            ),
            "seconds": (
                f"FLOPs / {speed:.3g} FLOP/s / {budget.devices} devices: {budget.speed_reason}"
                if speed
                else budget.speed_reason
            ),
            "context": f"that of the {study.source}: another context is another law",
            "peak_lr": rates.lr_reason,
            "batch_tokens": (
                f"{rates.batch_reason}; weights, gradients and moments take"
                f" {number(shape.training_bytes(0) / 2**30, 3)} GiB in fp32"
            ),
            "warmup_steps": warmup_reason,
            "weight_decay": _decay_reason(study, lr=rates.lr, batch=batch, tokens=tokens),
            "schedule": f"that of the {study.source}: another schedule is another offset E",
            "decay": f"that of the {study.source}",
            "seed": f"that of the {study.source}",
        },
    }


def _tokens_reason(chosen: Chosen) -> str:
    """Say what D follows from."""
    if chosen.split.limited:
        return f"D = {chosen.split.tokens:.4g}, all that constraints allow"
    cost = f"{chosen.shape.flops_per_token:.4g} FLOPs per token of the rounded shape"
    if chosen.split.constraints.given():
        return f"D = what the constraints leave of C / {cost}"
    return f"D = C / {cost}"


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Peak learning rate and batch (tokens), with the reason of each."""

    lr: float
    batch: int
    lr_reason: str
    batch_reason: str


def _rates(study: Study, shape: Shape, tokens: float, law: Law | None, level: float) -> Rates:
    """Return what `law` says, what it leaves out by the study's rule, without one by Step Law."""
    rule = study.recipe
    told = _by_law(law, shape, tokens, level) if law else {}
    if rule is None:
        told = {**_by_law(load_law("steplaw2025"), shape, tokens, level), **told}
    elif len(told) < len(AXES):
        source, width = f"rule of the {study.source}", shape.d_model
        body = shape.params.active_body
        told = {
            "lr": (
                rounded(rule.peak_lr(width), 6),
                f"{source}: {rule.lr_base:g} x ({rule.lr_base_width} /"
                f" width)^{rule.lr_width_exponent:g} at width {width}",
            ),
            "batch": (
                rule.unrounded_batch(body),
                f"{source}: {rule.batch_base} x (N /"
                f" {rule.batch_base_params:g})^{rule.batch_exponent:g}",
            ),
            **told,
        }
    (lr, why), (wanted, rest) = told["lr"], told["batch"]
    batch = whole_batch(wanted, shape.context)
    return Rates(
        lr=lr,
        batch=batch,
        lr_reason=why,
        batch_reason=(
            f"{rest}; from {wanted:.4g} tokens to a power of two of sequences of {shape.context}"
        ),
    )


def _by_law(law: Law, shape: Shape, tokens: float, level: float) -> dict[str, tuple[float, str]]:
    """Return {"lr" | "batch": (value, reason)} of a law of learning rate and batch."""
    n = getattr(shape.params, OF_A_TOKEN.get(law.count, law.count))
    found = {}
    for axis, (value, low, high) in settings(law, n, tokens, level).items():
        powers = "".join(
            f" {letter}^{law.parameters[f'{p}_{axis}']:.3g}"
            for p, letter in (("p", "N"), ("q", "D"))
            if f"{p}_{axis}" in law.parameters
        )
        ends = f" ({100 * level:g}% [{low:.4g}, {high:.4g}])" if high > low else ""
        source = law.source if law.source != "fitted" else f"fitted on {law.n_runs} runs"
        tuned = "" if law.n_runs else "; not tuned here"
        why = f"{law.parameters[f'k_{axis}']:.3g}{powers}{ends}: {source}, N {law.count}{tuned}"
        found[axis] = (rounded(value) if axis == "lr" else value, why)
    return found


def _decay_reason(study: Study, *, lr: float, batch: int, tokens: int) -> str:
    """Say where weight decay is from, and over how much of the run it averages.

    AdamW's weights are a mean over the last B / (lr wd D) of D (Wang & Aitchison 2024, 2405.13698).
    """
    source = f"that of the {study.source}"
    if not study.weight_decay:
        return source
    scale = batch / (lr * study.weight_decay * tokens)
    return (
        f"{source}; AdamW then averages over B / (lr wd D) = {scale:.3g} of the run (Wang &"
        " Aitchison 2024, 2405.13698)"
    )


def _warmup(study: Study, *, params: float, tokens: float, batch: int) -> tuple[int, str]:
    if study.warmup_steps is not None:
        return study.warmup_steps, f"that of the {study.source}"
    steps = max(1, round(min(params, 0.02 * tokens) / batch))
    return steps, "warm-up tokens = min(N, 0.02 D): Porian et al. 2024 (2406.19146), capped"
