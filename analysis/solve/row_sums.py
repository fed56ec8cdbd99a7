"""Sums over rows that an objective needs, the same for every kind of form.

Legend: S problems, P parameters, n rows, L the predicted target.
"""

from abc import ABC, abstractmethod

from analysis.forms import Array

# Bound of a centred log amplitude's distance from log L: exp(-40) of the loss is no term, and
# exp(40) of it is no fit.
AMPLITUDE_RANGE = 40.0


class RowSums(ABC):
    """Predictions (S, n) at one theta and the sums over rows of their derivatives."""

    prediction: Array

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


def outer(product: Array, f: Array, g: Array) -> Array:
    """Return sum_i product_i f_i g_i' (S, m_f, m_g) for product (S, n), f (m_f, n), g (m_g, n)."""
    pairs = (f[:, None] * g[None]).reshape(-1, f.shape[1])
    return (product @ pairs.T).reshape(-1, len(f), len(g))
