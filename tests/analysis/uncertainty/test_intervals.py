"""The coverage harness: intervals hold the truth about as often as they say, bad designs alarm.

Few tables and resamples, always the same; `benchmarks/intervals.py` does it at length.
"""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import analysis.estimation.fit

BENCH = Path(__file__).parents[3] / "benchmarks" / "intervals.py"


@pytest.fixture(scope="module")
def coverage():
    spec = importlib.util.spec_from_file_location("coverage_bench", BENCH)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture(scope="module")
def simulated(coverage):
    """Twelve tables of a good design under each law."""
    original = analysis.estimation.fit.power_laws
    jobs = [(coverage.DESIGNS[0], law, 150, seed) for law in coverage.LAWS for seed in range(12)]
    yield pd.DataFrame([coverage.one(job) for job in jobs])
    analysis.estimation.fit.power_laws = original


NINE = [  # N, D, loss, trunk of a study of three sizes and three budgets
    (5800, 12032, 5.287346668604638, "a"),
    (5800, 24064, 5.109376373066933, "a"),
    (5800, 48128, 4.7410593528196845, "a"),
    (9660, 12032, 5.3099679334973775, "b"),
    (9660, 24064, 4.925917014362096, "b"),
    (9660, 48128, 4.571029515966079, "b"),
    (14928, 12032, 5.232696680098989, "c"),
    (14928, 24064, 4.7628622448196865, "c"),
    (14928, 48128, 4.462014913456943, "c"),
]


@pytest.mark.slow
def test_a_law_of_three_trunks_has_no_bias_corrected_intervals_and_says_so():
    table = pd.DataFrame(NINE, columns=["params", "tokens", "loss", "trunk"])
    options = {"hindcast": False, "sensitivity": False, "resamples": 100}
    law = analysis.estimation.fit.fit(table, "chinchilla", **options)
    (alarm,) = (a for a in law.alarms if a.code == "no_bias_corrected")
    assert "leave out one of the 3 trunks" in alarm.sentence
    assert "bias_corrected" not in (law.intervals or {})


def test_noise_is_that_of_the_sheet(coverage):
    assert coverage.deviation([2.0, 3.0, 7.0, 9.0]) == pytest.approx([0.002, 0.002, 0.05, 0.05])


@pytest.mark.slow
def test_forecasts_cover_about_as_often_as_they_say(simulated):
    """Nominal 90 %: of 48 a far forecast, a binomial 3 sd below is 37."""
    assert simulated["usable"].all()
    for what in ("mean", "run"):
        held = simulated[[f"{what} x10", f"{what} x100"]].to_numpy(bool)
        assert 37 <= held.sum() <= 48
    assert abs(simulated["bias x100"].median()) < 0.002
    # Nothing is withheld here, so that the usual error by distance makes nearly all of the width.
    assert simulated["run width x100"].median() == pytest.approx(
        1.645 * 0.012 * np.log(100), rel=0.1
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["percentile", "bias_corrected", "profile"])
def test_parameters_cover_about_as_often_as_they_say(simulated, kind):
    """Of 72 by each kind, a binomial 3.5 sd below 65 is 56."""
    columns = [c for c in simulated if c.startswith(kind)]
    assert len(columns) == 3
    assert simulated[columns].to_numpy(bool).sum() >= 56


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ray", "edge", "narrow"])
def test_a_bad_design_raises_its_alarm(coverage, name, monkeypatch):
    monkeypatch.setattr(analysis.estimation.fit, "power_laws", analysis.estimation.fit.power_laws)
    design = next(d for d in coverage.DESIGNS if d.name == name)
    assert all(coverage.one((design, law, 60, 0))["raised"] for law in coverage.LAWS)


def test_the_table_marks_what_lies_outside(coverage):
    held = {f"{kind} {name}": True for kind in coverage.KINDS for name in coverage.NAMES}
    far = {f"{what} x{f}": True for what in ("mean", "run") for f in coverage.REACHES}
    sizes = {f"{what} x{f}": 0.01 for what in ("run width", "bias") for f in coverage.REACHES}
    head = {"design": "isoflop", "law": "besiroglu", "usable": True, "raised": False}
    frame = pd.DataFrame([{**head, **held, **far, **sizes}] * 10)
    frame.loc[0, "mean x10"] = np.False_
    lines = coverage.report(frame).splitlines()
    assert max(map(len, lines)) <= 100
    row = next(line for line in lines if "1.00%" in line)
    assert row.count("100.0*") == 5
    assert row.count("90.0 ") == 1
