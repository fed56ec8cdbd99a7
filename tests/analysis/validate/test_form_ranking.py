"""Forms are ranked by runs that any of them can speak of: a wrong loss decides nothing."""

import numpy as np
import pandas as pd
import pytest

from analysis.forms import FORMS
from analysis.validate.form_ranking import rank_forms

LAW = {"E": 1.8, "A": 480.0, "B": 2100.0, "alpha": 0.35, "beta": 0.37}


def grid() -> pd.DataFrame:
    """Return 24 runs of a known law with .3 % of noise, sorted by C."""
    params = np.repeat(np.geomspace(1e7, 1e9, 6), 4)
    tokens = params * np.tile([5.0, 12.0, 30.0, 70.0], 6)
    loss = LAW["E"] + LAW["A"] * params ** -LAW["alpha"] + LAW["B"] * tokens ** -LAW["beta"]
    noise = 1 + 0.003 * np.random.default_rng(5).standard_normal(len(params))
    table = pd.DataFrame({"params": params, "tokens": tokens, "loss": loss * noise})
    table["flops"] = 6 * table["params"] * table["tokens"]
    return table.sort_values("flops", ignore_index=True)


@pytest.fixture(autouse=True)
def two_forms(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rank two forms only: each takes a second."""
    forms = [FORMS["chinchilla"], FORMS["kaplan"]]
    monkeypatch.setattr("analysis.validate.form_ranking.candidates", lambda table: forms)


@pytest.mark.slow
def test_a_loss_far_from_every_form_is_as_if_the_row_were_not_there() -> None:
    runs = grid()
    wrong = runs.assign(loss=runs["loss"].where(runs.index != 20, 10.8))
    without = rank_forms(runs.drop(index=20).reset_index(drop=True), None)
    ranking = rank_forms(wrong, None)
    assert without.is_tested
    assert [row["form"] for row in ranking.rows] == [row["form"] for row in without.rows]
    assert [row["score"] for row in ranking.rows] == [row["score"] for row in without.rows]
    assert ranking.rows[0]["score"] < 0.05  # with the row in it no form comes below .5


@pytest.mark.slow
def test_a_loss_as_far_as_noise_goes_stays_in_the_ranking() -> None:
    runs = grid()
    moved = runs.assign(loss=runs["loss"].where(runs.index != 20, 1.006 * runs["loss"]))
    without = rank_forms(runs.drop(index=20).reset_index(drop=True), None)
    assert [r["score"] for r in rank_forms(moved, None).rows] != [r["score"] for r in without.rows]
