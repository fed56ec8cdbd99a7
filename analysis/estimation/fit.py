"""Fit a law to a table of runs: the whole of `analysis.fit` as one function.

    from analysis import fit, load_runs
    law = fit(load_runs("runs/quick"))          or  fit(frame), fit("table.csv", where="x > 3")

The point estimate is the best of all starts (`analysis.solve.solver`), its intervals come from a
bootstrap (`analysis.uncertainty.bootstrap`), and the same table goes through IsoFLOP parabolas, the
envelope, plain power laws and hindcasts. `Law.status` says what kind of answer it is. A table that
cannot carry the form at all raises ValueError.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.alarms import of_fit
from analysis.alarms.alarm import Alarm
from analysis.alarms.loss_units import unit_of_law
from analysis.estimation.allocation_laws import METHODS
from analysis.estimation.checks import (
    check_columns,
    check_options,
    check_table,
    needed_columns,
    prepare_rows,
    restrict_to_frontier,
    stage_of,
)
from analysis.estimation.envelope import envelope
from analysis.estimation.fit_alarms import alarms_of_fit, status_of
from analysis.estimation.fit_blocks import Estimate, estimate_of, peak_block
from analysis.estimation.isoflop import isoflop, vertices
from analysis.estimation.power_laws import power_laws
from analysis.estimation.prior_fit import (
    OBJECTIVE,
    chosen_families,
    families_of,
    fit_with_prior,
    with_tau,
)
from analysis.forms import Form, column, form_named
from analysis.laws.law import Law
from analysis.runs.columns import Columns
from analysis.runs.table import Runs, load_runs
from analysis.solve.objective import Objective, Problem, problem_of
from analysis.solve.progress import OnProgress, no_progress
from analysis.solve.solver import Solution, minimise
from analysis.uncertainty.bootstrap import Bootstrap, bootstrap, units_of
from analysis.validate.form_ranking import compare
from analysis.validate.hindcast import hindcasts, widen_tau
from analysis.validate.near_frontier import check_within, far_runs, near_frontier
from analysis.validate.sensitivity import sensitivity as sensitivity_rows

MINIMA_NEAR = 4  # best minima of the fit, from which the fits of the sensitivity table start


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The options of `fit` that do not say what is fitted; `fit` explains each."""

    resamples: int
    level: float
    seed: int
    weighting: str
    fixed: dict[str, float]
    within: float | None
    prior: str | Mapping[str, Sequence[str]]
    hindcast: bool
    sensitivity: bool
    on_progress: OnProgress

    @property
    def drawing(self) -> dict[str, Any]:
        """The options of the posterior of a fit with a prior."""
        return {"draws": self.resamples, "level": self.level, "seed": self.seed}

    @property
    def intervals(self) -> dict[str, Any]:
        """The options of every function that resamples."""
        return {"resamples": self.resamples, "level": self.level, "seed": self.seed}


