"""form=schedule: the law of a loss curve under a schedule of the learning rate (LAWS 4.8, 15.6).

Curves of one model size are fitted together by the multi-power law (Luo et al. 2025, 2503.12811)
and the annealing law (Tissue et al. 2024, 2408.11029), which are averaged by their errors on curves
that are withheld in turn (`scaling.curves`). A study has one law a size.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.alarms.alarm import Alarm
from analysis.alarms.loss_units import loss_unit_alarm, unit_of_law
from analysis.laws.law import Law
from analysis.laws.law_file import LawStatus
from analysis.runs.columns import Columns
from analysis.runs.curves import CurveOptions, CurveRuns, table_curves
from analysis.runs.importers.options import LogsConfig
from analysis.runs.importers.sources import is_study
from analysis.runs.study_curves import study_curves
from analysis.solve.progress import OnProgress, no_progress
from scaling.curves import CurveFit, as_block, best_decay, fit_curves

FORM = "schedule"
SHAPES = ("linear", "sqrt")  # of the decay that is proposed
LARGE_ERROR = 0.03  # of the loss; published curves of one model have .2 %, own studies 1 %
STATUS: dict[str, LawStatus] = {
    "converged": "converged",
    "offset_not_identified": "offset_not_identified",
    "drop_not_identified": "not_identified",
    "not_identified": "not_identified",
}


def fit_schedule(
    source: str | Path | pd.DataFrame,
    *,
    count: str = "total",
    where: str | None = None,
    columns: Columns | None = None,
    options: CurveOptions | None = None,
    logs: LogsConfig | None = None,
    law: str = "auto",
    level: float = 0.9,
    on_progress: OnProgress = no_progress,
) -> Law:
    """Fit the schedule laws to the curves of a table or a study.

    source: a study's folder, a table's path, logs of another tool, or a data frame with schedule,
        step, lr, loss
    count: how N is counted in a study
    where: condition that chooses the schedules of a table
    columns: the table's names of our columns
    options: the warm-up that the table leaves out
    logs: what the logs of another tool do not say
    law: auto, multi_power or annealing
    level: of the intervals
    on_progress: takes (stage, done, total)

    Returns a law whose `predict_curve` and `best_decay` answer. Raises ValueError for a source that
    holds no curves.
    """
    if not isinstance(source, pd.DataFrame) and is_study(source):
        if where:
            raise ValueError("form=schedule fits all curves of a study; leave where= out")
        runs = study_curves(source, count=count)
    else:
        runs = table_curves(source, where=where, columns=columns, options=options, logs=logs)
    fits = []
    for done, size in enumerate(runs.sizes):
        on_progress("curves", done, len(runs.sizes))
        fits.append(fit_curves(list(size.curves), law=law))
    on_progress("curves", len(fits), len(fits))
    return _law(runs, fits, count=count, level=level, of_table=runs.sizes[0].params is None)


def _law(runs: CurveRuns, fits: list[CurveFit], *, count: str, level: float, of_table: bool) -> Law:
    """Return the law of all sizes; its parameters are those of the leading law at the largest."""
    largest = fits[-1]
    leading = max(zip(largest.weights, largest.laws, strict=True), key=lambda pair: pair[0])[1]
    steps = [c.step for size in runs.sizes for c in size.curves]
    losses = [c.loss[c.measured] for size in runs.sizes for c in size.curves]
    decays = [
        decay
        for size, fit in zip(runs.sizes, fits, strict=True)
        for decay in _decays(size.params, fit, level, last=max(c.step[-1] for c in size.curves))
    ]
    curves: dict[str, Any] = {
        "level": level,
        "sizes": [
            {"params": size.params, "fit": as_block(fit)}
            for size, fit in zip(runs.sizes, fits, strict=True)
        ],
        "best_decay": decays if of_table else decays[-len(SHAPES) :],
    }
    return Law(
        form=FORM,
        count=count,
        parameters=leading.parameters(),
        objective={"name": f"huber_log of {leading.law.name}", "delta": None, "value": None},
        status=STATUS[largest.status],
        alarms=tuple(_alarms(runs, fits)),
        n_runs=sum(len(size.curves) for size in runs.sizes),
        dropped=runs.dropped,
        ranges={
            "step": [float(min(s[0] for s in steps)), float(max(s[-1] for s in steps))],
            "loss": [
                float(min(v.min() for v in losses if len(v))),
                float(max(v.max() for v in losses if len(v))),
            ],
        },
        noise={"sd_log": largest.noise},
        curves=curves,
        inputs=runs.inputs,
        unit=unit_of_law(runs.inputs),
    )


def _decays(
    params: float | None, fit: CurveFit, level: float, *, last: float
) -> list[dict[str, Any]]:
    """Return the best decay of a run as long as the longest curve, for both shapes."""
    if fit.status not in ("converged", "offset_not_identified"):
        return []
    rows = []
    for shape in SHAPES:
        try:
            best = best_decay(fit, int(last), shape=shape, level=level)
        except ValueError:  # too few steps for a decay: nothing is proposed
            continue
        values = asdict(best)
        values |= {"fractions": best.fractions.tolist(), "losses": best.losses.tolist()}
        values |= {"interval": list(best.interval), "flat": list(best.flat)}
        values["fraction_interval"] = list(best.fraction_interval)
        rows.append({"params": params, "shape": shape, **values})
    return rows


def _alarms(runs: CurveRuns, fits: list[CurveFit]) -> list[Alarm]:
    """Return an alarm for each size whose curves leave something open."""
    alarms = [alarm for alarm in [loss_unit_alarm(runs.inputs)] if alarm]
    for size, fit in zip(runs.sizes, fits, strict=True):
        of = "" if size.params is None else f"at N = {size.params:.4g}, "
        if fit.status != "converged":
            alarms.append(Alarm(code=fit.status, sentence=f"{of}{fit.why}"))
        elif fit.error > LARGE_ERROR:
            worst = max(fit.withheld_errors, key=fit.withheld_errors.__getitem__, default="")
            sentence = (
                f"{of}curves that were withheld in turn are missed by {fit.error:.1%}"
                + (f", {worst} most" if worst else "")
                + "; look for a loss that jumps, and for curves of several models, of which one is"
                " chosen with where="
            )
            alarms.append(Alarm(code="curve_error", sentence=sentence))
    return alarms
