"""Minimise the objective of a law from many starts, or for many resamples, at once.

The method is Newton's with the full analytic Hessian, damped by the reweighted Gauss-Newton matrix
(Levenberg's method in the problem's own metric, so that units do not matter). With delta = 1e-3 few
residuals lie inside Huber's quadratic part. The solver therefore lowers Huber's width in steps from
the spread of the residuals, and each step starts where the last one ended. Some starts go to the
final width at once, since a robust objective may have several close minima. Bounds hold by
projection. Written by hand on purpose: no library solves a batch of small robust problems with
their own weights and says of each whether it is a minimum.

`Solution.converged` says that: it is computed at the end from the gradient and the Hessian of the
free parameters, not from the reason why the iteration stopped.

Legend: S problems, P parameters, n rows.
"""

import itertools
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.forms import Array
from analysis.solve.function_predictions import FunctionDesign
from analysis.solve.objective import Problem, QuadraticModel, evaluate, residuals
from analysis.solve.term_predictions import TermDesign

TOLERANCE = 1e-12  # relative decrease of F that the quadratic model may still promise at a minimum
ROUNDING = 1e-28  # squared rounding error of a log residual
LAD_JUDGED = 100  # rows within so many widths of a LAD fit count as met by it
MAX_CONDITION = 1e13  # condition of the scaled Hessian beyond which a direction is flat
NO_EFFECT = 1e-30  # share of the largest metric entry below which a parameter moves no prediction
RIDGE = 1e-6  # share of the damping that acts on every scaled parameter alike
SCREEN_ROWS = 1500  # rows of a longer table that are solved from all starts, before all rows are
SCREENED = 3  # end points of these rows that all rows refine
COMPETES = 1.05  # an end point is refined up to this multiple of the least F of these rows
BEST_STARTS = 16  # starts that pass from least squares to the robust objective
APART = 3.0  # ratio of one width of Huber's to the next
NEAR_APART = 8.0  # the same ratio for starts near a minimum
WIDTH_STEPS = 8  # Newton steps at each width
THINNED = 8  # starts of the grid beside the caller's guesses
FIRST_STEPS = 40  # most starts end within 20 steps; stragglers are not the best minimum
FINISHED = 6  # end points iterated further when the best has not converged by then
RESOLVE_STEPS = 80  # steps of a resample, which starts near its minimum
MAX_STEPS = 300  # steps of a single problem at most
DAMPING = 0.1  # damping of the first step as a share of the metric; a tenth after each success
METRIC_EVERY = 6  # steps between two computations of the metric
CURVATURE_EVERY = 4  # steps between two of a function's second derivatives, which change slowly
EXPONENT_STARTS = (0.08, 0.25, 0.45, 0.8, 1.4)  # from flat terms to steep ones, of every exponent
OFFSET_STARTS = (0.0, 0.35, 0.65, 0.85, 0.97)  # E as a share of the smallest loss


@dataclass(frozen=True, kw_only=True)
class Solution:
    """Where each problem ended.

    theta: the end points (S, P)
    value: the objective there (S,)
    converged: whether the quadratic model promises no relative decrease above `TOLERANCE` and the
        Hessian of the free parameters is positive definite (S,)
    at_bound: which parameters are at a bound (S, P)
    condition: the condition number of that Hessian scaled to a unit diagonal, infinite where it is
        not positive definite (S,)
    """

    theta: Array
    value: Array
    converged: NDArray[np.bool_]
    at_bound: NDArray[np.bool_]
    condition: Array

    def part(self, index: Array | slice) -> "Solution":
        """Return some of the problems."""
        return Solution(
            theta=self.theta[index],
            value=self.value[index],
            converged=self.converged[index],
            at_bound=self.at_bound[index],
            condition=self.condition[index],
        )


