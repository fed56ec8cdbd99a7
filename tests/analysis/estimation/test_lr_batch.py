"""Optimal learning rate and batch: Step Law's surfaces recovered, edges refused."""

import numpy as np
import pandas as pd
import pytest

from analysis import fit
from analysis.estimation.lr_batch import settings

STEP_LAW = {"k_lr": 1.79, "p_lr": -0.713, "q_lr": 0.307, "k_batch": 0.58, "q_batch": 0.571}


def optimal(params, tokens):
    lr = STEP_LAW["k_lr"] * params ** STEP_LAW["p_lr"] * tokens ** STEP_LAW["q_lr"]
    return lr, STEP_LAW["k_batch"] * tokens ** STEP_LAW["q_batch"]


def sweep(*, noise=0.0005, axes=("lr", "batch"), shift=1.0, seed=0):
    """Return runs around the optima, a factor of 2 apart; `shift` moves the learning rates."""
    rng = np.random.default_rng(seed)
    steps = 2.0 ** np.arange(-3, 4)
    rows = []
    for params in (6e7, 2e8, 5e8, 1.1e9):
        for ratio in (10, 40, 160):
            tokens = ratio * params
            lr, batch = optimal(params, tokens)
            best = 1.7 + 400 * params**-0.34 + 400 * tokens**-0.28
            for x in steps if "lr" in axes else [1.0]:
                for y in steps if "batch" in axes else [1.0]:
                    here, away = x * shift, np.log([x * shift, y])
                    bowl = 0.006 * away[0] ** 2 + 0.003 * away[1] ** 2 - 0.002 * away.prod()
                    loss = best * (1 + bowl + noise * rng.standard_normal())
                    rows.append((params, tokens, here * lr, y * batch, loss))
    return pd.DataFrame(rows, columns=["params", "tokens", "lr", "batch", "loss"])


def test_step_law_is_recovered_within_its_intervals():
    law = fit(sweep(), "lr_batch", resamples=500)
    ends = law.intervals["parameters"]
    for name in ("p_lr", "q_lr", "q_batch"):
        assert law.parameters[name] == pytest.approx(STEP_LAW[name], abs=0.06)
        assert ends[name][0] < STEP_LAW[name] < ends[name][1]
    by_axis = settings(law, 1.07e9, 2e10)
    assert by_axis["lr"][0] == pytest.approx(optimal(1.07e9, 2e10)[0], rel=0.1)
    assert by_axis["batch"][1] < optimal(1.07e9, 2e10)[1] < by_axis["batch"][2]


def test_one_axis_gives_one_law_and_says_so():
    law = fit(sweep(axes=("lr",)), "lr_batch", resamples=50)
    assert set(law.parameters) == {"k_lr", "p_lr", "q_lr"}
    assert "no_batch_law" in {alarm.code for alarm in law.alarms}
    assert "batch" not in settings(law, 1e9, 2e10)


def test_optima_at_the_edge_are_refused():
    table = sweep(axes=("lr",), shift=8.0)  # the optimum is the smallest rate tried
    with pytest.raises(
        ValueError, match=r"12 lie at the edge of what was tried\): widen the sweep"
    ):
        fit(table, "lr_batch")
    one = (table["params"] > 1e9) & (table["tokens"] < 2e10)
    half = pd.concat([sweep(axes=("lr",)), table[one].assign(tokens=3e12)])
    law = fit(half.reset_index(drop=True), "lr_batch", resamples=20)
    assert "edge_optimum" in {alarm.code for alarm in law.alarms}
    refused = [p for p in law.methods["lr_batch"]["points"] if p["optima"]["lr"]["why"]]
    assert [p["tokens"] for p in refused] == [3e12]


def test_missing_columns_are_named():
    with pytest.raises(ValueError, match=r"no column 'batch' for batch"):
        fit(sweep().drop(columns="batch"), "lr_batch")


def test_the_command_prints_the_cells(tmp_path):
    law = fit(sweep(), "lr_batch", resamples=20)
    again = type(law).read(law.write(tmp_path / "law.json"))
    assert settings(again, 1e9, 2e10) == settings(law, 1e9, 2e10)
    assert "optimum [within .25 %]" in again.summary()
    assert max(map(len, again.summary().splitlines())) <= 100
    with pytest.raises(ValueError, match="lr_batch"):
        again.predict(1e9, 2e10)
