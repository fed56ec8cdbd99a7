"""The shares that minimise the weighted loss, within what was trained, caps and unique tokens.

Effective data has L convex in the shares (falling returns, and a worth of repeats that is concave),
so one search from one start ends at the best mixture. A share lies between the least and the
largest that were trained. A mixture farther from the trained ones than those are from one another
is moved back towards them (`analysis.mixing.hull`).
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

from analysis.forms import Array
from analysis.mixing.hull import nearest
from analysis.mixing.laws import MixtureLaw
from analysis.mixing.repetition import worth

ROUNDING = 1e-9  # by which sums of shares may miss 1
LEAST = 1e-5  # a smaller share is none: one token of a hundred thousand
STEPS, PRECISION = 300, 1e-12  # of the search: steps at most, relative fall at its end


@dataclass(frozen=True, kw_only=True)
class Goal:
    """What is minimised, and where.

    target: weights of the domains (domains,), adding to 1
    least, most: ends of the share of each source (J,)
    unique: distinct tokens of each source over the tokens of the run (J,), inf where unlimited
    decay: R_D of the repetition law
    """

    target: Array
    least: Array
    most: Array
    unique: Array
    decay: float

    def losses(self, law: MixtureLaw, theta: Array, shares: Array) -> Array:
        """Return the losses of domains (n, domains) at shares (n, J), repeats priced."""
        return law.losses(theta, worth(shares, self.unique, self.decay)[0])

    def value(self, law: MixtureLaw, theta: Array, shares: Array) -> tuple[float, Array]:
        """Return the weighted loss at shares (J,) and its slopes (J,)."""
        value, by_share = worth(shares, self.unique, self.decay)
        losses, slopes = law.slopes(theta, value)
        return float(self.target @ losses), self.target @ slopes * by_share


def check_room(goal: Goal, words: str) -> None:
    """Raise ValueError where the largest shares leave less than a whole mixture.

    goal: with the largest shares
    words: the settings that limit them
    """
    if (total := goal.most.sum()) < 1 - ROUNDING:
        raise ValueError(
            f"{words} leave room for {total:.3g} of the mixture and not for all of it; raise"
            " one, or lower tokens"
        )


def best_shares(law: MixtureLaw, theta: Array, goal: Goal, start: Array) -> Array:
    """Return the shares (J,) of least weighted loss within the largest shares.

    The search is in roots of the shares, where slopes are finite at a share of nothing.

    law: the form
    theta: of the domains (domains, K)
    goal: what is minimised
    start: shares (J,) to start from
    """
    at = np.maximum(_within(start, goal), LEAST)
    scale = 1.0 / max(goal.value(law, theta, at)[0], 1e-12)

    def by_root(roots: Array) -> tuple[float, Array]:
        value, slopes = goal.value(law, theta, roots**2)
        return scale * value, scale * slopes * 2 * roots

    answer = minimize(
        by_root,
        np.sqrt(at),
        jac=True,
        method="SLSQP",
        bounds=list(zip(np.sqrt(goal.least), np.sqrt(goal.most), strict=True)),
        constraints={"type": "eq", "fun": lambda q: q @ q - 1, "jac": lambda q: 2 * q},
        options={"maxiter": STEPS, "ftol": PRECISION},
    )
    roots = answer.x if np.isfinite(answer.x).all() else np.sqrt(at)
    found = np.where(roots**2 < LEAST, 0.0, roots**2)
    return _within(found / found.sum(), goal)


def _within(shares: Array, goal: Goal) -> Array:
    """Return shares cut to the ends of the goal, and what that changes divided over the room."""
    shares = np.clip(shares, goal.least, goal.most)
    missing = 1 - shares.sum()
    room = goal.most - shares if missing > 0 else shares - goal.least
    return shares + room * missing / room.sum() if room.sum() > 0 else shares


def held_near(
    shares: Array, trained: Array, usual: float, goal: Goal
) -> tuple[Array, float, Array]:
    """Return shares moved towards the trained ones, their former distance, and the nearest mix.

    shares: a mixture (J,)
    trained: rows (n, J)
    usual: the distance beyond which it is moved back
    goal: whose largest shares hold after the move too
    """
    distance, mix = nearest(shares, trained)
    if distance <= usual:
        return shares, distance, mix
    moved = mix + (shares - mix) * usual / distance
    return _within(moved, goal), distance, mix
