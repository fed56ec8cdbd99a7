"""Laws of a domain's loss L in the shares r of the sources that a model is trained on.

    effective_data   L = E + (eps + sum_j w_j r_j^g)^-beta        own form
    exponential      L = c + exp(sum_j t_j r_j)                   Ye et al. 2024, 2403.16952, eq. 7
    linear           L = sum_j b_j r_j

In effective_data a source j is worth w_j of the domain's own text, with falling returns (g at most
1), so that L is convex in r and the best mixture is a single one. Ye's factor k is part of t, since
shares add to 1. theta holds logs of what is positive, and E itself.

Legend: B problems, K parameters, J sources, n rows. theta (B, K), shares (n, J).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from analysis.forms import Array

LEAST = 1e-9  # a smaller share or loss counts as this one where a log or a slope is taken
SMALLEST_E = 1e-3  # of the smallest loss: an offset below it is none
LARGEST_E = 0.99  # of the smallest loss, as an offset at it leaves nothing to explain
MOST_SLOPE = 1e3  # of t: a thousandth of share then changes L - c by a factor of e
LOG_BOUND = 40.0  # of log eps and log w: exp(-40) of x is no part of it in double precision
G_RANGE = (0.05, 1.0)  # falling returns: above 1 the law is not convex
SLOPE_RANGE = (1e-3, 10.0)  # of b = beta M / L0, far beyond any fit seen on both sides
FIXED = 4  # place in theta of log L0, which is a constant of the problem


@dataclass(frozen=True, kw_only=True)
class MixtureLaw:
    """A form: its formula, and functions of theta (B, K) and shares (n, J).

    size: number of parameters for J sources
    longest: largest step of a parameter that a fit takes
    anchored: whether the law has a loss without any share, that few rows tell (`solve.ANCHOR`)
    log_loss: log L (B, n), and its derivatives by theta (B, n, K) where asked for
    slopes: L (B,) and its derivatives by the shares (B, J), at shares (J,)
    starts: theta (S, K) to start from, of log losses (n,), J, S and a generator
    bounds: lower and upper ends of theta (K,) each, of log losses (n,) and J
    named: the parameters of theta (K,) by name, those of sources as a map
    """

    name: str
    formula: str
    size: Callable[[int], int]
    longest: float
    anchored: bool
    log_loss: Callable[..., tuple[Array, Array | None]]
    slopes: Callable[[Array, Array], tuple[Array, Array]]
    starts: Callable[[Array, int, int, np.random.Generator], Array]
    bounds: Callable[[Array, int], tuple[Array, Array]]
    named: Callable[[Array, Sequence[str]], dict[str, object]]

    def losses(self, theta: Array, shares: Array) -> Array:
        """Return L (n, B) at shares (n, J)."""
        return np.exp(self.log_loss(theta, shares)[0]).T


def _parts(theta: Array) -> tuple[Array, ...]:
    """Return E, M, beta, g (B,), eps' (B,) and v (B, J) of effective data's theta.

    With a reference loss L0, M = L0 - E, x = M^(-1/beta) y and y = eps' + sum_j v_j r_j^g, the law
    is L = E + M y^-beta. At y = 1 neither L nor its slope b = beta M / L0 then depends on E, which
    rows near L0 say little about: searches in E, log w and log beta creep along a curved valley.
    """
    offset, reference = theta[:, 0], np.exp(theta[:, FIXED])
    reducible = reference - offset
    return (
        offset,
        reducible,
        np.exp(theta[:, 3]) * reference / reducible,
        np.exp(theta[:, 2]),
        np.exp(theta[:, 1]),
        np.exp(theta[:, FIXED + 1 :]),
    )


def _effective(
    theta: Array, shares: Array, *, derivatives: bool = False
) -> tuple[Array, Array | None]:
    offset, reducible, beta, g, eps, v = _parts(theta)
    positive = shares > 0
    logs = np.log(np.where(positive, shares, 1.0))
    powers = np.exp(g[:, None, None] * logs) * positive  # (B, n, J)
    y = eps[:, None] + np.einsum("bnj,bj->bn", powers, v)
    beta, reducible = beta[:, None], reducible[:, None]
    power = y**-beta
    loss = offset[:, None] + reducible * power
    if not derivatives:
        return np.log(loss), None
    log_y, parts = np.log(y), powers * v[:, None, :]
    by_y = -beta * reducible * power / y / loss
    jacobian = np.empty((*loss.shape, theta.shape[1]))
    jacobian[..., 0] = (1 - power * (1 + beta * log_y)) / loss
    jacobian[..., 1] = by_y * eps[:, None]
    jacobian[..., 2] = by_y * np.einsum("bnj,nj->bn", parts, logs) * g[:, None]
    jacobian[..., 3] = -beta * reducible * power * log_y / loss
    jacobian[..., FIXED] = 0.0
    np.multiply(by_y[..., None], parts, out=jacobian[..., FIXED + 1 :])
    return np.log(loss), jacobian


def _effective_slopes(theta: Array, shares: Array) -> tuple[Array, Array]:
    offset, reducible, beta, g, eps, v = _parts(theta)
    r = np.maximum(shares, LEAST)
    powers = r ** g[:, None]  # (B, J)
    y = eps + (v * powers).sum(axis=1)
    loss = offset + reducible * y**-beta
    by_share = -(beta * (loss - offset) / y)[:, None] * v * g[:, None] * powers / r
    return loss, by_share


def _effective_starts(log_losses: Array, n_sources: int, n: int, rng: np.random.Generator) -> Array:
    least, middle, most = np.exp(np.quantile(log_losses, (0, 0.5, 1)))
    g, beta = rng.uniform(0.3, 0.95, n), rng.uniform(0.05, 0.6, n)
    offset = rng.uniform(0.1, 0.8, n) * least
    eps = ((most - offset) / (middle - offset)) ** (-1 / beta)  # y where every worth is nothing
    v = np.maximum(1 - eps, 0.01)[:, None] * 8 / n_sources * rng.uniform(0.2, 1.5, (n, n_sources))
    slope = np.log(beta * (middle - offset) / middle)
    reference = np.full(n, np.log(middle))
    return np.column_stack([offset, np.log(eps), np.log(g), slope, reference, np.log(v)])


def _effective_bounds(log_losses: Array, n_sources: int) -> tuple[Array, Array]:
    least, middle = np.quantile(log_losses, (0, 0.5))
    ends = [
        (0.0, LARGEST_E * np.exp(least)),
        (-LOG_BOUND, LOG_BOUND),
        tuple(np.log(G_RANGE)),
        tuple(np.log(SLOPE_RANGE)),
        (middle, middle),
        *[(-LOG_BOUND, LOG_BOUND)] * n_sources,
    ]
    low, high = np.array(ends).T
    return low, high


def _effective_named(theta: Array, sources: Sequence[str]) -> dict[str, object]:
    offset, reducible, beta, g, eps, v = _parts(theta[None])
    size = float(reducible[0] ** (-1 / beta[0]))  # x / y
    return {
        "E": float(offset[0]),
        "eps": float(eps[0]) * size,
        "g": float(g[0]),
        "beta": float(beta[0]),
        "w": dict(zip(sources, (v[0] * size).tolist(), strict=True)),
    }


def _exponential(
    theta: Array, shares: Array, *, derivatives: bool = False
) -> tuple[Array, Array | None]:
    offset = np.exp(theta[:, :1])
    reducible = np.exp(theta[:, 1:] @ shares.T)
    loss = offset + reducible
    if not derivatives:
        return np.log(loss), None
    by_t = (reducible / loss)[..., None] * shares
    return np.log(loss), np.concatenate([(offset / loss)[..., None], by_t], axis=2)


def _exponential_slopes(theta: Array, shares: Array) -> tuple[Array, Array]:
    reducible = np.exp(theta[:, 1:] @ shares)
    return np.exp(theta[:, 0]) + reducible, reducible[:, None] * theta[:, 1:]


def _exponential_starts(
    log_losses: Array, n_sources: int, n: int, rng: np.random.Generator
) -> Array:
    least, middle = np.exp(np.quantile(log_losses, (0, 0.5)))
    offset = rng.uniform(0.1, 0.9, n) * least
    t = np.log(middle - offset)[:, None] + rng.normal(0, 0.3, (n, n_sources))
    return np.column_stack([np.log(offset), t])


def _exponential_bounds(log_losses: Array, n_sources: int) -> tuple[Array, Array]:
    least = float(log_losses.min())
    offset = (least + np.log(SMALLEST_E), float(log_losses.max()))  # a robust c may pass low rows
    ends = np.array([offset, *[(-MOST_SLOPE, MOST_SLOPE)] * n_sources])
    return ends[:, 0], ends[:, 1]


def _linear(
    theta: Array, shares: Array, *, derivatives: bool = False
) -> tuple[Array, Array | None]:
    loss = np.maximum(theta @ shares.T, LEAST)
    return np.log(loss), shares / loss[..., None] if derivatives else None


def _linear_starts(log_losses: Array, n_sources: int, n: int, rng: np.random.Generator) -> Array:
    return np.exp(np.median(log_losses)) * rng.uniform(0.9, 1.1, (n, n_sources))


def _linear_bounds(log_losses: Array, n_sources: int) -> tuple[Array, Array]:
    most = np.full(n_sources, 1e3 * float(np.exp(log_losses.max())))
    return -most, most


def _by_source(letter: str, *names: str) -> Callable[[Array, Sequence[str]], dict[str, object]]:
    """Return a function that names parameters: logs of `names` first, then one a source."""

    def named(theta: Array, sources: Sequence[str]) -> dict[str, object]:
        first = np.exp(theta[: len(names)]).tolist()
        rest = theta[len(names) :].tolist()
        values = dict(zip(names, first, strict=True))
        return {**values, letter: dict(zip(sources, rest, strict=True))}

    return named


LAWS: Mapping[str, MixtureLaw] = {
    law.name: law
    for law in (
        MixtureLaw(
            name="effective_data",
            formula="L = E + (eps + sum_j w_j r_j^g)^-beta",
            size=lambda n_sources: n_sources + 4,
            longest=1.0,
            anchored=True,
            log_loss=_effective,
            slopes=_effective_slopes,
            starts=_effective_starts,
            bounds=_effective_bounds,
            named=_effective_named,
        ),
        MixtureLaw(
            name="exponential",
            formula="L = c + exp(sum_j t_j r_j)",
            size=lambda n_sources: n_sources + 1,
            longest=10.0,
            anchored=False,
            log_loss=_exponential,
            slopes=_exponential_slopes,
            starts=_exponential_starts,
            bounds=_exponential_bounds,
            named=_by_source("t", "c"),
        ),
        MixtureLaw(
            name="linear",
            formula="L = sum_j b_j r_j",
            size=lambda n_sources: n_sources,
            longest=100.0,
            anchored=False,
            log_loss=_linear,
            slopes=lambda theta, shares: (theta @ shares, theta),
            starts=_linear_starts,
            bounds=_linear_bounds,
            named=_by_source("b"),
        ),
    )
}
