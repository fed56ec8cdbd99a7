"""A form on one table: predictions and derivatives at many parameter vectors theta at once.

theta is the solver's view of the parameters: amplitudes in logs and taken at the middle of the
table (so that they do not trade against exponents, and units of N and D shift an intercept and
change nothing else), parameters that a form lists in `logs` in logs. `external` and `internal`
translate. Both kinds of design, of power-law terms and of a plain function, return `Parts` with
the same sums over rows, which are all that an objective needs.

Legend: S problems, P parameters, K terms, n rows. theta (S, P), predicted (S, n).
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from analysis.forms import EXPONENT_BOUNDS, Array, Form, column
from analysis.forms.jets import Jet, seeds

AMPLITUDE_RANGE = 40.0  # a centred log amplitude this far from log L is 0 (or the fit is lost)


class Parts(ABC):
    """Predictions (S, n) at one theta and the sums over rows of their derivatives."""

    predicted: Array

    @abstractmethod
    def jacobian(self) -> Array:
        """Return dL_i (S, P, n)."""

    @abstractmethod
    def gradient(self, slope: Array) -> Array:
        """Return sum_i slope_i dL_i (S, P) for row weights (S, n)."""

    @abstractmethod
    def squares(self, weight: Array) -> Array:
        """Return sum_i weight_i dL_i dL_i' (S, P, P)."""

    @abstractmethod
    def curvature(self, slope: Array) -> Array:
        """Return sum_i slope_i d2L_i (S, P, P)."""


@dataclass(frozen=True, kw_only=True)
class TermDesign:
    """Power-law terms: `index[k]` (m_k,) points into theta, first the amplitude; `features[k]`
    (m_k, n) holds ones, then the centred logs; `centres[k]` (m_k - 1,) are what was subtracted.
    """

    form: Form
    index: tuple[Array, ...]
    features: tuple[Array, ...]
    centres: tuple[Array, ...]

    @property
    def n_rows(self) -> int:
        """Rows of the table."""
        return self.features[0].shape[1]

    @property
    def offset(self) -> int | None:
        """Position of the offset in theta."""
        return self.form.parameters.index(self.form.offset) if self.form.offset else None

    def cost(self, *, second: bool) -> int:
        """Return how many numbers are kept for a row of a problem."""
        del second
        return 1

    def take(self, rows: slice | Array) -> "TermDesign":
        """Return the design of some of the rows, with the same centres."""
        return replace(self, features=tuple(f[:, rows] for f in self.features))

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

    def bounds(self, level: float) -> tuple[Array, Array]:
        """Return lower and upper bounds (P,) of theta; `level` is a typical log of the target."""
        names = self.form.parameters
        low, high = np.full(len(names), -np.inf), np.full(len(names), np.inf)
        for index in self.index:
            low[index[0]], high[index[0]] = level - AMPLITUDE_RANGE, level + AMPLITUDE_RANGE
            low[index[1:]], high[index[1:]] = EXPONENT_BOUNDS
        if self.offset is not None:
            low[self.offset] = 0.0
        for name, (least, most) in self.form.bounds.items():
            low[names.index(name)], high[names.index(name)] = least, most
        return low, high

    def terms(self, theta: Array) -> list[Array]:
        """Return each term (S, n)."""
        return [
            np.exp(theta[:, index] @ features)
            for index, features in zip(self.index, self.features, strict=True)
        ]

    def predicted(self, theta: Array) -> Array:
        """Return the target's prediction (S, n)."""
        total = sum(self.terms(theta))
        return np.asarray(total if self.offset is None else total + theta[:, [self.offset]])

    def parts(self, theta: Array, *, second: bool = True) -> "TermParts":
        """Return predictions and derivatives; `second` is of no concern to terms."""
        del second
        return TermParts(self, theta)


