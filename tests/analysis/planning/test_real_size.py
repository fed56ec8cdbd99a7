"""Plans of real size: settings by rules for that size, each with its source."""

import pytest

from analysis.laws.published import load_law
from analysis.planning.budgets import Budget
from analysis.planning.later_stages.blocks import PpoSettings, SftSettings
from analysis.planning.later_stages.sizes import sized
from analysis.planning.make import make_plan
from analysis.planning.settings import PlanConfig
from analysis.planning.shapes.family import FamilySettings
from analysis.runs.study import default_study

LAW = load_law("besiroglu2024")


@pytest.fixture(scope="module")
def large():
    budget = Budget(flops=1e23, device="h200", devices=256, flops_per_second=4e14)
    return make_plan(LAW, budget, default_study())


def test_no_toy_setting_is_left_at_1e23(large):
    pretrain, steps = large.pretrain, {s.what: s for s in large.steps}
    assert pretrain.context == 4096
    assert "Llama 2" in pretrain.reasons["context"]
    assert 100_000 < steps["vocabulary"].value <= 131_072
    assert "Tao et al. 2024" in steps["vocabulary"].rule
    assert 4e6 <= pretrain.batch_tokens <= 1.7e7
    assert 1e-4 < pretrain.peak_lr < 6e-4
    assert "DeepSeek" in pretrain.reasons["peak_lr"]
    assert large.machine.precision == "bf16"
    assert large.machine.shard


def test_later_stages_at_1e23_are_llama_2s(large):
    sft, reward, ppo = large.sft, large.reward, large.ppo
    assert (sft.examples, sft.epochs, sft.batch_examples) == (27_540, 2, 64)
    assert sft.peak_lr == pytest.approx(2e-5, rel=0.01)
    assert (reward.pairs, reward.batch_pairs) == (1_418_091, 512)
    assert (ppo.episodes, ppo.batch_episodes, ppo.inner_epochs) == (204_800, 512, 1)
    assert (ppo.max_new_tokens, large.pretrain.context) == (2048, 4096)
    for block in (sft, reward, ppo):
        assert "2307.09288" in block.reasons["peak_lr"]
    assert large.cost.stage_hours.keys() == {"sft", "reward", "ppo"}


def test_what_the_user_sets_goes_before_the_rules():
    asked = PlanConfig(
        shape=FamilySettings(context=2048, vocab_size=50_304), sft=SftSettings(examples=7)
    )
    plan = make_plan(LAW, Budget(flops=1e23), default_study(), asked)
    assert plan.pretrain.context == 2048
    assert plan.cell["tokenizer"]["vocab_size"] == 50_304
    assert plan.sft.examples == 7
    assert plan.sft.reasons["examples"].startswith("sft.examples= sets it")


def test_below_real_size_the_default_family_stays():
    plan = make_plan(LAW, Budget(flops=1e21), default_study())
    assert (plan.pretrain.context, plan.cell["tokenizer"]["vocab_size"]) == (2048, 32_000)


@pytest.mark.parametrize(("params", "episodes"), [(1e5, 1024), (1e7, 1024), (1e12, 204_800)])
def test_sizes_are_those_of_a_recipe_at_both_ends(params, episodes):
    filled, reasons = sized(PpoSettings(), "ppo", params=params, context=4096, pretrain_lr=1e-3)
    assert filled.episodes == episodes
    assert reasons["episodes"]


def test_sizes_between_the_recipes_grow_with_the_model():
    sizes = [
        sized(SftSettings(), "sft", params=n, context=512, pretrain_lr=1e-3)[0]
        for n in (1e7, 3e7, 1e8, 5e8, 1e9)
    ]
    examples = [s.examples for s in sizes]
    assert examples == sorted(set(examples))
    assert [s.lr_fraction for s in sizes] == sorted([s.lr_fraction for s in sizes], reverse=True)


@pytest.mark.parametrize("name", ["besiroglu2024", "llama3_2024", "muennighoff2023"])
@pytest.mark.parametrize("flops", [1e22, 1e24, 1e26])
def test_heads_at_real_size_are_eights_of_128_that_share_8_key_value_heads(name, flops):
    shape = make_plan(load_law(name), Budget(flops=flops), default_study()).pretrain.model
    assert shape["d_head"] == 128
    assert shape["n_head"] % 8 == 0
    assert shape["n_kv_head"] == 8
    assert shape["n_head"] * 128 == shape["d_model"]


def test_heads_are_as_the_user_sets_them():
    asked = PlanConfig(shape=FamilySettings(heads_multiple=1, kv_heads=0))
    shape = make_plan(LAW, Budget(flops=1e23), default_study(), asked).pretrain.model
    assert shape["n_kv_head"] == shape["n_head"]
    asked = PlanConfig(shape=FamilySettings(heads_multiple=8, kv_heads=5))
    with pytest.raises(ValueError, match=r"give a divisor, or shape\.heads_multiple=5"):
        make_plan(LAW, Budget(flops=1e23), default_study(), asked)
