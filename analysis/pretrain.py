"""The plan's pretraining block and its forecast: N, D, shape, learning rate, batch, schedule.

The budget is kept exactly: D = C / (exact FLOPs per token of the rounded shape), in whole steps.
What the law was fitted under (context, schedule, recipe) is kept, since a change moves its offset.
"""

import math
from typing import Any

from analysis.budgets import Budget
from analysis.final_shape import Chosen
from analysis.stages import rounded
from analysis.study import Study
from analysis.words import number
from scaling.schema import Shape

WHOLE = 1 + 1e-12  # a D given in whole steps is not to lose one by rounding


def pretrain_block(budget: Budget, study: Study, chosen: Chosen) -> dict[str, Any]:
    """Return the pretraining block: N, D, shape, learning rate, batch, schedule."""
    shape, count, planned = chosen.shape, chosen.split.law.count, chosen.tokens
    params = getattr(shape.params, count)
    per_token = shape.flops_per_token
    lr, batch, lr_reason, batch_reason = _rates(study, shape, planned)
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
        "peak_lr": lr,
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
            "peak_lr": lr_reason,
            "batch_tokens": (
                f"{batch_reason}; weights, gradients and moments take"
                f" {number(shape.training_bytes(0) / 2**30, 3)} GiB in fp32"
            ),
            "warmup_steps": warmup_reason,
            "weight_decay": f"that of the {study.source}",
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


def _rates(study: Study, shape: Shape, tokens: float) -> tuple[float, int, str, str]:
    """Return peak learning rate, batch (tokens), and the reason of each."""
    body, rule = shape.params.active_body, study.recipe
    if rule:
        lr = rule.peak_lr(shape.d_model)
        batch = rule.batch_tokens(body, shape.context)
        return (
            rounded(lr, 6),
            batch,
            (
                f"rule of the {study.source}: {rule.lr_base:g} x ({rule.lr_base_width} /"
                f" width)^{rule.lr_width_exponent:g} at width {shape.d_model}"
            ),
            (
                f"rule of the {study.source}: {rule.batch_base} x (N /"
                f" {rule.batch_base_params:g})^{rule.batch_exponent:g}, a power of two of"
                f" sequences of {shape.context}"
            ),
        )
    lr = 1.79 * body**-0.713 * tokens**0.307
    batch = shape.context * 2 ** max(0, round(math.log2(0.58 * tokens**0.571 / shape.context)))
    source = (
        "Step Law, Li et al. 2025 (2503.04715), N without embeddings, cosine to a floor of 1e-5;"
        " not tuned here"
    )
    return (
        rounded(lr),
        batch,
        f"1.79 N^-0.713 D^0.307: {source}",
        f"0.58 D^0.571 tokens, a power of two of sequences of {shape.context}: {source}",
    )


def _warmup(study: Study, *, params: float, tokens: float, batch: int) -> tuple[int, str]:
    if study.warmup_steps is not None:
        return study.warmup_steps, f"that of the {study.source}"
    steps = max(1, round(min(params, 0.02 * tokens) / batch))
    return steps, "warm-up tokens = min(N, 0.02 D): Porian et al. 2024 (2406.19146), capped"
