"""Draws of laws and of their best shares: the Bayesian bootstrap of Rubin 1981 over mixtures.

Each draw gives the different mixtures weights from an exponential distribution, fits every law anew
and finds the best shares again. Rows of one mixture (seeds) share their weight.
"""

from dataclasses import dataclass

import numpy as np

from analysis.forms import Array
from analysis.mixing.laws import MixtureLaw
from analysis.mixing.proposal import Goal, best_shares, held_near
from analysis.mixing.solve import minimise
from analysis.mixing.table import Swarm

STEPS = 20  # of a draw's fit, which starts at that of all rows


@dataclass(frozen=True, kw_only=True)
class Draws:
    """S draws.

    theta: (S, domains, K)
    shares: the best of each draw (S, J)
    """

    theta: Array
    shares: Array


def draw(
    law: MixtureLaw,
    theta: Array,
    swarm: Swarm,
    goal: Goal,
    *,
    start: Array,
    usual: float,
    resamples: int,
    seed: int,
) -> Draws:
    """Draw laws and best shares.

    law: the form
    theta: of all rows (domains, K)
    swarm: the trained rows
    goal: what is minimised
    start: shares (J,) to start from: the proposal
    usual: distance to the trained rows beyond which shares are moved back
    resamples: S
    seed: of the weights
    """
    mixes, group = np.unique(swarm.shares, axis=0, return_inverse=True)
    weights = np.random.default_rng(seed).exponential(size=(resamples, len(mixes)))
    weights /= weights.mean(axis=1, keepdims=True)
    rows = weights[:, group.ravel()]  # (S, n)
    n_domains = len(theta)
    ends = minimise(
        law,
        np.tile(theta, (resamples, 1)),
        swarm.shares,
        np.tile(np.log(swarm.losses).T, (resamples, 1)),
        np.repeat(rows, n_domains, axis=0),
        steps=STEPS,
    )
    drawn = ends.theta.reshape(resamples, n_domains, -1)
    best = [best_shares(law, own, goal, start) for own in drawn]
    near = [held_near(shares, swarm.shares, usual, goal)[0] for shares in best]
    return Draws(theta=drawn, shares=np.array(near))


def percentiles(values: Array, level: float, point: float | None = None) -> list[float]:
    """Return the central interval of draws (S,), widened to hold the point estimate."""
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    if point is not None:
        low, high = min(low, point), max(high, point)
    return [float(low), float(high)]
