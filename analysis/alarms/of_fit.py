"""Alarms about a fitted law: its status, parameters, and how it compares with the runs."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.alarms.alarm import SHOWN_ROWS, Alarm, named_rows
from analysis.alarms.of_table import NARROW_SPREAD
from analysis.forms import EXPONENT_BOUNDS, Array, column
from analysis.solve.residual_spread import FAR_MADS, far_rows

BASIN_VALUE = 0.01  # a second minimum competes up to this relative excess of the objective
BASIN_EXPONENT = 0.05  # and is another one from this relative difference of the exponents on
USUAL_A = (0.35, 0.65)  # exponents a of N* = k C^a that well-tuned ladders give
FAR_GAIN = 0.6  # the alarm: runs near the frontier alone leave at most this share of the error
LEAST_FAR_ERROR = 0.005  # relative error of the loss below which no remedy is needed
LEAST_COVERAGE = 0.7  # share of hindcast runs inside their intervals below which an alarm is raised
FEWEST_TESTED = 5  # runs of all hindcasts that such a share needs
NO_GAIN = 0.005  # relative distance of E from the smallest loss below which no gain is left


def status_alarm(status: str, form: str) -> Alarm | None:
    """Say that an answer is no law, for the statuses (`LawStatus`) that no plan should rest on."""
    what = {
        "not_identified": f"These runs do not determine form={form}",
        "bound_hit": f"A parameter of form={form} stopped at the edge of its legal range: the runs "
        "pull it further, so the numbers are those of the edge and no law of the runs",
        "max_iter": f"No minimum of form={form} was found",
    }
    if status not in what:
        return None
    return Alarm(
        code=status,
        sentence=f"{what[status]}: do not extrapolate; act on the alarms that follow, or choose a "
        "form with fewer parameters.",
    )


def two_basins(values: Array, exponents: Array, converged: Array) -> Alarm | None:
    """Say that a second minimum is nearly as good as the best one.

    values: the objective at each end point (S,), best first
    exponents: the exponents there (S, k)
    converged: whether the end point is a minimum (S,)
    """
    close = converged & (values <= values[0] * (1 + BASIN_VALUE))
    apart = np.abs(exponents / exponents[0] - 1).max(axis=1) > BASIN_EXPONENT
    others = np.flatnonzero(close & apart)
    if not len(others):
        return None
    other = exponents[others[0]]
    texts = [", ".join(f"{e:.3f}" for e in row) for row in (exponents[0], other)]
    excess = values[others[0]] / values[0] - 1
    return Alarm(
        code="two_basins",
        sentence=f"A second minimum with exponents {texts[1]} (best: {texts[0]}) is only "
        f"{excess:.2%} worse: add runs where the two differ, and do not extrapolate far.",
    )


def bound_alarm(names: Sequence[str], values: Sequence[float], form: str) -> Alarm | None:
    """Name the parameters that ended at a bound."""
    if not names:
        return None
    text = ", ".join(f"{name} = {value:.4g}" for name, value in zip(names, values, strict=True))
    least, most = EXPONENT_BOUNDS
    meaning = "its term is a constant or a step in these runs"
    if len(values) == 1 and np.isclose(values[0], most):
        meaning = "its term is a step, large at the smallest runs and nothing beyond them"
    if len(values) == 1 and np.isclose(values[0], least):
        meaning = "its term hardly changes over these runs, like a constant"
    return Alarm(
        code="parameter_at_bound",
        sentence=f"{text} is at its bound, where {meaning}: leave out runs far worse than the "
        f"others with where=, widen the range of its variable, or use another form than {form}.",
    )


def offset_alarm(
    offset: float, interval: Sequence[float] | None, smallest: float, scatter: float = 0.0
) -> Alarm | None:
    """Say that E is at 0, that its interval reaches 0, or that no gain is left above it.

    offset: E
    interval: its interval, None without
    smallest: the smallest loss of the runs
    scatter: relative deviation of runs about the law; E within two of it is not below the smallest
        loss
    """
    if offset <= 1e-9 * smallest:
        return Alarm(
            code="offset_at_bound",
            sentence="E is at its bound 0: the runs do not show where the loss levels off, so use "
            "the law near its data only, or add larger runs.",
        )
    if interval is not None and interval[0] <= 1e-3 * smallest:
        return Alarm(
            code="offset_not_identified",
            sentence=f"The interval of E reaches {interval[0]:.3g}: the runs do not show where the "
            "loss levels off, so trust the wider intervals of far forecasts, or add larger runs.",
        )
    if offset >= smallest * (1 - max(NO_GAIN, 2 * scatter)):
        return Alarm(
            code="offset_at_smallest_loss",
            sentence=f"E = {offset:.4g} is not below the smallest loss {smallest:.4g} by two "
            "deviations, so the largest runs show no further gain: check them for repeated data or "
            "another test set.",
        )
    return None


def no_offset_alarm(without: float) -> Alarm:
    """Say that forms without an E forecast nearly as well; `without` is their weight."""
    return Alarm(
        code="offset_not_identified",
        sentence=f"Forms without an irreducible loss E have a weight of {without:.0%} in the "
        "forecast: the runs do not show where the loss levels off, so E may be as low as 0; add "
        "larger runs before E is quoted.",
    )


def inseparable_alarm(a: float, interval: Sequence[float], widest: float) -> Alarm | None:
    """Say that the interval of a = beta / (alpha + beta) is too wide to choose N by."""
    if interval[1] - interval[0] <= widest:
        return None
    return Alarm(
        code="exponents_inseparable",
        sentence=f"a = {a:.3f} has the interval [{interval[0]:.3f}, {interval[1]:.3f}]: the runs "
        "do not separate the terms in N and D; vary tokens per parameter more at each budget.",
    )


def narrow_alarm(table: pd.DataFrame) -> Alarm | None:
    """Say that tokens per parameter hardly vary, as a reason why most resamples had no minimum."""
    ratio = np.log(column(table, "tokens") / column(table, "params"))
    if ratio.std() > NARROW_SPREAD:
        return None
    return Alarm(
        code="exponents_inseparable",
        sentence="Most resamples have no minimum, and tokens per parameter vary only by a factor "
        f"of {np.exp(2 * ratio.std()):.2g} about their middle: the runs do not separate the terms "
        "in N and D; vary tokens per parameter more at each budget.",
    )


def unusual_a(a: float) -> Alarm | None:
    """Say that a lies outside what well-tuned ladders give."""
    if USUAL_A[0] <= a <= USUAL_A[1]:
        return None
    return Alarm(
        code="unusual_exponent",
        sentence=f"a = {a:.3f} is outside {USUAL_A[0]}-{USUAL_A[1]}: check that learning rate, "
        "batch and warm-up were tuned at every size and that N and C count the same parameters.",
    )


def ratio_alarm(optima: Sequence[Mapping[str, Any]]) -> Alarm | None:
    """Say at which stated budgets the optimum stands at an edge of the search.

    optima: rows of `tokens_per_param` in law.json's `optimum`, each with `flops` and `edge`
    """
    at = [o for o in optima if o.get("edge")]
    if not at:
        return None
    budgets = ", ".join(f"{o['flops']:.3g}" for o in at)
    edge, ratio = at[0]["edge"], at[0]["tokens_per_param"]
    return Alarm(
        code="ratio_bound",
        sentence=f"The optimum at C = {budgets} stands at the {edge} edge of the search, {ratio:g} "
        "tokens per parameter: the law gives no optimum there; act on the other alarms and refit, "
        "name a form (form=), or fix one of the two in the plan (overtraining=, params=, tokens=).",
    )


def edge_alarm(edges: Sequence[float], n_budgets: int) -> Alarm | None:
    """Say which IsoFLOP budgets have their minimum at the edge of their sizes."""
    if not edges:
        return None
    text = ", ".join(f"{c:.2e}" for c in edges[:4]) + (", .." if len(edges) > 4 else "")
    return Alarm(
        code="edge_minimum",
        sentence=f"{len(edges)} of {n_budgets} budgets (C = {text}) have no minimum inside their "
        "sizes and were left out of the parabolas: widen the sizes at those budgets.",
    )


def far_runs_alarm(compared: Mapping[str, float] | None, n_runs: int) -> Alarm | None:
    """Say that runs far from the frontier spoil the law (analysis.validate.near_frontier)."""
    if compared is None or compared["all"] < LEAST_FAR_ERROR:
        return None
    if compared["near"] > FAR_GAIN * compared["all"]:
        return None
    return Alarm(
        code="far_runs",
        sentence=f"Runs far from the frontier spoil the law: that of the {compared['n_near']} of "
        f"{n_runs} runs within 10 % of it predicts withheld runs near it with an error of "
        f"{compared['near']:.1%} instead of {compared['all']:.1%}; fit with within=0.1, or with"
        " form=all, which chooses the rows itself.",
    )


def frontier_rows_alarm(
    region: Mapping[str, Any], errors: Mapping[str, float], n_far: int, n_rows: int
) -> Alarm:
    """Say that form=all left out the rows far from the frontier, and for which shapes it holds.

    region: the `region` block of law.json
    errors: of withheld runs near the frontier, by laws of `all` rows and of those `near` it
    n_far: rows that were left out
    n_rows: all rows
    """
    larger, smaller = np.exp(region["high"]), np.exp(-region["low"])
    return Alarm(
        code="frontier_rows",
        sentence=f"{n_far} of {n_rows} rows are more than {region['within']:.0%} above the"
        f" frontier's loss and are badly fitted: the law is fitted on the rest, which predicts"
        f" withheld runs near the frontier with an error of {errors['near']:.1%} instead of"
        f" {errors['all']:.1%}; predictions for shapes away from the frontier (N above"
        f" x{larger:.2g} or below 1/{smaller:.2g} of the best size of its C) are rough, with wider"
        " intervals.",
    )


def with_far_rows(
    alarms: Sequence[Alarm], table: pd.DataFrame, residuals: Array, n_parameters: int
) -> list[Alarm]:
    """Return the alarms with the rows that are left out of a law's scatter, in `outlier_rows`.

    alarms: those of the law
    table: the rows
    residuals: log Lhat - log L of the rows (n,)
    n_parameters: number of fitted parameters
    """
    far = np.flatnonzero(far_rows(residuals, n_parameters))
    if not len(far):
        return list(alarms)
    far = far[np.argsort(-np.abs(residuals[far]))]
    shown = ", ".join(f"{-residuals[i]:+.1%}" for i in far[:SHOWN_ROWS])
    sentence = (
        f"{len(far)} of {len(table)} rows are left out of the law's scatter, since their losses lie"
        f" more than {FAR_MADS:g} robust deviations off the law ({named_rows(table, far)}, counted"
        f" from 1: {shown}{', ..' if len(far) > SHOWN_ROWS else ''}): check them."
    )
    outliers = [a for a in alarms if a.code == "outlier_rows"]
    if not outliers:
        return [*alarms, Alarm(code="outlier_rows", sentence=sentence)]
    joined = Alarm(code="outlier_rows", sentence=f"{outliers[0].sentence} {sentence}")
    return [joined if a is outliers[0] else a for a in alarms]


def coverage_alarm(
    backtest: Mapping[str, Any] | None, form: str, within: float | None
) -> Alarm | None:
    """Say that the law's own hindcasts lie outside their intervals too often.

    backtest: the hindcasts, None without
    form: its name, `all` for the average, whose fit has chosen the rows itself
    within: share of the frontier's loss within which rows were kept, None for all rows
    """
    rows = [r for r in (backtest or {}).get("rows", []) if r["converged"]]
    tested = sum(r["n_test"] for r in rows)
    if backtest is None or tested < FEWEST_TESTED:
        return None
    share = sum(r["coverage"] * r["n_test"] for r in rows) / tested
    if share >= LEAST_COVERAGE:
        return None
    remedies = [] if form == "all" else ["form=all"]
    remedies += [] if within or form == "all" else ["within=0.1"]
    ask = f"try {' '.join(remedies)}" if remedies else "add larger runs"
    return Alarm(
        code="low_coverage",
        sentence=f"Refitted without its largest budgets the law held {share:.0%} of the {tested} "
        f"runs there in {backtest['level']:.0%} intervals, so its form errs beyond the data; its "
        f"forecasts are widened by these errors: {ask}.",
    )


def jackknife_alarm(units: int, unit: str) -> Alarm:
    """Say that there are no bias-corrected intervals, since fits without one unit have no minimum.

    units: number of independent units
    unit: what one is, as row or trunk
    """
    return Alarm(
        code="no_bias_corrected",
        sentence=f"Fits that leave out one of the {units} {unit}s have no minimum, so each {unit} "
        "decides the law and there are no bias-corrected intervals: add runs, or keep the law "
        "identified with prior=published.",
    )


def default_error_alarm(tested: bool) -> Alarm:
    """Say that a forecast's error by distance is the usual one, not this law's own."""
    why = (
        "No form is determined by these runs"
        if tested
        else "No larger runs can be withheld to test the forms"
    )
    return Alarm(
        code="default_form_error",
        sentence=f"{why}: forecasts are the average of all forms, with the error by distance that "
        "such laws usually have; add budgets before a plan rests on it (a plan needs force=true).",
    )


def missed_alarm(confirmations: Sequence[Mapping[str, Any]]) -> Alarm | None:
    """Say that a confirmation run ended outside its forecast's interval."""
    misses = [c for c in confirmations if c["inside"] is False]
    if not misses:
        return None
    worst = max(misses, key=lambda c: abs(c["error"]))
    low, high = worst["interval"]
    return Alarm(
        code="confirmation_missed",
        sentence=f"The confirmation at C = {worst['flops']:.3g} reached {worst['outcome']:.4f}, "
        f"outside the forecast's [{low:.4f}, {high:.4f}]: it is a row of this law, whose error at "
        f"such distances counts as {abs(worst['error']):.1%} since; try other forms (form=all).",
    )


