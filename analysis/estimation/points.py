"""The rows that a form of the loss is fitted to: of points with several settings, the best ones."""

from dataclasses import replace

import numpy as np
import pandas as pd

from analysis.estimation.allocation_laws import CRITICAL_BATCH, METHODS
from analysis.forms import COMPARISONS, column, form_named
from analysis.laws.law import Law
from analysis.runs.replicates import best_rows
from analysis.runs.table import Runs

OF_SETTINGS = (
    "lr",
    "batch",
    "weight_decay",
)  # columns of a form or method that is a law of settings itself


def best_of_points(runs: Runs, form: str) -> Runs:
    """Return runs of which each point has its best setting alone (`analysis.runs.replicates`).

    runs: the runs; those that were reduced before are returned as they are
    form: a form, a method, or `all`; a law of settings, a law in one variable (which is fitted to
        the frontier) and a law of a later stage take all rows, and so does a comparison of forms
        one of which is a law of a weight decay that varies
    """
    if runs.replicates is not None or not _has_points(form):
        return runs
    if form == "repetition" and varies(runs.table, "weight_decay"):
        return runs
    if not {"params", "tokens", "loss"} <= set(runs.table):
        return runs
    table, replicates = best_rows(runs.table, runs.inputs)
    return replace(runs, table=table, replicates=replicates)


def with_replicates(law: Law, runs: Runs) -> Law:
    """Return the law with what its runs were reduced from, and the alarm of it first."""
    if runs.replicates is None:
        return law
    alarms = (runs.replicates.alarm, *law.alarms)
    return replace(law, alarms=alarms, replicates=runs.replicates.as_json())


def varies(table: pd.DataFrame, name: str) -> bool:
    """Return whether a table has a column of numbers that are not all the same."""
    return name in table and bool(np.ptp(column(table, name)) > 0)


def _has_points(form: str) -> bool:
    if form in COMPARISONS:
        return form != "downstream"
    if form in METHODS:
        return form not in ("lr_batch", "surface", CRITICAL_BATCH)
    law = form_named(form)
    of_size_and_data = {"params", "tokens"} <= set(law.variables)
    of_settings = set(OF_SETTINGS) & set(law.variables)
    return law.target == "loss" and law.stage == "pretrain" and of_size_and_data and not of_settings
