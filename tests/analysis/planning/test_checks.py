"""Which stages a plan has, from what is found of their data and what a device holds."""

from dataclasses import replace

import pytest

from analysis.laws.published import load_law
from analysis.planning import checks
from analysis.planning.budgets import Budget
from analysis.planning.checks import with_stages
from analysis.planning.later_stages.blocks import RewardSettings, SftSettings
from analysis.planning.make import make_plan
from analysis.planning.settings import PlanConfig
from analysis.planning.written.plan_file import read_plan, write_plan
from analysis.runs.study import default_study
from scaling.schema import read_yaml

LAW = load_law("besiroglu2024")
NO_FUNCTIONS = "the corpus' training part has no documented Python function to fine-tune on"


def plan(source="files", **budget):
    made = make_plan(LAW, Budget(**{"flops": 1e18, **budget}), default_study())
    return replace(made, cell={**made.cell, "data": {"source": source, "context": 2048}})


def found(monkeypatch, **problems):
    """Let the stages be checked, with these problems."""
    rows = {
        s: {"stage": s, "problem": problems.get(s, ""), "found": f"data of {s}"}
        for s in ("pretrain", "sft", "reward", "ppo")
    }
    monkeypatch.setattr(checks, "_checked", lambda plan: (rows, ""))


def test_all_stages_are_planned_where_all_data_are_found(monkeypatch):
    found(monkeypatch)
    made = with_stages(plan(), PlanConfig(flops=1e18))
    assert made.stages == "pretrain,sft,reward,ppo"
    assert made.reasons["stages"]["sft"] == "data of sft"


def test_text_without_functions_plans_pretraining_and_says_how_to_add_stages(monkeypatch):
    found(monkeypatch, sft=NO_FUNCTIONS, reward=NO_FUNCTIONS, ppo=NO_FUNCTIONS)
    made = with_stages(plan(), PlanConfig(flops=1e18))
    assert made.stages == "pretrain"
    assert made.reasons["stages"].keys() == {"pretrain", "sft"}
    assert NO_FUNCTIONS in made.reasons["stages"]["sft"]
    assert "sft.data=PAIRS.jsonl" in made.reasons["stages"]["sft"]


def test_pairs_without_preferences_plan_fine_tuning_too(monkeypatch):
    found(monkeypatch, reward="reward.data=gold judges Python functions")
    made = with_stages(plan(), PlanConfig(flops=1e18))
    assert made.stages == "pretrain,sft"


@pytest.mark.parametrize("stage", ["sft", "reward"])
def test_data_that_the_user_named_and_that_fail_are_an_error(stage, monkeypatch):
    found(monkeypatch, **{stage: "no row can be used"})
    named = {"sft": SftSettings(data="a.jsonl"), "reward": RewardSettings(data="b.jsonl")}
    with pytest.raises(ValueError, match=f"stage {stage} cannot run: no row can be used"):
        with_stages(plan(), PlanConfig(flops=1e18, **named))


def test_stages_that_one_device_cannot_hold_are_left_out(monkeypatch):
    found(monkeypatch)
    made = with_stages(plan(flops=1e23, device="h200"), PlanConfig(flops=1e23))
    assert made.stages == "pretrain"
    assert "h200 has 131" in made.reasons["stages"]["sft"]


def test_a_published_law_alone_plans_pretraining_and_says_that_it_names_no_text():
    made = with_stages(make_plan(LAW, Budget(flops=1e18), default_study()), PlanConfig(flops=1e18))
    assert made.stages == "pretrain"
    assert "names no text" in made.reasons["stages"]["pretrain"]


def test_stages_that_are_left_out_have_no_block_and_no_hours(monkeypatch, tmp_path):
    found(monkeypatch)
    budget = {"device": "h100", "flops_per_second": 4e14}
    made = with_stages(plan(**budget), PlanConfig(flops=1e18, stages="pretrain,sft"))
    values = read_yaml(write_plan(tmp_path / "plan.yaml", made))
    assert values["stages"] == "pretrain,sft"
    assert {"pretrain", "sft"} == {"pretrain", "sft", "reward", "ppo"} & set(values)
    assert values["cost"]["stage_hours"].keys() == {"sft"}
    alone = with_stages(plan(**budget), PlanConfig(flops=1e18, stages="pretrain"))
    values = read_yaml(write_plan(tmp_path / "plan.yaml", alone))
    assert not {"sft", "reward", "ppo"} & set(values)
    assert "stage_hours" not in values["cost"]
    assert "stage_hours" not in values["cost"]["reasons"]
    assert read_plan(tmp_path / "plan.yaml").stages == "pretrain"
    assert "stages=pretrain leaves it out" in values["reasons"]["stages"]["sft"]


def test_a_stage_that_is_asked_for_and_cannot_run_is_an_error(monkeypatch):
    found(monkeypatch, sft=NO_FUNCTIONS)
    with pytest.raises(ValueError, match="stage sft cannot run"):
        with_stages(plan(), PlanConfig(flops=1e18, stages="pretrain,sft"))
    with pytest.raises(ValueError, match="stages"):
        PlanConfig(flops=1e18, stages="pretrain,ppo")


def test_what_is_not_read_is_said(tmp_path):
    made = with_stages(replace(plan(), runs=str(tmp_path)), PlanConfig(flops=1e18))
    assert made.stages == "pretrain"
    assert "scaling final checks before it trains" in made.reasons["stages"]["pretrain"]
    python = with_stages(replace(plan("stdlib"), runs=str(tmp_path)), PlanConfig(flops=1e18))
    assert python.stages == "pretrain,sft,reward,ppo"


def test_alarms_of_the_data_are_alarms_of_the_plan(monkeypatch):
    few = {"code": "few_rows", "sentence": "sft has 60 rows that fit, fewer than 500"}
    found(monkeypatch, reward="no row can be used")
    rows, _ = checks._checked(None)
    rows["sft"]["alarms"], rows["ppo"]["alarms"] = [few], [{**few, "code": "not_planned"}]
    monkeypatch.setattr(checks, "_checked", lambda plan: (rows, ""))
    codes = [alarm.code for alarm in with_stages(plan(), PlanConfig(flops=1e18)).alarms]
    assert "few_rows" in codes
    assert "not_planned" not in codes
