"""The critical batch: a known law recovered, bounds where it lies outside, refusals."""

import numpy as np
import pandas as pd
import pytest

from analysis import fit
from analysis.estimation.critical_batch import batch_at, critical_batch, crossing
from analysis.laws.law import Law
from analysis.page.run_gallery import critical_batch_pictures
from analysis.runs.table import Runs

K, P = 60.0, 0.3
TOLERANCE = 0.02


def branches(*, noise=0.004, k=K, seeds=3, points=4, factors=7, seed=0):
    """Return branches whose loss grows in proportion to the batch, as 1 + B / B_crit does."""
    rng = np.random.default_rng(seed)
    rows = []
    for trunk in range(seeds):
        for at in 65536 * 4.0 ** np.arange(points):
            for batch in 256.0 * 2 ** np.arange(factors):
                excess = TOLERANCE * batch / (k * at**P)
                loss = 3 - 0.1 * np.log(at) + excess + noise * rng.standard_normal()
                rows.append((f"t{trunk}", at, batch, loss))
    return pd.DataFrame(rows, columns=["trunk", "at_tokens", "batch", "loss"])


def law_of(table, **options):
    return critical_batch(Runs(table=table), tolerance=TOLERANCE, **options)


def test_a_known_law_is_recovered_from_losses_without_noise():
    law = law_of(branches(noise=0.0, k=4e3, factors=12, seeds=1))
    value, low, high = batch_at(law, 1e8)
    assert law.parameters["p"] == pytest.approx(P, abs=0.01)  # the least batch is 1 % of B_crit
    assert value == pytest.approx(4e3 * 1e8**P, rel=0.05)
    assert low < value < high


@pytest.mark.slow
def test_intervals_hold_the_critical_batch_of_a_new_point():
    inside = []
    rng = np.random.default_rng(1)
    for seed in range(60):
        law = law_of(branches(seed=seed), resamples=400)
        at = 65536 * 4.0**5
        _, low, high = batch_at(law, at)
        inside.append(low <= K * at**P * np.exp(0.1 * rng.standard_normal()) <= high)
    assert 0.82 <= np.mean(inside) <= 1.0


def test_a_batch_is_critical_where_the_rising_curve_leaves_the_tolerance():
    batches = 256.0 * 2 ** np.arange(5)
    assert crossing(batches, np.array([3.0, 3.0, 3.0, 3.04, 3.1]), 0.02)[0] == pytest.approx(1536)
    assert crossing(batches, np.array([3.01, 2.99, 3.0, 3.04, 3.1]), 0.02)[1] == "inside"
    assert crossing(batches, np.full(5, 3.0), 0.02) == (4096.0, "above")
    assert crossing(batches, np.array([3.0, 3.1, 3.2, 3.3, 3.4]), 0.02) == (512.0, "below")


def test_points_outside_the_batches_tried_are_bounds_and_an_alarm():
    law = law_of(branches(factors=6, k=100.0, noise=0.001))
    outside = [p for p in law.methods["critical_batch"]["points"] if p["where"] != "inside"]
    assert 0 < len(outside) < 7
    (alarm,) = law.alarms
    assert alarm.code == "critical_batch_outside"
    assert f"{len(outside)} of 12 points" in alarm.sentence
    assert "add larger branch.batch_factor" in alarm.sentence
    without = law_of(branches(factors=6, k=100.0, noise=0.001).query("at_tokens < 4e6"))
    assert law.parameters["p"] >= without.parameters["p"] - 0.05  # a bound pulls no line down


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (branches(factors=3), "add larger branch.batch_factor"),
        (branches(k=0.01), "lower optim.batch_tokens of the trunk"),
        (branches(points=1), "add branch.at_tokens or seeds"),
        (branches(factors=2), "needs 3 or more"),
    ],
)
def test_what_carries_no_law_is_refused_with_the_remedy(table, words):
    with pytest.raises(ValueError, match=words):
        law_of(table)


@pytest.mark.slow
def test_the_largest_tokens_are_withheld_and_forecast():
    casts = [
        law_of(branches(seed=seed), resamples=10).methods["critical_batch"]["hindcast"]
        for seed in range(10)
    ]
    assert all((c["reach"], len(c["measured"])) == (4.0, 3) for c in casts)
    assert all(c["interval"][0] < c["forecast"] < c["interval"][1] for c in casts)
    assert sum(c["inside"] for c in casts) >= 24  # of 30, at a level of .9


def test_a_law_is_written_and_read_and_says_its_points(tmp_path):
    table = branches()
    table.to_csv(tmp_path / "branches.csv", index=False)
    law = fit(tmp_path / "branches.csv", "critical_batch", tolerance=TOLERANCE, resamples=100)
    again = Law.read(law.write(tmp_path / "law.json"))
    assert batch_at(again, 1e7) == batch_at(law, 1e7)
    assert "measured" in again.summary()
    assert again.summary().count("256 to 16384") == 12
    with pytest.raises(ValueError, match="gives a batch"):
        law.predict(1e6, 1e7)


def test_another_form_gives_no_critical_batch():
    law = fit("example", resamples=0, hindcast=False, sensitivity=False)
    with pytest.raises(ValueError, match="fit form=critical_batch"):
        batch_at(law, 1e7)


def test_the_report_draws_the_points_and_the_law():
    law = law_of(branches(factors=6, k=100.0, noise=0.001))
    (picture,) = critical_batch_pictures(law, level=0.9)
    assert "above the largest batch tried" in picture.svg
    assert "within 0.02 of the least" in picture.caption
    assert critical_batch_pictures(None, level=0.9) == []
