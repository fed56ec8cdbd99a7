"""The points of a law of the critical batch as lines for the terminal."""

from collections.abc import Mapping
from typing import Any

from analysis.number_text import interval, number, power

BEYOND = {"above": "above the largest tried", "below": "at or below the second smallest tried"}


def critical_batch_lines(block: Mapping[str, Any], level: float) -> list[str]:
    """Return a line a point, then the forecast of the withheld points.

    block: `methods["critical_batch"]` of law.json
    level: of the law's intervals
    """
    lines = [
        f"B_crit = k T^p tokens, T tokens seen; loss within {block['tolerance']:g} of the least",
        f"{'T':>10}  {'critical batch':<16}{'batches tried':<22}trunk",
    ]
    for point in block["points"]:
        tried = f"{point['batches'][0]:.0f} to {point['batches'][-1]:.0f}"
        value = BEYOND.get(point["where"]) or f"{point['batch']:.0f}"
        lines.append(f"{power(point['at_tokens'], 3):>10}  {value:<16}{tried:<22}{point['trunk']}")
    cast = block["hindcast"]
    if cast is None:
        lines.append("No T could be withheld, so the power law is not tested.")
        return lines
    lines.append(
        f"Withheld T = {power(cast['at_tokens'], 3)} ({cast['reach']:.3g} times beyond): forecast"
        f" {number(cast['forecast'], 3)} {interval(cast['interval'], 3)} ({level:.0%}), measured"
        f" {', '.join(number(m, 3) for m in cast['measured'])}"
    )
    return lines
