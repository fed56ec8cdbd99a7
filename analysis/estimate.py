"""Fit a law to a table of runs: the whole of `analysis.fit` as one function.

    from analysis import fit, load_runs
    law = fit(load_runs("runs/quick"))          or  fit(frame), fit("table.csv", where="x > 3")

The point estimate is the best of all starts (`analysis.solver`), intervals are bootstrapped
(`analysis.uncertainty`), and the same table goes through IsoFLOP parabolas, the envelope, plain
power laws and hindcasts. `status` says what kind of answer it is; a table that cannot carry the
form at all raises ValueError.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis import alarms as rules
from analysis.alarms import Alarm
from analysis.backtest import backtest as run_backtest
from analysis.envelope import envelope
from analysis.forms import Array, Form, column, form_named
from analysis.isoflop import isoflop, vertices
from analysis.laws import Law
from analysis.objective import Objective, Problem, problem_of, residuals
from analysis.powers import power_laws
from analysis.records import Columns, Runs, load_runs
from analysis.solver import Solution, minimise
from analysis.uncertainty import Bootstrap, bootstrap, units_of

SPARE_ROWS = 2
WIDEST_A = 0.4  # an interval of a wider than this says nothing about allocation
FEWEST_UNITS = 8
LOST_SHARE = 0.05
REACHES = (1.0, 10.0, 100.0)  # stated budgets, in units of the largest C fitted


def fit(
    data: Runs | pd.DataFrame | str | Path,
    form: str = "chinchilla",
    *,
    count: str = "total",
    where: str | None = None,
    columns: Columns | None = None,
    objective: Objective | None = None,
    resamples: int = 1000,
    level: float = 0.9,
    seed: int = 0,
    hindcast: bool = True,
) -> Law:
    """Fit `form` to runs (a study's folder, a table's path, a data frame or `Runs`).

    `count`, `where` and `columns` apply unless `data` is `Runs` already. `resamples=0` leaves out
    every interval, `hindcast=False` the backtest. Raises ValueError in one sentence for a table
    that cannot carry the form.
    """
    chosen, objective = form_named(form), objective or Objective()
    check_options(resamples, level)
    runs = data
    if not isinstance(runs, Runs):
        runs = load_runs(runs, count=count, where=where, columns=columns)
    table = runs.table
    check_table(table, chosen)
    problem = problem_of(table, chosen, objective)
    found = minimise(problem)
    boot = None
    if resamples and np.isfinite(found.value[0]):
        boot = bootstrap(problem, found, units_of(table), resamples=resamples, seed=seed)
    law = _law(runs, problem, found, boot, level)
    options = {"resamples": resamples, "level": level, "seed": seed}
    law = replace(law, power_laws=power_laws(table, **options))
    if chosen.name == "chinchilla":
        law = _with_methods(law, table, **options)
    if hindcast:
        tested = run_backtest(table, chosen, objective, level=level, seed=seed)
        law = replace(law, backtest=tested)
    return law


def check_options(resamples: int, level: float) -> None:
    """Refuse a negative number of resamples and a level outside (0, 1)."""
    if resamples < 0:
        raise ValueError(f"intervals.resamples={resamples} is negative; 0 turns intervals off")
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
    intervals = _intervals(boot, form, level) if boot is not None and kept else None
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
        noise={"sd_log": float(np.sqrt((left**2).sum() / (len(left) - len(values))))},
        inputs=runs.inputs,
    )
    law = replace(law, allocation=_allocation(law, level)) if form.name == "chinchilla" else law
    raised = _fit_alarms(law, table, problem, found, boot, left)
    status = _status(form, found, raised, boot)
    stated = rules.status_alarm(status, form.name)
    raised = [*([stated] if stated else []), *raised]
    law = replace(law, alarms=tuple(raised), status=status)
    return law if law.status != "not_identified" else _without_intervals(law)


def _without_intervals(law: Law) -> Law:
    """Leave out draws and intervals: about parameters that no run determines they would mislead."""
    allocation = {**law.allocation, "a_interval": None, "b_interval": None}
    stated = [{**o, "interval": None} for o in allocation.get("tokens_per_param", [])]
    if stated:
        allocation["tokens_per_param"] = stated
    return replace(law, draws=None, intervals=None, allocation=allocation if stated else {})


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
    optima = [law.optimum(reach * r, level) for r in REACHES]
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


def _fit_alarms(
    law: Law,
    table: pd.DataFrame,
    problem: Problem,
    found: Solution,
    boot: Bootstrap | None,
    left: Array,
) -> list[Alarm]:
    form = problem.design.form
    raised: list[Alarm | None] = [*rules.table_alarms(table), *rules.residual_alarms(table, left)]
    at = [form.parameters.index(name) for name in form.exponents]
    raised.append(rules.two_basins(found.value, found.theta[:, at], found.converged))
    intervals = (law.intervals or {}).get("parameters", {})
    if form.offset:
        smallest = float(column(table, "loss").min())
        offset = law.parameters[form.offset]
        raised.append(rules.offset_alarm(offset, intervals.get(form.offset), smallest))
    if law.allocation:
        a, interval = law.allocation["a"], law.allocation["a_interval"]
        raised.append(rules.unusual_a(a))
        if interval is not None:
            raised.append(rules.inseparable_alarm(a, interval, WIDEST_A))
    if boot is not None and boot.units.count < FEWEST_UNITS:
        raised.append(rules.few_units_alarm(boot.units.name, boot.units.count))
    if boot is not None and boot.lost > LOST_SHARE * boot.resamples:
        raised.append(rules.lost_alarm(boot.lost, boot.resamples))
    return [alarm for alarm in raised if alarm]


def _status(form: Form, found: Solution, raised: list[Alarm], boot: Bootstrap | None) -> str:
    """Say what kind of answer the best end point is."""
    codes = {alarm.code for alarm in raised}
    bound = found.at_bound[0].copy()
    if form.offset:
        bound[form.parameters.index(form.offset)] = False
    mostly_lost = boot is not None and boot.lost > boot.resamples / 2
    blind = form.name == "chinchilla" and codes & {"single_ray", "exponents_inseparable"}
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
    edge = rules.edge_alarm([v.flops for v in points if v.why], len(points))
    names = ("a", "b", "a_interval", "b_interval")
    methods = {
        "parametric": {name: law.allocation[name] for name in names},
        "isoflop": found.as_method() if found else None,
        "envelope": around.as_method() if around else None,
    }
    return replace(law, methods=methods, alarms=(*law.alarms, *([edge] if edge else [])))


def _ranges(table: pd.DataFrame) -> dict[str, list[float]]:
    columns = {name: column(table, name) for name in ("params", "tokens", "flops", "loss")}
    columns["flops_6nd"] = 6 * columns["params"] * columns["tokens"]
    return {name: [float(v.min()), float(v.max())] for name, v in columns.items()}
