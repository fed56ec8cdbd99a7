"""The report's first screen: the question, the answer in cards, the law's formula as text.

The intervals beside N and D hold them: that of the law's optimum, else the sizes that lose as
little as `flat N` of the plan says.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from analysis.figures.bands import has_optimum
from analysis.forms import FORMS
from analysis.laws.known_entropy import true_offset
from analysis.laws.law import Law
from analysis.laws.text import describe_forecast
from analysis.number_text import (
    counts,
    duration,
    interval,
    number,
    power,
    short,
    supported,
    supported_interval,
)
from analysis.page.contents import Material
from analysis.planning.plan import Plan
from scaling.schema import Measure

DEFAULT_LEVEL = 0.9
AHEAD = 10.0  # times the largest C: where the page of a law without a plan answers


@dataclass(frozen=True, kw_only=True)
class Card:
    """One number of the answer."""

    what: str
    value: str
    note: str = ""
    tone: str = ""


def question(plan: Plan | None, mixture: dict[str, Any] | None = None) -> str:
    """Return the question that the plan answers, or the mixture."""
    if mixture and not plan:
        target = " and ".join(name for name, weight in mixture["target"].items() if weight)
        every = mixture["target"].values()
        loss = "mean loss of all domains" if len(set(every)) == 1 else f"loss on {target}"
        return f"which mixture of {len(mixture['sources'])} sources gives the least {loss}?"
    if not plan:
        return (
            "how the test loss falls with parameters, tokens and compute; no budget has been"
            " planned with yet."
        )
    device = f" on {plan.budget.device}" if plan.budget.device else ""
    return (
        f"with C = {power(plan.budget.flops, 3)} training FLOPs{device}, how large a model, on how"
        " many tokens, reaching what test loss?"
    )


def cards(material: Material) -> list[Card]:
    """Return the answer as cards: N, D, forecast, outcome; without a plan the law's exponent a."""
    law, plan = material.law, material.plan
    answer = []
    if plan:
        answer += _plan_cards(plan)
    elif law and law.allocation.get("a") is not None:
        answer.append(
            Card(
                what="optimal N grows as Cᵃ",
                value=f"a = {supported(law.allocation['a'], law.allocation.get('a_interval'))}",
                note=supported_interval(law.allocation.get("a_interval")),
            )
        )
    if not plan and law:
        answer += _optimum_cards(law)
    if law and (truth := true_offset(law)):
        answer.append(Card(what="true E of the source", value=f"{truth[0]:.4f}", note=truth[1]))
    outcome = verdict(material)
    if outcome:
        answer.append(
            Card(
                what="outcome of the final run",
                value=outcome["value"],
                note=outcome["head"],
                tone=outcome["tone"],
            )
        )
    answer += _ppo_cards(material)
    if material.mixture and not answer:
        gain = number(material.mixture["gain_over_natural"], 2)
        ends = interval(material.mixture["intervals"]["gain_over_natural"], 2)
        what = "gain of the proposed mixture over natural shares"
        answer.append(Card(what=what, value=f"{gain} nats", note=f"of weighted loss {ends}"))
    if not answer:
        done = len(material.cells())
        answer.append(Card(what="cells done", value=f"{done} of {len(material.records)}"))
    return answer


def verdict(material: Material) -> dict[str, str] | None:
    """Return forecast and outcome compared, in words; None before the final run has ended."""
    record, forecast = material.final.stages.get("pretrain"), material.forecast
    if record is None:
        return None
    if record.test_loss is None:
        return {
            "value": record.status,
            "tone": "bad",
            "head": f"The final run ended as {record.status}.",
            "text": record.error or "",
        }
    reached = record.test_loss
    if forecast is None or not forecast.test_loss:
        return {
            "value": f"{reached:.4f}",
            "tone": "",
            "head": "There was no forecast to hold it to.",
            "text": "",
        }
    error = reached - forecast.test_loss
    text = (
        f"Forecast {forecast.test_loss:.4f}, reached {reached:.4f}: {error:+.4f}"
        f" {forecast.unit.replace('_', ' ')}, {100 * error / forecast.test_loss:+.2f}%."
    )
    ends = forecast.interval
    if not ends:
        return {
            "value": f"{reached:.4f}",
            "tone": "",
            "head": "The forecast had no interval.",
            "text": text,
        }
    inside = ends[0] <= reached <= ends[1]
    head = (
        f"{'Inside' if inside else 'OUTSIDE'} the {100 * forecast.level:g}% interval"
        f" [{ends[0]:.4f}, {ends[1]:.4f}]."
    )
    return {
        "value": f"{reached:.4f}",
        "tone": "good" if inside else "bad",
        "head": head,
        "text": text,
    }


