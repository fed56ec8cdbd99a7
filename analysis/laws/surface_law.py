"""What a law of `form=surface` says of settings: the best rate, batch and weight decay at N and D.

law.settings(1e9, 2e10)              .lr, .batch, .weight_decay, .intervals, .outside
law.settings(1e9, 2e10, batch=2**19)          the best rate at a batch that is given
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from analysis.forms.settings.surface import DECAY, best, best_decay
from analysis.laws.law_file import LawFile

FORM = "surface"
NAMES = ("lr", "batch", "weight_decay")


@dataclass(frozen=True, kw_only=True)
class BestSettings:
    """The best settings of a run, with intervals {name: (low, high)} at `level`.

    `batch` is in tokens. `weight_decay` is None for a law of runs with one weight decay. A law
    without draws has no intervals. `outside` says in a sentence each which settings lie beyond what
    was tried.
    """

    lr: float
    batch: float
    weight_decay: float | None
    level: float
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    outside: tuple[str, ...] = ()


def best_settings(
    law: LawFile, params: float, tokens: float, level: float, batch: float | None = None
) -> BestSettings:
    """Return the best settings of a law of form surface.

    law: the law
    params: N, counted as the law's `count` says
    tokens: D
    level: of the intervals, between 0 and 1, which are percentiles of the draws
    batch: in tokens, to find the best rate at; None takes the best batch

    Raises ValueError for another form, and for N, D or a batch that is not positive.
    """
    if law.form != FORM:
        other = (
            "analysis.estimation.lr_batch.settings reads it"
            if law.form == "lr_batch"
            else "fit form=surface to a sweep of learning rates and batches"
        )
        raise ValueError(f"a law of form {law.form} has no settings(N, D); {other}")
    given = {"params": params, "tokens": tokens} | ({} if batch is None else {"batch": batch})
    bad = [f"{name}={value}" for name, value in given.items() if not value > 0]
    if bad:
        raise ValueError(
            f"{', '.join(bad)} must be positive; give N and D as numbers, as 1e9, 2e10"
        )
    values = {
        name: float(v) for name, v in _settings(law.parameters, params, tokens, batch).items()
    }
    intervals: dict[str, tuple[float, float]] = {}
    if law.draws is not None:
        draws = {name: law.draws[:, i] for i, name in enumerate(law.parameters)}
        tails = [(1 - level) / 2, (1 + level) / 2]
        for name, drawn in _settings(draws, params, tokens, batch).items():
            ends = np.quantile(np.broadcast_to(drawn, len(law.draws)), tails)
            intervals[name] = (float(ends[0]), float(ends[1]))
    return BestSettings(
        lr=values["lr"],
        batch=values["batch"],
        weight_decay=values.get("weight_decay"),
        level=level,
        intervals=intervals,
        outside=_outside(law, values),
    )


def _settings(
    p: Mapping[str, Any], params: float, tokens: float, batch: float | None
) -> dict[str, Any]:
    lr, at = best(p, params, tokens, batch)
    values = {"lr": lr, "batch": at}
    if set(DECAY) <= set(p):
        values["weight_decay"] = best_decay(p, params, tokens, lr, at)
    return values


def _outside(law: LawFile, values: Mapping[str, float]) -> tuple[str, ...]:
    said = []
    for name in (n for n in NAMES if n in values and n in law.ranges):
        low, high = law.ranges[name]
        if not low <= values[name] <= high:
            said.append(
                f"{name} {values[name]:.4g} lies beyond the values tried, {low:.4g} to {high:.4g}"
            )
    return tuple(said)
