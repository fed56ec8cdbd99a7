"""AdamW (Loshchilov & Hutter 2019) with decay on matrices only, and the learning-rate schedules."""

import math

import torch
from torch import nn

from scaling.config import OptimConfig, ScheduleConfig

EMBEDDINGS = ("embedding", "positions", "head")


def make_optimizer(model: nn.Module, config: OptimConfig, peak_lr: float) -> torch.optim.AdamW:
    """Return a fused AdamW of three groups, each with its `peak` learning rate.

    Hidden matrices take `peak_lr` and the weight decay; embeddings and vectors keep the rule's own
    rates, scaled as `peak_lr` is to the rule's.
    """
    width = model.config.d_model  # type: ignore[union-attr]
    scale = peak_lr / config.recipe().peak_lr(width)  # type: ignore[arg-type]
    matrices, vectors, tables = [], [], []
    for name, weight in model.named_parameters():
        if not weight.requires_grad:
            continue
        group = vectors if weight.ndim < 2 else tables if name.startswith(EMBEDDINGS) else matrices
        group.append(weight)
    groups = [
        {"params": matrices, "peak": peak_lr, "weight_decay": config.weight_decay},
        {"params": vectors, "peak": config.lr_base * scale, "weight_decay": 0.0},
        {"params": tables, "peak": config.lr_embedding * scale, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [g for g in groups if g["params"]],
        lr=peak_lr,
        betas=(config.beta1, config.beta2),
        eps=config.eps,
        fused=True,
    )


def set_lr(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set every group's learning rate to `factor` times its peak."""
    for group in optimizer.param_groups:
        group["lr"] = factor * group["peak"]


def lr_factor(step: int, *, schedule: ScheduleConfig, n_steps: int, decay_start: int) -> float:
    """Return the learning rate of `step` (0-based) over its peak.

    wsd: linear warm-up, 1, then from `decay_start` to `n_steps` down to the floor by 1 - sqrt
    (Hägele et al. 2024) or linearly. cosine: from the end of warm-up to `n_steps`. The warm-up is
    shortened to a quarter of a run that would not leave it.
    """
    warmup = (step + 1) / max(1, schedule.warmup_steps)
    if schedule.name == "cosine":
        warmup = (step + 1) / max(1, min(schedule.warmup_steps, n_steps // 4))
        progress = step / n_steps
        return min(
            warmup, schedule.floor + (1 - schedule.floor) * 0.5 * (1 + math.cos(math.pi * progress))
        )
    if step < decay_start:
        return min(1.0, warmup)
    done = (step - decay_start + 1) / (n_steps - decay_start + 1)
    shape = 1 - math.sqrt(done) if schedule.decay_shape == "sqrt" else 1 - done
    return min(1.0, warmup) * (schedule.floor + (1 - schedule.floor) * shape)
