"""The information that cells carry about the target, and what each candidate cell would add.

Everything is linear in the law's parameters theta. For a cell i, x_i (P,) is the gradient of its
log loss by theta, a_i the share of its noise within the objective's delta, b_i what the objective
leaves of the noise's square. About a fit, the estimator of `analysis.fit` gives a target with
gradient g the variance (Huber 1967)

    V = u' B u,    u = A^-1 g,    A = sum_i a_i x_i x_i',    B = sum_i b_i x_i x_i'

which is sum_i z_i^2 with the influences z_i = sqrt(b_i) x_i'u. Three things are added to it:

- Units. Intervals are those of a bootstrap over units (trunks, or single cells), which leaves a
  unit out as often as not. As in the jackknife, z_i is divided by 1 - h, where the leverage h of
  i's unit is the sum of a_j x_j' A^-1 x_j over its cells j; so the one cell that all rests on is
  worth repeating. The branches of a trunk have the share `SHARED` of the noise in common:
  V = (1 - SHARED) sum_i z_i^2 + SHARED sum_units (sum_(i in unit) z_i)^2.
- Minima. Where the objective has several minima (K of them), the variance between them at the
  target is added, as in the MSPE of active design (2604.22753: within basins and between). With v_i
  (K,) where the minima differ at cell i, in units of its noise, and t (K,) at the target, it is
  t' (I + sum_i v_i v_i')^-1 t, which falls with cells that tell the minima apart.
- Harm. The objective does not give a noisy cell the small weight that it deserves: such a cell may
  raise V, and then its drop is negative.

Legend: P parameters, K minima, T units, n cells with a result or selected, M candidates.
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

SHARED = 0.5  # share of the noise's variance that branches of a trunk have in common
PRIOR_SD = 1.0  # deviation of log losses that one parameter alone may move, before any fit
RIDGE = 1e-9  # relative to A's diagonal, so that a flat direction is no division by zero
MOST_MINIMA = 6
LEAST_WEIGHT = 0.01  # a minimum of less weight is left out
STEP = 1e-4  # difference of theta for the gradient of N*
HIGHEST = 0.9  # leverage of a unit: beyond it one resample in e has no fit at all
FLOOR = 1e-4  # least deviation of log loss: a fit through every row shows no noise


@dataclass(frozen=True, kw_only=True)
class Information:
    """Cells as rows: the first `n_runs` have a result, the other M are candidates.

    x (n_runs + M, P) gradients, slope a and score sqrt(b), trunk a number each (n_runs + M,);
    target g (P,). apart v (n_runs + M, K) and target_apart t (K,) say where minima differ. prior
    (P,) is the information before any cell, 0 for a fit.
    """

    n_runs: int
    x: Array
    slope: Array
    score: Array
    trunk: Array
    target: Array
    apart: Array
    target_apart: Array
    prior: Array

    def variance(self, selection: Sequence[int] = ()) -> float:
        """Return the target's variance once the candidates of a selection have run."""
        rows = self._rows(selection)
        inverse, of_unit = np.linalg.inv(self._a(rows)), self._units(rows)
        x = self.x[rows]
        leverage = self.slope[rows] * np.einsum("np,pq,nq->n", x, inverse, x)
        z = self.score[rows] * (x @ inverse @ self.target)
        z = z / (1 - np.minimum(leverage @ of_unit @ of_unit.T, HIGHEST))
        return _clustered(z[None], of_unit)[0] + self._between(rows)

    def drops(self, selection: Sequence[int]) -> Array:
        """Return by how much each further candidate would lower the variance (M,).

        A candidate m changes A to A + a_m x_m x_m', whose inverse is (Sherman and Morrison)

            A^-1 - c_m w_m w_m',    w_m = A^-1 x_m,    c_m = a_m / (1 + h_m),    h_m = a_m x_m'w_m

        and adds v_m v_m' to the information on the minima, which lowers their variance by

            (v_m' S^-1 t)^2 / (1 + v_m' S^-1 v_m),    S = I + sum_i v_i v_i'
        """
        rows = self._rows(selection)
        within = self.variance(selection) - self._between(rows)
        return within - self._within_after(rows) + self._drops_between(rows)

    def matrix(self) -> Array:
        """Return the information of the cells so far, at best weights, and the prior (P, P)."""
        weighed = self.weighed[: self.n_runs]
        return np.diag(self.prior) + weighed.T @ weighed

    @property
    def weighed(self) -> Array:
        """Gradients in units of the cell's noise at its best weight (n_runs + M, P)."""
        return self.x * (self.slope / self.score)[:, None]

    def _rows(self, selection: Sequence[int]) -> Array:
        """Return the rows of the cells with a result and of a selection (n,)."""
        return np.concatenate(
            [np.arange(self.n_runs), self.n_runs + np.array(selection, dtype=int)]
        )

    def _a(self, rows: Array) -> Array:
        """Return A with its ridge (P, P)."""
        x = self.x[rows]
        a = (x * self.slope[rows, None]).T @ x
        return a + RIDGE * np.diag(np.diag(a) + 1e-300)

    def _within_after(self, rows: Array) -> Array:
        """Return the variance without that between minima, after each candidate (M,)."""
        after = self._after(rows)
        of_unit = self._units(rows)  # (n, T)
        joins, unit = self._unit_joined(rows, of_unit)  # (M,), (M,)
        each = np.arange(len(joins))
        leverage = after.leverage @ of_unit  # (M, T)
        leverage[each[joins], unit[joins]] += after.own_leverage[joins]
        own_leverage = np.where(joins, leverage[each, unit], after.own_leverage)
        z = after.z / (1 - np.minimum(leverage @ of_unit.T, HIGHEST))  # (M, n)
        own_z = after.own_z / (1 - np.minimum(own_leverage, HIGHEST))  # (M,)
        of_own_unit = np.where(joins, (z @ of_unit)[each, unit], 0.0)
        return _clustered(z, of_unit) + own_z**2 + 2 * SHARED * own_z * of_own_unit

    def _after(self, rows: Array) -> "_After":
        """Return influences and leverages once each candidate has run, by Sherman and Morrison."""
        x, new = self.x[rows], self.x[self.n_runs :]
        inverse = np.linalg.inv(self._a(rows))
        u, w = inverse @ self.target, new @ inverse  # (P,), (M, P)
        across = w @ x.T  # x_m' A^-1 x_i (M, n)
        h = self.slope[self.n_runs :] * np.einsum("mp,mp->m", w, new)  # (M,)
        c = (self.slope[self.n_runs :] / (1 + h))[:, None]  # (M, 1)
        new_u = new @ u  # x_m'u (M,)
        before = np.einsum("np,pq,nq->n", x, inverse, x)
        return _After(
            z=self.score[rows] * (x @ u - c * new_u[:, None] * across),
            leverage=self.slope[rows] * (before - c * across**2),
            own_z=self.score[self.n_runs :] * new_u / (1 + h),
            own_leverage=h / (1 + h),
        )

    def _unit_joined(self, rows: Array, of_unit: Array) -> tuple[Array, Array]:
        """Return whether each candidate joins a unit of the rows, and which one (0 if none)."""
        same_trunk = self.trunk[self.n_runs :, None] == self.trunk[rows][None]  # (M, n)
        first = np.argmax(same_trunk, axis=1)
        return same_trunk.any(axis=1), np.argmax(of_unit[first], axis=1)

    def _minima(self, rows: Array) -> Array:
        """Return S, the information on the minima: of the selected rows alone (K, K)."""
        apart = self.apart[rows[self.n_runs :]]
        return np.eye(apart.shape[1]) + apart.T @ apart

    def _between(self, rows: Array) -> float:
        """Return the target's variance between the minima."""
        return float(self.target_apart @ np.linalg.solve(self._minima(rows), self.target_apart))

    def _drops_between(self, rows: Array) -> Array:
        """Return by how much each candidate lowers the variance between the minima (M,)."""
        apart = self.apart[self.n_runs :]
        scaled = apart @ np.linalg.inv(self._minima(rows))
        return (scaled @ self.target_apart) ** 2 / (1 + np.einsum("mk,mk->m", scaled, apart))

    def _units(self, rows: Array) -> Array:
        """Return which unit each of some rows belongs to, as a matrix of ones (n, T)."""
        codes = np.unique(self.trunk[rows], return_inverse=True)[1]
        return np.eye(max(codes, default=-1) + 1)[codes]


