"""What the planner in the page computes with: law, draws, noise, and the first values of controls.

A page has the planner where its law has draws, is usable, and is Farseer's form, a case of
form=coupled (as those of Chinchilla and Kaplan are), or an average over such forms. The planner
(planner.js) takes a budget in FLOPs, device hours or money, unique tokens and tokens to serve. It
chooses among the shapes that `scaling plan` chooses from, by the same rule, in whole steps.
"""

import json
import math
from collections.abc import Iterable
from dataclasses import replace
from importlib.resources import files
from typing import Any

import numpy as np
from scipy.special import ndtri, stdtrit

from analysis.forms import FORMS
from analysis.forms.average import Member
from analysis.forms.coupled import as_coupled
from analysis.laws.law import Law
from analysis.laws.law_file import flops_range
from analysis.laws.published import PUBLISHED
from analysis.laws.text import describe_forecast
from analysis.planning.basis import counted
from analysis.planning.plan import Plan
from analysis.planning.shapes.candidates import Candidate, candidates, ffn_step, ffn_steps
from analysis.planning.shapes.shape import NEAR, NO_LOSS, SPANS
from analysis.planning.split import GRID, MOST_DRAWS, REPEATING, is_usable_alone
from analysis.planning.written.plan_alarms import FAR
from analysis.runs.study import Study
from scaling.schema import DEVICES

DIGITS = 9  # of each number in the page
DECADES = (1.0, 4.0)  # the budget moves so far below and above the largest C fitted, in log10
BELOW = 0.5  # and so far below the smallest, in log10
WIDER = 4.0  # shapes are there for N beyond the optima of these budgets: serving and data shift N


def planner_data(
    law: Law | None, plan: Plan | None, study: Study | None = None
) -> dict[str, Any] | None:
    """Return the law for the page (JSON) and the controls' first values; None where it has none.

    law: the law that the page draws from
    plan: whose budget and device the controls start with
    study: whose shapes, batch rule and speeds the planner takes; None plans before any shape
    """
    if law is None or not law.usable or law.form not in FORMS or law.surface.draws is None:
        return None
    members = [_member(one) for one in law.forms]
    if not members or not all(members):
        return None
    law = law if study is None else counted(law, study)
    level = (law.intervals or {}).get("level", 0.9)
    reach = law.ranges["flops_6nd"][1]
    low, high = flops_range(law.ranges, counted=law.token_flops is not None)
    rates = PUBLISHED[REPEATING].parameters
    noise = {
        "sd": law.noise.get("sd_log_least", law.residual_sd),
        "least": law.noise.get("least_loss", 0.0) or 1e-9,
        "growth": law.noise.get("growth", 0.0),
    }
    fitted = (len(law.parameters), len(FORMS["data_constrained"].parameters))
    z, z_repeated = (float(stdtrit(max(law.n_runs - p, 1), (1 + level) / 2)) for p in fitted)
    values = {
        "members": members,
        "average": bool(law.forecast),
        "fitted": (law.forecast or {}).get("fitted"),
        "level": level,
        "z": z,
        "z_repeated": z_repeated,
        "normal": float(ndtri((1 + level) / 2)),
        "noise": noise,
        "knots": (law.backtest or {}).get("tau", []),
        "least_error": law.error_growth,
        "region": law.region,
        "reach": reach,
        "rates": [rates["R_D"], rates["R_N"]],
        "grid": GRID,
        "most": MOST_DRAWS,
        "token_flops": law.token_flops,
        "smallest": low,
        "largest": high,
        "far": FAR,
        "near": NEAR,
        "no_loss": law.measure.of_nats(NO_LOSS, study.bytes_per_token if study else None),
        "spans": [SPANS[0], SPANS[1]],
    }
    budget = math.log10((plan.budget.flops if plan else 0.0) or high)
    speed = plan.budget.flops_per_second if plan else 0.0
    least = math.log10(high) - DECADES[0]
    least = min(least, math.log10(low) - BELOW) if low > 0 else least
    most = max(math.log10(high), budget) + DECADES[1]
    device = plan.budget.device if plan else ""
    values |= _of_study(study, law, low=10**least, high=10**most, device=device)
    return {
        "law": json.dumps(values, separators=(",", ":")).replace("<", "\\u003c"),
        "script": files("analysis.page").joinpath("planner.js").read_text(encoding="utf-8"),
        "log_flops": round(budget, 6),
        "repeats": any(
            one.form.name == "chinchilla" and is_usable_alone(law, "chinchilla")
            for one in law.members
        ),
        "least": round(least, 2),
        "most": round(most, 2),
        "speed": f"{speed:.4g}" if speed else "",
        "level": f"{100 * level:g}%",
        "source": _source(law),
        "measured": study.device if study and values["speeds"] else "",
        "devices": [{"name": n, "peak": f"{d.peak:g}"} for n, d in DEVICES.items()],
    }


