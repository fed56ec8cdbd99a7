"""What the planner in the page computes with: law, draws, noise, and the first values of controls.

A page has the planner where its law has draws, is usable, and is Farseer's form, a case of
form=coupled (as those of Chinchilla and Kaplan are), or an average over such forms. The planner
(planner.js) moves budget, unique tokens, tokens to serve, utilisation and price, and plans before
any shape is chosen.
"""

import json
import math
from collections.abc import Iterable
from importlib.resources import files
from typing import Any

import numpy as np
from scipy.special import ndtri, stdtrit

from analysis.forms import FORMS
from analysis.forms.average import Member
from analysis.forms.coupled import as_coupled
from analysis.laws.law import Law
from analysis.laws.published import PUBLISHED
from analysis.planning.plan import Plan
from analysis.planning.split import GRID, MOST_DRAWS, REPEATING

DIGITS = 9  # of each number in the page
DECADES = (1.0, 4.0)  # the budget moves so far below and above the largest C fitted, in log10


def planner_data(law: Law | None, plan: Plan | None) -> dict[str, Any] | None:
    """Return the law for the page (JSON) and the controls' first values; None where it has none."""
    if law is None or not law.usable or law.form not in FORMS or law.surface.draws is None:
        return None
    members = [_member(one) for one in law.forms]
    if not members or not all(members):
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
        "members": members,
        "average": bool(law.forecast),
        "level": level,
        "z": z,
        "z_repeated": z_repeated,
        "normal": float(ndtri((1 + level) / 2)),
        "noise": noise,
        "knots": (law.backtest or {}).get("tau", []),
        "least_error": law.error_growth,
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
        "repeats": any(one.form.name == "chinchilla" for one in law.members),
        "least": round(math.log10(reach) - DECADES[0], 2),
        "most": round(max(math.log10(reach), budget) + DECADES[1], 2),
        "speed": f"{speed:.4g}" if speed else "",
        "level": f"{100 * level:g}%",
    }


def _member(member: Member) -> dict[str, Any] | None:
    """Return a form of the law for the page; None for one that the page does not know."""
    name, values = member.form.name, dict(member.parameters)
    drawn = member.draws if member.draws is not None else np.array([list(values.values())])
    draws = dict(zip(values, drawn.T, strict=True))
    if name != "farseer":
        values, draws = as_coupled(name, values), as_coupled(name, draws)
    if values is None or draws is None:
        return None
    return {
        "form": name,
        "weight": member.weight,
        "apart": member.spread_weight,
        "parameters": _shortened(values.values()),  # as the draws: one may be the point
        "draws": [_shortened(row) for row in np.stack(list(draws.values()), axis=1)],
    }


def _shortened(values: Iterable[float]) -> list[float]:
    """Return numbers as short as the page needs them."""
    return [float(f"{v:.{DIGITS}g}") for v in values]
