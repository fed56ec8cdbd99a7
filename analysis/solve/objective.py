"""The objective of a fit, with its analytic gradient and Hessian, for many problems at once.

F(theta) = sum_i w_i rho(r_i). huber_log: r = log Lhat - log L and rho is Huber's function
(r^2/2 inside delta, delta (|r| - delta/2) outside), Hoffmann et al. 2022 eq. 3, summed and not
averaged. lad_log: |r|. ls_log: r^2/2. ls: r = Lhat - L, r^2/2, for targets that may be negative
too. envelope: Huber's rho for r < 0 and `over_weight` times it for r > 0, since a badly tuned run
can only lie above the best loss of its N and D. The fit then follows the lower edge of the runs:
about 1 run of 1 + over_weight lies below it. It is the asymmetric absolute error, with weight 10 by
default, of the package chinchilla (github.com/kyo-takano/chinchilla, `chinchilla/_metrics.py` and
`docs/changes.md`), on residuals of log L instead of L and with Huber's quadratic part about 0.

With rho' and rho'' taken by Lhat, the gradient is sum rho' dL and the Hessian is sum rho'' dL dL' +
rho' d2L; `analysis.solve.predictions` sums over rows. Written by hand on purpose: hundreds of
resamples with their own weights are solved in one batch, which scipy's optimisers do not do.

Legend: S problems, P parameters, n rows. theta (S, P), weights and target (S or 1, n).
"""

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Self, TypeVar

import numpy as np
import pandas as pd

from analysis.forms import EXPONENT_BOUNDS, Array, Form, column
from analysis.solve.predictions import Design, design

