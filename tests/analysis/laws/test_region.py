"""A law of rows near the frontier says where it holds, and errs more beyond."""

import numpy as np
import pytest

from analysis.forms import FORMS, column
from analysis.forms.average import Surface
from analysis.laws.region import check_region, error_beyond, region_block
from tests.analysis.conftest import LAWS, isoflop_table

SURFACE = Surface(form=FORMS["chinchilla"], parameters=LAWS["besiroglu"], draws=None)


def columns(table):
    return {name: column(table, name) for name in ("params", "tokens", "loss")}


@pytest.fixture
def block():
    """The rows within x4 of the optimum are fitted; larger models miss the law by 20 %."""
    table = isoflop_table(LAWS["besiroglu"], n=9, width=16.0)
    ratio = np.log(table["params"] / np.repeat(table["params"][4::9].to_numpy(), 9))
    near, larger = np.abs(ratio) < np.log(4.5), ratio > np.log(4.5)
    far = table.loc[larger].assign(loss=lambda t: 1.2 * t["loss"])
    return region_block(SURFACE, columns(table.loc[near]), columns(far))


def test_the_region_is_that_of_the_fitted_rows(block):
    assert np.exp([block["low"], block["high"]]) == pytest.approx([1 / 4, 4], rel=1e-6)
    assert block["a"] == pytest.approx(0.3658 / (0.3478 + 0.3658), rel=1e-6)


def test_the_error_grows_beyond_the_region_and_not_inside(block):
    n = block["params"] * np.array([0.3, 1.0, 3.9, 8.0, 16.0, 64.0])
    error = error_beyond(block, n, block["flops"] / 6 / n)
    assert error[:3] == pytest.approx(0.0)
    assert error[5] == pytest.approx(2 * error[4]) == pytest.approx(4 * error[3])
    assert error[3] < np.log(1.2) < error[4]  # of rows at x8 and x16, each off by 1.2
    small = block["params"] / 16
    assert error_beyond(block, small, block["flops"] / 6 / small) == pytest.approx(error[4])


def test_a_damaged_region_is_refused(block):
    check_region(None, "law.json")
    check_region(block | {"within": 0.1}, "law.json")
    for change in ({"growth": [0.1]}, {"low": "x"}, {"flops": -1.0}, {"high": float("nan")}):
        with pytest.raises(ValueError, match="refit it with"):
            check_region({**block, "within": 0.1, **change}, "law.json")
    with pytest.raises(ValueError, match="refit it with"):
        check_region(5, "law.json")
