"""The alarm that ways to read the exponent a of N* = k C^a off one table do not agree."""

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from analysis.alarms.alarm import Alarm
from analysis.forms import column

NAMES = {"parametric": "the parametric law", "isoflop": "IsoFLOP", "envelope": "the envelope"}
CURVE = 2  # end points that make a curve of a size
SIX_ND = "C = 6 N D"


def methods_disagree(
    methods: Mapping[str, Mapping[str, Any] | None], table: pd.DataFrame
) -> Alarm | None:
    """Name the two methods whose intervals of a lie farthest apart; None where all overlap.

    methods: the `methods` block of law.json; a method without an interval is not compared
    table: the runs; an envelope of end points is compared only where sizes have `CURVE` of them on
        average, since single points are no curves and their lower envelope follows chance
    """
    intervals = {name: block["a_interval"] for name in NAMES if (block := methods.get(name))}
    intervals = {name: ends for name, ends in intervals.items() if ends}
    of_points = (methods.get("envelope") or {}).get("source") == "end points"
    if of_points and len(table) < CURVE * len(np.unique(column(table, "params"))):
        intervals.pop("envelope", None)
    apart = [
        (max(intervals[a][0] - intervals[b][1], intervals[b][0] - intervals[a][1]), a, b)
        for a, b in combinations(intervals, 2)
    ]
    gap, first, second = max(apart, default=(0.0, "", ""))
    if gap <= 0:
        return None
    pair = [(NAMES[n], *intervals[n]) for n in (first, second)]
    texts = [f"{name} has [{low:.3f}, {high:.3f}]" for name, low, high in pair]
    facts = f"The methods do not agree on a of N* ~ C^a: {', '.join(texts)}{_counts(methods)}"
    return Alarm(
        code="methods_disagree",
        sentence=f"{facts}; chance does not explain that, so one of them is biased: act on the "
        "other alarms, fit near the frontier (within=0.1) or compare forms (form=all), and plan "
        "with both until they agree.",
    )


def _counts(methods: Mapping[str, Mapping[str, Any] | None]) -> str:
    """Say where the methods do not count C alike, which may be all of the difference."""
    convention = (methods.get("isoflop") or {}).get("convention", SIX_ND)
    of_law = (methods.get("parametric") or {}).get("convention", SIX_ND)
    alike = convention == of_law or SIX_ND not in (convention, of_law)  # a column of exact FLOPs
    return "" if alike else f" (the law has {of_law}, the others {convention})"
