"""Predictions of forms that are plain functions, with derivatives from `analysis.forms.jets`."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from analysis.forms import Array, Form, column
from analysis.forms.jets import Jet, seeds
from analysis.solve.row_sums import RowSums


@dataclass(frozen=True, kw_only=True)
class FunctionDesign:
    """A plain function on a table.

    form: the form
    values: the columns of its variables, each (n,)
    middle: the mean log of each variable
    free: positions (F,) of the parameters that the caller did not fix; only these have derivatives
    raw: parameters that the caller fixed, whose amplitudes are not centred
    """

    form: Form
    values: Mapping[str, Array]
    middle: Mapping[str, float]
    free: Array
    raw: tuple[str, ...]

    def cost(self, *, second: bool) -> int:
        """Return how many numbers a row of a problem takes in memory, by the highest order."""
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
            parameters = self._outward({name: theta[..., i] for i, name in enumerate(names)})
        return np.stack([parameters[name] for name in names], axis=-1)

    def internal(self, parameters: Array) -> Array:
        """Invert `external`; parameters solved for in logs must be positive."""
        names = self.form.parameters
        by_name = {name: parameters[..., i] for i, name in enumerate(names)}
        if self.form.inward is not None:
            theta = self.form.inward(by_name, self.middle)
        else:
            theta = {name: self._inward(name, by_name) for name in names}
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

    def predict(self, theta: Array) -> Array:
        """Return the target's prediction (S, n)."""
        by_name = dict(zip(self.form.parameters, self.external(theta).T[..., None], strict=True))
        with np.errstate(all="ignore"):
            prediction = self.form.predict(by_name, self.values)
        return np.broadcast_to(prediction, (len(theta), self.n_rows))

    def row_sums(self, theta: Array, *, second: bool = True) -> "FunctionRowSums":
        """Return predictions and derivatives, without second ones unless `second`."""
        jets: list[Any] = [theta[:, i, None] for i in range(theta.shape[1])]
        for i, seed in zip(self.free, seeds(theta[:, self.free], second=second), strict=True):
            jets[i] = seed
        assert self.form.function is not None
        with np.errstate(all="ignore"):
            by_name = self._outward(dict(zip(self.form.parameters, jets, strict=True)))
            jet = self.form.function(by_name, self.values)
        return FunctionRowSums(jet, theta, self.n_rows, self.free)

    def _outward(self, theta: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the parameters at theta; both are arrays or both are jets."""
        if self.form.outward is not None:
            return self.form.outward(theta, self.middle)
        parameters = {}
        for name, value in theta.items():
            if name in self.form.logs:
                shift = self._shift(name, theta)
                parameters[name] = np.exp(value if shift is None else value + shift)
            else:
                parameters[name] = value
        return parameters

    def _inward(self, name: str, parameters: Mapping[str, Any]) -> Any:
        if name not in self.form.logs:
            return parameters[name]
        shift = self._shift(name, parameters)
        logs = np.log(parameters[name])
        return logs if shift is None else logs - shift

    def _shift(self, amplitude: str, theta: Mapping[str, Any]) -> Any:
        """Return the log of variable^exponent at the middle; None where it is no amplitude."""
        exponents = self.form.amplitudes.get(amplitude, {})
        if amplitude in self.raw or not exponents:
            return None
        return sum(theta[exponent] * self.middle[v] for exponent, v in exponents.items())


class FunctionRowSums(RowSums):
    """Row sums of a function, from its jet."""

    def __init__(self, jet: Jet, theta: Array, n_rows: int, free: Array) -> None:
        count, self.size = theta.shape
        free = free[list(jet.index)]
        self.free, self.both = free, np.ix_(np.arange(count), free, free)
        self.prediction = np.broadcast_to(jet.value, (count, n_rows))
        self.first = np.broadcast_to(jet.gradient, (count, len(free), n_rows))
        self.second = jet.hessian

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
        return self._embed((self.first * weight[:, None]) @ self.first.swapaxes(1, 2))

    def curvature(self, slope: Array) -> Array:
        """Return sum_i slope_i d2L_i (S, P, P); zero where the jet has first derivatives only."""
        count, free = len(slope), len(self.free)
        if self.second is None:
            return np.zeros((count, self.size, self.size))
        second = np.broadcast_to(self.second, (count, free, free, slope.shape[1]))
        summed = second.reshape(count, free * free, -1) @ slope[..., None]
        return self._embed(summed.reshape(count, free, free))

    def _embed(self, block: Array) -> Array:
        out = np.zeros((len(block), self.size, self.size))
        out[self.both] = block
        return out


def function_design(form: Form, table: pd.DataFrame, raw: tuple[str, ...]) -> FunctionDesign:
    """Put a form that is a plain function on a table."""
    values = {v: column(table, v) for v in form.variables if v in table}
    middle = {v: float(np.log(np.abs(x)).mean()) for v, x in values.items()}
    free = np.array([i for i, name in enumerate(form.parameters) if name not in raw])
    return FunctionDesign(form=form, values=values, middle=middle, free=free, raw=raw)