class TermParts(Parts):
    """Derivatives of a sum of terms t_k: dL is t_k f_k, d2L is t_k f_k f_k'."""

    def __init__(self, design: TermDesign, theta: Array) -> None:
        self.design, self.size = design, theta.shape[1]
        self.terms = design.terms(theta)
        total = self.terms[0]
        for term in self.terms[1:]:
            total = total + term
        self.predicted = total if design.offset is None else total + theta[:, [design.offset]]

    def jacobian(self) -> Array:
        """Return dL_i (S, P, n)."""
        design = self.design
        out = np.zeros((len(self.predicted), self.size, design.n_rows))
        for term, index, features in zip(self.terms, design.index, design.features, strict=True):
            out[:, index] += term[:, None] * features
        if design.offset is not None:
            out[:, design.offset] = 1.0
        return out

    def gradient(self, slope: Array) -> Array:
        """Return sum_i slope_i dL_i (S, P)."""
        design = self.design
        out = np.zeros((len(slope), self.size))
        for term, index, features in zip(self.terms, design.index, design.features, strict=True):
            out[:, index] += (slope * term) @ features.T
        if design.offset is not None:
            out[:, design.offset] = slope.sum(axis=1)
        return out

    def squares(self, weight: Array) -> Array:
        """Return sum_i weight_i dL_i dL_i' (S, P, P), from one product of terms a pair."""
        design = self.design
        out = np.zeros((len(weight), self.size, self.size))
        every = list(zip(self.terms, design.index, design.features, strict=True))
        for k, (term, at, f) in enumerate(every):
            left = weight * term
            for right, other, g in every[k:]:
                block = _outer(left * right, f, g)
                out[:, at[:, None], other] += block
                if other is not at:
                    out[:, other[:, None], at] += block.swapaxes(1, 2)
            if design.offset is not None:
                across = left @ f.T
                out[:, design.offset, at] += across
                out[:, at, design.offset] += across
        if design.offset is not None:
            out[:, design.offset, design.offset] = weight.sum(axis=1)
        return out

    def curvature(self, slope: Array) -> Array:
        """Return sum_i slope_i d2L_i (S, P, P)."""
        out = np.zeros((len(slope), self.size, self.size))
        for term, at, f in zip(self.terms, self.design.index, self.design.features, strict=True):
            out[:, at[:, None], at] += _outer(slope * term, f, f)
        return out


