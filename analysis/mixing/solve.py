"""Fit many laws of mixtures at once: soft-L1 on log loss, by Levenberg and Marquardt's method.

    F(theta) = sum_i v_i 2 (sqrt(1 + (r_i / WIDTH)^2) - 1),   r_i = log Lhat_i - log L_i

Each domain, start and draw is a problem with its own log losses and row weights v; the shares are
common. The reweighted Gauss-Newton matrix of soft-L1 has weights 1 / sqrt(1 + (r / WIDTH)^2).
Parameters at a bound whose gradient points outward are held. Written by hand: thousands of problems
of 20 parameters run in one batch, which scipy's optimisers do not do.

Legend: B problems, K parameters, n rows.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.forms import Array
from analysis.mixing.laws import MixtureLaw

WIDTH = 0.01  # log loss beyond which a residual counts by its size: about the noise of small models
TOLERANCE = 1e-6  # relative decrease of F, by a step of little damping, that ends a problem
SETTLED = 1e-4  # and its decrease: F is about chi squared, of which this is nothing
STILL = 1e-12  # value of F below which the rows are met exactly
MOST_STEPS = 200
FIRST_DAMPING, LEAST_DAMPING, MOST_DAMPING = 1e-2, 1e-9, 1e7
FLOOR = 1e-6  # damping that acts on parameters that move no prediction
# A swarm in which each mixture has some of each source hardly tells the loss without any share,
# which could then be anything (2e5 nats, in a study of ours). A law whose loss there is above
# MOST_LOSS times the largest seen pays for it by a row of this weight; a law below pays nothing.
MOST_LOSS, ANCHOR = 2.0, 0.01
CHUNK = 1 << 22  # numbers of a Jacobian that are held at a time (32 MiB)
STARTS = 8


@dataclass(frozen=True, kw_only=True)
class Ends:
    """Where problems ended: theta (B, K), F (B,), whether F had stopped falling (B,)."""

    theta: Array
    value: Array
    converged: NDArray[np.bool_]


def fit_domains(
    law: MixtureLaw, shares: Array, losses: Array, *, seed: int = 0, starts: int = STARTS
) -> Ends:
    """Fit one law to each domain, from several starts each; return the best end of each.

    law: the form
    shares: (n, J)
    losses: (n, domains), nats per token
    seed: of the starts
    starts: number of them for each domain
    """
    logs = np.log(losses).T  # (domains, n)
    n_domains, n_sources = len(logs), shares.shape[1]
    rng = np.random.default_rng(seed)
    theta = np.concatenate([law.starts(own, n_sources, starts, rng) for own in logs])
    ends = minimise(law, theta, shares, np.repeat(logs, starts, axis=0))
    value = ends.value.reshape(n_domains, starts)
    best = np.arange(n_domains) * starts + value.argmin(axis=1)
    return Ends(theta=ends.theta[best], value=ends.value[best], converged=ends.converged[best])


def minimise(
    law: MixtureLaw,
    theta: Array,
    shares: Array,
    logs: Array,
    weights: Array | None = None,
    *,
    steps: int = MOST_STEPS,
) -> Ends:
    """Minimise F of each problem from its start.

    law: the form
    theta: starts (B, K)
    shares: (n, J), common to all
    logs: log losses (B, n)
    weights: of the rows (B, n); None weighs all alike
    steps: at most
    """
    size = max(1, CHUNK // (shares.shape[0] * theta.shape[1]))
    parts = []
    for first in range(0, len(theta), size):
        these = slice(first, first + size)
        own = None if weights is None else weights[these]
        parts.append(_minimise(law, theta[these], shares, logs[these], own, steps))
    return Ends(
        theta=np.concatenate([p.theta for p in parts]),
        value=np.concatenate([p.value for p in parts]),
        converged=np.concatenate([p.converged for p in parts]),
    )


def _minimise(
    law: MixtureLaw, theta: Array, shares: Array, logs: Array, weights: Array | None, steps: int
) -> Ends:
    ends = [law.bounds(own, shares.shape[1]) for own in logs]
    low, high = (np.array(side) for side in zip(*ends, strict=True))
    rows = np.ones_like(logs) if weights is None else weights
    if law.anchored:
        shares = np.concatenate([shares, np.zeros((1, shares.shape[1]))])
        logs = np.column_stack([logs, logs.max(axis=1) + np.log(MOST_LOSS)])
        rows = np.column_stack([rows, np.full(len(rows), ANCHOR)])
    theta = np.clip(theta, low, high)
    residual, jacobian = _at(law, theta, shares, logs)
    value = _objective(residual, rows)
    damping = np.full(len(theta), FIRST_DAMPING)
    done = np.zeros(len(theta), dtype=bool)
    for _ in range(steps):
        open_ = np.flatnonzero(~done)
        if not len(open_):
            break
        step = _step(
            jacobian[open_], residual[open_], rows[open_], damping[open_],
            theta[open_], low[open_], high[open_],
        )  # fmt: skip
        step = np.clip(step, -law.longest, law.longest)
        moved = np.clip(theta[open_] + step, low[open_], high[open_])
        new_residual, new_jacobian = _at(law, moved, shares, logs[open_])
        new_value = _objective(new_residual, rows[open_])
        lower = new_value < value[open_]  # False for NaN
        fall = np.where(lower, value[open_] - new_value, 0.0)
        better = open_[lower]
        theta[better], value[better] = moved[lower], new_value[lower]
        residual[better], jacobian[better] = new_residual[lower], new_jacobian[lower]
        factor = np.where(lower, 0.25, 4.0)
        damping[open_] = np.clip(damping[open_] * factor, LEAST_DAMPING, MOST_DAMPING)
        small = lower & (fall <= np.minimum(SETTLED, TOLERANCE * value[open_]))
        small &= damping[open_] < 1
        stuck = ~lower & (damping[open_] >= MOST_DAMPING)
        done[open_] = small | stuck | (value[open_] < STILL)
    return Ends(theta=theta, value=value, converged=done)


def _at(law: MixtureLaw, theta: Array, shares: Array, logs: Array) -> tuple[Array, Array]:
    predicted, jacobian = law.log_loss(theta, shares, derivatives=True)
    assert jacobian is not None
    residual = predicted - logs
    if law.anchored:
        below = residual[:, -1] < 0
        residual[below, -1], jacobian[below, -1] = 0.0, 0.0
    return residual, jacobian


def _objective(residual: Array, rows: Array) -> Array:
    return (rows * 2 * (np.sqrt(1 + (residual / WIDTH) ** 2) - 1)).sum(axis=1)


def _step(
    jacobian: Array, residual: Array, rows: Array, damping: Array,
    theta: Array, low: Array, high: Array,
) -> Array:  # fmt: skip
    """Return the damped Gauss-Newton steps (B, K)."""
    metric = rows / np.sqrt(1 + (residual / WIDTH) ** 2) / WIDTH**2
    weighted = jacobian * metric[..., None]
    gradient = (weighted * residual[..., None]).sum(axis=1)
    held = ((theta <= low) & (gradient > 0)) | ((theta >= high) & (gradient < 0))
    gradient = np.where(held, 0.0, gradient)
    hessian = weighted.transpose(0, 2, 1) @ jacobian
    hessian = np.where(held[:, :, None] | held[:, None, :], 0.0, hessian)
    diagonal = np.arange(theta.shape[1])
    scale = hessian[:, diagonal, diagonal] + FLOOR
    hessian[:, diagonal, diagonal] += damping[:, None] * scale + FLOOR
    step = -np.linalg.solve(hessian, gradient[..., None])[..., 0]
    return np.nan_to_num(step)
