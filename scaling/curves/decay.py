"""The best share of a run's steps over which a warm-up, stable, decay schedule decays."""

from dataclasses import dataclass, replace

import numpy as np

from scaling.curves.fit import NO_DROP, NOT_IDENTIFIED, CurveFit
from scaling.curves.path import Floats
from scaling.curves.rate import rate_factors

SHARES = tuple(np.round(np.geomspace(0.03, 0.95, 24), 3))  # of the steps, that are compared
ROWS = 160  # of a decay: its rate is held over each
DRAWS = 100  # of the parameters, for the interval of the share
FLAT = 1e-3  # of the loss: shares this near to the best are as good


@dataclass(frozen=True, kw_only=True)
class BestDecay:
    """The share of the steps at which a decay ends lowest.

    n_steps: of the run
    fraction: the best share of the steps
    loss: forecast at the end with it, in nats per token
    interval: of that loss
    level: of the intervals
    fraction_interval: of the best share, over draws of the parameters and over the laws
    flat: the shares whose loss is within a thousandth of the best
    fractions: the shares that were compared (n,)
    losses: forecast at the end with each (n,)
    at_edge: whether the best share is the least or the largest that was compared
    """

    n_steps: int
    fraction: float
    loss: float
    interval: tuple[float, float]
    level: float
    fraction_interval: tuple[float, float]
    flat: tuple[float, float]
    fractions: Floats
    losses: Floats
    at_edge: bool


def decay_rows(
    n_steps: int, share: float, *, warmup_steps: float, shape: str = "linear", floor: float = 0.0
) -> tuple[Floats, Floats]:
    """Return steps and rates over the peak of warm-up, stable, decay, from after the warm-up.

    n_steps: of the run
    share: of the steps over which the rate decays
    warmup_steps: of the linear warm-up
    shape: linear or sqrt, as `rate_factor`
    floor: the rate at the end over the peak
    """
    first = int(np.ceil(max(warmup_steps, 1)))
    start = max(first + 1, n_steps - max(1, round(share * n_steps)))
    rows = np.unique(np.linspace(start, n_steps, ROWS).astype(int))
    steps = np.concatenate([[first], rows[rows > first]])
    factors = rate_factors(
        steps - 1,
        name="wsd",
        warmup_steps=0,
        n_steps=n_steps,
        decay_start=start,
        decay_shape=shape,
        floor=floor,
    )
    return steps.astype(np.float64), factors


def best_decay(
    fit: CurveFit, n_steps: int, *, shape: str = "linear", floor: float = 0.0, level: float = 0.9
) -> BestDecay:
    """Return the best share of `n_steps` over which to decay from the peak rate.

    fit: whose warm-up and peak rate the run has
    n_steps: of the run, its warm-up included
    shape: of the decay, linear or sqrt (1 - sqrt, Hägele et al. 2405.18392)
    floor: the rate at the end over the peak
    level: of the intervals

    Raises ValueError where the fit cannot say what a decay does, and for too few steps.
    """
    if shape not in ("linear", "sqrt"):
        raise ValueError(f"shape={shape} is no decay; give linear or sqrt")
    if fit.status in (NO_DROP, NOT_IDENTIFIED):
        raise ValueError(f"no decay can be chosen: {fit.why}")
    if n_steps < 2 * fit.warmup_steps + 10:
        raise ValueError(
            f"{n_steps} steps leave no room for a decay after a warm-up of {fit.warmup_steps:g};"
            f" give at least {2 * fit.warmup_steps + 10:g}"
        )
    rows = [
        decay_rows(n_steps, share, warmup_steps=fit.warmup_steps, shape=shape, floor=floor)
        for share in SHARES
    ]
    ends = [fit.end(steps, factors * fit.peak_lr, level) for steps, factors in rows]
    losses = np.array([loss for loss, _, _ in ends])
    best = int(np.argmin(losses))
    near = np.flatnonzero(losses <= losses[best] * (1 + FLAT))
    tails = [(1 - level) / 2, (1 + level) / 2]
    low, high = np.quantile(_best_of_draws(fit, rows), tails)
    return BestDecay(
        n_steps=n_steps,
        fraction=float(SHARES[best]),
        loss=float(losses[best]),
        interval=ends[best][1:],
        level=level,
        fraction_interval=(float(low), float(high)),
        flat=(float(SHARES[near[0]]), float(SHARES[near[-1]])),
        fractions=np.array(SHARES),
        losses=losses,
        at_edge=best in (0, len(SHARES) - 1),
    )


def _best_of_draws(fit: CurveFit, rows: list[tuple[Floats, Floats]]) -> list[float]:
    """Return the best share by each draw of the parameters; laws are drawn by their weights."""
    rng = np.random.default_rng(0)
    chosen = rng.choice(len(fit.laws), size=DRAWS, p=np.array(fit.weights))
    best = []
    for index in chosen:
        law = fit.laws[index]
        theta = rng.multivariate_normal(law.theta, law.covariance, method="eigh")
        one = replace(fit, laws=(replace(law, theta=theta),), weights=(1.0,))
        losses = [one.last(steps, factors * fit.peak_lr) for steps, factors in rows]
        best.append(float(SHARES[int(np.argmin(losses))]))
    return best
