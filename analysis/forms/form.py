"""The form of a law: names, a formula, and either power-law terms or a plain numpy function.

Each file of this folder holds one `Form` or a few. Most laws are an offset plus products of powers,
L = [E +] sum_k amplitude_k prod_j x_j^(weight_kj exponent_kj). Such a form lists its `terms`, from
which its values and its first and second derivatives follow. Any other law gives
`function(parameters, variables)` in ordinary numpy (exp, log, minimum, + - * / **), whose
derivatives are exact too, by the arithmetic of `analysis.forms.jets`.

Variables are columns of the table: N `params`, D `tokens`, C `flops` and others. The form predicts
the column `target`, by default `loss` in nats per token.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Array = NDArray[Any]  # float64 unless a docstring says otherwise

# Bounds of an exponent: a term below 1e-3 cannot be told from E, and a term above 8 falls 25-fold
# between sizes a factor of 1.5 apart, so that it is a step and no power law. Ladders whose smallest
# sizes are far worse than the others have their optimum near 4.5, inside.
EXPONENT_BOUNDS = (1e-3, 8.0)
_NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True)
class Term:
    """One power law: an amplitude times variables to the power of exponents.

    amplitude: name of the amplitude
    exponents: {exponent: {variable: sign}}, as {"alpha": {"params": -1}} for N^-alpha
    factors: {exponent: c} multiplies the term by c^exponent
    """

    amplitude: str
    exponents: Mapping[str, Mapping[str, float]]
    factors: Mapping[str, float] = field(default_factory=lambda: _NOTHING)

    def log_base(self, exponent: str, logs: Mapping[str, Any]) -> Any:
        """Return the log that the exponent multiplies, given the logs of the variables."""
        base = sum(sign * logs[v] for v, sign in self.exponents[exponent].items())
        return base + np.log(self.factors.get(exponent, 1.0))


@dataclass(frozen=True, kw_only=True)
class Form:
    """The shape of a law and how it is fitted.

    name: as in `form=NAME`
    formula: for people, in ASCII
    source: paper and equation
    parameters: their names in order
    variables: columns that the form reads
    target: column that the form predicts
    offset: name of the irreducible loss, None without
    terms: power-law terms; or else a `function`
    function: (parameters, variables) to the target
    bounds: {parameter: (least, most)}; by default the offset is at least 0, exponents of terms are
        in `EXPONENT_BOUNDS`, and others are free
    logs: positive parameters of a function, which the solver takes in logs
    amplitudes: {A: {alpha: variable}} says that A multiplies variable^-alpha in a function; the
        solver takes A at the middle of the table, where it does not trade against alpha
    starts: table to the parameters to start from, {name: (S,)}; only a function needs it
    optimum: (parameters, flops) to log N of least loss with 6ND = flops, where a closed form exists
    objective: used where the caller names none
    stage: of the cells that the law is about
    optional: variables that a prediction may leave out; in terms they then count as 1
    chosen: variables that a fit needs and a prediction may leave out, which then is at their best
    peak: parameters to the first variable's value where the target is largest, and the target there
    outward: (theta, middle) to the parameters, for a function with better coordinates than logs and
        centred amplitudes; `middle` is the mean log of each variable
    inward: inverts `outward`
    near_frontier: whether the form holds near the compute frontier alone, so that `form=all` fits
        it only where it fits all forms to the runs there
    own_method: whether the form is fitted by a method of its own
        (`analysis.estimation.allocation_laws`), and not by the solver of all forms
    compared_by: the comparison that ranks the form, as `repetition` (by withheld epochs); form=all
        then leaves it out
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
    chosen: tuple[str, ...] = ()
    peak: Callable[[Mapping[str, Any]], tuple[Any, Any]] | None = None
    outward: Callable[[Mapping[str, Any], Mapping[str, float]], Mapping[str, Any]] | None = None
    inward: Callable[[Mapping[str, Any], Mapping[str, float]], Mapping[str, Any]] | None = None
    near_frontier: bool = False
    own_method: bool = False
    compared_by: str = "all"

    @property
    def exponents(self) -> tuple[str, ...]:
        """Names of the terms' exponents, in the order of first use."""
        return tuple(dict.fromkeys(name for t in self.terms for name in t.exponents))

    @property
    def is_surface(self) -> bool:
        """Whether the form gives the loss of a run from N and D alone (and optional variables)."""
        needed = set(self.variables) - set(self.optional) - set(self.chosen)
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