def minimise(problem: Problem, *, n_best: int = BEST_STARTS) -> Solution:
    """Solve one problem from the default starts; return every end point, best first.

    All starts descend by least squares. The best `n_best` distinct ones then pass through falling
    widths, and as many starts that did not descend go to the final width at once.
    """
    if problem.design.n_rows > SCREEN_ROWS:
        ends_of_some = minimise(_screen(problem), n_best=n_best)
        competing = ends_of_some.part(ends_of_some.value <= COMPETES * ends_of_some.value[0])
        theta = _lower_width(_distinct(competing.theta)[:SCREENED], problem, steps=1)
        solution = _best_first(polish(theta, problem, max_steps=FIRST_STEPS))
        return solution if solution.converged[0] else _best_first(polish(theta, problem))
    grid = np.unique(np.clip(starts(problem), *problem.bounds), axis=0)
    coarse = _newton(grid, problem, width=np.inf, max_steps=15)[0]
    order = np.argsort(evaluate(coarse, problem, width=np.inf).value)
    best = _distinct(coarse[order])[:n_best]
    direct = grid[:: max(1, len(grid) // n_best)]
    ends = np.concatenate([_lower_width(best, problem), _lower_width(direct, problem, steps=1)])
    return _finish(ends, problem)


def minimise_near(parameters: Array, problem: Problem) -> Solution:
    """Solve one problem from guessed parameters (S, P) and a thinned grid; best end point first.

    For a table or an objective that is close to one already solved from all starts.
    """
    grid = np.unique(np.clip(starts(problem), *problem.bounds), axis=0)
    thinned = grid[:: max(1, len(grid) // THINNED)]
    guesses = problem.design.internal(parameters)
    theta = np.concatenate([guesses[np.isfinite(guesses).all(axis=1)], thinned])
    apart = APART if problem.objective.name == "lad_log" else NEAR_APART
    return _finish(_lower_width(theta, problem, apart=apart), problem)


def resolve(
    theta: Array,
    problem: Problem,
    *,
    apart: float | None = None,
    steps: int = WIDTH_STEPS,
    damping: float = DAMPING,
) -> Solution:
    """Solve many problems, each from its own start, as for resamples.

    theta: the starts (S, P)
    problem: the problems
    apart: ratio of one Huber width to the next on the way to the final one; by default the solver
        starts at the final width, except for LAD, whose width is too small for any start
    steps: Newton steps at each of these widths
    damping: damping of the first step; a start near the minimum needs less than the default
    """
    if apart is None and problem.objective.name == "lad_log":
        apart = APART
    if apart is not None:
        theta = _lower_width(theta, problem, apart=apart, max_steps=steps)
    return polish(theta, problem, max_steps=RESOLVE_STEPS, damping=damping)


def concatenate(parts: list[Solution]) -> Solution:
    """Concatenate solutions along S."""
    names = Solution.__dataclass_fields__
    return Solution(**{name: np.concatenate([getattr(p, name) for p in parts]) for name in names})


def polish(
    theta: Array, problem: Problem, *, max_steps: int = MAX_STEPS, damping: float = DAMPING
) -> Solution:
    """Iterate at the final width until F falls no further, then say which ends are minima.

    theta: the starts (S, P)
    problem: the problems
    max_steps: Newton steps at most
    damping: of the first step, as a share of the metric
    """
    theta, local = _newton(theta, problem, width=None, max_steps=max_steps, start=damping)
    if isinstance(problem.design, FunctionDesign):
        local = evaluate(theta, problem)
    free = _free(theta, local.gradient, problem)
    if problem.objective.name == "lad_log":  # do the rows that the law meets fix every parameter?
        wider = evaluate(theta, problem, width=LAD_JUDGED * problem.objective.width)
        local = replace(
            local, squares=wider.squares, curvature=wider.curvature, metric=wider.metric
        )
    condition, decrease = _condition_and_decrease(local, free)
    floor = ROUNDING * np.broadcast_to(problem.weights.sum(axis=1), local.value.shape)
    small = decrease <= TOLERANCE * 10 * local.value + floor * _value_scale(problem)
    low, high = problem.bounds
    return Solution(
        theta=theta,
        value=local.value / problem.objective.unit,
        converged=small & (condition < MAX_CONDITION) & np.isfinite(local.value),
        at_bound=((theta <= low) | (theta >= high)) & (low < high),
        condition=condition,
    )


def starts(problem: Problem) -> Array:
    """Return the starts (S, P): a grid for a form of terms, the form's own for a function."""
    design = problem.design
    if isinstance(design, FunctionDesign):
        assert design.form.starts is not None
        table = pd.DataFrame({**design.values, design.form.target: problem.target})
        values = design.form.starts(table)
        names = design.form.parameters
        return design.internal(np.stack(np.broadcast_arrays(*(values[n] for n in names)), axis=1))
    return _grid(design, problem)


def _grid(design: TermDesign, problem: Problem) -> Array:
    """Return the grid of exponents and offsets, each with its least-squares amplitudes (S, P)."""
    form, target = design.form, problem.target
    shares = OFFSET_STARTS if form.offset else (0.0,)
    values = np.array(
        list(itertools.product(shares, *[EXPONENT_STARTS] * len(form.exponents)))
    )  # (S, 1 + exponents)
    theta = np.zeros((len(values), len(form.parameters)))
    theta[:, [form.parameters.index(name) for name in form.exponents]] = values[:, 1:]
    if design.offset is not None:
        theta[:, design.offset] = values[:, 0] * target.min()
    return _with_amplitudes(theta, design, target, problem.weights[0])


def _with_amplitudes(theta: Array, design: TermDesign, target: Array, weights: Array) -> Array:
    """Set log-amplitudes by least squares on relative residuals, kept away from 0."""
    shapes = np.stack(
        [
            np.exp(theta[:, i[1:]] @ f[1:]) / target
            for i, f in zip(design.index, design.features, strict=True)
        ],
        axis=1,
    )  # (S, K, n)
    offset = 0.0 if design.offset is None else theta[:, [design.offset]]
    reducible = (1 - offset / target) * np.ones((len(theta), 1))  # (S, n)
    normal = (shapes * weights) @ shapes.swapaxes(1, 2)
    normal += 1e-9 * np.trace(normal, axis1=1, axis2=2)[:, None, None] * np.eye(shapes.shape[1])
    moments = ((shapes * weights) @ reducible[..., None])[..., 0]
    amplitudes = np.linalg.solve(normal, moments[..., None])[..., 0]
    even = moments / np.diagonal(normal, axis1=1, axis2=2) / shapes.shape[1]
    amplitudes = np.maximum(amplitudes, 0.02 * even)
    out = theta.copy()
    for k, index in enumerate(design.index):
        out[:, index[0]] = np.log(amplitudes[:, k])
    return out


def _best_first(solution: Solution) -> Solution:
    return solution.part(np.argsort(np.where(np.isfinite(solution.value), solution.value, np.inf)))


def _screen(problem: Problem) -> Problem:
    """Return the problem on evenly spaced rows."""
    n = problem.design.n_rows
    return problem.rows(np.linspace(0, n - 1, SCREEN_ROWS).astype(int))


def _distinct(theta: Array) -> Array:
    """Drop rows that repeat an earlier one to three digits."""
    _, first = np.unique(np.round(theta, 3), axis=0, return_index=True)
    return theta[np.sort(first)]


def _finish(theta: Array, problem: Problem) -> Solution:
    """Polish all starts for some steps, then the best ones to the end unless the best is there."""
    solution = _best_first(polish(theta, problem, max_steps=FIRST_STEPS))
    if solution.converged[0]:
        return solution
    longer = polish(solution.theta[:FINISHED], problem)
    return _best_first(concatenate([longer, solution.part(slice(FINISHED, None))]))


def _lower_width(
    theta: Array,
    problem: Problem,
    *,
    steps: int | None = None,
    apart: float = APART,
    max_steps: int = WIDTH_STEPS,
) -> Array:
    """Lower Huber's width from the spread of the residuals to its final value.

    There are `steps` intermediate widths, by default as many as lie a factor `apart` from each
    other. Least squares has no width to lower.
    """
    width = problem.objective.width
    if not np.isfinite(width) or steps == 0:
        return theta
    spread = float(np.median(np.abs(residuals(theta, problem))))
    if not width < spread < np.inf:
        return theta
    wide = 3 * spread
    if steps is None:
        steps = int(np.ceil(np.log(wide / width) / np.log(apart)))
    for current in np.geomspace(wide, width, steps + 1)[:-1]:
        theta = _newton(theta, problem, width=current, max_steps=max_steps)[0]
    return theta


def _newton(
    theta: Array,
    problem: Problem,
    *,
    width: float | None,
    max_steps: int,
    start: float = DAMPING,
) -> tuple[Array, QuadraticModel]:
    """Take damped Newton steps until every problem stops; return theta and the model there."""
    low, high = problem.bounds
    theta = np.clip(theta, low, high)
    local = evaluate(theta, problem, width=width, metric=start >= DAMPING)
    if start < DAMPING:  # so little damping needs no metric of its own
        local.metric[:] = local.squares
    damping = np.full(len(theta), start)
    active = np.arange(len(theta))
    floor = ROUNDING * problem.weights.sum(axis=1).min() * _value_scale(problem)
    curvature_every = 1 if isinstance(problem.design, TermDesign) else CURVATURE_EVERY
    for count in range(1, max_steps + 1):
        here, now, part = theta[active], local.part(active), problem.part(active)
        step = _step(now, damping[active], _free(here, now.gradient, part))
        trial = np.clip(here + step, *part.bounds)
        decrease = -((trial - here) * now.gradient).sum(axis=1)
        small = np.abs(decrease) <= TOLERANCE * now.value + floor
        unfinished = ~(small & (damping[active] <= DAMPING))
        active, trial = active[unfinished], trial[unfinished]
        if not len(active):
            break
        metric, curvature = count % METRIC_EVERY == 0, count % curvature_every == 0
        ahead = evaluate(
            trial, problem.part(active), width=width, metric=metric, curvature=curvature
        )
        better = ahead.value < local.value[active]
        theta[active[better]] = trial[better]
        skipped = {
            name for name, fresh in (("metric", metric), ("curvature", curvature)) if not fresh
        }
        for name in QuadraticModel.__dataclass_fields__.keys() - skipped:
            getattr(local, name)[active[better]] = getattr(ahead, name)[better]
        damping[active] *= np.where(better, 0.1, 8.0)
        active = active[damping[active] <= 1e14]
    return theta, local


def _free(theta: Array, gradient: Array, problem: Problem) -> NDArray[np.bool_]:
    """Return which parameters may move: neither fixed nor pushed against a bound (S, P)."""
    low, high = problem.bounds
    at_bound = ((theta <= low) & (gradient > 0)) | ((theta >= high) & (gradient < 0))
    return ~at_bound & (low < high)


def _scale_to_metric(
    local: QuadraticModel, matrix: Array, free: NDArray[np.bool_]
) -> tuple[Array, Array]:
    """Scale a matrix (S, P, P) to the metric's unit diagonal; decouple fixed parameters."""
    sizes = np.diagonal(local.metric, axis1=1, axis2=2)
    least = np.maximum(NO_EFFECT * sizes.max(axis=1, keepdims=True), 1e-300)
    scale = np.sqrt(np.maximum(sizes, least))
    both = free[:, :, None] & free[:, None, :]
    eye = np.eye(matrix.shape[1])
    return np.where(both, matrix / (scale[:, :, None] * scale[:, None, :]), eye), scale


def _step(local: QuadraticModel, damping: Array, free: NDArray[np.bool_]) -> Array:
    hessian = local.hessian + damping[:, None, None] * local.metric
    matrix, scale = _scale_to_metric(local, hessian, free)
    ridge = 1e-15 + RIDGE * damping[:, None, None]  # the metric itself may be singular, as on a ray
    matrix = matrix + ridge * np.eye(matrix.shape[1])
    gradient = np.where(free, local.gradient / scale, 0.0)
    try:
        step = -np.linalg.solve(matrix, gradient[..., None])[..., 0]
    except np.linalg.LinAlgError:
        step = -gradient
    uphill = (step * gradient).sum(axis=1) > 0  # an indefinite Hessian: go down the gradient
    step = np.where(uphill[:, None], -gradient, step)
    return step / scale


def _condition_and_decrease(local: QuadraticModel, free: NDArray[np.bool_]) -> tuple[Array, Array]:
    """Return the scaled Hessian's condition number and the decrease its model promises, (S,)."""
    matrix, scale = _scale_to_metric(local, local.hessian, free)
    finite = np.asarray(np.all(np.isfinite(matrix), axis=(1, 2)))
    matrix = np.where(finite[:, None, None], matrix, np.eye(matrix.shape[1]))
    values, vectors = np.linalg.eigh(matrix)
    gradient = np.where(free, local.gradient / scale, 0.0)
    along = (vectors.swapaxes(1, 2) @ gradient[..., None])[..., 0]
    definite = finite & (np.min(values, axis=1) > 0)
    safe = np.where(definite[:, None], values, 1.0)
    condition = np.where(definite, np.max(safe, axis=1) / np.min(safe, axis=1), np.inf)
    return condition, (along**2 / safe).sum(axis=1) / 2


def _value_scale(problem: Problem) -> float:
    return 1.0 if problem.objective.in_logs else float((problem.target**2).max())
