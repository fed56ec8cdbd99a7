"""Hindcasts: withhold the largest budgets, refit, predict them (rolling origin).

Each row of the result withholds all runs above one cutoff in C. tau(h) is the error of the form at
a log-distance h = log(C / C_cutoff): the RMS relative error of the hindcasts that reach as far,
never less than that of a shorter reach, and 0 at h = 0. Prediction intervals contain tau beside
scatter and parameters, so they are wide where the form has failed before. Choshen et al. 2024
(2410.11840) measure how often forms fail.

The error of a hindcast also comes from its own parameters and from the seeds of the runs that it
predicts. That of the seeds is taken off, since the interval of a new run contains it. That of the
parameters is not: nothing else tells how far one form errs beyond its data, and where chance could
explain a hindcast it is no evidence that the form is right. On 23 splits of published tables
intervals of Chinchilla's form beyond ten times the compute held 63 % of the runs where only errors
that chance does not explain counted, and 88 % where all count (82 % on the 57 splits of
`benchmarks/averaging.py`). An average over forms has the spread between its forms as well, so that
there the errors count that chance does not explain (86 % against 89 % on the 23 splits). With a
true form the intervals of new runs beyond the data are therefore wider than they need be; those of
the mean loss (`noise=False`) are not.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import ndtr, ndtri

from analysis.forms import Array, Form, column
from analysis.forms.average import FittedRange
from analysis.solve.objective import Objective, Problem, problem_of
from analysis.solve.progress import OnProgress, no_progress
from analysis.solve.residual_spread import deviation, scatter
from analysis.solve.solver import minimise
from analysis.uncertainty.bootstrap import bootstrap, units_of

MOST_CUTOFFS = 5  # cutoffs, each of which is a fit with its bootstrap
SAME_LEVEL = 1.25  # ratio of neighbouring C up to which they are one budget
CONTINUUM = 2.0  # ratio of cutoffs where C does not come in budgets
LEAST_SHARE = 0.3  # share of the rows that must remain below a cutoff
LEAST_SPAN = 3.0  # largest over smallest C that must remain below it
FEWEST_SIZES = 3  # sizes, and values of every other variable, that must remain below it
RESAMPLES = 100  # of each hindcast
FEWEST_TESTED = 3  # withheld runs that say something about the form and not about one run
EVIDENCE = 0.9  # level of the interval beyond which chance does not explain a mean error
FEWEST_RESAMPLES = 20  # of a long table, whose parameters hardly vary
RESAMPLED_ROWS = 1_000_000  # rows times resamples above which resamples are fewer


@dataclass(frozen=True, kw_only=True)
class Hindcast:
    """A form refitted below one cutoff, and the runs above it that it predicts.

    row: the hindcast as a row of the backtest block of law.json
    error: log predicted less log measured loss of each withheld run (n,); empty without a minimum
    parameter_sd: deviation of each log prediction by the parameters (n,)
    run_sd: deviation of each run's log loss about the law (n,)
    withheld: N and D of the withheld runs (n,); empty for a form without them
    fitted: where the runs below the cutoff lie, None without N and D
    """

    row: dict[str, Any]
    error: Array
    parameter_sd: Array
    run_sd: Array
    withheld: Mapping[str, Array] = field(default_factory=dict)
    fitted: FittedRange | None = None


def hindcasts(
    table: pd.DataFrame,
    form: Form,
    objective: Objective,
    *,
    fixed: Mapping[str, float] | None = None,
    level: float = 0.9,
    seed: int = 0,
    on_progress: OnProgress = no_progress,
) -> dict[str, Any] | None:
    """Return the hindcasts and tau as the `backtest` block of law.json.

    The parameters are those of `each_hindcast`. Returns None where no budget can be withheld.
    """
    hindcasts = each_hindcast(
        table, form, objective, fixed=fixed, level=level, seed=seed, on_progress=on_progress
    )
    return backtest_block([one.row for one in hindcasts], level)


def backtest_block(
    rows: list[dict[str, Any]], level: float, *, by_chance: bool = True
) -> dict[str, Any] | None:
    """Return the `backtest` block of law.json; None without rows.

    rows: the hindcasts
    level: of their intervals
    by_chance: whether an error that chance explains counts in tau
    """
    if not rows:
        return None
    tau = tau_knots(rows, by_chance=by_chance)
    return {"rows": rows, "tau": tau, "level": level, "resamples": RESAMPLES}


def each_hindcast(
    table: pd.DataFrame,
    form: Form,
    objective: Objective,
    *,
    fixed: Mapping[str, float] | None = None,
    level: float = 0.9,
    seed: int = 0,
    on_progress: OnProgress = no_progress,
) -> list[Hindcast]:
    """Return one hindcast a cutoff, the largest cutoff first; none where no budget can be withheld.

    table: the runs
    form: the form
    objective: the objective
    fixed: values that some parameters keep
    level: of the intervals whose coverage is counted
    seed: of the resamples
    on_progress: takes ("hindcasts", done, total)
    """
    hindcasts = []
    along = reach_of(table, form)
    cuts = cutoffs(along)
    for done, cutoff in enumerate(cuts):
        on_progress("hindcasts", done, len(cuts))
        below = along <= cutoff
        training, larger = table.iloc[np.flatnonzero(below)], table.iloc[np.flatnonzero(~below)]
        if not _enough(training, along[below], len(table), form):
            continue
        reach = float(along.max() / along[below].max())
        start = {"cutoff_flops": float(cutoff), "distance": reach}
        hindcasts.append(
            _hindcast(training, larger, form, objective, dict(fixed or {}), level, seed, start)
        )
    on_progress("hindcasts", len(cuts), len(cuts))
    return hindcasts


def reach_of(table: pd.DataFrame, form: Form) -> Array:
    """Return what grows with extrapolation (n,): C, or the form's first variable without C."""
    return column(table, "flops" if "flops" in table else form.variables[0])


