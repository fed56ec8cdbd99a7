"""The law of each arm, and draws of all laws together, in which what the arms share is shared.

A draw weighs every unit (a trunk, or a run) by an exponential variable: the Bayesian bootstrap
(Rubin 1981), which never loses a size as a resample with replacement does. Units of two arms that
belong together (`analysis.comparing.points`) have one weight. Each arm's law is refitted under the
weights. Few units make draws too narrow, because a fit follows its own rows: `stretch` widens them
by the degrees of freedom, with Student's tails.

The curve of an arm is the log of its least loss L*(C) on a grid of log C about the target.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from analysis.alarms.alarm import Alarm
from analysis.comparing.points import Places
from analysis.estimation.checks import check_table
from analysis.estimation.fit_alarms import alarms_of_fit, status_of
from analysis.estimation.fit_blocks import Estimate, estimate_of
from analysis.forms import Array, Form
from analysis.forms.optimum import RATIOS, optimal_split
from analysis.forms.token_flops import params_at_ratio, per_token
from analysis.laws.form_error import DEFAULT_GROWTH
from analysis.laws.law_file import USABLE, LawStatus
from analysis.runs.table import Runs
from analysis.solve.objective import Objective, Problem, problem_of, residuals
from analysis.solve.residual_spread import MAD
from analysis.solve.solver import Solution, minimise, minimise_near, resolve
from analysis.uncertainty.bootstrap import (
    Bootstrap,
    Units,
    restart_unconverged,
    retry_unconverged,
)

METHOD = "Bayesian bootstrap of units shared by the arms"
WIDTH = 1.345  # deviations, at which Huber's estimate needs 5 % more runs than least squares
SIZES = 64  # sizes tried along each budget before a parabola
FARTHEST = 1e4  # factor of compute about the target within which a loss is looked for
BLOCK = 32  # draws whose curves are computed at a time, a few million numbers
BUDGETS = 121  # budgets of a curve over that range, a factor of 1.17 apart


@dataclass(frozen=True, kw_only=True)
class ArmLaw:
    """The law of one arm.

    form: of the law
    status: what kind of answer it is, as in law.json
    alarms: what to know of it first
    parameters: the point estimate (P,)
    draws: parameters of the draws (S, P), NaN where a draw has no minimum
    units: how many independent units the runs are
    largest: the largest C of the runs, in FLOPs
    why: why there is no law, empty where there is one
    """

    form: Form
    status: LawStatus
    alarms: tuple[Alarm, ...] = ()
    parameters: Array
    draws: Array
    units: int = 1
    largest: float
    why: str = ""

    @property
    def usable(self) -> bool:
        """Whether the law may be asked beyond its data."""
        return self.status in USABLE and not self.why


def shared_weights(places: Places, draws: int, seed: int) -> Array:
    """Return the weight of each unit in each draw (S, units)."""
    return np.random.default_rng(seed).standard_exponential((draws, places.n_units))


def law_of(
    runs: Runs, form: Form, weights: Array, units: Array, *, level: float, judged: bool = True
) -> ArmLaw:
    """Fit the law of an arm, and refit it under the weights of its units.

    runs: the runs of the arm
    form: a form of N and D
    weights: of all units in each draw (S, units)
    units: the unit of each run (n,)
    level: of the intervals that say whether E and the exponents are identified
    judged: whether the alarms of a fit are looked for, which takes longer than the law

    An arm with too few runs has a law that is not identified, with the reason.
    """
    table = runs.table
    largest = float(np.max(table["flops"]))
    try:
        check_table(table, form)
    except ValueError as error:
        nothing = np.full(len(form.parameters), np.nan)
        return ArmLaw(
            form=form, status="not_identified", parameters=nothing, largest=largest,
            draws=np.full((len(weights), len(nothing)), np.nan), why=str(error),
        )  # fmt: skip
    problem, solution = fitted(table, form)
    theta, converged = _refit(problem, solution, weights[:, units])
    draws = problem.design.external(theta)
    draws[~converged] = np.nan
    codes = pd.factorize(units)[0]
    boot = Bootstrap(
        draws=draws[converged],
        kept=converged,
        resamples=len(draws),
        lost=int((~converged).sum()),
        method=METHOD,
        units=Units(name="row", codes=codes, count=int(codes.max()) + 1),
    )
    estimate = estimate_of(problem, solution, None, table, level, token_flops=runs.token_flops)
    alarms: list[Alarm] = []
    if judged and boot.lost <= boot.resamples / 2:
        estimate = _with_intervals(estimate, form, boot, level, largest)
        alarms = alarms_of_fit(problem, solution, boot, estimate, table, runs.inputs)
    return ArmLaw(
        form=form,
        status=status_of(form, solution, alarms, boot),
        alarms=tuple(alarms),
        parameters=np.array(list(estimate.parameters.values())),
        draws=draws,
        units=boot.units.count,
        largest=largest,
    )


def _with_intervals(
    estimate: Estimate, form: Form, boot: Bootstrap, level: float, flops: float
) -> Estimate:
    """Return an estimate with the intervals of parameters and of a, which its alarms read."""
    by_name = {name: boot.draws[:, i] for i, name in enumerate(form.parameters)}
    intervals = {name: boot.interval(values, level) for name, values in by_name.items()}
    allocation = estimate.allocation
    if "a" in allocation:
        a = boot.interval(np.asarray(optimal_split(form, by_name, flops)["a"]), level)
        allocation = {**allocation, "a_interval": a}
    return replace(estimate, intervals={"parameters": intervals}, allocation=allocation)


def fitted(table: pd.DataFrame, form: Form) -> tuple[Problem, Solution]:
    """Return the problem of an arm's law, and its end points, best first.

    The usual width of Huber's function, 1e-3, makes the fit one of absolute residuals, which takes
    half as many runs again for the same interval and whose resamples scatter too far. Here the
    width is `WIDTH` deviations of the residuals of that fit.
    """
    problem = problem_of(table, form, Objective(name=form.objective))
    solution = minimise(problem)
    error = np.abs(residuals(solution.theta[:1], problem)[0])
    free = len(form.parameters)
    deviation = MAD * float(np.median(np.sort(error)[min(free, len(error) - 1) :]))
    if form.objective != "huber_log" or not np.isfinite(deviation):
        return problem, solution
    width = max(WIDTH * deviation, Objective().delta)
    wider = replace(problem, objective=replace(problem.objective, delta=width))
    start = problem.design.external(solution.theta[:1])
    return wider, minimise_near(start, wider)


def _refit(problem: Problem, solution: Solution, weights: Array) -> tuple[Array, Array]:
    """Return theta (S, P) of each draw and whether it is a minimum (S,)."""
    drawn = replace(problem, weights=problem.weights * weights)
    starts = np.repeat(solution.theta[:1], len(weights), axis=0)
    refitted = restart_unconverged(retry_unconverged(resolve(starts, drawn), drawn), drawn)
    return refitted.theta, refitted.converged


def stretch(units: int, n_parameters: int, draws: int, seed: int) -> Array:
    """Return the factor (S, 1) by which each draw departs from the point estimate.

    units: independent units of the runs
    n_parameters: of the law, which take as many degrees of freedom
    draws: their number
    seed: of the factors

    sqrt(units / freedom) makes up for residuals that the fit has made small, as the estimator HC1
    does (MacKinnon and White 1985), and sqrt(freedom / chi-square) gives Student's tails.
    """
    freedom = max(units - n_parameters, 1)
    drawn = np.random.default_rng([seed, 1]).chisquare(freedom, draws)
    return np.sqrt(units / drawn)[:, None]


def budgets(target: float) -> Array:
    """Return the budgets of a curve: evenly spaced in logs, the target in the middle."""
    return target * np.exp(np.linspace(-np.log(FARTHEST), np.log(FARTHEST), BUDGETS))


def curve(form: Form, parameters: Array, flops: Array, runs: Runs) -> Array:
    """Return log L*(C) at budgets (K,), for parameters (S, P): (S, K), falling in C.

    The form's own optimum gives the least loss of each budget where it has one and C = 6ND; else a
    grid of sizes and a parabola about the best do.
    """
    if "params" not in form.variables:  # a law along a ray
        by_name = {name: parameters[:, i, None] for i, name in enumerate(form.parameters)}
        with np.errstate(all="ignore"):
            logs = np.log(form.predict(by_name, {"flops": flops[None]}))
        return np.minimum.accumulate(logs, axis=1)
    count = runs.token_flops
    ends = [[params_at_ratio(c, r, count) for c in flops] for r in RATIOS[::-1]]
    if count is None and form.optimum is not None:
        return np.minimum.accumulate(_at_optimum(form, parameters, flops, np.log(ends)), axis=1)
    n = np.exp(np.linspace(np.log(ends[0]), np.log(ends[1]), SIZES))  # (sizes, K)
    d = flops / per_token(n, count)
    values = {"params": n, "tokens": d, "flops": 6 * n * d}
    curves = [
        _least(form, parameters[i : i + BLOCK], values) for i in range(0, len(parameters), BLOCK)
    ]
    return np.minimum.accumulate(np.concatenate(curves), axis=1)


def _at_optimum(form: Form, parameters: Array, flops: Array, log_ends: Array) -> Array:
    """Return log L at the form's optimum for C = 6ND (S, K), with N between ends (2, K) in logs."""
    assert form.optimum is not None
    by_name = {name: parameters[:, i, None] for i, name in enumerate(form.parameters)}
    with np.errstate(all="ignore"):
        n = np.exp(np.clip(np.asarray(form.optimum(by_name, flops[None])), *log_ends))
        values = {"params": n, "tokens": flops / (6 * n), "flops": np.broadcast_to(flops, n.shape)}
        return np.log(form.predict(by_name, values))


