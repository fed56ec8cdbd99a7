"""form=all fits the rows near the frontier where these predict larger budgets better."""

import numpy as np
import pandas as pd
import pytest

from analysis.forms import FORMS
from analysis.validate.form_ranking import is_carried_near, rank_forms
from analysis.validate.near_frontier import is_near_frontier
from analysis.validate.row_choice import (
    choose_rows,
    compared_error,
    errors_near,
    rank_rows_and_forms,
)
from tests.analysis.conftest import LAWS, badly_tuned, isoflop_table

BUDGETS = tuple(np.geomspace(1e17, 1e20, 7))


@pytest.fixture(autouse=True)
def two_forms(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rank two forms only, with few resamples: errors of withheld runs do not depend on them."""
    monkeypatch.setattr("analysis.validate.hindcast.RESAMPLED_ROWS", 1)
    monkeypatch.setattr("analysis.validate.hindcast.FEWEST_RESAMPLES", 4)
    forms = [FORMS["chinchilla"], FORMS["coupled"]]
    monkeypatch.setattr("analysis.validate.form_ranking.candidates", lambda table: forms)


def sound() -> pd.DataFrame:
    return isoflop_table(LAWS["besiroglu"], budgets=BUDGETS, n=7, width=16.0, noise=0.005)


@pytest.mark.long
def test_badly_tuned_runs_far_from_the_frontier_are_left_out() -> None:
    ranking, choice = rank_rows_and_forms(badly_tuned(sound()), None)
    assert choice is not None
    assert choice.within in (0.1, 0.03)
    assert choice.error_near < 0.6 * choice.error_all
    assert {row["form"] for row in ranking.rows} == {"chinchilla", "coupled", "frontier"}


@pytest.mark.slow
def test_all_rows_stay_where_the_forms_hold() -> None:
    ranking, choice = rank_rows_and_forms(sound(), None)
    assert choice is None
    assert {row["form"] for row in ranking.rows} == {"chinchilla", "coupled"}
    assert choose_rows(rank_forms(sound(), None), None) is None


def test_what_is_near_below_a_cutoff_does_not_depend_on_larger_budgets() -> None:
    table = badly_tuned(sound())
    below = table["flops"] <= BUDGETS[4] * 1.01
    better = table.assign(loss=table["loss"].where(below, 0.5 * table["loss"]))
    assert (is_near_frontier(table)[below] == is_near_frontier(better)[below]).all()


@pytest.mark.slow
def test_the_frontier_form_is_exact_where_a_law_of_its_kind_is() -> None:
    law = {"E": 1.7, "A": 230.0, "B": 150.0, "gamma": 0.17, "kappa": 0.4, "mu": 0.22}
    table = sound()
    values = {v: table[v].to_numpy() for v in ("params", "tokens")}
    table["loss"] = FORMS["frontier"].predict(law, values)
    every = np.ones(len(table), dtype=bool)
    errors = errors_near(table, FORMS["frontier"], None, every, every)
    assert errors
    assert max(np.abs(e).max() for e in errors.values()) < 1e-6


def test_the_error_compared_is_that_of_the_average() -> None:
    e = np.array([0.01, 0.01, 0.01])
    assert compared_error({"a": {1.0: e, 2.0: 4 * e}}) == pytest.approx(0.02)
    assert compared_error({"a": {1.0: e}, "b": {1.0: -e}}) == pytest.approx(1e-6)  # they cancel
    assert compared_error({"a": {}}) == np.inf


def test_forms_that_a_valley_does_not_determine_are_left_out() -> None:
    surfaces = {name for name, form in FORMS.items() if form.is_surface and is_carried_near(form)}
    assert {"chinchilla", "coupled", "kaplan", "overtraining", "frontier"} <= surfaces
    assert "farseer" not in surfaces  # nine parameters
