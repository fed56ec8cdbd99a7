"""Two laws of the loss over a schedule, with their derivatives.

Multi-power (Luo et al. 2025, 2503.12811, equations 1 to 3), eta the rate, S its sum:

    L(t) = L0 + A S(t)^-alpha - B sum_k (eta_{k-1} - eta_k) G(eta_k^-gamma S_k(t))
    G(x) = 1 - (1 + C x)^-beta,   S_k(t) the sum of the rates from the change k to t

Annealing (Tissue et al. 2024, 2408.11029), for curves with few rows:

    L(t) = L0 + A S(t)^-alpha - B S2(t)
    S2 = sum_k (eta_{k-1} - eta_k) (1 - lambda^(t-k)) / (1 - lambda)

The rises of the warm-up are changes too: without them the multi-power law errs by 3 to 6 %. Rates
are divided by the peak and sums by a unit, so that all parameters are of the order of 1. The
parameters of the fit are L0, log A, log alpha, log B and the logs of the law's own.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scaling.curves.path import Floats, Path


@dataclass(frozen=True, kw_only=True)
class Unit:
    """What rates and sums are divided by.

    rate: the peak rate of the curves
    sum: a tenth of the largest sum of rates
    """

    rate: float
    sum: float


@dataclass(frozen=True, kw_only=True)
class CurveLaw:
    """One law.

    name: as in `law=`
    names: of the parameters behind L0, A, alpha and B
    drop: from (path, unit, the logs of these parameters) to the drop at every row over B, in units
        of the peak rate (n,), and its derivatives by the logs (n, k)
    starts: values of these parameters from which a fit starts (j, k)
    bounds: lowest and highest of these parameters
    """

    name: str
    names: tuple[str, ...]
    drop: Callable[[Path, Unit, Floats], tuple[Floats, Floats]]
    starts: tuple[tuple[float, ...], ...]
    bounds: tuple[tuple[float, float], ...]


def multi_power_drop(path: Path, unit: Unit, logs: Floats) -> tuple[Floats, Floats]:
    """Return the drop of the multi-power law and its derivatives by log C, log beta, log gamma."""
    c, beta, gamma = np.exp(logs)
    sizes, log_rates, reach, past = _changes(path, unit)
    x = c * np.exp(-gamma * log_rates) * reach  # (n, m)
    log1p = np.log1p(x)
    decay = np.exp(-beta * log1p)
    weighted = np.where(past, sizes, 0.0)
    slope = weighted * decay * beta * x / (1 + x)
    return (weighted * (1 - decay)).sum(1), np.stack(
        [
            slope.sum(1),
            (weighted * decay * log1p).sum(1) * beta,
            -(slope * log_rates).sum(1) * gamma,
        ],
        axis=1,
    )


def annealing_drop(path: Path, unit: Unit, logs: Floats) -> tuple[Floats, Floats]:
    """Return the drop of the annealing law and its derivative by the log of its time.

    The time is that of lambda^n = exp(-n / time), in units of a tenth of the sum over the peak
    rate. S2 is divided by the time, so that B is the drop of a full decay long after it.
    """
    time = float(np.exp(logs[0])) * unit.sum / unit.rate
    sizes, _, _, past = _changes(path, unit)
    since = np.where(past, path.steps[:, None] + 1 - path.change_steps, 0.0) / time
    decay = np.exp(-since)
    weighted = np.where(past, sizes, 0.0)
    return (weighted * (1 - decay)).sum(1), -(weighted * decay * since).sum(1)[:, None]


def _changes(path: Path, unit: Unit) -> tuple[Floats, Floats, Floats, NDArray[np.bool_]]:
    """Return sizes (m,), log rates (m,), sums since each change (n, m), and what has happened."""
    past = path.change_steps <= path.steps[:, None]
    reach = np.where(past, path.sums[:, None] - path.change_sums, 0.0) / unit.sum
    # A rate of 0 has no power: the lowest rate counts as a thousandth of the peak.
    rates = np.maximum(path.change_rates / unit.rate, LOWEST_RATE)
    return (
        path.change_sizes / unit.rate,
        np.asarray(np.log(rates)),
        np.asarray(np.maximum(reach, 0.0)),
        past,
    )


LOWEST_RATE = 1e-3  # Over the peak: the last step of a decay to 0 has eta^-gamma without a bound.

MULTI_POWER = CurveLaw(
    name="multi_power",
    names=("C", "beta", "gamma"),
    drop=multi_power_drop,
    starts=tuple((c, b, g) for c in (1.0, 10.0, 100.0) for b in (0.3, 0.8) for g in (0.2, 0.7)),
    bounds=((1e-3, 1e5), (0.02, 5.0), (0.01, 3.0)),
)
ANNEALING = CurveLaw(
    name="annealing",
    names=("time",),
    drop=annealing_drop,
    starts=((0.03,), (0.1,), (0.3,), (1.0,), (3.0,)),
    bounds=((1e-4, 30.0),),
)
LAWS = {law.name: law for law in (MULTI_POWER, ANNEALING)}


def curve_loss(law: CurveLaw, path: Path, unit: Unit, theta: Floats) -> tuple[Floats, Floats]:
    """Return the loss at every row (n,) and its derivatives by the parameters (n, 4 + k).

    law: multi-power or annealing
    path: of the schedule
    unit: of rates and sums, that of the fit
    theta: L0, log A, log alpha, log B, and the logs of the law's own parameters
    """
    level, log_a, log_alpha, log_b = theta[:4]
    alpha = np.exp(log_alpha)
    log_sum = np.log(path.sums / unit.sum)
    fall = np.exp(log_a - alpha * log_sum)
    drop, by_own = law.drop(path, unit, theta[4:])
    size = np.exp(log_b)
    loss = level + fall - size * drop
    derivatives = np.concatenate(
        [
            np.stack([np.ones_like(fall), fall, -alpha * log_sum * fall, -size * drop], axis=1),
            -size * by_own,
        ],
        axis=1,
    )
    return loss, derivatives
