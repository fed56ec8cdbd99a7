"""Sums and changes of a learning rate."""

import numpy as np
import pytest

from scaling.curves.path import MOST_CHANGES, path


def test_the_sums_are_those_of_the_rates_step_by_step():
    step, lr = np.array([12, 15, 21]), np.array([0.2, 0.2, 0.05])
    rates = np.concatenate([np.arange(1, 11) / 10 * 0.2, np.full(10, 0.2), [0.05]])  # steps 1 to 21
    got = path(step, lr, warmup_steps=10, peak_lr=0.2)
    assert np.allclose(got.sums, np.cumsum(rates)[step - 1])


def test_the_changes_add_up_to_the_last_rate():
    got = path([20, 30, 40], [0.1, 0.3, 0.0], warmup_steps=10, peak_lr=0.2)
    assert -got.change_sizes.sum() == pytest.approx(0.0)
    assert got.change_sizes[-2:] == pytest.approx([-0.2, 0.3])


def test_many_changes_merge_and_keep_their_sum_and_the_large_one():
    step = np.arange(100, 24_100)
    lr = np.linspace(1.0, 0.5, len(step))
    lr[12_000:] -= 0.3
    got = path(step, lr, warmup_steps=0, peak_lr=1.0)
    assert len(got.change_sizes) < 1.1 * MOST_CHANGES
    assert got.change_sizes[1:].sum() == pytest.approx(1 - lr[-1])
    assert got.change_steps[np.argmax(got.change_sizes)] == 12_100


@pytest.mark.parametrize(
    ("step", "lr", "words"),
    [
        ([20, 20], [1, 1], "sort the rows"),
        ([5], [1], "before the warm-up ends"),
        ([20, 30], [1, -1], "at least 0"),
        ([20, 30], [1], "equal length"),
    ],
)
def test_rows_that_are_no_schedule_are_refused(step, lr, words):
    with pytest.raises(ValueError, match=words):
        path(step, lr, warmup_steps=10, peak_lr=1.0)
