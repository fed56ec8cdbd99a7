"""Fit a law to a table of runs: the whole of `analysis.fit` as one function.

    from analysis import fit, load_runs
    law = fit(load_runs("runs/quick"))          or  fit(frame), fit("table.csv", where="x > 3")

The point estimate is the best of all starts (`analysis.solve.solver`), intervals are bootstrapped
(`analysis.uncertainty.bootstrap`), and the same table goes through IsoFLOP parabolas, the envelope,
plain power laws and hindcasts. `status` says what kind of answer it is; a table that cannot carry
the form at all raises ValueError.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.alarms import of_fit, of_table
from analysis.alarms.loss_units import read_alarm, unit_of_law
from analysis.alarms.of_table import Alarm
from analysis.estimation.allocation_laws import METHODS, NEEDED_BY
from analysis.estimation.envelope import envelope
from analysis.estimation.isoflop import isoflop, vertices
from analysis.estimation.power_laws import power_laws, undominated
from analysis.forms import Array, Form, column, form_named
from analysis.laws.law import Law
from analysis.runs.columns import Columns
from analysis.runs.table import Runs, load_runs
from analysis.solve.objective import Objective, Problem, problem_of, residuals
from analysis.solve.progress import Tell, silent
from analysis.solve.residual_spread import scatter
from analysis.solve.seed_noise import weighted
from analysis.solve.solver import Solution, minimise
from analysis.uncertainty.bootstrap import Bootstrap, bootstrap, units_of
from analysis.uncertainty.intervals import other_intervals
from analysis.validate.form_ranking import compare
from analysis.validate.hindcast import hindcasts, widened
from analysis.validate.near_frontier import check_within, far_runs, near_frontier
from analysis.validate.sensitivity import sensitivity as sensitivity_rows
from scaling.schema import MOST_RESAMPLES

SPARE_ROWS = 2
WIDEST_A = 0.4  # an interval of a wider than this says nothing about allocation
FEWEST_UNITS = 8
LOST_SHARE = 0.05
MINIMA_KEPT = 4  # from which fits of the sensitivity table start
REACHES = (1.0, 10.0, 100.0)  # stated budgets, in units of the largest C fitted
WEIGHTINGS = ("column", "seed_noise", "none")


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
    resamples: int = 1000,
    level: float = 0.9,
    seed: int = 0,
    hindcast: bool = True,
    sensitivity: bool = True,
    tell: Tell = silent,
) -> Law:
    """Fit `form` to runs (a study's folder, a table's path, a data frame or `Runs`).

    `form` is one of `analysis.forms.FORMS`, of `analysis.estimation.allocation_laws.METHODS`, or
    `all`: the form that predicts withheld larger runs best. `count`, `where` and `columns` apply
    unless `data` is `Runs` already. `objective=None` is the form's own. `weighting` takes the
    table's `weight` column, measured seed noise, or none; `fixed` parameters are held; `within=0.1`
    fits a surface to runs whose loss is within 10 % of the best of no more compute. `resamples=0`
    leaves out every interval, `hindcast=False` the backtest, `sensitivity=False` the other
    objectives. `tell(stage, done, total)` hears how far what takes long is. Raises ValueError in
    one sentence for a table that cannot carry the form.
    """
    check_options(resamples, level, weighting, seed=seed)
    check_within(within)
    needed = needed_columns(form)
    runs = data
    if not isinstance(runs, Runs):
        runs = load_runs(
            runs, count=count, where=where, columns=columns, needed=needed, stage=stage_of(form)
        )
    check_columns(runs.table, needed, form)
    options = {"resamples": resamples, "level": level, "seed": seed}
    if form in METHODS:
        return METHODS[form](runs, **options)
    settings = Settings(
        **options,
        weighting=weighting,
        fixed=dict(fixed or {}),
        within=within,
        hindcast=hindcast,
        sensitivity=sensitivity,
        tell=tell,
    )
    if form == "all":
        return _best(runs, objective, settings)
    return _fitted(runs, form_named(form), objective, settings)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The options of `fit` that do not say what is fitted."""

    resamples: int
    level: float
    seed: int
    weighting: str
    fixed: dict[str, float]
    within: float | None
    hindcast: bool
    sensitivity: bool
    tell: Tell


