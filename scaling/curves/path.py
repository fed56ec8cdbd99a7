"""The path of a learning rate: its sum at every row, and its changes (the warm-up's included).

A row is (step, lr): the rate holds from this step until the next row, as in the released tables of
Luo et al. (2025, 2503.12811), whose first row at a lower rate still has the loss of the higher one.
Before the first row the rate rises linearly from 0 to the peak over the warm-up and stays there.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

WARMUP_NODES = 32  # The warm-up's rise is summed at so many midpoints; 512 change a loss by 1e-5.
MOST_CHANGES = 768  # A longer list of changes is merged into so many; see `_merged`.


@dataclass(frozen=True, kw_only=True)
class Path:
    """The sums that a schedule law needs, at every row of one curve.

    steps: of the rows, increasing (n,)
    sums: sum of the rates up to and with the row's step (n,)
    change_steps: step of every change of the rate (m,)
    change_sizes: rate before the change less the rate after it; below 0 where the rate rises (m,)
    change_rates: rate after the change (m,)
    change_sums: sum of the rates before the step of the change (m,)
    """

    steps: Floats
    sums: Floats
    change_steps: Floats
    change_sizes: Floats
    change_rates: Floats
    change_sums: Floats


def path(step: ArrayLike, lr: ArrayLike, *, warmup_steps: float, peak_lr: float) -> Path:
    """Return the path of one schedule.

    step: of the rows, strictly increasing, none before the end of the warm-up (n,)
    lr: the rate from this step on, above or equal to 0 (n,)
    warmup_steps: over which the rate rises linearly from 0 to the peak; 0 is none
    peak_lr: the rate at the end of the warm-up

    Raises ValueError for rows that are none of a schedule.
    """
    steps, rates = checked_rows(step, lr, warmup_steps=warmup_steps, peak_lr=peak_lr)
    rise = peak_lr * (warmup_steps + 1) / 2 if warmup_steps else 0.0
    before = rise + peak_lr * max(0.0, steps[0] - warmup_steps - 1)
    starts = before + np.concatenate([[0.0], np.cumsum(rates[:-1] * np.diff(steps))])
    drops = np.concatenate([[peak_lr], rates[:-1]]) - rates
    at = np.flatnonzero(drops)
    changes = _merged(np.stack([steps[at], drops[at], rates[at], starts[at]]))
    changes = np.concatenate([_warmup(warmup_steps, peak_lr), changes], axis=1)
    return Path(
        steps=steps,
        sums=starts + rates,
        change_steps=changes[0],
        change_sizes=changes[1],
        change_rates=changes[2],
        change_sums=changes[3],
    )


def checked_rows(
    step: ArrayLike, lr: ArrayLike, *, warmup_steps: float, peak_lr: float
) -> tuple[Floats, Floats]:
    """Return steps and rates as floats; ValueError says what is wrong with them."""
    steps, rates = np.asarray(step, dtype=np.float64), np.asarray(lr, dtype=np.float64)
    if steps.ndim != 1 or steps.shape != rates.shape or not len(steps):
        raise ValueError(
            f"step has the shape {steps.shape} and lr {rates.shape}; give two lists of equal "
            "length with at least one row"
        )
    if not (np.isfinite(steps).all() and np.isfinite(rates).all()) or rates.min() < 0:
        raise ValueError("step and lr must be finite and lr at least 0; remove the other rows")
    if not (peak_lr > 0 and np.isfinite(peak_lr)):
        raise ValueError(f"the peak rate is {peak_lr:g}; give the highest rate, above 0")
    if not (warmup_steps >= 0 and np.isfinite(warmup_steps)):
        raise ValueError(f"the warm-up has {warmup_steps:g} steps; give 0 or more")
    if np.any(np.diff(steps) <= 0):
        where = int(np.argmax(np.diff(steps) <= 0))
        raise ValueError(
            f"step {steps[where + 1]:g} follows step {steps[where]:g}; sort the rows of a "
            "schedule by step and keep one row a step"
        )
    if steps[0] < warmup_steps:
        raise ValueError(
            f"the first row is at step {steps[0]:g}, before the warm-up ends at step "
            f"{warmup_steps:g}; give the rows from there on"
        )
    return steps, rates


def _warmup(warmup_steps: float, peak_lr: float) -> Floats:
    """Return the rise of the warm-up as changes (4, m): step, size, rate, sum before it."""
    if warmup_steps < 1:
        return np.array([[0.0], [-peak_lr], [peak_lr], [0.0]])
    n = int(min(WARMUP_NODES, max(1, warmup_steps)))
    done = (np.arange(n) + 0.5) / n
    return np.stack(
        [
            warmup_steps * done,
            np.full(n, -peak_lr / n),
            peak_lr * done,
            peak_lr * warmup_steps * done**2 / 2,
        ]
    )


def _merged(changes: Floats) -> Floats:
    """Return at most about MOST_CHANGES changes with the same sum.

    Neighbours merge into their mean, weighted by size, where together they are a small part of all
    changes and they all lower (or all raise) the rate. A large change stays alone, so that the loss
    right after it is exact.
    """
    if changes.shape[1] <= MOST_CHANGES:
        return changes
    _, sizes, _, _ = changes
    share = np.abs(sizes) / np.abs(sizes).sum()
    position = np.arange(len(sizes)) / len(sizes)
    rank = np.floor((np.cumsum(share) + position - share / 2) / 2 * MOST_CHANGES)
    sign = np.cumsum(np.concatenate([[0], np.diff(np.sign(sizes)) != 0]))
    big = np.cumsum(share > 1 / MOST_CHANGES)
    fresh = np.diff(rank) + np.diff(sign) + np.diff(big) != 0
    group = np.cumsum(np.concatenate([[0], fresh]))
    weight = np.abs(sizes)
    total = np.bincount(group, weight)
    means = [np.bincount(group, row * weight) / total for row in changes[[0, 2, 3]]]
    merged = [means[0], np.bincount(group, sizes), means[1], means[2]]
    return np.stack(merged).astype(np.float64)
