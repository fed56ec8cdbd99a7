"""The prior over published laws: its coordinates, its families, and what it refuses."""

import numpy as np
import pytest

from analysis.estimation.prior import FAMILIES, Prior, inward
from analysis.laws.published import PUBLISHED

LOG_N, LOG_D = np.log([1e7, 4e7, 2e8]), np.log([4e8, 1e9, 2e9])


def test_coordinates_are_inverted():
    prior = Prior.over(FAMILIES, LOG_N, LOG_D)
    parameters = np.array([[1.8, 480.0, 2085.0, 0.35, 0.37], [2.6, 2.3e4, 310.0, 0.62, 0.27]])
    assert prior.parameters(inward(parameters, prior.middle)) == pytest.approx(parameters)


def test_coordinates_give_the_losses_of_the_law():
    prior = Prior.over(FAMILIES, LOG_N, LOG_D)
    law = PUBLISHED["besiroglu2024"]
    u = inward(np.array([list(law.parameters.values())]), prior.middle)
    losses = law.predict(np.exp(LOG_N), np.exp(LOG_D)).loss
    assert np.exp(prior.log_losses(u, LOG_N, LOG_D)[0]) == pytest.approx(losses)


@pytest.mark.parametrize("name", FAMILIES["Gadre 2024"])
def test_a_law_of_over_training_enters_as_the_same_surface(name):
    prior = Prior.over({"one": [name]}, LOG_N, LOG_D)
    losses = PUBLISHED[name].predict(np.exp(LOG_N), np.exp(LOG_D)).loss
    assert np.exp(prior.log_losses(prior.mean[None], LOG_N, LOG_D)[0]) == pytest.approx(losses)


def test_a_family_weighs_as_another_however_many_laws_it_has():
    one, other = ("gadre2024_c4", "gadre2024_rpj", "gadre2024_rw"), ("muennighoff2023",)
    both = Prior.over({"one": one, "other": other}, LOG_N, LOG_D)
    alone = [Prior.over({"it": names}, LOG_N, LOG_D).mean for names in (one, other)]
    assert both.mean == pytest.approx(np.mean(alone, axis=0))


def test_coordinates_at_the_middle_are_better_conditioned_than_the_parameters():
    prior = Prior.over(FAMILIES, LOG_N, LOG_D)
    u = np.random.default_rng(0).multivariate_normal(prior.mean, prior.covariance, 4000)
    logs = np.log(prior.parameters(u))
    assert np.corrcoef(logs[:, 1], logs[:, 3])[0, 1] > 0.8  # A trades against alpha
    assert np.linalg.cond(np.corrcoef(u.T)) < np.linalg.cond(np.corrcoef(logs.T)) / 5


@pytest.mark.parametrize(
    ("families", "words"),
    [
        ({}, "no family of laws"),
        ({"mine": ["nobody2020"]}, "no law nobody2020"),
        ({"mine": ["kaplan2020"]}, "kaplan2020 of form kaplan has N_c"),
    ],
)
def test_families_without_a_chinchilla_law_are_refused(families, words):
    with pytest.raises(ValueError, match=words):
        Prior.over(families, LOG_N, LOG_D)