def tau_knots(rows: list[dict[str, Any]], *, by_chance: bool = True) -> list[list[float]]:
    """Return [h, tau] pairs of hindcasts, by rising log-distance h; tau never falls.

    by_chance: whether an error that chance explains counts
    """
    converged = [r for r in rows if r["converged"]]
    several = [r for r in converged if r.get("n_test", FEWEST_TESTED) >= FEWEST_TESTED]
    errors = sorted((r["distance"], _form_error(r, by_chance)) for r in several or converged)
    worst = np.maximum.accumulate([error for _, error in errors])
    return [[float(np.log(d)), float(t)] for (d, _), t in zip(errors, worst, strict=True)]


def widen_tau(
    backtest: dict[str, Any] | None, confirmations: Sequence[Mapping[str, Any]], flops: Array
) -> dict[str, Any] | None:
    """Raise tau to at least the errors of confirmation runs that missed their forecast.

    backtest: the hindcasts, None without
    confirmations: each with `flops`, `inside` and `error`
    flops: C of the runs (n,); a confirmation was forecast from the largest of them below its own
    """
    misses = []
    for one in confirmations:
        below = flops[flops < one["flops"] / SAME_LEVEL]
        if one["inside"] is False and len(below):
            misses.append([float(np.log(one["flops"] / below.max())), abs(one["error"])])
    if not misses:
        return backtest
    backtest = backtest or {"rows": [], "tau": [], "resamples": 0}
    knots = sorted([*backtest["tau"], *misses])
    worst = np.maximum.accumulate([tau for _, tau in knots])
    return {**backtest, "tau": [[h, float(t)] for (h, _), t in zip(knots, worst, strict=True)]}


def _form_error(row: Mapping[str, Any], by_chance: bool) -> float:
    """Return the RMS error of a hindcast less that of seeds; 0 where chance must not count."""
    rms, mean = row["rms_relative_error"], abs(row["mean_relative_error"])
    explained = mean <= ndtri((1 + EVIDENCE) / 2) * row.get("expected_mean_error", 0.0)
    if explained and not by_chance:
        return 0.0
    return float(np.sqrt(max(rms**2 - row.get("seed_error", 0.0) ** 2, mean**2)))


def cutoffs(flops: Array) -> list[float]:
    """Return cutoffs in C, largest first: between budgets, or a factor of 2 apart."""
    ordered = np.sort(flops)
    last = np.flatnonzero(np.diff(np.log(ordered)) > np.log(SAME_LEVEL))
    widest = max(np.ptp(np.log(level)) for level in np.split(ordered, last + 1))
    if len(last) + 1 > len(ordered) / 3 or widest > np.log(CONTINUUM):
        targets = ordered[-1] / CONTINUUM ** np.arange(1, MOST_CUTOFFS + 1)
        levels = [ordered[ordered <= w].max(initial=0.0) for w in targets]
        return [float(c) for c in dict.fromkeys(levels) if c > 0]
    return [float(ordered[i]) for i in last[::-1][:MOST_CUTOFFS]]


