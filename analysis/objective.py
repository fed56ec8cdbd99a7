"""The objective of a fit, with its analytic gradient and Hessian, for many problems at once.

F(theta) = sum_i w_i rho(r_i). huber_log: r = log Lhat - log L and rho is Huber's function
(r^2/2 inside delta, delta (|r| - delta/2) outside), Hoffmann et al. 2022 eq. 3, summed and not
averaged. lad_log: |r|. ls_log: r^2/2. ls: r = Lhat - L, r^2/2.

Derivatives: with p_k the share of term k in Lhat and f_k its features, d log Lhat / d theta is
J = sum_k p_k f_k, and its own derivative is sum_k p_k f_k f_k' - J J'. So every objective needs two
weights a row only: the Hessian is sum (curve - slope) J J' + slope sum_k p_k f_k f_k'.

Legend: S problems, P parameters, K terms, n rows. theta (S, P), weights and y (S or 1, n).
"""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from analysis.forms import EXPONENT_BOUNDS, Array, Design, Form, design

OBJECTIVES = ("huber_log", "lad_log", "ls_log", "ls")
LAD_DELTA = 1e-9  # Huber's delta that stands for 0: the objective is then within n*delta/2 of LAD
AMPLITUDE_RANGE = 40.0  # a centred log amplitude this far from log L is 0 (or the fit is lost)


