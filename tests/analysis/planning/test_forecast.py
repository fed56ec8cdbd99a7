"""The forecast's curve, its intervals, what they learn, and the confirmation run."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from analysis.laws.law import Law
from analysis.laws.published import load_law
from analysis.plan import main
from analysis.planning.forecast import curve_of, lags, learnt_width
from analysis.planning.settings import PlanConfig
from analysis.runs.study import Course, default_study

LAW = replace(load_law("besiroglu2024"), ranges={"flops": [1e18, 1e20]}, n_runs=60)


def with_draws(law: Law = LAW) -> Law:
    point = np.array(list(law.parameters.values()))
    draws = point * np.exp(0.003 * np.random.default_rng(0).normal(size=(200, len(point))))
    return replace(law, draws=draws)


def course(params: float, tokens: float, lag: float) -> Course:
    """A cell whose loss under way is exp(lag) times the law's."""
    shares = tuple(np.geomspace(0.02, 0.95, 12))
    there = LAW.predict(params, np.array(shares) * tokens, noise=False).loss
    return Course(params=params, tokens=tokens, shares=shares, losses=tuple(there * math.exp(lag)))


def study(*each: float):
    made = tuple(course(1e8 * (i + 1), 2e9, lag) for i, lag in enumerate(each))
    return replace(default_study(), courses=made)


def test_the_curve_is_the_law_times_the_lag_of_the_cells():
    rows, how = curve_of(LAW, study(0.02, 0.03, 0.04), 1e9, 2e10, level=0.9)
    assert [r.share for r in rows] == [0.1, 0.25, 0.5, 0.75]
    for row in rows:
        there = float(LAW.predict(1e9, row.share * 2e10).loss)
        assert row.test_loss == pytest.approx(there * math.exp(0.03), rel=1e-3)
        low, high = row.interval
        half = 1.645 * 0.01 * math.sqrt(4 / 3)
        assert math.log(high / low) == pytest.approx(2 * half, rel=0.02)
    assert "3 largest cells" in how


def test_the_band_joins_the_laws_interval():
    alone, _ = curve_of(with_draws(), default_study(), 1e9, 2e10, level=0.9)
    joined, _ = curve_of(with_draws(), study(0.02, 0.03, 0.04), 1e9, 2e10, level=0.9)
    for a, b in zip(alone, joined, strict=True):
        assert math.log(b.interval[1] / b.interval[0]) > math.log(a.interval[1] / a.interval[0])


def test_without_curves_the_finished_law_is_said_to_be_it():
    rows, how = curve_of(LAW, default_study(), 1e9, 2e10, level=0.9)
    assert rows[0].interval == ()
    assert "no curves of a study" in how


def test_an_evaluation_far_from_a_share_says_nothing_of_it():
    late = Course(params=1e8, tokens=2e9, shares=(0.6, 0.8), losses=(3.0, 2.9))
    one = replace(default_study(), courses=(late,))
    assert lags(LAW, one, 0.1) == []
    assert len(lags(LAW, one, 0.5)) == 1


def test_a_cell_below_the_tokens_fitted_says_nothing_of_the_law_there():
    law = replace(LAW, ranges={**LAW.ranges, "tokens": [5e8, 1e11]})
    several = study(0.02, 0.03, 0.04)  # of 2e9 tokens each
    assert lags(law, several, 0.1) == []
    assert len(lags(law, several, 0.25)) == 3
    rows, _ = curve_of(law, several, 1e9, 2e10, level=0.9)
    assert [r.curves for r in rows] == [0, 3, 3, 3]


def line(z: float | None, law: str) -> dict:
    return {"id": law, "z": z, "law_sha256": law, "records_sha256": "r"}


def test_intervals_widen_by_the_errors_of_scored_forecasts():
    z = [3.0, -2.0, 2.5, -3.0, 2.0, 1.0]
    factor, told = learnt_width([line(v, str(i)) for i, v in enumerate(z)])
    squares = sum(v**2 for v in z)
    assert factor == pytest.approx(math.sqrt((5 + squares) / (5 + 6)))
    assert "1 of 6 within 90%" in told