OBJECTIVES = ("huber_log", "lad_log", "ls_log", "ls", "envelope")
# Weight of over-prediction in the envelope: the default of kyo-takano/chinchilla.
OVER_WEIGHT = 10.0
# Least absolute deviation is Huber's objective with this delta: it is within n delta / 2 of LAD.
LAD_DELTA = 1e-9
# How many numbers (rows times problems) one pass handles, so that it stays in a core's cache.
CHUNK = 48_000
MANY_CHUNKS = 4  # number of chunks from which threads are worth starting
MOST_THREADS = 8  # threads at most, on a machine of many cores
LEAST = 1e-100  # a prediction at or below it, or above its inverse, counts as no number

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Objective:
    """Which residual the fit minimises, and how.

    name: one of `OBJECTIVES`
    delta: Huber's half-width in log loss; read by huber_log and envelope
    over_weight: weight of a run that the law over-predicts; read by envelope
    """

    name: str = "huber_log"  # from a command or law.json, so checked here and not by its type
    delta: float = 1e-3
    over_weight: float = OVER_WEIGHT

    def __post_init__(self) -> None:
        """Refuse an unknown name, a delta that is not positive, or an envelope from above."""
        if self.name not in OBJECTIVES:
            legal = ", ".join(OBJECTIVES)
            raise ValueError(f"objective.name={self.name} is not known; choose one of {legal}")
        if not self.delta > 0:
            raise ValueError(f"objective.delta={self.delta} must be positive; the usual is 1e-3")
        if not 1 < self.over_weight < np.inf:
            raise ValueError(
                f"objective.over_weight={self.over_weight:g} must be above 1, so that the law"
                f" follows the lower edge of the runs; the usual is {OVER_WEIGHT:g}, and huber_log"
                " weighs both sides alike"
            )

    @property
    def in_logs(self) -> bool:
        """Whether residuals are differences of logs."""
        return self.name != "ls"

    @property
    def width(self) -> float:
        """Half-width of the quadratic part, in the unit of the residual."""
        widths = {"huber_log": self.delta, "envelope": self.delta, "lad_log": LAD_DELTA}
        return widths.get(self.name, np.inf)

    @property
    def unit(self) -> float:
        """What F is divided by to be the objective: delta for LAD, whose F is delta |r|."""
        return LAD_DELTA if self.name == "lad_log" else 1.0

    @property
    def is_one_sided(self) -> bool:
        """Whether over-prediction weighs more than under-prediction."""
        return self.name == "envelope"

    def weigh_sides(self, weights: Array, residual: Array) -> Array:
        """Return row weights, times `over_weight` where an envelope over-predicts.

        weights: of the rows, any shape that broadcasts with `residual`
        residual: log Lhat - log L

        The objectives that weigh both sides alike get the weights back as they are.
        """
        if not self.is_one_sided:
            return weights
        return weights * np.where(residual > 0, self.over_weight, 1.0)

    def as_block(self) -> dict[str, Any]:
        """Return the objective as law.json holds it."""
        one_sided = {"over_weight": self.over_weight} if self.is_one_sided else {}
        return {"name": self.name, "delta": self.delta, **one_sided}

    @classmethod
    def of_block(cls, block: Mapping[str, Any]) -> Self:
        """Return the objective of a law.json's block; what the block lacks has its default."""
        numbers = {name: block.get(name) for name in ("delta", "over_weight")}
        return cls(name=block["name"], **{k: v for k, v in numbers.items() if v is not None})


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One objective on one design, for S sets of row weights.

    design: the form on the table
    target: the target of each row (n,)
    logs: the log of the target (n,), zeros where the objective takes no logs
    weights: row weights (S, n), or (1, n) for all problems
    objective: the function of the residuals
    fixed_theta: (S, P) or (1, P), NaN for a free parameter and its theta for a fixed one
    """

    design: Design
    target: Array
    logs: Array
    weights: Array
    objective: Objective
    fixed_theta: Array

    def part(self, index: "slice | Array") -> "Problem":
        """Return some of the problems along S; what all problems share stays shared."""
        weights = self.weights if len(self.weights) == 1 else self.weights[index]
        fixed_theta = self.fixed_theta if len(self.fixed_theta) == 1 else self.fixed_theta[index]
        return replace(self, weights=weights, fixed_theta=fixed_theta)

    def rows(self, index: "slice | Array") -> "Problem":
        """Return the problem of some of the rows."""
        return replace(
            self,
            design=self.design.take(index),
            target=self.target[index],
            logs=self.logs[index],
            weights=self.weights[:, index],
        )

    @property
    def bounds(self) -> tuple[Array, Array]:
        """Lower and upper bounds of theta, each (S or 1, P)."""
        level = np.log(np.abs(self.target[0]) + LEAST)
        low, high = self.design.bounds(float(level))
        free = np.isnan(self.fixed_theta)
        return np.where(free, low, self.fixed_theta), np.where(free, high, self.fixed_theta)


@dataclass(frozen=True, kw_only=True)
class QuadraticModel:
    """The quadratic model of F at one theta a problem; parts that were not computed are NaN.

    value: F (S,)
    gradient: dF (S, P)
    squares: the part of the Hessian from first derivatives of the predictions (S, P, P)
    curvature: the part from second derivatives of the predictions (S, P, P)
    metric: the majorising quadratic's matrix, which damps Newton's steps (S, P, P)
    """

    value: Array
    gradient: Array
    squares: Array
    curvature: Array
    metric: Array

    @property
    def hessian(self) -> Array:
        """The Hessian (S, P, P)."""
        return self.squares + self.curvature

    def part(self, index: "slice | Array") -> "QuadraticModel":
        """Return some of the problems."""
        return QuadraticModel(
            **{name: getattr(self, name)[index] for name in QuadraticModel.__dataclass_fields__}
        )


def problem_of(
    table: pd.DataFrame,
    form: Form,
    objective: Objective,
    *,
    fixed: dict[str, float] | None = None,
) -> Problem:
    """Return the problem of fitting a form to a table.

    table: the runs, with the columns of the form and optionally a `weight`
    form: the form
    objective: the objective
    fixed: values that some parameters keep, in the form's own units

    Raises ValueError for a `fixed` name or value that the form does not have, when an objective in
    logs meets a target that is not positive, and for an envelope of anything but a loss.
    """
    fixed = fixed or {}
    unknown = sorted(set(fixed) - set(form.parameters))
    if unknown:
        names = ", ".join(form.parameters)
        raise ValueError(f"fixed names {', '.join(unknown)}; form={form.name} has {names}")
    weights = table["weight"].to_numpy(float) if "weight" in table else np.ones(len(table))
    target = column(table, form.target)
    if objective.in_logs and not np.all(target > 0):
        raise ValueError(
            f"objective.name={objective.name} takes logs, but {form.target} is not positive in "
            f"{int((target <= 0).sum())} rows; set objective.name=ls"
        )
    if objective.is_one_sided and form.target != "loss":
        raise ValueError(
            f"objective.name={objective.name} follows the lowest losses, but form={form.name} "
            f"predicts {form.target}; choose huber_log or ls"
        )
    table_design = design(form, table, raw=tuple(fixed))
    fixed_theta = np.full((1, len(form.parameters)), np.nan)
    for name, value in fixed.items():
        at = form.parameters.index(name)
        logs = name in form.logs or any(t.amplitude == name for t in form.terms)
        if logs and not value > 0:
            raise ValueError(f"fixed.{name}={value} must be positive")
        _check_held(form, name, value)
        fixed_theta[0, at] = np.log(value) if logs else value
    return Problem(
        design=table_design,
        target=target,
        logs=np.log(target) if objective.in_logs else np.zeros_like(target),
        weights=weights[None],
        objective=objective,
        fixed_theta=fixed_theta,
    )


def _check_held(form: Form, name: str, value: float) -> None:
    """Refuse to fix a parameter at a value where no fit would look for it."""
    exponent = EXPONENT_BOUNDS if name in form.exponents else (-np.inf, np.inf)
    least, most = form.bounds.get(name, (0.0, np.inf) if name == form.offset else exponent)
    if not (least <= value <= most and np.isfinite(value)):
        raise ValueError(f"fixed.{name}={value:g} is outside {least:g} to {most:g}")


def residuals(theta: Array, problem: Problem) -> Array:
    """Return log Lhat - log L (S, n), or Lhat - L for an objective without logs.

    A residual is infinite where the form overflows, as it may far from a minimum.
    """
    with np.errstate(all="ignore"):
        predicted = problem.design.predict(theta)
        if not problem.objective.in_logs:
            return predicted - problem.target
        return np.log(np.maximum(predicted, LEAST)) - problem.logs


def evaluate(
    theta: Array,
    problem: Problem,
    *,
    width: float | None = None,
    metric: bool = True,
    curvature: bool = True,
) -> QuadraticModel:
    """Return the quadratic model of F at theta.

    theta: (S, P), one a problem
    problem: the problems
    width: Huber's width instead of the objective's own; infinite is least squares, which finds
        where minima are and takes the Gauss-Newton Hessian of a function design
    metric: whether to compute the metric
    curvature: whether to compute the second derivatives of the predictions
    """
    options = (width, metric, curvature)
    n_rows = problem.design.n_rows * problem.design.cost(second=curvature)
    if n_rows > CHUNK:
        return _by_rows(theta, problem, options)
    chunk = CHUNK // n_rows
    if len(theta) <= chunk:
        return _evaluate(theta, problem, *options)
    count, size = theta.shape
    shapes = {"value": (count,), "gradient": (count, size)}
    names = QuadraticModel.__dataclass_fields__
    out = QuadraticModel(
        **{name: np.empty(shapes.get(name, (count, size, size))) for name in names}
    )

    def fill(low: int) -> None:
        here = slice(low, low + chunk)
        piece = _evaluate(theta[here], problem.part(here), *options)
        for name in names:
            getattr(out, name)[here] = getattr(piece, name)

    _over(fill, range(0, count, chunk))
    return out


def _by_rows(
    theta: Array, problem: Problem, options: tuple[float | None, bool, bool]
) -> QuadraticModel:
    """Evaluate a table longer than a chunk piece by piece: each result is a sum over rows."""
    size = max(1, CHUNK // (2 * problem.design.cost(second=options[2])))

    def sums(low: int) -> QuadraticModel:
        piece = problem.rows(slice(low, low + size))
        pairs = [slice(i, i + 2) for i in range(0, len(theta), 2)]
        pieces = [_evaluate(theta[i], piece.part(i), *options) for i in pairs]
        return QuadraticModel(
            **{name: np.concatenate([getattr(f, name) for f in pieces]) for name in names}
        )

    names = QuadraticModel.__dataclass_fields__
    pieces = _over(sums, range(0, problem.design.n_rows, size))
    return QuadraticModel(
        **{name: np.sum([getattr(f, name) for f in pieces], axis=0) for name in names}
    )


def _over(function: Callable[[int], T], starts: range) -> list[T]:
    """Call a function on every start; many starts use threads, as numpy releases Python's lock."""
    threads = int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)
    if threads == 1 or len(starts) < MANY_CHUNKS:
        return [function(low) for low in starts]
    with ThreadPoolExecutor(min(threads, MOST_THREADS)) as pool:
        return list(pool.map(function, starts))


