"""The law that forecasts a task's accuracy: two steps, or compute directly.

Both are refitted to a study's smaller models and predict the larger ones
(`analysis.estimation.downstream`). The direct law -log Q = A C^-a (Krajewski et al. 2025,
2512.08894) is used where its withheld error is smaller than that of the two steps in C, whose loss
is bits per byte of the right answers. The laws in N and D stand beside them for comparison alone,
since a planned budget is a number of FLOPs.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.estimation.downstream import rank_downstream
from analysis.estimation.fit import fit
from analysis.forms import column
from analysis.laws.law import Law

DIRECT, TWO_STEPS = "accuracy_flops", "accuracy_two_steps_flops"
NAMES = {
    DIRECT: "direct in C",
    TWO_STEPS: "two steps in C",
    "accuracy_size": "direct in N, D",
    "accuracy_two_steps": "two steps in N, D",
}


@dataclass(frozen=True, kw_only=True)
class Choice:
    """RMS error of the accuracy of withheld models by law (0 to 1), and the direct law if it leads.

    withheld: {name for people: error}, best first; laws without a minimum are left out
    law: the direct law, None where the two steps lead or it is not usable
    """

    withheld: dict[str, float]
    law: Law | None

    @property
    def text(self) -> str:
        """Say which law is used and why, in one line."""
        errors = ", ".join(f"{name} {100 * e:.2g}" for name, e in self.withheld.items())
        used = NAMES[DIRECT if self.law else TWO_STEPS]
        return f"{used}; withheld error in points: {errors}"


def choice_of(
    points: pd.DataFrame, chance: float, *, resamples: int, level: float
) -> Choice | None:
    """Return the choice for a task; None where no larger models can be withheld.

    points: models with params, tokens, flops, loss (bits per byte), error and error_se
    chance: accuracy of guessing
    resamples, level: of the direct law's intervals
    """
    weight = column(points, "error_se") ** -2.0
    table = points.assign(weight=weight / np.mean(weight))
    try:
        rows = rank_downstream(table, fixed={"chance": chance})
    except ValueError:
        return None
    withheld = {r["form"]: r["score"] for r in rows if r["score"] is not None}
    law = None
    if withheld.get(DIRECT, np.inf) < withheld.get(TWO_STEPS, np.inf):
        law = fit(table, DIRECT, fixed={"chance": chance}, resamples=resamples, level=level)
        law = law if law.usable else None
    return Choice(withheld={NAMES[k]: v for k, v in withheld.items() if k in NAMES}, law=law)