def fit(
    data: Runs | pd.DataFrame | str | Path,
    form: str = "chinchilla",
    *,
    count: str = "total",
    where: str | None = None,
    columns: Columns | None = None,
    objective: Objective | None = None,
    weighting: str = "column",
    fixed: Mapping[str, float] | None = None,
    within: float | None = None,
    prior: str | Mapping[str, Sequence[str]] = "auto",
    resamples: int = 1000,
    level: float = 0.9,
    seed: int = 0,
    hindcast: bool = True,
    sensitivity: bool = True,
    on_progress: OnProgress = no_progress,
) -> Law:
    """Fit a form to runs and return the law.

    data: a study's folder, a table's path, a data frame, or `Runs` that were read before
    form: a name of `analysis.forms.FORMS` or of `analysis.estimation.allocation_laws.METHODS`, or
        `all` for the form that predicts withheld larger runs best
    count: how N is counted in a study (`scaling.schema.COUNTS`); not read where `data` is `Runs`
    where: condition that rows must meet (`analysis.runs.condition`); not read for `Runs`
    columns: the table's names of our columns; not read for `Runs`
    objective: which residual is minimised; None is the form's own objective
    weighting: `column` takes the table's `weight`, `seed_noise` measures weights, `none` has none
    fixed: values that some parameters keep, in the form's own units
    within: fit a surface only to runs whose loss is within this share of the best loss of no more
        compute, as 0.1
    prior: over the Chinchilla form: `published` laws, `none`, or `auto` for published laws with
        fewer than eight points of N and D; or families of one's own, as {"mine": ["besiroglu2024"]}
    resamples: of the bootstrap, or draws of the posterior; 0 leaves out every interval
    level: of every interval
    seed: of the resamples
    hindcast: whether to withhold the largest budgets and predict them
    sensitivity: whether to fit other objectives and subsets of the rows too
    on_progress: takes (stage, done, total) of steps that take long

    Raises ValueError in one sentence for an unknown form, for a table that cannot be read
    (`analysis.runs.table.load_runs`) and for one that cannot carry the form. Hoffmann et al. 2022
    (2203.15556) and Besiroglu et al. 2024 (2404.10102) for the objective and the intervals.
    """
    check_options(resamples, level, weighting, seed=seed)
    check_within(within)
    families_of(prior, form, objective, fixed or {})
    needed = needed_columns(form)
    runs = data
    if not isinstance(runs, Runs):
        runs = load_runs(
            runs, count=count, where=where, columns=columns, needed=needed, stage=stage_of(form)
        )
    check_columns(runs.table, needed, form)
    settings = Settings(
        resamples=resamples,
        level=level,
        seed=seed,
        weighting=weighting,
        fixed=dict(fixed or {}),
        within=within,
        prior=prior,
        hindcast=hindcast,
        sensitivity=sensitivity,
        on_progress=on_progress,
    )
    if form in METHODS:
        return METHODS[form](runs, **settings.intervals)
    if form == "all":
        return _fit_best_form(runs, objective, settings)
    return _fit_form(runs, form_named(form), objective, settings)


def peak_of(law: Law, form: Form, level: float) -> dict[str, Any]:
    """Return where the target of a law is largest, with its interval."""
    return peak_block(form, law.parameters, law.draws, level)


def _fit_best_form(runs: Runs, objective: Objective | None, settings: Settings) -> Law:
    """Return the usable law of the form that predicts withheld runs best, or the first."""
    table = near_frontier(runs.table, settings.within)
    ranking = compare(table, objective, settings.on_progress)
    laws: list[Law] = []
    for row in ranking:
        law = _fit_form(runs, form_named(row["form"]), objective, settings)
        row["status"] = law.status
        laws.append(law)
        if law.usable:
            break
    best = laws[-1] if laws[-1].usable else laws[0]
    return replace(best, comparison=ranking)  # which is complete only now


def _fit_form(runs: Runs, form: Form, objective: Objective | None, settings: Settings) -> Law:
    """Fit one form, and everything that the settings ask for beside it."""
    near = restrict_to_frontier(runs.table, form, settings.within)
    families = chosen_families(settings.prior, form.name, objective, settings.fixed, near)
    objective = objective or Objective(name=OBJECTIVE if families else form.objective)
    everything = prepare_rows(runs.table, form, objective, settings.weighting)
    table = restrict_to_frontier(everything, form, settings.within)
    check_table(table, form, with_prior=families is not None)
    problem = problem_of(table, form, objective, fixed=settings.fixed)
    informed, boot = None, None
    if families:
        informed = fit_with_prior(problem, table, families, **settings.drawing)
        solution, estimate = informed.solution, informed.estimate
    else:
        solution = minimise(problem)
        boot = _resample(problem, solution, table, settings)
        estimate = estimate_of(problem, solution, boot, table, settings.level)
    alarms = alarms_of_fit(problem, solution, boot, estimate, table, runs.inputs)
    status = informed.status if informed else status_of(form, solution, alarms, boot)
    alarms = [informed.alarm, *alarms] if informed else alarms
    if status == "not_identified":
        estimate = estimate.without_intervals()
    methods, method_alarm = _methods(form, estimate, everything, settings)
    backtest, backtest_alarms = _backtest(runs, table, everything, problem, settings)
    if informed:
        backtest = with_tau(backtest)
    powers = power_laws(everything, **settings.intervals) if form.is_surface else []
    extra_alarms = [of_fit.status_alarm(status, form.name), *alarms, method_alarm, *backtest_alarms]
    within: dict[str, Any] = {}
    if settings.within is not None:
        within = {"within": settings.within, "n_far": len(everything) - len(table)}
    return Law(
        form=form.name,
        count=runs.count,
        parameters=estimate.parameters,
        objective={
            **objective.as_block(),
            "value": float(solution.value[0]),
            "weighting": settings.weighting if "weight" in table else "none",
        },
        status=status,
        alarms=tuple(alarm for alarm in extra_alarms if alarm),
        intervals=estimate.intervals,
        draws=estimate.draws,
        allocation=estimate.allocation,
        n_runs=len(table),
        dropped=runs.dropped,
        ranges=estimate.ranges,
        noise=estimate.noise,
        backtest=backtest,
        methods=methods,
        power_laws=powers,
        sensitivity=_sensitivity(table, problem, solution, settings),
        fixed=settings.fixed,
        prior=informed.block if informed else None,
        inputs=runs.inputs | within,
        unit=unit_of_law(runs.inputs),
    )


