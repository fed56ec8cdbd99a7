"""Power-law terms in other coordinates phi, one of which is a derived quantity of the law.

A coordinate can be fixed, as a profile needs. theta = outward(phi) is plain numpy code. Its
derivatives come from `analysis.forms.jets`, once a problem, and the sums over rows stay those of
the terms, so that a step costs hardly more than in the law's own parameters.

The Chinchilla form has two such coordinates: a = beta / (alpha + beta), beside s = alpha + beta;
and m = log N* at a budget C, which by Hoffmann et al. 2022 eq. 4 sets
log B = log(alpha A / beta) - alpha m + beta (log(C / 6) - m).

Legend: S problems, P parameters, K derived parameters, n rows. phi, theta (S, P).
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from analysis.forms import EXPONENT_BOUNDS, Array
from analysis.forms.jets import Jet, seeds
from analysis.solve.term_predictions import TermDesign, TermRowSums

E, A, B, ALPHA, BETA = range(5)  # positions in the Chinchilla form


@dataclass(frozen=True, kw_only=True)
class MappedDesign(TermDesign):
    """Terms whose theta is `outward` of the solver's phi, which stays in `box` (low, high)."""

    outward: Callable[[list[Any]], list[Any]]
    box: tuple[Array, Array]

    def bounds(self, level: float) -> tuple[Array, Array]:
        """Return lower and upper bounds (P,) of phi."""
        del level
        return self.box

    def theta(self, phi: Array) -> Array:
        """Return the terms' own parameters (S, P)."""
        return np.stack(np.broadcast_arrays(*self.outward(list(phi.T))), axis=1)

    def external(self, theta: Array) -> Array:
        """Turn phi (S, P) into parameters in the table's units."""
        return super().external(self.theta(theta))

    def internal(self, parameters: Array) -> Array:
        """Refuse: only the caller knows what the coordinates are."""
        raise NotImplementedError(f"no phi from {len(parameters)} parameters")

    def predict(self, theta: Array) -> Array:
        """Return the target's prediction (S, n) at phi."""
        return super().predict(self.theta(theta))

    def row_sums(self, theta: Array, *, second: bool = True) -> "MappedRowSums":
        """Return predictions and derivatives by phi."""
        del second
        return MappedRowSums(self, theta)


class MappedRowSums(TermRowSums):
    """Row sums by phi, from those by theta and J (S, K, P) = dtheta / dphi."""

    def __init__(self, design: MappedDesign, phi: Array) -> None:
        count, size = phi.shape
        self.first, self.second = np.zeros((count, size, size)), np.zeros((count, size, size, size))
        for k, jet in enumerate(design.outward(seeds(phi))):
            _place(jet, self.first[:, k], self.second[:, k])
        super().__init__(design, design.theta(phi))

    def jacobian(self) -> Array:
        """Return dL_i (S, P, n)."""
        return self.first.swapaxes(1, 2) @ super().jacobian()

    def gradient(self, slope: Array) -> Array:
        """Return sum_i slope_i dL_i (S, P)."""
        return np.einsum("skp,sk->sp", self.first, super().gradient(slope))

    def squares(self, weight: Array) -> Array:
        """Return sum_i weight_i dL_i dL_i' (S, P, P)."""
        return self.first.swapaxes(1, 2) @ super().squares(weight) @ self.first

    def curvature(self, slope: Array) -> Array:
        """Return sum_i slope_i d2L_i (S, P, P)."""
        by_theta = self.first.swapaxes(1, 2) @ super().curvature(slope) @ self.first
        return by_theta + np.einsum("sk,skpq->spq", super().gradient(slope), self.second)


def by_share(design: TermDesign, theta: Array) -> tuple[MappedDesign, Array]:
    """Return a Chinchilla design in (E, A, B, a, s), and the point theta (P,) in it."""

    def outward(phi: list[Any]) -> list[Any]:
        e, log_a, log_b, share, both = phi
        return [e, log_a, log_b, both - share * both, share * both]

    low, high = design.bounds(0.0)
    least, most = EXPONENT_BOUNDS
    low[ALPHA], high[ALPHA] = least / most, 1 - least / most
    low[BETA], high[BETA] = 2 * least, 2 * most
    both = theta[ALPHA] + theta[BETA]
    phi = np.array([*theta[:3], theta[BETA] / both, both])
    return _map_terms(design, outward, _free_amplitudes(low, high)), phi


def by_optimum(design: TermDesign, theta: Array, flops: float) -> tuple[MappedDesign, Array]:
    """Return a Chinchilla design in (E, A, m, alpha, beta), m = log N* at C, and theta in it."""
    log_c = np.log(flops / 6)
    size_centre, data_centre = (float(c[0]) for c in design.centres)

    def outward(phi: list[Any]) -> list[Any]:
        e, log_a, m, alpha, beta = phi
        shifted = np.log(alpha) - np.log(beta) + log_a - alpha * (m + size_centre)
        return [e, log_a, shifted + beta * (log_c + data_centre - m), alpha, beta]

    low, high = design.bounds(0.0)
    alpha, beta = theta[ALPHA], theta[BETA]
    slope = np.log(alpha / beta) + theta[A] - theta[B]
    m = (slope - alpha * size_centre + beta * (log_c + data_centre)) / (alpha + beta)
    phi = np.array([theta[E], theta[A], m, alpha, beta])
    return _map_terms(design, outward, _free_amplitudes(low, high)), phi


def _map_terms(
    design: TermDesign, outward: Callable[[list[Any]], list[Any]], box: tuple[Array, Array]
) -> MappedDesign:
    values = {f.name: getattr(design, f.name) for f in fields(TermDesign)}
    return MappedDesign(**values, outward=outward, box=box)


def _free_amplitudes(low: Array, high: Array) -> tuple[Array, Array]:
    """Remove the bounds of the two amplitudes (B may be log N*), which no profile should meet."""
    low[[A, B]], high[[A, B]] = -np.inf, np.inf
    return low, high


def _place(jet: Any, first: Array, second: Array) -> None:
    """Write a jet's derivatives into first (S, P) and second (S, P, P)."""
    assert isinstance(jet, Jet)
    assert jet.hessian is not None
    at = np.array(jet.index)
    first[:, at] = jet.gradient[..., 0]
    second[:, at[:, None], at] = jet.hessian[..., 0]
