"""Methods disagree where the intervals of a do not overlap, and only there."""

import numpy as np
import pandas as pd
import pytest

from analysis import fit
from analysis.alarms.methods import methods_disagree
from tests.analysis.conftest import isoflop_table, loss_of

RUNS = pd.DataFrame({"params": [1e6, 1e6, 1e7, 1e7]})
POINTS = RUNS.drop_duplicates()


def block(low, high, **more):
    return {"a": (low + high) / 2, "a_interval": [low, high], **more}


def test_both_intervals_and_a_remedy_are_named():
    alarm = methods_disagree(
        {"parametric": block(0.4, 0.5), "isoflop": block(0.6, 0.7), "envelope": block(0.48, 0.62)},
        RUNS,
    )
    assert alarm.code == "methods_disagree"
    assert "the parametric law has [0.400, 0.500], IsoFLOP has [0.600, 0.700]" in alarm.sentence
    assert "within=0.1" in alarm.sentence


@pytest.mark.parametrize(
    "methods",
    [
        {"parametric": block(0.4, 0.5), "isoflop": block(0.5, 0.7)},
        {"parametric": block(0.4, 0.5), "isoflop": None, "envelope": None},
        {"parametric": {"a": 0.4, "a_interval": None}, "isoflop": block(0.6, 0.7)},
        {},
    ],
)
def test_intervals_that_touch_or_lack_give_none(methods):
    assert methods_disagree(methods, RUNS) is None


def test_other_counts_of_c_are_said():
    counted = block(0.6, 0.7, convention="C = column flops")
    alarm = methods_disagree({"parametric": block(0.4, 0.5), "isoflop": counted}, RUNS)
    assert "(the law has C = 6 N D, the others C = column flops)" in alarm.sentence


def test_an_envelope_of_single_points_is_no_second_method():
    points = block(0.6, 0.7, source="end points")
    assert methods_disagree({"parametric": block(0.4, 0.5), "envelope": points}, POINTS) is None
    assert methods_disagree({"parametric": block(0.4, 0.5), "envelope": points}, RUNS) is not None
    curves = {**points, "source": "training curves"}
    assert methods_disagree({"parametric": block(0.4, 0.5), "envelope": curves}, POINTS) is not None


@pytest.mark.slow
def test_runs_at_random_sizes_do_not_fire(refit_law):
    rng = np.random.default_rng(3)
    n, d = np.exp(rng.uniform(17, 21, 200)), np.exp(rng.uniform(20, 25, 200))
    loss = loss_of(refit_law, n, d) * np.exp(0.003 * rng.standard_normal(200))
    table = pd.DataFrame({"params": n, "tokens": d, "loss": loss})
    law = fit(table, resamples=50, hindcast=False, sensitivity=False)
    assert "methods_disagree" not in {a.code for a in law.alarms}


@pytest.mark.slow
def test_a_true_law_seldom_fires(refit_law):
    fired = 0
    for seed in range(4):
        law = fit(
            isoflop_table(refit_law, noise=0.003, seed=seed),
            resamples=100, hindcast=False, sensitivity=False,
        )  # fmt: skip
        fired += "methods_disagree" in {a.code for a in law.alarms}
    assert fired <= 1


@pytest.mark.slow
def test_a_valley_of_another_form_fires():
    """The optimum moves as C^.95, faster than a sum of two powers allows with these losses."""
    flops = np.repeat(1e18 * 4.0 ** np.arange(6), 9)
    at = np.tile(np.linspace(-1.2, 1.2, 9), 6)
    params = np.exp(np.log(1e8) + 0.95 * np.log(flops / 1e19) + at)
    loss = 1.5 + 2.5 * (flops / 1e18) ** -0.12 + 0.15 * at**2
    noise = np.exp(0.001 * np.random.default_rng(0).standard_normal(len(at)))
    table = pd.DataFrame({"params": params, "tokens": flops / 6 / params, "flops": flops})
    law = fit(table.assign(loss=loss * noise), resamples=100, hindcast=False, sensitivity=False)
    assert law.methods["isoflop"]["a"] == pytest.approx(0.95, abs=0.01)
    assert "methods_disagree" in {a.code for a in law.alarms}