@dataclass(frozen=True, kw_only=True)
class FunctionDesign:
    """A plain function on the columns `values` {variable: (n,)}, whose mean logs are `middle`.

    `free` (F,) are the positions of parameters that are not held for good: no others have
    derivatives. `raw` amplitudes are not moved to the middle.
    """

    form: Form
    values: Mapping[str, Array]
    middle: Mapping[str, float]
    free: Array
    raw: tuple[str, ...]

    def cost(self, *, second: bool) -> int:
        """Return how many numbers are kept for a row of a problem, of second order or first."""
        return 1 + (len(self.free) ** 2 // 4 if second else len(self.free) // 2)

    @property
    def n_rows(self) -> int:
        """Rows of the table."""
        return len(next(iter(self.values.values())))

    def take(self, rows: slice | Array) -> "FunctionDesign":
        """Return the design of some of the rows, with the same middle."""
        return replace(self, values={name: v[rows] for name, v in self.values.items()})

    def external(self, theta: Array) -> Array:
        """Turn theta (..., P) into parameters in the table's units."""
        names = self.form.parameters
        with np.errstate(over="ignore"):
            found = self._outward({name: theta[..., i] for i, name in enumerate(names)})
        return np.stack([found[name] for name in names], axis=-1)

    def internal(self, parameters: Array) -> Array:
        """Invert `external`; parameters solved for in logs must be positive."""
        names = self.form.parameters
        given = {name: parameters[..., i] for i, name in enumerate(names)}
        if self.form.inward is not None:
            theta = self.form.inward(given, self.middle)
        else:
            theta = {name: self._inward(name, given) for name in names}
        return np.stack([np.asarray(theta[name], dtype=float) for name in names], axis=-1)

    def bounds(self, level: float) -> tuple[Array, Array]:
        """Return lower and upper bounds (P,) of theta."""
        del level
        size = len(self.form.parameters)
        low, high = np.full(size, -np.inf), np.full(size, np.inf)
        for name, (least, most) in self.form.bounds.items():
            at = self.form.parameters.index(name)
            low[at], high[at] = np.log([least, most]) if name in self.form.logs else (least, most)
        return low, high

    def predicted(self, theta: Array) -> Array:
        """Return the target's prediction (S, n)."""
        named = dict(zip(self.form.parameters, self.external(theta).T[..., None], strict=True))
        with np.errstate(all="ignore"):
            found = self.form.predict(named, self.values)
        return np.broadcast_to(found, (len(theta), self.n_rows))

    def parts(self, theta: Array, *, second: bool = True) -> "FunctionParts":
        """Return predictions and derivatives, of first order only unless `second`."""
        jets: list[Any] = [theta[:, i, None] for i in range(theta.shape[1])]
        for i, jet in zip(self.free, seeds(theta[:, self.free], second=second), strict=True):
            jets[i] = jet
        assert self.form.function is not None
        with np.errstate(all="ignore"):
            named = self._outward(dict(zip(self.form.parameters, jets, strict=True)))
            found = self.form.function(named, self.values)
        return FunctionParts(found, theta, self.n_rows, self.free)

    def _outward(self, theta: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the parameters of theta: arrays, or jets."""
        if self.form.outward is not None:
            return self.form.outward(theta, self.middle)
        found = {}
        for name, value in theta.items():
            if name in self.form.logs:
                moved = self._shift(name, theta)
                found[name] = np.exp(value if moved is None else value + moved)
            else:
                found[name] = value
        return found

    def _inward(self, name: str, parameters: Mapping[str, Any]) -> Any:
        if name not in self.form.logs:
            return parameters[name]
        moved = self._shift(name, parameters)
        logs = np.log(parameters[name])
        return logs if moved is None else logs - moved

    def _shift(self, amplitude: str, theta: Mapping[str, Any]) -> Any:
        """Return the log of variable^exponent at the middle; None for what is no amplitude."""
        exponents = self.form.amplitudes.get(amplitude, {})
        if amplitude in self.raw or not exponents:
            return None
        return sum(theta[exponent] * self.middle[v] for exponent, v in exponents.items())


class FunctionParts(Parts):
    """Derivatives of a function, carried by jets."""

    def __init__(self, found: Jet, theta: Array, n_rows: int, free: Array) -> None:
        count, self.size = theta.shape
        free = free[list(found.index)]
        self.free, self.both = free, np.ix_(np.arange(count), free, free)
        self.predicted = np.broadcast_to(found.value, (count, n_rows))
        self.first = np.broadcast_to(found.gradient, (count, len(free), n_rows))
        self.second = found.hessian

    def jacobian(self) -> Array:
        """Return dL_i (S, P, n)."""
        out = np.zeros((len(self.first), self.size, self.first.shape[2]))
        out[:, self.free] = self.first
        return out

    def gradient(self, slope: Array) -> Array:
        """Return sum_i slope_i dL_i (S, P)."""
        out = np.zeros((len(slope), self.size))
        out[:, self.free] = (self.first @ slope[..., None])[..., 0]
        return out

    def squares(self, weight: Array) -> Array:
        """Return sum_i weight_i dL_i dL_i' (S, P, P)."""
        return self._spread((self.first * weight[:, None]) @ self.first.swapaxes(1, 2))

    def curvature(self, slope: Array) -> Array:
        """Return sum_i slope_i d2L_i (S, P, P); zero where only first derivatives were asked."""
        count, free = len(slope), len(self.free)
        if self.second is None:
            return np.zeros((count, self.size, self.size))
        second = np.broadcast_to(self.second, (count, free, free, slope.shape[1]))
        summed = second.reshape(count, free * free, -1) @ slope[..., None]
        return self._spread(summed.reshape(count, free, free))

    def _spread(self, block: Array) -> Array:
        out = np.zeros((len(block), self.size, self.size))
        out[self.both] = block
        return out


Design = TermDesign | FunctionDesign


def design(form: Form, table: pd.DataFrame, *, raw: tuple[str, ...] = ()) -> Design:
    """Put a form on a table; amplitudes named in `raw` are not centred (they are held fixed)."""
    return _terms(form, table, raw) if form.function is None else _function(form, table, raw)


def _terms(form: Form, table: pd.DataFrame, raw: tuple[str, ...]) -> TermDesign:
    index, features, centres = [], [], []
    position = {name: i for i, name in enumerate(form.parameters)}
    logs = {v: np.log(column(table, v)) for v in form.variables}
    for term in form.terms:
        bases = [term.log_base(name, logs) for name in term.exponents]
        centre = np.array([0.0 if term.amplitude in raw else base.mean() for base in bases])
        rows = [np.ones(len(table)), *(b - m for b, m in zip(bases, centre, strict=True))]
        index.append(np.array([position[n] for n in (term.amplitude, *term.exponents)]))
        features.append(np.array(rows))
        centres.append(centre)
    return TermDesign(
        form=form, index=tuple(index), features=tuple(features), centres=tuple(centres)
    )


def _function(form: Form, table: pd.DataFrame, raw: tuple[str, ...]) -> FunctionDesign:
    values = {v: column(table, v) for v in form.variables if v in table}
    middle = {v: float(np.log(np.abs(x)).mean()) for v, x in values.items()}
    free = np.array([i for i, name in enumerate(form.parameters) if name not in raw])
    return FunctionDesign(form=form, values=values, middle=middle, free=free, raw=raw)


def _outer(product: Array, f: Array, g: Array) -> Array:
    """Return sum_i product_i f_i g_i' (S, m_f, m_g)."""
    pairs = (f[:, None] * g[None]).reshape(-1, f.shape[1])
    return (product @ pairs.T).reshape(-1, len(f), len(g))
