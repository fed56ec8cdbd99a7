"""Minimise the objective of a law from many starts, or for many resamples, at once.

Newton's method with the full analytic Hessian, damped by the reweighted Gauss-Newton matrix
(Levenberg's method in the problem's own metric, so units never matter). With delta = 1e-3 few
residuals lie inside Huber's quadratic part, so its width is lowered in steps from the spread of
the residuals, each step warm-starting the next; some starts go to the final width at once, since
a robust objective may have several close minima. Bounds hold by projection.

Every answer says whether it is a minimum: `Solution.converged` is computed at the end from the
gradient and Hessian of the free parameters, not from the reason why iteration stopped.

Legend: S problems, P parameters, n rows.
"""

import itertools
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.forms import Array
from analysis.solve.function_predictions import FunctionDesign
from analysis.solve.objective import Local, Problem, evaluate, residuals
from analysis.solve.term_predictions import TermDesign

TOLERANCE = 1e-12  # relative decrease of the objective that the quadratic model may still promise
ROUNDING = 1e-28  # squared rounding error of a log residual
LAD_JUDGED = 100  # times its width within which a fit of least absolute deviation meets a row
MAX_CONDITION = 1e13  # of the Hessian scaled to a unit diagonal; beyond, a direction is flat
NO_EFFECT = 1e-30  # of the metric's largest: a parameter that moves no prediction
RIDGE = 1e-6  # share of the damping that acts on every scaled parameter alike
SCREEN_ROWS = 1500  # of a longer table so many rows find the minima that all rows then refine
SCREENED = 3  # end points of those rows that all rows refine
COMPETES = 1.05  # times the least objective of those rows, up to which an end point is refined
KEPT_STARTS = 16  # starts that survive the screening
APART = 3.0  # ratio of one width of Huber's to the next
NEAR_APART = 8.0  # the same from a start near by
WIDTH_STEPS = 8  # at each of them
THINNED = 8  # starts tried beside a solution near by
FIRST_STEPS = 40  # most starts end within 20; stragglers are not the best minimum
FINISHED = 6  # end points iterated on when the best of them has not converged by then
RESOLVE_STEPS = 80  # of a resample, which starts near its minimum
MAX_STEPS = 300
DAMPING = 0.1  # of the first step, as a share of the metric; a tenth after each success
METRIC_EVERY = 6  # steps after which the damping's metric is computed afresh
BEND_EVERY = 4  # steps after which second derivatives of a function are; they change slowly
EXPONENT_STARTS = (0.08, 0.25, 0.45, 0.8, 1.4)
OFFSET_STARTS = (0.0, 0.35, 0.65, 0.85, 0.97)  # E as a share of the smallest loss


@dataclass(frozen=True, kw_only=True)
class Solution:
    """Where each problem ended: theta (S, P), value (S,), converged (S,), at_bound (S, P).

    `converged`: the quadratic model promises no relative decrease above `TOLERANCE` and the Hessian
    of the free parameters is positive definite. `condition` (S,) is the condition number of that
    Hessian scaled to a unit diagonal (infinite where it is not positive definite).
    """

    theta: Array
    value: Array
    converged: NDArray[np.bool_]
    at_bound: NDArray[np.bool_]
    condition: Array

    def part(self, chosen: Array | slice) -> "Solution":
        """Return some of the problems."""
        return Solution(
            theta=self.theta[chosen],
            value=self.value[chosen],
            converged=self.converged[chosen],
            at_bound=self.at_bound[chosen],
            condition=self.condition[chosen],
        )


