"""The goal of a design: an interval of the forecast, or of the optimal size, at a budget.

`loss`: half the width, in nats, of the interval that `scaling plan` gives the forecast, at the
law's own N* and D* for `flops` (the plan rounds N to a shape). `params`: half the logarithmic width
of the interval of N*, as a factor less one.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from analysis.forms import FORMS
from analysis.laws.law import BEYOND, Law

QUANTITIES = ("loss", "params")


@dataclass(frozen=True, kw_only=True)
class Goal:
    """A target; 0 is no limit.

    `precision` is a half-width, in nats (loss) or relative (params), `max_flops` the FLOPs of the
    study, `level` the share that the interval holds.
    """

    flops: float
    quantity: str = "loss"
    precision: float = 0.0
    max_flops: float = 0.0
    level: float = 0.9

    def __post_init__(self) -> None:
        """Refuse a target out of range."""
        if not self.flops > 0:
            raise ValueError(
                f"target.flops={self.flops:g} must be positive; give the final run's FLOPs, as 1e21"
            )
        if self.quantity not in QUANTITIES:
            raise ValueError(
                f"target.quantity={self.quantity} is unknown; choose one of {', '.join(QUANTITIES)}"
            )
        if min(self.precision, self.max_flops) < 0:
            raise ValueError("target.precision and target.max_flops must not be negative")

    @property
    def z(self) -> float:
        """The normal quantile of the level."""
        return float(ndtri((1 + self.level) / 2))


@dataclass(frozen=True, kw_only=True)
class Standing:
    """Where the goal stands: value, interval, half-width in the goal's unit.

    `sd` is the deviation that more cells reduce, `floor` the one that they do not (scatter of one
    run, hindcasts), both of the logarithm.
    """

    value: float
    low: float
    high: float
    half: float
    sd: float
    floor: float


def standing(law: Law, goal: Goal) -> Standing | None:
    """Return the interval that the law gives the goal; None without draws."""
    optimum = law.optimum(goal.flops, goal.level, force=True)
    if goal.quantity not in optimum.intervals:
        return None
    low, high = optimum.intervals[goal.quantity]
    if goal.quantity == "params":
        half = float(np.log(high / low)) / 2
        return Standing(
            value=optimum.params,
            low=low,
            high=high,
            half=float(np.expm1(half)),
            sd=half / goal.z,
            floor=0.0,
        )
    mean = law.predict(optimum.params, optimum.tokens, goal.level, noise=False, force=True)
    assert mean.low is not None
    assert mean.high is not None
    whole, part = (float(np.log(b / a)) / 2 for a, b in ((low, high), (mean.low, mean.high)))
    return Standing(
        value=float(mean.loss),
        low=low,
        high=high,
        half=(high - low) / 2,
        sd=part / goal.z,
        floor=float(np.sqrt(max(whole**2 - part**2, 0.0))) / goal.z,
    )


def half_width(sd: float, floor: float, *, value: float, goal: Goal) -> float:
    """Return the half-width in the goal's unit of two deviations of the logarithm.

    sd: what more cells reduce
    floor: what they do not
    value: the target's value
    goal: the target, with its level
    """
    half = goal.z * float(np.hypot(sd, floor))
    return float(np.expm1(half)) if goal.quantity == "params" else value * float(np.sinh(half))


def allowed_sd(goal: Goal, standing: Standing) -> float:
    """Return the deviation `sd` at which the precision is met, 0 where the floor is above it."""
    half = (
        np.log1p(goal.precision)
        if goal.quantity == "params"
        else np.arcsinh(goal.precision / standing.value)
    )
    return float(np.sqrt(max((half / goal.z) ** 2 - standing.floor**2, 0.0)))


def check_goal(goal: Goal, *, largest: float) -> None:
    """Refuse a target inside the range of the cells, whose largest has C = `largest`."""
    if goal.flops <= BEYOND * largest:
        raise ValueError(
            f"target.flops={goal.flops:g} lies inside the range of the cells, up to {largest:.3g};"
            " set it to the final run's FLOPs, beyond them"
        )


def check_law(law: Law) -> None:
    """Refuse a law that gives no loss from N and D alone."""
    form = FORMS.get(law.form)
    needed = [] if form is None else [v for v in form.variables if v not in form.optional]
    if form is not None and form.own_method:
        raise ValueError(
            f"a design chooses N and D, and a law of form {law.form} is of settings too; leave law"
            " out, so that the best row of each N and D is fitted, or give one of form chinchilla"
        )
    if form is None or not form.is_surface or set(needed) - {"params", "tokens", "flops"}:
        raise ValueError(
            f"a law of form {law.form} is no loss in N and D; give one of form chinchilla, as"
            " besiroglu2024"
        )
