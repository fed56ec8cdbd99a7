"""The loss at a run's end, from its own curve and the study's decays."""

import math

import pytest

from scaling.config import ScheduleConfig
from scaling.curves.at_end import EndedCurve, loss_after_decay, loss_at_end
from scaling.optim.schedule import lr_factor
from scaling.schema import EndForecast

STEPS = sorted({round(10 * 1.22**k) for k in range(45)})
DROP = 0.07


def loss(step: float, fallen: float, drop: float = DROP) -> float:
    """Return a loss that is no parabola in log step: Chinchilla's term and an offset."""
    return (2 + 9 * step**-0.2) * math.exp(-drop * fallen)


def curve(n_steps: int, *, until: float = math.inf, drop: float = DROP) -> list[dict]:
    """Return the rows of a run with a decay over its last fifth."""
    schedule, rows = ScheduleConfig(warmup_steps=5), []
    for step in sorted({*STEPS, n_steps}):
        if step > min(n_steps, until):
            break
        start = n_steps - round(0.2 * n_steps)
        factor = lr_factor(step - 1, schedule=schedule, n_steps=n_steps, decay_start=start)
        value = loss(step, 1 - factor, drop)
        rows.append({"step": step, "tokens": 256 * step, "lr": 0.01 * factor})
        rows[-1] |= {"test_loss": value, "train_loss": value * 1.01}
    return rows


def ended(n_steps: int, **options) -> EndedCurve:
    rows = curve(n_steps)
    return EndedCurve(rows=rows, n_steps=n_steps, test_loss=rows[-1]["test_loss"], **options)


@pytest.mark.parametrize("share", [0.3, 0.5, 0.7, 0.9])
def test_the_interval_holds_the_end_and_shrinks_with_ended_branches(share):
    rows, true = curve(3000, until=share * 3000), curve(3000)[-1]["test_loss"]
    alone = loss_at_end(rows, n_steps=3000)
    branches = [ended(n, same_trunk=True, end_on_windows=loss(n, 1)) for n in (300, 900)]
    known = loss_at_end(rows, n_steps=3000, finished=branches)
    assert alone is not None
    assert known is not None
    assert alone.low < true < alone.high
    assert known.low < true < known.high
    if share < 0.8:
        assert known.high - known.low < alone.high - alone.low
        assert abs(known.loss - true) < abs(alone.loss - true)


def test_the_decay_itself_says_how_deep_it_goes():
    shallow = loss_at_end(curve(3000, until=2950, drop=0.02), n_steps=3000)
    deep = loss_at_end(curve(3000, until=2950, drop=0.09), n_steps=3000)
    assert shallow is not None
    assert deep is not None
    assert math.log(shallow.loss / deep.loss) == pytest.approx(0.07, abs=0.015)


def test_nothing_is_forecast_where_too_little_is_known():
    assert loss_at_end([], n_steps=3000) is None
    assert loss_at_end(curve(3000, until=20), n_steps=3000) is None  # two test losses
    assert loss_at_end(curve(3000), n_steps=3000) is None  # it has ended
    assert loss_at_end(curve(10**6, until=60), n_steps=10**6) is None  # too far


def test_nothing_is_forecast_from_a_curve_of_another_form():
    rows = curve(3000, until=1500)
    for row in rows[-6:]:
        row["test_loss"] *= 1.6  # a spike that stays
    assert loss_at_end(rows, n_steps=3000) is None


def test_training_losses_of_repeated_text_are_left_out():
    rows = curve(3000, until=1500)
    for row in rows:
        if row["step"] > 400:
            row["train_loss"] *= math.exp(-0.3 * math.log(row["step"] / 400))  # learnt by heart
    known = loss_at_end(rows, n_steps=3000, unique_tokens=256 * 400)
    assert known is not None
    assert known.low < curve(3000)[-1]["test_loss"] < known.high


def test_a_checkpoint_of_a_trunk_is_annealed_to_the_loss_of_a_branch():
    branches = [ended(n, same_trunk=True) for n in (300, 3000)]
    answer = loss_after_decay(curve(3000), start=720, n_steps=900, finished=branches)
    assert answer is not None
    assert math.log(answer[0] / curve(900)[-1]["test_loss"]) == pytest.approx(0, abs=0.01)
    assert 0 < answer[1] < 0.03
    assert loss_after_decay(curve(300), start=720, n_steps=900) is None  # beyond the trunk


def test_the_words_have_the_digits_that_the_interval_supports():
    wide = EndForecast(loss=4.1911, low=4.1522, high=4.2311, level=0.9, step=100)
    narrow = EndForecast(loss=4.1911, low=4.1902, high=4.192, level=0.9, step=100)
    assert str(wide) == "at the end 4.19 [4.15, 4.23]"
    assert str(narrow) == "at the end 4.1911 [4.1902, 4.1920]"
