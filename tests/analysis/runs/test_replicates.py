"""Rows of one (N, D): the best setting is fitted, seeds are all kept, and the law says so."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest

from analysis import Law, fit, load_runs
from analysis.estimation.points import best_of_points
from analysis.estimation.withheld import backtest
from analysis.runs.replicates import FEWEST_ROWS, MOST_SEED_NOISE, best_rows, settings_spread
from scaling.config import CellConfig, ModelConfig
from tests.analysis.conftest import LAWS, isoflop_table, loss_of
from tests.analysis.synthetic import record_of, write_study

LAW = LAWS["besiroglu"]
LRS, BATCHES = np.geomspace(1e-3, 1.6e-2, 5), (64, 128, 256)
QUICK = {"resamples": 40, "hindcast": False, "sensitivity": False}


def raw_sweep(*, noise=0.001, seed=0, sizes=5, horizons=6):
    """Return a sweep of rates and batches at each (N, D); the loss of the best follows LAW.

    With five sizes the best rate of each size is one of those tried.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for params in np.geomspace(1e7, 1e9, sizes):
        for tokens in np.geomspace(1e8, 1e11, horizons):
            for lr in LRS:
                for batch in BATCHES:
                    best_lr = 1.6e-2 * (params / 1e7) ** (-np.log(16) / np.log(100))
                    u = np.log(lr / best_lr)
                    v = np.log(batch / 128)
                    worse = 1 + 0.03 * u**2 + 0.01 * v**2 + 0.02 * max(u, 0) ** 3
                    rows.append((params, tokens, lr, batch, worse))
    table = pd.DataFrame(rows, columns=["params", "tokens", "peak_lr", "bs", "worse"])
    exact = loss_of(LAW, table["params"], table["tokens"]) * table.pop("worse")
    table["loss"] = exact * np.exp(noise * rng.standard_normal(len(table)))
    return table.sample(frac=1, random_state=seed).reset_index(drop=True)


