"""Score every method on the runs that one cutoff withholds."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.backtesting import baselines
from analysis.backtesting.chinchilla_package import fitted_by_package, is_installed
from analysis.backtesting.experiments import Experiment
from analysis.estimation.fit import fit
from analysis.forms import Array, column

LBFGS, PACKAGE, LINE = "L-BFGS, published grid", "package chinchilla", "log-linear frontier"
RESAMPLES = 100  # of each fit's bootstrap, as in a hindcast


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is compared.

    forms: forms of ours, by their names in `analysis.fit`
    starts: points of the published grid that L-BFGS descends from
    level: of the intervals whose coverage is counted
    seed: of the resamples
    """

    forms: tuple[str, ...]
    starts: int
    level: float
    seed: int

    @property
    def methods(self) -> tuple[str, ...]:
        """Name the methods in the order of tables and figures; the package where it is there."""
        ours = tuple(map(our_name, self.forms))
        return (*ours, LBFGS, *((PACKAGE,) if is_installed() else ()), LINE)


def our_name(form: str) -> str:
    """Return the name of our law of a form."""
    return f"ours, form={form}"


def score(experiment: Experiment, cutoff: float, settings: Settings) -> dict[str, Any]:
    """Fit every method to the runs up to a cutoff, and return what it says of the others.

    experiment: the runs
    cutoff: in C
    settings: the methods

    The result is one element of `splits` in backtest.json: `distance` (C over the largest C that is
    fitted), `measured` (loss), `frontier` (whether no run of as much or less compute is better),
    and for each method `predicted`, `low`, `high` (lists over the withheld runs, null without),
    `note` and `seconds`. A method without an answer has null and says why in its note. The line of
    the frontier answers for the frontier's runs alone.
    """
    table, flops = experiment.table, column(experiment.table, "flops")
    below, above = table.loc[flops <= cutoff], table.loc[flops > cutoff]
    on_frontier = baselines.is_frontier(table)[flops > cutoff]
    answers: dict[str, Callable[[], dict[str, Any]]] = {
        our_name(form): lambda form=form: _ours(below, above, form, settings)
        for form in settings.forms
    }
    answers[LBFGS] = lambda: _surface(baselines.multi_start(below, settings.starts), above)
    if PACKAGE in settings.methods:
        answers[PACKAGE] = lambda: _surface(fitted_by_package(below), above)
    answers[LINE] = lambda: _line(below, above, on_frontier)
    reach = float(flops[flops <= cutoff].max())
    return {
        "file": experiment.file,
        "experiment": experiment.name,
        "cutoff_flops": float(cutoff),
        "n_train": len(below),
        "n_test": len(above),
        "distance": (column(above, "flops") / reach).tolist(),
        "measured": column(above, "loss").tolist(),
        "frontier": on_frontier.tolist(),
        "methods": {name: _timed(answer) for name, answer in answers.items()},
    }


def rows_of(splits: list[dict[str, Any]]) -> pd.DataFrame:
    """Return a row for each withheld run, cutoff and method that answers.

    The columns are experiment, method, distance, frontier, error (log of predicted over measured
    loss) and covered (1 inside the interval, 0 outside, NaN without one).
    """
    parts = [
        _rows(split, name, answer) for split in splits for name, answer in split["methods"].items()
    ]
    rows = pd.concat(parts, ignore_index=True)
    return rows.loc[np.isfinite(column(rows, "error"))].reset_index(drop=True)


def _rows(split: Mapping[str, Any], name: str, answer: Mapping[str, Any]) -> pd.DataFrame:
    measured = np.asarray(split["measured"], dtype=float)
    missing = np.full(len(measured), np.nan)
    predicted, low, high = (
        missing if answer[k] is None else np.array(answer[k], dtype=float)
        for k in ("predicted", "low", "high")
    )
    inside = (low <= measured) & (measured <= high)
    return pd.DataFrame(
        {
            "experiment": split["experiment"],
            "method": name,
            "distance": split["distance"],
            "frontier": split["frontier"],
            "error": np.log(predicted / measured),
            "covered": np.where(np.isfinite(low) & np.isfinite(high), inside, np.nan),
        }
    )


def _timed(answer: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    began = time.monotonic()
    try:
        outcome = answer()
    except ValueError as error:  # a table that this method cannot be fitted to
        outcome = {"predicted": None, "note": " ".join(str(error).split())}
    return {"low": None, "high": None, **outcome, "seconds": round(time.monotonic() - began, 3)}


def _ours(
    below: pd.DataFrame, above: pd.DataFrame, form: str, settings: Settings
) -> dict[str, Any]:
    law = fit(
        below,
        form,
        resamples=RESAMPLES,
        level=settings.level,
        seed=settings.seed,
        sensitivity=False,
    )
    shown = law.predict_table(above, settings.level, force=True)
    ends = {end: _finite(column(shown, end)) for end in ("low", "high") if end in shown}
    note = f"{law.status}, form {law.form}"
    return {"predicted": _finite(column(shown, "loss")), **ends, "note": note, "usable": law.usable}


def _surface(theta: Array, above: pd.DataFrame) -> dict[str, Any]:
    return {"predicted": _finite(baselines.surface_of(theta, above)), "note": "no intervals"}


def _line(below: pd.DataFrame, above: pd.DataFrame, on_frontier: Array) -> dict[str, Any]:
    predicted = baselines.frontier_line(below, column(above, "flops"))
    return {
        "predicted": _finite(np.where(on_frontier, predicted, np.nan)),
        "note": "of the best loss at each C; no intervals",
    }


def _finite(values: Array) -> list[float | None]:
    """Return values as JSON can hold them: null for what is no number."""
    return [float(v) if np.isfinite(v) and v > 0 else None for v in values]
