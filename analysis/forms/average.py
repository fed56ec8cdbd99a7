"""The average over forms: log L(N, D) = sum_k w_k log L_k(N, D), as a `Form` of its own.

Errors of forms beyond the data often have opposite signs, so that their average forecasts better
than the form that was best on withheld runs (`benchmarks/averaging.py` measures it). The
parameters of the average are those of all its members, each named `member.parameter`.

Beyond the fitted N and tokens per parameter a form with many parameters may fall below every loss
that the others know, and with a tenth of the weight it then decides where the optimum lies. There a
form is held near the weighted median of all: with s e-folds of N or D/N beyond the fitted runs,
within `HELD` / s of log loss, and from one e-fold on within `HELD`. Nothing is held among the runs.
The spread of the forms about the average, a part of every interval, is of the forms as they are.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from analysis.forms.form import Array, Form

# Log loss by which a form may differ from the median of all beyond the fitted runs. Chosen among
# .01 to .1 by withheld runs beyond x10: Epoch's 240 rows and half of the splits of Muennighoff's
# one-pass rows keep their error, the other half has 2.2 % instead of 3.4 %, Gadre's c4_original 4.8
# instead of 5.3 %. Narrower ones move forecasts that were right.
HELD = 0.05
LEAST_BEYOND = 1e-6  # e-folds beyond the fitted runs from which anything is held
HALF = 1e-9  # a share of the weight this close to a half is a half


@dataclass(frozen=True, kw_only=True)
class FittedRange:
    """Where the runs lie: smallest and largest N, tokens per parameter, and what is held beyond.

    params: (smallest, largest) N
    tokens_per_param: (smallest, largest) D / N
    held: log loss by which a form may differ from the median of all, one e-fold beyond and farther
    """

    params: tuple[float, float]
    tokens_per_param: tuple[float, float]
    held: float = HELD

    @classmethod
    def of(cls, params: Array, tokens: Array) -> Self:
        """Return the range of runs of N and D, each (n,)."""
        ratio = tokens / params
        return cls(
            params=(float(params.min()), float(params.max())),
            tokens_per_param=(float(ratio.min()), float(ratio.max())),
        )

    @classmethod
    def read(cls, block: Any, path: str | Path) -> Self | None:
        """Return the range of a block of law.json, None for none; ValueError for an odd one."""
        if block is None:
            return None
        try:
            low, high = map(float, block["params"])
            least, most = map(float, block["tokens_per_param"])
            held = float(block["held"])
            fine = all(map(math.isfinite, (high, most, held)))
            if not (fine and 0 < low <= high and 0 < least <= most and held > 0):
                raise ValueError("params, tokens_per_param, held")
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path}: the forecast's fitted range is none ({error}); refit it with"
                " analysis.fit form=all"
            ) from error
        return cls(params=(low, high), tokens_per_param=(least, most), held=held)

    def as_block(self) -> dict[str, Any]:
        """Return the block `fitted` of law.json's forecast."""
        return {
            "params": list(self.params),
            "tokens_per_param": list(self.tokens_per_param),
            "held": self.held,
        }

    def beyond(self, params: Any, tokens: Any) -> Array:
        """Return how many e-folds N or D / N lie beyond the runs; 0 among them."""
        with np.errstate(divide="ignore", invalid="ignore"):
            n, ratio = np.log(params), np.log(np.asarray(tokens) / params)
        outside = [
            np.maximum(np.log(low) - at, at - np.log(high))
            for at, (low, high) in ((n, self.params), (ratio, self.tokens_per_param))
        ]
        return np.maximum(np.maximum(*outside), 0.0)


@dataclass(frozen=True, kw_only=True)
class Member:
    """One form of an average.

    form: a form of the loss
    parameters: its parameters
    draws: parameters of the resamples (S, P), the same S in the same order for every member of an
        average; None without
    weight: its share of the average
    spread_weight: its share of the spread of the forms about the average
    """

    form: Form
    parameters: Mapping[str, float]
    draws: Array | None
    weight: float
    spread_weight: float = 0.0

    def log_loss(self, values: Mapping[str, Array]) -> Array:
        """Return the log of the loss at values of the variables."""
        return np.log(self.form.predict(self.parameters, values))


