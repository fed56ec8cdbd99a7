"""form=all: the average over the forms that apply, as the law of the leading form.

`predict` and `optimum` average log L over forms with weights score^-4, the score being the
geometric mean over cutoffs of the withheld RMS error (`analysis.validate.form_ranking`). The spread
of the forms about the average, with weights score^-2, is part of every interval, and the average's
own hindcasts give tau. Where no larger runs can be withheld, nothing tells the forms apart: they
weigh the same, and the error by distance is the usual one of such laws, with an alarm. LAWS 5.9 and
`benchmarks/averaging.py` give the evidence.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.special import ndtri

from analysis.alarms import of_fit
from analysis.alarms.methods import methods_disagree
from analysis.alarms.of_table import residual_alarms
from analysis.estimation.fit_blocks import allocation_of, scatter_block
from analysis.estimation.fitted_form import FittedForm, Settings
from analysis.forms import Array, column
from analysis.forms.average import FittedRange, joined, spread
from analysis.laws.form_error import DEFAULT_GROWTH, ERROR_GROWTH
from analysis.laws.law import Law
from analysis.laws.law_file import USABLE
from analysis.laws.region import region_block
from analysis.solve.residual_spread import scatter
from analysis.validate.form_ranking import Ranking, weights_of
from analysis.validate.hindcast import Hindcast, backtest_block, widen_tau
from analysis.validate.near_frontier import is_near_frontier
from analysis.validate.row_choice import RowChoice

SPREAD_POWER = 2.0  # of the score in the weights of the spread between forms about the average
RULE = "log L averaged over forms, weights score^-4 of withheld runs"
UNTESTED_RULE = "log L averaged over forms, equal weights: no larger runs can be withheld"
OF_ONE_FORM = (
    "residual_trend",
    "methods_disagree",
    "ratio_bound",
)  # alarms that are raised anew of the average
MOST_WITHOUT_OFFSET = 0.15  # weight of forms without E from which the runs do not show an E
LEAST_LEADING = 0.1  # weight that a usable form needs to lead


def average_law(
    law: Law,
    fits: Mapping[str, FittedForm],
    ranking: Ranking,
    settings: Settings,
    choice: RowChoice | None = None,
) -> Law:
    """Return the leading form's law with the forecast of all forms.

    law: of the leading form, without hindcasts
    fits: every form by name, best first
    ranking: their withheld errors
    settings: of the fit
    choice: how the fitted rows were chosen, None where they were not compared
    """
    rows = _weighed_rows(fits, ranking)
    weights, apart = weights_of(rows), weights_of(rows, SPREAD_POWER)
    draws = _common_draws(fits, weights)
    scores = {row["form"]: row["score"] for row in ranking.rows}
    forms = [
        {
            "form": name,
            "parameters": fitted.estimate.parameters,
            "draws": draws.get(name),
            "weight": weights.get(name, 0.0),
            "spread_weight": apart.get(name, 0.0),
            "status": fitted.status,
            "score": scores[name],
        }
        for name, fitted in fits.items()
    ]
    table = fits[law.form].table
    block: dict[str, Any] = {"rule": RULE if ranking.is_tested else UNTESTED_RULE, "forms": forms}
    if {"params", "tokens"} <= set(law.surface.form.variables):
        fitted = FittedRange.of(column(table, "params"), column(table, "tokens"))
        block["fitted"] = fitted.as_block()
    law = replace(law, comparison=ranking.rows, forecast=block)
    values = {v: column(table, v) for v in law.surface.form.variables if v in table}
    fitted = np.log(law.surface.form.predict(law.surface.parameters, values))
    errors, size = fitted - np.log(column(table, "loss")), len(law.parameters)
    backtest = None
    if settings.hindcast:
        backtest = average_hindcasts(ranking, weights, settings.level)
    if confirmations := law.inputs.get("confirmations"):
        backtest = widen_tau(backtest, confirmations, column(fits[law.form].everything, "flops"))
    usual = law.usable and ranking.is_tested
    tested = ERROR_GROWTH if backtest and backtest["tau"] else DEFAULT_GROWTH
    alarms = [
        *(alarm for alarm in law.alarms if alarm.code not in OF_ONE_FORM),
        *residual_alarms(table, errors),
        None if usual else of_fit.default_error_alarm(ranking.is_tested),
        of_fit.coverage_alarm(backtest, "all", settings.within),
    ]
    law = replace(
        law,
        noise=scatter(errors, fitted, size),
        scatter=scatter_block(errors, size, table),
        error_growth=tested if usual else DEFAULT_GROWTH,
        backtest=backtest,
        alarms=tuple(alarm for alarm in alarms if alarm),
    )
    law = _with_offset(law, settings.level)
    if settings.within is not None:
        law = _near_frontier(law, fits[law.form], choice)
    if not law.allocation:
        return law
    law = replace(law, allocation=allocation_of(law, settings.level))
    if edge := of_fit.ratio_alarm(law.allocation["tokens_per_param"]):
        law = replace(law, alarms=(edge, *law.alarms))
    return _compared(law, fits[law.form])


def _near_frontier(law: Law, leader: FittedForm, choice: RowChoice | None) -> Law:
    """Return a law of rows near the frontier with the region where it holds, and its alarm."""
    everything, within = leader.everything, law.inputs["within"]
    near = is_near_frontier(everything, within)
    parts = [
        {name: column(everything, name)[rows] for name in ("params", "tokens", "loss")}
        for rows in (near, ~near)
    ]
    block = {"within": within, **region_block(law.surface, *parts)}
    if choice is None:
        return replace(law, region=block)
    errors = {"all": choice.error_all, "near": choice.error_near}
    alarm = of_fit.frontier_rows_alarm(block, errors, len(everything) - near.sum(), len(everything))
    return replace(law, region=block | {"withheld": errors}, alarms=(alarm, *law.alarms))


def _compared(law: Law, leader: FittedForm) -> Law:
    """Return the law with the exponents of its average beside those of other methods."""
    if not law.methods:
        return law
    names = ("a", "b", "a_interval", "b_interval", "convention")
    parametric = {name: law.allocation[name] for name in names}
    methods = {**law.methods, "parametric": {**law.methods["parametric"], **parametric}}
    alarm = methods_disagree(methods, leader.everything)
    return replace(law, methods=methods, alarms=(*law.alarms, *([alarm] if alarm else [])))


def leading_form(fits: Mapping[str, FittedForm], ranking: Ranking) -> FittedForm:
    """Return the form whose parameters a law of form=all shows.

    It is the best usable form that counts in the average; where none does, it is the form that
    counts most, and the law says that it is not usable.

    fits: every form by name, best first
    ranking: their withheld errors
    """
    weights = weights_of(_weighed_rows(fits, ranking))
    by_weight = sorted(fits, key=lambda name: -weights.get(name, 0.0))
    usable = [name for name in by_weight if fits[name].status in USABLE]
    counting = [name for name in usable if weights.get(name, 0.0) >= LEAST_LEADING]
    return fits[(counting or by_weight)[0]]


def _weighed_rows(fits: Mapping[str, FittedForm], ranking: Ranking) -> list[dict[str, Any]]:
    """Return the rows of forms that have a minimum; all rows where none has."""
    candidates = [r for r in ranking.rows if np.isfinite(fits[r["form"]].solution.condition[0])]
    return [row for row in candidates if row["converged"]] or ranking.rows


def average_hindcasts(
    ranking: Ranking, weights: Mapping[str, float], level: float
) -> dict[str, Any] | None:
    """Return the `backtest` block of the average: at each cutoff, of the forms with a minimum."""
    by_cutoff: dict[float, list[tuple[str, float, Hindcast]]] = {}
    for name, found in ranking.hindcasts.items():
        for one in found:
            if weights.get(name, 0.0) > 0 and one.row["converged"]:
                by_cutoff.setdefault(one.row["cutoff_flops"], []).append((name, weights[name], one))
    cutoffs = sorted(by_cutoff, reverse=True)
    rows = [_average_row(by_cutoff[c], level) for c in cutoffs]
    return backtest_block(rows, level, by_chance=False)


def _average_row(members: Sequence[tuple[str, float, Hindcast]], level: float) -> dict[str, Any]:
    weights = np.array([w for _, w, _ in members]) / sum(w for _, w, _ in members)

    def mean(values: Sequence[Any]) -> Array:
        return np.tensordot(weights, np.stack(values), axes=1)

    fits = [one for _, _, one in members]
    fitted = fits[0].fitted
    error = joined([one.error for one in fits], weights.tolist(), fits[0].withheld, fitted)
    apart = np.sqrt(mean([(one.error - error) ** 2 for one in fits]))  # by weight, not by spread's
    parameter_sd, run_sd = mean([o.parameter_sd for o in fits]), mean([o.run_sd for o in fits])
    first = fits[0].row
    floor = ERROR_GROWTH * np.log(first["distance"])
    width = np.sqrt(parameter_sd**2 + run_sd**2 + apart**2 + floor**2)
    return {
        **{k: first[k] for k in ("cutoff_flops", "distance", "n_train", "n_test", "converged")},
        "rms_relative_error": float(np.sqrt((error**2).mean())),
        "mean_relative_error": float(error.mean()),
        "seed_error": float(np.sqrt((run_sd**2).mean())),
        "expected_mean_error": float(mean([o.row["expected_mean_error"] for o in fits])),
        "coverage": float((np.abs(error) <= ndtri((1 + level) / 2) * width).mean()),
        "forms": [
            {"form": name, "weight": float(w), "parameters": one.row["parameters"]}
            for (name, _, one), w in zip(members, weights, strict=True)
        ],
        "fitted": fitted.as_block() if fitted else None,
    }


def _common_draws(fits: Mapping[str, FittedForm], weights: Mapping[str, float]) -> dict[str, Array]:
    """Return the draws of each form for the resamples in which all of them have a minimum."""
    boots = {n: fits[n].boot for n in weights if fits[n].estimate.draws is not None}
    masks = [boot.kept for boot in boots.values() if boot is not None]
    if not masks:
        return {}
    common = np.flatnonzero(np.all(masks, axis=0))
    draws = {}
    for name, boot in boots.items():
        assert boot is not None
        place = np.cumsum(boot.kept) - 1
        draws[name] = boot.draws[place[common]]
    return draws


def _with_offset(law: Law, level: float) -> Law:
    """Return the law whose interval of E holds the spread of E between the forms.

    Where forms without an E forecast nearly as well as the others, E is not identified: its
    interval reaches 0, and the status and an alarm say so.
    """
    if law.intervals is None or "E" not in law.intervals["parameters"]:
        return law
    members = [m for m in law.forms if m.form.offset == "E" and m.spread_weight > 0]
    own, z, half = law.parameters["E"], float(ndtri((1 + level) / 2)), 0.0
    if members:
        half = z * float(spread(members, np.asarray(own), lambda m: np.asarray(m.parameters["E"])))
    low, high = law.intervals["parameters"]["E"]
    low, high = max(own - np.hypot(own - low, half), 0.0), own + np.hypot(high - own, half)
    without = sum(m.weight for m in law.members if m.form.offset is None)
    status, alarms = law.status, law.alarms
    if without >= MOST_WITHOUT_OFFSET and law.usable:
        low, status = 0.0, "offset_not_identified"
        known = {a.code for a in alarms} & {"offset_not_identified", "offset_at_bound"}
        alarms = alarms if known else (*alarms, of_fit.no_offset_alarm(without))
    parameters = {**law.intervals["parameters"], "E": [float(low), float(high)]}
    intervals = {**law.intervals, "parameters": parameters, "between_forms": ["E"]}
    return replace(law, intervals=intervals, status=status, alarms=alarms)
