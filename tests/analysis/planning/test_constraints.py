"""Budgets of every kind, what they cost, and constraints on N and D, against closed forms."""

import math
from dataclasses import fields, replace

import numpy as np
import pytest

from analysis.alarms.alarm import Alarm
from analysis.forms import FORMS
from analysis.laws.law import Law
from analysis.laws.published import load_law
from analysis.laws.text import used_alone
from analysis.planning.budgets import Budget, budget_of
from analysis.planning.constraints import Constraints
from analysis.planning.cost import deadweight
from analysis.planning.laws_compared import (
    comparison_lines,
    disagreement,
    disagreement_alarm,
    side_by_side,
)
from analysis.planning.layout import memory_gib
from analysis.planning.make import make_plan
from analysis.planning.settings import PlanConfig
from analysis.planning.shapes.family import FamilySettings, levine_shape, levine_width, with_family
from analysis.planning.split import serving_saving, split_of
from analysis.runs.study import Cell, default_study

REFIT = load_law("besiroglu2024")
C = 1e23


def split(law: Law = REFIT, flops: float = C, **demands):
    return split_of(law, flops, Constraints(**demands), level=0.9, flat_loss=0.002)


def drawn(law: Law, sd: float = 0.02, n: int = 100) -> Law:
    point = np.array(list(law.parameters.values()))
    draws = point * np.exp(sd * np.random.default_rng(0).normal(size=(n, len(point))))
    return replace(law, draws=draws, n_runs=100, ranges={"flops": [1e19, 1e22]})


def loss(n: float, d: float) -> float:
    p = REFIT.parameters
    return p["E"] + p["A"] * n ** -p["alpha"] + p["B"] * d ** -p["beta"]


def plan(law: Law = REFIT, **settings):
    config = PlanConfig(**{"flops": C, **settings})
    return make_plan(law, budget_of(config, law, default_study()), default_study(), config)


# --- budgets and costs ---


def test_money_buys_hours_at_a_price():
    asked = PlanConfig(money=5000, price_per_hour=2.5, device="h100", utilisation=0.5)
    budget = budget_of(asked, REFIT, default_study())
    assert budget.flops == pytest.approx(2000 * 3600 * 989e12 * 0.5)


