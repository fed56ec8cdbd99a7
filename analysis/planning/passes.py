"""Passes over few unique tokens, and the weight decay there, by a law whose loss can rise again.

A form of `form=repetition` that can rise has a number of passes e = D/U of least loss at each N. A
plan takes no more of them, and leaves the rest of its compute in reserve. `overfitting_decay` also
has a weight decay of least loss at these N, D and U. Neither leaves the range that was fitted: the
penalty of more passes, or the gain of more decay, is known there alone.

U unique tokens, N parameters, D tokens, e passes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.forms import FORMS, Array
from analysis.forms.data_constrained import DECAYS, best_decay
from analysis.laws.law import Law

GRID = 161  # passes tried, evenly in log: 2.6 % apart up to 64
MOST_DRAWS = 400  # draws of an interval, which more would hardly move
DEFAULT_PASSES = 64.0  # of a law whose file does not say how many were fitted
AT_EDGE = 0.999  # a best value within this share of the largest one fitted stands at its edge
MOST_LOST = 0.005  # share of the loss that the edge of the fitted weight decays may cost


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A value that a law chooses, its interval (the value twice without draws), and the reason."""

    value: float
    low: float
    high: float
    reason: str


def can_rise(law: Law) -> bool:
    """Return whether a law says that more passes harm."""
    return law.form in FORMS and FORMS[law.form].compared_by == "repetition"


def tokens_of_least_loss(law: Law, unique: float, params: Any) -> Array:
    """Return the D of least loss at each N, in as many passes as were fitted at most.

    law: a law that can rise
    unique: U
    params: N, any shape
    """
    n = np.asarray(params, dtype=float)[..., None]
    tokens = unique * _passes(law)
    values = {"params": n, "tokens": tokens, "unique_tokens": np.full_like(tokens, unique)}
    losses = _least_losses(law, law.parameters, values)  # (..., passes)
    return tokens[np.argmin(losses, axis=-1)]


def best_passes(law: Law, unique: float, params: float, level: float) -> Choice:
    """Return the passes of least loss at N, with their interval over the law's draws."""
    epochs = _passes(law)
    values = {
        "params": np.full_like(epochs, params),
        "tokens": unique * epochs,
        "unique_tokens": np.full_like(epochs, unique),
    }
    best = float(epochs[np.argmin(_least_losses(law, law.parameters, values))])
    drawn = _drawn(law)
    ends = np.array([best, best])
    if drawn is not None:
        losses = _least_losses(law, {k: v[:, None] for k, v in drawn.items()}, values)
        ends = np.quantile(epochs[np.argmin(losses, axis=1)], _tails(level))
    reason = f"the loss is least at {best:.3g} passes [{ends[0]:.3g}, {ends[1]:.3g}]"
    if best > AT_EDGE * epochs[-1]:
        reason = f"the loss still falls at {best:.3g} passes, the most that were fitted"
    return Choice(value=best, low=float(ends[0]), high=float(ends[1]), reason=reason)


def chosen_decay(
    law: Law, params: float, tokens: float, unique: float | None, level: float
) -> Choice | None:
    """Return the weight decay of least loss with its interval; None for a law that has none.

    law: the law that decides
    params, tokens, unique: N, D and U (None: every token is fresh)
    level: share that the interval holds

    Raises ValueError where the best weight decay lies so far outside the fitted ones that the edge
    would cost more than `MOST_LOST` of the loss.
    """
    if law.form not in FORMS or "weight_decay" not in FORMS[law.form].chosen:
        return None
    at = {"params": params, "tokens": tokens, "unique_tokens": min(unique or tokens, tokens)}
    least, most = law.ranges.get("weight_decay", [0.0, np.inf])
    best = float(best_decay(law.parameters, at))
    value = float(np.clip(best, least, most))
    lost = _loss(law, {**at, "weight_decay": value}) / _loss(law, {**at, "weight_decay": best}) - 1
    if lost > MOST_LOST:
        raise ValueError(
            f"the best weight decay at N = {params:.3g} and {tokens / at['unique_tokens']:.3g}"
            f" passes is {best:.3g}, outside the fitted {least:g} to {most:g}, whose edge costs"
            f" {100 * lost:.2g}% of the loss; sweep optim.weight_decay further and fit again, or"
            " give fewer passes (max_epochs=)"
        )
    drawn, ends = _drawn(law), np.array([value, value])
    if drawn is not None:
        ends = np.quantile(np.clip(best_decay(drawn, at), least, most), _tails(level))
    edge = "" if value == best else f"; {best:.3g} is better, but beyond the fitted ones"
    reason = (
        f"{law.form}: of least loss at these N, D and {tokens / at['unique_tokens']:.3g} passes,"
        f" {100 * level:g}% [{ends[0]:.3g}, {ends[1]:.3g}]{edge}"
    )
    return Choice(value=value, low=float(ends[0]), high=float(ends[1]), reason=reason)


def _least_losses(law: Law, parameters: Mapping[str, Any], values: Mapping[str, Any]) -> Array:
    """Return losses, at the best of the fitted weight decays where the law has them."""
    form = FORMS[law.form]
    if "weight_decay" not in form.chosen:
        return form.predict(parameters, values)
    low, high = law.ranges.get("weight_decay", [DECAYS[0], DECAYS[-1]])
    decays = np.clip(DECAYS, low, high)
    losses = [
        form.predict(parameters, {**values, "weight_decay": decay}) for decay in np.unique(decays)
    ]
    return np.min(losses, axis=0)


def _loss(law: Law, values: Mapping[str, Any]) -> float:
    return float(FORMS[law.form].predict(law.parameters, values))


def _passes(law: Law) -> Array:
    """Return the passes to try, from 1 to the most that were fitted."""
    return np.geomspace(1.0, law.ranges.get("passes", [1.0, DEFAULT_PASSES])[1], GRID)


def _drawn(law: Law) -> dict[str, Array] | None:
    """Return some of the law's draws by parameter, each (S,); None without."""
    if law.draws is None:
        return None
    return {name: law.draws[:MOST_DRAWS, i] for i, name in enumerate(law.parameters)}


def _tails(level: float) -> list[float]:
    return [(1 - level) / 2, (1 + level) / 2]
