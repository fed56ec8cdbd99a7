"""The figures of a folder's backtest: error and coverage by method and distance."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from analysis.backtesting.splits import by_distance, rms
from analysis.forms import column

BINOMIAL_LEVEL = 0.9  # of the intervals of a coverage
ALL_RUNS, FRONTIER = "all withheld runs", "best run at each compute"


def summary(rows: pd.DataFrame, methods: Sequence[str]) -> list[dict[str, Any]]:
    """Return a row for each set of runs, distance and method.

    rows: of `analysis.backtesting.scores.rows_of`
    methods: in the order that they are shown in

    `runs` is ALL_RUNS or FRONTIER. `rms` and `median` are of the relative error over all runs,
    `median_rms` the median over experiments of the rms of each; `coverage` is the share inside the
    intervals, with the Wilson interval `coverage_interval` at BINOMIAL_LEVEL, which takes runs as
    independent: those of one table and cutoff err together, so that the truth is wider.
    """
    lines = []
    for runs, chosen in ((ALL_RUNS, rows), (FRONTIER, rows.loc[rows["frontier"]])):
        for distance, near in by_distance(chosen).items():
            parts = ((m, near.loc[near["method"] == m]) for m in methods)
            lines += [
                {"runs": runs, "distance": distance, "method": m, **errors_of(part)}
                for m, part in parts
                if len(part) and not (runs == ALL_RUNS and _is_partial(part, near))
            ]
    return lines


def errors_of(rows: pd.DataFrame) -> dict[str, Any]:
    """Return the error and coverage of one method's rows."""
    error = np.expm1(column(rows, "error"))
    each = [rms(part) for _, part in pd.Series(error).groupby(rows["experiment"].to_numpy())]
    return {
        "n_runs": len(rows),
        "n_experiments": len(each),
        "rms": rms(error),
        "median": float(np.median(np.abs(error))),
        "median_rms": float(np.median(each)),
        **coverage_of(column(rows, "covered")),
    }


def coverage_of(covered: Any) -> dict[str, Any]:
    """Return the share of runs inside their intervals and its interval; None without any."""
    values = np.asarray(covered, dtype=float)
    values = values[np.isfinite(values)]
    if not len(values):
        return {"coverage": None, "coverage_interval": None}
    inside = round(float(values.sum()))
    ends = binomtest(inside, len(values)).proportion_ci(BINOMIAL_LEVEL, method="wilson")
    return {
        "coverage": inside / len(values),
        "coverage_interval": [float(ends.low), float(ends.high)],
    }


def by_experiment(rows: pd.DataFrame, methods: Sequence[str]) -> list[dict[str, Any]]:
    """Return the error of each method on each experiment's frontier, over all its distances."""
    lines = []
    for name in dict.fromkeys(rows["experiment"]):
        part = rows.loc[rows["experiment"] == name]
        best = part.loc[part["frontier"]]
        errors = {m: column(best.loc[best["method"] == m], "error") for m in methods}
        lines.append(
            {
                "experiment": str(name),
                "reach": float(column(part, "distance").max()),
                "n_frontier": max(map(len, errors.values())),
                "rms": {m: rms(np.expm1(e)) if len(e) else None for m, e in errors.items()},
            }
        )
    return lines


def _is_partial(part: pd.DataFrame, everything: pd.DataFrame) -> bool:
    """Say whether a method answers for the frontier alone, as its line does."""
    return bool(part["frontier"].all()) and not bool(everything["frontier"].all())
