"""Alarms of plans that no real run resembles, and the fix that each names."""

from dataclasses import replace

import pytest

from analysis.laws.published import load_law
from analysis.planning.budgets import Budget
from analysis.planning.make import make_plan
from analysis.planning.settings import PlanConfig
from analysis.planning.shapes.family import FamilySettings
from analysis.runs.study import default_study

LAW = load_law("besiroglu2024")


def alarms(law=LAW, *, shape=None, **budget):
    settings = PlanConfig(shape=shape or FamilySettings())
    plan = make_plan(law, Budget(**{"flops": 1e20, **budget}), default_study(), settings)
    return {alarm.code: alarm.sentence for alarm in plan.alarms}


@pytest.mark.parametrize(("beta", "side"), [(0.25, "upper bound 10000"), (0.9, "lower bound 0.5")])
def test_an_optimum_at_the_bound_of_the_search_names_the_bound(beta, side):
    law = replace(LAW, parameters={**LAW.parameters, "beta": beta})
    assert side in alarms(law)["ratio_bound"]


def test_an_absurd_wall_time_names_the_devices_of_90_days():
    speed = {"flops": 1e24, "device": "h100", "flops_per_second": 4e14}
    sentence = alarms(**speed)["wall_time"]
    assert "on 1 device;" in sentence
    assert "for 90 days give devices=322" in sentence  # 1e24 / 4e14 / 86,400 / 90 = 321.5
    assert "wall_time" not in alarms(**speed, devices=322)


def test_a_context_and_a_vocabulary_that_no_recipe_has_are_alarms():
    assert "shape.context=131072" in alarms(shape=FamilySettings(context=2_000_000))["context"]
    assert "256 bytes" in alarms(shape=FamilySettings(vocab_size=100))["vocabulary"]


def test_a_usual_plan_has_none_of_them():
    assert not {"ratio_bound", "wall_time", "context", "vocabulary"} & set(alarms())
