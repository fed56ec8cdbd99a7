"""What a law's form is: names, a formula, and either power-law terms or a plain numpy function.

A form lives in one short file of this folder and is one `Form`. Most laws are an offset plus
products of powers, L = [E +] sum_k amplitude_k prod_j x_j^(weight_kj exponent_kj): such a form
lists its `terms`, and values, first and second derivatives follow from them. Any other law gives
`function(parameters, variables)` in ordinary numpy (exp, log, minimum, + - * / **); its
derivatives are exact too, by the arithmetic of `analysis.forms.jets`.

Variables are columns of the table, as N `params`, D `tokens`, C `flops`; `target` is the column
that the form predicts (`loss`, in nats per token, unless it says otherwise).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Array = NDArray[Any]  # float64 unless a docstring says otherwise

# Below 1e-3 a term is one with E; above 4 it is a step within one grid spacing, no power law.
EXPONENT_BOUNDS = (1e-3, 4.0)
_NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True)
class Term:
    """One power law: `amplitude` times each variable to (sign times) its exponent.

    `exponents` maps an exponent's name to {variable: sign}, as {"alpha": {"params": -1}};
    `factors` {exponent: c} multiplies the term by the constant c to that exponent.
    """

    amplitude: str
    exponents: Mapping[str, Mapping[str, float]]
    factors: Mapping[str, float] = field(default_factory=lambda: _NOTHING)

    def log_base(self, exponent: str, logs: Mapping[str, Any]) -> Any:
        """Return what the exponent multiplies, from the logs of the variables."""
        base = sum(sign * logs[v] for v, sign in self.exponents[exponent].items())
        return base + np.log(self.factors.get(exponent, 1.0))


@dataclass(frozen=True, kw_only=True)
class Form:
    """A law's shape and how it is fitted.

    `parameters` in order, each with its `bounds` (defaults: the offset from 0, exponents of terms
    in `EXPONENT_BOUNDS`, others free); those named in `logs` are positive and solved for in logs.
    `amplitudes` {A: {alpha: variable}} says that A multiplies variable^-alpha, so that A is solved
    for at the middle of the table, where it does not trade against alpha. A function with better
    coordinates than these translates itself: `outward(theta, middle)` gives the parameters and
    `inward` inverts it, `middle` being the mean log of each variable. `starts(table)` gives
    parameters to start from ({name: (S,)}), needed with `function` only. `optimum(parameters,
    flops)` returns log N of least loss with 6ND = flops where a closed form is known,
    `peak(parameters)` the first variable's value where the target is largest and the target there.
    A prediction may leave out `optional` variables, which in terms then count as 1.
    `objective` is the one used when the caller names none; `stage` says which cells of a study the
    law is of.
    """

    name: str
    formula: str
    source: str
    parameters: tuple[str, ...]
    variables: tuple[str, ...]
    target: str = "loss"
    offset: str | None = None
    terms: tuple[Term, ...] = ()
    function: Callable[[Mapping[str, Any], Mapping[str, Any]], Any] | None = None
    bounds: Mapping[str, tuple[float, float]] = field(default_factory=lambda: _NOTHING)
    logs: tuple[str, ...] = ()
    amplitudes: Mapping[str, Mapping[str, str]] = field(default_factory=lambda: _NOTHING)
    starts: Callable[[pd.DataFrame], Mapping[str, Array]] | None = None
    optimum: Callable[[Mapping[str, Any], Any], Any] | None = None
    objective: str = "huber_log"
    stage: str = "pretrain"
    optional: tuple[str, ...] = ()
    peak: Callable[[Mapping[str, Any]], tuple[Any, Any]] | None = None
    outward: Callable[[Mapping[str, Any], Mapping[str, float]], Mapping[str, Any]] | None = None
    inward: Callable[[Mapping[str, Any], Mapping[str, float]], Mapping[str, Any]] | None = None

    @property
    def exponents(self) -> tuple[str, ...]:
        """Names of the terms' exponents, in the order of first use."""
        return tuple(dict.fromkeys(name for t in self.terms for name in t.exponents))

    @property
    def is_surface(self) -> bool:
        """Tell whether the form gives the loss of a run from its N and D alone (and options)."""
        needed = set(self.variables) - set(self.optional)
        return self.target == "loss" and needed == {"params", "tokens"}

    def predict(
        self, parameters: Mapping[str, float | Array], values: Mapping[str, Array]
    ) -> Array:
        """Return the target; parameters and variables broadcast against each other."""
        if self.function is not None:
            with np.errstate(over="ignore"):  # far from the data a double exponential is infinite
                return np.asarray(self.function(parameters, values), dtype=float)
        logs = {v: np.log(values.get(v, 1.0)) for v in self.variables}
        predicted = parameters[self.offset] if self.offset else 0.0
        for term in self.terms:
            log_term = np.log(parameters[term.amplitude])
            for name in term.exponents:
                log_term = log_term + parameters[name] * term.log_base(name, logs)
            predicted = predicted + np.exp(log_term)
        return np.asarray(predicted, dtype=float)


def column(table: pd.DataFrame, name: str) -> Array:
    """Return a column as float64 (n,)."""
    return np.asarray(table[name], dtype=float)
