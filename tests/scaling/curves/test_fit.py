"""Curves fitted, and other schedules forecast."""

import numpy as np
import pandas as pd
import pytest

from scaling.curves import fit_curve, fit_curves, make_curve
from scaling.curves.laws import MULTI_POWER, Unit, curve_loss
from scaling.curves.path import path

WARMUP, PEAK = 100, 1e-3
THETA = np.array([2.5, *np.log([0.6, 0.5, 0.2, 5.0, 0.6, 0.6])])
UNIT = Unit(rate=PEAK, sum=0.4)
STEPS = np.arange(150, 4001, 50)
SCHEDULES = {
    "constant": np.full(len(STEPS), PEAK),
    "two rates": np.where(STEPS < 2000, PEAK, 0.3 * PEAK),
    "cosine": PEAK * (0.1 + 0.45 * (1 + np.cos(np.pi * STEPS / 4000))),
    "decay": PEAK * np.clip((4100 - STEPS) / 800, 0, 1),
}


def losses(name: str, *, noise: float = 0.0, seed: int = 0) -> np.ndarray:
    along = path(STEPS, SCHEDULES[name], warmup_steps=WARMUP, peak_lr=PEAK)
    loss, _ = curve_loss(MULTI_POWER, along, UNIT, THETA)
    return loss * np.exp(noise * np.random.default_rng(seed).standard_normal(len(STEPS)))


def curves(*names: str, noise: float = 0.0):
    return [
        make_curve(
            STEPS,
            SCHEDULES[name],
            losses(name, noise=noise, seed=i),
            warmup_steps=WARMUP,
            peak_lr=PEAK,
            name=name,
        )
        for i, name in enumerate(names)
    ]


@pytest.mark.slow
def test_a_schedule_that_was_not_fitted_is_forecast():
    fit = fit_curves(curves("constant", "two rates", "cosine", noise=0.002))
    got = fit.predict(STEPS, SCHEDULES["decay"])
    assert fit.status == "converged"
    truth = losses("decay")
    assert np.abs(got.loss / truth - 1).mean() < 0.002
    assert ((got.low <= truth) & (truth <= got.high)).mean() > 0.9


def test_a_rate_that_never_fell_forecasts_no_decay():
    fit = fit_curve(
        STEPS, SCHEDULES["constant"], losses("constant"), warmup_steps=WARMUP, peak_lr=PEAK
    )
    assert fit.status == "drop_not_identified"
    later = np.arange(4000, 8000, 100)
    loss, low, high = fit.predict(later, np.full(len(later), PEAK))
    assert np.all((low < loss) & (loss < high))
    with pytest.raises(ValueError, match="add a curve that decays"):
        fit.end(STEPS, SCHEDULES["decay"])


def test_few_rows_forecast_nothing():
    fit = fit_curve(STEPS[:4], [PEAK] * 4, [5, 4.9, 4.8, 4.7], warmup_steps=WARMUP, peak_lr=PEAK)
    assert fit.status == "not_identified"
    with pytest.raises(ValueError, match="give at least 6"):
        fit.predict(STEPS, SCHEDULES["constant"])


def test_an_unknown_law_is_refused_by_name():
    with pytest.raises(ValueError, match="auto, multi_power, annealing"):
        fit_curves(curves("constant"), law="linear")


@pytest.mark.long
@pytest.mark.parametrize("size", ["25m", "100m"])
def test_the_released_curves_are_forecast_within_three_thousandths(shared, size):
    table = dict(iter(pd.read_csv(shared / f"curves/multipower_{size}.csv").groupby("schedule")))
    rows = {"warmup_steps": 2160, "peak_lr": 3e-4}
    train = ("cosine_24000", "constant_24000", "wsdcon_9")
    fit = fit_curves(
        [make_curve(table[n].step, table[n].lr, table[n].loss, name=n, **rows) for n in train]
    )
    errors, inside = [], []
    for name in set(table) - set(train):
        measured = table[name].loss.to_numpy()
        loss, low, high = fit.predict(table[name].step, table[name].lr)
        errors.append(np.abs(loss / measured - 1).mean())
        inside.append(((low <= measured) & (measured <= high)).mean())
    assert np.mean(errors) < 0.002
    assert max(errors) < 0.0035
    assert np.mean(inside) > 0.9