def _least(form: Form, parameters: Array, values: dict[str, Array]) -> Array:
    """Return the least log loss (S, K) over sizes of parameters (S, P), between sizes too."""
    by_name = {name: parameters[:, i, None, None] for i, name in enumerate(form.parameters)}
    with np.errstate(all="ignore"):
        logs = np.log(form.predict(by_name, values))  # (S, sizes, K)
    best = np.clip(np.argmin(np.nan_to_num(logs, nan=np.inf), axis=1), 1, SIZES - 2)
    below, middle, above = (
        np.take_along_axis(logs, best[:, None] + shift, axis=1)[:, 0] for shift in (-1, 0, 1)
    )
    curvature = below - 2 * middle + above
    gain = (below - above) ** 2 / (8 * np.where(curvature > 0, curvature, np.inf))
    return np.minimum(middle - gain, logs.min(axis=1))


def curves_of(
    laws: Sequence[ArmLaw], runs: Sequence[Runs], flops: Array, *, seed: int, matched: bool
) -> tuple[list[Array], list[Array]]:
    """Return of each arm the curve of its law (K,) and of its draws (S, K), stretched.

    laws: of the arms
    runs: of the arms
    flops: the budgets (K,)
    seed: of the stretch, which all arms share, and of the errors of the form, which they do not
    matched: whether the arms' runs are at common points, where errors of the form cancel; else
        each law errs by `DEFAULT_GROWTH` for each e-fold of C beyond its own data
    """
    rng = np.random.default_rng([seed, 2])
    points, drawn = [], []
    units = min((law.units for law in laws if not law.why), default=1)
    for law, of_arm in zip(laws, runs, strict=True):
        if law.why:
            points.append(np.full(len(flops), np.nan))
            drawn.append(np.full((len(law.draws), len(flops)), np.nan))
            continue
        point = curve(law.form, law.parameters[None], flops, of_arm)[0]
        apart = curve(law.form, law.draws, flops, of_arm) - point
        factor = stretch(units, len(law.parameters), len(apart), seed)
        error = np.zeros((1, 1))
        if not matched:
            beyond = np.maximum(np.log(flops / law.largest), 0.0)
            error = DEFAULT_GROWTH * beyond * rng.standard_normal((len(apart), 1))
        points.append(point)
        drawn.append(np.minimum.accumulate(point + factor * apart + error, axis=1))
    return points, drawn
