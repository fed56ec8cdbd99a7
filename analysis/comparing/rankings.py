"""Two rankings of the arms, and which of them predicted withheld budgets.

Laws rank the arms by their loss at a compute, a single size ranks them at the largest (N, D) that
all arms have. In DataDecide (Magnusson et al. 2025, 2504.11393) the single size decides as well as
laws do, so both are printed. The hindcast withholds the largest budgets: laws of the rest and the
largest common point of the rest each predict the order of every two arms at the withheld points.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.comparing.arms import Arm
from analysis.comparing.points import Places, common_points, point_means
from analysis.estimation.checks import check_table
from analysis.forms import Array, Form, column
from analysis.solve.objective import Objective, problem_of
from analysis.solve.progress import OnProgress, no_progress
from analysis.solve.solver import minimise
from analysis.validate.hindcast import LEAST_SHARE, SAME_LEVEL

MOST_CUTOFFS = 3  # budgets that are withheld in turn
LEAST_BUDGETS = 2  # budgets that must remain below a cutoff


@dataclass(frozen=True, kw_only=True)
class Common:
    """The points that all arms have, the largest first.

    codes: of the points (k,)
    params, tokens, flops: means over the arms (k,)
    log_loss: mean log loss of each arm at each point (arms, k)
    """

    codes: Array
    params: Array
    tokens: Array
    flops: Array
    log_loss: Array


def common_of(arms: Sequence[Arm], places: Places) -> Common:
    """Return the points that all arms have."""
    codes = sorted(common_points(places, range(len(arms))))
    tables = [arm.runs.table for arm in arms]

    def means(name: str) -> Array:
        by_arm = [point_means(p, np.log(column(t, name)))
                  for p, t in zip(places.points, tables, strict=True)]  # fmt: skip
        return np.array([[of_arm[c] for c in codes] for of_arm in by_arm]).reshape(-1, len(codes))

    flops = np.exp(means("flops").mean(axis=0))
    order = np.argsort(-flops, kind="stable")
    return Common(
        codes=np.array(codes, dtype=int)[order],
        params=np.exp(means("params").mean(axis=0))[order],
        tokens=np.exp(means("tokens").mean(axis=0))[order],
        flops=flops[order],
        log_loss=means("loss")[:, order],
    )


def single_size(arms: Sequence[Arm], common: Common) -> dict[str, Any] | None:
    """Return the ranking at the largest common point, best first; None without a common point."""
    if not len(common.codes):
        return None
    losses = np.exp(common.log_loss[:, 0])
    order = np.argsort(losses, kind="stable")
    return {
        "order": [arms[i].name for i in order],
        "losses": [float(losses[i]) for i in order],
        "params": float(common.params[0]),
        "tokens": float(common.tokens[0]),
        "flops": float(common.flops[0]),
    }


def levels_of(flops: Array) -> list[Array]:
    """Return the indices of points (k,) that are sorted from the largest, one array a budget."""
    if not len(flops):
        return []
    step = flops[:-1] / np.maximum(flops[1:], 1e-300) > SAME_LEVEL
    return np.split(np.arange(len(flops)), np.flatnonzero(step) + 1)


def hindcast(
    arms: Sequence[Arm],
    places: Places,
    common: Common,
    form: Form,
    on_progress: OnProgress = no_progress,
) -> dict[str, Any] | None:
    """Return how many orders of two arms each ranking predicted at withheld budgets.

    None where no budget can be withheld, or where two arms have no law below it.
    """
    levels = levels_of(common.flops)
    right = {"laws": 0.0, "single_size": 0.0}
    total = 0
    cuts = max(0, min(MOST_CUTOFFS, len(levels) - LEAST_BUDGETS))
    for cut in range(cuts):
        withheld, left = levels[cut], np.concatenate(levels[cut + 1 :])
        below = float(common.flops[withheld].min()) / np.sqrt(SAME_LEVEL)
        fits = []
        for i, arm in enumerate(arms):
            on_progress("withheld budgets", cut * len(arms) + i, cuts * len(arms))
            fits.append(_predicted(arm, form, below, common, withheld))
        predicted = np.array(fits)
        seen = common.log_loss[:, withheld]
        at_one = common.log_loss[:, left[0]][:, None]
        for i, j in zip(*np.triu_indices(len(arms), 1), strict=True):
            if np.isnan(predicted[[i, j]]).any():
                continue
            truth = np.sign(seen[i] - seen[j])
            total += len(withheld)
            right["laws"] += _agreement(truth, predicted[i] - predicted[j])
            right["single_size"] += _agreement(truth, at_one[i] - at_one[j])
    if cuts:
        on_progress("withheld budgets", cuts * len(arms), cuts * len(arms))
    if not total:
        return None
    shares = {name: n / total for name, n in right.items()}
    best = max(shares, key=lambda name: shares[name])
    winner = best if shares["laws"] != shares["single_size"] else "neither"
    return {"orders": total, **shares, "winner": winner}


def _agreement(truth: Array, difference: Array) -> float:
    """Return how many signs agree; a difference of exactly nothing counts a half."""
    sign = np.sign(np.broadcast_to(difference, truth.shape))
    return float(np.where(sign * truth == 0, 0.5, sign == truth).sum())


def _predicted(arm: Arm, form: Form, below: float, common: Common, at: Array) -> Array:
    """Return the log loss that the law of the runs below a budget gives at common points."""
    table = arm.runs.table
    near = table.loc[column(table, "flops") < below].reset_index(drop=True)
    nothing = np.full(len(at), np.nan)
    if len(near) < LEAST_SHARE * len(table):
        return nothing
    try:
        check_table(near, form)
    except ValueError:
        return nothing
    problem = problem_of(near, form, Objective(name=form.objective))
    solution = minimise(problem)
    if not solution.converged[0]:
        return nothing
    values = dict(zip(form.parameters, problem.design.external(solution.theta[:1])[0], strict=True))
    n, d = common.params[at], common.tokens[at]
    return np.log(form.predict(values, {"params": n, "tokens": d, "flops": common.flops[at]}))