def test_intervals_learn_nothing_from_few_or_dependent_forecasts_and_never_narrow():
    assert learnt_width([line(9.0, str(i)) for i in range(4)])[0] == 1
    assert learnt_width([line(9.0, "one law") for _ in range(40)])[0] == 1
    assert learnt_width([line(0.01, str(i)) for i in range(40)])[0] == 1
    assert learnt_width([line(None, str(i)) for i in range(40)])[0] == 1


def test_forecasts_of_runs_of_another_size_say_nothing():
    toys = [line(9.0, str(i)) | {"flops": 1e12} for i in range(10)]
    factor, told = learnt_width(toys, 1e22)
    assert factor == 1
    assert "10 forecasts of runs more than 100 times smaller or larger" in told
    assert learnt_width(toys, 5e13)[0] > 1


def write_law(folder: Path) -> Path:
    return with_draws().write(folder / "law.json")


def planned(folder: Path, **settings) -> dict:
    out = folder / "plan.yaml"
    main(PlanConfig(law=str(write_law(folder)), out=str(out), **settings))
    return yaml.safe_load(out.read_text())


def test_the_ledger_widens_the_interval_of_the_next_plan(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = planned(tmp_path, flops=1e21)["forecast"]
    (tmp_path / "runs").mkdir()
    rows = (f'{{"id": "{i}", "z": 3.0, "law_sha256": "{i}"}}\n' for i in range(10))
    (tmp_path / "runs" / "forecasts.jsonl").write_text("".join(rows))
    after = planned(tmp_path, flops=1e21)["forecast"]
    width = [math.log(f["interval"][1] / f["interval"][0]) for f in (before, after)]
    assert width[1] / width[0] == pytest.approx(math.sqrt((5 + 90) / 15))
    assert after["test_loss"] == before["test_loss"]


def test_a_far_plan_writes_its_confirmation_at_c_over_10_to_30(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    plan = planned(tmp_path, flops=2.5e22, max_params=2e9)
    smaller = yaml.safe_load((tmp_path / "plan.confirmation.yaml").read_text())
    assert plan["confirmation"]["needed"]
    ratio = plan["pretrain"]["flops"] / smaller["pretrain"]["flops"]
    assert ratio == pytest.approx(math.sqrt(250), rel=0.01)
    assert smaller["study"] == "final-confirmation"
    assert smaller["made_from"]["law"] == plan["made_from"]["law"]
    assert "run it first" in capsys.readouterr().out
    over = [
        p["tokens"] / p["params"] / LAW.optimum(p["flops"]).tokens_per_param
        for p in (plan["pretrain"], smaller["pretrain"])
    ]
    assert over[0] > 1.5
    assert over[1] == pytest.approx(over[0], rel=0.2)  # both N were rounded, D/N twice as much


def test_a_near_plan_needs_no_confirmation(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = planned(tmp_path, flops=5e20)
    assert plan["confirmation"]["needed"] is False
    assert not (tmp_path / "plan.confirmation.yaml").exists()


def test_bits_per_byte_have_the_same_interval(tmp_path):
    from analysis.planning.budgets import Budget
    from analysis.planning.constraints import Constraints
    from analysis.planning.forecast import forecast_block
    from analysis.planning.pretrain_block import pretrain_block
    from analysis.planning.shapes.family import FamilySettings
    from analysis.planning.shapes.shape import choose_shape
    from analysis.planning.split import split_of

    base = replace(default_study(), bytes_per_token=4.0)
    split = split_of(with_draws(), 1e21, Constraints(), level=0.9, flat_loss=0.002)
    planned = choose_shape(split, base, family=FamilySettings())
    pretrain = pretrain_block(Budget(flops=1e21), base, planned)
    forecast = forecast_block(with_draws(), base, pretrain, planned, level=0.9)
    scale = forecast.bits_per_byte / forecast.test_loss
    assert scale == pytest.approx(1 / (4 * math.log(2)))
    ends = tuple(e * scale for e in forecast.interval)
    assert forecast.bits_per_byte_interval == pytest.approx(ends)
