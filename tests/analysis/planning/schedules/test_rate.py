"""A plan with another schedule than its study."""

from dataclasses import replace

import pytest

from analysis.estimation.schedule import fit_schedule
from analysis.planning.plan import Forecast, PretrainBlock
from analysis.planning.schedules.rate import RateSettings, with_rate
from analysis.runs.study import default_study
from tests.analysis.laws.test_curve_law import table

STUDY = replace(default_study(), config={"schedule": {"floor": 0.0, "decay_shape": "linear"}})
BLOCK = PretrainBlock(
    params_target=1e6, params=10**6, count="total", tokens=2_000_000, flops=1e13, seconds=0.0,
    model={}, context=128, peak_lr=1e-3, batch_tokens=1000, warmup_steps=100, weight_decay=0.1,
    schedule="wsd", decay=0.2, seed=0,
)  # fmt: skip
FORECAST = Forecast(test_loss=3.0, interval=(2.9, 3.1), level=0.9, parts={"scatter": 1.0})


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> str:
    law = fit_schedule(table("constant", "decay"), law="annealing")
    return str(law.write(tmp_path_factory.mktemp("law") / "law.schedule.json"))


def test_the_study_s_own_schedule_changes_nothing():
    assert with_rate(BLOCK, FORECAST, STUDY, RateSettings()) == (BLOCK, FORECAST)
    same = RateSettings(schedule="wsd", decay=0.2)
    assert with_rate(BLOCK, FORECAST, STUDY, same) == (BLOCK, FORECAST)


@pytest.mark.slow
def test_another_schedule_moves_the_forecast_and_widens_it(file):
    asked = RateSettings(schedule="wsd", decay=0.02, law=file)
    pretrain, forecast = with_rate(BLOCK, FORECAST, STUDY, asked)
    assert (pretrain.schedule, pretrain.decay) == ("wsd", 0.02)
    assert forecast.test_loss is not None
    assert forecast.test_loss > 3.0  # too short a decay
    assert forecast.interval[1] - forecast.interval[0] > 0.2
    assert "against wsd with decay 0.2" in pretrain.reasons["schedule"]
    assert forecast.parts["schedule"] > 0


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (RateSettings(schedule="cosine"), r"add rate\.law=FILE"),
        (RateSettings(law="x.json"), r"read only with another schedule"),
        (RateSettings(schedule="cosine", decay=0.1), "decay of wsd"),
    ],
)
def test_what_does_not_go_together_is_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        with_rate(BLOCK, FORECAST, STUDY, settings)
