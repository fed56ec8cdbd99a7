"""The closing lines of a plan answer what to run, how long, how sure and why."""

from dataclasses import replace

import numpy as np

from analysis.alarms.alarm import Alarm
from analysis.laws.published import load_law
from analysis.planning.budgets import Budget
from analysis.planning.make import make_plan
from analysis.planning.plan import Forecast
from analysis.planning.written.answer import closing
from analysis.runs.study import default_study

LAW = load_law("besiroglu2024")


def law_with_draws():
    point = np.array(list(LAW.parameters.values()))
    draws = point * np.exp(0.003 * np.random.default_rng(0).normal(size=(200, len(point))))
    return replace(LAW, draws=draws)


def plan_of(law, **budget):
    return make_plan(law, Budget(**{"flops": 1e22, **budget}), default_study())


def text(plan) -> str:
    return " ".join(closing(plan)).strip()


def test_the_closing_lines_say_size_tokens_time_devices_money_and_loss():
    money = {"device": "h100", "flops_per_second": 4e14, "devices": 64, "price_per_hour": 2.5}
    plan = plan_of(LAW, **money)
    hours = plan.pretrain.flops / 4e14 / 3600
    assert text(plan).startswith("Train ")
    assert (
        f"{hours / 64 / 24:.3g} days on 64 h100, {hours * 2.5 / 1000:.3g}k in money. Test loss 2."
        in text(plan)
    )
    assert "no draws, so the forecast has no interval" in text(plan)


def test_the_largest_part_of_the_interval_is_named_first():
    plan = plan_of(law_with_draws())
    parts = plan.forecast.parts
    assert parts
    widest = {"parameters": "the law's parameters", "scatter": "the scatter of runs"}
    assert f"wide by {widest[max(parts, key=parts.__getitem__)]}" in text(plan)
    narrow = Forecast(
        test_loss=2.0, interval=(1.9, 2.1), level=0.9, parts={"hindcast": 5.0, "forms": 6}
    )
    shown = text(replace(plan, forecast=narrow))
    assert shown.index("forms that are averaged (±6 %)") < shown.index("beyond its fit (±5 %)")


def test_the_reach_and_the_gravest_alarms_are_said():
    codes = ("resamples_lost", "offset_not_identified", "far", "offset", "few_units")
    alarms = tuple(Alarm(code=code, sentence="x") for code in codes)
    shown = text(replace(plan_of(LAW), alarms=alarms, extrapolation=30.0))
    assert "the compute is 30 times the largest that was fitted" in shown
    assert "of 4 alarms above read first far, offset, resamples_lost" in shown
    assert "no alarm" in text(replace(plan_of(LAW), alarms=()))


def test_a_law_of_sizes_alone_has_no_forecast():
    plan = plan_of(load_law("hoffmann2022"))
    plan = replace(plan, forecast=Forecast(level=0.9))
    assert "no forecast" in text(plan)
