import numpy as np
import pytest

from analysis.forms import FORMS
from analysis.forms.optimum import optimal_split, split_intervals
from analysis.forms.token_flops import TokenFlops, params_at_ratio, per_token

LAW = {"E": 1.8, "A": 480.0, "B": 2100.0, "alpha": 0.35, "beta": 0.37}


def constant(over: float) -> TokenFlops:
    return TokenFlops(least=1e3, step=0.5, over_6n=np.full(40, over))


def attention() -> TokenFlops:
    """Return c = 6N (1 + (1e6 / N)^(1/3)), which attention costs beside the matrices."""
    n = 1e4 * np.exp(0.15 * np.arange(160))
    return TokenFlops(least=1e4, step=0.15, over_6n=1 + (1e6 / n) ** (1 / 3))


def test_between_and_beyond_the_knots_it_follows_the_function():
    cost, n = attention(), np.geomspace(2e4, 1e14, 77)
    assert cost(n) == pytest.approx(6 * n * (1 + (1e6 / n) ** (1 / 3)), rel=1e-4)
    assert cost(1e16) / 6e16 == pytest.approx(1, abs=0.01)
    assert per_token(5.0, None) == 30


def test_the_optimum_at_6n_is_the_closed_form():
    form = FORMS["chinchilla"]
    closed = optimal_split(form, LAW, 1e20)
    searched = optimal_split(form, LAW, 1e20, token_flops=constant(1.0))
    for name, value in closed.items():
        assert searched[name] == pytest.approx(value, rel=1e-5)


def test_a_constant_factor_is_as_much_less_compute():
    form = FORMS["chinchilla"]
    dear = optimal_split(form, LAW, 1.25e20, token_flops=constant(1.25))
    assert dear["params"] == pytest.approx(optimal_split(form, LAW, 1e20)["params"], rel=1e-5)


def test_the_optimum_has_the_least_loss_of_its_budget():
    cost, form = attention(), FORMS["chinchilla"]
    best = optimal_split(form, LAW, 1e15, token_flops=cost)
    assert cost(best["params"]) * best["tokens"] == pytest.approx(1e15)
    n = best["params"] * np.geomspace(0.5, 2, 2001)
    losses = form.predict(LAW, {"params": n, "tokens": 1e15 / cost(n)})
    assert n[losses.argmin()] == pytest.approx(best["params"], rel=1e-3)
    assert best["a"] + best["b"] == pytest.approx(1.07, abs=0.01)  # c grows less than N


def test_intervals_hold_the_optimum_of_each_draw():
    draws = np.array([list(LAW.values())] * 50) * np.linspace(0.99, 1.01, 50)[:, None]
    ends = split_intervals(FORMS["chinchilla"], LAW, draws, 1e15, 0.9, token_flops=attention())
    value = optimal_split(FORMS["chinchilla"], LAW, 1e15, token_flops=attention())
    assert all(low <= value[name] <= high for name, (low, high) in ends.items())


@pytest.mark.parametrize("ratio", [0.5, 20, 1e4])
def test_the_size_at_a_ratio_pays_for_its_tokens(ratio):
    n, cost = params_at_ratio(1e15, ratio, attention()), attention()
    assert cost(n) * ratio * n == pytest.approx(1e15, rel=1e-4)


def test_a_damaged_block_is_a_sentence():
    block = attention().as_block()
    assert TokenFlops.of(block)(1e8) == attention()(1e8)
    assert TokenFlops.of(None) is None
    for wrong in ({"least": 0}, {"over_6n": [1.0]}, {"over_6n": [1.0, -1.0]}, {"step": "x"}):
        with pytest.raises(ValueError, match="token_flops must hold"):
            TokenFlops.of(block | wrong)


# Fitted by farseer to 40 cells of a study: its loss falls again far beyond the cells.
FALLS_AGAIN = {
    "a1": -0.8507378495289106, "alpha": 0.13020959684151479, "b1": 2.2108562056548178,
    "a2": 68.73268118341272, "beta": -0.25407120486724866, "b2": -1.1301771591039182,
    "a3": -0.06444287491505736, "gamma": 0.24053291567363047, "b3": 1.920277644731649,
}  # fmt: skip


def test_an_optimum_does_not_jump_to_the_end_of_the_search_while_it_has_a_minimum():
    form, flops = FORMS["farseer"], 5.34e10
    found = optimal_split(form, FALLS_AGAIN, flops)
    end = {"params": (flops / 6 / 0.5) ** 0.5, "tokens": (flops / 6 * 0.5) ** 0.5}
    assert form.predict(FALLS_AGAIN, end) < form.predict(FALLS_AGAIN, found)
    assert found["tokens_per_param"] == pytest.approx(6.52, rel=0.01)
    assert optimal_split(form, FALLS_AGAIN, 1e12)["tokens_per_param"] == pytest.approx(0.5)
