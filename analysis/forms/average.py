"""The average over forms: log L(N, D) = sum_k w_k log L_k(N, D), as a `Form` of its own.

Errors of forms beyond the data often have opposite signs, so that their average forecasts better
than the form that was best on withheld runs (`benchmarks/averaging.py` measures it). Beyond the
fitted runs no form decides alone (`analysis.forms.agreement`). The parameters of the average are those of all its members, each named `member.parameter`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.forms.agreement import FittedRange, joined
from analysis.forms.form import Array, Form


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
