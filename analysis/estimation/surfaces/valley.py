"""Least squares for the valley of `analysis.forms.settings.surface`: all points at once.

log L of a row is an offset of its own (N, D) plus log(1 + Q), so that the valley says nothing about
L*(N, D), whose error would move it. Residuals enter by the soft L1 function: quadratic up to a
scale, linear beyond. The steps are Levenberg and Marquardt's, the offsets being eliminated, for
many draws of a bootstrap together.

Priors keep few sizes sober: N of a sweep often spans a factor of two, and the exponent in N then
follows the noise. All rows of an (N, D) share what the form leaves out there, so that they count
together as one observation against the prior (`benchmarks/surface.py` compares other weights).

Legend: S draws, P parameters, n rows, c points (N, D).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis.forms import Array
from analysis.forms.settings.surface import BATCH, DECAY, MIDDLE_TOKENS, RATE, SHAPE

# Mean and deviation of each internal coordinate. Exponents: the rate's in N is -.71 in Li et al.
# 2025 (2503.04715), -.36 in Porian et al. 2024 (2406.19146) and -.23 in Bjorck et al. 2024
# (2409.19913), in D .31, 0 and -.32; the batch's in D is .57 (Li), .38 (Bergsma et al. 2025,
# 2505.13738) and .33 of C (DeepSeek-AI 2024, 2401.02954), and in N about 0 (Zhang et al. 2024,
# 2410.21676); that of tau in D/N is -.53 (Bergsma). A factor of two in rate or batch costs about
# .25 % (Li), which is q = .0025 / log(2)^2 = .005. Levels are left to the runs.
PRIORS = {
    "k_lr": (0.0, np.inf),
    "p_lr": (-0.43, 0.25),
    "q_lr": (0.0, 0.3),
    "k_batch": (0.0, np.inf),
    "p_batch": (0.0, 0.15),
    "q_batch": (0.45, 0.15),
    "q_l": (np.log(0.005), 1.5),
    "q_3": (np.log(0.003), 1.5),
    "q_b": (np.log(0.005), 1.5),
    "rho": (0.4, 0.2),
    "s": (0.15, 0.3),
    "k_tau": (0.0, np.inf),
    "s_tau": (0.5, 0.25),
    "q_t": (np.log(0.005), 1.5),
}
ALIKE = 3.0  # rows that count as one observation against the prior
FIRST_SCALE = 0.003  # of residuals of log L, before they are seen
LEAST_SCALE = 3e-4  # losses are printed with three or four digits after the point
MAD = 1.4826  # ratio of a normal standard deviation to the median absolute deviation
STEPS = 60  # of the point estimate, which takes about 8
DRAW_STEPS = 30  # of a draw, which starts at the point estimate
SETTLED = 1e-2  # of a step in the metric of its curvature: a hundredth of a deviation
FREEDOM = 3  # parameters of each optimum: a level and two exponents
BLOCK = 300_000  # derivatives held at a time, which a cache holds
OFFSET_STEPS = 5  # of the points' offsets, each a weighted mean
DAMPING = (1e-6, 1e8)  # least and most of Levenberg's factor


@dataclass(frozen=True, kw_only=True)
class ValleyRows:
    """Logs of the rows (n,) in the order of their points, and where each point starts (c,)."""

    log_n: Array
    log_d: Array
    log_lr: Array
    log_batch: Array
    log_decay: Array | None
    log_loss: Array
    starts: Array
    point: Array

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters, those of weight decay last and only where it varies."""
        return (*RATE, *BATCH, *SHAPE, *(DECAY if self.log_decay is not None else ()))

    @property
    def middle(self) -> tuple[float, float]:
        """Mean log N and log D over the points."""
        return float(self.log_n[self.starts].mean()), float(self.log_d[self.starts].mean())

    def means(self, values: Array, weights: Array) -> Array:
        """Return weighted means over the rows of each point: (..., n) to (..., c)."""
        total = np.add.reduceat(weights, self.starts, axis=-1)
        return np.add.reduceat(values * weights, self.starts, axis=-1) / np.maximum(total, 1e-300)


@dataclass(frozen=True, kw_only=True)
class Valley:
    """Solutions of the valley.

    theta: internal coordinates (S, P): levels at the middle of the points, logs of curvatures
    offsets: log L* of each point (S, c)
    residuals: log L less its fit (S, n)
    converged: which solutions are minima (S,)
    scale: residual of log L from which the objective is linear
    value: the objective (S,), a sum over rows in units of the scale, and its prior
    """

    theta: Array
    offsets: Array
    residuals: Array
    converged: Array
    scale: float
    value: Array


def fit_valley(rows: ValleyRows) -> Valley:
    """Return the point estimate (S = 1); its residuals give the scale.

    rows: at least as many rows as parameters and points together
    """
    ones = np.ones((1, len(rows.log_n)))
    valley = solve(rows, _start(rows), ones, scale=FIRST_SCALE, steps=STEPS)
    for _ in range(2):
        scale = max(MAD * float(np.median(np.abs(valley.residuals))), LEAST_SCALE)
        valley = solve(rows, valley.theta, ones, scale=scale, steps=STEPS)
    return valley


