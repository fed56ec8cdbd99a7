"""What is known of the target, and what each candidate cell would add: linear in the law.

About a fit the estimator of `analysis.fit` gives a target g the variance u' B u, u = A^-1 g, with
A = sum a_i x_i x_i' and B that of the scores, sum b_i x_i x_i' (Huber 1967): a is how much of the
noise lies within delta, b what is left of its square, x the gradient of log loss by theta. Weights
that a noisier cell deserves are not those that it gets, so a cell may do harm, and the variance
says so. Intervals are those of a bootstrap over units (trunks, or cells), which leaves a unit out
as often as not: scores are over 1 - its leverage, as in the jackknife, and the one cell that all
rests on is worth repeating. Of the branches of a trunk `SHARED` of the scores is common. Where the
objective has several minima, their spread at the target is added, as in the MSPE of active design
(2604.22753: within basins and between), and falls with cells that tell them apart.

Legend: P parameters, K basins, T trunks, M candidates.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import norm

from analysis.designing.candidates import Candidate
from analysis.designing.goal import Goal
from analysis.forms import FORMS, Array
from analysis.forms.optimum import optimal_split
from analysis.laws.law import Law
from analysis.solve.objective import Objective, problem_of
from analysis.solve.predictions import design
from analysis.solve.residual_spread import deviation
from analysis.solve.seed_noise import usual_deviation
from analysis.solve.solver import minimise_near

SHARED = 0.5  # of the noise's variance that branches of a trunk have in common
PRIOR_SD = 1.0  # of log losses that one parameter alone may move, before any fit
RIDGE = 1e-9  # of A, so that a flat direction is no division by zero
BASINS = 6
LEAST_WEIGHT = 0.01
STEP = 1e-4  # of theta, for the gradient of N*
HIGHEST = 0.9  # leverage of a unit: beyond it one resample in e has no fit at all
FLOOR = 1e-4  # of a deviation of log loss: a fit through every row knows no noise


@dataclass(frozen=True, kw_only=True)
class Belief:
    """Cells as rows, of which the first `known` (n) are run and the others candidates (M).

    Gradients x (n + M, P), slopes a, roots of scores sqrt(b) and trunks' numbers (n + M,), the
    target's gradient (P,); `apart` (n + M, K) is where minima differ, in units of a cell's noise,
    `target_apart` (K,) at the target. `prior` (P,) is information before any cell, 0 for a fit.
    """

    known: int
    x: Array
    slope: Array
    score: Array
    trunk: Array
    target: Array
    apart: Array
    target_apart: Array
    prior: Array

    def variance(self, chosen: Sequence[int] = ()) -> float:
        """Return the target's variance once these candidates are run."""
        at = self._at(chosen)
        inverse, of_unit = np.linalg.inv(self._a(at)), self._units(at)
        x = self.x[at]
        lever = self.slope[at] * np.einsum("np,pq,nq->n", x, inverse, x)
        z = self.score[at] * (x @ inverse @ self.target)
        z = z / (1 - np.minimum(lever @ of_unit @ of_unit.T, HIGHEST))
        return _clustered(z[None], of_unit)[0] + self._between(at)

    def drops(self, chosen: Sequence[int]) -> Array:
        """Return by how much each candidate would lower the variance then (M,); some raise it."""
        at, new = self._at(chosen), slice(self.known, None)
        inverse, of_unit = np.linalg.inv(self._a(at)), self._units(at)
        x, slope, score = self.x[at], self.slope[at], self.score[at]
        u, w = inverse @ self.target, self.x[new] @ inverse  # (P,), (M, P)
        across = w @ x.T  # (M, n)
        own_lever = self.slope[new] * np.einsum("mp,mp->m", w, self.x[new])
        shrunk, along = 1 + own_lever, self.x[new] @ u
        pull = (self.slope[new] / shrunk)[:, None]
        lever = slope * (np.einsum("np,pq,nq->n", x, inverse, x) - pull * across**2)
        z = score * (x @ u - pull * along[:, None] * across)
        own = self.score[new] * along / shrunk
        with_own = self.trunk[new, None] == self.trunk[at][None]  # (M, n)
        first = np.argmax(with_own, axis=1)
        joins = with_own.any(axis=1)
        unit = np.argmax(of_unit[first], axis=1)
        levers, rank = lever @ of_unit, np.arange(len(joins))
        mine = own_lever / shrunk
        levers[rank[joins], unit[joins]] += mine[joins]
        mine = np.where(joins, levers[rank, unit], mine)
        z = z / (1 - np.minimum(levers @ of_unit.T, HIGHEST))
        own = own / (1 - np.minimum(mine, HIGHEST))
        shared = np.where(joins, (z @ of_unit)[rank, unit], 0.0)
        after = _clustered(z, of_unit) + own**2 + 2 * SHARED * own * shared
        told = self.apart[new] @ np.linalg.inv(self._told(at))
        apart = (told @ self.target_apart) ** 2 / (1 + np.einsum("mk,mk->m", told, self.apart[new]))
        return self.variance(chosen) - self._between(at) - after + apart

    def information(self) -> Array:
        """Return what the cells so far, at their best weights, and the prior tell (P, P)."""
        known = self.weighed[: self.known]
        return np.diag(self.prior) + known.T @ known

    @property
    def weighed(self) -> Array:
        """Gradients in units of the cell's noise at its best weight (n + M, P)."""
        return self.x * (self.slope / self.score)[:, None]

    def _at(self, chosen: Sequence[int]) -> Array:
        return np.concatenate([np.arange(self.known), self.known + np.array(chosen, dtype=int)])

    def _a(self, at: Array) -> Array:
        x = self.x[at]
        a = (x * self.slope[at, None]).T @ x
        return a + RIDGE * np.diag(np.diag(a) + 1e-300)

    def _told(self, at: Array) -> Array:
        apart = self.apart[at[self.known :]]
        return np.eye(apart.shape[1]) + apart.T @ apart

    def _between(self, at: Array) -> float:
        return float(self.target_apart @ np.linalg.solve(self._told(at), self.target_apart))

    def _units(self, at: Array) -> Array:
        """Return which unit each of some rows belongs to, as a matrix of ones (n, T)."""
        codes = np.unique(self.trunk[at], return_inverse=True)[1]
        return np.eye(max(codes, default=-1) + 1)[codes]