def minimise(problem: Problem, *, kept: int = KEPT_STARTS) -> Solution:
    """Solve one problem from the default starts; returns every end point, best first.

    All starts descend by least squares; the best `kept` distinct ones then pass through falling
    widths and as many untouched starts go to the final width at once.
    """
    if problem.design.n_rows > SCREEN_ROWS:
        screened = minimise(_screen(problem), kept=kept)
        close = screened.part(screened.value <= COMPETES * screened.value[0])
        sparse = _lower_width(_distinct(close.theta)[:SCREENED], problem, steps=1)
        found = _sorted(polish(sparse, problem, max_steps=FIRST_STEPS))
        return found if found.converged[0] else _sorted(polish(sparse, problem))
    grid = np.unique(np.clip(starts(problem), *problem.bounds), axis=0)
    rough = _newton(grid, problem, width=np.inf, max_steps=15)[0]
    order = np.argsort(evaluate(rough, problem, width=np.inf).value)
    best = _distinct(rough[order])[:kept]
    direct = grid[:: max(1, len(grid) // kept)]
    ends = np.concatenate([_lower_width(best, problem), _lower_width(direct, problem, steps=1)])
    return _finished(ends, problem)


def minimise_near(parameters: Array, problem: Problem) -> Solution:
    """Solve one problem from given parameters (S, P) and a thinned grid; best first.

    For a table or an objective close to one that was solved from all starts.
    """
    grid = np.unique(np.clip(starts(problem), *problem.bounds), axis=0)
    thinned = grid[:: max(1, len(grid) // THINNED)]
    near = problem.design.internal(parameters)
    theta = np.concatenate([near[np.isfinite(near).all(axis=1)], thinned])
    apart = APART if problem.objective.name == "lad_log" else NEAR_APART
    return _finished(_lower_width(theta, problem, apart=apart), problem)


def resolve(
    theta: Array,
    problem: Problem,
    *,
    apart: float | None = None,
    steps: int = WIDTH_STEPS,
    damping: float = DAMPING,
) -> Solution:
    """Solve many problems, each from its own start theta (S, P), as for resamples.

    Widths a factor `apart` from each other are passed on the way, with at most `steps` steps at
    each, by default none but for least absolute deviations, whose width no start is near enough
    to. A good start needs less `damping`.
    """
    if apart is None and problem.objective.name == "lad_log":
        apart = APART
    if apart is not None:
        theta = _lower_width(theta, problem, apart=apart, max_steps=steps)
    return polish(theta, problem, max_steps=RESOLVE_STEPS, damping=damping)


def joined(parts: list[Solution]) -> Solution:
    """Concatenate solutions along S."""
    names = Solution.__dataclass_fields__
    return Solution(**{name: np.concatenate([getattr(p, name) for p in parts]) for name in names})


def polish(
    theta: Array, problem: Problem, *, max_steps: int = MAX_STEPS, damping: float = DAMPING
) -> Solution:
    """Iterate at the final width until nothing is left to gain, then judge each end point."""
    theta, local = _newton(theta, problem, width=None, max_steps=max_steps, start=damping)
    if isinstance(problem.design, FunctionDesign):
        local = evaluate(theta, problem)
    free = _free(theta, local.gradient, problem)
    if problem.objective.name == "lad_log":  # whether the rows next to 0 pin every parameter
        wider = evaluate(theta, problem, width=LAD_JUDGED * problem.objective.width)
        local = replace(local, squares=wider.squares, bend=wider.bend, metric=wider.metric)
    condition, promised = _judge(local, free)
    floor = ROUNDING * np.broadcast_to(problem.weights.sum(axis=1), local.value.shape)
    small = promised <= TOLERANCE * 10 * local.value + floor * _value_scale(problem)
    low, high = problem.bounds
    return Solution(
        theta=theta,
        value=local.value / problem.objective.unit,
        converged=small & (condition < MAX_CONDITION) & np.isfinite(local.value),
        at_bound=((theta <= low) | (theta >= high)) & (low < high),
        condition=condition,
    )


def starts(problem: Problem) -> Array:
    """Return where to start from (S, P): a grid for terms, what the form says for functions."""
    design = problem.design
    if isinstance(design, FunctionDesign):
        assert design.form.starts is not None
        table = pd.DataFrame({**design.values, design.form.target: problem.target})
        given = design.form.starts(table)
        names = design.form.parameters
        return design.internal(np.stack(np.broadcast_arrays(*(given[n] for n in names)), axis=1))
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
    left = (1 - offset / target) * np.ones((len(theta), 1))  # (S, n)
    normal = (shapes * weights) @ shapes.swapaxes(1, 2)
    normal += 1e-9 * np.trace(normal, axis1=1, axis2=2)[:, None, None] * np.eye(shapes.shape[1])
    wanted = ((shapes * weights) @ left[..., None])[..., 0]
    amplitudes = np.linalg.solve(normal, wanted[..., None])[..., 0]
    even = wanted / np.diagonal(normal, axis1=1, axis2=2) / shapes.shape[1]
    amplitudes = np.maximum(amplitudes, 0.02 * even)
    out = theta.copy()
    for k, index in enumerate(design.index):
        out[:, index[0]] = np.log(amplitudes[:, k])
    return out


def _sorted(found: Solution) -> Solution:
    return found.part(np.argsort(np.where(np.isfinite(found.value), found.value, np.inf)))


def _screen(problem: Problem) -> Problem:
    """Return the problem on evenly spaced rows."""
    n = problem.design.n_rows
    return problem.rows(np.linspace(0, n - 1, SCREEN_ROWS).astype(int))


def _distinct(theta: Array) -> Array:
    """Drop rows that repeat an earlier one to three digits."""
    _, first = np.unique(np.round(theta, 3), axis=0, return_index=True)
    return theta[np.sort(first)]


def _finished(theta: Array, problem: Problem) -> Solution:
    """Polish all a little, then the best to the end if the best of all is not there; best first."""
    found = _sorted(polish(theta, problem, max_steps=FIRST_STEPS))
    if found.converged[0]:
        return found
    longer = polish(found.theta[:FINISHED], problem)
    return _sorted(joined([longer, found.part(slice(FINISHED, None))]))


def _lower_width(
    theta: Array,
    problem: Problem,
    *,
    steps: int | None = None,
    apart: float = APART,
    max_steps: int = WIDTH_STEPS,
) -> Array:
    """Lower Huber's width from the spread of the residuals to its final value.

    `steps` intermediate widths, by default so many that they lie a factor `apart`. Nothing to do
    for least squares.
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
) -> tuple[Array, Local]:
    """Take damped Newton steps until every problem stops; returns theta and its derivatives."""
    low, high = problem.bounds
    theta = np.clip(theta, low, high)
    local = evaluate(theta, problem, width=width, metric=start >= DAMPING)
    if start < DAMPING:  # hardly damped: the Hessian's own scale will do
        local.metric[:] = local.squares
    damping = np.full(len(theta), start)
    active = np.arange(len(theta))
    floor = ROUNDING * problem.weights.sum(axis=1).min() * _value_scale(problem)
    bend_every = 1 if isinstance(problem.design, TermDesign) else BEND_EVERY
    for count in range(1, max_steps + 1):
        here, now, posed = theta[active], local.part(active), problem.part(active)
        step = _step(now, damping[active], _free(here, now.gradient, posed))
        trial = np.clip(here + step, *posed.bounds)
        promised = -((trial - here) * now.gradient).sum(axis=1)
        small = np.abs(promised) <= TOLERANCE * now.value + floor
        open_ = ~(small & (damping[active] <= DAMPING))
        active, trial = active[open_], trial[open_]
        if not len(active):
            break
        metric, bend = count % METRIC_EVERY == 0, count % bend_every == 0
        ahead = evaluate(trial, problem.part(active), width=width, metric=metric, bend=bend)
        better = ahead.value < local.value[active]
        theta[active[better]] = trial[better]
        skipped = {name for name, kept in (("metric", metric), ("bend", bend)) if not kept}
        for name in Local.__dataclass_fields__.keys() - skipped:
            getattr(local, name)[active[better]] = getattr(ahead, name)[better]
        damping[active] *= np.where(better, 0.1, 8.0)
        active = active[damping[active] <= 1e14]
    return theta, local


def _free(theta: Array, gradient: Array, problem: Problem) -> NDArray[np.bool_]:
    """Tell which parameters may move: neither held nor pressed against a bound (S, P)."""
    low, high = problem.bounds
    pressed = ((theta <= low) & (gradient > 0)) | ((theta >= high) & (gradient < 0))
    return ~pressed & (low < high)


def _masked(local: Local, matrix: Array, free: NDArray[np.bool_]) -> tuple[Array, Array]:
    """Scale a matrix (S, P, P) to the metric's unit diagonal; fixed parameters decouple."""
    sizes = np.diagonal(local.metric, axis1=1, axis2=2)
    least = np.maximum(NO_EFFECT * sizes.max(axis=1, keepdims=True), 1e-300)
    scale = np.sqrt(np.maximum(sizes, least))
    both = free[:, :, None] & free[:, None, :]
    eye = np.eye(matrix.shape[1])
    return np.where(both, matrix / (scale[:, :, None] * scale[:, None, :]), eye), scale


def _step(local: Local, damping: Array, free: NDArray[np.bool_]) -> Array:
    damped = local.hessian + damping[:, None, None] * local.metric
    matrix, scale = _masked(local, damped, free)
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


def _judge(local: Local, free: NDArray[np.bool_]) -> tuple[Array, Array]:
    """Return the scaled Hessian's condition number and the decrease its model promises, (S,)."""
    matrix, scale = _masked(local, local.hessian, free)
    finite = np.asarray(np.all(np.isfinite(matrix), axis=(1, 2)))
    matrix = np.where(finite[:, None, None], matrix, np.eye(matrix.shape[1]))
    values, vectors = np.linalg.eigh(matrix)
    gradient = np.where(free, local.gradient / scale, 0.0)
    along = (vectors.swapaxes(1, 2) @ gradient[..., None])[..., 0]
    positive = finite & (np.min(values, axis=1) > 0)
    safe = np.where(positive[:, None], values, 1.0)
    condition = np.where(positive, np.max(safe, axis=1) / np.min(safe, axis=1), np.inf)
    return condition, (along**2 / safe).sum(axis=1) / 2


def _value_scale(problem: Problem) -> float:
    return 1.0 if problem.objective.in_logs else float((problem.target**2).max())
