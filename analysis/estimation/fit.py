"""Fit a law to a table of runs: the whole of `analysis.fit` as one function.

    from analysis import fit, load_runs
    law = fit(load_runs("runs/quick"))          or  fit(frame), fit("table.csv", where="x > 3")

The point estimate is the best of all starts (`analysis.solve.solver`), its intervals come from a
bootstrap (`analysis.uncertainty.bootstrap`), and the same table goes through IsoFLOP parabolas, the
envelope, plain power laws and hindcasts. `Law.status` says what kind of answer it is. A table that
cannot carry the form at all raises ValueError.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.alarms import of_fit
from analysis.alarms.alarm import Alarm
from analysis.alarms.loss_units import unit_of_law
from analysis.alarms.methods import methods_disagree
from analysis.alarms.of_logs import log_alarms
from analysis.estimation.allocation_laws import CRITICAL_BATCH, METHODS
from analysis.estimation.checks import (
    SCHEDULE,
    check_columns,
    check_options,
    needed_columns,
    stage_of,
)
from analysis.estimation.critical_batch import TOLERANCE
from analysis.estimation.downstream import rank_downstream, two_steps_law
from analysis.estimation.envelope import envelope
from analysis.estimation.fit_blocks import Estimate, peak_block, scatter_block
from analysis.estimation.fitted_form import FittedForm, Settings, estimate_form
from analysis.estimation.form_average import average_law, leading_form
from analysis.estimation.isoflops.answers import isoflop_both
from analysis.estimation.isoflops.isoflop import vertices
from analysis.estimation.points import best_of_points, with_replicates
from analysis.estimation.power_laws import power_laws
from analysis.estimation.prior_fit import families_of
from analysis.estimation.schedule import fit_schedule
from analysis.forms import Form, column, current_form, form_named
from analysis.forms.accuracy import LOSS_OF
from analysis.forms.token_flops import TokenFlops
from analysis.laws.form_error import DEFAULT_GROWTH, ERROR_GROWTH, PRIOR_GROWTH
from analysis.laws.law import Law
from analysis.laws.law_file import flops_range
from analysis.runs.columns import Columns
from analysis.runs.table import Runs, load_runs
from analysis.solve.objective import Objective
from analysis.solve.progress import OnProgress, no_progress
from analysis.validate.epoch_ranking import rank_by_epochs
from analysis.validate.form_ranking import UNTESTED
from analysis.validate.hindcast import hindcasts, widen_tau
from analysis.validate.near_frontier import check_within, far_runs
from analysis.validate.row_choice import rank_rows_and_forms
from analysis.validate.sensitivity import sensitivity as sensitivity_rows

MEMBER_RESAMPLES = 400  # of each form that is averaged, most of whose time is Farseer's
MINIMA_NEAR = 4  # best minima of the fit, from which the fits of the sensitivity table start


def fit(
    data: Runs | pd.DataFrame | str | Path,
    form: str = "chinchilla",
    *,
    count: str = "total",
    where: str | None = None,
    columns: Columns | None = None,
    context: float | None = None,
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
    tolerance: float = TOLERANCE,
    on_progress: OnProgress = no_progress,
) -> Law:
    """Fit a form to runs and return the law.

    data: a study's folder, a table's path, a data frame, or `Runs` that were read before
    form: a name of `analysis.forms.FORMS` or of `analysis.estimation.allocation_laws.METHODS`, or
        `all` for the form that predicts withheld larger runs best, `repetition` for the form of
        repeated data that predicts withheld epochs best, `downstream` for the law of a task's
        accuracy that predicts withheld larger models best
    count: how N is counted in a study (`scaling.schema.COUNTS`); not read where `data` is `Runs`
    where: condition that rows must meet (`analysis.runs.condition`); not read for `Runs`
    columns: the table's names of our columns; not read for `Runs`
    context: tokens of a sequence, where a table has a column batch_sequences; not read for `Runs`
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
    tolerance: loss above the least that a batch may cost (form=critical_batch)
    on_progress: takes (stage, done, total) of steps that take long

    Where rows of one (N, D) differ in settings, the best of each is fitted
    (`analysis.runs.replicates`).

    Raises ValueError in one sentence for an unknown form, for a table that cannot be read
    (`analysis.runs.table.load_runs`) and for one that cannot carry the form. Hoffmann et al. 2022
    (2203.15556) and Besiroglu et al. 2024 (2404.10102) for the objective and the intervals.
    """
    check_options(resamples, level, weighting, seed=seed)
    check_within(within)
    form = current_form(form)
    families_of(prior, form, objective, fixed or {})
    if form == SCHEDULE:
        if isinstance(data, Runs):
            raise ValueError("form=schedule reads curves, not runs; give the table or the study")
        return fit_schedule(data, count=count, where=where, columns=columns, level=level)
    needed = needed_columns(form)
    runs = data
    if not isinstance(runs, Runs):
        runs = load_runs(
            runs,
            count=count,
            where=where,
            columns=columns,
            needed=needed,
            stage=stage_of(form),
            context=context,
        )
    check_columns(runs.table, needed, form)
    runs = best_of_points(runs, form)
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
        own = {"tolerance": tolerance} if form == CRITICAL_BATCH else {}
        law = METHODS[form](runs, **settings.intervals, **own)
    elif form == "all":
        law = _fit_all(runs, objective, settings)
    elif form == "repetition":
        rows = rank_by_epochs(runs.table, objective, on_progress=on_progress)
        law = _fit_best(runs, objective, settings, rows)
    elif form == "downstream":
        rows = rank_downstream(runs.table, fixed=settings.fixed, on_progress=on_progress)
        law = _fit_best(runs, objective, settings, rows)
    else:
        law = _fit_form(runs, form_named(form), objective, settings)
    law = with_replicates(law, runs)
    return replace(law, alarms=(*log_alarms(runs.inputs, runs.dropped), *law.alarms))


def peak_of(law: Law, form: Form, level: float) -> dict[str, Any]:
    """Return where the target of a law is largest, with its interval."""
    return peak_block(form, law.parameters, law.draws, level)


def _fit_form(runs: Runs, form: Form, objective: Objective | None, settings: Settings) -> Law:
    """Fit one form, and everything that the settings ask for beside it."""
    if form.name in LOSS_OF:
        return two_steps_law(runs, form, fixed=settings.fixed, **settings.intervals)
    return _law_of(estimate_form(runs, form, objective, settings), runs, settings)


def _fit_all(runs: Runs, objective: Objective | None, settings: Settings) -> Law:
    """Return the law of the leading form; of surfaces it forecasts with the average of all."""
    ranking, choice = rank_rows_and_forms(
        runs.table,
        objective,
        within=settings.within,
        level=settings.level,
        seed=settings.seed,
        on_progress=settings.on_progress,
    )
    if not form_named(ranking.rows[0]["form"]).is_surface:
        if not ranking.is_tested:
            raise ValueError(UNTESTED)
        return _fit_best(runs, objective, settings, ranking.rows)
    if choice is not None and choice.within is not None:
        settings = replace(settings, within=choice.within)
    fits: dict[str, FittedForm] = {}
    few = replace(settings, resamples=min(settings.resamples, MEMBER_RESAMPLES))
    for row in ranking.rows:
        form = form_named(row["form"])
        fits[form.name] = estimate_form(runs, form, objective, few)
        row["status"] = fits[form.name].status
    leader = leading_form(fits, ranking)
    if few != settings:  # of the form whose parameters and intervals are shown
        leader = estimate_form(runs, leader.form, objective, settings)
    law = _law_of(leader, runs, replace(settings, hindcast=False))
    return average_law(law, fits, ranking, settings, choice)


def _fit_best(
    runs: Runs, objective: Objective | None, settings: Settings, rows: list[dict[str, Any]]
) -> Law:
    """Return the usable law of the form that predicts withheld runs best, or the first.

    `rows` is the ranking of the forms, best first; their status is filled in.
    """
    laws: list[Law] = []
    for row in rows:
        law = _fit_form(runs, form_named(row["form"]), objective, settings)
        row["status"] = law.status
        laws.append(law)
        if law.usable:
            break
    best = laws[-1] if laws[-1].usable else laws[0]
    return replace(best, comparison=rows)  # which is complete only now


def _law_of(fitted: FittedForm, runs: Runs, settings: Settings) -> Law:
    """Return the law of a form, with everything that the settings ask for beside it."""
    form, problem, solution, table = fitted.form, fitted.problem, fitted.solution, fitted.table
    estimate, status = fitted.estimate, fitted.status
    if status == "not_identified":
        estimate = estimate.without_intervals()
    methods, method_alarm = _methods(form, estimate, fitted.everything, settings)
    backtest, backtest_alarms = _backtest(runs, fitted, settings)
    powers = power_laws(fitted.everything, **settings.intervals) if form.is_surface else []
    extra_alarms = [
        of_fit.status_alarm(status, form.name),
        *fitted.alarms,
        method_alarm,
        *backtest_alarms,
        methods_disagree(methods, fitted.everything),
    ]
    within: dict[str, Any] = {}
    if settings.within is not None:
        within = {"within": settings.within, "n_far": len(fitted.everything) - len(table)}
    return Law(
        form=form.name,
        count=runs.count,
        parameters=estimate.parameters,
        objective={
            **problem.objective.as_block(),
            "value": float(solution.value[0]),
            "weighting": settings.weighting if "weight" in table else "none",
        },
        status=status,
        alarms=tuple(_with_far_rows(extra_alarms, fitted)),
        intervals=estimate.intervals,
        draws=estimate.draws,
        allocation=estimate.allocation,
        n_runs=len(table),
        dropped=runs.dropped,
        ranges=estimate.ranges,
        noise=estimate.noise,
        scatter=scatter_block(estimate.residuals, len(estimate.parameters), table),
        error_growth=_error_growth(fitted, backtest),
        backtest=backtest,
        methods=methods,
        power_laws=powers,
        sensitivity=_sensitivity(table, fitted, settings, runs.token_flops),
        fixed=settings.fixed,
        prior=fitted.informed.block if fitted.informed else None,
        token_flops=runs.token_flops.as_block() if runs.token_flops else None,
        inputs=runs.inputs | within,
        unit=unit_of_law(runs.inputs),
    )


def _error_growth(fitted: FittedForm, backtest: dict[str, Any] | None) -> float:
    """Return the least error of forecasts by each e-fold of C; larger where none was tested."""
    if not fitted.form.is_surface:
        return 0.0
    if fitted.informed:
        return PRIOR_GROWTH
    return ERROR_GROWTH if backtest and backtest["tau"] else DEFAULT_GROWTH


def _with_far_rows(alarms: Sequence[Alarm | None], fitted: FittedForm) -> list[Alarm]:
    """Return the alarms; those of a law of the loss also name the rows far from it."""
    raised = [alarm for alarm in alarms if alarm]
    if fitted.form.target != "loss" or not fitted.problem.objective.in_logs:
        return raised
    estimate = fitted.estimate
    return of_fit.with_far_rows(raised, fitted.table, estimate.residuals, len(estimate.parameters))


def _methods(
    form: Form, estimate: Estimate, table: pd.DataFrame, settings: Settings
) -> tuple[dict[str, Any], Alarm | None]:
    """Return Approaches 1 and 2 beside the parametric fit, and the alarm of the IsoFLOP edges."""
    if not form.is_surface or form.optimum is None:
        return {}, None
    by_isoflop = isoflop_both(table, **settings.intervals)
    by_envelope = envelope(table, scatter=estimate.residual_sd, **settings.intervals)
    points = list(by_isoflop.vertices) if by_isoflop else vertices(table)
    names = ("a", "b", "a_interval", "b_interval", "convention")
    methods = {
        "parametric": {name: estimate.allocation[name] for name in names},
        "isoflop": by_isoflop.as_method() if by_isoflop else None,
        "envelope": by_envelope.as_method() if by_envelope else None,
    }
    return methods, of_fit.edge_alarm([v.flops for v in points if v.why], len(points))


def _backtest(
    runs: Runs, fitted: FittedForm, settings: Settings
) -> tuple[dict[str, Any] | None, list[Alarm | None]]:
    """Return the hindcasts, widened by confirmation runs that missed, and their alarms."""
    form, objective = fitted.form, fitted.problem.objective
    table = fitted.table.loc[~fitted.estimate.far].reset_index(drop=True)
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
        alarms.append(of_fit.coverage_alarm(backtest, form.name, settings.within))
    confirmations = runs.inputs.get("confirmations")
    if form.is_surface and confirmations:
        backtest = widen_tau(backtest, confirmations, column(fitted.everything, "flops"))
        alarms.append(of_fit.missed_alarm(confirmations))
    return backtest, alarms


def _sensitivity(
    table: pd.DataFrame, fitted: FittedForm, settings: Settings, token_flops: TokenFlops | None
) -> list[dict[str, Any]]:
    """Return fits of a surface by other objectives and to subsets of the rows."""
    problem, solution, form = fitted.problem, fitted.solution, fitted.form
    if not settings.sensitivity or not form.is_surface:
        return []
    flops = flops_range(fitted.estimate.ranges, counted=token_flops is not None)[1]
    minima = problem.design.external(solution.theta[:MINIMA_NEAR])
    return sensitivity_rows(
        table,
        form,
        problem.objective,
        minima,
        flops=flops,
        fixed=settings.fixed,
        token_flops=token_flops,
    )