def _resample(
    problem: Problem, solution: Solution, table: pd.DataFrame, settings: Settings
) -> Bootstrap | None:
    """Return the resamples; None where the settings ask for none or no start gave a number."""
    if not settings.resamples or not np.isfinite(solution.value[0]):
        return None
    return bootstrap(
        problem,
        solution,
        units_of(table),
        resamples=settings.resamples,
        seed=settings.seed,
        on_progress=settings.on_progress,
    )


def _methods(
    form: Form, estimate: Estimate, table: pd.DataFrame, settings: Settings
) -> tuple[dict[str, Any], Alarm | None]:
    """Return Approaches 1 and 2 beside the parametric fit, and the alarm of the IsoFLOP edges."""
    if not form.is_surface or form.optimum is None:
        return {}, None
    by_isoflop = isoflop(table, **settings.intervals)
    by_envelope = envelope(table, scatter=estimate.residual_sd, **settings.intervals)
    points = list(by_isoflop.vertices) if by_isoflop else vertices(table)
    names = ("a", "b", "a_interval", "b_interval")
    methods = {
        "parametric": {name: estimate.allocation[name] for name in names},
        "isoflop": by_isoflop.as_method() if by_isoflop else None,
        "envelope": by_envelope.as_method() if by_envelope else None,
    }
    return methods, of_fit.edge_alarm([v.flops for v in points if v.why], len(points))


def _backtest(
    runs: Runs,
    table: pd.DataFrame,
    everything: pd.DataFrame,
    problem: Problem,
    settings: Settings,
) -> tuple[dict[str, Any] | None, list[Alarm | None]]:
    """Return the hindcasts, widened by confirmation runs that missed, and their alarms."""
    form, objective = problem.design.form, problem.objective
    backtest, alarms = None, []
    if settings.hindcast and form.target == "loss":
        backtest = hindcasts(
            table,
            form,
            objective,
            fixed=settings.fixed,
            level=settings.level,
            seed=settings.seed,
            on_progress=settings.on_progress,
        )
        if backtest and form.is_surface and settings.within is None:
            errors = far_runs(table, form, objective, backtest["rows"], fixed=settings.fixed)
            alarms.append(of_fit.far_runs_alarm(errors, len(table)))
    confirmations = runs.inputs.get("confirmations")
    if form.is_surface and confirmations:
        backtest = widen_tau(backtest, confirmations, column(everything, "flops"))
        alarms.append(of_fit.missed_alarm(confirmations))
    return backtest, alarms


def _sensitivity(
    table: pd.DataFrame, problem: Problem, solution: Solution, settings: Settings
) -> list[dict[str, Any]]:
    """Return fits of a surface by other objectives and to subsets of the rows."""
    form = problem.design.form
    if not settings.sensitivity or not form.is_surface:
        return []
    flops = float((6 * column(table, "params") * column(table, "tokens")).max())
    minima = problem.design.external(solution.theta[:MINIMA_NEAR])
    return sensitivity_rows(
        table, form, problem.objective, minima, flops=flops, fixed=settings.fixed
    )
