"""Outliers: rows of a table that do not belong to the others.

Each row is compared with the law of all other rows, because one N that is typed 1000 times too
large bends the law of all rows towards itself. That law has Chinchilla's form and Huber's
objective, whatever the user fits. The first of these laws starts from fits of random halves, most
of which do not hold the bad row. Rows are removed one by one, the most influential first, so that
two bad rows do not hide each other. Distances are in standard deviations of the other rows about
their law.

A row is an outlier beyond `NEAR` if a slip of units in one of its columns explains it, and beyond
`FAR` whatever the cause. A row of the second kind must be as far when its distance includes the
uncertainty of the law there, and must also miss a quadratic surface of log L in log N and log D: a
sound run at the edge of the design, where only the form errs, lies on that surface. Where counted
FLOPs agree with 6ND in nearly all rows, a row in which they do not is an outlier too.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from analysis.forms import FORMS, Array, column
from analysis.solve.objective import Objective, Problem, problem_of, residuals
from analysis.solve.solver import Solution, minimise, minimise_near, resolve
from analysis.solve.term_predictions import TermDesign

FAR = 15.0  # distance of any outlier; the tails of sound published tables end about there
NEAR = 8.0  # distance of an outlier that a slip of units explains
OPEN = 3.0  # ratio of a law's own error at a row to the scatter, beyond which it says nothing there
ISOLATED = 30.0  # ratio to the next N or D from which a row is suspected at `EXPLAINED` already
BEYOND = 10.0  # factor by which a row may lie beyond the others' range once its slip is undone
EXPLAINED = 3.0  # distance that may be left once the slip is undone
SLIPS = {  # factors by which a column is typed wrong: another unit, or a point in another place
    "params": (1e3, 1e6, 1e9),
    "tokens": (1e3, 1e6, 1e9),
    "loss": (10.0, 100.0, 1e3),
}
LEAST_SCATTER = 5e-4  # deviation of log L, as losses are printed with three digits after the point
SPARE_ROWS = 3  # rows beyond the parameters that say something about one of them
HALVES = 8  # random halves that are fitted; all of them hold one bad row in 1 of 256 tables
MINIMA = 3  # best minima of all rows, from which the fits of halves start
CANDIDATES = 60  # rows of a long table that are left out in turn, by residual and by leverage each
MOST_ROWS = 10  # outliers of a table; more rows off the law mean another law
MOST_SHARE = 0.1  # the same as a share of the rows
AGREEING = 0.8  # share of the rows that must agree in C / 6ND before another is odd
ODD_COUNT = 30.0  # ratio of C / 6ND to the table's median: no two ways of counting differ so much
MAD = 1.4826  # ratio of a normal standard deviation to the median absolute deviation


@dataclass(frozen=True, kw_only=True)
class Outlier:
    """A row (its position in the table), its distance from the law (None where its C is odd), and
    the slip of units that explains it.
    """

    row: int
    distance: float | None
    slip: str = ""


@dataclass(frozen=True, kw_only=True)
class Outliers:
    """The outliers of a table, and the exponent a of Chinchilla's form with and without them."""

    rows: tuple[Outlier, ...] = ()
    exponent: tuple[float, float] | None = None


def outliers(table: pd.DataFrame) -> Outliers:
    """Return the outliers of a table with params, tokens, loss and flops."""
    by_law, exponent = _outliers_of_law(table)
    rows_by_law = {o.row for o in by_law}
    by_count = [
        Outlier(row=row, distance=None, slip=f"C is {ratio:.3g} times 6ND")
        for row, ratio in _odd_counts(table)
        if row not in rows_by_law
    ]
    return Outliers(rows=(*by_law, *by_count), exponent=exponent)


def odd_counts(over_6nd: Array) -> Array:
    """Return in which rows (n,) C / 6ND is far from what it is in nearly all others."""
    ratio = over_6nd / np.median(over_6nd)
    odd = (ratio > ODD_COUNT) | (ratio < 1 / ODD_COUNT)
    return odd if odd.mean() <= 1 - AGREEING else np.zeros_like(odd)


def _odd_counts(table: pd.DataFrame) -> Iterator[tuple[int, float]]:
    over = column(table, "flops") / (6 * column(table, "params") * column(table, "tokens"))
    for row in np.flatnonzero(odd_counts(over)):
        yield int(row), float(over[row])


