"""The forms a law can take: an offset plus power-law terms, linear in logs.

L = [E +] sum_k amplitude_k * prod_j x_j^(weight_kj * exponent_kj), x_j among params N, tokens D and
FLOPs C. A form names its parameters and, per term, which exponents multiply which logs; values,
first and second derivatives follow from that in `analysis.solver`. Inside, variables are centred at
their geometric means, so units of N and D shift an intercept and change nothing else.

chinchilla: Hoffmann et al. 2022 (2203.15556) eq. 10. power_*: Kaplan et al. 2020 (2001.08361)
eq. 1.1-1.3, with the offset E where the name ends in `_offset`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Array = NDArray[Any]  # float64 unless a docstring says otherwise

# Below 1e-3 a term is one with E; above 4 it is a step within one grid spacing, no power law.
EXPONENT_BOUNDS = (1e-3, 4.0)


@dataclass(frozen=True, kw_only=True)
class Term:
    """One power law: `amplitude` times each variable to (sign times) its exponent.

    `exponents` maps an exponent's name to {variable: sign}, as {"alpha": {"params": -1}}.
    """

    amplitude: str
    exponents: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True, kw_only=True)
class Form:
    """A law's shape: its parameters in order, the offset's name (or None), its terms."""

    name: str
    formula: str
    parameters: tuple[str, ...]
    offset: str | None
    terms: tuple[Term, ...]

    @property
    def variables(self) -> tuple[str, ...]:
        """Columns the form reads, in the order of first use."""
        seen = [v for t in self.terms for signs in t.exponents.values() for v in signs]
        return tuple(dict.fromkeys(seen))

    @property
    def exponents(self) -> tuple[str, ...]:
        """Names of the exponents, in the order of first use."""
        return tuple(dict.fromkeys(name for t in self.terms for name in t.exponents))

    def predict(
        self, parameters: Mapping[str, float | Array], values: Mapping[str, Array]
    ) -> Array:
        """Return L; parameters and variables broadcast against each other."""
        loss = parameters[self.offset] if self.offset else 0.0
        for term in self.terms:
            log_term = np.log(parameters[term.amplitude])
            for name, signs in term.exponents.items():
                log_x = sum(sign * np.log(values[v]) for v, sign in signs.items())
                log_term = log_term + parameters[name] * log_x
            loss = loss + np.exp(log_term)
        return np.asarray(loss, dtype=float)


@dataclass(frozen=True, kw_only=True)
class Design:
    """A form on one table: per term the positions of its parameters and their features.

    `index[k]` (m_k,) points into theta, first the amplitude; `features[k]` (m_k, n) holds ones and
    then the centred logs; `centres[k]` (m_k - 1,) are what was subtracted.
    """

    form: Form
    index: tuple[Array, ...]
    features: tuple[Array, ...]
    centres: tuple[Array, ...]

    @property
    def n_rows(self) -> int:
        """Rows of the table."""
        return self.features[0].shape[1]

    def take(self, rows: Array) -> "Design":
        """Return the design of some of the rows, with the same centres."""
        chosen = tuple(f[:, rows] for f in self.features)
        return Design(form=self.form, index=self.index, features=chosen, centres=self.centres)

    def external(self, theta: Array) -> Array:
        """Turn centred log-amplitudes (..., P) into amplitudes in the table's units."""
        out = np.array(theta, dtype=float)
        for index, centres in zip(self.index, self.centres, strict=True):
            out[..., index[0]] = np.exp(theta[..., index[0]] - theta[..., index[1:]] @ centres)
        return out

    def internal(self, parameters: Array) -> Array:
        """Invert `external`; amplitudes must be positive."""
        theta = np.array(parameters, dtype=float)
        for index, centres in zip(self.index, self.centres, strict=True):
            log_amplitude = np.log(parameters[..., index[0]])
            theta[..., index[0]] = log_amplitude + parameters[..., index[1:]] @ centres
        return theta


def column(table: pd.DataFrame, name: str) -> Array:
    """Return a column as float64 (n,)."""
    return np.asarray(table[name], dtype=float)


def design(form: Form, table: pd.DataFrame) -> Design:
    """Evaluate a form's centred features on a table with positive columns."""
    index, features, centres = [], [], []
    position = {name: i for i, name in enumerate(form.parameters)}
    logs = {v: np.log(column(table, v)) for v in form.variables}
    for term in form.terms:
        raw = [
            np.sum([s * logs[v] for v, s in signs.items()], axis=0)
            for signs in term.exponents.values()
        ]
        centre = np.array([column.mean() for column in raw])
        rows = [np.ones(len(table)), *(c - m for c, m in zip(raw, centre, strict=True))]
        index.append(np.array([position[n] for n in (term.amplitude, *term.exponents)]))
        features.append(np.array(rows))
        centres.append(centre)
    return Design(form=form, index=tuple(index), features=tuple(features), centres=tuple(centres))


def _power(variable: str, letter: str, *, offset: bool) -> Form:
    term = Term(amplitude="k", exponents={"exponent": {variable: -1.0}})
    return Form(
        name=f"power_{variable}{'_offset' if offset else ''}",
        formula=f"L = {'E + ' if offset else ''}k {letter}^-exponent",
        parameters=("E", "k", "exponent") if offset else ("k", "exponent"),
        offset="E" if offset else None,
        terms=(term,),
    )


_CHINCHILLA = Form(
    name="chinchilla",
    formula="L = E + A N^-alpha + B D^-beta",
    parameters=("E", "A", "B", "alpha", "beta"),
    offset="E",
    terms=(
        Term(amplitude="A", exponents={"alpha": {"params": -1.0}}),
        Term(amplitude="B", exponents={"beta": {"tokens": -1.0}}),
    ),
)

_LETTERS = {"params": "N", "tokens": "D", "flops": "C"}
_POWERS = [_power(v, c, offset=o) for v, c in _LETTERS.items() for o in (False, True)]

FORMS: Mapping[str, Form] = MappingProxyType({form.name: form for form in (_CHINCHILLA, *_POWERS)})


def form_named(name: str) -> Form:
    """Return a form by name; raises ValueError listing the names."""
    if name not in FORMS:
        raise ValueError(f"form={name} is not known; choose one of {', '.join(FORMS)}")
    return FORMS[name]
