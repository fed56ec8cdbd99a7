"""What a planned run should reach, and how: test loss, bits per byte, curve, with intervals.

The curve at a share x of the tokens is the law at (N, x D), which is that of a finished run, times
the lag of the study's largest cells at the same share: an unfinished run, its learning rate still
high, lies above. Its band joins the law's interval and the spread of the lags between cells.
Curves of one recipe collapse in this way when scaled (Qiu et al. 2025, 2507.02119).

Intervals learn from forecasts that were sealed and scored (`runs/forecasts.jsonl`): with z_i the
errors in units of what the intervals of the time allowed, their logarithmic width is multiplied by
sqrt((n0 + sum z_i^2) / (n0 + n)), the posterior scale under n0 forecasts' worth of trust in the
law's own interval, and never narrowed: narrower is earned by a refit with more runs. Of forecasts
from the same law and data the worst alone counts, since they err together.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import ndtri

from analysis.forms import FORMS
from analysis.laws.law import Law
from analysis.planning.later_stages.blocks import rounded
from analysis.planning.shape import Chosen
from analysis.runs.study import Study

SHARES = (0.1, 0.25, 0.5, 0.75)
FEWEST_SCORED = 5  # forecasts of different laws, below which none is learnt from
TRUST = 5.0  # n0
NEAR = 1.6  # an evaluation farther than this factor from a share says nothing of it
FEWEST_COURSES = 3


def forecast_block(
    law: Law,
    study: Study,
    pretrain: dict[str, Any],
    chosen: Chosen,
    *,
    level: float,
    scored: Sequence[dict[str, Any]] = (),
) -> dict[str, Any]:
    """Return the forecast test loss with its interval; without a loss only the reason why not.

    `scored` are the lines of the ledger of forecasts.
    """
    if law.form not in FORMS or not FORMS[law.form].is_surface:
        why = f"a law of form {law.form} gives N and D only: no loss to forecast"
        return {"level": level, "reasons": {"test_loss": why}}
    unique = chosen.split.constraints.unique_tokens if "R_D" in law.parameters else None
    widen, learnt = learnt_width(scored)
    n, d = pretrain["params"], pretrain["tokens"]
    loss, ends = _predicted(law, n, d, level, unique, widen)
    per_byte = study.bytes_per_token
    in_bytes = None if per_byte is None else 1 / (math.log(2) * per_byte)
    cost = (
        loss - chosen.exact_loss if chosen.exact_loss and law.form == chosen.split.law.form else 0
    )
    parts = (
        "the law's draws, the scatter of runs about it, and the growth of its error with distance"
    )
    refitted = law.inputs.get("confirmations", ())
    row = f" (refitted with {len(refitted)} confirmation run)" if refitted else ""
    curve, how = curve_of(law, study, n, d, level=level, unique=unique, widen=widen)
    return {
        "test_loss": loss,
        "interval": ends,
        "level": level,
        "bits_per_byte": None if in_bytes is None else loss * in_bytes,
        "bits_per_byte_interval": [] if in_bytes is None else [e * in_bytes for e in ends],
        "curve": curve,
        "reasons": {
            "test_loss": (
                f"the law{row} at N = {n:.5g} and D = {d:.5g}; "
                f"rounding the shape costs {cost:+.2g} nats against the best shape at this budget"
            ),
            "interval": (
                f"{100 * level:g}% prediction interval of one run: {parts}; {learnt}"
                if ends
                else "the law has no draws, so no interval"
            ),
            "bits_per_byte": (
                f"L / (ln 2 x {per_byte:.4g} bytes per token of the study)"
                if per_byte
                else "bytes per token are not known"
            ),
            "bits_per_byte_interval": "the same interval in bits per byte",
            "curve": how,
        },
    }


def curve_of(
    law: Law,
    study: Study,
    params: float,
    tokens: float,
    *,
    level: float,
    unique: float | None = None,
    widen: float = 1.0,
) -> tuple[list[dict[str, Any]], str]:
    """Return the test loss under way at each share of the tokens, and what it was made from.

    `curves` is how many of the study a row's lag is from; 0 leaves that of a finished run.
    """
    rows, used = [], 0
    for share in SHARES:
        found = lags(law, study, share)
        loss, ends = _predicted(law, params, share * tokens, level, unique, widen)
        row: dict[str, Any] = {"share": share, "tokens": rounded(share * tokens, 6), "curves": 0}
        if len(found) >= FEWEST_COURSES:
            used = max(used, len(found))
            middle = math.exp(float(np.median(found)))
            spread = float(np.std(found, ddof=1)) * math.sqrt(1 + 1 / len(found))
            ends = _joined(loss, ends, float(ndtri((1 + level) / 2)) * spread)
            loss, ends = loss * middle, [e * middle for e in ends]
            row["curves"] = len(found)
        rows.append({**row, "test_loss": loss, "interval": ends})
    if used:
        return rows, (
            f"the law at N and x D, times the lag of the {used} largest cells at x, the band with"
            f" the spread of their lags; schedule {study.schedule} as theirs"
        )
    return rows, (
        "the law of finished runs at N and x D: no curves of a study are known, so expect a run"
        " whose learning rate has not yet fallen to lie above"
    )


def lags(law: Law, study: Study, share: float) -> list[float]:
    """Return log(loss at a share of the tokens / law of a finished run there), a value a cell.

    Of cells that are there below the fewest tokens fitted the law says nothing: they are left out.
    """
    found, fewest = [], law.ranges.get("tokens", (0.0,))[0]
    for course in study.courses:
        shares = np.array(course.shares)
        if share * course.tokens < fewest:
            continue
        if np.min(np.abs(np.log(shares / share))) > math.log(NEAR):
            continue
        law_there = law.predict(course.params, shares * course.tokens, noise=False, force=True).loss
        lag = np.log(np.array(course.losses) / law_there)
        found.append(float(np.interp(math.log(share), np.log(shares), lag)))
    return found


def learnt_width(scored: Sequence[dict[str, Any]]) -> tuple[float, str]:
    """Return the factor on the logarithmic width of intervals, and what it was learnt from."""
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
    told = f"x {factor:.3g} by {len(z)} scored forecasts" if factor > 1 else "as wide as it was"
    return max(1.0, factor), f"{told}: {np.sum(z <= 1.645):.0f} of {len(z)} within 90%"


def _predicted(
    law: Law, params: float, tokens: float, level: float, unique: float | None, widen: float
) -> tuple[float, list[float]]:
    """Return the loss of one run, and its interval, [] where the law has no draws."""
    found = law.predict(params, tokens, level, unique_tokens=unique, force=True)
    loss = float(found.loss)
    if found.low is None or found.high is None:
        return loss, []
    return loss, [loss * (float(e) / loss) ** widen for e in (found.low, found.high)]


def _joined(loss: float, ends: list[float], half: float) -> list[float]:
    """Return an interval that holds a further independent half-width in log loss."""
    low, high = (abs(math.log(e / loss)) for e in ends) if ends else (0.0, 0.0)
    return [loss * math.exp(-math.hypot(low, half)), loss * math.exp(math.hypot(high, half))]