def formula(law: Law | None) -> str:
    """Write the law with its numbers."""
    if law is None:
        return ""
    p = {k: number(v) for k, v in law.parameters.items()}
    if law.form not in FORMS:
        return f"{law.form}: {', '.join(f'{k} = {v}' for k, v in p.items())}"
    named = "|".join(map(re.escape, p))
    text = re.sub(rf"\b({named})\b", lambda name: p[name[0]], FORMS[law.form].formula)
    return re.sub("^L =", "L(N, D) =", text) if FORMS[law.form].is_surface else text


def parameter_ends(law: Law | None) -> list[tuple[str, str]]:
    """Return each parameter's name and interval, to the digits that the interval supports."""
    ends = (law.intervals or {}).get("parameters", {}) if law else {}
    return [(k, supported_interval(ends[k])) for k in (law.parameters if law else ()) if k in ends]


def interval_level(law: Law | None) -> str:
    """Return the level of a law's intervals in words; "no intervals" without them."""
    return (
        f"{100 * law.intervals['level']:g}% intervals"
        if law and law.intervals
        else ("no intervals")
    )


def fit_note(law: Law | None) -> str:
    """Say how many runs were fitted, how the fit ended, and which forms are averaged."""
    if law is None:
        return ""
    average = describe_forecast(law)
    note = f"{law.n_runs} runs, {law.status.replace('_', ' ')}"
    return f"{note}; {average}" if average else note


def formula_note(law: Law | None) -> str:
    """Say the status of the fit and the interval of each parameter."""
    if law is None:
        return ""
    ends = ", ".join(f"{name} {text}" for name, text in parameter_ends(law))
    return f"{interval_level(law)}{': ' if ends else ''}{ends}; {fit_note(law)}"


def _plan_cards(plan: Plan) -> list[Card]:
    pretrain, forecast = plan.pretrain, plan.forecast
    shape = pretrain.model
    model = f"{shape['n_layer']} layers of width {shape['d_model']}"
    if shape.get("n_experts") and plan.cost and plan.cost.params_total:
        model += (
            f", top {shape['top_k']} of {shape['n_experts']} experts,"
            f" {short(plan.cost.params_total)} parameters in all"
        )
    percent = f"{100 * forecast.level:g}%"
    trained = f"; about {duration(pretrain.seconds)} of training" if pretrain.seconds else ""
    answer = [
        Card(
            what="model size N",
            value=short(pretrain.params),
            note=f"{held_size(plan)}; {model}",
        ),
        Card(
            what="training tokens D",
            value=short(pretrain.tokens),
            note=(
                f"{held_tokens(plan)}; {pretrain.tokens / pretrain.params:.3g} per"
                f" parameter{trained}"
            ),
        ),
    ]
    if forecast.test_loss is not None:
        ends = forecast.interval
        per_byte = f"; {forecast.bits_per_byte:.3f} bits per byte" if forecast.bits_per_byte else ""
        reach = f"; {plan.extrapolation:.3g} x the largest cell" if plan.extrapolation else ""
        answer.append(
            Card(
                what=f"forecast {Measure(target=forecast.target, unit=forecast.unit).words}",
                value=supported(forecast.test_loss, ends),
                note=f"{percent} interval {supported_interval(ends)}{per_byte}{reach}",
            )
        )
    return answer


