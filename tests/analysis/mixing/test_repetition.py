"""The worth of repeated text."""

import numpy as np

from analysis.mixing.repetition import R_D, worth


def test_four_epochs_are_worth_nine_tenths_and_one_epoch_all():
    shares, unique = np.array([0.1, 0.4, 0.4]), np.array([0.1, 0.1, np.inf])
    value, slope = worth(shares, unique)
    np.testing.assert_allclose(value, [0.1, 0.4 * 0.931, 0.4], rtol=1e-3)  # LAWS: D'/D at 4 is .931
    up = worth(shares + 1e-7, unique)[0]
    np.testing.assert_allclose(slope, (up - value) / 1e-7, rtol=1e-4)


def test_repeats_never_give_more_than_the_ceiling():
    value, _ = worth(np.array([1.0]), np.array([1e-6]))
    assert value[0] <= 1e-6 * (1 + R_D)
