"""What `fit` refuses, and which columns and rows of a table a form is fitted to."""

import numpy as np
import pandas as pd

from analysis.estimation.allocation_laws import METHODS, NEEDED_BY
from analysis.estimation.power_laws import frontier_runs
from analysis.estimation.prior_fit import FEWEST_ROWS
from analysis.forms import Form, column, form_named
from analysis.forms.accuracy import LOSS_OF
from analysis.runs.columns import NEEDED
from analysis.runs.curves import NEEDED as CURVES_NEED
from analysis.solve.objective import Objective
from analysis.solve.seed_noise import weight_by_seed_noise
from analysis.validate.near_frontier import near_frontier
from scaling.schema import MOST_RESAMPLES

SCHEDULE = "schedule"  # the form of loss curves, which has a reader of its own
SPARE_ROWS = 2  # rows beyond the parameters that a fit needs at least
COMPARED: dict[str, tuple[str, ...]] = {  # what a comparison of forms needs; all takes any target
    "all": (),
    "repetition": (*NEEDED, "unique_tokens"),
    "downstream": (*NEEDED, "error"),
}
WEIGHTINGS = ("column", "seed_noise", "none")


def check_options(
    resamples: int, level: float, weighting: str = "column", *, seed: int = 0
) -> None:
    """Refuse options of `fit` that no table could make right.

    resamples: 0 to `MOST_RESAMPLES`
    level: of intervals, between 0 and 1
    weighting: one of `WEIGHTINGS`
    seed: of the resamples, 0 or more
    """
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


def needed_columns(form: str) -> tuple[str, ...]:
    """Return the columns that a table must have for a form, a method, or a comparison of forms."""
    if form in METHODS:
        return NEEDED_BY[form]
    if form == SCHEDULE:
        return CURVES_NEED
    if form in COMPARED:
        return COMPARED[form]
    if form in LOSS_OF:
        return (*LOSS_OF[form].variables, "loss", "error")
    law = form_named(form)
    optional = () if law.terms else law.optional  # a term needs all of its variables to be fitted
    return (*(v for v in law.variables if v not in optional), law.target)


def stage_of(form: str) -> str:
    """Return the stage whose cells a form, a method, or `all` is fitted to."""
    others = (*METHODS, *COMPARED, SCHEDULE)
    return "pretrain" if form in others else form_named(form).stage


def check_columns(table: pd.DataFrame, needed: tuple[str, ...], form: str) -> None:
    """Refuse a table that lacks a column, as one that was read for another form may."""
    missing = [name for name in needed if name not in table]
    if missing:
        raise ValueError(
            f"form={form} needs a column {missing[0]!r}; the table has "
            f"{', '.join(map(str, table.columns))}: set columns.{missing[0]}=NAME"
        )


def check_table(table: pd.DataFrame, form: Form, *, with_prior: bool = False) -> None:
    """Refuse a table with too few rows, or with one value of a variable of the form.

    table: the runs
    form: the form
    with_prior: whether a prior fills in what few runs leave open
    """
    needed = len(form.parameters) + SPARE_ROWS
    if with_prior and len(table) < FEWEST_ROWS:
        raise ValueError(
            f"{len(table)} rows are too few for form={form.name} even with prior=published, which "
            f"needs at least {FEWEST_ROWS}: add runs"
        )
    if not with_prior and len(table) < needed:
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


def prepare_rows(
    table: pd.DataFrame, form: Form, objective: Objective, weighting: str
) -> pd.DataFrame:
    """Return the rows that a form is fitted to, with their `weight`.

    table: the runs
    form: the form; a law of the loss in one variable is fitted to the frontier of the table where
        N or D varies beside that variable
    objective: says whether weights are of squares or of absolute values
    weighting: one of `WEIGHTINGS`
    """
    one_variable = form.target == "loss" and len(form.variables) == 1
    others = [v for v in ("params", "tokens") if v in table and v not in form.variables]
    if one_variable and any(np.ptp(column(table, v)) > 0 for v in others):
        table = frontier_runs(table, form.variables[0]).reset_index(drop=True)
    if weighting == "none":
        return table.drop(columns="weight", errors="ignore")
    if weighting == "seed_noise":
        return weight_by_seed_noise(table, squared=objective.name in ("ls_log", "ls"))
    return table


def restrict_to_frontier(table: pd.DataFrame, form: Form, within: float | None) -> pd.DataFrame:
    """Return the rows within a share of the best loss at their C; all rows for None.

    Raises ValueError for a form that is no law of the loss in N and D.
    """
    if within is None:
        return table
    if not form.is_surface or form.target != "loss":
        raise ValueError(
            f"within={within} keeps runs near the frontier of the loss; form={form.name} is no "
            "law of the loss in N and D: leave within out"
        )
    return near_frontier(table, within)
