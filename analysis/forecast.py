"""What a planned run should reach: test loss and bits per byte with their prediction intervals."""

import math
from typing import Any

from analysis.final_shape import Chosen
from analysis.forms import FORMS
from analysis.laws import Law
from analysis.study import Study


def forecast_block(
    law: Law, study: Study, pretrain: dict[str, Any], chosen: Chosen, *, level: float
) -> dict[str, Any]:
    """Return the forecast test loss with its interval; without a loss only the reason why not."""
    if law.form not in FORMS or not FORMS[law.form].is_surface:
        why = f"a law of form {law.form} gives N and D only: no loss to forecast"
        return {"level": level, "reasons": {"test_loss": why}}
    unique = chosen.split.constraints.unique_tokens if "R_D" in law.parameters else None
    found = law.predict(pretrain["params"], pretrain["tokens"], level, unique_tokens=unique)
    loss = float(found.loss)
    ends = [float(e) for e in (found.low, found.high) if e is not None]
    per_byte = study.bytes_per_token
    cost = loss - chosen.exact_loss if chosen.exact_loss else 0.0
    parts = (
        "the law's draws, the scatter of runs about it, and the growth of its error with distance"
    )
    return {
        "test_loss": loss,
        "interval": ends,
        "level": level,
        "bits_per_byte": loss / (math.log(2) * per_byte) if per_byte else None,
        "reasons": {
            "test_loss": (
                f"the law at N = {pretrain['params']:.5g} and D = {pretrain['tokens']:.5g}; "
                f"rounding the shape costs {cost:+.2g} nats against the best shape at this budget"
            ),
            "interval": (
                f"{100 * level:g}% prediction interval of one run: {parts}"
                if ends
                else "the law has no draws, so no interval"
            ),
            "bits_per_byte": (
                f"L / (ln 2 x {per_byte:.4g} bytes per token of the study)"
                if per_byte
                else "bytes per token are not known"
            ),
        },
    }
