"""form=all forecasts with an average over forms, whose parts can be checked from law.json alone."""

import json

import numpy as np
import pandas as pd
import pytest

from analysis import Law, fit
from analysis.estimation.form_average import weights_of
from analysis.forms import FORMS
from analysis.laws.form_error import DEFAULT_GROWTH, ERROR_GROWTH
from analysis.plan import PlanConfig
from analysis.planning.basis import require_usable
from analysis.runs.table import Runs
from tests.analysis.conftest import LAWS, badly_tuned, isoflop_table, loss_of

pytestmark = pytest.mark.slow  # fits of all forms
TRUTH = {"E": 1.8, "A": 482.0, "B": 2085.0, "alpha": 0.35, "beta": 0.37}
OPTIONS = {"resamples": 60, "sensitivity": False}


def table_of(budgets, *, noise=0.004, ratios=(3.0, 10.0, 30.0, 100.0), seed=0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    flops = np.repeat(budgets, len(ratios))
    params = np.sqrt(flops / 6 / np.tile(ratios, len(budgets)))
    table = pd.DataFrame({"params": params, "tokens": flops / 6 / params, "flops": flops})
    loss = FORMS["chinchilla"].predict(TRUTH, {k: table[k] for k in ("params", "tokens")})
    return table.assign(loss=loss * np.exp(noise * rng.normal(size=len(table))))


@pytest.fixture(scope="module")
def law() -> Law:
    return fit(table_of(np.geomspace(1e17, 1e20, 7)), "all", **OPTIONS)


def test_the_forecast_is_the_weighted_mean_of_the_log_losses(law, tmp_path):
    kept = json.loads(law.write(tmp_path / "law.json").read_text())["forecast"]
    n, d = np.array([1e9, 4e9]), np.array([2e10, 3e10])
    logs = sum(
        one["weight"]
        * np.log(FORMS[one["form"]].predict(one["parameters"], {"params": n, "tokens": d}))
        for one in kept["forms"]
    )
    again = Law.read(tmp_path / "law.json")
    assert again.predict(n, d).loss == pytest.approx(np.exp(logs), rel=1e-12)
    assert again.optimum(1e22) == law.optimum(1e22)
    assert sum(one["weight"] for one in kept["forms"]) == pytest.approx(1.0)
    assert law.form == max(kept["forms"], key=lambda one: one["weight"])["form"]
    assert {one["form"] for one in kept["forms"]} == {row["form"] for row in law.comparison}


def test_the_optimum_is_that_of_the_average(law):
    best = law.optimum(1e22)
    sizes = best.params * np.geomspace(0.5, 2.0, 4001)
    losses = law.predict(sizes, 1e22 / 6 / sizes).loss
    assert best.params == pytest.approx(sizes[np.argmin(losses)], rel=2e-3)
    low, high = best.intervals["params"]
    assert low < best.params < high


def test_the_parts_make_the_interval(law):
    found = law.predict(3e9, 6e10, level=0.9)
    half = np.log(found.high / found.low) / 2
    joined = np.sqrt(sum(float(v) ** 2 for v in found.parts.values()))
    assert set(found.parts) == {"parameters", "forms", "scatter", "hindcast"}
    assert half == pytest.approx(joined, rel=0.1)  # but for the asymmetry of the draws
    assert all(v > 0 for v in found.parts.values())
    mean = law.predict(3e9, 6e10, level=0.9, noise=False)
    assert mean.parts["scatter"] == mean.parts["hindcast"] == 0
    inside = law.predict(float(law.ranges["params"][0]), float(law.ranges["tokens"][0]))
    assert inside.parts["hindcast"] == 0


def test_weights_are_the_fourth_power_of_the_scores():
    rows = [{"form": f, "score": s} for f, s in (("a", 0.01), ("b", 0.02), ("c", 0.1), ("d", None))]
    found = weights_of(rows)
    assert set(found) == {"a", "b"}  # c would weigh a ten-thousandth, d was never tested
    assert found["a"] / found["b"] == pytest.approx(16)
    assert weights_of([rows[3]]) == {"d": 1.0}


def test_without_larger_runs_to_withhold_the_error_is_the_usual_one():
    table = table_of([1e18, 1.6e18, 2.5e18], ratios=(1.0, 3.0, 10.0, 30.0, 100.0))
    law = fit(table, "all", **OPTIONS)
    assert "default_form_error" in {a.code for a in law.alarms}
    assert law.error_growth == DEFAULT_GROWTH > ERROR_GROWTH
    assert law.backtest is None
    far = law.predict(1e9, 2e10)
    assert far.loss > 0
    assert far.parts["hindcast"] >= 1.64 * DEFAULT_GROWTH * np.log(6 * 1e9 * 2e10 / 2.5e18)
    assert law.optimum(1e20).loss > 0
    with pytest.raises(ValueError, match="force=true"):
        require_usable(law, PlanConfig(law="x"))
    assert require_usable(law, PlanConfig(law="x", force=True)).forced


def test_one_form_asked_for_by_name_stays_that_form():
    law = fit(table_of(np.geomspace(1e17, 1e20, 7)), "chinchilla", **OPTIONS)
    assert law.forecast is None
    assert law.predict(1e10, 1e11).parts["forms"] == 0
    assert law.error_growth == ERROR_GROWTH


def test_an_odd_forecast_of_a_file_is_refused(law, tmp_path):
    path = law.write(tmp_path / "law.json")
    kept = json.loads(path.read_text())
    for change in (
        {"weight": 2.0},
        {"form": "__import__('os')"},
        {"parameters": {}},
        {"draws": [[1.0]]},
    ):
        forms = [{**kept["forecast"]["forms"][0], **change}, *kept["forecast"]["forms"][1:]]
        path.write_text(json.dumps({**kept, "forecast": {**kept["forecast"], "forms": forms}}))
        with pytest.raises(ValueError, match="refit it with"):
            Law.read(path)


def test_one_wrong_row_hardly_moves_the_interval_and_is_named():
    table = table_of(np.geomspace(1e17, 1e20, 13), noise=0.005, ratios=np.geomspace(1, 300, 9))
    sound = fit(table, **OPTIONS).predict(1e10, 2e11)
    table.loc[40, "loss"] = 3 * table.loc[40, "loss"]
    law = fit(table, **OPTIONS)
    found = law.predict(1e10, 2e11)
    assert found.low == pytest.approx(sound.low, abs=0.003)
    assert found.high == pytest.approx(sound.high, abs=0.003)
    assert law.scatter["left_out"] == [41]
    assert law.scatter["robust"] < 0.01 < law.scatter["value"]
    (alarm,) = (a for a in law.alarms if a.code == "outlier_rows")
    assert "row 41" in alarm.sentence


def test_a_confirmation_that_missed_widens_the_average_too():
    table = table_of(np.geomspace(1e17, 1e20, 7))
    missed = {
        "flops": 1e20, "inside": False, "error": 0.2, "forecast": 2.0, "outcome": 2.4,
        "interval": [1.9, 2.1],
    }  # fmt: skip
    runs = Runs(table=table, inputs={"confirmations": [missed]})
    law = fit(runs, "all", **OPTIONS)
    assert max(tau for _, tau in law.backtest["tau"]) >= 0.2
    assert "confirmation_missed" in {a.code for a in law.alarms}


@pytest.fixture(scope="module")
def near_law() -> Law:
    """A law of a table whose larger models are badly tuned, by two forms and the frontier's."""
    forms = [FORMS["chinchilla"], FORMS["coupled"]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("analysis.validate.form_ranking.candidates", lambda table: forms)
        patch.setattr("analysis.validate.hindcast.RESAMPLED_ROWS", 1)
        return fit(spoilt_table(), "all", **OPTIONS)


def spoilt_table() -> pd.DataFrame:
    budgets = tuple(np.geomspace(1e17, 1e20, 7))
    return badly_tuned(
        isoflop_table(LAWS["besiroglu"], budgets=budgets, n=7, width=16.0, noise=0.005)
    )


@pytest.mark.long
def test_rows_far_from_the_frontier_are_left_out_and_said(near_law):
    (alarm,) = (a for a in near_law.alarms if a.code == "frontier_rows")
    assert near_law.alarms[0] == alarm
    n_far = near_law.inputs["n_far"]
    assert alarm.sentence.startswith(f"{n_far} of {near_law.n_runs + n_far} rows are more than")
    assert near_law.n_runs + n_far == len(spoilt_table())
    assert near_law.region["withheld"]["near"] < 0.6 * near_law.region["withheld"]["all"]
    best = near_law.optimum(12e20)
    sizes = np.geomspace(1e9, 1e11, 400)
    true = loss_of(LAWS["besiroglu"], sizes, 2e20 / sizes).min()
    assert best.loss == pytest.approx(true, rel=0.02)


@pytest.mark.long
def test_shapes_away_from_the_frontier_have_wider_intervals(near_law, tmp_path):
    flops = 1e21
    best = near_law.optimum(flops).params
    larger = best * np.exp(near_law.region["high"]) * np.array([0.5, 4.0, 16.0])
    found = near_law.predict(larger, flops / 6 / larger)
    assert found.parts["region"][0] == 0
    assert found.parts["region"][2] > found.parts["region"][1] > 0.02
    again = Law.read(near_law.write(tmp_path / "law.json"))
    assert again.predict(larger, flops / 6 / larger).high == pytest.approx(found.high, rel=1e-12)
    assert again.optimum(flops) == near_law.optimum(flops)
    assert again.region == near_law.region