def test_wall_time_counts_devices_and_checkpointing_costs_a_quarter():
    asked = PlanConfig(wall_hours=10, devices=64, device="a100", activation_checkpointing=True)
    budget = budget_of(asked, REFIT, default_study())
    assert budget.flops == pytest.approx(640 * 3600 * 312e12 * 0.4 * 0.75)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"money": 10.0, "device": "h100"}, "price_per_hour"),
        ({"wall_hours": 10.0}, "needs a speed"),
        ({"gpu_hours": 1.0, "device": "h100", "flops_per_second": 2e15}, "above the peak of h100"),
    ],
)
def test_a_budget_that_cannot_be_turned_is_a_sentence(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        budget_of(PlanConfig(**settings), REFIT, default_study())


def test_costs_follow_from_the_counted_flops():
    found = plan(gpu_hours=1e5, flops=None, device="h100", devices=256, price_per_hour=2.0).cost
    assert found.device_hours == pytest.approx(1e5, rel=1e-3)
    assert found.wall_hours == pytest.approx(1e5 / 256, rel=1e-3)
    assert found.money == pytest.approx(2e5, rel=1e-3)
    assert {f.name for f in fields(found)} - {"reasons"} == set(found.reasons)


def test_deadweight_is_the_compute_that_the_optimum_does_not_need():
    best = REFIT.optimum(C)
    assert deadweight(REFIT, best.loss, C) == pytest.approx(0, abs=1e-6)
    # half the N at equal loss needs D x 2.52 and C x 1.26 (Besiroglu's constants)
    equal = serving_tokens(best.params / 2, loss(best.params, best.tokens))
    assert deadweight(REFIT, best.loss, 3 * best.params * equal) == pytest.approx(
        1 - 1 / 1.26, abs=0.003
    )


def serving_tokens(n: float, level: float) -> float:
    p = REFIT.parameters
    return ((level - p["E"] - p["A"] * n ** -p["alpha"]) / p["B"]) ** (-1 / p["beta"])


def test_memory_is_shared_when_sharded_and_smaller_with_checkpointing():
    shape = default_study().like
    whole, shared, again = (
        memory_gib(shape, 1, choice, devices=8, precision="fp32")
        for choice in ((False, False), (True, False), (True, True))
    )
    states = 16 * shape.params.total / 2**30
    assert whole - shared == pytest.approx(states * 7 / 8)
    assert again < shared


@pytest.mark.slow
def test_a_device_that_is_too_small_is_an_alarm():
    codes = [a.code for a in plan(gpu_hours=1e6, flops=None, device="a100-40gb").alarms]
    assert "memory" in codes
    hours = {"gpu_hours": 1e5, "flops": None, "devices": 512, "device": "h100"}
    assert "memory" not in [a.code for a in plan(**hours).alarms]


# --- constraints on the split ---


def test_without_constraints_the_split_is_the_closed_form():
    found, best = split(), REFIT.optimum(C)
    assert (found.params, found.tokens) == pytest.approx((best.params, best.tokens), rel=1e-12)


def test_the_flat_interval_holds_every_n_within_the_stated_loss():
    found, best = split(), REFIT.optimum(C)
    for end in found.flat:
        assert loss(end, C / 6 / end) - best.loss == pytest.approx(0.002, abs=1e-4)


def test_ample_data_change_nothing_and_scarce_data_repeat():
    free = split(unique_tokens=1e14)
    assert free.params == pytest.approx(REFIT.optimum(C).params, rel=5e-3)
    scarce = split(unique_tokens=1e11)
    assert scarce.tokens > 1e11
    assert scarce.params < 6 * REFIT.optimum(C).params
    one = split(unique_tokens=1e11, max_epochs=1)
    assert (one.tokens, one.params) == pytest.approx((1e11, C / 6e11), rel=1e-6)


def averaged(status: str) -> Law:
    """Return an average of three forms, of which data_constrained has a status."""
    repeated = load_law("muennighoff2023").parameters
    rows = (
        ("chinchilla", REFIT.parameters, 0.5, "converged"),
        ("data_constrained", {**repeated, "R_N": 1e4}, 0.3, status),
        ("overtraining", {"E": 1.9, "a": 1300.0, "b": 5800.0, "eta": 0.19}, 0.2, "converged"),
    )
    forms = [
        {
            **{"form": form, "parameters": parameters, "weight": weight, "spread_weight": weight},
            **{"draws": np.tile(list(parameters.values()), (20, 1)), "status": one, "score": 0.01},
        }
        for form, parameters, weight, one in rows
    ]
    forecast = {"rule": "average", "forms": forms}
    return replace(drawn(REFIT), forecast=forecast, ranges={"flops_6nd": [1e19, 1e22]})


def test_of_an_average_tokens_that_suffice_change_nothing():
    law = averaged("converged")
    found = split(law, unique_tokens=1.01 * law.optimum(C).tokens)
    assert (found.params, found.tokens) == pytest.approx(
        (law.optimum(C).params, law.optimum(C).tokens), rel=1e-9
    )
    assert found.law == law
    assert found.form == "the average over forms (leading: chinchilla)"


@pytest.mark.parametrize(
    ("status", "rule", "rate"),
    [
        ("converged", "data_constrained alone", 1e4),
        ("bound_hit", "chinchilla alone, with the published", 5.309743),
    ],
)
def test_of_an_average_only_a_usable_form_values_repeated_tokens(status, rule, rate):
    found = split(averaged(status), unique_tokens=1e11)
    assert found.law.parameters["R_N"] == pytest.approx(rate)
    assert f"with unique_tokens the plan uses {rule}" in used_alone(found.law)
    parts = found.law.predict(1e10, 2e11, unique_tokens=1e11, force=True).parts
    assert parts["forms"] > 0
    assert found.law.surface.form.parameters == tuple(
        f"data_constrained.{name}" for name in found.law.parameters
    )
    assert len(found.law.forms) > 1


def test_an_average_without_a_usable_form_of_repetition_is_refused():
    law = averaged("bound_hit")
    forms = [{**one, "status": "bound_hit"} for one in law.forecast["forms"]]
    law = replace(law, forecast={**law.forecast, "forms": forms})
    with pytest.raises(ValueError, match="set max_epochs=1, or fit one of them"):
        split(law, unique_tokens=1e11)


def test_repetition_is_chosen_by_the_least_loss_of_the_data_constrained_law():
    law = load_law("muennighoff2023")
    found = split(law, unique_tokens=1e11)
    sizes = found.params * np.geomspace(0.5, 2, 401)
    values = {"params": sizes, "tokens": C / 6 / sizes, "unique_tokens": np.full(401, 1e11)}
    losses = FORMS["data_constrained"].predict(law.parameters, values)
    assert sizes[losses.argmin()] == pytest.approx(found.params, rel=0.01)


def test_serving_reproduces_sardanas_example():
    """13B quality and 2T served tokens: 7B, 17 % fewer FLOPs in all (2401.00448, section 2)."""
    law = load_law("hoffmann2022_tex")
    flops = 4.8159e22  # whose optimum has 13B
    best = law.optimum(flops)
    assert best.params == pytest.approx(13e9, rel=1e-3)
    total = (1 - 0.1632) * (flops + 2 * best.params * 2e12)
    found = split(law, total, inference_tokens=2e12)
    assert found.params == pytest.approx(7e9, rel=0.03)
    assert float(found.loss(found.params, found.tokens)) == pytest.approx(best.loss, abs=1e-4)
    assert serving_saving(found) == pytest.approx(0.17, abs=0.01)


def test_a_budget_for_training_and_serving_pays_both():
    found = split(inference_tokens=2e12)
    served = 2 * found.params * 2e12
    assert 6 * found.params * found.tokens + served == pytest.approx(C)
    for factor in (0.9, 1.1):  # of its N: no better at the same total
        n = factor * found.params
        assert loss(n, (C - 2 * n * 2e12) / 6 / n) > loss(found.params, found.tokens)


def test_overtraining_multiplies_tokens_per_parameter():
    found, best = split(overtraining=4.0), REFIT.optimum(C)
    assert found.tokens / found.params == pytest.approx(4 * best.tokens_per_param)
    assert 6 * found.params * found.tokens == pytest.approx(C)


def test_fixed_n_or_d_leaves_the_other_to_the_budget():
    assert split(params=7e9).tokens == pytest.approx(C / 6 / 7e9)
    assert split(tokens=1e12).params == pytest.approx(C / 6e12, rel=1e-6)
    made = plan(tokens=1e12)
    assert made.pretrain.tokens == pytest.approx(1e12, rel=1e-5)
    assert made.pretrain.flops <= C


@pytest.mark.slow
def test_caps_bind_the_shape_and_its_rounding():
    assert plan(max_params=1e10).pretrain.params <= 1e10
    made = plan(max_memory_gib=60.0)
    assert made.cost.memory_per_device_gib <= 60
    assert made.pretrain.params < plan().pretrain.params
    assert made.cost.deadweight > plan().cost.deadweight


def test_intervals_of_a_constrained_n_come_from_the_draws():
    found = split(drawn(REFIT), unique_tokens=1e11)
    low, high = found.interval
    assert low < found.params < high


@pytest.mark.parametrize(
    ("demands", "sentence"),
    [
        ({"params": 2e10, "max_params": 1e10}, "above max_params=1e\\+10"),
        ({"params": 2e10, "overtraining": 3}, "both set the tokens per parameter"),
        ({"tokens": 1e13, "overtraining": 3}, "both set the tokens per parameter"),
        ({"tokens": 1e13, "unique_tokens": 1e12, "max_epochs": 2}, "is more than max_epochs=2"),
        ({"params": 1e11, "tokens": 1e12}, "cost 6e\\+23 FLOPs"),
        ({"params": 1e11, "inference_tokens": 1e12}, "raise the budget or serve"),
        ({"inference_tokens": 1e20}, "leaves nothing"),
        ({"max_epochs": 2}, "give unique_tokens"),
        ({"overtraining": 3, "max_params": 1e10}, "above max_params=1e\\+10; raise overtraining"),
        ({"reserve": 1.0}, "must lie in"),
        ({"unique_tokens": -1.0}, "must be a positive number"),
        ({"tokens": 1e18}, "no size can be trained"),
    ],
)
def test_demands_that_contradict_each_other_are_one_sentence(demands, sentence):
    with pytest.raises(ValueError, match=sentence) as caught:
        split(**demands)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_scarce_data_are_deadweight():
    assert plan(unique_tokens=1e11).cost.deadweight > 0.1 > plan().cost.deadweight


@pytest.mark.slow
def test_a_cap_below_the_family_is_a_sentence():
    with pytest.raises(ValueError, match=r"keeps the caps: .*max_memory_gib"):
        plan(max_memory_gib=0.001)


def test_a_budget_below_the_ladder_is_a_sentence():
    with pytest.raises(ValueError, match="no shape has"):
        plan(flops=1e13)
    with pytest.raises(ValueError, match="no shape has 10 "):
        plan(max_params=10.0)


@pytest.mark.parametrize(
    ("name", "demands", "sentence"),
    [
        ("hoffmann2022_approach1", {"inference_tokens": 1e12}, "gives no loss"),
        ("kaplan2020", {"unique_tokens": 1e9}, "does not say what repeated tokens are worth"),
        ("steplaw2025", {}, "has no compute optimum"),
    ],
)
def test_a_law_that_cannot_answer_says_so(name, demands, sentence):
    with pytest.raises(ValueError, match=sentence):
        split(load_law(name), **demands)


# --- shapes and several laws ---


def test_levines_width_is_that_of_the_paper_of_bloomberggpt():
    assert levine_width(70) == pytest.approx(7510, abs=1)


def test_levines_rule_has_a_smallest_size():
    with pytest.raises(ValueError, match="levine rule"):
        levine_shape(1e4, default_study(), count="total")


def test_a_family_is_not_changed_under_a_study():

    cell = Cell(params=1e6, tokens=1e7, flops=6e13, flops_per_second=0, peak_lr=0.01)
    study = replace(default_study(), cells=(cell,))
    assert with_family(study, FamilySettings()) is study
    with pytest.raises(ValueError, match=r"shape\.vocab_size would leave the family"):
        with_family(study, FamilySettings(vocab_size=1000))


def test_laws_side_by_side_state_their_disagreement():
    laws = {n: load_law(n) for n in ("besiroglu2024", "hoffmann2022", "hoffmann2022_approach1")}
    rows = side_by_side(laws, 5.76e23, level=0.9, params=REFIT.optimum(5.76e23).params)
    assert rows[0].regret == pytest.approx(0, abs=1e-9)
    assert rows[1].regret > 0
    assert rows[2].regret is None
    assert disagreement(rows)["params"] == pytest.approx(72.3 / 32.2, rel=5e-3)
    assert "by hoffmann2022" in disagreement_alarm(rows).sentence
    assert disagreement_alarm(rows[::2]) is None


def test_the_first_law_that_predicts_forecasts():
    first = load_law("hoffmann2022_approach1")
    made = make_plan(first, Budget(flops=C), default_study(), others={"besiroglu2024": REFIT})
    pretrain = made.pretrain
    assert made.forecast.test_loss == pytest.approx(loss(pretrain.params, pretrain.tokens))
    assert math.isclose(pretrain.params_target, first.optimum(C).params)
    assert isinstance(REFIT.alarms[0], Alarm)


def test_a_law_in_bits_per_byte_compares_and_ties_in_bits_per_byte():
    law = load_law("besiroglu2024")
    per_byte = math.log(2) * 4.0
    scaled = {k: v / per_byte for k, v in law.parameters.items() if k in ("E", "A", "B")}
    bits = replace(law, parameters={**law.parameters, **scaled}, unit="bits_per_byte")
    study = replace(default_study(), bytes_per_token=4.0)
    plans = [
        make_plan(one, Budget(flops=1e20), study, name=name, others={"other": other})
        for name, one, other in (("nats", law, bits), ("bits", bits, bits))
    ]
    flat = [next(s for s in plan.steps if s.what == "flat N") for plan in plans]
    assert flat[1].interval == pytest.approx(flat[0].interval, rel=1e-9)
    assert "bits per byte against the best" in flat[1].rule
    assert plans[1].pretrain.params == plans[0].pretrain.params
    mixed, same = (comparison_lines(plan.laws, 1e20)[-1] for plan in plans)
    assert mixed.endswith("in the law's own unit (nats nats, other bits per byte)")
    assert same.endswith("regret at the plan's N in bits per byte")
