"""The objective of a fit, with its analytic gradient and Hessian, for many problems at once.

F(theta) = sum_i w_i rho(r_i). huber_log: r = log Lhat - log L and rho is Huber's function
(r^2/2 inside delta, delta (|r| - delta/2) outside), Hoffmann et al. 2022 eq. 3, summed and not
averaged. lad_log: |r|. ls_log: r^2/2. ls: r = Lhat - L, r^2/2, for targets that may be negative
too.

With rho' and rho'' by Lhat the gradient is sum rho' dL and the Hessian sum rho'' dL dL' +
rho' d2L, which `analysis.solve.predictions` sums over rows.

Legend: S problems, P parameters, n rows. theta (S, P), weights and target (S or 1, n).
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import pandas as pd

from analysis.forms import EXPONENT_BOUNDS, Array, Form, column
from analysis.solve.predictions import Design, design

OBJECTIVES = ("huber_log", "lad_log", "ls_log", "ls")
LAD_DELTA = 1e-9  # Huber's delta that stands for 0: the objective is then within n*delta/2 of LAD
CHUNK = 48_000  # numbers of a row of a problem handled at once: a pass then stays in a core's cache
MANY_CHUNKS = 4  # from which threads are worth starting
MOST_THREADS = 8
LEAST = 1e-100  # a prediction at or below it, or above its inverse, is none


T = TypeVar("T")


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
    def in_logs(self) -> bool:
        """Tell whether residuals are differences of logs."""
        return self.name != "ls"

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
    """A design, its targets (n,) and their logs, row weights (S or 1, n), what is held fixed.

    `logs` mean nothing where the objective takes none. `held` (S or 1, P) is NaN where a parameter
    is free and its theta where it is not.
    """

    design: Design
    target: Array
    logs: Array
    weights: Array
    objective: Objective
    held: Array

    def part(self, chosen: "slice | Array") -> "Problem":
        """Return some of the problems along S; rows shared by all stay shared."""
        weights = self.weights if len(self.weights) == 1 else self.weights[chosen]
        held = self.held if len(self.held) == 1 else self.held[chosen]
        return replace(self, weights=weights, held=held)

    def rows(self, chosen: "slice | Array") -> "Problem":
        """Return the problem of some of the rows."""
        return replace(
            self,
            design=self.design.take(chosen),
            target=self.target[chosen],
            logs=self.logs[chosen],
            weights=self.weights[:, chosen],
        )

    @property
    def bounds(self) -> tuple[Array, Array]:
        """Lower and upper bounds of theta, each (S or 1, P)."""
        level = np.log(np.abs(self.target[0]) + LEAST)
        low, high = self.design.bounds(float(level))
        free = np.isnan(self.held)
        return np.where(free, low, self.held), np.where(free, high, self.held)


@dataclass(frozen=True, kw_only=True)
class Local:
    """Value (S,), gradient (S, P), and (S, P, P) at one theta a problem.

    The Hessian is `squares` + `bend`, first and second derivatives of the predictions; `metric` is
    for damping. What was not asked for is NaN.
    """

    value: Array
    gradient: Array
    squares: Array
    bend: Array
    metric: Array

    @property
    def hessian(self) -> Array:
        """The Hessian (S, P, P)."""
        return self.squares + self.bend

    def part(self, chosen: "slice | Array") -> "Local":
        """Return some of the problems."""
        return Local(**{name: getattr(self, name)[chosen] for name in Local.__dataclass_fields__})


def problem_of(
    table: pd.DataFrame,
    form: Form,
    objective: Objective,
    *,
    fixed: dict[str, float] | None = None,
) -> Problem:
    """Pose the fit of a form to a table, weighted by its `weight`; `fixed` parameters stay.

    Raises ValueError when a log objective meets a target that is not positive.
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
    posed = design(form, table, raw=tuple(fixed))
    held = np.full((1, len(form.parameters)), np.nan)
    for name, value in fixed.items():
        at = form.parameters.index(name)
        logs = name in form.logs or any(t.amplitude == name for t in form.terms)
        if logs and not value > 0:
            raise ValueError(f"fixed.{name}={value} must be positive")
        _check_held(form, name, value)
        held[0, at] = np.log(value) if logs else value
    return Problem(
        design=posed,
        target=target,
        logs=np.log(target) if objective.in_logs else np.zeros_like(target),
        weights=weights[None],
        objective=objective,
        held=held,
    )


