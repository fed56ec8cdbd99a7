"""What the planner in the page computes with: law, draws, noise, and the first values of controls.

A page has the planner where its law has draws, is usable and is a case of form=coupled, as those of
Chinchilla and Kaplan are. The planner (planner.js) moves budget, unique tokens, tokens to serve,
utilisation and price, and plans before any shape is chosen.
"""

import json
import math
from collections.abc import Iterable
from importlib.resources import files
from typing import Any

import numpy as np
from scipy.special import ndtri, stdtrit

from analysis.forms.coupled import as_coupled
from analysis.laws.law import Law
from analysis.laws.published import PUBLISHED
from analysis.planning.plan import Plan
from analysis.planning.split import GRID, MOST_DRAWS, REPEATING

DIGITS = 9  # of each number in the page
DECADES = (1.0, 4.0)  # the budget moves so far below and above the largest C fitted, in log10


def planner_data(law: Law | None, plan: Plan | None) -> dict[str, Any] | None:
    """Return the law for the page (JSON) and the controls' first values; None where it has none."""
    if law is None or not law.usable or law.draws is None:
        return None
    point = as_coupled(law.form, law.parameters)
    draws = as_coupled(law.form, dict(zip(law.parameters, law.draws.T, strict=True)))
    if point is None or draws is None:
        return None
    level = (law.intervals or {}).get("level", 0.9)
    reach = law.ranges["flops_6nd"][1]
    rates = PUBLISHED[REPEATING].parameters
    noise = {
        "sd": law.noise.get("sd_log_least", law.residual_sd),
        "least": law.noise.get("least_loss", 0.0) or 1e-9,
        "growth": law.noise.get("growth", 0.0),
    }
    freedom = law.n_runs - len(law.parameters)  # of a law of repeated data two fewer
    z, z_repeated = (float(stdtrit(max(f, 1), (1 + level) / 2)) for f in (freedom, freedom - 2))
    values = {
        "parameters": _shortened(point.values()),  # as the draws: one may be the point
        "draws": [_shortened(row) for row in np.stack(list(draws.values()), axis=1)],
        "level": level,
        "z": z,
        "z_repeated": z_repeated,
        "normal": float(ndtri((1 + level) / 2)),
        "noise": noise,
        "knots": (law.backtest or {}).get("tau", []),
        "reach": reach,
        "rates": [rates["R_D"], rates["R_N"]],
        "grid": GRID,
        "most": MOST_DRAWS,
    }
    budget = math.log10((plan.budget.flops if plan else 0.0) or reach)
    speed = plan.budget.flops_per_second if plan else 0.0
    return {
        "law": json.dumps(values, separators=(",", ":")).replace("<", "\\u003c"),
        "script": files("analysis.page").joinpath("planner.js").read_text(encoding="utf-8"),
        "log_flops": round(budget, 6),
        "repeats": law.form == "chinchilla",
        "least": round(math.log10(reach) - DECADES[0], 2),
        "most": round(max(math.log10(reach), budget) + DECADES[1], 2),
        "speed": f"{speed:.4g}" if speed else "",
        "level": f"{100 * level:g}%",
    }


def _shortened(values: Iterable[float]) -> list[float]:
    """Return numbers as short as the page needs them."""
    return [float(f"{v:.{DIGITS}g}") for v in values]