@dataclass(frozen=True, kw_only=True)
class OfForms:
    """The information about an average over forms: that of each form, by the forms' weights."""

    forms: Sequence[Information]
    weights: Sequence[float]

    def variance(self, selection: Sequence[int] = ()) -> float:
        """Return the mean over the forms of the target's variance."""
        each = [one.variance(selection) for one in self.forms]
        return float(np.average(each, weights=self.weights))

    def drops(self, selection: Sequence[int]) -> Array:
        """Return the mean over the forms of the drop by each further candidate (M,)."""
        each = [one.drops(selection) for one in self.forms]
        return np.average(each, axis=0, weights=self.weights)


Evidence = Information | OfForms


def evidence_of(
    law: Law, candidates: Sequence[Candidate], goal: Goal, *, table: pd.DataFrame | None = None
) -> Evidence:
    """Return the information about the goal: of the law's form, or of the forms it averages.

    law: the fit; of an average, forms that need more than N and D are left out
    candidates: the cells that may run next
    goal: the target, loss or N* at a budget
    table: the cells that have a result
    """
    of_budget = {"params", "tokens", "flops"}
    members = [
        m for m in law.members if not set(m.form.variables) - of_budget - set(m.form.optional)
    ]
    if not law.forecast or not members:
        return information_of(law, candidates, goal, table=table)
    each = [
        information_of(law.of_form(m.form.name), candidates, goal, table=table) for m in members
    ]
    return OfForms(forms=each, weights=[m.weight for m in members])