def _check_held(form: Form, name: str, value: float) -> None:
    """Refuse to hold a parameter where no fit would look for it."""
    exponent = EXPONENT_BOUNDS if name in form.exponents else (-np.inf, np.inf)
    least, most = form.bounds.get(name, (0.0, np.inf) if name == form.offset else exponent)
    if not (least <= value <= most and np.isfinite(value)):
        raise ValueError(f"fixed.{name}={value:g} is outside {least:g} to {most:g}")


def residuals(theta: Array, problem: Problem) -> Array:
    """Return log Lhat - log L, or Lhat - L of a level objective (S, n).

    Infinite where a form overflows, as far from a minimum.
    """
    with np.errstate(all="ignore"):
        predicted = problem.design.predicted(theta)
        if not problem.objective.in_logs:
            return predicted - problem.target
        return np.log(np.maximum(predicted, LEAST)) - problem.logs


def evaluate(
    theta: Array,
    problem: Problem,
    *,
    width: float | None = None,
    metric: bool = True,
    bend: bool = True,
) -> Local:
    """Return value and derivatives at theta (S, P); `width` overrides the objective's own.

    At infinite width (least squares, to find where minima are) the Hessian of a function design is
    Gauss and Newton's. Without `metric` or `bend` those are left out.
    """
    wanted = (width, metric, bend)
    n_rows = problem.design.n_rows * problem.design.cost(second=bend)
    if n_rows > CHUNK:
        return _by_rows(theta, problem, wanted)
    chunk = CHUNK // n_rows
    if len(theta) <= chunk:
        return _evaluate(theta, problem, *wanted)
    count, size = theta.shape
    shapes = {"value": (count,), "gradient": (count, size)}
    names = Local.__dataclass_fields__
    out = Local(**{name: np.empty(shapes.get(name, (count, size, size))) for name in names})

    def fill(low: int) -> None:
        here = slice(low, low + chunk)
        found = _evaluate(theta[here], problem.part(here), *wanted)
        for name in names:
            getattr(out, name)[here] = getattr(found, name)

    _over(fill, range(0, count, chunk))
    return out


def _by_rows(theta: Array, problem: Problem, wanted: tuple[float | None, bool, bool]) -> Local:
    """Evaluate a table longer than a chunk piece by piece; everything is a sum over rows."""
    size = max(1, CHUNK // (2 * problem.design.cost(second=wanted[2])))

    def sums(low: int) -> Local:
        piece = problem.rows(slice(low, low + size))
        pairs = [slice(i, i + 2) for i in range(0, len(theta), 2)]
        found = [_evaluate(theta[i], piece.part(i), *wanted) for i in pairs]
        return Local(**{name: np.concatenate([getattr(f, name) for f in found]) for name in names})

    names = Local.__dataclass_fields__
    found = _over(sums, range(0, problem.design.n_rows, size))
    return Local(**{name: np.sum([getattr(f, name) for f in found], axis=0) for name in names})


def _over(function: Callable[[int], T], starts: range) -> list[T]:
    """Call on every start, on all cores when there are many: numpy leaves the lock in between."""
    threads = int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)
    if threads == 1 or len(starts) < MANY_CHUNKS:
        return [function(low) for low in starts]
    with ThreadPoolExecutor(min(threads, MOST_THREADS)) as pool:
        return list(pool.map(function, starts))


def _evaluate(
    theta: Array, problem: Problem, width: float | None, metric: bool, bend: bool
) -> Local:
    rough = width is not None and np.isinf(width)
    none = np.full((*theta.shape, theta.shape[1]), np.nan)
    with np.errstate(all="ignore"):  # far from a minimum a form may overflow; F is infinite there
        parts = problem.design.parts(theta, second=bend and not rough)
        value, slope, curve, robust = _row_weights(parts.predicted, problem, width, metric=metric)
        squares = parts.squares(robust if rough else curve)
        return Local(
            value=value,
            gradient=parts.gradient(slope),
            squares=squares,
            bend=np.zeros_like(none) if rough else parts.curvature(slope) if bend else none,
            metric=squares if rough else parts.squares(robust) if metric else none,
        )


def _row_weights(
    predicted: Array, problem: Problem, width: float | None, *, metric: bool
) -> tuple[Array, Array, Array, Array]:
    """Return F (S,) and, by row, rho', rho'' and the majorising quadratic's weight (S, n).

    All by Lhat: with r = log Lhat - log L, rho' is psi(r) / Lhat and so on. A prediction without
    a log makes F infinite.
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


def _total(left: Array, right: Array) -> Array:
    """Return the sum over rows of a product (S,)."""
    return np.einsum("sn,sn->s", left, right)
