"""The bootstrap: its units, its convergence, and whether intervals cover."""

import numpy as np
import pytest

from analysis import fit
from analysis.forms import FORMS
from analysis.objective import Objective, problem_of
from analysis.solver import minimise
from analysis.uncertainty import bootstrap, unit_weights, units_of

from .conftest import isoflop_table, loss_of

FORM = FORMS["chinchilla"]


def test_units_are_trunks_then_many_groups_then_rows(refit_law):
    table = isoflop_table(refit_law)
    assert units_of(table).name == "row"
    assert units_of(table.assign(group="x")).name == "row"
    assert units_of(table.assign(group=np.arange(len(table)) // 2)).name == "group"
    assert units_of(table.assign(trunk=np.arange(len(table)) // 4)).count == 7


def test_rows_of_a_unit_are_drawn_together(refit_law):
    units = units_of(isoflop_table(refit_law).assign(trunk=np.arange(28) // 4))
    weights = unit_weights(units, np.random.default_rng(0), 50)
    assert weights.shape == (50, 28)
    assert (weights.reshape(50, 7, 4).std(axis=2) == 0).all()
    assert (weights.sum(axis=1) == 28).all()


def test_every_resample_is_the_minimum_many_starts_find(refit_law):
    table = isoflop_table(refit_law, noise=0.005)
    problem = problem_of(table, FORM, Objective())
    found = minimise(problem)
    boot = bootstrap(problem, found, units_of(table), resamples=8, seed=3)
    weights = unit_weights(units_of(table), np.random.default_rng(3), 8)
    for draw, weight in zip(boot.draws, weights, strict=True):
        again = minimise(problem_of(table.assign(weight=weight), FORM, Objective()))
        best = problem.design.external(again.theta[0])
        assert draw == pytest.approx(best, rel=1e-5)


def test_the_same_seed_gives_the_same_interval(refit_law):
    table = isoflop_table(refit_law, noise=0.005)
    one, two, other = (fit(table, resamples=40, hindcast=False, seed=s) for s in (0, 0, 1))
    assert one.intervals == two.intervals != other.intervals


def test_intervals_cover_under_noise(refit_law):
    """Nominal 90 %; 40 tables, so a binomial 3.5 sd below is 29."""
    inside = np.zeros(3)
    target = loss_of(refit_law, 2.7e10, 6e11)
    for seed in range(40):
        table = isoflop_table(refit_law, n=6, width=8.0, noise=0.004, seed=seed)
        problem = problem_of(table, FORM, Objective())
        boot = bootstrap(problem, minimise(problem, kept=4), units_of(table), resamples=100)
        alpha, beta = boot.draws[:, 3], boot.draws[:, 4]
        far = loss_of(dict(zip(FORM.parameters, boot.draws.T, strict=True)), 2.7e10, 6e11)
        truths = (
            refit_law["E"],
            refit_law["beta"] / (refit_law["alpha"] + refit_law["beta"]),
            target,
        )
        for i, values in enumerate((boot.draws[:, 0], beta / (alpha + beta), far)):
            low, high = boot.interval(values, 0.9)
            inside[i] += low <= truths[i] <= high
    assert (inside >= 29).all(), inside


def test_published_intervals_are_reproduced(published_fits):
    path = published_fits / "chinchilla_epoch245.csv"
    law = fit(path, where="dropped_by_authors == 0", level=0.95, resamples=1000, hindcast=False)
    printed = {
        "A": (285, 744),
        "E": (1.769, 1.871),
        "alpha": (0.317, 0.373),
        "beta": (0.331, 0.415),
    }
    for name, interval in printed.items():
        assert law.intervals["parameters"][name] == pytest.approx(interval, rel=0.05)
    assert law.intervals["converged"] == 1000