@dataclass(frozen=True, kw_only=True)
class _After:
    """Influences and leverages after each candidate: of the rows (M, n), of its own (M,)."""

    z: Array
    leverage: Array
    own_z: Array
    own_leverage: Array


def information_of(
    law: Law,
    candidates: Sequence[Candidate],
    goal: Goal,
    *,
    table: pd.DataFrame | None = None,
    is_prior: bool = False,
) -> Information:
    """Return the information that the cells so far and each candidate carry about the goal.

    law: the law about which everything is linear
    candidates: the cells that may run next
    goal: the target, loss or N* at a budget
    table: the cells that have a result; None before the first
    is_prior: whether the law was not fitted to `table`; `PRIOR_SD` then bounds each parameter
    """
    cells = _frame(candidates)
    runs = cells.iloc[:0] if table is None else _frame_of(table)
    count = law.flop_count
    best = optimal_split(FORMS[law.form], law.parameters, goal.flops, token_flops=count)
    aim = pd.DataFrame({"params": [best["params"]], "tokens": [best["tokens"]], "trunk": [""]})
    every = pd.concat([runs, cells, aim], ignore_index=True)
    every["flops"] = 6 * every["params"] * every["tokens"]
    jacobian, losses = _jacobian(law, every)
    noise = noise_at(law, losses)
    slope, score = _of_objective(law, noise)
    apart = _minima_apart(law, every, None if is_prior else table)
    return Information(
        n_runs=len(runs),
        x=jacobian[:-1],
        slope=slope[:-1],
        score=score[:-1],
        trunk=pd.factorize(every["trunk"][:-1])[0],
        target=_gradient_of_size(law, every, goal) if goal.quantity == "params" else jacobian[-1],
        apart=apart[:-1] / noise[:-1, None],
        target_apart=apart[-1] * (goal.quantity == "loss"),
        prior=(jacobian**2).mean(axis=0) / PRIOR_SD**2 * is_prior,
    )


def _clustered(z: Array, of_unit: Array) -> Array:
    """Return V of influences z (m, n), of which those of one unit share a part (m,)."""
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
    fixed = [list(law.parameters).index(name) for name in law.fixed]
    jacobian[:, fixed] = 0.0
    return jacobian, parts.prediction[0]


def noise_at(law: Law, losses: Array) -> Array:
    """Return the deviation of a run's log loss: that of the fit, else the usual one."""
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


def _minima_apart(law: Law, every: pd.DataFrame, table: pd.DataFrame | None) -> Array:
    """Return where the minima of the objective differ in log loss (rows, K), about their mean.

    Each minimum counts by the root of its weight, the likelihood under absolute deviations
    F^-(n - P) with F the objective there. One minimum alone gives K = 0.
    """
    none = np.zeros((len(every), 0))
    if table is None:
        return none
    form = FORMS[law.form]
    objective = Objective.of_block(law.objective)
    problem = problem_of(table, form, objective, fixed=law.fixed)
    near = np.array(list(law.parameters.values()), dtype=float)[None]
    minima = minimise_near(near, problem)
    minima = minima.part(minima.converged)
    if len(minima.value) < 2:
        return none
    _, first = np.unique(np.round(minima.theta, 3), axis=0, return_index=True)
    minima = minima.part(np.sort(first)[:MOST_MINIMA])
    spare = max(len(table) - len(law.parameters), 1)
    weight = (minima.value.min() / np.maximum(minima.value, 1e-300)) ** spare
    weight /= weight.sum()
    minima, weight = minima.part(weight >= LEAST_WEIGHT), weight[weight >= LEAST_WEIGHT]
    values = {v: every[v].to_numpy(float) for v in form.variables if v in every}
    parameters = problem.design.external(minima.theta)
    named = {p: parameters[:, i, None] for i, p in enumerate(form.parameters)}
    logs = np.log(form.predict(named, values))
    return (np.sqrt(weight)[:, None] * (logs - weight @ logs / weight.sum())).T


def _gradient_of_size(law: Law, every: pd.DataFrame, goal: Goal) -> Array:
    """Return the gradient of log N* at the target's budget by theta (P,)."""
    form = FORMS[law.form]
    posed = design(form, every)
    theta = posed.internal(np.array(list(law.parameters.values()), dtype=float))
    moved = theta + STEP * np.concatenate([np.eye(len(theta)), -np.eye(len(theta))])
    parameters = posed.external(moved)
    named = {p: parameters[:, i] for i, p in enumerate(form.parameters)}
    best = optimal_split(form, named, goal.flops, token_flops=law.flop_count)
    logs = np.log(best["params"])
    return (logs[: len(theta)] - logs[len(theta) :]) / (2 * STEP)