@dataclass(frozen=True, kw_only=True)
class Objective:
    """Which residual is made small, and how; `delta` matters for huber_log alone."""

    name: str = "huber_log"
    delta: float = 1e-3

    def __post_init__(self) -> None:
        """Refuse an unknown name or a delta that is not positive."""
        if self.name not in OBJECTIVES:
            legal = ", ".join(OBJECTIVES)
            raise ValueError(f"objective.name={self.name} is not known; choose one of {legal}")
        if not self.delta > 0:
            raise ValueError(f"objective.delta={self.delta} must be positive; the usual is 1e-3")

    @property
    def width(self) -> float:
        """Half-width of the quadratic part, in units of the residual."""
        return {"huber_log": self.delta, "lad_log": LAD_DELTA}.get(self.name, np.inf)

    @property
    def unit(self) -> float:
        """What a value in `Problem` is divided by to be the objective (delta for LAD's |r|)."""
        return LAD_DELTA if self.name == "lad_log" else 1.0


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A design, its targets `y` = log L (S or 1, n) and row weights (S or 1, n)."""

    design: Design
    y: Array
    weights: Array
    objective: Objective

    def part(self, chosen: "slice | Array") -> "Problem":
        """Return some of the problems along S; rows shared by all stay shared."""
        y = self.y if len(self.y) == 1 else self.y[chosen]
        weights = self.weights if len(self.weights) == 1 else self.weights[chosen]
        return replace(self, y=y, weights=weights)

    def rows(self, chosen: Array) -> "Problem":
        """Return the problem of some of the rows."""
        design = self.design.take(chosen)
        return replace(self, design=design, y=self.y[:, chosen], weights=self.weights[:, chosen])

    @property
    def bounds(self) -> tuple[Array, Array]:
        """Lower and upper bounds of theta, each (P,): E >= 0, exponents in their box."""
        form = self.design.form
        low, high = np.full(len(form.parameters), -np.inf), np.full(len(form.parameters), np.inf)
        centre = float(self.y.flat[0])
        for index in self.design.index:
            low[index[0]], high[index[0]] = centre - AMPLITUDE_RANGE, centre + AMPLITUDE_RANGE
            low[index[1:]], high[index[1:]] = EXPONENT_BOUNDS
        if form.offset:
            low[form.parameters.index(form.offset)] = 0.0
        return low, high


@dataclass(frozen=True, kw_only=True)
class Local:
    """Value (S,), gradient (S, P), Hessian and damping metric (S, P, P) at one theta a problem."""

    value: Array
    gradient: Array
    hessian: Array
    metric: Array

    def keep(self, other: "Local", better: Array) -> "Local":
        """Take `other` where `better` (S,)."""
        pick = better[:, None]
        return Local(
            value=np.where(better, other.value, self.value),
            gradient=np.where(pick, other.gradient, self.gradient),
            hessian=np.where(pick[..., None], other.hessian, self.hessian),
            metric=np.where(pick[..., None], other.metric, self.metric),
        )

    def part(self, chosen: Array) -> "Local":
        """Return some of the problems."""
        return Local(
            value=self.value[chosen],
            gradient=self.gradient[chosen],
            hessian=self.hessian[chosen],
            metric=self.metric[chosen],
        )


def problem_of(table: pd.DataFrame, form: Form, objective: Objective) -> Problem:
    """Pose the fit of a form to a table with positive columns, weighted by its `weight`."""
    weights = table["weight"].to_numpy(float) if "weight" in table else np.ones(len(table))
    y = np.log(table["loss"].to_numpy(float))
    return Problem(
        design=design(form, table), y=y[None], weights=weights[None], objective=objective
    )


def log_loss(theta: Array, design: Design) -> Array:
    """Return log Lhat (S, n)."""
    return np.log(sum(_terms(theta, design)) + _offset(theta, design))


def residuals(theta: Array, problem: Problem) -> Array:
    """Return log Lhat - log L (S, n)."""
    return log_loss(theta, problem.design) - problem.y


def evaluate(theta: Array, problem: Problem, *, width: float | None = None) -> Local:
    """Return value and derivatives at theta (S, P); `width` overrides the objective's own."""
    design = problem.design
    terms = _terms(theta, design)
    predicted = np.asarray(sum(terms) + _offset(theta, design))  # (S, n)
    rho, slope, curve, robust = _row_weights(predicted, problem, width)
    jacobian = np.zeros((*theta.shape, design.n_rows))  # (S, P, n)
    hessian = np.zeros((*theta.shape, theta.shape[1]))  # (S, P, P)
    if design.form.offset:
        jacobian[:, design.form.parameters.index(design.form.offset)] = 1 / predicted
    for term, index, features in zip(terms, design.index, design.features, strict=True):
        share = term / predicted
        for position, feature in zip(index, features, strict=True):
            jacobian[:, position] += share * feature
        outer = (features[:, None] * features[None]).reshape(-1, design.n_rows)  # (m*m, n)
        curved = (slope * share) @ outer.T  # (S, m*m)
        hessian[:, index[:, None], index] += curved.reshape(-1, len(index), len(index))
    across = jacobian.swapaxes(1, 2)  # (S, n, P)
    return Local(
        value=rho.sum(axis=1),
        gradient=(jacobian @ slope[..., None])[..., 0],
        hessian=hessian + (jacobian * (curve - slope)[:, None]) @ across,
        metric=(jacobian * robust[:, None]) @ across,
    )


def _terms(theta: Array, design: Design) -> list[Array]:
    return [
        np.exp(theta[:, index] @ features)
        for index, features in zip(design.index, design.features, strict=True)
    ]


def _offset(theta: Array, design: Design) -> Array | float:
    name = design.form.offset
    return theta[:, design.form.parameters.index(name), None] if name else 0.0


def _row_weights(
    predicted: Array, problem: Problem, width: float | None
) -> tuple[Array, Array, Array, Array]:
    """Return rho, slope, curve and the weight of the majorising quadratic, each (S, n)."""
    weights = problem.weights
    if problem.objective.name == "ls" and width is None:
        residual = predicted - np.exp(problem.y)
        slope = weights * residual * predicted
        square = weights * predicted**2
        return weights * residual**2 / 2, slope, square + slope, square
    residual = np.log(predicted) - problem.y
    width = problem.objective.width if width is None else width
    clipped = np.clip(residual, -width, width)
    slope = weights * clipped
    rho = slope * (residual - clipped / 2)
    size = np.abs(residual)
    curve = weights * (size <= width)
    robust = weights * np.minimum(1.0, width / np.maximum(size, 1e-300))
    return rho, slope, curve, robust