def _evaluate(
    theta: Array, problem: Problem, width: float | None, metric: bool, curvature: bool
) -> QuadraticModel:
    least_squares = width is not None and np.isinf(width)
    none = np.full((*theta.shape, theta.shape[1]), np.nan)
    with np.errstate(all="ignore"):  # far from a minimum a form may overflow; F is infinite there
        sums = problem.design.row_sums(theta, second=curvature and not least_squares)
        value, slope, curve, robust = _row_weights(sums.prediction, problem, width, metric=metric)
        squares = sums.squares(robust if least_squares else curve)
        return QuadraticModel(
            value=value,
            gradient=sums.gradient(slope),
            squares=squares,
            curvature=np.zeros_like(none)
            if least_squares
            else sums.curvature(slope)
            if curvature
            else none,
            metric=squares if least_squares else sums.squares(robust) if metric else none,
        )


def _row_weights(
    predicted: Array, problem: Problem, width: float | None, *, metric: bool
) -> tuple[Array, Array, Array, Array]:
    """Return F (S,) and for each row rho', rho'' and the majorising quadratic's weight (S, n).

    Derivatives are by Lhat: with r = log Lhat - log L, rho' is psi(r) / Lhat and so on. F is
    infinite where a prediction has no log.
    """
    weights = problem.weights
    if not problem.objective.in_logs:
        residual = predicted - problem.target
        slope = weights * residual
        value = _total(slope, residual) / 2
        one = np.broadcast_to(weights, predicted.shape)
        return np.where(np.isfinite(value), value, np.inf), np.nan_to_num(slope), one, one
    lost = None
    if not (predicted.min() > LEAST and predicted.max() < 1 / LEAST):  # also where NaN
        lost = ~((predicted > LEAST) & (predicted < 1 / LEAST))
    predicted = predicted if lost is None else np.where(lost, 1.0, predicted)
    residual = np.log(predicted) - problem.logs
    width = problem.objective.width if width is None else width
    inverse = 1 / predicted
    weights = problem.objective.weigh_sides(weights, residual)
    if np.isinf(width):
        slope = weights * residual
        value = _total(slope, residual) / 2
        square = weights * inverse * inverse
        slope *= inverse
        curve, robust = square - slope * inverse, square
    else:
        clipped = np.clip(residual, -width, width)
        slope = weights * clipped
        value = _total(slope, residual) - _total(slope, clipped) / 2
        slope *= inverse
        size = np.abs(residual)
        square = weights * inverse * inverse
        curve = (size <= width) * square - slope * inverse
        robust = square * np.minimum(1.0, width / np.maximum(size, LEAST)) if metric else square
    if lost is not None:
        value = np.where(lost.any(axis=1), np.inf, value)
    return value, slope, curve, robust


def _total(a: Array, b: Array) -> Array:
    """Return the sum over rows of a product (S,)."""
    return np.einsum("sn,sn->s", a, b)
