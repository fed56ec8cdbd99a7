"""Closed forms against the sheet's numbers, intervals, and reading back what was written."""

from dataclasses import replace

import numpy as np
import pytest

from analysis import Law, fit, load_law
from analysis.forms.optimum import chinchilla_optimum, frontier
from tests.analysis.conftest import LAWS, isoflop_table


@pytest.fixture(scope="module")
def fitted() -> Law:
    """A law with intervals, fitted once."""
    return fit(isoflop_table(LAWS["besiroglu"], noise=0.005), resamples=200)


@pytest.mark.parametrize(
    ("name", "flops", "params", "ratio"),
    [
        ("hoffmann2022", 5.76e23, 32.2e9, 92.7),
        ("hoffmann2022_tex", 5.76e23, 40.4e9, 58.9),
        ("besiroglu2024", 5.76e23, 72.3e9, 18.4),
    ],
)
def test_gopher_budget_optima(name, flops, params, ratio):
    optimum = load_law(name).optimum(flops)
    assert optimum.params == pytest.approx(params, rel=2e-3)
    assert optimum.tokens_per_param == pytest.approx(ratio, rel=2e-3)
    assert 6 * optimum.params * optimum.tokens == pytest.approx(flops)


@pytest.mark.parametrize(
    ("flops", "params", "tokens", "loss"),
    [(1e20, 8.535e8, 1.953e10, 2.5534), (1e24, 9.586e10, 1.739e12, 1.9597)],
)
def test_refit_optima(flops, params, tokens, loss):
    optimum = load_law("besiroglu2024").optimum(flops)
    assert optimum.params == pytest.approx(params, rel=1e-3)
    assert optimum.tokens == pytest.approx(tokens, rel=1e-3)
    assert optimum.loss == pytest.approx(loss, abs=1e-4)


def test_first_order_condition_and_frontier():
    law = load_law("besiroglu2024")
    p = law.parameters
    split = chinchilla_optimum(p, 1e22)
    by_size = p["alpha"] * p["A"] * split["params"] ** -p["alpha"]
    by_data = p["beta"] * p["B"] * split["tokens"] ** -p["beta"]
    assert by_size == pytest.approx(by_data)
    gamma = p["alpha"] * p["beta"] / (p["alpha"] + p["beta"])
    reducible = frontier(p, [1e20, 1e22]) - p["E"]
    assert np.log(reducible[0] / reducible[1]) / np.log(100) == pytest.approx(gamma)
    assert gamma == pytest.approx(0.1783, abs=1e-4)


def test_kaplan_joint_law_reduces_to_its_limits():
    law = load_law("kaplan2020")
    p = law.parameters
    assert law.predict(1e9, 1e30).loss == pytest.approx((p["N_c"] / 1e9) ** p["alpha_N"], rel=1e-3)
    assert law.predict(1e30, 1e10).loss == pytest.approx(
        (p["D_c"] / 1e10) ** p["alpha_D"], rel=1e-2
    )


@pytest.mark.slow
def test_a_law_reads_back_as_written(tmp_path, fitted):
    again = Law.read(fitted.write(tmp_path / "law.json"))
    assert again.parameters == fitted.parameters
    assert np.array_equal(again.draws, fitted.draws)
    assert again.optimum(1e22) == fitted.optimum(1e22)
    assert again.summary() == fitted.summary()
    assert again.alarms == fitted.alarms


def test_missing_keys_are_named(tmp_path):
    (tmp_path / "law.json").write_text('{"optimum": {}, "form": "chinchilla", "shape": 1}')
    with pytest.raises(ValueError, match="the law has no count, objective, parameters, status"):
        Law.read(tmp_path / "law.json")


def test_parameters_must_be_finite():
    with pytest.raises(ValueError, match="not finite"):
        Law(
            form="chinchilla",
            count="total",
            parameters={"E": np.nan},
            objective={},
            status="converged",
        )


@pytest.mark.slow
def test_intervals_widen_with_distance_and_noise(fitted):
    near, far = fitted.optimum(1e20), fitted.optimum(1e24)
    width = [
        np.subtract(*o.intervals["tokens_per_param"][::-1]) / o.tokens_per_param
        for o in (near, far)
    ]
    assert width[1] > width[0]
    with_noise = fitted.predict(1e9, 2e10, level=0.9)
    without = fitted.predict(1e9, 2e10, level=0.9, noise=False)
    assert with_noise.low < without.low < with_noise.loss < without.high < with_noise.high


@pytest.mark.slow
def test_predictions_keep_the_shape_of_their_arguments(fitted):
    predicted = fitted.predict(np.ones((2, 1)) * 1e9, np.ones(3) * 1e10)
    assert predicted.loss.shape == predicted.low.shape == (2, 3)


@pytest.mark.slow
def test_an_optimum_at_the_edge_of_the_search_is_printed_as_none(fitted):
    optima = [{**o, "tokens_per_param": 0.5} for o in fitted.allocation["tokens_per_param"]]
    at_edge = replace(fitted, allocation={**fitted.allocation, "tokens_per_param": optima})
    text = at_edge.summary()
    assert text.count("at the edge of the search, no optimum") == len(optima) + 1
    assert (
        f"{fitted.allocation['a']:.4f}"
        not in text.split("sensitivity")[0].split("parametric")[1][:60]
    )


def test_the_summary_fits_the_terminal(fitted):
    lines = fitted.summary().splitlines()
    assert max(map(len, lines)) <= 100
    assert any(line.startswith("IsoFLOP") for line in lines)
    assert dict(pair[:2] for pair in fitted.__rich_repr__())["form"] == "chinchilla"
