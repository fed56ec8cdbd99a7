"""What a single form may say in an average where no run was fitted."""

import numpy as np
import pytest

from analysis.forms import FORMS
from analysis.forms.average import HELD, FittedRange, Member, average, joined, weighted_median
from analysis.forms.optimum import optimal_split

FITTED = FittedRange(params=(1e7, 1e9), tokens_per_param=(1.0, 1000.0))
CHINCHILLA = {"E": 1.7, "A": 400.0, "B": 2000.0, "alpha": 0.34, "beta": 0.37}
# the member that fell to 1.4 nats at half a token per parameter in a law of published runs
FARSEER = {
    **{"a1": -0.0, "alpha": 0.49, "b1": -0.503, "a2": -0.001, "beta": 0.373, "b2": 12.629},
    **{"a3": -1.109, "gamma": 0.048, "b3": 3.891},
}


def test_the_weighted_median_is_the_middle_of_two_where_the_weight_splits():
    values = np.array([[3.0, 1.0], [1.0, 2.0], [2.0, 3.0]])
    assert weighted_median(values, np.array([0.2, 0.3, 0.5])) == pytest.approx([2.0, 2.5])


def test_nothing_is_held_among_the_runs_and_at_their_edge():
    logs = [np.array([0.0]), np.array([0.0]), np.array([-1.0])]
    for params, at in ((1e8, -0.2), (1e9 * (1 + 1e-9), -0.2), (1e10, -0.2 * HELD)):
        found = joined(logs, [0.4, 0.4, 0.2], {"params": params, "tokens": 20 * params}, FITTED)
        assert found[0] == pytest.approx(at)


def test_a_form_of_small_weight_does_not_decide_the_optimum_where_it_knows_nothing():
    members = [
        Member(form=FORMS[name], parameters=p, draws=None, weight=w)
        for name, p, w in (("chinchilla", CHINCHILLA, 0.9), ("farseer", FARSEER, 0.1))
    ]
    held, free = (average(members, fitted) for fitted in (FITTED, None))
    at = [optimal_split(s.form, s.parameters, 1e23)["tokens_per_param"] for s in (free, held)]
    alone = optimal_split(FORMS["chinchilla"], CHINCHILLA, 1e23)["tokens_per_param"]
    assert at[0] < 1.0 < alone / 10
    assert at[1] == pytest.approx(alone, rel=0.5)


@pytest.mark.parametrize(
    "block", [{}, {"params": [2, 1], "tokens_per_param": [1, 2], "held": 1}, {"params": 3}, []]
)
def test_a_damaged_range_of_a_law_is_refused(block):
    with pytest.raises(ValueError, match=r"refit it with analysis\.fit form=all"):
        FittedRange.read(block, "law.json")


def test_a_range_is_read_as_it_was_written():
    assert FittedRange.read(FITTED.as_block(), "law.json") == FITTED
    assert FittedRange.read(None, "law.json") is None
