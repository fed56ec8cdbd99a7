"""The distance of a mixture to those that were trained."""

import numpy as np
import pytest

from analysis.mixing.hull import nearest, usual_distance

CORNERS = np.array([[0.5, 0.5, 0.0], [0.5, 0.0, 0.5], [0.0, 0.5, 0.5]])


def test_a_mix_of_trained_rows_is_at_no_distance():
    distance, mix = nearest(np.full(3, 1 / 3), CORNERS)
    assert distance == pytest.approx(0, abs=1e-9)
    np.testing.assert_allclose(mix, np.full(3, 1 / 3))


def test_the_distance_is_the_share_that_has_to_move():
    distance, mix = nearest(np.array([0.8, 0.2, 0.0]), CORNERS)
    assert distance == pytest.approx(0.3)
    assert mix[0] <= 0.5 + 1e-9


def test_the_usual_distance_is_that_of_trained_rows_to_the_others():
    assert usual_distance(CORNERS) == pytest.approx(0.5)
    inside = np.concatenate([np.eye(3), np.random.default_rng(0).dirichlet(np.ones(3), 57)])
    assert usual_distance(inside) < 0.2
