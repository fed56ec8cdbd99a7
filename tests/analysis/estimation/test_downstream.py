"""Laws of accuracy: two steps or direct, chosen by withheld models."""

import numpy as np
import pandas as pd
import pytest

from analysis import fit
from analysis.estimation.downstream import (
    downstream_forms,
    fit_steps,
    rank_downstream,
    two_steps_law,
)
from analysis.forms import FORMS, column
from analysis.laws.law import Law
from analysis.runs.table import load_runs
from analysis.validate.hindcast import cutoffs

NEEDED = ("params", "tokens", "loss", "error")
LOSS = {"E": 1.8, "A": 480.0, "B": 2000.0, "alpha": 0.35, "beta": 0.37}
SIGMOID = {"chance": 0.25, "g": 3.0, "L_half": 2.6}
SIZE = {"chance": 0.25, "A": 60.0, "B": 150.0, "a": 0.25, "b": 0.27}
CHANCE = {"chance": 0.25}


def models(truth, *, noise=0.0, seed=0):
    """Return 30 models whose accuracy follows a direct law, or a sigmoid of their loss."""
    n = np.repeat(np.geomspace(1e7, 3e9, 6), 5)
    table = pd.DataFrame({"params": n, "tokens": n * np.tile([5.0, 10, 20, 40, 80], 6)})
    values = {v: table[v].to_numpy() for v in ("params", "tokens")}
    loss = FORMS["chinchilla"].predict(LOSS, values)
    error = FORMS["accuracy_size"].predict(SIZE, values)
    if truth == "two_steps":
        error = FORMS["accuracy_two_steps"].predict({**LOSS, **SIGMOID}, values)
    rng = np.random.default_rng(seed)
    return table.assign(
        loss=loss * np.exp(0.002 * rng.standard_normal(30)),
        error=error + noise * rng.standard_normal(30),
        flops=6 * table["params"] * table["tokens"],
    )


def test_two_steps_recover_both_parts():
    table = models("two_steps")
    table["loss"] = FORMS["chinchilla"].predict(LOSS, {v: table[v] for v in ("params", "tokens")})
    steps = fit_steps(table, FORMS["accuracy_two_steps"], CHANCE)
    parameters = {k: v for step in steps for k, v in step.parameters.items()}
    assert parameters == pytest.approx({**LOSS, **SIGMOID}, rel=1e-3)


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("truth", ["two_steps", "size"])
def test_the_law_that_made_the_accuracy_is_ahead(truth):
    rows = rank_downstream(models(truth, noise=0.001), fixed=CHANCE)
    assert rows[0]["form"] == f"accuracy_{truth}"
    assert rows[0]["score"] < 0.01 < rows[-1]["score"]


@pytest.mark.long
@pytest.mark.slow
def test_the_law_is_written_read_and_predicts_with_intervals(tmp_path):
    runs = load_runs(models("two_steps", noise=0.002), needed=NEEDED)
    form = FORMS["accuracy_two_steps"]
    law = two_steps_law(runs, form, fixed=CHANCE, resamples=40, level=0.9, seed=0)
    law = Law.read(law.write(tmp_path / "law.json"))
    assert law.status == "converged"
    assert law.draws.shape[1] == 8
    target = pd.DataFrame({"params": [1e10], "tokens": [3e11]})
    (row,) = law.predict_table(target).to_dict("records")
    truth = form.predict({**LOSS, **SIGMOID}, {"params": 1e10, "tokens": 3e11})
    assert row["low"] < truth < row["high"]
    assert row["high"] - row["low"] < 0.05


@pytest.mark.long
@pytest.mark.slow
def test_the_loss_of_withheld_models_is_not_seen():
    table = models("two_steps", noise=0.001)
    cut = cutoffs(column(table, "flops"))[0]  # the largest models alone are above it
    spoilt = table.assign(loss=np.where(table["flops"] > cut, 9.0, table["loss"]))
    errors = []
    for one in (table, spoilt):
        rows = rank_downstream(one, fixed=CHANCE)
        (row,) = (r for r in rows if r["form"] == "accuracy_two_steps")
        errors.append(dict(row["by_cutoff"]))
    assert len(errors[0]) > 1
    assert errors[0] == pytest.approx(errors[1])


def test_pass_at_k_is_compared_where_k_varies():
    table = models("size")
    assert "pass_at_k" not in {form.name for form in downstream_forms(table)}
    several = pd.concat([table.assign(k=k) for k in (1.0, 4.0, 16.0)], ignore_index=True)
    assert "pass_at_k" in {form.name for form in downstream_forms(several)}


def test_what_cannot_be_ranked_is_refused():
    table = models("size")
    with pytest.raises(ValueError, match="too small or too narrow in C"):
        fit(table.head(6), "downstream")
    with pytest.raises(ValueError, match="'error'"):
        fit(table.drop(columns="error"), "downstream")
