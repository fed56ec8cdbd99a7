"""Fits of few runs with a prior: laws, intervals, what law.json states, what is refused."""

import numpy as np
import pandas as pd
import pytest

from analysis import Law, Objective, fit
from analysis.laws.form_error import PRIOR_GROWTH
from tests.analysis.conftest import LAWS, isoflop_table, loss_of

DESIGN = ((1e7, 2e8), (1e7, 1e9), (4e7, 4e8), (4e7, 2e9), (1.5e8, 1.5e9), (1.5e8, 6e9))


def few(n=4, law=LAWS["besiroglu"], noise=0.003, seed=0):
    rng = np.random.default_rng(seed)
    table = pd.DataFrame(DESIGN[:n], columns=["params", "tokens"])
    exact = loss_of(law, table["params"], table["tokens"])
    return table.assign(loss=exact * np.exp(noise * rng.standard_normal(n)))


@pytest.mark.parametrize("n", [3, 4, 5, 6])
def test_few_runs_give_a_law_that_forecasts(n):
    law = fit(few(n))
    assert law.status == "converged"
    assert law.usable
    truth = loss_of(LAWS["besiroglu"], 4e8, 8e9)
    found = law.predict(4e8, 8e9)
    assert found.loss == pytest.approx(truth, rel=0.03)
    assert found.low < truth < found.high
    assert law.optimum(1e20).intervals["params"][0] < law.optimum(1e20).params


@pytest.mark.slow
def test_intervals_cover_laws_that_the_prior_draws_its_families_from():
    rng = np.random.default_rng(1)
    inside = []
    for seed in range(20):
        law = {
            "E": 1.8 * np.exp(0.1 * rng.normal()),
            "alpha": 0.3 * np.exp(0.15 * rng.normal()),
            "beta": 0.3 * np.exp(0.15 * rng.normal()),
        }
        law |= {"A": 1.2 * 4e7 ** law["alpha"], "B": 1.0 * 1e9 ** law["beta"]}
        found = fit(few(4, law, seed=seed), hindcast=False, sensitivity=False).predict(4e8, 8e9)
        inside.append(found.low <= loss_of(law, 4e8, 8e9) <= found.high)
    assert np.mean(inside) >= 0.8


def test_the_law_states_its_prior(tmp_path):
    law = fit(few())
    assert law.prior is not None
    assert 0.1 < law.prior["weight"] <= 1
    assert law.prior["families"]["Gadre 2024"][0] == "gadre2024_c4"
    assert set(law.prior["pull"]) == set(law.parameters)
    pull = law.prior["pull"]["alpha"]
    assert pull["runs"] is None  # four runs leave five parameters open
    assert pull["posterior"] == law.parameters["alpha"]
    assert 0 < pull["weight"] <= 1
    assert law.alarms[0].code == "prior_used"
    assert "prior published (Hoffmann 2022" in law.summary()
    assert "runs alone open" in law.summary().replace("\n  ", " ")
    assert max(map(len, law.summary().splitlines())) <= 100
    again = Law.read(law.write(tmp_path / "law.json"))
    assert again.prior == law.prior
    assert again.predict(4e8, 8e9).low == law.predict(4e8, 8e9).low


def test_six_runs_say_what_they_give_alone():
    law = fit(few(6, noise=0.0), prior="published")
    assert law.prior is not None
    assert law.prior["pull"]["alpha"]["runs"] == pytest.approx(0.3478, rel=1e-3)


def test_a_law_of_few_runs_is_the_same_for_a_seed():
    first, again = (fit(few(), seed=5).draws for _ in range(2))
    assert np.array_equal(first, again)


@pytest.mark.slow
def test_auto_fits_eight_points_without_a_prior_and_seeds_count_once(refit_law):
    table = isoflop_table(refit_law, budgets=(1e18, 1e19), n=4, noise=0.002)
    extras = {"resamples": 0, "hindcast": False, "sensitivity": False}
    assert fit(table, **extras).prior is None
    seeds = pd.concat([few(4, seed=s) for s in range(3)], ignore_index=True)
    assert fit(seeds, **extras).prior is not None


@pytest.mark.slow
def test_a_prior_that_is_asked_for_gives_way_to_many_runs(refit_law):
    table = isoflop_table(refit_law, noise=0.002)
    law = fit(table, prior="published", hindcast=False, sensitivity=False)
    plain = fit(table, resamples=0, hindcast=False, sensitivity=False)
    assert law.prior is not None
    assert law.prior["weight"] < 0.1
    assert law.parameters["alpha"] == pytest.approx(plain.parameters["alpha"], rel=0.05)


def test_a_loss_in_another_unit_scales_the_law(refit_law):
    table = few()
    nats, other = (fit(table.assign(loss=table["loss"] * k), seed=1) for k in (1.0, 0.36))
    ratio = other.predict(4e8, 8e9).loss / nats.predict(4e8, 8e9).loss
    assert ratio == pytest.approx(0.36, rel=0.01)


def test_families_of_ones_own_are_the_prior():
    law = fit(few(), prior={"mine": ["gadre2024_c4"]})
    assert law.prior is not None
    assert law.prior["families"] == {"mine": ["gadre2024_c4"]}


def test_intervals_widen_with_distance():
    law = fit(few())
    flops = 10 * law.ranges["flops_6nd"][1]
    part = law.predict(1e9, flops / 6e9, level=0.9).parts["hindcast"]
    assert part == pytest.approx(1.6449 * PRIOR_GROWTH * np.log(10), rel=1e-3)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"prior": "flat"}, "choose one of auto, published, none"),
        ({"prior": "published", "form": "kaplan"}, "the fit has form=kaplan"),
        ({"prior": "published", "form": "all"}, "the fit has form=all"),
        ({"prior": "published", "objective": Objective()}, "objective.name=huber_log"),
        ({"prior": "published", "fixed": {"alpha": 0.3}}, "the fit has fixed.alpha"),
        ({"prior": "none"}, "4 rows cannot carry the 5 parameters"),
        ({"objective": Objective()}, "4 rows cannot carry the 5 parameters"),
    ],
)
def test_what_has_no_prior_is_refused_in_one_sentence(options, words):
    with pytest.raises(ValueError, match=words):
        fit(few(), **options)


def test_two_rows_are_refused():
    with pytest.raises(ValueError, match="2 rows are too few for form=chinchilla even with prior"):
        fit(few(2), prior="published")