def _best(runs: Runs, objective: Objective | None, settings: Settings) -> Law:
    """Return the usable law of the form that predicts withheld runs best, or the first."""
    ranked = compare(near_frontier(runs.table, settings.within), objective, settings.tell)
    tried = []
    for row in ranked:
        tried.append(_fitted(runs, form_named(row["form"]), objective, settings))
        row["status"] = tried[-1].status
        if tried[-1].usable:
            break
    law = tried[-1] if tried[-1].usable else tried[0]
    return replace(law, comparison=ranked)


def _fitted(runs: Runs, form: Form, objective: Objective | None, settings: Settings) -> Law:
    """Fit one form, with what the settings ask for beside it."""
    objective = objective or Objective(name=form.objective)
    everything = prepared(runs.table, form, objective, settings.weighting)
    table = chosen_rows(everything, form, settings.within)
    check_table(table, form)
    level, seed, fixed = settings.level, settings.seed, settings.fixed
    options = {"resamples": settings.resamples, "level": level, "seed": seed}
    problem = problem_of(table, form, objective, fixed=fixed)
    found = minimise(problem)
    boot = None
    if settings.resamples and np.isfinite(found.value[0]):
        units = units_of(table)
        boot = bootstrap(
            problem, found, units, resamples=settings.resamples, seed=seed, tell=settings.tell
        )
    law = _law(replace(runs, table=table), problem, found, boot, level)
    law.objective["weighting"] = settings.weighting if "weight" in table else "none"
    law = replace(law, fixed=fixed)
    if settings.within is not None:
        rows = {"within": settings.within, "n_far": len(everything) - len(table)}
        law = replace(law, inputs=law.inputs | rows)
    if form.is_surface:
        law = replace(law, power_laws=power_laws(everything, **options))
    if form.is_surface and form.optimum is not None:
        law = _with_methods(law, everything, **options)
    if settings.hindcast and form.target == "loss":
        tested = hindcasts(
            table, form, objective, fixed=fixed, level=level, seed=seed, tell=settings.tell
        )
        law = replace(law, backtest=tested)
        if tested and form.is_surface and settings.within is None:
            compared = far_runs(table, form, objective, tested["rows"], fixed=fixed)
            far = of_fit.far_runs_alarm(compared, len(table))
            law = replace(law, alarms=(*law.alarms, *([far] if far else [])))
    if form.is_surface and (told := runs.inputs.get("confirmations")):
        tested = widened(law.backtest, told, column(everything, "flops"))
        missed = of_fit.missed_alarm(told)
        law = replace(law, backtest=tested, alarms=(*law.alarms, *([missed] if missed else [])))
    if settings.sensitivity and form.is_surface:
        flops = float((6 * column(table, "params") * column(table, "tokens")).max())
        near = problem.design.external(found.theta[:MINIMA_KEPT])
        rows = sensitivity_rows(table, form, objective, near, flops=flops, fixed=fixed)
        law = replace(law, sensitivity=rows)
    return law


def chosen_rows(table: pd.DataFrame, form: Form, within: float | None) -> pd.DataFrame:
    """Return the rows near the frontier; ValueError for a form that is no surface of the loss."""
    if within is None:
        return table
    if not form.is_surface or form.target != "loss":
        raise ValueError(
            f"within={within} keeps runs near the frontier of the loss; form={form.name} is no "
            "law of the loss in N and D: leave within out"
        )
    return near_frontier(table, within)


def needed_columns(form: str) -> tuple[str, ...]:
    """Return the columns that a form (or method, or `all`) must find."""
    if form in METHODS:
        return NEEDED_BY[form]
    if form == "all":
        return ()
    chosen = form_named(form)
    spared = () if chosen.terms else chosen.optional  # a term is fitted to what it is made of
    return (*(v for v in chosen.variables if v not in spared), chosen.target)


def stage_of(form: str) -> str:
    """Return the stage whose cells a form (or method, or `all`) is fitted to."""
    return "pretrain" if form in METHODS or form == "all" else form_named(form).stage


