"""Profile-likelihood intervals: fix a quantity, refit the rest, and see how far F rises.

A Chinchilla law has profiles of E, of a = beta / (alpha + beta) and of tokens per parameter at a
budget (`analysis.uncertainty.reparametrise`); another form made of terms has one of its offset. The
interval is where 2 (F - F_min) / scale stays below F_{1, n-p} (LAWS 5.4). Its ends are interpolated
on a grid of the square root, which is nearly a straight line. The interval of E ends at the bound 0
where F does not rise enough above it.

For least squares on rows that are units the scale is s^2 = 2 F_min / (n - p), which is exact for a
linear form under even Gaussian noise. For Huber's and absolute residuals the usual robust
likelihood ratio takes mean(psi^2) / mean(psi'), which holds for even noise only: under the noise of
`benchmarks/intervals.py` (ten times larger at high losses) it covered 67-88 % for a and E and
97-100 % for tokens per parameter at nominal 90 % (60 tables each of three designs). The scale here
therefore belongs to the quantity: the ratio of its sandwich variance to its model variance (Kent
1982), with scores summed over the independent units and divided by one minus their leverage, as a
jackknife does (HC3 and CR3). On the same tables it covered 88-95, 90-97 and 93-100 %. psi' is
estimated by a Gaussian kernel, since few residuals lie inside a small delta.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import fdtri, ndtr

from analysis.forms import Array
from analysis.solve.objective import Problem, evaluate, residuals
from analysis.solve.solver import resolve
from analysis.solve.term_predictions import TermDesign
from analysis.uncertainty.bootstrap import Units, retry_unconverged
from analysis.uncertainty.reparametrise import ALPHA, B, by_optimum, by_share

# Distances from the point estimate, in standard errors, at which the quantity is fixed.
GRID = (0.4, 0.8, 1.2, 1.5, 1.8, 2.2, 2.8, 4.0, 6.5, 11.0)
SILVERMAN = 0.9  # factor of Silverman's rule for the bandwidth of a kernel
EXACT = 1e-10  # relative standard error below which a fit is exact and F only rounding
MOST_LEVERAGE = 0.95  # cut-off of leverage: a unit that alone determines a parameter has leverage 1


@dataclass(frozen=True, kw_only=True)
class Target:
    """A quantity that is the coordinate `at` of a problem, and the point estimate phi (P,)."""

    problem: Problem
    phi: Array
    at: int

    @property
    def free(self) -> NDArray[np.bool_]:
        """Coordinates that are neither fixed nor at a bound (P,); the quantity always counts."""
        low, high = self.problem.bounds
        free = (self.phi > low[0]) & (self.phi < high[0])
        free[self.at] = True
        return free


@dataclass(frozen=True, kw_only=True)
class Scale:
    """What a rise of F is measured in.

    ratio: divides 2 (F - F_min)
    deviation: standard error of the quantity
    slope: how each coordinate moves with the quantity along the valley of F (P,)
    """

    ratio: float
    deviation: float
    slope: Array


def targets(problem: Problem, theta: Array, flops: float | None) -> dict[str, Target]:
    """Return the quantities that have a profile at the minimum theta (P,): E, a, log N* at C."""
    design, is_fixed = problem.design, ~np.isnan(problem.fixed_theta[0])
    by_name: dict[str, Target] = {}
    if not isinstance(design, TermDesign):
        return by_name
    if design.offset is not None and not is_fixed[design.offset]:
        name = design.form.parameters[design.offset]
        by_name[name] = Target(problem=problem, phi=theta, at=design.offset)
    if design.form.name != "chinchilla" or is_fixed[1:].any() or flops is None:
        return by_name
    mapped, phi = by_share(design, theta)
    by_name["a"] = Target(problem=replace(problem, design=mapped), phi=phi, at=ALPHA)
    mapped, phi = by_optimum(design, theta, flops)
    by_name["log_params"] = Target(problem=replace(problem, design=mapped), phi=phi, at=B)
    return by_name


def profile_interval(target: Target, units: Units, level: float) -> tuple[float, float]:
    """Return the ends of a quantity's interval: its bound where F rises too little."""
    point, bounds = target.phi[target.at], target.problem.bounds
    low, high = (float(b[0, target.at]) for b in bounds)
    scale = scale_of(target, units)
    freedom = target.problem.design.n_rows - int(target.free.sum())
    limit = float(np.sqrt(fdtri(1, freedom, level)))
    if not scale.deviation > EXACT * abs(point):
        return max(point - limit * scale.deviation, low), point + limit * scale.deviation
    steps = scale.deviation * np.array([*(-s for s in GRID[::-1]), *GRID])
    values = np.unique(np.clip(point + steps, low, high))
    heights = height(values, target, scale)
    crossings = np.array([e for e in _ends(point, values, heights, limit) if low < e < high])
    if len(crossings):
        values = np.append(values, crossings)
        heights = np.append(heights, height(crossings, target, scale))
    lower, upper = _ends(point, values, heights, limit)
    return max(lower, low), min(upper, high)


