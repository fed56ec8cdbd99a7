"""One form fitted to a table: the problem, its solution and resamples, and what they say."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from analysis.alarms.alarm import Alarm
from analysis.estimation.checks import check_table, prepare_rows, restrict_to_frontier
from analysis.estimation.fit_alarms import alarms_of_fit, status_of
from analysis.estimation.fit_blocks import Estimate, estimate_of
from analysis.estimation.prior_fit import OBJECTIVE, PriorFit, chosen_families, fit_with_prior
from analysis.forms import Form
from analysis.laws.law_file import LawStatus
from analysis.runs.annealed import law_errors
from analysis.runs.table import Runs
from analysis.solve.objective import Objective, Problem, problem_of
from analysis.solve.progress import OnProgress
from analysis.solve.solver import Solution, minimise
from analysis.uncertainty.bootstrap import Bootstrap, bootstrap, units_of


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The options of `analysis.estimation.fit.fit` that do not say what is fitted."""

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


@dataclass(frozen=True, kw_only=True)
class FittedForm:
    """A form fitted to its rows: the problem, its solution and resamples, and what they say.

    `everything` are the rows before `within`, `table` the rows that are fitted, `informed` what a
    prior over published laws gave.
    """

    form: Form
    everything: pd.DataFrame
    table: pd.DataFrame
    problem: Problem
    solution: Solution
    boot: Bootstrap | None
    informed: PriorFit | None
    estimate: Estimate
    alarms: list[Alarm]
    status: LawStatus


def estimate_form(
    runs: Runs, form: Form, objective: Objective | None, settings: Settings
) -> FittedForm:
    """Fit one form with its resamples; ValueError where the rows cannot carry it."""
    near = restrict_to_frontier(runs.table, form, settings.within)
    families = chosen_families(settings.prior, form.name, objective, settings.fixed, near)
    objective = objective or Objective(name=OBJECTIVE if families else form.objective)
    everything = prepare_rows(runs.table, form, objective, settings.weighting)
    table = restrict_to_frontier(everything, form, settings.within)
    check_table(table, form, with_prior=families is not None)
    problem = problem_of(table, form, objective, fixed=settings.fixed)
    informed, boot = None, None
    if families:
        informed = fit_with_prior(
            problem, table, families, token_flops=runs.token_flops, **settings.drawing
        )
        solution, estimate = informed.solution, informed.estimate
    else:
        solution = minimise(problem)
        boot = _resample(problem, solution, table, settings)
        estimate = estimate_of(
            problem, solution, boot, table, settings.level, token_flops=runs.token_flops
        )
    alarms = alarms_of_fit(problem, solution, boot, estimate, table, runs.inputs)
    return FittedForm(
        form=form,
        everything=everything,
        table=table,
        problem=problem,
        solution=solution,
        boot=boot,
        informed=informed,
        estimate=estimate,
        alarms=[informed.alarm, *alarms] if informed else alarms,
        status=informed.status if informed else status_of(form, solution, alarms, boot),
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
        target_errors=partial(law_errors, table),
        on_progress=settings.on_progress,
    )