def points_of(n_rows, *, n_points=12):
    """Return N and D of points with a number of rows each."""
    n, d = np.meshgrid(np.geomspace(1e7, 1e9, n_points // 3), [1e9, 1e10, 1e11])
    return (
        pd.DataFrame({"params": n.ravel(), "tokens": d.ravel()})
        .loc[np.repeat(np.arange(n_points), n_rows)]
        .reset_index(drop=True)
    )


def seeds_table(noise, *, n_rows=5, seed=0):
    rng = np.random.default_rng(seed)
    table = points_of(n_rows)
    exact = loss_of(LAW, table["params"], table["tokens"])
    return table.assign(loss=exact * np.exp(noise * rng.standard_normal(len(table))))


def codes(law):
    return {alarm.code: alarm.sentence for alarm in law.alarms}


@pytest.mark.slow
def test_a_raw_sweep_gives_the_law_of_its_best_rows():
    law = fit(raw_sweep(), resamples=300, level=0.95)
    assert law.status == "converged"
    assert law.n_runs == 30
    assert law.replicates == {"rows": 450, "points": 30}
    assert law.intervals["unit"] == "point"
    assert law.noise["sd_log"] < 0.01
    for name in ("alpha", "beta", "E"):
        low, high = law.intervals["parameters"][name]
        assert low < LAW[name] < high
    far = law.predict(3e9, 3e11)
    assert far.low < loss_of(LAW, 3e9, 3e11) < far.high


@pytest.mark.slow
def test_the_sentence_says_what_was_done_and_which_form_is_for_settings():
    law = fit(raw_sweep(), **QUICK)
    sentence = codes(law)["replicates"]
    assert sentence.startswith("450 rows are 30 (N, D) points: the best of each is fitted")
    assert "peak_lr and bs vary" in sentence
    assert "form=lr_batch columns.lr=peak_lr columns.batch=bs" in sentence
    assert "30 points (30 of 450 rows)" in law.summary()


def test_the_law_of_settings_takes_every_row():
    table = raw_sweep().rename(columns={"peak_lr": "lr", "bs": "batch"})
    law = fit(table, "lr_batch", resamples=20)
    assert law.n_runs == len(table)
    assert law.replicates is None


@pytest.mark.slow
@pytest.mark.parametrize("form", ["isoflop", "envelope"])
def test_methods_take_the_best_rows_too(form):
    table = pd.concat(
        [
            isoflop_table(LAW).assign(lr=lr, loss=lambda t, k=k: t["loss"] * k)
            for lr, k in ((1e-3, 1.2), (2e-3, 1.0), (4e-3, 1.5))
        ]
    )
    law = fit(table, form, resamples=20)
    alone = fit(isoflop_table(LAW), form, resamples=20)
    assert law.replicates == {"rows": 84, "points": 28}
    assert law.parameters == pytest.approx(alone.parameters)


@pytest.mark.slow
def test_all_forms_within_and_the_backtest_take_the_best_rows():
    table = raw_sweep(sizes=5, horizons=4)
    law = fit(table, "all", within=0.5, **QUICK)
    assert law.replicates == {"rows": 300, "points": 20}
    assert law.n_runs + law.inputs["n_far"] == 20
    result = backtest(load_runs(table))
    assert (result.n_runs, result.replicates) == (20, {"rows": 300, "points": 20})
    assert "20 (N, D) points of 300 rows" in result.summary()


@pytest.mark.slow
def test_rows_are_counted_after_where():
    law = fit(raw_sweep(), where="params > 2e7", **QUICK)
    assert law.replicates == {"rows": 360, "points": 24}


@pytest.mark.slow
def test_alarms_name_rows_of_the_file_before_where(tmp_path):
    table = raw_sweep(noise=0.0005)
    table.loc[table.index[table["params"] < 2e7], "bs"] = 64
    best = table.groupby(["params", "tokens"])["loss"].idxmin()
    row = int(best.iloc[17])
    table.loc[row, "loss"] *= 0.6
    table.to_csv(tmp_path / "sweep.csv", index=False)
    law = fit(tmp_path / "sweep.csv", where="params > 2e7", **QUICK)
    assert f"row {row + 1}:" in codes(law)["outlier_rows"]


@pytest.mark.slow
def test_seeds_are_all_kept():
    table = seeds_table(0.05).assign(seed=lambda t: t.groupby(["params", "tokens"]).cumcount())
    law = fit(table, **QUICK)
    assert law.n_runs == len(table)
    assert law.replicates is None
    assert "replicates" not in codes(law)


def test_rows_of_equal_settings_are_seeds_however_they_spread():
    skewed = np.random.default_rng(0).exponential(0.1, 60)
    table = seeds_table(0.0).assign(lr=1e-3, loss=lambda t: t["loss"] * np.exp(skewed))
    assert best_rows(load_runs(table).table)[1] is None


def test_the_seeds_of_the_best_setting_are_kept_and_the_mean_chooses_it():
    rows = [(1e-3, 0, 3.00), (1e-3, 1, 3.02), (2e-3, 0, 2.95), (2e-3, 1, 3.20), (4e-3, 0, 3.5)]
    table = pd.DataFrame(rows, columns=["lr", "seed", "loss"]).assign(params=1e7, tokens=1e9)
    kept, found = best_rows(load_runs(table).table)
    assert kept["loss"].tolist() == [3.00, 3.02]
    assert found.as_json() == {"rows": 5, "points": 1}
    assert "the best of each, with all seeds of its setting, is fitted" in found.alarm.sentence


def test_a_seed_of_its_own_for_every_setting_changes_nothing():
    kept, _ = best_rows(load_runs(raw_sweep().assign(seed=np.arange(450))).table)
    assert len(kept) == 30


def test_a_rate_that_depends_on_the_point_alone_is_no_sweep():
    table = seeds_table(0.01, n_rows=1).assign(lr=lambda t: t["params"] ** -0.3)
    runs = load_runs(table)
    assert best_of_points(runs, "chinchilla").table is runs.table


@pytest.mark.parametrize("name", ["group", "unique_tokens", "experts"])
def test_other_columns_tell_points_apart(name):
    values = {"group": ["a", "b"], "unique_tokens": [1e8, 2e8], "experts": [1, 8]}[name]
    rows = [(lr, v, 3 + lr + k) for k, v in enumerate(values) for lr in (0.1, 0.2)]
    table = pd.DataFrame(rows, columns=["lr", name, "loss"]).assign(params=1e7, tokens=1e9)
    kept, found = best_rows(load_runs(table).table)
    assert kept["loss"].tolist() == [3.1, 4.1]
    assert "(N, D, " in found.alarm.sentence


def test_whole_steps_of_another_batch_are_the_same_point():
    tokens = np.array([1.000e9, 1.002e9, 1.004e9])
    table = pd.DataFrame({"params": 1e7, "tokens": tokens, "batch": [1, 2, 4], "loss": [3.0, 2, 4]})
    fresh = load_runs(table.assign(unique_tokens=tokens)).table
    assert best_rows(fresh)[0]["loss"].tolist() == [2.0]


def test_a_dense_row_of_token_counts_is_no_point():
    tokens = 1e9 * 1.002 ** np.arange(50)
    table = pd.DataFrame({"params": 1e7, "tokens": tokens, "loss": 4 - np.linspace(0, 1, 50)})
    assert best_rows(load_runs(table.assign(lr=tokens**-0.3)).table)[1] is None


class TestWithoutColumns:
    """No column says what differs: the spread and the skewness within points decide."""

    @pytest.mark.slow
    def test_settings(self):
        law = fit(raw_sweep()[["params", "tokens", "loss"]], **QUICK)
        assert law.replicates == {"rows": 450, "points": 30}
        assert "give them a column seed" in codes(law)["replicates"]

    @pytest.mark.slow
    @pytest.mark.parametrize("noise", [0.002, 0.01, 0.05])
    def test_seeds(self, noise):
        law = fit(seeds_table(noise), **QUICK)
        assert law.n_runs == 60
        assert law.replicates is None

    @pytest.mark.parametrize(("over", "settings"), [(0.98, False), (1.02, True)])
    def test_the_border_of_the_spread(self, over, settings):
        steps = np.array([0.0, 1, 2, 4, 8])  # quartiles 1 and 4
        rows = np.tile(steps / 3 * 1.349 * MOST_SEED_NOISE * over, 6)
        spread = settings_spread(rows, np.repeat(np.arange(6), 5))
        assert (spread is not None) == settings
        if settings:
            assert spread == pytest.approx(MOST_SEED_NOISE * over)

    @pytest.mark.parametrize(
        ("steps", "settings"),
        [([0, 1, 2, 3, 8], True), ([0, 1, 2, 3, 4], False), ([0, 5, 6, 7, 8], False)],
    )
    def test_only_a_tail_upwards_is_one_of_settings(self, steps, settings):
        spread = settings_spread(np.tile(np.array(steps, float), 8), np.repeat(np.arange(8), 5))
        assert (spread is not None) == settings

    def test_few_rows_of_a_point_say_nothing(self):
        few = FEWEST_ROWS - 1
        rows = np.tile(np.array([0.0, 0.1, 1.0]), 40)
        assert settings_spread(rows, np.repeat(np.arange(40), few)) is None

    @pytest.mark.parametrize("seed", range(5))
    def test_noise_seldom_looks_skewed(self, seed):
        rng = np.random.default_rng(seed)
        points = np.repeat(np.arange(30), 4)
        called = [settings_spread(rng.standard_normal(120), points) for _ in range(100)]
        assert sum(c is not None for c in called) <= 10


@pytest.mark.slow
def test_a_study_with_a_sweep_of_rates_keeps_the_best_cells_and_their_seeds(tmp_path):
    study = write_study(tmp_path / "study")
    plain = fit(study, **QUICK)
    assert plain.replicates is None  # the seeds of its smallest budget are no settings
    config = CellConfig(study="study", model=ModelConfig(n_layer=2, d_model=32), seed=3)
    config.budget.flops = 1e11
    shape = config.model.shape(vocab_size=1024, context=128)
    tokens = int(1e11 / shape.flops_per_token / 512) * 512
    for lr, loss in ((0.5, 9.0), (0.05, 1.5)):
        config.optim.peak_lr = lr
        record = record_of(config, shape, tokens, loss=loss, trunk=f"swept-{lr}")
        record = dataclasses.replace(record, peak_lr=lr)
        record.write(study / record.run_id / "record.json")
    swept = fit(study, **QUICK)
    assert swept.replicates["rows"] == plain.n_runs + 2
    assert swept.n_runs == plain.n_runs - 1  # two seeds gave way to the better rate
    assert "because lr varies within points" in codes(swept)["replicates"]


@pytest.mark.slow
def test_a_law_file_has_the_field_and_old_files_are_read(tmp_path):
    law = fit(raw_sweep(sizes=4, horizons=4), **QUICK)
    path = law.write(tmp_path / "law.json")
    assert Law.read(path).replicates == {"rows": 240, "points": 16}
    values = json.loads(path.read_text())
    del values["replicates"]
    path.write_text(json.dumps(values))
    assert Law.read(path).replicates is None
    plain = fit(isoflop_table(LAW), **QUICK).write(tmp_path / "plain.json")
    assert json.loads(plain.read_text())["replicates"] is None


@pytest.mark.slow
def test_step_law_is_fitted_by_its_points(shared):
    table = shared / "hyper" / "steplaw_dense_small.csv"
    law = fit(table, **QUICK)
    frame = pd.read_csv(table)
    points = len(frame.groupby(["params", "tokens"]))
    assert law.replicates == {"rows": len(frame), "points": points}
    assert law.n_runs == points
    assert law.noise["sd_log"] < 0.01
    columns = frame[["params", "tokens", "flops", "loss"]]
    assert best_rows(load_runs(columns).table)[1].points == points


def test_rows_of_a_parquet_file_are_those_of_the_file(tmp_path):
    pytest.importorskip("pyarrow")
    seeds_table(0.01).iloc[20:40].to_parquet(tmp_path / "part.parquet")  # with its index of 20..39
    assert load_runs(tmp_path / "part.parquet").table["row"].tolist() == list(range(1, 21))
