"""The learning rate over its peak at a step of the schedules that cells train with."""

import math
from collections.abc import Iterable

import numpy as np

from scaling.curves.path import Floats


def rate_factor(
    step: int,
    *,
    name: str,
    warmup_steps: int,
    n_steps: int,
    decay_start: int,
    decay_shape: str = "sqrt",
    floor: float = 0.0,
) -> float:
    """Return the learning rate of `step` (0-based) over its peak.

    wsd: linear warm-up, then 1, then from `decay_start` to `n_steps` down to the floor by 1 - sqrt
    (Hägele et al. 2024) or linearly. cosine: the smaller of a linear warm-up, over at most a
    quarter of the run, and a cosine from 1 at step 0 to the floor at `n_steps`.

    step: of the run, from 0
    name: wsd or cosine
    warmup_steps: of the linear warm-up
    n_steps: of the run
    decay_start: the step at which the decay of wsd begins
    decay_shape: sqrt or linear
    floor: the rate at the end over the peak
    """
    warmup = (step + 1) / max(1, warmup_steps)
    if name == "cosine":
        warmup = (step + 1) / max(1, min(warmup_steps, n_steps // 4))
        progress = step / n_steps
        return min(warmup, floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress)))
    if step < decay_start:
        return min(1.0, warmup)
    done = (step - decay_start + 1) / (n_steps - decay_start + 1)
    shape = 1 - math.sqrt(done) if decay_shape == "sqrt" else 1 - done
    return min(1.0, warmup) * (floor + (1 - floor) * shape)


def rate_factors(
    steps: Iterable[int],
    *,
    name: str,
    warmup_steps: int,
    n_steps: int,
    decay_start: int,
    decay_shape: str = "sqrt",
    floor: float = 0.0,
) -> Floats:
    """Return the learning rates of many steps (0-based) over their peak; see `rate_factor`."""
    return np.array(
        [
            rate_factor(
                int(step),
                name=name,
                warmup_steps=warmup_steps,
                n_steps=n_steps,
                decay_start=decay_start,
                decay_shape=decay_shape,
                floor=floor,
            )
            for step in steps
        ]
    )
