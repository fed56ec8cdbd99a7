"""Sums over rows that an objective needs, the same for every kind of form."""

from abc import ABC, abstractmethod

from analysis.forms import Array

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


def outer(product: Array, f: Array, g: Array) -> Array:
    """Return sum_i product_i f_i g_i' (S, m_f, m_g)."""
    pairs = (f[:, None] * g[None]).reshape(-1, f.shape[1])
    return (product @ pairs.T).reshape(-1, len(f), len(g))
