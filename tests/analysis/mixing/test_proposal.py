"""The best shares: no trained neighbour is better, limits hold, repeats cost."""

import numpy as np
import pytest

from analysis.mixing.laws import LAWS
from analysis.mixing.proposal import Goal, best_shares, check_room, held_near
from analysis.mixing.solve import fit_domains
from tests.analysis.mixing.swarm_of import table_of

LAW = LAWS["effective_data"]
VALUES = table_of(40).to_numpy()
THETA = fit_domains(LAW, VALUES[:, :3], VALUES[:, 3:]).theta


def goal(**changes: object) -> Goal:
    free = {
        "target": np.full(2, 0.5),
        "least": np.zeros(3),
        "most": np.ones(3),
        "unique": np.full(3, np.inf),
    }
    return Goal(**{**free, "decay": 15.4, **changes})


@pytest.mark.parametrize("start", [[1.0, 0, 0], [0, 0.5, 0.5], [0.2, 0.3, 0.5]])
@pytest.mark.parametrize("unique", [np.inf, 0.05])
def test_no_other_mixture_is_better_from_whichever_start(start, unique):
    own = goal(unique=np.array([unique, np.inf, np.inf]))
    best = best_shares(LAW, THETA, own, np.array(start, dtype=float))
    assert best.sum() == pytest.approx(1)
    others = np.random.default_rng(0).dirichlet(np.ones(3), size=4000)
    least = (own.losses(LAW, THETA, others) @ own.target).min()
    assert own.value(LAW, THETA, best)[0] <= least + 1e-9


def test_caps_hold_and_scarce_text_gets_less():
    start = np.full(3, 1 / 3)
    free = best_shares(LAW, THETA, goal(), start)
    capped = best_shares(LAW, THETA, goal(most=np.array([0.1, 1, 1])), start)
    assert capped[0] == pytest.approx(0.1)
    scarce = best_shares(LAW, THETA, goal(unique=np.array([0.01, np.inf, np.inf])), start)
    assert scarce[0] < free[0] - 0.02


def test_limits_without_room_are_refused():
    with pytest.raises(ValueError, match=r"caps leave room for 0\.6"):
        check_room(goal(most=np.full(3, 0.2)), "caps")


def test_a_far_mixture_is_moved_back_to_the_usual_distance():
    trained = np.array([[0.5, 0.5, 0.0], [0.5, 0.0, 0.5], [0.0, 0.5, 0.5]])
    moved, distance, _ = held_near(np.array([0.8, 0.2, 0.0]), trained, 0.1, goal())
    assert distance == pytest.approx(0.3)
    assert held_near(moved, trained, 0.1, goal())[1] == pytest.approx(0.1)
