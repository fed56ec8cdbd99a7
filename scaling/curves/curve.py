"""One loss curve: rows (step, lr, loss) after the warm-up of one run."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from scaling.curves.path import Floats, Path, checked_rows, path

NO_ROWS: Floats = np.zeros(0)


@dataclass(frozen=True, kw_only=True)
class Curve:
    """The rows of one curve from after its warm-up.

    name: of the schedule or the cell, as messages call it
    step: of the rows, increasing (n,)
    lr: the rate from this step on (n,)
    loss: test or training loss in nats per token, above 0 (n,)
    warmup_steps: over which the rate rose linearly from 0 to the peak
    peak_lr: the rate at the end of the warm-up
    weight: of every row in the fit, 1 by default; 0 for a row that another curve has too, as the
        trunk's rows in each of its branches (n,)
    """

    name: str
    step: Floats
    lr: Floats
    loss: Floats
    warmup_steps: float
    peak_lr: float
    weight: Floats = field(default_factory=lambda: NO_ROWS)

    @property
    def path(self) -> Path:
        """The sums and changes of its rate."""
        return path(self.step, self.lr, warmup_steps=self.warmup_steps, peak_lr=self.peak_lr)

    @property
    def weights(self) -> Floats:
        """The weight of every row (n,)."""
        return self.weight if len(self.weight) else np.ones_like(self.step)

    def without(self, rows: slice) -> "Curve":
        """Return the curve with the weight 0 at these rows."""
        weight = self.weights.copy()
        weight[rows] = 0.0
        return Curve(
            name=self.name,
            step=self.step,
            lr=self.lr,
            loss=self.loss,
            warmup_steps=self.warmup_steps,
            peak_lr=self.peak_lr,
            weight=weight,
        )


def make_curve(
    step: ArrayLike,
    lr: ArrayLike,
    loss: ArrayLike,
    *,
    warmup_steps: float,
    peak_lr: float,
    name: str = "the curve",
    weight: ArrayLike | None = None,
) -> Curve:
    """Return a curve of its rows from the end of the warm-up on.

    step: of every row, strictly increasing (n,)
    lr: the rate from this step on (n,)
    loss: in nats per token (n,)
    warmup_steps: rows before the end of the warm-up are left out: no law here describes them
    peak_lr: the rate at the end of the warm-up
    name: for messages
    weight: of every row; None is 1 (n,)

    Raises ValueError, in one sentence, for rows that are no curve.
    """
    steps, rates = np.asarray(step, dtype=np.float64), np.asarray(lr, dtype=np.float64)
    losses = np.asarray(loss, dtype=np.float64)
    if steps.shape != losses.shape:
        raise ValueError(
            f"{name} has {steps.size} steps and {losses.size} losses; give two lists of equal"
            " length"
        )
    if not np.isfinite(losses).all() or (losses.size and losses.min() <= 0):
        raise ValueError(f"{name} has a loss that is not above 0; remove the row")
    weights = np.ones_like(losses) if weight is None else np.asarray(weight, dtype=np.float64)
    after = steps >= warmup_steps
    if not after.any():
        raise ValueError(
            f"{name} has no row after its warm-up of {warmup_steps:g} steps; give later rows"
        )
    try:
        checked_rows(steps[after], rates[after], warmup_steps=warmup_steps, peak_lr=peak_lr)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    return Curve(
        name=name,
        step=steps[after],
        lr=rates[after],
        loss=losses[after],
        warmup_steps=float(warmup_steps),
        peak_lr=float(peak_lr),
        weight=weights[after],
    )
