"""The batched fit: known laws come back, and the end is a minimum."""

import numpy as np
import pytest

from analysis.mixing.laws import LAWS
from analysis.mixing.solve import fit_domains, minimise
from tests.analysis.mixing.swarm_of import DOMAINS, SOURCES, TRUTH, losses_at, table_of


def shares_and_losses(n: int = 60, noise: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    values = table_of(n, noise=noise).to_numpy()
    return values[:, :3], values[:, 3:]


def test_a_known_law_comes_back_from_a_table_without_noise():
    law = LAWS["effective_data"]
    ends = fit_domains(law, *shares_and_losses())
    assert ends.converged.all()
    for theta, name in zip(ends.theta, DOMAINS, strict=True):
        found, (offset, _, g, beta, w) = law.named(theta, SOURCES), TRUTH[name]
        assert found["E"] == pytest.approx(offset, rel=0.05)
        assert found["g"] == pytest.approx(g, rel=0.02)
        assert found["beta"] == pytest.approx(beta, rel=0.1)
        assert found["w"]["code"] == pytest.approx(w[0], rel=0.1)
    fresh = np.random.default_rng(9).dirichlet(np.ones(3), size=50)
    np.testing.assert_allclose(law.losses(ends.theta, fresh), losses_at(fresh), rtol=2e-4)


def test_baselines_come_back_too():
    shares, _ = shares_and_losses()
    for name, truth in {
        "linear": shares @ np.array([[3.0], [5.0], [4.0]]),
        "exponential": 2.0 + np.exp(shares @ np.array([[1.5], [-2.0], [0.3]])),
    }.items():
        ends = fit_domains(LAWS[name], shares, truth)
        np.testing.assert_allclose(LAWS[name].losses(ends.theta, shares), truth, rtol=1e-3)


def test_weights_of_rows_count_as_repeats_of_them():
    law = LAWS["effective_data"]
    shares, losses = shares_and_losses(40, noise=0.01)
    start = fit_domains(law, shares, losses).theta
    logs = np.log(losses).T
    doubled = np.concatenate([np.arange(40), np.arange(10)])
    weights = np.tile(1.0 + (np.arange(40) < 10), (2, 1))
    one = minimise(law, start, shares, logs, weights)
    other = minimise(law, start, shares[doubled], logs[:, doubled])
    np.testing.assert_allclose(one.value, other.value, rtol=1e-5)