def draw_valleys(rows: ValleyRows, valley: Valley, draws: int, seed: int) -> Valley:
    """Return solutions of reweighted points and rows (S = draws).

    rows: those of the point estimate
    valley: the point estimate
    draws: how many
    seed: of the weights

    A Bayesian bootstrap (Rubin 1981) in two levels: an exponential weight for each (N, D), times
    one for each row. No point is ever lost, unlike in a resample with replacement. The means of the
    priors are drawn too, so that what the runs leave open varies as the prior says. Draws are
    widened by the degrees of freedom of the points.
    """
    rng = np.random.default_rng(seed)
    points = rng.standard_exponential((draws, len(rows.starts)))
    weights = points[:, rows.point] * rng.standard_exponential((draws, len(rows.log_n)))
    weights /= weights.mean(axis=1, keepdims=True)
    shifts = rng.standard_normal((draws, len(rows.names)))
    size = max(1, BLOCK // (len(rows.log_n) * len(rows.names)))
    parts = [
        solve(
            rows,
            np.repeat(valley.theta, len(weights[i : i + size]), axis=0),
            weights[i : i + size],
            scale=valley.scale,
            steps=DRAW_STEPS,
            shifts=shifts[i : i + size],
        )
        for i in range(0, draws, size)
    ]
    fields = ("theta", "offsets", "residuals", "converged", "value")
    joined = {name: np.concatenate([getattr(p, name) for p in parts]) for name in fields}
    points = len(rows.starts)  # few: a fit follows its own points, and draws of them are too narrow
    wider = np.sqrt(points / max(points - FREEDOM, 1))
    joined["theta"] = valley.theta + wider * (joined["theta"] - valley.theta)
    return Valley(scale=valley.scale, **joined)


def solve(
    rows: ValleyRows,
    theta: Array,
    weights: Array,
    *,
    scale: float,
    steps: int,
    shifts: Array | None = None,
) -> Valley:
    """Minimise from given coordinates.

    rows: the rows
    theta: coordinates to start from (S, P)
    weights: of the rows (S, n)
    scale: residual from which the objective is linear
    steps: most steps
    shifts: of the prior means in their deviations (S, P); None shifts nothing
    """
    mean, precision = _prior(rows)
    mean = np.broadcast_to(mean, theta.shape)
    mean = mean if shifts is None else mean + shifts * _deviations(rows)
    problem = (rows, scale, precision)
    here = _evaluate(problem, theta, weights, mean)
    damping = np.full(len(theta), 1e-3)
    moving = np.arange(len(theta))
    for _ in range(steps):
        now = {name: values[moving] for name, values in here.items()}
        diagonal = np.einsum("spp->sp", now["curvature"])
        damped = now["curvature"] + damping[moving, None, None] * (
            diagonal[:, :, None] * np.eye(theta.shape[1])
        )
        step = np.linalg.solve(damped, now["slope"][..., None])[..., 0]
        trial = now["theta"] + step
        ahead = _evaluate(problem, trial, weights[moving], mean[moving], now["offsets"])
        better = ahead["value"] <= now["value"]
        small = np.einsum("sp,sp->s", step, now["slope"]) < SETTLED**2
        small &= damping[moving] <= 1.0
        for name, values in ahead.items():
            here[name][moving[better]] = values[better]
        factor = np.where(better, 0.1, 10.0)
        damping[moving] = np.clip(damping[moving] * factor, *DAMPING)
        moving = moving[~small]
        if not len(moving):
            break
    settled = np.ones(len(theta), dtype=bool)
    settled[moving] = False
    return Valley(
        theta=here["theta"],
        offsets=here["offsets"],
        residuals=here["residuals"],
        converged=settled & np.isfinite(here["value"]),
        scale=scale,
        value=here["value"],
    )


def external(rows: ValleyRows, theta: Array) -> Array:
    """Return the parameters (S, P) of the form, in the order of `rows.names`."""
    at = {name: theta[:, i] for i, name in enumerate(rows.names)}
    n, d = rows.middle
    shift = np.exp(at["s"] * (d - np.log(MIDDLE_TOKENS)))
    values = dict(at)
    for axis in ("lr", "batch"):
        values[f"k_{axis}"] = np.exp(at[f"k_{axis}"] - at[f"p_{axis}"] * n - at[f"q_{axis}"] * d)
    if "k_tau" in at:
        values["k_tau"] = np.exp(at["k_tau"] + at["s_tau"] * (d - n))
    for name in ("q_l", "q_3", "q_b", "q_t"):
        if name in at:
            values[name] = np.exp(at[name]) * shift
    return np.stack([values[name] for name in rows.names], axis=1)


def model(rows: ValleyRows, theta: Array) -> tuple[Array, Array]:
    """Return Q (S, n) and its derivatives (S, P, n) by the internal coordinates."""
    p = {name: theta[:, i, None] for i, name in enumerate(rows.names)}
    n, d = rows.log_n - rows.middle[0], rows.log_d - rows.middle[1]
    u = rows.log_lr - (p["k_lr"] + p["p_lr"] * n + p["q_lr"] * d)
    v = rows.log_batch - (p["k_batch"] + p["p_batch"] * n + p["q_batch"] * d)
    z = u - p["rho"] * v
    flat, above = np.exp(-p["s"] * d), np.maximum(z, 0.0)
    rate, cube, batch = (flat * np.exp(p[name]) for name in ("q_l", "q_3", "q_b"))
    terms = {"q_l": rate * z**2, "q_3": cube * above**3, "q_b": batch * v**2}
    by_z = 2 * rate * z + 3 * cube * above**2
    by_v = 2 * batch * v - p["rho"] * by_z
    slopes = {
        **dict(zip(RATE, (-by_z, -by_z * n, -by_z * d), strict=True)),
        **dict(zip(BATCH, (-by_v, -by_v * n, -by_v * d), strict=True)),
        "rho": -v * by_z,
    }
    if rows.log_decay is not None:
        ratio = d - n
        log_tau = rows.log_batch - rows.log_lr - rows.log_decay - rows.log_d
        w = log_tau - p["k_tau"] + p["s_tau"] * ratio
        time = flat * np.exp(p["q_t"])
        terms["q_t"] = time * w**2
        slopes |= {"k_tau": -2 * time * w, "s_tau": 2 * time * w * ratio}
    cost = np.sum(list(terms.values()), axis=0)
    slopes |= {**terms, "s": -d * cost}
    return cost, np.stack([slopes[name] for name in rows.names], axis=1)


def _evaluate(
    problem: tuple[ValleyRows, float, Array],
    theta: Array,
    weights: Array,
    mean: Array,
    offsets: Array | None = None,
) -> dict[str, Array]:
    """Return the objective (S,), its descent direction (S, P) and its curvature (S, P, P).

    problem: the rows, the scale of the residuals and the precision of the prior (P,)
    theta: coordinates (S, P)
    weights: of the rows (S, n)
    mean: of the prior (S, P)
    offsets: to start from (S, c); None takes weighted means
    """
    rows, scale, precision = problem
    with np.errstate(over="ignore", invalid="ignore"):
        cost, by_theta = model(rows, theta)
        target = rows.log_loss - np.log1p(cost)
        by_theta /= (1 + cost)[:, None]
    offsets = rows.means(target, weights) if offsets is None else offsets
    for _ in range(OFFSET_STEPS):
        root = np.sqrt(1 + ((target - offsets[:, rows.point]) / scale) ** 2)
        offsets = rows.means(target, weights / root)
    residuals = target - offsets[:, rows.point]
    root = np.sqrt(1 + (residuals / scale) ** 2)
    bent, curved = weights / root / scale**2, weights / root**3 / scale**2
    centred = by_theta - rows.means(by_theta, curved[:, None])[..., rows.point]
    away = mean - theta
    value = (weights * (root - 1)).sum(axis=1) + (precision * away**2).sum(axis=1) / 2
    return {
        "theta": theta.copy(),
        "value": np.where(np.isfinite(value), value, np.inf),
        "slope": (by_theta @ (bent * residuals)[..., None])[..., 0] + precision * away,
        "curvature": (centred * curved[:, None]) @ centred.transpose(0, 2, 1)
        + np.diag(precision + 1e-9),
        "offsets": offsets,
        "residuals": residuals,
    }


def _prior(rows: ValleyRows) -> tuple[Array, Array]:
    """Return the mean and the precision (P,) of the coordinates; the rows of a point count as 1."""
    mean = np.array([PRIORS[name][0] for name in rows.names])
    deviations = np.array([PRIORS[name][1] for name in rows.names])
    return mean, ALIKE / deviations**2


def _deviations(rows: ValleyRows) -> Array:
    """Return the deviations of the prior (P,), 0 for what is left to the runs."""
    deviations = [PRIORS[name][1] for name in rows.names]
    return np.array([sd if np.isfinite(sd) else 0.0 for sd in deviations])


def _start(rows: ValleyRows) -> Array:
    """Return coordinates (1, P): prior means, and the levels of the best rows of the points."""
    theta = np.array([PRIORS[name][0] for name in rows.names])
    best = [_first_least(rows.log_loss, i) for i in _slices(rows)]
    theta[rows.names.index("k_lr")] = rows.log_lr[best].mean()
    theta[rows.names.index("k_batch")] = rows.log_batch[best].mean()
    if rows.log_decay is not None:
        tau = rows.log_batch - rows.log_lr - rows.log_decay - rows.log_d
        theta[rows.names.index("k_tau")] = tau[best].mean()
    return theta[None]


def _slices(rows: ValleyRows) -> Sequence[slice]:
    ends = [*rows.starts[1:], len(rows.log_n)]
    return [slice(a, b) for a, b in zip(rows.starts, ends, strict=True)]


def _first_least(values: Array, where: slice) -> int:
    return where.start + int(values[where].argmin())
