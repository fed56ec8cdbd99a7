"""A surface recovers its own law, says what it left out, and refuses grids that hold no optimum."""

import json

import numpy as np
import pandas as pd
import pytest

from analysis import fit, load_law, load_runs
from analysis.estimation.surfaces.fit import hindcasts
from analysis.estimation.surfaces.grid import grid_of
from analysis.estimation.surfaces.valley import PRIORS, fit_valley, model
from analysis.forms import FORMS
from analysis.forms.settings.surface import best, best_decay
from tests.analysis.conftest import LAWS, main_of

TRUE = {
    **LAWS["besiroglu"],
    **{"k_lr": 0.3, "p_lr": -0.55, "q_lr": 0.2, "k_batch": 0.6, "p_batch": 0.05, "q_batch": 0.5},
    **{"q_l": 0.008, "q_3": 0.004, "q_b": 0.006, "rho": 0.4, "s": 0.1},
}
DECAY = {"k_tau": 0.6, "s_tau": 0.3, "q_t": 0.01}
SIZES = ((1e8, 2e9), (1e8, 8e9), (3e8, 4e9), (3e8, 2e10), (1e9, 1e10), (1e9, 5e10))


def sweep(*, noise=0.001, steps=(-2, -1, 0, 1, 2), shift=1.0, decays=(), points=SIZES, seed=0):
    """Return rows about the true optima, a factor of 2 apart; `shift` moves the rates."""
    law = TRUE | (DECAY if decays else {})
    rng, rows = np.random.default_rng(seed), []
    for n, d in points:
        lr, batch = best(law, n, d)
        for i in steps:
            for j in steps:
                row = {"params": n, "tokens": d, "lr": shift * lr * 2.0**i, "batch": batch * 2.0**j}
                decay = best_decay(law, n, d, row["lr"], row["batch"]) if decays else 0.0
                rows += [row | {"weight_decay": decay * f} for f in decays] or [row]
    table = pd.DataFrame(rows)
    loss = FORMS["surface"].predict(law, {k: table[k].to_numpy() for k in table})
    return table.assign(loss=loss * np.exp(noise * rng.standard_normal(len(table))))


@pytest.fixture(scope="module")
def law():
    return fit(sweep(), "surface", resamples=200)


def test_the_settings_are_recovered_within_their_intervals(law):
    assert law.status == "converged"
    inside = 0
    for n, d in (*SIZES, (2e9, 4e10)):
        at = law.settings(n, d)
        true = dict(zip(("lr", "batch"), best(TRUE, n, d), strict=True))
        assert (at.lr, at.batch) == pytest.approx(tuple(true.values()), rel=0.15)
        inside += sum(at.intervals[k][0] < v < at.intervals[k][1] for k, v in true.items())
    assert inside >= 11  # of 14
    assert at.weight_decay is None


def test_the_loss_is_that_of_the_settings_that_are_given(law):
    n, d = SIZES[3]
    at = law.settings(n, d)
    best_loss = float(law.predict(n, d).loss)
    assert best_loss == pytest.approx(float(law.predict(n, d, lr=at.lr, batch=at.batch).loss))
    values = {"params": n, "tokens": d, "lr": 4 * at.lr, "batch": at.batch}
    there = law.predict(n, d, lr=4 * at.lr, batch=at.batch)
    true = FORMS["surface"].predict(TRUE, values)
    assert float(there.loss) == pytest.approx(float(true), rel=0.005)
    assert float(there.loss) > 1.01 * best_loss
    assert there.low < there.loss < there.high
    assert float(law.predict(n, d, batch=at.batch).loss) == pytest.approx(best_loss)
    assert law.predict(n, [d, 2 * d], lr=[[at.lr], [at.lr / 2]]).loss.shape == (2, 2)


def test_the_rate_follows_a_batch_that_is_given(law):
    n, d = SIZES[3]
    free = law.settings(n, d)
    double = law.settings(n, d, batch=2 * free.batch)
    assert double.lr / free.lr == pytest.approx(2 ** law.parameters["rho"])
    assert double.batch == double.intervals["batch"][0] == 2 * free.batch
    assert not free.outside
    assert "beyond the values tried" in law.settings(1e13, d).outside[0]