def _outliers_of_law(table: pd.DataFrame) -> tuple[list[Outlier], tuple[float, float] | None]:
    form = FORMS["chinchilla"]
    least = len(form.parameters) + SPARE_ROWS
    if len(table) < least or any(np.ptp(column(table, v)) == 0 for v in form.variables):
        return [], None
    problem = problem_of(table.drop(columns="weight", errors="ignore"), form, Objective())
    first = minimise(problem)
    if not np.isfinite(first.value[0]):
        return [], None
    theta, remaining = _robust_law(problem, first), np.arange(len(table))
    most = min(MOST_ROWS, max(1, int(MOST_SHARE * len(table))))
    error = np.abs(residuals(theta, problem)[0])
    if (error > FAR * max(MAD * float(np.median(error)), LEAST_SCATTER)).sum() > 2 * most:
        return [], None
    odd: list[Outlier] = []
    while len(odd) <= most and len(remaining) >= least:
        worst = _worst_outlier(table.iloc[remaining], problem.rows(remaining), theta)
        if worst is None:
            break
        outlier, theta = worst
        odd.append(replace(outlier, row=int(remaining[outlier.row])))
        remaining = np.delete(remaining, outlier.row)
    if not odd or len(odd) > most:
        return [], None
    return odd, (_exponent(problem, first.theta[0]), _exponent(problem, theta[0]))


def _robust_law(problem: Problem, first: Solution) -> Array:
    """Return the law (1, P), of all rows or of a random half, with the least median residual."""
    n, size = problem.design.n_rows, problem.fixed_theta.shape[1]
    generator = np.random.default_rng(0)
    half = max(size + 2, (n + 1) // 2)
    laws, guesses = [first.theta[:1]], problem.design.external(first.theta[:MINIMA])
    if half < n:
        for _ in range(HALVES):
            sample = np.sort(generator.choice(n, half, replace=False))
            laws.append(minimise_near(guesses, problem.rows(sample)).theta[:1])
    theta = np.concatenate(laws)
    return theta[[np.argmin(np.median(np.abs(residuals(theta, problem)), axis=1))]]


def _worst_outlier(
    table: pd.DataFrame, problem: Problem, theta: Array
) -> tuple[Outlier, Array] | None:
    """Return the outlier whose removal lowers the objective most, and theta (1, P) without it."""
    rows = _candidates(problem, theta)
    solution, weights = _refit_without(problem, theta, rows)
    errors = residuals(solution.theta, problem)  # (S, n)
    own = np.abs(errors[np.arange(len(rows)), rows])
    scale = _scale(np.abs(errors), weights, problem, solution)
    is_isolated = _isolated_rows(table)
    for at in np.argsort(np.where(np.isfinite(solution.value), solution.value, np.inf)):
        row, distance = int(rows[at]), float(own[at] / scale[at])
        if not distance >= (EXPLAINED if is_isolated[row] else NEAR):
            continue
        law = _LawOfOthers(problem, solution.theta[[at]], weights[at], float(scale[at]))
        slip = law.slip(table.iloc[[row]], table.drop(index=table.index[row]))
        if not slip:
            distance /= law.openness(table.iloc[[row]])
            surface_distance, openness = _from_surface(table, row)
            distance = distance if openness > OPEN else min(distance, surface_distance)
        if slip or distance >= FAR:
            return Outlier(row=row, distance=distance, slip=slip), solution.theta[[at]]
    return None


def _isolated_rows(table: pd.DataFrame) -> Array:
    """Return which rows (n,) are far below or above all others in N or in D."""
    is_isolated = np.zeros(len(table), dtype=bool)
    for name in ("params", "tokens"):
        values = column(table, name)
        order = np.argsort(values)
        low, second, *_, last, high = order
        is_isolated[low] |= values[second] > ISOLATED * values[low]
        is_isolated[high] |= values[high] > ISOLATED * values[last]
    return is_isolated


def _candidates(problem: Problem, theta: Array) -> Array:
    """Return the rows to leave out in turn: all, or in a long table those that pull most."""
    n = problem.design.n_rows
    if n <= 2 * CANDIDATES:
        return np.arange(n)
    error = np.abs(residuals(theta, problem)[0])
    jacobian = problem.design.row_sums(theta).jacobian()[0]  # (P, n)
    leverage = (jacobian * (np.linalg.pinv(jacobian @ jacobian.T) @ jacobian)).sum(axis=0)
    most = [np.argsort(-values)[:CANDIDATES] for values in (error, leverage)]
    return np.unique(np.concatenate(most))


def _refit_without(problem: Problem, theta: Array, rows: Array) -> tuple[Solution, Array]:
    """Refit without each row in turn, from theta (1, P); return the weights (S, n) as well."""
    weights = np.repeat(problem.weights, len(rows), axis=0)
    weights[np.arange(len(rows)), rows] = 0.0
    return resolve(np.repeat(theta, len(rows), axis=0), replace(problem, weights=weights)), weights


def _scale(error: Array, weights: Array, problem: Problem, solution: Solution) -> Array:
    """Return the scatter (S,) of the fitted rows, without as many rows as have no residual."""
    errors = np.sort(np.where(weights > 0, error, np.nan), axis=1)[:, :-1]  # NaN sorts last
    free = errors[:, min(solution.theta.shape[1], errors.shape[1] - 1) :]
    return np.maximum(MAD * np.median(free, axis=1), LEAST_SCATTER)


def _from_surface(table: pd.DataFrame, row: int) -> tuple[float, float]:
    """Return a row's distance from the quadratic surface of the others, and its openness there."""
    x, y = (np.log(column(table, name)) for name in ("params", "tokens"))
    others = np.arange(len(table)) != row
    x, y = ((v - v[others].mean()) / max(float(v[others].std()), 1e-12) for v in (x, y))
    design = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=1)
    target, weight = np.log(column(table, "loss")), others.astype(float)
    if others.sum() <= design.shape[1] + 1:
        return np.inf, np.inf
    error, scale = target, 1.0
    for _ in range(20):
        root = np.sqrt(weight)
        fit = np.linalg.lstsq(design * root[:, None], target * root, rcond=None)[0]
        error = target - design @ fit
        free = np.sort(np.abs(error[others]))[design.shape[1] - 1 :]
        scale = max(MAD * float(np.median(free)), LEAST_SCATTER)
        weight = others * np.minimum(1.0, 1.345 * scale / np.maximum(np.abs(error), 1e-300))
    normal = (design * weight[:, None]).T @ design
    variance = float(design[row] @ np.linalg.pinv(normal, hermitian=True) @ design[row])
    openness = float(np.sqrt(1 + variance))
    return float(np.abs(error[row])) / (scale * openness), openness


