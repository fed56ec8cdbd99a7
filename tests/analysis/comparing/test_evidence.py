"""Whether a difference is real: rates of false promotions, looks in between, seeds needed."""

import math

import numpy as np
import pytest
from scipy.special import stdtrit

from analysis.comparing.evidence import (
    always_valid,
    benjamini_hochberg,
    deviation_about_trend,
    deviation_within,
    seeds_needed,
)


def test_q_values_are_those_of_benjamini_and_hochberg():
    q = benjamini_hochberg(np.array([0.01, 0.04, np.nan, 0.03, 0.5]))
    assert q[[0, 1, 3, 4]] == pytest.approx([0.04, 0.16 / 3, 0.16 / 3, 0.5])
    assert np.isnan(q[2])


def test_looking_after_every_pair_is_wrong_in_at_most_five_percent():
    rng = np.random.default_rng(0)
    wrong = np.mean([always_valid(rng.normal(size=60)) <= 0.05 for _ in range(600)])
    assert wrong <= 0.05


def test_an_effect_is_seen_by_looks_in_between():
    rng = np.random.default_rng(1)
    assert always_valid(1.0 + rng.normal(size=40)) < 0.01
    assert always_valid(np.array([0.1])) is None
    assert always_valid(np.zeros(5)) == 1.0


@pytest.mark.parametrize(("variance", "difference"), [(4e-4, 0.01), (1e-4, 0.03)])
def test_the_seeds_needed_have_the_power_and_one_fewer_has_not(variance, difference):
    n, rng = seeds_needed(variance, difference), np.random.default_rng(0)

    def power(seeds: int) -> float:
        d = difference + math.sqrt(variance) * rng.normal(size=(20_000, seeds))
        t = d.mean(axis=1) / d.std(axis=1, ddof=1) * math.sqrt(seeds)
        return float((np.abs(t) > stdtrit(seeds - 1, 0.975)).mean())

    assert power(n) > 0.79
    assert power(n - 1) < 0.8 or n == 2


def test_a_pair_of_two_seeds_that_differ_little_needs_two():
    assert seeds_needed(1e-12, 0.01) == 2


def test_deviation_between_seeds_leaves_out_what_points_differ_in():
    rng = np.random.default_rng(0)
    points = np.repeat(np.arange(200), 3)
    d = 0.5 * points + 0.02 * rng.normal(size=600)
    sd, freedom = deviation_within(d, points)
    assert sd == pytest.approx(0.02, rel=0.1)
    assert freedom == 400
    assert deviation_within(d[:1], points[:1]) is None


def test_deviation_about_a_plane_leaves_out_its_trend():
    rng = np.random.default_rng(0)
    n, d = np.exp(rng.normal(size=(2, 300)))
    noise = 0.01 * rng.normal(size=300)
    assert deviation_about_trend(0.3 * np.log(n) - np.log(d) + noise, n, d) == pytest.approx(
        0.01, rel=0.1
    )
    assert deviation_about_trend(noise[:3], n[:3], d[:3]) is None