def test_the_file_holds_all_that_is_needed(law, tmp_path):
    law.write(tmp_path / "law.json")
    read = load_law(tmp_path / "law.json")
    assert read.settings(1e9, 2e10) == law.settings(1e9, 2e10)
    one, other = (x.predict(1e9, 2e10, lr=1e-3, batch=5e5) for x in (read, law))
    assert (one.loss, one.low, one.high) == (other.loss, other.low, other.high)
    assert "lr* and batch*" in law.summary()
    assert max(map(len, law.summary().splitlines())) <= 110


def test_a_law_without_draws_has_no_intervals():
    law = fit(sweep(), "surface", resamples=0)
    assert law.draws is None
    assert law.settings(*SIZES[0]).intervals == {}
    assert law.predict(*SIZES[0]).low is None


def test_the_surface_plans_its_budget_and_its_settings(law):
    optimum = law.optimum(1e21)
    assert optimum.params * optimum.tokens * 6 == pytest.approx(1e21, rel=1e-6)
    assert optimum.loss == pytest.approx(float(law.predict(optimum.params, optimum.tokens).loss))


def test_other_laws_have_no_settings():
    law = load_law("besiroglu2024")
    with pytest.raises(ValueError, match=r"form chinchilla has no settings\(N, D\); fit form=surf"):
        law.settings(1e9, 2e10)
    with pytest.raises(ValueError, match="does not know lr; fit form=surface"):
        law.predict(1e9, 2e10, lr=1e-3)
    with pytest.raises(ValueError, match=r"lr_batch\.settings reads it"):
        load_law("steplaw2025").settings(1e9, 2e10)


def test_settings_that_the_surface_cannot_know_are_refused(law):
    with pytest.raises(ValueError, match="params=0 must be positive"):
        law.settings(0, 2e10)
    with pytest.raises(ValueError, match="one weight decay"):
        law.predict(1e9, 2e10, weight_decay=0.1)
    with pytest.raises(ValueError, match="lr must be positive"):
        law.predict(1e9, 2e10, lr=-1e-3)


@pytest.mark.slow
def test_weight_decay_enters_where_it_varies():
    table = sweep(steps=(-1.5, 0, 1.5), decays=(0.25, 0.5, 1, 2, 4))
    law = fit(table, "surface", resamples=100)
    n, d = SIZES[3]
    at, true = law.settings(n, d), TRUE | DECAY
    expected = best_decay(true, n, d, *best(true, n, d))
    assert at.weight_decay == pytest.approx(expected, rel=0.2)
    assert at.intervals["weight_decay"][0] < at.weight_decay < at.intervals["weight_decay"][1]
    off = law.predict(n, d, weight_decay=4 * at.weight_decay).loss
    assert off > law.predict(n, d).loss
    none = fit(table.assign(weight_decay=0.1), "surface", resamples=0)
    assert none.settings(n, d).weight_decay is None


def test_rows_far_from_the_best_are_left_out_and_named():
    table = sweep()
    table.loc[[3, 40], "loss"] *= 1.5
    law = fit(table, "surface", resamples=0)
    assert law.methods["surface"]["left_out"] == [4, 41]
    (alarm,) = [a for a in law.alarms if a.code == "rows_far_from_best"]
    assert alarm.sentence.startswith("2 of 150 rows lose more than 15% to the best")
    assert "rows 4, 41" in alarm.sentence


def test_rows_without_decay_are_left_out_and_named():
    table = sweep(steps=(-1.5, 0, 1.5), decays=(0.25, 0.5, 1, 2, 4))
    table.loc[[0, 7], "weight_decay"] = 0.0
    law = fit(table, "surface", resamples=0)
    (alarm,) = [a for a in law.alarms if a.code == "rows_without_decay"]
    assert "2 of 270 rows have weight decay 0" in alarm.sentence


@pytest.mark.parametrize(("shift", "side"), [(0.05, "largest"), (20.0, "smallest")])
def test_an_optimum_outside_the_grid_is_refused(shift, side):
    with pytest.raises(ValueError, match=f"optimal lr is the {side} tried or lies beyond it"):
        fit(sweep(shift=shift), "surface", resamples=0)


def test_a_point_with_its_optimum_at_the_end_is_said():
    table = sweep()
    n, d = SIZES[0]
    here = (table["params"] == n) & (table["tokens"] == d)
    table = table[~here | (table["lr"] < 0.9 * best(TRUE, n, d)[0])].reset_index(drop=True)
    law = fit(table, "surface", resamples=0)
    (alarm,) = [a for a in law.alarms if a.code == "edge_optimum"]
    assert "At 1 of 6 points the optimal lr is at the end" in alarm.sentence
    true = best(TRUE, n, d)[0]
    assert law.settings(n, d).lr == pytest.approx(true, rel=0.25)  # the other points hold it