def _source(law: Law) -> str:
    """Say which law the planner draws from."""
    what = f"the law of form {law.form}"
    if law.forecast:
        what = f"the law of form=all ({describe_forecast(law)})"
    source = law.inputs.get("source")
    runs = f" of {source}" if source else ""
    counted_as = f"N counted as {law.count}, {law.convention}"
    return f"It draws from {what}, fitted on {law.n_runs} runs{runs}; {counted_as}."


def _of_study(
    study: Study | None, law: Law, *, low: float, high: float, device: str
) -> dict[str, Any]:
    """Return the shapes to choose from, the batch rule and the speeds; empty without a study.

    study, law: those of `planner_data`
    low, high: C at the ends of the slider
    device: on which the plan trains
    """
    empty: dict[str, Any] = {"shapes": [], "batch": None, "speeds": [], "start": 0.0}
    empty["speed_quantile"] = study.speed_quantile if study else 0.5
    if study is None or not study.shapes or study.like.n_experts:
        return empty
    sizes = sorted(law.optimum(c, force=True).params for c in (low, high))
    device = device or study.device
    every = candidates(
        study, count=law.count, low=sizes[0] / WIDER, high=sizes[1] * WIDER, device=device
    )
    rule = study.recipe
    speeds = [(c.params, c.flops_per_second) for c in study.cells if c.flops_per_second > 0]
    return {
        "shapes": [_shape(one, study, law.count, device) for one in every],
        "batch": None
        if rule is None
        else {
            "base": rule.batch_base,
            "params": rule.batch_base_params,
            "exponent": rule.batch_exponent,
            "context": study.like.context,
        },
        "speeds": [list(pair) for pair in speeds],
        "speed_quantile": study.speed_quantile,
        "start": max(c.params for c in study.cells),
    }


def _shape(one: Candidate, study: Study, count: str, device: str) -> list[Any]:
    """Return a candidate for the page, with what a step of d_ff adds to N, c and the body.

    [layers, width, N, FLOPs per token, body, trained, off, d_ff, the family's d_ff, step of d_ff,
    least and most steps, N a step, FLOPs per token a step, body a step]
    """
    shape, step = one.shape, ffn_step(one.shape, device)
    wider = replace(shape, d_ff=shape.d_ff + step)
    body, more = shape.params.active_body, wider.params.active_body
    return [
        shape.n_layer,
        shape.d_model,
        int(one.params),
        shape.flops_per_token,
        body,
        int(one.trained),
        float(f"{one.off:.{DIGITS}g}"),
        shape.d_ff,
        float(f"{study.like.d_ff / study.like.d_model * shape.d_model:.{DIGITS}g}"),
        step,
        *ffn_steps(shape, study.like, step),
        int(getattr(wider.params, count) - one.params),
        wider.flops_per_token - shape.flops_per_token,
        more - body,
    ]


def _member(member: Member) -> dict[str, Any] | None:
    """Return a form of the law for the page; None for one that the page does not know."""
    name, values = member.form.name, dict(member.parameters)
    drawn = member.draws if member.draws is not None else np.array([list(values.values())])
    draws = dict(zip(values, drawn.T, strict=True))
    if name not in ("farseer", "frontier"):
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