def check_columns(table: pd.DataFrame, needed: tuple[str, ...], form: str) -> None:
    """Refuse a table, read without the form in mind, that lacks a column."""
    missing = [name for name in needed if name not in table]
    if missing:
        raise ValueError(
            f"form={form} needs a column {missing[0]!r}; the table has "
            f"{', '.join(map(str, table.columns))}: set columns.{missing[0]}=NAME"
        )


def prepared(table: pd.DataFrame, form: Form, objective: Objective, weighting: str) -> pd.DataFrame:
    """Return the rows that a form is fitted to, weighted.

    A law in one variable of a table with others is one of its frontier.
    """
    alone = form.target == "loss" and len(form.variables) == 1
    others = [v for v in ("params", "tokens") if v in table and v not in form.variables]
    if alone and any(np.ptp(column(table, v)) > 0 for v in others):
        table = undominated(table, form.variables[0]).reset_index(drop=True)
    if weighting == "none":
        return table.drop(columns="weight", errors="ignore")
    if weighting == "seed_noise":
        return weighted(table, squared=objective.name in ("ls_log", "ls"))
    return table


def check_options(
    resamples: int, level: float, weighting: str = "column", *, seed: int = 0
) -> None:
    """Refuse negative resamples or seed, a level outside (0, 1), an unknown weighting."""
    if weighting not in WEIGHTINGS:
        raise ValueError(
            f"objective.weighting={weighting} is not known; choose one of {', '.join(WEIGHTINGS)}"
        )
    if resamples < 0:
        raise ValueError(f"intervals.resamples={resamples} is negative; 0 turns intervals off")
    if resamples > MOST_RESAMPLES:
        raise ValueError(
            f"intervals.resamples={resamples} is above {MOST_RESAMPLES}, which every page and plan"
            " of the law would hold in memory; 4000 fix the ends of an interval to two digits"
        )
    if seed < 0:
        raise ValueError(f"seed={seed} of the resamples is negative; give 0 or more")
    if not 0 < level < 1:
        raise ValueError(f"intervals.level={level} is not between 0 and 1; the usual is 0.9")


def check_table(table: pd.DataFrame, form: Form) -> None:
    """Refuse a table too small, or constant in a variable of the form."""
    needed = len(form.parameters) + SPARE_ROWS
    if len(table) < needed:
        raise ValueError(
            f"{len(table)} rows cannot carry the {len(form.parameters)} parameters of "
            f"form={form.name}; it needs at least {needed}: add runs or choose a smaller form"
        )
    for name in form.variables:
        if name in form.optional and name not in table:
            continue
        values = column(table, name)
        if np.ptp(values) == 0:
            raise ValueError(
                f"all {len(table)} rows have {name}={values[0]:g}; form={form.name} needs runs "
                f"that differ in {name}"
            )


def _law(
    runs: Runs, problem: Problem, found: Solution, boot: Bootstrap | None, level: float
) -> Law:
    """Join point estimate, draws, status and alarms."""
    form, table = problem.design.form, runs.table
    values = problem.design.external(found.theta[0])
    parameters = dict(zip(form.parameters, values.tolist(), strict=True))
    kept = boot is not None and len(boot.draws) > max(1, boot.resamples / 2)
    draws = boot.draws if boot is not None and kept else None
    intervals = None
    if boot is not None and kept:
        flops = _ranges(table)["flops_6nd"][1] if form.is_surface else None
        others = other_intervals(problem, found, boot, level, flops)
        intervals = _intervals(boot, form, level) | others
    left = residuals(found.theta[:1], problem)[0]
    law = Law(
        form=form.name,
        count=runs.count,
        parameters=parameters,
        objective={
            "name": problem.objective.name,
            "delta": problem.objective.delta,
            "value": float(found.value[0]),
        },
        status="converged",
        intervals=intervals,
        draws=draws,
        n_runs=len(table),
        dropped=runs.dropped,
        ranges=_ranges(table),
        noise=_noise(left, problem, len(values)),
        inputs=runs.inputs,
        unit=unit_of_law(runs.inputs),
    )
    law = replace(law, allocation=_allocation(law, level)) if form.is_surface else law
    law = replace(law, allocation={"peak": peak_of(law, form, level)}) if form.peak else law
    raised = _fit_alarms(law, table, problem, found, boot, left)
    status = _status(form, found, raised, boot)
    stated = of_fit.status_alarm(status, form.name)
    raised = [*([stated] if stated else []), *raised]
    law = replace(law, alarms=tuple(raised), status=status)
    return law if law.status != "not_identified" else _without_intervals(law)


