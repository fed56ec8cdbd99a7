"""What a planned run should reach, and how: test loss, bits per byte, curve, with intervals.

The curve at a share x of the tokens is the law at (N, x D), which is the loss of a finished run,
times the lag of the study's largest cells at the same share: an unfinished run has a higher loss,
because its learning rate is still high. The band joins the law's interval and the spread of the
lags between cells. Curves of one recipe collapse in this way when scaled (Qiu et al. 2025,
2507.02119).

Intervals learn from forecasts that were sealed and scored (`runs/forecasts.jsonl`). With z_i the
errors in units of what the intervals of the time allowed, their logarithmic width is multiplied by
sqrt((n0 + sum z_i^2) / (n0 + n)), the posterior scale when the law's own interval is trusted as
much as n0 forecasts. The factor is never below 1: narrower is earned by a refit with more runs. Of
forecasts from the same law and data only the worst counts, since they err together.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import ndtri

from analysis.forms import FORMS
from analysis.laws.law import Law
from analysis.laws.text import describe_forecast, used_alone
from analysis.planning.later_stages.blocks import rounded
from analysis.planning.plan import CurvePoint, Forecast, Interval, PretrainBlock
from analysis.planning.shapes.shape import PlannedShape
from analysis.runs.study import Study
from scaling.app.plurals import plural
from scaling.schema import BITS_PER_BYTE

SHARES = (0.1, 0.25, 0.5, 0.75)  # of the tokens, at which the curve has a point
FEWEST_SCORED = 5  # forecasts of different laws, below which none is learnt from
TRUST = 5.0  # n0
ALIKE = 100.0  # factor of C within which a scored forecast says something about another
NEAR = 1.6  # an evaluation farther than this factor from a share says nothing about the share
FEWEST_COURSES = 3  # cells, below which no lag is applied


def forecast_block(
    law: Law,
    study: Study,
    pretrain: PretrainBlock,
    planned: PlannedShape,
    *,
    level: float,
    scored: Sequence[dict[str, Any]] = (),
) -> Forecast:
    """Return the forecast test loss with its interval; without a loss only the reason why not.

    law: the law that forecasts, with the repetition of data in it where data repeat
    study: whose curves and bytes per token are used
    pretrain: the planned pretraining
    planned: the shape, and the split of C before rounding
    level: share that the intervals hold
    scored: the lines of the ledger of forecasts
    """
    if law.form not in FORMS or not FORMS[law.form].is_surface:
        reason = f"a law of form {law.form} gives N and D only: no loss to forecast"
        return Forecast(level=level, reasons={"test_loss": reason})
    repeats = "unique_tokens" in FORMS[law.form].variables
    unique = planned.split.constraints.unique_tokens if repeats else None
    widen, width_reason = learnt_width(scored, pretrain.flops)
    n, d = pretrain.params, pretrain.tokens
    loss, ends = _predicted(law, n, d, level, unique, widen)
    parts = _parts(law, n, d, level, unique) if ends else {}
    measure, curve = law.measure, []
    curve_reason = f"curves have the test loss in nats per token, and the law is of {measure.words}"
    if measure.is_default:
        curve, curve_reason = curve_of(law, study, n, d, level=level, unique=unique, widen=widen)
    per_byte = study.bytes_per_token
    in_bits = measure.unit == BITS_PER_BYTE
    in_bytes = None if per_byte is None else 1 / (math.log(2) * per_byte)
    if in_bits:
        in_bytes = 1.0
    return Forecast(
        test_loss=loss,
        interval=ends,
        parts=parts,
        level=level,
        target=measure.target,
        unit=measure.unit,
        bits_per_byte=None if in_bytes is None else loss * in_bytes,
        bits_per_byte_interval=() if in_bytes is None else tuple(e * in_bytes for e in ends),
        curve=tuple(curve),
        reasons={
            "test_loss": _loss_reason(law, loss, n, d, planned),
            "interval": (
                f"{100 * level:g}% prediction interval of one run: {_causes(parts)}; {width_reason}"
                if ends
                else "the law has no draws, so no interval"
            ),
            "bits_per_byte": (
                "the forecast itself: the law is in bits per byte"
                if in_bits
                else f"L / (ln 2 x {per_byte:.4g} bytes per token of the study)"
                if per_byte
                else "bytes per token are not known"
            ),
            "bits_per_byte_interval": "the same interval in bits per byte",
            "curve": curve_reason,
        },
    )


def _parts(law: Law, n: float, d: float, level: float, unique: float | None) -> dict[str, float]:
    """Return the half-width that each cause of the interval alone would give, in percent."""
    parts = law.predict(n, d, level, unique_tokens=unique, force=True).parts
    return {name: rounded(100 * float(v), 4) for name, v in parts.items() if float(v) > 0}


def _causes(parts: dict[str, float]) -> str:
    """Say what the interval is made of: the half-width that each cause alone would give."""
    names = {
        "parameters": "the law's draws",
        "forms": "the forms that it averages",
        "scatter": "the scatter of runs about it",
        "hindcast": "its error by distance",
        "region": "the shape's distance from the frontier",
    }
    shown = [f"{names[k]} {v:.2f}%" for k, v in parts.items()]
    return f"of {', '.join(shown)} of the loss, joined in squares"


def _loss_reason(law: Law, loss: float, n: float, d: float, planned: PlannedShape) -> str:
    """Say where the loss is read from, and what rounding the shape costs."""
    refitted = law.inputs.get("confirmations", ())
    row = f" (refitted with {len(refitted)} confirmation run)" if refitted else ""
    if law.forecast:
        row += f", {used_alone(law) or describe_forecast(law)};"
    comparable = planned.best_loss and law.form == planned.split.law.form
    cost = loss - planned.best_loss if comparable and planned.best_loss else 0
    effect = f"{'gains' if cost < 0 else 'costs'} {abs(cost):.2g} {law.measure.unit_words}"
    return (
        f"the law{row} at N = {n:.5g} and D = {d:.5g}; "
        f"rounding the shape {effect} against N and D before it"
    )


def curve_of(
    law: Law,
    study: Study,
    params: float,
    tokens: float,
    *,
    level: float,
    unique: float | None = None,
    widen: float = 1.0,
) -> tuple[list[CurvePoint], str]:
    """Return the test loss during the run at each share of the tokens, and what it is made from.

    A point with `curves` of 0 has no lag: it is the loss of a finished run.

    law: the law that forecasts
    study: whose cells give the lags
    params, tokens: N and D of the run
    level: share that the intervals hold
    unique: unique tokens, None for a law that knows no repetition
    widen: factor on the logarithmic width of the law's interval
    """
    points, most_cells = [], 0
    for share in SHARES:
        lags_here = lags(law, study, share)
        loss, ends = _predicted(law, params, share * tokens, level, unique, widen)
        cells = len(lags_here) if len(lags_here) >= FEWEST_COURSES else 0
        if cells:
            most_cells = max(most_cells, cells)
            middle = math.exp(float(np.median(lags_here)))
            spread = float(np.std(lags_here, ddof=1)) * math.sqrt(1 + 1 / cells)
            ends = _joined(loss, ends, float(ndtri((1 + level) / 2)) * spread)
            loss, ends = loss * middle, tuple(e * middle for e in ends)
        point = CurvePoint(
            share=share,
            tokens=rounded(share * tokens, 6),
            curves=cells,
            test_loss=loss,
            interval=ends,
        )
        points.append(point)
    if most_cells:
        return points, (
            f"the law at N and x D, times the lag of the {most_cells} largest cells at x, the band"
            f" with the spread of their lags; schedule {study.schedule} as theirs"
        )
    return points, (
        "the law of finished runs at N and x D: no curves of a study are known, so expect a run"
        " whose learning rate has not yet fallen to lie above"
    )


def lags(law: Law, study: Study, share: float) -> list[float]:
    """Return log(loss at a share of the tokens / law of a finished run there), a value a cell.

    A cell that has fewer tokens at the share than the fewest fitted is left out: the law says
    nothing there.
    """
    lags_of_cells, fewest = [], law.ranges.get("tokens", (0.0,))[0]
    for course in study.courses:
        shares = np.array(course.shares)
        if share * course.tokens < fewest:
            continue
        if np.min(np.abs(np.log(shares / share))) > math.log(NEAR):
            continue
        law_there = law.predict(course.params, shares * course.tokens, noise=False, force=True).loss
        lag = np.log(np.array(course.losses) / law_there)
        lags_of_cells.append(float(np.interp(math.log(share), np.log(shares), lag)))
    return lags_of_cells


def learnt_width(scored: Sequence[dict[str, Any]], flops: float | None = None) -> tuple[float, str]:
    """Return the factor on the logarithmic width of intervals, and what it is learnt from.

    scored: the lines of the ledger of forecasts; one without its run's C counts at every C
    flops: C of the plan; forecasts of runs that are `ALIKE` times larger or smaller say nothing
        about it. None counts all
    """
    every = list(scored)
    scored = [line for line in every if _is_alike(line.get("flops"), flops)]
    if len(scored) < len(every):
        factor, text = learnt_width(scored)
        left_out = plural(len(every) - len(scored), "forecast")
        return factor, (
            f"{text}; {left_out} of runs more than {ALIKE:g} times smaller or larger than this C"
            " left out"
        )
    worst: dict[Any, float] = {}
    for line in scored:
        if line.get("z") is not None:
            key = (line.get("law_sha256"), line.get("records_sha256"))
            worst[key] = max(worst.get(key, 0.0), abs(line["z"]))
    if len(worst) < FEWEST_SCORED:
        return 1.0, (
            f"{len(worst)} scored forecasts, fewer than the {FEWEST_SCORED} from which widths are"
            " learnt"
        )
    z = np.array(list(worst.values()))
    factor = math.sqrt((TRUST + float((z**2).sum())) / (TRUST + len(z)))
    text = f"x {factor:.3g} by {len(z)} scored forecasts" if factor > 1 else "as wide as it was"
    return max(1.0, factor), f"{text}: {np.sum(z <= 1.645):.0f} of {len(z)} within 90%"


def _is_alike(one: float | None, flops: float | None) -> bool:
    return not one or not flops or 1 / ALIKE <= one / flops <= ALIKE


def _predicted(
    law: Law, params: float, tokens: float, level: float, unique: float | None, widen: float
) -> tuple[float, Interval]:
    """Return the loss of one run and its interval, () where the law has no draws."""
    prediction = law.predict(params, tokens, level, unique_tokens=unique, force=True)
    loss = float(prediction.loss)
    if prediction.low is None or prediction.high is None:
        return loss, ()
    ends = (float(prediction.low), float(prediction.high))
    return loss, tuple(loss * (end / loss) ** widen for end in ends)


def _joined(loss: float, ends: Interval, half: float) -> Interval:
    """Return an interval that holds a further independent half-width in log loss."""
    low, high = (abs(math.log(e / loss)) for e in ends) if ends else (0.0, 0.0)
    return (loss * math.exp(-math.hypot(low, half)), loss * math.exp(math.hypot(high, half)))
