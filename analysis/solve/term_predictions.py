"""Predictions of forms that are sums of power-law terms, with their derivatives.

The derivatives are written by hand on purpose: terms share factors over rows, so gradient and
Hessian are a few products of matrices, which automatic differentiation does not see.
"""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from analysis.forms import EXPONENT_BOUNDS, Array, Form, column
from analysis.solve.row_sums import AMPLITUDE_RANGE, RowSums, outer


@dataclass(frozen=True, kw_only=True)
class TermDesign:
    """Power-law terms on a table; one entry of each tuple a term.

    index: positions in theta (m_k,) of the term's amplitude and then of its exponents
    features: ones and then the centred logs that the exponents multiply (m_k, n)
    centres: what was subtracted from those logs (m_k - 1,)
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
        """Return how many numbers a row of a problem takes in memory."""
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

    def predict(self, theta: Array) -> Array:
        """Return the target's prediction (S, n)."""
        total = sum(self.terms(theta))
        return np.asarray(total if self.offset is None else total + theta[:, [self.offset]])

    def row_sums(self, theta: Array, *, second: bool = True) -> "TermRowSums":
        """Return predictions and derivatives; terms have second ones at no cost, so always."""
        del second
        return TermRowSums(self, theta)


class TermRowSums(RowSums):
    """Row sums of a sum of terms t_k with features f_k: dL is t_k f_k and d2L is t_k f_k f_k'."""

    def __init__(self, design: TermDesign, theta: Array) -> None:
        self.design, self.size = design, theta.shape[1]
        self.terms = design.terms(theta)
        total = self.terms[0]
        for term in self.terms[1:]:
            total = total + term
        self.prediction = total if design.offset is None else total + theta[:, [design.offset]]

    def jacobian(self) -> Array:
        """Return dL_i (S, P, n)."""
        design = self.design
        out = np.zeros((len(self.prediction), self.size, design.n_rows))
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
        """Return sum_i weight_i dL_i dL_i' (S, P, P), from one product for each pair of terms."""
        design = self.design
        out = np.zeros((len(weight), self.size, self.size))
        every = list(zip(self.terms, design.index, design.features, strict=True))
        for k, (term, at, f) in enumerate(every):
            weighted_term = weight * term
            for other_term, other_at, g in every[k:]:
                block = outer(weighted_term * other_term, f, g)
                out[:, at[:, None], other_at] += block
                if other_at is not at:
                    out[:, other_at[:, None], at] += block.swapaxes(1, 2)
            if design.offset is not None:
                across = weighted_term @ f.T
                out[:, design.offset, at] += across
                out[:, at, design.offset] += across
        if design.offset is not None:
            out[:, design.offset, design.offset] = weight.sum(axis=1)
        return out

    def curvature(self, slope: Array) -> Array:
        """Return sum_i slope_i d2L_i (S, P, P)."""
        out = np.zeros((len(slope), self.size, self.size))
        for term, at, f in zip(self.terms, self.design.index, self.design.features, strict=True):
            out[:, at[:, None], at] += outer(slope * term, f, f)
        return out


def term_design(form: Form, table: pd.DataFrame, raw: tuple[str, ...]) -> TermDesign:
    """Put a form that is a sum of terms on a table; amplitudes in `raw` are not centred."""
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
