"""The two schedule laws against their sums step by step, and their derivatives."""

import numpy as np
import pytest

from scaling.curves.laws import ANNEALING, MULTI_POWER, Unit, curve_loss
from scaling.curves.path import path

WARMUP, PEAK, LAST = 64, 1e-3, 600
UNIT = Unit(rate=PEAK, sum=0.05)
MULTI = np.array([2.5, *np.log([0.6, 0.5, 0.2, 3.0, 0.6, 0.65])])
ANNEAL = np.array([2.5, *np.log([0.6, 0.5, 0.15, 0.4])])


def rates() -> np.ndarray:
    """Return the rate of every step from 1 to LAST: warm-up, constant, a fall, a linear decay."""
    steps = np.arange(1, LAST + 1)
    rate = np.minimum(steps / WARMUP, 1.0) * PEAK
    rate[299:] = 0.6 * PEAK
    rate[399:] = 0.6 * PEAK * np.linspace(1, 0.1, LAST - 399)
    return rate


def test_the_multi_power_law_is_its_sum_step_by_step():
    rate, steps = rates(), np.arange(WARMUP + 1, LAST + 1)
    got, _ = curve_loss(
        MULTI_POWER, path(steps, rate[WARMUP:], warmup_steps=WARMUP, peak_lr=PEAK), UNIT, MULTI
    )
    a, alpha, b, c, beta, gamma = np.exp(MULTI[1:])
    sums, drops = np.cumsum(rate), -np.diff(rate, prepend=0.0)
    expected = []
    for t in steps - 1:
        reach = (sums[t] - sums[: t + 1] + rate[: t + 1]) / UNIT.sum
        g = 1 - (1 + c * (rate[: t + 1] / PEAK) ** -gamma * reach) ** -beta
        fall = a * (sums[t] / UNIT.sum) ** -alpha
        expected.append(2.5 + fall - b * (drops[: t + 1] / PEAK * g).sum())
    assert got == pytest.approx(expected, rel=2e-4)  # the warm-up is summed at 32 midpoints


def test_the_annealing_law_is_its_double_sum():
    rate, steps = rates(), np.array([100, 350, LAST])
    got, _ = curve_loss(
        ANNEALING,
        path(np.arange(WARMUP, LAST + 1), rate[WARMUP - 1 :], warmup_steps=WARMUP, peak_lr=PEAK),
        UNIT,
        ANNEAL,
    )
    a, alpha, b, time = np.exp(ANNEAL[1:])
    lam = np.exp(-PEAK / (time * UNIT.sum))
    drops = -np.diff(rate, prepend=0.0)
    for t in steps:
        s2 = sum(drops[k] * lam ** (i - k) for i in range(t) for k in range(i + 1))
        expected = 2.5 + a * (rate[:t].sum() / UNIT.sum) ** -alpha - b * s2 * (1 - lam) / PEAK
        assert got[t - WARMUP] == pytest.approx(expected, rel=2e-3)


@pytest.mark.parametrize(("law", "theta"), [(MULTI_POWER, MULTI), (ANNEALING, ANNEAL)])
def test_derivatives_agree_with_differences(law, theta):
    along = path(np.arange(100, 601, 20), rates()[99::20], warmup_steps=WARMUP, peak_lr=PEAK)
    _, slopes = curve_loss(law, along, UNIT, theta)
    for i in range(len(theta)):
        step = np.eye(len(theta))[i] * 1e-6
        up, down = (curve_loss(law, along, UNIT, theta + s * step)[0] for s in (1, -1))
        assert slopes[:, i] == pytest.approx((up - down) / 2e-6, rel=1e-5, abs=1e-8)
