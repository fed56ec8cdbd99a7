"""A confirmation run: a row of the next law, what a miss does to it, and when another is needed."""

import importlib.util
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from analysis import fit
from analysis.laws.law import tau_at
from analysis.planning.budgets import Budget
from analysis.planning.make import make_plan
from analysis.runs.study import study_of
from analysis.validate.hindcast import widen_tau
from scaling.config import CellConfig, ModelConfig
from scaling.schema import CONFIRMING, write_json

_spec = importlib.util.spec_from_file_location(
    "synthetic", Path(__file__).parents[1] / "synthetic.py"
)
synthetic = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(synthetic)

LARGEST = synthetic.BUDGETS[-1]
FLOPS = 10 * LARGEST


@pytest.fixture
def folder(tmp_path) -> Path:
    return synthetic.write_study(tmp_path / "small")


def confirm(folder: Path, *, scale: float = 1.0, context: int = 128, name: str = "") -> float:
    """Write a confirmation run of 10 times the largest cell, whose loss is off by `scale`."""
    config = CellConfig(study=folder.name, model=ModelConfig(n_layer=10, d_model=208))
    config.budget.flops, config.data.context = FLOPS, context
    shape = config.model.shape(vocab_size=1024, context=128)
    tokens = int(FLOPS / shape.flops_per_token / 512) * 512
    exact = synthetic.true_loss(shape.params.with_head, tokens)
    final = folder.parent / f"{folder.name}{CONFIRMING}{name}" / "final"
    sealed = {"test_loss": exact, "interval": [0.97 * exact, 1.03 * exact], "level": 0.9}
    write_json(final / "forecast.json", sealed)
    record = synthetic.record_of(config, shape, tokens, loss=scale * exact, trunk="confirming")
    record.write(final / "pretrain" / "record.json")
    return exact


def law_of(folder: Path):
    return fit(folder, count="with_head", resamples=60, sensitivity=False)


def planned(law, folder: Path, flops: float):
    return make_plan(law, Budget(flops=flops), study_of(folder, count="with_head"))


@pytest.mark.slow
def test_a_confirmation_is_a_row_of_the_law_and_opens_the_plan(folder):
    before = law_of(folder)
    assert planned(before, folder, 20 * FLOPS).confirmation.needed
    confirm(folder, scale=1.01)
    after = law_of(folder)
    assert after.n_runs == before.n_runs + 1
    assert after.ranges["flops"][1] == pytest.approx(FLOPS, rel=1e-3)
    (told,) = after.inputs["confirmations"]
    assert told["inside"]
    assert told["error"] == pytest.approx(math.log(1.01))
    assert "confirmation_missed" not in [a.code for a in after.alarms]
    made = planned(after, folder, 20 * FLOPS)
    assert not made.confirmation.needed
    assert "confirmed at C/20" in made.confirmation.reasons["needed"]
    assert "refitted with 1 confirmation" in made.forecast.reasons["test_loss"]
    assert "a row of" in after.summary()


@pytest.mark.slow
def test_a_miss_widens_what_is_forecast_as_far_and_is_an_alarm(folder):
    confirm(folder, scale=1.2)
    law = law_of(folder)
    assert "confirmation_missed" in [a.code for a in law.alarms]
    assert tau_at(law.backtest["tau"], np.array(math.log(10))) >= 0.99 * math.log(1.2)
    made = planned(law, folder, 10 * FLOPS)
    low, high = made.forecast.interval
    assert math.log(high / low) > 2 * 1.6 * math.log(1.2)
    assert "outside its interval" in made.confirmation.reasons["needed"]


@pytest.mark.slow
def test_a_plan_far_beyond_its_confirmation_needs_another(folder):
    confirm(folder)
    confirmation = planned(law_of(folder), folder, 200 * FLOPS).confirmation
    assert confirmation.needed
    assert confirmation.study == f"small{CONFIRMING}-2"


@pytest.mark.slow
def test_a_miss_opens_the_way_less_far(folder):
    confirm(folder, scale=1.2)
    assert planned(law_of(folder), folder, 20 * FLOPS).confirmation.needed


@pytest.mark.slow
def test_a_confirmation_on_other_data_is_left_out(folder):
    confirm(folder, context=256)
    law = law_of(folder)
    assert "confirmations" not in law.inputs
    assert [d["why"] for d in law.dropped] == [
        "confirmation with other data or tokenizer or eval than the cells"
    ]


def test_tau_never_falls_and_a_pass_leaves_it_alone():
    told = {"flops": 1e20, "error": 0.1, "inside": False}
    tested = {"rows": [], "tau": [[1.0, 0.02], [5.0, 0.03]], "level": 0.9}
    flops = np.array([1e18, 1e19])
    found = widen_tau(tested, [told], flops)["tau"]
    assert found == [[1.0, 0.02], [pytest.approx(math.log(10)), 0.1], [5.0, 0.1]]
    assert widen_tau(tested, [{**told, "inside": True}], flops) is tested


@pytest.mark.slow
def test_a_law_that_was_never_confirmed_says_nothing_of_it(folder):
    law = replace(law_of(folder), backtest=None)
    assert "confirmations" not in law.inputs
    assert "C/10 has been run" in planned(law, folder, 5 * LARGEST).confirmation.reasons["needed"]
