"""One law fitted to curves: weighted least squares on log losses, with a covariance.

The rows of a curve are no independent measurements: the law errs by about a thousandth and over
long stretches of a curve (Luo et al. 2025: 0.05 to 0.28 % on curves that were not fitted). So a
curve of n rows is worth 1 / (MODEL_ERROR^2 / STRETCHES + sd^2 tau / n), sd the deviation of a row
and tau the correlation time of the residuals, and weak priors hold what the curves leave open.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares, nnls

from scaling.curves.curve import Curve
from scaling.curves.laws import CurveLaw, Unit, curve_loss
from scaling.curves.path import Floats, Path

MODEL_ERROR = 1e-3  # Of the log loss; the law's published errors are 0.5e-3 to 2.8e-3.
STRETCHES = 5  # Of a curve over which that error is about the same (its sign changes 2 to 5 times).
HUBER = 3.0  # Standard deviations beyond which a row counts less.
MOST_CORRELATION = 0.95  # Of neighbouring residuals; 39 rows then count as one.
STARTS = 3  # The best of the starting points are followed to a minimum.
ALPHAS = (0.2, 0.4, 0.8)  # Exponents that a fit starts from; published ones are 0.43 to 0.51.

# Centre and standard deviation of log parameters (L0 has none). alpha, beta, gamma: the published
# fits of Luo et al. (0.43 to 0.51, 0.58 to 0.60, 0.63 to 0.66), widened to a factor of 1.6 to 2.
PRIORS = {"alpha": (0.5, 0.7), "beta": (0.6, 0.5), "gamma": (0.6, 0.5), "C": (30.0, 3.0)}
PRIORS |= {"A": (1.0, 3.0), "B": (0.1, 2.0), "time": (0.3, 1.5)}


@dataclass(frozen=True, kw_only=True)
class LawFit:
    """A law with the parameters that fit some curves.

    law: multi-power or annealing
    unit: of rates and sums
    theta: L0, log A, log alpha, log B and the logs of the law's own parameters (k,)
    covariance: of theta (k, k)
    noise: standard deviation of a row's log loss around the law, the correlated part left out
    drop: whether the curves say what a lower rate does; without, B is 0 and held
    """

    law: CurveLaw
    unit: Unit
    theta: Floats
    covariance: Floats
    noise: float
    drop: bool

    def log_loss(self, path: Path) -> tuple[Floats, Floats]:
        """Return the log loss at every row and its variance by the parameters (n,), (n,)."""
        loss, slopes = curve_loss(self.law, path, self.unit, self.theta)
        loss = np.maximum(loss, SMALLEST_LOSS)
        slopes = slopes / loss[:, None]
        return np.log(loss), np.einsum("ni,ij,nj->n", slopes, self.covariance, slopes)

    def parameters(self) -> dict[str, float]:
        """Return the parameters in the paper's units: sums of rates as they are, steps."""
        values = np.exp(self.theta[1:])
        alpha, unit = float(values[1]), self.unit
        named = {"L0": float(self.theta[0]), "A": float(values[0]) * unit.sum**alpha}
        named |= {"alpha": alpha, "B": float(values[2]) / unit.rate if self.drop else 0.0}
        if self.law.name == "annealing":
            return named | {"lambda": float(np.exp(-unit.rate / (values[3] * unit.sum)))}
        c, beta, gamma = (float(value) for value in values[3:])
        return named | {"C": c / unit.sum * unit.rate**gamma, "beta": beta, "gamma": gamma}


SMALLEST_LOSS = 1e-3  # Nats; a trial step of the solver may go below 0, where there is no log.


def fit_law(
    curves: list[Curve], law: CurveLaw, *, unit: Unit, drop: bool, start: Floats | None = None
) -> LawFit:
    """Fit one law to all curves at once.

    curves: with a weight for every row
    law: multi-power or annealing
    unit: of rates and sums
    drop: whether the rate falls enough in the curves to fit B and the law's own parameters
    start: theta of a fit of nearly the same curves; None tries a grid of starting points
    """
    paths = [curve.path for curve in curves]
    problem = _Problem(curves, paths, law, unit, drop)
    starts = problem.starts() if start is None else [start]
    best, residuals, precision = starts[0], [], problem.row_precision(0.0)
    for _ in range(2):  # the second time with the spread of the rows that the first one gives
        solved = [problem.solve(theta, precision) for theta in starts]
        best = min(solved, key=lambda pair: pair[1])[0]
        starts, residuals = [best], problem.residuals(best)
        precision = problem.row_precision(_spread(residuals, problem.weights, len(best)))
    _, slopes = problem.rows(best)
    hessian = slopes.T @ (slopes * precision[:, None])
    hessian += np.diag(problem.prior_precision)
    covariance = np.zeros((len(best), len(best)))
    at = np.flatnonzero(problem.free)
    covariance[np.ix_(at, at)] = np.linalg.pinv(hessian[np.ix_(at, at)], hermitian=True)
    return LawFit(
        law=law,
        unit=unit,
        theta=best,
        covariance=covariance,
        noise=_white(residuals, problem.weights),
        drop=drop,
    )


