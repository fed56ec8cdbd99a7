"""The walk through the posterior: against exact integrals, deterministic, and its weight."""

from dataclasses import replace

import numpy as np
import pytest

from analysis.estimation.posterior import NOISE_FREEDOM, NOISE_SD, sample
from analysis.estimation.prior import FAMILIES, Prior

LOG_N, LOG_D = np.log([1e7, 4e7, 1e7, 2e8]), np.log([4e8, 1e9, 4e9, 2e9])
ONE = np.ones(len(LOG_N))


def prior_of(families=FAMILIES):
    return Prior.over(families, LOG_N, LOG_D)


def losses(prior, *, shift=0.0):
    return prior.log_losses(prior.mean[None], LOG_N, LOG_D)[0] + shift


@pytest.mark.slow
def test_the_walk_is_the_same_for_a_seed():
    prior = prior_of()
    first, again, other = (
        sample(prior, LOG_N, LOG_D, losses(prior), ONE, seed=s) for s in (3, 3, 4)
    )
    assert np.array_equal(first.draws, again.draws)
    assert not np.array_equal(first.draws, other.draws)
    assert first.settled


def test_the_level_alone_agrees_with_the_integral_on_a_grid():
    prior = prior_of()
    narrow = np.diag([1.0, *[1e-6] * 4]) ** 2  # only the level of loss is open
    prior = replace(prior, covariance=narrow)
    found = sample(prior, LOG_N, LOG_D, losses(prior) + np.array([0.02, 0, -0.01, 0.03]), ONE)
    level = np.linspace(-0.2, 0.2, 20001)
    rss = ((level[:, None] - np.array([0.02, 0, -0.01, 0.03])) ** 2).sum(axis=1)
    freedom = len(LOG_N) + NOISE_FREEDOM
    density = np.exp(-(level**2) / 2) * (NOISE_FREEDOM * NOISE_SD**2 + rss) ** (-freedom / 2)
    density /= density.sum()
    mean = (density * level).sum()
    deviation = np.sqrt((density * (level - mean) ** 2).sum())
    walked = found.draws[:, 0] - prior.mean[0]
    assert walked.mean() == pytest.approx(mean, abs=0.1 * deviation)
    assert walked.std() == pytest.approx(deviation, rel=0.1)


def test_more_runs_leave_the_prior_less_weight():
    prior = prior_of()
    few = sample(prior, LOG_N[:2], LOG_D[:2], losses(prior)[:2], ONE[:2])
    many = sample(prior, *(np.repeat(v, 20) for v in (LOG_N, LOG_D, losses(prior), ONE)))
    assert few.weight > 0.7
    assert many.weight < few.weight / 1.5
    assert many.settled


def test_a_run_of_more_weight_pulls_more():
    prior = prior_of()
    off = losses(prior) + np.array([0.2, 0, 0, 0])
    heavy = np.array([20.0, 1, 1, 1])
    at = [
        prior.log_losses(sample(prior, LOG_N, LOG_D, off, w).draws, LOG_N, LOG_D)[:, 0].mean()
        for w in (ONE, heavy)
    ]
    assert abs(at[1] - off[0]) < abs(at[0] - off[0])