def peak_alarm(peak: Mapping[str, Any], smallest: float, largest: float) -> Alarm | None:
    """Say that the largest reward lies before the data, beyond the data, or nowhere."""
    if peak["at"] is not None and smallest <= peak["at"] <= largest:
        return None
    if peak["at"] is not None and peak["at"] < smallest:
        return Alarm(
            code="peak_outside",
            sentence=f"The fitted peak is at {peak['variable']} = {peak['at']:.3g}, before the"
            f" smallest {peak['variable']} seen, {smallest:.3g}: the reward falls from the start;"
            " give the reward model more pairs or parameters.",
        )
    where = "nowhere" if peak["at"] is None else f"at {peak['variable']} = {peak['at']:.3g}"
    return Alarm(
        code="peak_outside",
        sentence=f"The fitted peak is {where}, beyond the largest {peak['variable']} seen, "
        f"{largest:.3g}: the turning point was not reached; optimise further to see it.",
    )


def few_units_alarm(unit: str, count: int) -> Alarm:
    """Say that the table has too few independent units to resample."""
    return Alarm(
        code="few_units",
        sentence=f"Only {count} independent units ({unit}): resampling them "
        "gives rough intervals; add sizes or seeds.",
    )


def few_bodies_alarm(count: int) -> Alarm:
    """Say that a stage's cells start from too few pretrained models to resample these."""
    return Alarm(
        code="few_bodies",
        sentence=f"The cells start from {count} pretrained models, too few to be resampled: the "
        "intervals leave out what these models' seeds change; sweep more seeds of them, as "
        "seed=0,1.",
    )


def lost_alarm(lost: int, resamples: int) -> Alarm:
    """Say that some resamples had no minimum."""
    return Alarm(
        code="resamples_lost",
        sentence=f"{lost} of {resamples} resamples did not converge and were left out of the "
        "intervals, which are therefore too narrow: add runs.",
    )