def _optimum_cards(law: Law) -> list[Card]:
    """Return what the law says of `AHEAD` times the largest C; [] where it may not."""
    if not law.usable or not law.extrapolates or not has_optimum(law):
        return []
    level = (law.intervals or {}).get("level", DEFAULT_LEVEL)
    flops = AHEAD * law.ranges.get("flops_6nd", law.ranges.get("flops", [0.0, 0.0]))[1]
    if not flops:
        return []
    best, percent = law.optimum(flops, level), f"{100 * level:g}% interval"
    at = f"at C = {power(flops)}, {AHEAD:g} x the largest run"
    answer = [
        Card(
            what=name,
            value=short(getattr(best, key)),
            note=f"{at}; {percent} {counts(best.intervals.get(key))}",
        )
        for name, key in (("optimal N", "params"), ("optimal D", "tokens"))
    ]
    if best.loss is not None:
        prediction = law.predict(best.params, best.tokens, level)
        ends = None
        if prediction.low is not None and prediction.high is not None:
            ends = (float(prediction.low), float(prediction.high))
        loss = supported(float(prediction.loss), ends)
        note = f"{at}; {percent} of one run {supported_interval(ends)}"
        answer.append(Card(what="loss by the law", value=loss, note=note))
    return answer


def held_size(plan: Plan) -> str:
    """Say between which sizes N may lie: an interval that holds the planned N."""
    n, percent = plan.pretrain.params, f"{100 * plan.forecast.level:g}%"
    ends = {step.what: step.interval for step in plan.steps}
    if _holds(ends.get("N*"), n):
        return f"{percent} interval of the optimum {counts(ends['N*'])}"
    if _holds(ends.get("flat N"), n):
        return f"every N in {counts(ends['flat N'])} is as good to {_lost(plan)}"
    if ends.get("params") and not _holds(ends["params"], n):
        return f"outside the {percent} interval of the optimum {counts(ends['params'])}: rounded"
    return f"{percent} interval {counts(ends.get('params'))}"


def held_tokens(plan: Plan) -> str:
    """Say between which tokens D may lie at this C: an interval that holds the planned D."""
    n, d, percent = plan.pretrain.params, plan.pretrain.tokens, f"{100 * plan.forecast.level:g}%"
    ends = {step.what: step.interval for step in plan.steps}
    for what in ("D*", "tokens"):
        if _holds(ends.get(what), d):
            return f"{percent} interval of the optimum {counts(ends[what])}"
    if _holds(ends.get("flat N"), n):
        low, high = ends["flat N"]
        return f"every D in {counts((d * n / high, d * n / low))} at this C is as good"
    return f"what C pays at this N; {percent} interval of the optimum {counts(ends.get('D*'))}"


def _holds(ends: Sequence[float] | None, value: float) -> bool:
    return bool(ends) and ends[0] <= value <= ends[1]  # type: ignore[index]


def _lost(plan: Plan) -> str:
    """Return the loss within which the plan calls sizes equal, in its words."""
    rule = next((step.rule for step in plan.steps if step.what == "flat N"), "")
    found = re.search(r"at most ([\d.e-]+ [a-z ]+?) against", rule)
    return found[1] if found else "the last digit"


def kl_budget(plan: Plan | None) -> float | None:
    """Return the KL that PPO may spend, in nats per sequence; None without a plan of PPO."""
    return plan.ppo.kl_budget if plan and plan.ppo else None


def _ppo_cards(material: Material) -> list[Card]:
    record = material.final.stages.get("ppo")
    metrics = record.metrics if record else {}
    if not {"reward_before", "reward_after", "kl"} <= set(metrics):
        return []
    budget = kl_budget(material.plan)
    rose, within = (
        metrics["reward_after"] > metrics["reward_before"],
        budget is None or metrics["kl"] <= budget,
    )
    of_budget = "" if budget is None else f" of a budget of {budget:g}"
    gold = (
        f"; gold {metrics['gold_before']:.3g} to {metrics['gold_after']:.3g}"
        if {"gold_before", "gold_after"} <= set(metrics)
        else ""
    )
    return [
        Card(
            what="reward by PPO",
            value=f"{metrics['reward_before']:.2f} → {metrics['reward_after']:.2f}",
            note=f"KL {metrics['kl']:.3g}{of_budget} nats per sequence{gold}",
            tone="good" if rose and within else "bad",
        )
    ]
