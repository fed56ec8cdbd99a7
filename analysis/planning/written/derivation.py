"""A plan as lines of text: value, interval and reason of everything, at most 100 columns.

The first lines say what is alarming, so that nothing below is read without it.
"""

import textwrap
from collections.abc import Iterator
from typing import Any

from analysis.planning.experts import choice_lines
from analysis.planning.laws_compared import comparison_lines

WIDTH = 100
BLOCKS = (
    "budget", "pretrain", "machine", "cost", "forecast", "confirmation", "sft", "reward", "ppo",
)  # fmt: skip


def derivation(plan: dict[str, Any]) -> list[str]:
    """Return the lines of a plan's derivation."""
    return list(_lines(plan))


def shown(value: Any) -> str:
    """Write a value for people: counts and rates in four digits, a shape as layers x width."""
    if isinstance(value, dict):
        return f"{value['n_layer']} x {value['d_model']}"
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return f"{len(value)} points"
    if isinstance(value, list):
        return f"[{', '.join(shown(v) for v in value)}]"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int) and abs(value) < 100_000:
        return str(value)
    return f"{value:.4g}".replace("e+", "e")


def blocks_of(plan: dict[str, Any]) -> Iterator[tuple[str, dict[str, tuple[Any, str]]]]:
    """Yield each block of a plan with value and reason of what it sets."""
    for block in BLOCKS:
        values = plan.get(block, {})  # a plan older than the block has none
        reasons = values.get("reasons") or plan.get("reasons", {}).get(block, {})
        yield (
            block,
            {
                key: (value, str(reasons.get(key, "")))
                for key, value in values.items()
                if key != "reasons" and value is not None
            },
        )


def _lines(plan: dict[str, Any]) -> Iterator[str]:
    for alarm in plan["alarms"]:
        yield from textwrap.wrap(
            f"ALARM {alarm['code']}: {alarm['sentence']}", WIDTH, subsequent_indent="  "
        )
    reach = (
        f"{plan['extrapolation']:.4g} times the largest compute fitted"
        if plan["extrapolation"]
        else "extrapolation unknown"
    )
    yield f"plan for study {plan['study']}: {reach}"
    yield from comparison_lines(plan["laws"], plan["budget"]["flops"]) if plan["laws"] else ()
    yield from choice_lines(plan["mixtures"]) if plan["mixtures"] else ()
    if plan["steps"]:
        yield "derivation: value, interval before rounding, law or rule, rounding"
    for step in plan["steps"]:
        yield from _line(step["what"], step["value"], _said(step))
    for block, values in blocks_of(plan):
        yield block
        for key, (value, reason) in values.items():
            yield from _line(key, value, reason)
        for row in plan.get(block, {}).get("curve", ()):
            band = f" {shown(row['interval'])}" if row["interval"] else ""
            yield f"    at {row['share']:>4.0%} of the tokens{row['test_loss']:>8.4f}{band}"


def _said(step: dict[str, Any]) -> str:
    parts = [shown(step["interval"])] if step["interval"] else []
    parts.append(step["rule"])
    if step["rounding"]:
        parts.append(f"rounding {step['rounding']}")
    return "; ".join(parts)


def _line(key: str, value: Any, reason: str) -> list[str]:
    head = f"  {key:<19} {shown(value):<11} "
    return textwrap.wrap(head + reason, WIDTH, subsequent_indent=" " * 34, drop_whitespace=True)
