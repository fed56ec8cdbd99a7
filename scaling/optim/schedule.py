"""The learning rate at a step of a schedule."""

import torch

from scaling.config import ScheduleConfig
from scaling.curves.rate import rate_factor

COOLED = (
    0.11  # The most of the peak rate at a cooled run's last step (a tenth: Hoffmann et al. 2022).
)
SHORTEST_DECAY = 0.1  # Of a run's steps; 10 to 20 % match a cosine (Hägele et al. 2024).


def set_lr(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set every group's learning rate to `factor` times its peak."""
    for group in optimizer.param_groups:
        group["lr"] = factor * group["peak"]


def lr_factor(step: int, *, schedule: ScheduleConfig, n_steps: int, decay_start: int) -> float:
    """Return the learning rate of `step` (0-based) over its peak; see `rate_factor`.

    step: of the run, from 0
    schedule: name, warm-up, floor and shape of the decay
    n_steps: of the run
    decay_start: the step at which the decay of wsd begins
    """
    return rate_factor(
        step,
        name=schedule.name,
        warmup_steps=schedule.warmup_steps,
        n_steps=n_steps,
        decay_start=decay_start,
        decay_shape=schedule.decay_shape,
        floor=schedule.floor,
    )


def undercooled(schedule: ScheduleConfig, *, n_steps: int, decay_start: int) -> bool:
    """Say whether a run ends at too high a rate, or lowered it over too few of its steps."""
    last = lr_factor(n_steps - 1, schedule=schedule, n_steps=n_steps, decay_start=decay_start)
    share = 1.0 if schedule.name == "cosine" else (n_steps - decay_start) / n_steps
    return last > COOLED or share < SHORTEST_DECAY