def height(values: Array, target: Target, scale: Scale) -> Array:
    """Return the root of the scaled rise of F with the quantity fixed at values (S,).

    It is NaN where the refit has no minimum.
    """
    fixed_theta = np.repeat(target.problem.fixed_theta, len(values), axis=0)
    fixed_theta[:, target.at] = values
    constrained = replace(target.problem, fixed_theta=fixed_theta)
    theta = target.phi + (values - target.phi[target.at])[:, None] * scale.slope
    solution = retry_unconverged(resolve(theta, constrained), constrained)
    least = evaluate(target.phi[None], target.problem, curvature=False, metric=False).value[0]
    rise = 2 * (solution.value * constrained.objective.unit - least) / scale.ratio
    return np.where(solution.converged, np.sqrt(np.maximum(rise, 0.0)), np.nan)


def scale_of(target: Target, units: Units) -> Scale:
    """Return what a rise of F is measured in, as the module's docstring says."""
    problem, free, at = target.problem, target.free, target.at
    residual, weight, jacobian = _local(target)
    n, size = len(residual), int(free.sum())
    width = problem.objective.width
    objective = problem.objective
    psi = objective.weigh_sides(np.clip(residual, -width, width), residual)
    over = objective.over_weight if objective.is_one_sided else 1.0
    inside = share_inside(residual * np.sqrt(n / (n - size)), width, over)
    half = np.sqrt(weight) * jacobian[free]
    inverse = np.linalg.pinv(inside * half @ half.T, hermitian=True)
    here = int(free[:at].sum())
    row, model = inverse[here], inverse[here, here]
    if np.isinf(width) and units.name == "row":
        ratio = float((weight * psi**2).sum()) / (n - size)
    else:
        scores = _scores(half, np.sqrt(weight) * psi, inside * inverse, units)
        ratio = float(((scores @ row) ** 2).sum() / model)
    slope = np.zeros(len(free))
    slope[free] = row / model
    return Scale(ratio=ratio, deviation=float(np.sqrt(ratio * model)), slope=slope)


def share_inside(residual: Array, width: float, over_weight: float = 1.0) -> float:
    """Return E[psi'] by a Gaussian kernel: P(|r| < width) with r > 0 weighted; 1 for least squares.

    residual: of the rows (n,)
    width: Huber's half-width
    over_weight: of r > 0
    """
    if np.isinf(width):
        return 1.0
    quartiles = np.quantile(residual, [0.25, 0.75])
    spread = min(float(residual.std()), float(np.ptp(quartiles)) / 1.349)
    bandwidth = SILVERMAN * spread * len(residual) ** -0.2
    if not bandwidth > 0:
        return float(max(np.mean(np.abs(residual) < width), 1 / len(residual)))
    below, at_0, above = (ndtr((end - residual) / bandwidth) for end in (-width, 0.0, width))
    return float((at_0 - below + over_weight * (above - at_0)).mean())


def _local(target: Target) -> tuple[Array, Array, Array]:
    """Return residuals (n,), weights (n,) and the residuals' derivatives (P, n) at the point."""
    problem, phi = target.problem, target.phi[None]
    sums = problem.design.row_sums(phi)
    jacobian = sums.jacobian()[0]
    if problem.objective.in_logs:
        jacobian = jacobian / sums.prediction[0]
    return residuals(phi, problem)[0], problem.weights[0], jacobian


def _scores(half: Array, psi: Array, inverse: Array, units: Units) -> Array:
    """Return each unit's score (U, p), enlarged by its leverage: J_u (1 - K_u)^-1 psi_u."""
    if units.count == len(psi):
        leverage = np.einsum("pn,pq,qn->n", half, inverse, half)
        return (half * (psi / (1 - np.minimum(leverage, MOST_LEVERAGE)))).T
    out = np.empty((units.count, len(half)))
    for u in range(units.count):
        mine = units.codes == u
        block = half[:, mine].T @ inverse @ half[:, mine]
        block *= min(1.0, MOST_LEVERAGE / max(float(np.linalg.norm(block, 2)), 1e-300))
        out[u] = half[:, mine] @ np.linalg.solve(np.eye(len(block)) - block, psi[mine])
    return out


def _ends(point: float, values: Array, heights: Array, limit: float) -> tuple[float, float]:
    """Return where heights first cross the limit on either side; infinite where they do not."""
    ends = []
    for sign in (-1.0, 1.0):
        distance = sign * (values - point)
        side = np.flatnonzero((distance > 0) & np.isfinite(heights))
        side = side[np.argsort(distance[side])]
        x, y = np.append(0.0, distance[side]), np.append(0.0, heights[side])
        above = np.flatnonzero(y >= limit)
        if not len(above):
            ends.append(sign * np.inf)
            continue
        k = above[0]
        share = (limit - y[k - 1]) / (y[k] - y[k - 1])
        ends.append(point + sign * (x[k - 1] + share * (x[k] - x[k - 1])))
    return ends[0], ends[1]
