"""A plan as lines of text: value, interval and reason of everything, at most 100 columns.

The alarms come first, so that nobody reads the numbers without them.
"""

import textwrap
from collections.abc import Iterator
from typing import Any

from analysis.planning.experts import choice_lines
from analysis.planning.laws_compared import comparison_lines
from analysis.planning.plan import Plan, Step

WIDTH = 100  # columns of a terminal
BLOCKS = (
    "budget", "pretrain", "machine", "cost", "forecast", "confirmation", "sft", "reward", "ppo",
)  # fmt: skip


def derivation(plan: Plan) -> list[str]:
    """Return the lines of a plan's derivation."""
    return list(_lines(plan))


def shown(value: Any) -> str:
    """Write a value for people: counts and rates in four digits, a shape as layers x width."""
    if isinstance(value, dict) and "n_layer" in value:
        return f"{value['n_layer']} x {value['d_model']}"
    if isinstance(value, dict):
        return ", ".join(f"{k} {shown(v)}" for k, v in value.items())
    if isinstance(value, list | tuple) and value and isinstance(value[0], dict):
        return f"{len(value)} points"
    if isinstance(value, list | tuple):
        return f"[{', '.join(shown(v) for v in value)}]"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int) and abs(value) < 100_000:
        return str(value)
    return f"{value:.4g}".replace("e+", "e")


def blocks_of(plan: Plan) -> Iterator[tuple[str, dict[str, tuple[Any, str]]]]:
    """Yield the name of each block, and {name: (value, reason)} of the values that it sets."""
    values = plan.to_dict()
    for name in BLOCKS:
        if name not in values:
            continue  # a stage that is not planned
        reasons = values[name].pop("reasons", None) or plan.reasons.get(name, {})
        yield (
            name,
            {
                key: (value, str(reasons.get(key, "")))
                for key, value in values[name].items()
                if value is not None
            },
        )


def _lines(plan: Plan) -> Iterator[str]:
    for alarm in plan.alarms:
        yield from textwrap.wrap(
            f"ALARM {alarm.code}: {alarm.sentence}", WIDTH, subsequent_indent="  "
        )
    reach = (
        f"{plan.extrapolation:.4g} times the largest compute fitted"
        if plan.extrapolation
        else "extrapolation unknown"
    )
    yield f"plan for study {plan.study}: {reach}"
    yield from comparison_lines(plan.laws, plan.budget.flops) if plan.laws else ()
    yield from choice_lines(plan.mixtures) if plan.mixtures else ()
    if plan.steps:
        yield "derivation: value, interval before rounding, law or rule, rounding"
    for step in plan.steps:
        yield from _line(step.what, step.value, _reason_of(step))
    if reasons := plan.reasons.get("stages"):
        yield "stages: what was checked of each before anything is trained"
        planned = plan.stages.split(",")
        for stage, reason in reasons.items():
            yield from _line(stage, "planned" if stage in planned else "left out", reason)
    for name, values in blocks_of(plan):
        yield name
        for key, (value, reason) in values.items():
            yield from _line(key, value, reason)
        for point in (plan.forecast.curve or ()) if name == "forecast" else ():
            band = f" {shown(point.interval)}" if point.interval else ""
            yield f"    at {point.share:>4.0%} of the tokens{point.test_loss:>8.4f}{band}"


def _reason_of(step: Step) -> str:
    """Return interval, rule and rounding of a step as one sentence."""
    parts = [shown(step.interval)] if step.interval else []
    parts.append(step.rule)
    if step.rounding:
        parts.append(f"rounding {step.rounding}")
    return "; ".join(parts)


def _line(key: str, value: Any, reason: str) -> list[str]:
    """Return a value with its reason, wrapped under the reason's column."""
    head = f"  {key:<19} {shown(value):<11} "
    return textwrap.wrap(head + reason, WIDTH, subsequent_indent=" " * 34, drop_whitespace=True)