class _LawOfOthers:
    """The law theta (1, P) of all rows but one: its uncertainty at a row, and which slip fits."""

    def __init__(self, problem: Problem, theta: Array, weight: Array, scale: float) -> None:
        self.problem, self.theta, self.scale = problem, theta, scale
        form = problem.design.form
        self.parameters = dict(zip(form.parameters, problem.design.external(theta[0]), strict=True))
        sums = problem.design.row_sums(theta)
        relative = sums.jacobian()[0] / sums.prediction  # d log Lhat (P, n)
        normal = (relative * weight) @ relative.T
        self.size = np.sqrt(np.maximum(np.diagonal(normal), 1e-300))
        scaled = normal / (self.size[:, None] * self.size)
        self.inverse = np.linalg.pinv(scaled, rcond=1e-12, hermitian=True)

    def openness(self, row: pd.DataFrame) -> float:
        """Return the deviation of a new run at a row's N and D, in units of the scatter."""
        at = design_of_row(self.problem, row)
        sums = at.row_sums(self.theta)
        own = (sums.jacobian()[0, :, 0] / sums.prediction[0, 0]) / self.size
        return float(np.sqrt(1 + own @ self.inverse @ own))

    def slip(self, row: pd.DataFrame, others: pd.DataFrame) -> str:
        """Return a phrase for the slip of units that explains a row, empty for none.

        Without the slip, the row's N, D and D/N must come near those of the others: a term of the
        law hardly depends on an N or D beyond them, so such a value would explain any low loss.
        """
        best, phrase = np.inf, ""
        for name, factors in SLIPS.items():
            for factor in (f for size in factors for f in (size, 1 / size)):
                undone = row.assign(**{name: column(row, name) / factor})
                if name != "loss" and not _comes_near(undone, others, name):
                    continue
                values = {v: column(undone, v) for v in SLIPS}
                predicted = self.problem.design.form.predict(self.parameters, values)
                error = abs(float(np.log(predicted / values["loss"])[0]))
                openness = self.openness(undone)
                if openness < OPEN and error < min(best, EXPLAINED * self.scale * openness):
                    much = f"{factor:g} times too large"
                    if factor < 1:
                        much = f"{1 / factor:g} times too small"
                    best, phrase = error, f"as if {name} were {much}"
        return phrase


def _comes_near(row: pd.DataFrame, others: pd.DataFrame, name: str) -> bool:
    """Return whether a row's N or D, and its D/N, are near those of the others."""
    for values, value in (
        (column(others, name), column(row, name)),
        (_ratio(others), _ratio(row)),
    ):
        if not values.min() / BEYOND <= value[0] <= values.max() * BEYOND:
            return False
    return True


def _ratio(table: pd.DataFrame) -> Array:
    return column(table, "tokens") / column(table, "params")


def design_of_row(problem: Problem, row: pd.DataFrame) -> Any:
    """Return the design of one more row, with the same centres."""
    design = problem.design
    assert isinstance(design, TermDesign)
    features = []
    for term, middle in zip(design.form.terms, design.centres, strict=True):
        logs = {v: np.log(column(row, v)) for v in design.form.variables}
        bases = [
            term.log_base(name, logs) - m for name, m in zip(term.exponents, middle, strict=True)
        ]
        features.append(np.array([np.ones(1), *bases]))
    return replace(design, features=tuple(features))


def _exponent(problem: Problem, theta: Array) -> float:
    names = problem.design.form.parameters
    parameters = dict(zip(names, problem.design.external(theta), strict=True))
    return float(parameters["beta"] / (parameters["alpha"] + parameters["beta"]))