def _without_intervals(law: Law) -> Law:
    """Leave out draws, intervals and optima beyond the data: they would mislead."""
    allocation = {**law.allocation, "a_interval": None, "b_interval": None}
    stated = [{**o, "interval": None} for o in allocation.get("tokens_per_param", [])[:1]]
    if stated:
        allocation["tokens_per_param"] = stated
    return replace(law, draws=None, intervals=None, allocation=allocation if stated else {})


def _noise(left: Array, problem: Problem, n_parameters: int) -> dict[str, float]:
    """Return how runs scatter about the law, from residuals (n,): of a loss, by its size."""
    if problem.objective.in_logs and problem.design.form.target == "loss":
        return scatter(left, left + problem.logs, n_parameters)
    sd = float(np.sqrt((left**2).sum() / (len(left) - n_parameters)))
    return {"sd_log" if problem.objective.in_logs else "sd": sd}


def _intervals(boot: Bootstrap, form: Form, level: float) -> dict[str, Any]:
    named = {p: boot.interval(boot.draws[:, i], level) for i, p in enumerate(form.parameters)}
    return {
        "level": level,
        "method": boot.method,
        "resamples": boot.resamples,
        "converged": len(boot.draws),
        "unit": boot.units.name,
        "units": boot.units.count,
        "parameters": named,
    }


def _allocation(law: Law, level: float) -> dict[str, Any]:
    reach = law.ranges["flops_6nd"][1]
    optima = [law.optimum(reach * r, level, force=True) for r in REACHES]
    first = optima[0]

    def interval(optimum: Any, name: str) -> list[float] | None:
        return list(optimum.intervals[name]) if name in optimum.intervals else None

    stated = [
        {
            "flops": o.flops,
            "params": o.params,
            "tokens": o.tokens,
            "tokens_per_param": o.tokens_per_param,
            "interval": interval(o, "tokens_per_param"),
            "loss": o.loss,
        }
        for o in optima
    ]
    return {
        "a": first.a,
        "b": first.b,
        "a_interval": interval(first, "a"),
        "b_interval": interval(first, "b"),
        "convention": "C = 6 N D",
        "tokens_per_param": stated,
    }


def peak_of(law: Law, form: Form, level: float) -> dict[str, Any]:
    """Return where the target is largest, with its interval; None where it only grows."""
    assert form.peak is not None
    at, value = (float(v) for v in form.peak(law.parameters))
    found: dict[str, Any] = {"variable": form.variables[0], "at": None, "value": None}
    if np.isfinite(at) and law.parameters["beta"] > 0:
        found |= {"at": at, "value": value}
    if law.draws is not None:
        named = {name: law.draws[:, i] for i, name in enumerate(law.parameters)}
        drawn = np.where(named["beta"] > 0, form.peak(named)[0], np.inf)
        low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], method="nearest")
        found["interval"] = [float(low), float(high) if np.isfinite(high) else None]
    return found


