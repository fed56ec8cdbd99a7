"""The learning rate at a step of a schedule."""

import math

import torch

from scaling.config import ScheduleConfig

COOLED = (
    0.11  # The most of the peak rate at a cooled run's last step (a tenth: Hoffmann et al. 2022).
)
SHORTEST_DECAY = 0.1  # Of a run's steps; 10 to 20 % match a cosine (Hägele et al. 2024).


def set_lr(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set every group's learning rate to `factor` times its peak."""
    for group in optimizer.param_groups:
        group["lr"] = factor * group["peak"]


def lr_factor(step: int, *, schedule: ScheduleConfig, n_steps: int, decay_start: int) -> float:
    """Return the learning rate of `step` (0-based) over its peak.

    wsd: linear warm-up, then 1, then from `decay_start` to `n_steps` down to the floor by 1 - sqrt
    (Hägele et al. 2024) or linearly. cosine: the smaller of a linear warm-up, over at most a
    quarter of the run, and a cosine from 1 at step 0 to the floor at `n_steps`.

    step: of the run, from 0
    schedule: name, warm-up, floor and shape of the decay
    n_steps: of the run
    decay_start: the step at which the decay of wsd begins
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


def undercooled(schedule: ScheduleConfig, *, n_steps: int, decay_start: int) -> bool:
    """Say whether a run ends at too high a rate, or lowered it over too few of its steps."""
    last = lr_factor(n_steps - 1, schedule=schedule, n_steps=n_steps, decay_start=decay_start)
    share = 1.0 if schedule.name == "cosine" else (n_steps - decay_start) / n_steps
    return last > COOLED or share < SHORTEST_DECAY
