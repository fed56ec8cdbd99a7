"""What is believed of arms: small effects beside noise, large ones, many arms, and none."""

import numpy as np
import pytest
from scipy.special import ndtr

from analysis.comparing.effects import EFFECT, believed

SLOPE = 0.05


def draws(effects, noise, *, n=4000, seed=0, shared=0.0):
    """Return log losses of arms with effects in log k, and draws about them."""
    rng = np.random.default_rng(seed)
    point = 1.0 - SLOPE * np.asarray(effects, dtype=float)
    own = rng.standard_normal((n, len(point)))
    both = np.sqrt(shared) * rng.standard_normal((n, 1)) + np.sqrt(1 - shared) * own
    return point, point + SLOPE * noise / np.sqrt(2) * both


def test_an_effect_beside_much_noise_is_believed_less_than_its_draws_say():
    point, drawn = draws([0.0, 0.5], noise=0.5)
    flat = np.mean(drawn[:, 1] < drawn[:, 0])
    assert flat == pytest.approx(ndtr(1), abs=0.02)
    assert 0.6 < believed(point, drawn, SLOPE, 0).p_better(0, 1) < flat - 0.05


def test_an_effect_beside_little_noise_is_believed_as_its_draws_say():
    point, drawn = draws([0.0, 0.1], noise=0.05)
    flat = np.mean(drawn[:, 1] < drawn[:, 0])
    assert believed(point, drawn, SLOPE, 0).p_better(0, 1) == pytest.approx(flat, abs=0.02)


def test_the_spread_of_many_arms_says_how_large_effects_are():
    rng = np.random.default_rng(3)
    for spread in (0.1, 1.0):
        point, drawn = draws(spread * rng.standard_normal(24) / np.sqrt(2), noise=0.05)
        found = believed(point, drawn, SLOPE, 0).deviation
        assert found == pytest.approx(spread, rel=0.35)
    lone = believed(*draws([0.0, 0.0], noise=0.5), SLOPE, 0).deviation
    assert 0.5 * EFFECT < lone < 2 * EFFECT


def test_what_all_arms_share_changes_nothing():
    apart = believed(*draws([0.0, 0.3], noise=0.3), SLOPE, 0).p_better(0, 1)
    point, drawn = draws([0.0, 0.3], noise=0.3)
    common = 5 * SLOPE * np.random.default_rng(9).standard_normal((len(drawn), 1))
    assert believed(point, drawn + common, SLOPE, 0).p_better(0, 1) == pytest.approx(
        apart, abs=0.03
    )


def test_the_order_of_the_arms_changes_nothing():
    point, drawn = draws([0.0, 0.2, -0.1, 0.4], noise=0.3)
    one, other = believed(point, drawn, SLOPE, 0), believed(point[::-1], drawn[:, ::-1], SLOPE, 0)
    assert one.p_better(0, 3) == pytest.approx(other.p_better(3, 0), abs=0.03)
    assert one.deviation == pytest.approx(other.deviation)


def test_one_arm_is_left_as_it_is():
    point, drawn = draws([0.0], noise=0.3)
    alone = believed(point, drawn, SLOPE, 0)
    assert alone.deviation is None
    assert np.array_equal(alone.log_loss, drawn)


@pytest.mark.slow
def test_probabilities_are_calibrated_where_effects_are_as_the_prior_says():
    rng = np.random.default_rng(0)
    said, true = [], []
    for seed in range(400):
        spread = EFFECT * np.exp(0.7 * rng.standard_normal())
        effect, noise = spread * rng.standard_normal(), 0.3
        seen = effect + noise * rng.standard_normal()
        point, drawn = draws([0.0, seen], noise, n=300, seed=seed)
        said.append(believed(point, drawn, SLOPE, seed).p_better(0, 1))
        true.append(effect > 0)
    sure = np.maximum(said, 1 - np.array(said))
    right = np.where(np.array(said) > 0.5, true, ~np.array(true))
    for low, high in ((0.5, 0.7), (0.7, 0.9), (0.9, 1.01)):
        here = (sure >= low) & (sure < high)
        assert right[here].mean() == pytest.approx(sure[here].mean(), abs=0.07)
