"""Plans whose answers are in print: BloombergGPT's, and Chinchilla's own table."""

import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from analysis.laws.published import load_law
from analysis.plan import main
from analysis.planning.budgets import budget_of
from analysis.planning.make import make_plan
from analysis.planning.plan import Plan, values_of
from analysis.planning.settings import PlanConfig
from analysis.runs.study import default_study
from scaling.app.conf_folder import conf_folder

ROOT = Path(__file__).parents[2]
TABLE_3 = [  # Hoffmann et al. 2022, Approach 1: C, N, D as printed, two to four digits
    (1.92e19, 400e6, 8.0e9),
    (1.21e20, 1e9, 20.2e9),
    (1.23e22, 10e9, 205.1e9),
    (3.85e24, 175e9, 3.7e12),
    (9.90e24, 280e9, 5.9e12),
    (3.43e25, 520e9, 11.0e12),
    (1.27e26, 1e12, 21.2e12),
    (1.30e28, 10e12, 216.2e12),
]


def example(name: str, *overrides: str) -> PlanConfig:
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        composed = compose("plan", overrides=[f"examples={name}", *overrides])
    config = OmegaConf.to_object(composed)
    assert isinstance(config, PlanConfig)
    return config


def planned(config: PlanConfig) -> Plan:
    names = config.law
    laws = {n: load_law(n) for n in names}
    first = laws.pop(names[0])
    study = default_study()
    budget = budget_of(config, first, study)
    return make_plan(first, budget, study, config, name=names[0], others=laws)


@pytest.fixture(scope="module")
def bloomberg():
    return planned(example("bloomberggpt"))


def test_bloomberggpts_optima_within_two_percent(bloomberg):
    second, first = bloomberg.laws
    assert first.law == "hoffmann2022_approach1"
    assert first.params == pytest.approx(52.993e9, rel=0.02)
    assert first.tokens == pytest.approx(1111.112e9, rel=0.02)
    assert second.params == pytest.approx(49.753e9, rel=0.02)
    assert second.tokens == pytest.approx(1175.766e9, rel=0.02)


def test_bloomberggpts_decision_is_data_limited_with_a_reserve(bloomberg):
    pretrain = bloomberg.pretrain
    assert pretrain.params_target == pytest.approx(50e9, rel=0.02)
    assert pretrain.tokens == pytest.approx(700e9, rel=1e-4)
    assert bloomberg.cost.share_of_budget < 0.7
    rules = " ".join(s.rule for s in bloomberg.steps)
    assert "data-limited" in rules
    assert "left in reserve" in rules


def test_bloomberggpts_shape_is_levines(bloomberg):
    pretrain = bloomberg.pretrain
    model = pretrain.model
    assert (model["n_layer"], model["d_model"], model["n_head"]) == (70, 7680, 40)
    assert pretrain.params == pytest.approx(50.6e9, rel=0.005)
    assert "exp(5.039 + .0555 x 70) = 7510" in pretrain.reasons["model"]


@pytest.mark.slow
def test_bloomberggpts_hours_enter_the_law_with_three_quarters(bloomberg):
    assert bloomberg.budget.flops == pytest.approx(0.75 * 1.3e6 * 3600 * 102e12)
    plain = planned(example("bloomberggpt", "activation_checkpointing=false"))
    assert plain.budget.flops == pytest.approx(1.3e6 * 3600 * 102e12)


def test_a_law_with_a_loss_takes_all_the_compute_that_the_reserve_leaves():
    config = example("bloomberggpt", "law=[besiroglu2024]", "shape.rule=ladder")
    plan = planned(config)
    assert plan.pretrain.params_target == pytest.approx(0.7 * 3.58e23 / 6 / 7e11, rel=2e-3)
    assert 0.65 < plan.cost.share_of_budget <= 0.7


@pytest.mark.parametrize(("flops", "params", "tokens"), TABLE_3)
def test_approach_1_gives_chinchillas_table(flops, params, tokens):
    found = load_law("hoffmann2022_approach1").optimum(flops)
    assert found.params == pytest.approx(params, rel=0.02)
    assert found.tokens == pytest.approx(tokens, rel=0.02)


def test_chinchillas_answers_at_the_gopher_budget():
    plan = planned(example("chinchilla"))
    rows = {r.law.removeprefix("hoffmann2022_"): r for r in plan.laws}
    first = rows["approach1"]
    assert first.params == pytest.approx(67e9, rel=0.02)
    # the table prints 1.5T; its own C / 6N is 1.43T, and the regression is of C = 6ND
    assert first.tokens == pytest.approx(5.76e23 / 6 / 67e9, rel=0.02)
    assert rows["tex"].params == pytest.approx(40e9, rel=0.02)
    assert rows["besiroglu2024"].params == pytest.approx(72.3e9, rel=0.001)
    assert rows["besiroglu2024"].tokens_per_param == pytest.approx(18.39, rel=0.001)


def test_seven_billion_on_256_h200_are_sharded_for_ten_days_each_value_with_its_reason():
    plan = planned(example("h200_7b"))
    pretrain, machine, cost = plan.pretrain, plan.machine, plan.cost
    assert pretrain.params == pytest.approx(7e9, rel=0.05)
    assert 1.5e12 < pretrain.tokens < 2.5e12
    assert (machine.precision, machine.ranks, machine.shard) == ("bf16", 256, True)
    assert cost.memory_per_device_gib < 0.9 * 141e9 / 2**30
    assert cost.wall_hours == pytest.approx(240, rel=0.01)
    for block in (pretrain, cost, plan.sft, plan.reward, plan.ppo):
        values = {k: v for k, v in values_of(block).items() if k != "reasons" and v is not None}
        assert values.keys() <= block.reasons.keys()
    assert values_of(machine).keys() == plan.reasons["machine"].keys()
    assert "divided among 256 (FSDP2)" in plan.reasons["machine"]["shard"]
    assert "srun --ntasks=256" in plan.reasons["machine"]["ranks"]


@pytest.mark.parametrize("name", sorted(p.stem for p in (ROOT / "examples").glob("*.yaml")))
def test_every_example_prints_its_plan(name, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    main(example(name))
    assert "laws side by side" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_documented_command_works(tmp_path):
    command = [sys.executable, "-m", "analysis.plan", "examples=bloomberggpt"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "70 layers of width 7680" in done.stdout