@dataclass(frozen=True, kw_only=True)
class Surface:
    """What a law predicts with: a form, its parameters, and their draws (S, P), None without."""

    form: Form
    parameters: Mapping[str, float]
    draws: Array | None

    def named_draws(self, trailing: int = 0, most: int | None = None) -> dict[str, Array]:
        """Return the draws by name, each (S, 1, ...) with so many trailing axes; at most `most`."""
        assert self.draws is not None
        draws = self.draws[:most].reshape(-1, len(self.parameters), *(1,) * trailing)
        return {name: draws[:, i] for i, name in enumerate(self.parameters)}


def average(members: Sequence[Member], fitted: FittedRange | None = None) -> Surface:
    """Return the average of forms of N and D as one surface.

    members: each with a positive weight; the weights are scaled to sum to 1. A member without draws
        keeps its parameters in every draw of the others.
    fitted: where the runs lie, beyond which the forms are held together; None holds nothing
    """
    total = sum(m.weight for m in members)
    weights = [m.weight / total for m in members]
    count = max((len(m.draws) for m in members if m.draws is not None), default=0)
    variables = dict.fromkeys(v for m in members for v in m.form.variables)
    optional = [v for v in variables if v not in ("params", "tokens")]

    def function(parameters: Mapping[str, Any], values: Mapping[str, Any]) -> Any:
        logs = []
        for member in members:
            own = {name: parameters[f"{member.form.name}.{name}"] for name in member.parameters}
            logs.append(np.log(member.form.predict(own, values)))
        return np.exp(joined(logs, weights, values, fitted))

    form = Form(
        name="all",
        formula="log L = "
        + " + ".join(f"{w:.2g} log L_{m.form.name}" for w, m in zip(weights, members, strict=True)),
        source="average of log L over forms",
        parameters=tuple(f"{m.form.name}.{name}" for m in members for name in m.parameters),
        variables=tuple(variables),
        optional=tuple(optional),
        function=function,
    )
    draws = None
    if count:
        draws = np.hstack([_draws(m, count) for m in members])
    return Surface(
        form=form,
        parameters={f"{m.form.name}.{n}": v for m in members for n, v in m.parameters.items()},
        draws=draws,
    )


def spread(members: Sequence[Member], middle: Array, value: Callable[[Member], Array]) -> Array:
    """Return the root mean square distance of the members from the average, by spread weight.

    members: forms, at least one of which has a spread weight
    middle: the average's own value
    value: a member's value, of the same shape
    """
    weights = [m.spread_weight for m in members]
    distances = [(np.asarray(value(m)) - middle) ** 2 for m in members]
    return np.sqrt(np.average(np.stack(distances), axis=0, weights=weights))


def _draws(member: Member, count: int) -> Array:
    if member.draws is None:
        return np.tile(list(member.parameters.values()), (count, 1))
    return member.draws


def joined(
    logs: Sequence[Array],
    weights: Sequence[float],
    values: Mapping[str, Any],
    fitted: FittedRange | None,
) -> Array:
    """Return the weighted mean of the forms' log losses, held near their median beyond the runs.

    logs: log loss of each form, of shapes that broadcast
    weights: theirs, which sum to 1
    values: N and D (`params`, `tokens`), which broadcast with them
    fitted: where the runs lie; None holds nothing
    """
    mean = sum(weight * one for weight, one in zip(weights, logs, strict=True))
    if fitted is None or len(logs) == 1:
        return np.asarray(mean)
    beyond = fitted.beyond(values["params"], values["tokens"])
    if not (beyond > LEAST_BEYOND).any():
        return np.asarray(mean)
    stacked = np.stack(np.broadcast_arrays(*logs))
    middle = weighted_median(stacked, np.asarray(weights))
    half = fitted.held / np.clip(beyond, LEAST_BEYOND, 1.0)
    near = np.clip(stacked, middle - half, middle + half)
    return np.where(beyond > LEAST_BEYOND, np.tensordot(weights, near, axes=1), mean)


def weighted_median(values: Array, weights: Array) -> Array:
    """Return the median over the first axis, the middle of two where the weight splits in half.

    values: (K, ...)
    weights: (K,), which sum to 1
    """
    order = np.argsort(values, axis=0)
    ordered, share = np.take_along_axis(values, order, 0), np.cumsum(weights[order], axis=0)
    ends = [np.argmax(share >= 0.5 + side * HALF, axis=0)[None] for side in (-1, 1)]
    low, high = (np.take_along_axis(ordered, end, 0)[0] for end in ends)
    return (low + high) / 2
