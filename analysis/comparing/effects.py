"""What is believed of the arms' losses at the target: the draws, and how large effects are.

A draw of a law alone says how far noise may move it. The share of draws in which b is better is
then P(b better) only for somebody who holds any effect for as likely as any other. Most changes are
worth little beside the noise of a forecast: of pairs that such shares called better with .88, .78
were (benchmarks/RESULTS.md). So the arms' log losses are drawn from one distribution of unknown
mean and deviation tau, and each is moved towards the others as far as its noise says (Efron and
Morris 1975; the hierarchical model of Gelman et al. 2013, section 5.4). tau is known from the
spread of the arms, if they are many, and else from `EFFECT`. The reference has no part in it.

Legend: S draws, A arms, e and Sigma mean and covariance of the draws, V = Sigma + tau^2 I.
"""

from dataclasses import dataclass

import numpy as np

from analysis.forms import Array

EFFECT = 0.3  # median over comparisons of the deviation of log k between two arms: a factor of 1.35
EFFECT_SPREAD = 0.7  # deviation of the log of that deviation: 90 % are between .1 and .95
TAUS = 25  # deviations tried, evenly spaced in logs
FARTHEST = 2.5  # deviations of log tau to both sides that are tried
RIDGE = 1e-9  # of the mean variance, added where arms have draws that depend on each other
CLIPPED = (0.01, 0.99)  # quantiles beyond which a draw is moved in, for the covariance alone
ONE_DEVIATION = (0.1587, 0.8413)  # quantiles one deviation to both sides of a normal mean


@dataclass(frozen=True, kw_only=True)
class Believed:
    """Draws of the arms' log losses at the target under the prior over effects.

    log_loss: (S, A); S is 0 where no draw has all arms
    deviation: posterior mean of the deviation of log k between two arms; None for fewer than two
        arms
    """

    log_loss: Array
    deviation: float | None

    def p_better(self, i: int, j: int) -> float:
        """Return the probability that arm j is better than arm i."""
        apart = self.log_loss[:, i] - self.log_loss[:, j]
        return float((apart > 0).mean() + (apart == 0).mean() / 2) if len(apart) else 0.5


def believed(point: Array, drawn: Array, slope: float, seed: int) -> Believed:
    """Return the draws of the arms' log losses under the prior over effects.

    point: log loss of each arm's law at the target (A,)
    drawn: draws of it, without the prior (S, A); those with a NaN are left out
    slope: |d log L / d log C| at the target, which turns log k into log loss
    seed: of the draws of tau
    """
    drawn = drawn[~np.isnan(drawn).any(axis=1)]
    if len(drawn) < 2 or len(point) < 2 or not slope > 0:
        return Believed(log_loss=drawn, deviation=None)
    sigma = covariance(drawn)
    inverse_root = roots(sigma)[1]
    logs = np.linspace(-FARTHEST, FARTHEST, TAUS) * EFFECT_SPREAD
    taus = EFFECT * np.exp(logs) * slope / np.sqrt(2)  # of one arm about the mean
    models = [posterior(point, sigma, tau) for tau in taus]
    evidence = np.array([m[2] for m in models]) - (logs / EFFECT_SPREAD) ** 2 / 2
    weights = np.exp(evidence - evidence.max())
    weights /= weights.sum()
    which = np.random.default_rng([seed, 3]).choice(TAUS, size=len(drawn), p=weights)
    log_loss = np.empty_like(drawn)
    for index in np.unique(which):
        mean, variance, _ = models[index]
        here = which == index
        transform = roots(variance)[0] @ inverse_root  # takes Sigma to the posterior's covariance
        log_loss[here] = mean + (drawn[here] - point) @ transform.T
    return Believed(log_loss=log_loss, deviation=float(weights @ taus) * np.sqrt(2) / slope)


def covariance(drawn: Array) -> Array:
    """Return the covariance of draws (S, A) whose tails do not count for more than a normal's."""
    clipped = np.clip(drawn, *np.quantile(drawn, CLIPPED, axis=0))
    low, high = np.quantile(drawn, ONE_DEVIATION, axis=0)
    deviation = np.maximum((high - low) / 2, 1e-12)
    spread = np.maximum(clipped.std(axis=0), 1e-300)
    about = (clipped - clipped.mean(axis=0)) / spread
    sigma = (about.T @ about / len(drawn)) * np.outer(deviation, deviation)
    return sigma + RIDGE * np.trace(sigma) / len(sigma) * np.eye(len(sigma))


def posterior(point: Array, sigma: Array, tau: float) -> tuple[Array, Array, float]:
    """Return mean (A,), covariance (A, A) and log evidence of the arms' log losses for one tau.

    The common mean of the arms has a flat prior.
    """
    v = sigma + tau**2 * np.eye(len(point))
    inverse = np.linalg.inv(v)
    ones = inverse.sum(axis=1)
    total = ones.sum()
    centre = float(ones @ point) / total
    apart = point - centre
    mean = centre + tau**2 * inverse @ apart
    within = inverse - np.outer(ones, ones) / total
    variance = tau**2 * np.eye(len(point)) - tau**4 * within
    _, log_det = np.linalg.slogdet(v)
    evidence = -(log_det + np.log(total) + float(apart @ inverse @ apart)) / 2
    return mean, variance, evidence


def roots(matrix: Array) -> tuple[Array, Array]:
    """Return the symmetric root of a covariance, and the inverse of that root."""
    values, vectors = np.linalg.eigh(matrix)
    values = np.maximum(values, values.max() * 1e-12)
    return (vectors * np.sqrt(values)) @ vectors.T, (vectors / np.sqrt(values)) @ vectors.T