class _Problem:
    """The residuals of one law on some curves, with their derivatives."""

    def __init__(
        self, curves: list[Curve], paths: list[Path], law: CurveLaw, unit: Unit, drop: bool
    ) -> None:
        self.paths, self.law, self.unit, self.drop = paths, law, unit, drop
        self.log_loss = np.log(np.concatenate([curve.loss for curve in curves]))
        self.weights = [curve.weights for curve in curves]
        self.weight = np.concatenate(self.weights)
        names = ("L0", "A", "alpha", "B", *law.names)
        priors = [PRIORS.get(name, (1.0, np.inf)) for name in names]
        self.prior_centre = np.log([centre for centre, _ in priors])
        self.free = np.array([drop or i < 3 for i in range(len(names))])
        self.prior_precision = np.array([1 / sd**2 for _, sd in priors]) * self.free
        low = [0.0, *np.log([1e-4, 0.02, 1e-4]), *np.log([b[0] for b in law.bounds])]
        high = [50.0, *np.log([100.0, 3.0, 100.0]), *np.log([b[1] for b in law.bounds])]
        self.low, self.high = np.array(low), np.array(high)

    def rows(self, theta: Floats) -> tuple[Floats, Floats]:
        """Return log losses of the law at all rows and their derivatives."""
        parts = [curve_loss(self.law, path, self.unit, theta) for path in self.paths]
        loss = np.maximum(np.concatenate([loss for loss, _ in parts]), SMALLEST_LOSS)
        return np.log(loss), np.concatenate([slopes for _, slopes in parts]) / loss[:, None]

    def residuals(self, theta: Floats) -> list[Floats]:
        """Return law minus measurement, in log loss, for every curve."""
        apart = np.cumsum([len(weight) for weight in self.weights])[:-1]
        return np.split(self.rows(theta)[0] - self.log_loss, apart)

    def row_precision(self, row_variance: float) -> Floats:
        """Return the weight of every row.

        row_variance: of a row's log loss, times the correlation time of the residuals
        """
        parts = []
        for weight in self.weights:
            total = max(float(weight.sum()), 1e-12)
            worth = 1 / (MODEL_ERROR**2 / STRETCHES + row_variance / total)
            parts.append(weight / total * worth)
        return np.concatenate(parts)

    def solve(self, theta: Floats, precision: Floats) -> tuple[Floats, float]:
        """Return the minimum that is reached from `theta`, and its value."""
        root = np.sqrt(precision)
        scale = MODEL_ERROR * float(np.sqrt(precision.max()))
        prior = np.sqrt(self.prior_precision)
        free = self.free

        def whole(part: Floats) -> Floats:
            every = theta.copy()
            every[free] = part
            return every

        def value(part: Floats) -> Floats:
            log_loss, _ = self.rows(whole(part))
            pull = (whole(part) - self.prior_centre) * prior
            return np.concatenate([(log_loss - self.log_loss) * root, pull])

        def slopes(part: Floats) -> Floats:
            _, rows = self.rows(whole(part))
            return np.concatenate([rows * root[:, None], np.diag(prior)])[:, free]

        def huber(squares: Floats) -> Floats:
            """Return the loss of scaled squares and two derivatives; the priors stay squares."""
            large = squares > 1
            large[len(root) :] = False
            safe = np.where(large, squares, 1.0) ** 0.5
            value = np.where(large, 2 * safe - 1, squares)
            return np.stack([value, np.where(large, 1 / safe, 1.0), -0.5 * large / safe**3])

        low, high = self.low[free], self.high[free]
        solution = least_squares(
            value,
            np.clip(theta[free], low + 1e-6, high - 1e-6),
            slopes,  # pyright: ignore[reportArgumentType]  its stubs know names alone
            bounds=(low, high),
            x_scale="jac",
            loss=huber,  # pyright: ignore[reportArgumentType]
            f_scale=HUBER * scale,
            max_nfev=100,
        )
        return whole(solution.x), float(solution.cost)

    def starts(self) -> list[Floats]:
        """Return the best starting points: L0, A and B by least squares on a grid of the rest."""
        losses, root = np.exp(self.log_loss), np.sqrt(self.weight)
        sums = np.concatenate([path.sums for path in self.paths]) / self.unit.sum
        found = []
        for own in self.law.starts if self.drop else self.law.starts[:1]:
            logs = np.log(own)
            drops = np.concatenate([self.law.drop(p, self.unit, logs)[0] for p in self.paths])
            for alpha in ALPHAS:
                columns = [np.ones_like(losses), sums**-alpha] + [-drops] * self.drop
                linear, cost = nnls(np.stack(columns, axis=1) * root[:, None], losses * root)
                size = linear[2] if self.drop else 1e-3
                logs_all = np.log([max(linear[1], 1e-3), alpha, max(size, 1e-3)])
                found.append((cost, np.concatenate([linear[:1], logs_all, logs])))
        found.sort(key=lambda pair: pair[0])
        return [theta for _, theta in found[:STARTS]]


def _spread(residuals: list[Floats], weights: list[Floats], parameters: int) -> float:
    """Return the variance of a row times the correlation time of the rows.

    The correlation of neighbours gives tau = (1 + rho) / (1 - rho), as in a first-order process.
    """
    rows = [r[w > 0] for r, w in zip(residuals, weights, strict=True)]
    pooled = np.concatenate(rows)
    sd = 1.4826 * float(np.median(np.abs(pooled)))
    rows = [np.clip(r, -HUBER * sd, HUBER * sd) for r in rows]
    power = sum(float(r @ r) for r in rows)
    along = sum(float(r[1:] @ r[:-1]) for r in rows)
    rho = min(max(along / power if power else 0.0, 0.0), MOST_CORRELATION)
    degrees = max(len(pooled) - parameters, 1) / len(pooled)
    return sd**2 / degrees * (1 + rho) / (1 - rho)


def _white(residuals: list[Floats], weights: list[Floats]) -> float:
    """Return the deviation of a row from its neighbours, by second differences (6 variances)."""
    rows = [r[w > 0] for r, w in zip(residuals, weights, strict=True)]
    second = [r[2:] - 2 * r[1:-1] + r[:-2] for r in rows if len(r) > 2]
    if not second:
        return 0.0
    return 1.4826 * float(np.median(np.abs(np.concatenate(second)))) / np.sqrt(6.0)