def _fit_alarms(
    law: Law,
    table: pd.DataFrame,
    problem: Problem,
    found: Solution,
    boot: Bootstrap | None,
    left: Array,
) -> list[Alarm]:
    form = problem.design.form
    raised: list[Alarm | None] = []
    logs = left if problem.objective.in_logs else None
    raised += _table_alarms(form, table, logs, law.inputs)
    at = [form.parameters.index(name) for name in form.exponents]
    if at:
        raised.append(of_fit.two_basins(found.value, found.theta[:, at], found.converged))
    bound = [p for p, b in zip(form.parameters, found.at_bound[0], strict=True) if b]
    bound = [p for p in bound if p != form.offset]
    raised.append(of_fit.bound_alarm(bound, [law.parameters[p] for p in bound], form.name))
    intervals = (law.intervals or {}).get("parameters", {})
    if form.offset and form.target == "loss":
        smallest = float(column(table, "loss").min())
        offset, scatter = law.parameters[form.offset], 1.4826 * float(np.median(np.abs(left)))
        scatter /= 1.0 if problem.objective.in_logs else smallest
        raised.append(of_fit.offset_alarm(offset, intervals.get(form.offset), smallest, scatter))
    if "a" in law.allocation:
        a, interval = law.allocation["a"], law.allocation["a_interval"]
        raised.append(of_fit.unusual_a(a))
        if interval is not None:
            raised.append(of_fit.inseparable_alarm(a, interval, WIDEST_A))
        elif boot is not None and boot.lost > boot.resamples / 2:
            raised.append(of_fit.narrow_alarm(table))
    if form.peak:
        peak = law.allocation["peak"]
        seen = column(table, peak["variable"])
        raised.append(of_fit.peak_alarm(peak, float(seen.min()), float(seen.max())))
    if boot is not None and boot.units.count < FEWEST_UNITS:
        raised.append(of_fit.few_units_alarm(boot.units.name, boot.units.count))
    if boot is not None and "bodies" in law.inputs:
        raised.append(of_fit.few_bodies_alarm(law.inputs["bodies"]))
    if boot is not None and boot.lost > LOST_SHARE * boot.resamples:
        raised.append(of_fit.lost_alarm(boot.lost, boot.resamples))
    return [alarm for alarm in raised if alarm]


def _table_alarms(
    form: Form, table: pd.DataFrame, left: Array | None, inputs: Mapping[str, Any]
) -> list[Alarm]:
    """Return what is wrong with the design, the units, and with residuals in logs (n,)."""
    unit = read_alarm(inputs) if form.target == "loss" else None
    found = [unit] if unit else []
    if form.stage != "pretrain":
        return found + of_table.stage_alarms(table, form.variables)
    if form.target != "loss" or not {"params", "tokens"} <= set(table):
        return found
    known = {"repeated_data"} if "unique_tokens" in form.variables else set()
    found += [a for a in of_table.table_alarms(table, inputs) if a.code not in known]
    return found + (of_table.residual_alarms(table, left) if left is not None else [])


def _status(form: Form, found: Solution, raised: list[Alarm], boot: Bootstrap | None) -> str:
    """Say what kind of answer the best end point is."""
    codes = {alarm.code for alarm in raised}
    bound = found.at_bound[0].copy()
    if form.offset:
        bound[form.parameters.index(form.offset)] = False
    mostly_lost = boot is not None and boot.lost > boot.resamples / 2
    blind = form.is_surface and codes & {"single_ray", "exponents_inseparable"}
    if not np.isfinite(found.condition[0]) or blind or mostly_lost:
        return "not_identified"
    if not found.converged[0]:
        return "max_iter"
    if bound.any():
        return "bound_hit"
    if codes & {"offset_at_bound", "offset_not_identified"}:
        return "offset_not_identified"
    return "converged"


def _with_methods(law: Law, table: pd.DataFrame, *, resamples: int, level: float, seed: int) -> Law:
    """Add Approaches 1 and 2 beside the parametric fit, and the alarm of the IsoFLOP edges."""
    found = isoflop(table, resamples=resamples, level=level, seed=seed)
    scatter = law.residual_sd
    around = envelope(table, resamples=resamples, level=level, seed=seed, scatter=scatter)
    points = list(found.vertices) if found else vertices(table)
    edge = of_fit.edge_alarm([v.flops for v in points if v.why], len(points))
    names = ("a", "b", "a_interval", "b_interval")
    methods = {
        "parametric": {name: law.allocation[name] for name in names},
        "isoflop": found.as_method() if found else None,
        "envelope": around.as_method() if around else None,
    }
    return replace(law, methods=methods, alarms=(*law.alarms, *([edge] if edge else [])))


def _ranges(table: pd.DataFrame) -> dict[str, list[float]]:
    names = (
        "params",
        "tokens",
        "flops",
        "loss",
        "unique_tokens",
        "experts",
        "kl",
        "pairs",
        "examples",
        "epochs",
    )
    columns = {name: column(table, name) for name in names if name in table}
    if {"params", "tokens"} <= set(columns):
        columns["flops_6nd"] = 6 * columns["params"] * columns["tokens"]
    return {name: [float(v.min()), float(v.max())] for name, v in columns.items()}