def believed(
    law: Law,
    candidates: Sequence[Candidate],
    goal: Goal,
    *,
    table: pd.DataFrame | None = None,
    loose: bool = False,
) -> Belief:
    """Return the belief from a law; `table` holds the cells so far, to which it was fitted.

    A `loose` law was not: each parameter by itself is known as `PRIOR_SD` says.
    """
    cells = _frame(candidates)
    known = cells.iloc[:0] if table is None else _frame_of(table)
    best = optimal_split(FORMS[law.form], law.parameters, goal.flops)
    aim = pd.DataFrame({"params": [best["params"]], "tokens": [best["tokens"]], "trunk": [""]})
    every = pd.concat([known, cells, aim], ignore_index=True)
    every["flops"] = 6 * every["params"] * every["tokens"]
    jacobian, losses = _jacobian(law, every)
    noise = noise_at(law, losses)
    slope, score = _of_objective(law, noise)
    apart = _between(law, every, None if loose else table)
    return Belief(
        known=len(known),
        x=jacobian[:-1],
        slope=slope[:-1],
        score=score[:-1],
        trunk=pd.factorize(every["trunk"][:-1])[0],
        target=_slope(law, every, goal) if goal.quantity == "params" else jacobian[-1],
        apart=apart[:-1] / noise[:-1, None],
        target_apart=apart[-1] * (goal.quantity == "loss"),
        prior=(jacobian**2).mean(axis=0) / PRIOR_SD**2 * loose,
    )


def _clustered(z: Array, of_unit: Array) -> Array:
    """Return the sum of squares of influences (m, n), of which units share a part (m,)."""
    return (1 - SHARED) * (z**2).sum(axis=1) + SHARED * ((z @ of_unit) ** 2).sum(axis=1)


def _frame(candidates: Sequence[Candidate]) -> pd.DataFrame:
    rows = [(c.params, c.tokens, c.trunk) for c in candidates]
    return pd.DataFrame(rows, columns=["params", "tokens", "trunk"])


