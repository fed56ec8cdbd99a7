"""Which law forecasts a task's accuracy in the report."""

import numpy as np
import pandas as pd
import pytest

from analysis.page.sections.direct_law import choice_of
from analysis.page.sections.task_scores import Scores, expected


def points(direct):
    """Models on a ray whose accuracy is direct in C, or a sigmoid of a loss with a floor."""
    flops = np.geomspace(1e15, 1e19, 14)
    loss = 0.6 + 150 * flops**-0.14
    error = 0.5 * (1 - np.exp(-60 * flops**-0.11))
    if not direct:
        error = 0.5 / (1 + np.exp(-8 * (loss - 1.3)))
    noise = 0.001 * np.random.default_rng(0).standard_normal(14)
    n = np.sqrt(flops / 120)
    return pd.DataFrame(
        {"params": n, "tokens": 20 * n, "flops": flops, "loss": loss, "error": error + noise}
    ).assign(error_se=0.003)


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("direct", [True, False])
def test_the_law_of_less_withheld_error_is_used(direct):
    table = points(direct)
    choice = choice_of(table, 0.5, resamples=20, level=0.9)
    assert (choice.law is not None) == direct
    assert choice.text.startswith("direct in C;" if direct else "two steps in C;")
    assert "withheld error in points: " in choice.text


@pytest.mark.long
@pytest.mark.slow
def test_a_direct_law_forecasts_accuracy_with_an_interval():
    table = points(direct=True)
    choice = choice_of(table, 0.5, resamples=30, level=0.9)
    bits = type("L", (), {"predict_table": lambda self, t, level: t.assign(loss=1.0)})()
    scores = Scores(
        task="t",
        points=table,
        chance=0.5,
        without="",
        loss_law=bits,
        accuracy_law=None,
        choice=choice,
    )
    forecast = expected(scores, 1e20)
    truth = 1 - 0.5 * (1 - np.exp(-60 * 1e20**-0.11))
    assert forecast.accuracy == pytest.approx(truth, abs=0.005)
    assert forecast.accuracy_interval[0] < truth < forecast.accuracy_interval[1]


def test_three_models_withhold_nothing():
    assert choice_of(points(direct=True).head(3), 0.5, resamples=0, level=0.9) is None
