"""Passes and weight decay of least loss, by a law whose loss can rise again."""

from dataclasses import replace

import numpy as np
import pytest

from analysis.forms import FORMS
from analysis.laws.law import Law
from analysis.planning.constraints import Constraints
from analysis.planning.passes import best_passes, can_rise, chosen_decay, tokens_of_least_loss
from analysis.planning.split import split_of

PARAMETERS = {
    **{"E": 1.9, "A": 400.0, "B": 1500.0, "alpha": 0.34, "beta": 0.36},
    **{"P": 0.2, "e0": 6.0, "g": 0.9, "h": 0.8, "w0": 0.5, "q": 0.8, "Q": 0.06, "r": 0.8},
}
U = 1e8
RANGES = {
    "passes": [1.0, 64.0],
    "weight_decay": [0.01, 10.0],
    "flops_6nd": [1e15, 1e19],
    "params": [1e6, 1e9],
}


def law(**changes):
    return Law(
        form="overfitting_decay",
        count="total",
        parameters=PARAMETERS | changes,
        objective={"name": "huber_log", "delta": 1e-3, "value": 0.0},
        status="converged",
        n_runs=100,
        ranges=RANGES,
    )


def drawn():
    rng = np.random.default_rng(0)
    values = np.array(list(PARAMETERS.values()))
    return replace(law(), draws=values * np.exp(0.05 * rng.standard_normal((50, len(values)))))


def loss(n, epochs, decay):
    values = {"params": n, "tokens": epochs * U, "unique_tokens": U, "weight_decay": decay}
    return FORMS["overfitting_decay"].predict(PARAMETERS, values)


def test_passes_and_decay_together_have_the_least_loss_of_a_grid():
    n = 1e8
    epochs, decays = np.geomspace(1, 64, 300)[:, None], np.geomspace(0.01, 10, 300)
    grid = FORMS["overfitting_decay"].predict(
        PARAMETERS,
        {
            "params": n,
            "tokens": epochs * U,
            "unique_tokens": np.full_like(epochs, U),
            "weight_decay": decays,
        },
    )
    i, j = np.unravel_index(grid.argmin(), grid.shape)
    tokens = float(tokens_of_least_loss(law(), U, n))
    assert tokens / U == pytest.approx(epochs[i, 0], rel=0.05)
    assert 1 < tokens / U < 64
    chosen = chosen_decay(law(), n, tokens, U, 0.9)
    assert chosen.value == pytest.approx(decays[j], rel=0.12)
    assert loss(n, tokens / U, chosen.value) == pytest.approx(grid.min(), rel=1e-3)


def test_both_have_intervals_and_reasons():
    passes = best_passes(drawn(), U, 1e8, 0.9)
    assert passes.low < passes.value < passes.high
    assert "the loss is least at" in passes.reason
    decay = chosen_decay(drawn(), 1e8, passes.value * U, U, 0.9)
    assert decay.low < decay.value < decay.high
    assert "of least loss at these N, D" in decay.reason


def test_a_plan_leaves_compute_rather_than_let_the_loss_rise():
    split = split_of(law(), 1e22, Constraints(unique_tokens=U, params=1e8), level=0.9, flat_loss=0)
    assert split.rises
    assert split.limited
    assert split.tokens == pytest.approx(float(tokens_of_least_loss(law(), U, 1e8)))
    assert 6 * split.params * split.tokens < 1e21
    larger = split_of(law(), 1e22, Constraints(unique_tokens=1e13), level=0.9, flat_loss=0)
    assert not larger.rises


def test_a_size_is_chosen_inside_where_repetition_harms_large_models():
    split = split_of(law(), 1e20, Constraints(unique_tokens=U), level=0.9, flat_loss=1e-3)
    n = split.params
    best = float(split.loss(n, split.tokens))
    for other in (n / 3, n * 3):
        tokens = min(1e20 / 6 / other, float(tokens_of_least_loss(law(), U, other)))
        assert float(split.loss(other, tokens)) > best


def test_a_decay_outside_the_fitted_ones_is_refused_where_it_matters():
    narrow = replace(law(P=1.0), ranges={**RANGES, "weight_decay": [0.01, 0.1]})
    with pytest.raises(ValueError, match=r"outside the fitted 0\.01 to 0\.1.*sweep optim"):
        chosen_decay(narrow, 1e9, 30 * U, U, 0.9)
    edge = chosen_decay(law(P=1e-9), 1e8, U, U, 0.9)  # nothing to gain from any decay
    assert edge.value == 0.01
    assert "beyond the fitted ones" in edge.reason


def test_passes_end_where_the_fit_ended():
    falling = law(P=1e-9)
    assert float(tokens_of_least_loss(falling, U, 1e8)) == pytest.approx(64 * U)
    assert "the most that were fitted" in best_passes(falling, U, 1e8, 0.9).reason


def test_other_laws_have_neither():
    other = replace(law(), form="data_constrained")
    assert can_rise(law())
    assert not can_rise(other)
    assert chosen_decay(other, 1e8, U, U, 0.9) is None