def _frame_of(table: pd.DataFrame) -> pd.DataFrame:
    trunk = table["trunk"] if "trunk" in table else [f"row {i}" for i in range(len(table))]
    return pd.DataFrame({"params": table["params"], "tokens": table["tokens"], "trunk": trunk})


def _jacobian(law: Law, every: pd.DataFrame) -> tuple[Array, Array]:
    """Return derivatives of log losses by theta (rows, P) and the losses (rows,)."""
    posed = design(FORMS[law.form], every)
    theta = posed.internal(np.array(list(law.parameters.values()), dtype=float))[None]
    parts = posed.row_sums(theta, second=False)
    jacobian = parts.jacobian()[0].T / parts.prediction[0][:, None]
    held = [list(law.parameters).index(name) for name in law.fixed]
    jacobian[:, held] = 0.0
    return jacobian, parts.prediction[0]


def noise_at(law: Law, losses: Array) -> Array:
    """Return the deviation of a run's log loss: of the fit, or what is usual."""
    if not law.noise:
        return usual_deviation(losses) / losses
    if "growth" in law.noise:
        return np.maximum(deviation(law.noise, losses), FLOOR)
    return np.full(len(losses), max(law.residual_sd, FLOOR))


def _of_objective(law: Law, noise: Array) -> tuple[Array, Array]:
    """Return a and sqrt(b) of Gaussian noise (rows,) under the objective of the fit."""
    width = Objective(
        name=law.objective["name"] if law.draws is not None else "huber_log",
        delta=law.objective.get("delta") or 1e-3,
    ).width
    k = np.minimum(width / noise, 1e3)
    inside = 2 * norm.cdf(k) - 1
    square = noise**2 * (inside - 2 * k * norm.pdf(k) + k**2 * 2 * norm.sf(k))
    return inside, np.sqrt(square)


def _between(law: Law, every: pd.DataFrame, table: pd.DataFrame | None) -> Array:
    """Return how minima of the objective differ in log losses (rows, K), weighted, about a mean.

    A minimum's weight is its likelihood under absolute deviations, F^-(n - P).
    """
    none = np.zeros((len(every), 0))
    if table is None:
        return none
    form = FORMS[law.form]
    objective = Objective(name=law.objective["name"], delta=law.objective["delta"] or 1e-3)
    problem = problem_of(table, form, objective, fixed=law.fixed)
    near = np.array(list(law.parameters.values()), dtype=float)[None]
    found = minimise_near(near, problem)
    found = found.part(found.converged)
    if len(found.value) < 2:
        return none
    _, first = np.unique(np.round(found.theta, 3), axis=0, return_index=True)
    kept = found.part(np.sort(first)[:BASINS])
    spare = max(len(table) - len(law.parameters), 1)
    weight = (kept.value.min() / np.maximum(kept.value, 1e-300)) ** spare
    weight /= weight.sum()
    kept, weight = kept.part(weight >= LEAST_WEIGHT), weight[weight >= LEAST_WEIGHT]
    values = {v: every[v].to_numpy(float) for v in form.variables if v in every}
    drawn = problem.design.external(kept.theta)
    named = {p: drawn[:, i, None] for i, p in enumerate(form.parameters)}
    logs = np.log(form.predict(named, values))
    return (np.sqrt(weight)[:, None] * (logs - weight @ logs / weight.sum())).T


def _slope(law: Law, every: pd.DataFrame, goal: Goal) -> Array:
    """Return the gradient of log N* at the target's budget by theta (P,)."""
    form = FORMS[law.form]
    posed = design(form, every)
    theta = posed.internal(np.array(list(law.parameters.values()), dtype=float))
    moved = theta + STEP * np.concatenate([np.eye(len(theta)), -np.eye(len(theta))])
    drawn = posed.external(moved)
    named = {p: drawn[:, i] for i, p in enumerate(form.parameters)}
    logs = np.log(optimal_split(form, named, goal.flops)["params"])
    return (logs[: len(theta)] - logs[len(theta) :]) / (2 * STEP)
