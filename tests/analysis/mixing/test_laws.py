"""The forms: derivatives by parameters and by shares, bounds, names of parameters."""

import numpy as np
import pytest

from analysis.mixing.laws import FIXED, LAWS

SHARES = np.random.default_rng(0).dirichlet(np.ones(4), size=6)
LOGS = np.log(np.linspace(3.0, 5.0, 6))


@pytest.mark.parametrize("name", LAWS)
def test_derivatives_are_those_of_finite_differences(name):
    law = LAWS[name]
    theta = law.starts(LOGS, 4, 3, np.random.default_rng(1))
    _, jacobian = law.log_loss(theta, SHARES, derivatives=True)
    for k in range(theta.shape[1]):
        if name == "effective_data" and k == FIXED:
            continue  # a constant of the problem
        step = 1e-6 * np.eye(theta.shape[1])[k]
        ends = [law.log_loss(theta + s * step, SHARES)[0] for s in (1, -1)]
        np.testing.assert_allclose(jacobian[..., k], (ends[0] - ends[1]) / 2e-6, atol=1e-7)


@pytest.mark.parametrize("name", LAWS)
def test_slopes_by_shares_are_those_of_finite_differences(name):
    law = LAWS[name]
    theta = law.starts(LOGS, 4, 3, np.random.default_rng(1))
    losses, slopes = law.slopes(theta, SHARES[0])
    np.testing.assert_allclose(losses, law.losses(theta, SHARES[:1])[0])
    for j in range(4):
        step = 1e-6 * np.eye(4)[j]
        ends = [law.losses(theta, (SHARES[0] + s * step)[None])[0] for s in (1, -1)]
        np.testing.assert_allclose(slopes[:, j], (ends[0] - ends[1]) / 2e-6, rtol=1e-5)


def test_named_parameters_give_the_losses_of_the_published_formula():
    law = LAWS["effective_data"]
    theta = law.starts(LOGS, 4, 1, np.random.default_rng(2))
    p = law.named(theta[0], "abcd")
    x = p["eps"] + SHARES ** p["g"] @ np.array(list(p["w"].values()))
    np.testing.assert_allclose(p["E"] + x ** -p["beta"], law.losses(theta, SHARES)[:, 0])
    assert law.size(4) == 8
