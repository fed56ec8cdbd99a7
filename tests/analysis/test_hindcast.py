"""Hindcasts: the right rows withheld, no excess for a true law, growth for a false one."""

import numpy as np
import pytest

from analysis.forms import FORMS
from analysis.hindcast import cutoffs, hindcasts, tau_knots
from analysis.laws import tau_at
from analysis.objective import Objective

from .conftest import isoflop_table

FORM = FORMS["chinchilla"]
BUDGETS = tuple(1e18 * 4.0**i for i in range(6))


def test_cutoffs_lie_between_budgets(refit_law):
    flops = isoflop_table(refit_law, budgets=BUDGETS)["flops"].to_numpy()
    assert cutoffs(flops) == pytest.approx(sorted(BUDGETS[:-1], reverse=True))


def test_cutoffs_of_a_continuum_are_a_factor_apart():
    found = cutoffs(np.geomspace(1e18, 1e21, 100))
    assert found[0] == pytest.approx(5e20, rel=0.1)
    assert len(found) == 5


def test_an_exact_law_is_predicted_exactly(known_law):
    tested = hindcasts(isoflop_table(known_law, budgets=BUDGETS), FORM, Objective())
    assert len(tested["rows"]) >= 3
    assert max(r["rms_relative_error"] for r in tested["rows"]) < 1e-8
    assert max(t for _, t in tested["tau"]) < 1e-8


def test_a_false_form_shows_as_tau(refit_law):
    table = isoflop_table(refit_law, budgets=BUDGETS, noise=0.001)
    c = np.log(table["flops"] / 1e18)
    bent = table.assign(loss=table["loss"] * np.exp(-0.002 * c**2))
    true, false = (hindcasts(t, FORM, Objective()) for t in (table, bent))
    assert tau_at(false["tau"], np.log(4.0)) > 0.003 > tau_at(true["tau"], np.log(4.0))
    assert false["rows"][0]["distance"] == pytest.approx(4.0)


def test_one_budget_cannot_be_backtested(refit_law):
    assert hindcasts(isoflop_table(refit_law, budgets=(1e20,)), FORM, Objective()) is None


def test_tau_never_falls_with_distance_and_goes_on_linearly():
    rows = [
        {"distance": np.exp(h), "rms_relative_error": e, "converged": True}
        for h, e in ((3.0, 0.02), (1.0, 0.06), (2.0, 0.08))
    ]
    knots = tau_knots(rows)
    assert np.array(knots) == pytest.approx(np.array([[1.0, 0.06], [2.0, 0.08], [3.0, 0.08]]))
    assert tau_at(knots, np.array([0.0, 0.5, 1.5, 6.0])) == pytest.approx([0.0, 0.03, 0.07, 0.16])
    assert tau_at([], np.array([2.0])) == pytest.approx([0.0])