def test_a_coarse_grid_is_said_and_one_too_coarse_refused():
    law = fit(sweep(steps=(-1.5, 0, 1.5)), "surface", resamples=0)
    (alarm,) = [a for a in law.alarms if a.code == "coarse_grid"]
    assert "has 9 settings of lr and batch; 4 give no usable law" in alarm.sentence
    with pytest.raises(ValueError, match="needs at least 3 values of lr"):
        fit(sweep(steps=(-1, 1)), "surface")
    with pytest.raises(ValueError, match="at least 3 points of N and D with two sizes"):
        fit(sweep(points=SIZES[:2]), "surface")


def test_the_fit_prints_what_its_settings_lose_at_withheld_points(law):
    rows = law.methods["surface"]["hindcasts"]
    assert [(r["n_points"], r["n_withheld"]) for r in rows] == [(4, 2), (3, 3)]
    assert all(0 <= r["mean"] <= r["worst"] < 0.01 for r in rows)
    assert "settings lose" in law.summary()
    assert hindcasts(grid_of(sweep()))[0]["mean"] == rows[0]["mean"]


def test_a_batch_in_sequences_needs_the_context(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    table = sweep().rename(columns={"batch": "batch_sequences"})
    table["batch_sequences"] /= 2048
    table.to_csv("runs.csv", index=False)
    needed = ("params", "tokens", "loss", "lr", "batch")
    with pytest.raises(ValueError, match="give the tokens of a sequence, as context=2048"):
        load_runs("runs.csv", needed=needed)
    assert load_runs("runs.csv", needed=needed, context=2048).table["batch"].to_numpy() == (
        pytest.approx(sweep()["batch"].to_numpy())
    )
    sweep().to_csv("tokens.csv", index=False)
    with pytest.raises(ValueError, match="the table has no column 'batch_sequences'"):
        load_runs("tokens.csv", needed=needed, context=2048)
    from analysis.estimation.options import FitConfig, IntervalsConfig

    few = IntervalsConfig(resamples=20)
    main_of("fit")(FitConfig(runs="runs.csv", form="surface", context=2048, intervals=few))
    written = json.loads((tmp_path / "law.json").read_text())
    assert written["form"] == "surface"
    assert written["inputs"]["context"] == 2048
    assert "fitted on 4 points" in capsys.readouterr().out


def test_the_derivatives_of_the_valley_are_those_of_finite_differences():
    rows = grid_of(sweep(steps=(-1.5, 0, 1.5), decays=(0.25, 0.5, 1, 2, 4))).rows
    theta = fit_valley(rows).theta + 0.05
    slopes, step = model(rows, theta)[1], 1e-6
    for i, name in enumerate(rows.names):
        shift = step * np.eye(theta.shape[1])[i]
        ahead, behind = model(rows, theta + shift)[0], model(rows, theta - shift)[0]
        assert slopes[:, i] == pytest.approx((ahead - behind) / (2 * step), abs=1e-6), name


def test_every_parameter_of_the_valley_has_a_prior():
    rows = grid_of(sweep(steps=(-1.5, 0, 1.5), decays=(0.25, 0.5, 1, 2, 4))).rows
    assert set(rows.names) == set(PRIORS)


@pytest.mark.slow
def test_settings_of_smaller_models_serve_larger_ones_of_step_law(shared):
    """LAWS 15.5: at most .1 % on average and .2 % at worst to the best of the withheld grids."""
    path = shared / "hyper" / "steplaw_dense_small.csv"
    runs = load_runs(path, needed=("params", "tokens", "loss", "lr", "batch"), context=2048)
    table = runs.table.assign(big=runs.table["params"] > 4e8)
    law = fit(table[~table["big"]].reset_index(drop=True), "surface", resamples=0)
    lost = []
    for (n, d), rows in table[table["big"]].groupby(["params", "tokens"]):
        at = law.settings(n, d)
        away = np.log(rows["lr"] / at.lr) ** 2 + np.log(rows["batch"] / at.batch) ** 2
        lost.append(rows["loss"].to_numpy()[away.to_numpy().argmin()] / rows["loss"].min() - 1)
        assert float(law.predict(n, d).loss) == pytest.approx(rows["loss"].min(), rel=0.008)
    assert np.mean(lost) < 0.001
    assert np.max(lost) < 0.002
