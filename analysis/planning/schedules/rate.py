"""A plan whose schedule of the learning rate is not that of its study (LAWS 15.6).

The law of the loss holds for the study's schedule. A law of loss curves (form=schedule) gives the
ratio of the losses at the end of both schedules; the forecast is multiplied by it, and its interval
joins the ratio's.
"""

import math
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np

from analysis.laws.curve_law import fit_of
from analysis.laws.law import Law
from analysis.planning.plan import Forecast, Interval, PretrainBlock
from analysis.runs.study import Study
from scaling.curves import CurveFit
from scaling.curves.rate import rate_factors
from scaling.schema import OneOf, Range, checked

LONGER = 3.0  # times the longest curve: the law of curves was tested on withheld ones so long
ROWS = 400  # at which a schedule is written


@dataclass(kw_only=True)
@checked("rate")
class RateSettings:
    """A schedule of the learning rate other than the study's."""

    schedule: Annotated[str, OneOf("", "wsd", "cosine")] = ""
    """Schedule of the planned run; empty is that of the study."""
    decay: Annotated[float, Range(0, 1, above=True)] | None = None
    """Share of the steps over which wsd decays; null is that of the study."""
    law: str = ""
    """Law of the study's curves (scaling fit form=schedule), which corrects the forecast."""

    @property
    def asked(self) -> bool:
        """Whether another schedule is asked for."""
        return bool(self.schedule) or self.decay is not None


def with_rate(
    pretrain: PretrainBlock, forecast: Forecast, study: Study, settings: RateSettings
) -> tuple[PretrainBlock, Forecast]:
    """Return the blocks with the schedule that is asked for; as they are where none is.

    pretrain: with the study's schedule
    forecast: for the study's schedule
    study: whose schedule the law of the loss holds for
    settings: the schedule, and the law of curves

    Raises ValueError without a law of curves, and where that law cannot say what a decay does.
    """
    if not settings.asked:
        if settings.law:
            raise ValueError(
                f"rate.law={settings.law} is read only with another schedule; add rate.schedule= "
                "or rate.decay="
            )
        return pretrain, forecast
    name = settings.schedule or pretrain.schedule
    decay = pretrain.decay if settings.decay is None else settings.decay
    if name == "cosine" and settings.decay is not None:
        raise ValueError("rate.decay is the decay of wsd; leave it out with rate.schedule=cosine")
    if (name, decay) == (pretrain.schedule, pretrain.decay):
        return pretrain, forecast
    if not settings.law:
        raise ValueError(
            f"the plan's schedule ({name}) is not that of its study ({pretrain.schedule}, decay"
            f" {pretrain.decay:g}), so its law does not hold; add rate.law=FILE of scaling fit"
            " form=schedule"
        )
    fit = fit_of_file(settings.law, pretrain.params)
    steps = round(pretrain.tokens / pretrain.batch_tokens)
    longest = int(LONGER * fit.last_step)
    counted = min(steps, longest)
    before = _rows(pretrain.schedule, pretrain.decay, counted, fit, study)
    after = _rows(name, decay, counted, fit, study)
    change, half = fit.change(before, after, forecast.level)
    at = f"over {counted:,} steps"
    if counted < steps:
        at += f", the most that its curves speak for, of the run's {steps:,}"
    sentence = (
        f"{100 * math.expm1(change):+.2f}% +- {100 * half:.2f}% against {pretrain.schedule} with"
        f" decay {pretrain.decay:g}, by {settings.law} {at}"
    )
    reasons = {"schedule": f"set by the user: {sentence}", "decay": "of the planned schedule"}
    pretrain = replace(
        pretrain, schedule=name, decay=decay, reasons={**pretrain.reasons, **reasons}
    )
    return pretrain, _corrected(forecast, change, half, sentence)


def fit_of_file(path: str, params: float) -> CurveFit:
    """Return the fit of a law of curves: of the nearest size, the largest beyond all sizes."""
    law = Law.read(path)
    sizes = [size["params"] for size in (law.curves or {}).get("sizes", []) if size["params"]]
    beyond = not sizes or params > max(sizes)
    return fit_of(law.curves, None if beyond else params, form=law.form)


def _rows(
    name: str, decay: float, steps: int, fit: CurveFit, study: Study
) -> tuple[np.ndarray, np.ndarray]:
    """Return steps and rates of a schedule of so many steps, at the peak rate of the curves."""
    schedule = study.config.get("schedule", {})
    warmup = int(min(fit.warmup_steps, steps // 4))
    start = steps - max(1, round(decay * steps))
    rows = np.concatenate([np.linspace(warmup + 1, steps, ROWS), np.linspace(start, steps, ROWS)])
    at = np.unique(rows.astype(int))
    factors = rate_factors(
        at - 1,
        name=name,
        warmup_steps=warmup,
        n_steps=steps,
        decay_start=start,
        decay_shape=schedule.get("decay_shape", "sqrt"),
        floor=schedule.get("floor", 0.0),
    )
    return at, factors * fit.peak_lr


def _corrected(forecast: Forecast, change: float, half: float, sentence: str) -> Forecast:
    """Return the forecast of the other schedule, without a curve: that of the study has its own."""
    factor = math.exp(change)

    def moved(value: float | None) -> float | None:
        return None if value is None else value * factor

    def joined(middle: float | None, ends: Interval) -> Interval:
        if middle is None or not ends:
            return ends
        low, high = (abs(math.log(end / middle)) for end in ends)
        return (
            middle * factor * math.exp(-math.hypot(low, half)),
            middle * factor * math.exp(math.hypot(high, half)),
        )

    reasons = dict(forecast.reasons)
    reasons["test_loss"] = f"{reasons.get('test_loss', '')}; another schedule: {sentence}"
    reasons["curve"] = "the study's curves have another schedule: none is forecast"
    return replace(
        forecast,
        test_loss=moved(forecast.test_loss),
        interval=joined(forecast.test_loss, forecast.interval),
        parts={**forecast.parts, "schedule": round(100 * half, 4)} if forecast.parts else {},
        bits_per_byte=moved(forecast.bits_per_byte),
        bits_per_byte_interval=joined(
            forecast.bits_per_byte, forecast.bits_per_byte_interval or ()
        ),
        curve=(),
        reasons=reasons,
    )
