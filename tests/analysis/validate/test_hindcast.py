"""Hindcasts: the right rows withheld, no excess for a true law, growth for a false one."""

from dataclasses import replace

import numpy as np
import pytest

from analysis import fit
from analysis.forms import FORMS
from analysis.laws.law import tau_at
from analysis.solve.objective import Objective
from analysis.validate.hindcast import cutoffs, hindcasts, tau_knots
from tests.analysis.conftest import isoflop_table, loss_of

FORM = FORMS["chinchilla"]
BUDGETS = tuple(1e18 * 4.0**i for i in range(6))


def test_cutoffs_lie_between_budgets(refit_law):
    flops = isoflop_table(refit_law, budgets=BUDGETS)["flops"].to_numpy()
    assert cutoffs(flops) == pytest.approx(sorted(BUDGETS[:-1], reverse=True))


def test_cutoffs_of_a_continuum_are_a_factor_apart():
    levels = cutoffs(np.geomspace(1e18, 1e21, 100))
    assert levels[0] == pytest.approx(5e20, rel=0.1)
    assert len(levels) == 5


def test_an_exact_law_is_predicted_exactly(known_law):
    tested = hindcasts(isoflop_table(known_law, budgets=BUDGETS), FORM, Objective())
    assert len(tested["rows"]) >= 3
    assert max(r["rms_relative_error"] for r in tested["rows"]) < 1e-8
    assert max(t for _, t in tested["tau"]) < 1e-8


@pytest.mark.slow
def test_a_false_form_shows_as_tau(refit_law):
    table = isoflop_table(refit_law, budgets=BUDGETS, noise=0.001)
    c = np.log(table["flops"] / 1e18)
    bent = table.assign(loss=table["loss"] * np.exp(-0.002 * c**2))
    true, false = (hindcasts(t, FORM, Objective()) for t in (table, bent))
    assert tau_at(false["tau"], np.log(4.0)) > 0.003 > tau_at(true["tau"], np.log(4.0))
    assert false["rows"][0]["distance"] == pytest.approx(4.0)


def test_one_budget_cannot_be_backtested(refit_law):
    assert hindcasts(isoflop_table(refit_law, budgets=(1e20,)), FORM, Objective()) is None


def hindcast_row(distance, error, **said):
    return {
        "distance": distance,
        "rms_relative_error": error,
        "mean_relative_error": error,
        "converged": True,
        **said,
    }


def test_tau_never_falls_with_distance_and_goes_on_as_the_square():
    rows = [hindcast_row(np.exp(h), e) for h, e in ((3.0, 0.02), (1.0, 0.06), (2.0, 0.08))]
    knots = tau_knots(rows)
    assert np.array(knots) == pytest.approx(np.array([[1.0, 0.06], [2.0, 0.08], [3.0, 0.08]]))
    assert tau_at(knots, np.array([0.0, 0.5, 1.5, 6.0])) == pytest.approx([0.0, 0.03, 0.07, 0.32])
    assert tau_at([], np.array([2.0])) == pytest.approx([0.0])


def test_an_error_that_chance_explains_counts_unless_the_spread_of_forms_is_there():
    chance, form = (hindcast_row(4.0, 0.010, expected_mean_error=s) for s in (0.007, 0.005))
    assert tau_knots([chance])[0][1] == tau_knots([form])[0][1] == pytest.approx(0.010)
    assert tau_knots([chance], by_chance=False)[0][1] == 0.0
    assert tau_knots([form], by_chance=False)[0][1] == pytest.approx(0.010)


def test_the_seeds_part_of_an_error_is_left_out():
    row = hindcast_row(4.0, 0.010, expected_mean_error=0.001, seed_error=0.006)
    assert tau_knots([{**row, "mean_relative_error": 0.002}])[0][1] == pytest.approx(0.008)
    assert tau_knots([row])[0][1] == pytest.approx(0.010)


def test_one_withheld_run_says_nothing_of_the_form_beside_several():
    alone, several = hindcast_row(2.0, 0.05, n_test=1), hindcast_row(4.0, 0.01, n_test=6)
    assert tau_knots([alone, several]) == [pytest.approx([np.log(4.0), 0.01])]
    assert tau_knots([alone]) == [pytest.approx([np.log(2.0), 0.05])]


@pytest.mark.slow
def test_chance_explains_most_errors_of_a_true_form(refit_law):
    """A 90 % interval leaves out 10 %, twice a table; 12 tables."""
    tables = [isoflop_table(refit_law, n=6, noise=0.002, seed=s) for s in range(12)]
    found = [hindcasts(t, FORM, Objective()) for t in tables]
    taus = [max(t for _, t in tau_knots(f["rows"], by_chance=False)) for f in found]
    assert np.count_nonzero(taus) <= 6
    assert max(t for f in found for _, t in f["tau"]) < 0.01


@pytest.mark.slow
def test_a_bent_surface_widens_far_forecasts(refit_law):
    """The truth at 10 times C lies outside parameters and scatter, inside with the hindcasts."""
    table = isoflop_table(refit_law, budgets=BUDGETS, noise=0.001)
    bend = 0.002 * np.log(table["flops"] / 1e18) ** 2
    law = fit(table.assign(loss=table["loss"] * np.exp(-bend)), resamples=100, sensitivity=False)
    flops = 10 * BUDGETS[-1]
    best = law.optimum(flops)
    truth = loss_of(refit_law, best.params, best.tokens)
    truth *= np.exp(-0.002 * np.log(flops / 1e18) ** 2)
    alone = replace(law, backtest=None)
    assert truth < float(alone.predict(best.params, best.tokens).low)
    assert truth > float(law.predict(best.params, best.tokens).low)
