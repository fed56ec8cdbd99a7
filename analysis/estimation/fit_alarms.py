"""The alarms of one fit, in the order in which law.json lists them, and its status."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.alarms import of_fit, of_table
from analysis.alarms.alarm import Alarm
from analysis.alarms.loss_units import loss_unit_alarm
from analysis.estimation.fit_blocks import Estimate
from analysis.forms import Array, Form, column
from analysis.laws.law_file import LawStatus
from analysis.solve.objective import Problem
from analysis.solve.solver import Solution
from analysis.uncertainty.bootstrap import Bootstrap

WIDEST_A = 0.4  # an interval of a wider than this says nothing about allocation
FEWEST_UNITS = 8  # independent units below which a bootstrap is rough
LOST_SHARE = 0.05  # share of resamples without a minimum from which the intervals are too narrow
MAD = 1.4826  # ratio of a normal standard deviation to the median absolute deviation


def alarms_of_fit(
    problem: Problem,
    solution: Solution,
    boot: Bootstrap | None,
    estimate: Estimate,
    table: pd.DataFrame,
    inputs: Mapping[str, Any],
) -> list[Alarm]:
    """Return what a reader of a law should know before he uses it.

    problem: the problem that was solved
    solution: its end points, best first
    boot: its resamples, None without intervals
    estimate: what the fit says
    table: the runs
    inputs: what the table was read from and how, as in law.json
    """
    form = problem.design.form
    in_logs = problem.objective.in_logs
    alarms = [
        *_table_alarms(form, table, estimate.residuals if in_logs else None, inputs),
        *_minimum_alarms(form, solution, estimate),
        _offset_alarm(form, estimate, table, in_logs=in_logs),
        *_optimum_alarms(form, boot, estimate, table),
        *_resampling_alarms(boot, inputs),
        _jackknife_alarm(boot, estimate),
    ]
    return [alarm for alarm in alarms if alarm]


def status_of(
    form: Form, solution: Solution, alarms: Sequence[Alarm], boot: Bootstrap | None
) -> LawStatus:
    """Return what kind of answer the best end point is.

    form: the form that was fitted
    solution: the end points, best first
    alarms: what `alarms_of_fit` returned
    boot: the resamples, None without intervals
    """
    codes = {alarm.code for alarm in alarms}
    at_bound = solution.at_bound[0].copy()
    if form.offset:  # E = 0 is an answer, and has an alarm of its own
        at_bound[form.parameters.index(form.offset)] = False
    mostly_lost = boot is not None and boot.lost > boot.resamples / 2
    inseparable = form.is_surface and codes & {"single_ray", "exponents_inseparable"}
    if not np.isfinite(solution.condition[0]) or inseparable or mostly_lost:
        return "not_identified"
    if not solution.converged[0]:
        return "max_iter"
    if at_bound.any():
        return "bound_hit"
    if codes & {"offset_at_bound", "offset_not_identified"}:
        return "offset_not_identified"
    return "converged"


def _table_alarms(
    form: Form, table: pd.DataFrame, log_residuals: Array | None, inputs: Mapping[str, Any]
) -> list[Alarm]:
    """Return what is wrong with the design, with the units, and with the residuals in logs (n,)."""
    unit = loss_unit_alarm(inputs) if form.target == "loss" else None
    alarms = [unit] if unit else []
    if form.stage != "pretrain":
        return alarms + of_table.stage_alarms(table, form.variables)
    if form.target != "loss" or not {"params", "tokens"} <= set(table):
        return alarms
    modelled = {"repeated_data"} if "unique_tokens" in form.variables else set()
    alarms += [a for a in of_table.table_alarms(table, inputs) if a.code not in modelled]
    if log_residuals is not None:
        alarms += of_table.residual_alarms(table, log_residuals)
    return alarms


def _minimum_alarms(form: Form, solution: Solution, estimate: Estimate) -> list[Alarm | None]:
    """Look at a second minimum and at parameters that ended at a bound."""
    alarms: list[Alarm | None] = []
    at = [form.parameters.index(name) for name in form.exponents]
    if at:
        alarms.append(of_fit.two_basins(solution.value, solution.theta[:, at], solution.converged))
    at_bound = [p for p, b in zip(form.parameters, solution.at_bound[0], strict=True) if b]
    at_bound = [p for p in at_bound if p != form.offset]
    values = [estimate.parameters[p] for p in at_bound]
    return [*alarms, of_fit.bound_alarm(at_bound, values, form.name)]


def _offset_alarm(
    form: Form, estimate: Estimate, table: pd.DataFrame, *, in_logs: bool
) -> Alarm | None:
    if not form.offset or form.target != "loss":
        return None
    smallest = float(column(table, "loss").min())
    deviation = MAD * float(np.median(np.abs(estimate.residuals)))
    deviation /= 1.0 if in_logs else smallest
    ends = (estimate.intervals or {}).get("parameters", {}).get(form.offset)
    return of_fit.offset_alarm(estimate.parameters[form.offset], ends, smallest, deviation)


def _optimum_alarms(
    form: Form, boot: Bootstrap | None, estimate: Estimate, table: pd.DataFrame
) -> list[Alarm | None]:
    """Look at the exponent a of a surface, or at the peak of a reward."""
    alarms: list[Alarm | None] = []
    if "a" in estimate.allocation:
        a, interval = estimate.allocation["a"], estimate.allocation["a_interval"]
        alarms.append(of_fit.unusual_a(a))
        alarms.append(of_fit.ratio_alarm(estimate.allocation["tokens_per_param"]))
        if interval is not None:
            alarms.append(of_fit.inseparable_alarm(a, interval, WIDEST_A))
        elif boot is not None and boot.lost > boot.resamples / 2:
            alarms.append(of_fit.narrow_alarm(table))
    if form.peak:
        peak = estimate.allocation["peak"]
        values = column(table, peak["variable"])
        alarms.append(of_fit.peak_alarm(peak, float(values.min()), float(values.max())))
    return alarms


def _jackknife_alarm(boot: Bootstrap | None, estimate: Estimate) -> Alarm | None:
    """Say that the bias-corrected intervals are missing where other intervals are there."""
    blocks = estimate.intervals
    if boot is None or blocks is None or "profile" not in blocks or "bias_corrected" in blocks:
        return None
    return of_fit.jackknife_alarm(boot.units.count, boot.units.name)


def _resampling_alarms(boot: Bootstrap | None, inputs: Mapping[str, Any]) -> list[Alarm]:
    if boot is None:
        return []
    alarms = []
    if boot.units.count < FEWEST_UNITS:
        alarms.append(of_fit.few_units_alarm(boot.units.name, boot.units.count))
    if "bodies" in inputs:
        alarms.append(of_fit.few_bodies_alarm(inputs["bodies"]))
    if boot.lost > LOST_SHARE * boot.resamples:
        alarms.append(of_fit.lost_alarm(boot.lost, boot.resamples))
    return alarms
