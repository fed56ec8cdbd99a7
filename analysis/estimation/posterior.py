"""Draws from the posterior of a Chinchilla law, given a prior and a few runs.

log L of a run is normal about the law. Its variance has a scaled inverse chi-square prior
(`NOISE_SD`, `NOISE_FREEDOM`) and is integrated out, so that the likelihood of the law is
(nu s^2 + RSS)^(-(n + nu)/2). The walk is the affine-invariant ensemble of Goodman and Weare 2010
(Comm. App. Math. Comp. Sci. 5, 65) on coordinates in which the prior is a unit Gaussian. A few runs
leave a curved posterior, for which a Gaussian at the mode is a poor picture.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from analysis.estimation.prior import Prior
from analysis.forms import Array

# Typical deviation of log L about the law, with what the form leaves out. Set on the tables of
# benchmarks/few_cells.py: without an error by distance, 90 % intervals held 86 % of the runs at x10
# with .01 and 77 % with .005 (mean over the four families).
NOISE_SD = 0.01
NOISE_FREEDOM = 4.0  # weight of that deviation, in runs
WALKERS = 64
STEPS = 900  # of every walker
WARM_UP = 300  # steps before the first draw
EVERY = 5  # steps between two draws of a walker
STRETCH = 2.0  # largest stretch of a step (Goodman and Weare's a)
CANDIDATES = 4000  # draws of the prior, of which the likeliest are the walkers' starts
MOST_DRIFT = 0.5  # drift between halves of the walk, in deviations, above which it has not settled


@dataclass(frozen=True, kw_only=True)
class Posterior:
    """Draws of a law and of the noise about it.

    draws: coordinates of `Prior` (S, 5)
    whitened: the same in the prior's own deviations (S, 5)
    noise_variance: of log L of one run, a mean over draws
    settled: whether both halves of the walk agree
    """

    draws: Array
    whitened: Array
    noise_variance: float
    settled: bool

    @property
    def weight(self) -> float:
        """Share of the posterior's precision that the prior has, mean over its directions.

        The level of loss, which the prior leaves open, does not count.
        """
        return float(min(1.0, self.whitened[:, 1:].var(axis=0).mean()))


def sample(
    prior: Prior, log_n: Array, log_d: Array, log_loss: Array, weights: Array, *, seed: int = 0
) -> Posterior:
    """Draw from the posterior.

    prior: the prior, whose middle is that of the table
    log_n: log N of the runs (n,)
    log_d: log D of the runs (n,)
    log_loss: log L of the runs (n,)
    weights: of the runs (n,), whose mean counts as 1
    seed: of the walk
    """
    rng = np.random.default_rng(seed)
    root = np.linalg.cholesky(prior.covariance)
    relative = weights / weights.mean()
    freedom = len(log_loss) + NOISE_FREEDOM
    prior_squares = NOISE_FREEDOM * NOISE_SD**2

    def squares(z: Array) -> Array:
        residual = prior.log_losses(prior.mean + z @ root.T, log_n, log_d) - log_loss
        return prior_squares + residual**2 @ relative

    def log_density(z: Array) -> Array:
        return -((z**2).sum(axis=1) + freedom * np.log(squares(z))) / 2

    steps = _walk(log_density, len(prior.mean), rng)
    z = steps.reshape(-1, steps.shape[-1])
    halves = [part.reshape(-1, z.shape[1]) for part in np.array_split(steps, 2)]
    drift = np.abs(halves[0].mean(axis=0) - halves[1].mean(axis=0)) / z.std(axis=0)
    return Posterior(
        draws=prior.mean + z @ root.T,
        whitened=z,
        noise_variance=float(squares(z).mean() / (freedom - 2)),
        settled=bool(drift.max() < MOST_DRIFT),
    )


def _walk(log_density: Callable[[Array], Array], size: int, rng: np.random.Generator) -> Array:
    """Return every `EVERY`-th state of the ensemble after the warm-up (steps, walkers, size)."""
    candidates = rng.standard_normal((CANDIDATES, size))
    z = candidates[np.argsort(-log_density(candidates))[:WALKERS]]
    height = log_density(z)
    half, kept = WALKERS // 2, []
    halves = (slice(0, half), slice(half, None))
    for step in range(STEPS):
        for moved, others in (halves, halves[::-1]):
            uniform = rng.random(half)
            stretch = (uniform * (STRETCH**0.5 - STRETCH**-0.5) + STRETCH**-0.5) ** 2
            anchor = z[others][rng.integers(half, size=half)]
            trial = anchor + stretch[:, None] * (z[moved] - anchor)
            ahead = log_density(trial)
            gain = (size - 1) * np.log(stretch) + ahead - height[moved]
            accepted = np.log(rng.random(half)) < gain
            z[moved] = np.where(accepted[:, None], trial, z[moved])
            height[moved] = np.where(accepted, ahead, height[moved])
        if step >= WARM_UP and step % EVERY == 0:
            kept.append(z.copy())
    return np.array(kept)
