"""Forms of repeated data, ranked by the epochs that they predict."""

import numpy as np
import pandas as pd
import pytest

from analysis import fit
from analysis.forms import FORMS
from analysis.solve.objective import Objective
from analysis.validate.epoch_ranking import (
    epoch_cutoffs,
    passes_of,
    rank_by_epochs,
    repetition_forms,
    withheld_errors,
)

FRESH = {"E": 1.9, "A": 500.0, "B": 1500.0, "alpha": 0.35, "beta": 0.36}
RISING = {**FRESH, "P": 0.1, "e0": 4.3, "h": 0.3}


def repeated(form, law, *, noise=0.0, epochs=(1, 2, 4, 8, 16, 32, 64)):
    """Return runs of three sizes on two unique texts, each up to the same epochs."""
    grid = [(n, u, e) for n in (1e7, 4e7, 2e8) for u in (1e8, 4e8) for e in epochs]
    n, u, e = (np.array(v, dtype=float) for v in zip(*grid, strict=True))
    table = pd.DataFrame({"params": n, "tokens": u * e, "unique_tokens": u})
    loss = FORMS[form].predict(law, {v: table[v].to_numpy() for v in FORMS[form].variables})
    rng = np.random.default_rng(0)
    return table.assign(
        loss=loss * np.exp(noise * rng.standard_normal(len(n))), flops=6 * n * u * e
    )


def test_cutoffs_leave_epochs_below_and_above():
    assert epoch_cutoffs(np.repeat([1.0, 2, 4, 8, 16, 32, 64], 6)) == [8, 16, 32]
    assert epoch_cutoffs(np.ones(40)) == []
    continuum = np.geomspace(1, 1000, 200)
    cutoffs = epoch_cutoffs(continuum)
    assert len(cutoffs) == 6
    assert cutoffs[0] >= 8
    assert cutoffs == sorted(cutoffs)


def test_only_rows_of_at_most_the_cutoff_are_fitted():
    table = repeated("overfitting_log", RISING)
    form, objective = FORMS["overfitting_log"], Objective()
    errors = withheld_errors(table, form, objective, 16.0)
    spoilt = table.assign(loss=np.where(passes_of(table) > 17, 9.0, table["loss"]))
    apart = withheld_errors(spoilt, form, objective, 16.0) - errors
    assert np.abs(errors).max() < 1e-4
    withheld = table.loc[passes_of(table) > 17, "loss"]
    assert apart == pytest.approx(np.log(withheld / 9.0), abs=1e-6)


def test_a_law_at_a_bound_predicts_nothing():
    table = repeated("overfitting_log", {**RISING, "h": -0.5})  # its bound is 0
    assert withheld_errors(table, FORMS["overfitting_log"], Objective(), 16.0) is None


def test_weight_decay_has_a_form_where_it_varies():
    table = repeated("overfitting_log", RISING)
    names = [form.name for form in repetition_forms(table)]
    assert names == ["chinchilla", "data_constrained", "overfitting", "overfitting_log"]
    varied = table.assign(weight_decay=np.arange(len(table)) % 3)
    assert [f.name for f in repetition_forms(varied)] == [*names, "overfitting_decay"]


@pytest.mark.long
@pytest.mark.slow
def test_a_loss_that_rises_is_best_predicted_by_a_form_that_can():
    rows = rank_by_epochs(repeated("overfitting_log", RISING, noise=0.003))
    assert rows[0]["form"] == "overfitting_log"
    score = {row["form"]: row["score"] for row in rows}
    assert score["overfitting_log"] < 0.3 * score["chinchilla"]
    assert rows[0]["asked"] == "repetition"


def test_a_table_of_few_epochs_is_refused():
    table = repeated("chinchilla", FRESH, epochs=(1, 2, 4))
    with pytest.raises(ValueError, match="too few runs that pass over"):
        fit(table, "repetition")
    with pytest.raises(ValueError, match="unique_tokens"):
        fit(table.drop(columns="unique_tokens"), "repetition")


@pytest.mark.long
@pytest.mark.slow
def test_on_muennighoff_s_runs_a_form_that_rises_is_ahead(published_fits):
    """Withheld epochs, 182 runs: 8.4 % by overfitting_log, 12.1 % by data_constrained."""
    table = pd.read_csv(published_fits / "muennighoff2023_datablations182.csv")
    score = {row["form"]: row["score"] for row in rank_by_epochs(table)}
    assert score["overfitting_log"] < 0.09
    assert score["overfitting_log"] < 0.75 * score["data_constrained"]
    assert score["data_constrained"] > score["chinchilla"]