def _enough(below: pd.DataFrame, along: Array, total: int, form: Form) -> bool:
    needed_variables = [v for v in form.variables if v not in form.optional]
    sizes = min(len(np.unique(column(below, v))) for v in needed_variables)
    needed = max(len(form.parameters) + 2, LEAST_SHARE * total)
    span = np.ptp(np.log(along))
    return bool(len(below) >= needed and sizes >= FEWEST_SIZES and span >= np.log(LEAST_SPAN))


def _hindcast(
    below: pd.DataFrame,
    above: pd.DataFrame,
    form: Form,
    objective: Objective,
    fixed: dict[str, float],
    level: float,
    seed: int,
    start: dict[str, Any],
) -> Hindcast:
    """Fit the rows below a cutoff and predict those above; `start` begins the row."""
    problem = problem_of(below, form, objective, fixed=fixed)
    solution = minimise(problem, n_best=4)
    theta = solution.theta[:1]
    row: dict[str, Any] = start | {
        "n_train": len(below),
        "n_test": len(above),
        "converged": bool(solution.converged[0]),
    }
    where = _where(below, above)
    if not solution.converged[0]:
        nothing = np.empty(0)
        return Hindcast(row=row, error=nothing, parameter_sd=nothing, run_sd=nothing, **where)
    values = dict(zip(form.parameters, problem.design.external(theta)[0], strict=True))
    columns = {v: column(above, v) for v in form.variables if v in above}
    log_error = np.log(form.predict(values, columns)) - np.log(column(above, form.target))
    resamples = int(np.clip(RESAMPLED_ROWS // len(below), FEWEST_RESAMPLES, RESAMPLES))
    boot = bootstrap(problem, solution, units_of(below), resamples=resamples, seed=seed)
    draws = {p: boot.draws[:, i, None] for i, p in enumerate(form.parameters)}
    logs = (
        np.log(form.predict(draws, columns)) if len(boot.draws) > 1 else np.zeros((2, len(above)))
    )
    expected, run_sd = _expected_errors(logs, problem, theta, columns)
    parameter_sd = logs.std(axis=0)
    inside = np.abs(log_error) <= ndtri((1 + level) / 2) * np.hypot(parameter_sd, run_sd)
    row |= {
        "rms_relative_error": float(np.sqrt((log_error**2).mean())),
        "mean_relative_error": float(log_error.mean()),
        **expected,
        "coverage": float(inside.mean()),
        "parameters": {k: float(v) for k, v in values.items()},
    }
    return Hindcast(row=row, error=log_error, parameter_sd=parameter_sd, run_sd=run_sd, **where)


def _where(below: pd.DataFrame, above: pd.DataFrame) -> dict[str, Any]:
    """Return N and D of the withheld rows, and the range of those below; none without N and D."""
    if not {"params", "tokens"} <= set(below):
        return {}
    fitted = FittedRange.of(column(below, "params"), column(below, "tokens"))
    return {"withheld": {v: column(above, v) for v in ("params", "tokens")}, "fitted": fitted}


def _expected_errors(
    logs: Array, problem: Problem, theta: Array, columns: Mapping[str, Array]
) -> tuple[dict[str, float], Array]:
    """Return how large chance makes a hindcast's errors: by seeds, and their mean by all causes.

    The second value is the deviation of each withheld run about the law (rows,).

    logs: log predictions of the resamples (draws, rows); the central 68 % of their means give the
        deviation, since resamples of few rows have long tails
    problem: the fit below the cutoff
    theta: its solution (1, P)
    columns: the variables of the withheld rows
    """
    design = problem.design
    values = dict(zip(design.form.parameters, design.external(theta)[0], strict=True))
    log_fitted = np.log(design.predict(theta)[0])
    noise = scatter(log_fitted - np.log(problem.target), log_fitted, len(values))
    seeds = deviation(noise, design.form.predict(values, columns))
    central = np.ptp(np.quantile(logs.mean(axis=1), [ndtr(-1.0), ndtr(1.0)])) / 2
    of_mean = np.hypot(central, np.sqrt((seeds**2).sum()) / len(seeds))
    return {
        "seed_error": float(np.sqrt((seeds**2).mean())),
        "expected_mean_error": float(of_mean),
    }, seeds
