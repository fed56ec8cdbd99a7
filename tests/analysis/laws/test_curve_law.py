"""A law of form=schedule: fitted from a table, written, read, and asked."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.estimation.schedule import fit_schedule
from analysis.laws.law import Law
from scaling.curves.laws import ANNEALING, Unit, curve_loss
from scaling.curves.path import path

STEP = np.arange(120, 2001, 60)
RATES = {
    "constant": np.full(len(STEP), 1e-3),
    "decay": 1e-3 * np.clip((2060 - STEP) / 800, 0, 1),
    "cosine": 1e-3 * (0.1 + 0.45 * (1 + np.cos(np.pi * STEP / 2000))),
}


def table(*names: str) -> pd.DataFrame:
    theta = np.array([2.5, *np.log([0.6, 0.5, 0.15, 0.5])])
    frames = []
    for name in names:
        along = path(STEP, RATES[name], warmup_steps=100, peak_lr=1e-3)
        loss, _ = curve_loss(ANNEALING, along, Unit(rate=1e-3, sum=0.2), theta)
        frames.append(
            pd.DataFrame({"schedule": name, "step": STEP, "lr": RATES[name], "loss": loss})
        )
    return pd.concat(frames)


@pytest.fixture(scope="module")
def law(tmp_path_factory) -> Law:
    fitted = fit_schedule(table("constant", "decay"), law="annealing")
    file: Path = tmp_path_factory.mktemp("law") / "law.json"
    return Law.read(fitted.write(file))


def test_a_law_that_was_read_forecasts_another_schedule(law):
    truth = table("cosine")["loss"].to_numpy()
    got = law.predict_curve(STEP, RATES["cosine"])
    assert law.form == "schedule"
    assert got.loss == pytest.approx(truth, rel=2e-3)
    assert np.all((got.low < truth) & (truth < got.high))


def test_the_best_decay_is_inside_what_was_compared_and_printed(law):
    best = law.best_decay(2000)
    assert 0.05 < best.fraction < 0.6
    assert best.fraction_interval[0] <= best.fraction <= best.fraction_interval[1]
    assert "best decay (1,980 steps, linear): the last" in law.summary()


def test_what_the_law_cannot_answer_is_refused_in_a_sentence(law):
    with pytest.raises(ValueError, match="use predict_curve"):
        law.predict(1e6, 1e8)
    with pytest.raises(ValueError, match="use predict_curve"):
        law.optimum(1e18)
    with pytest.raises(ValueError, match="leave no room for a decay"):
        law.best_decay(100)


def test_a_damaged_law_names_its_file(law, tmp_path):
    file = law.write(tmp_path / "law.json")
    file.write_text(file.read_text().replace('"annealing"', '"anneal"'))
    with pytest.raises(ValueError, match=r"law\.json.*refit it with scaling fit form=schedule"):
        Law.read(file)
