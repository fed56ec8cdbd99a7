import importlib.util
import math
import shlex
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from omegaconf import OmegaConf

from analysis.alarms.alarm import Alarm
from analysis.laws.law import Law
from analysis.laws.published import load_law
from analysis.plan import main
from analysis.planning.budgets import Budget, budget_of
from analysis.planning.command import command_of
from analysis.planning.later_stages.blocks import ppo_block, sft_block
from analysis.planning.later_stages.sizes import sized
from analysis.planning.make import make_plan
from analysis.planning.settings import PlanConfig
from analysis.planning.shapes.family import FamilySettings
from analysis.planning.written.derivation import derivation
from analysis.planning.written.plan_file import read_plan, write_plan
from analysis.runs.study import _at_once, default_study, study_of
from scaling.budget import resolve
from scaling.config import FinalConfig, ModelConfig
from scaling.schema import Recipe, initial_kl_coefficient
from scaling.stages.plan import planned_cell
from tests.in_process import call

_spec = importlib.util.spec_from_file_location(
    "synthetic", Path(__file__).with_name("synthetic.py")
)
synthetic = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(synthetic)

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return synthetic.write_study(tmp_path_factory.mktemp("runs") / "small")


@pytest.fixture(scope="module")
def study(folder):
    return study_of(folder, count="with_head")


def small_law(**changed) -> Law:
    """Return the synthetic study's true law, without draws."""
    parameters = {
        "E": synthetic.E,
        "A": synthetic.A,
        "B": synthetic.B,
        "alpha": synthetic.ALPHA,
        "beta": synthetic.BETA,
    }
    values = {
        "form": "chinchilla",
        "count": "with_head",
        "parameters": parameters,
        "objective": {"name": "exact"},
        "status": "converged",
        "ranges": {"flops": [1e11, 1e13], "flops_6nd": [1e11, 1e13]},
    }
    return Law(**{**values, **changed})


def load(plan, path: Path) -> FinalConfig:
    write_plan(path, plan)
    merged = OmegaConf.merge(OmegaConf.structured(FinalConfig), OmegaConf.load(path))
    return OmegaConf.to_object(merged)


def test_gopher_budget_gives_the_refit_optimum():
    plan = make_plan(load_law("besiroglu2024"), Budget(flops=5.76e23), default_study())
    pretrain = plan.pretrain
    assert pretrain.params_target == pytest.approx(72.3e9, rel=1e-3)
    law = load_law("besiroglu2024").optimum(5.76e23)
    assert law.tokens_per_param == pytest.approx(18.39, rel=1e-3)
    assert pretrain.params == pytest.approx(pretrain.params_target, rel=0.05)
    assert pretrain.flops == pytest.approx(5.76e23, rel=1e-4)


def test_exact_flops_of_whole_steps_keep_the_budget(study):
    plan = make_plan(small_law(), Budget(flops=3e13), study)
    pretrain = plan.pretrain
    shape = ModelConfig(**pretrain.model).shape(vocab_size=1024, context=pretrain.context)
    assert shape.params.with_head == pretrain.params
    assert pretrain.flops == pretrain.tokens * shape.flops_per_token <= 3e13
    assert pretrain.flops > 0.99 * 3e13
    assert pretrain.tokens % pretrain.batch_tokens == 0


def test_the_memory_of_the_plan_is_that_of_its_check_and_of_the_dry_run(study, tmp_path):
    plan = make_plan(small_law(), Budget(flops=3e13), study)
    cell = planned_cell(load(plan, tmp_path / "plan.yaml"))
    planned = plan.cost.memory_per_device_gib
    assert resolve(cell).memory_bytes / 2**30 == pytest.approx(planned, rel=1e-6)
    assert "GiB" not in plan.pretrain.reasons["batch_tokens"]


def test_forecast_is_the_law_at_the_rounded_shape(study):
    plan = make_plan(small_law(), Budget(flops=3e13), study)
    expected = synthetic.true_loss(plan.pretrain.params, plan.pretrain.tokens)
    assert plan.forecast.test_loss == pytest.approx(expected, rel=1e-9)
    per_byte = expected / (math.log(2) * synthetic.BYTES_PER_TOKEN)
    assert plan.forecast.bits_per_byte == pytest.approx(per_byte, rel=1e-9)
    assert plan.extrapolation == pytest.approx(3, rel=1e-2)


def test_written_plan_loads_into_the_final_config(study, tmp_path):
    plan = make_plan(small_law(), Budget(flops=3e13), study)
    final = load(plan, tmp_path / "plan.yaml")
    assert final.pretrain.tokens == plan.pretrain.tokens
    assert final.pretrain.model.n_layer == plan.pretrain.model["n_layer"]
    assert final.cell["data"]["context"] == 128
    assert read_plan(tmp_path / "plan.yaml") == plan


def test_published_law_without_a_study_loads_too(tmp_path):
    plan = make_plan(load_law("hoffmann2022"), Budget(flops=1e21), default_study())
    assert load(plan, tmp_path / "plan.yaml").forecast.interval == []


@pytest.mark.parametrize("block", ["pretrain", "sft", "reward", "ppo"])
def test_every_value_of_a_stage_is_planned_with_a_reason(study, block):
    plan = make_plan(small_law(), Budget(flops=3e13), study)
    block_values = plan.to_dict()[block]
    values = set(block_values) - {"reasons"}
    assert values == set(block_values["reasons"])
    kind = type(getattr(FinalConfig(), block))
    of_laws = {"forecast_loss", "forecast_gain", "forecast_interval", "forecast_level"}
    of_sweeps = {"policy", "policy_sha256", "reward_model"}
    assert values == {f.name for f in fields(kind)} - {"reasons"} - of_laws - of_sweeps


def test_intervals_come_from_the_draws(study):
    law = small_law()
    point = np.array(list(law.parameters.values()))
    draws = point * np.exp(0.02 * np.random.default_rng(0).normal(size=(200, 5)))
    plan = make_plan(small_law(draws=draws), Budget(flops=3e13), study)
    low, high = plan.forecast.interval
    assert low < plan.forecast.test_loss < high
    assert "90% [" in plan.pretrain.reasons["params_target"]


def test_rules_of_the_study_are_followed(study):
    pretrain = make_plan(small_law(), Budget(flops=3e13), study).pretrain
    optim, schedule = study.config["optim"], study.config["schedule"]
    rule = optim["lr_base"] * optim["lr_base_width"] / pretrain.model["d_model"]
    assert pretrain.peak_lr == pytest.approx(rule, rel=1e-5)
    assert pretrain.warmup_steps == schedule["warmup_steps"]
    assert (pretrain.schedule, pretrain.decay) == ("wsd", 0.2)


def test_the_parametrisation_and_norms_of_the_study_are_planned(study):
    config = study.config | {"model": study.config["model"] | {"embedding_norm": False}}
    config["model"] |= {"parametrization": "mup", "base_width": 16}
    recipe = Recipe.from_config(config["optim"], config["model"])
    changed = replace(study, config=config, recipe=recipe)
    pretrain = make_plan(small_law(), Budget(flops=3e13), changed).pretrain
    model = pretrain.model
    assert (model["parametrization"], model["embedding_norm"]) == ("mup", False)
    lr = config["optim"]["lr_base"] * 16 / model["d_model"]
    assert pretrain.peak_lr == pytest.approx(lr, rel=1e-5)


def test_measured_speed_gives_seconds(study):
    budget = budget_of(PlanConfig(flops_multiple=3), small_law(), study)
    assert budget.flops_per_second == pytest.approx(synthetic.SPEED, rel=1e-6)
    assert budget.flops == pytest.approx(3 * study.largest_flops)


def test_device_hours_become_flops():
    asked = PlanConfig(gpu_hours=1000, device="h100", utilisation=0.5)
    budget = budget_of(asked, load_law("besiroglu2024"), default_study())
    assert budget.flops == pytest.approx(1000 * 3600 * 989e12 * 0.5)
    assert "stated and not measured" in budget.reason


def test_cells_that_ran_together_give_the_fastest_tenth_and_say_so(study):
    cells = [replace(study.cells[0], flops_per_second=v) for v in (1e9, 2e9, 3e9, 4e9, 5e9, 6e9)]
    size = cells[0].params
    for at_once, speed, words in (
        (1, 3.5e9, "median of the cells nearest in size"),
        (4, 5.5e9, "at the speed of cells that ran 4 at a time, the fastest tenth"),
        (None, 3.5e9, "how many ran at a time is not recorded"),
    ):
        ran = replace(study, cells=tuple(cells), at_once=at_once)
        assert ran.speed(size) == pytest.approx(speed)
        assert words in ran.speed_words


def ran(trunk: str, start: int, end: int, *, stacked: bool = False) -> SimpleNamespace:
    """Return what a record says of when a cell ran, in minutes."""
    at = [f"2026-12-01T00:{minute:02d}:00+00:00" for minute in (start, end)]
    metrics = {"stacked": 1.0} if stacked else {}
    return SimpleNamespace(trunk=trunk, run_id=trunk, started=at[0], ended=at[1], metrics=metrics)


def test_trunks_that_overlap_ran_at_a_time_and_branches_of_one_did_not():
    assert _at_once([ran("a", 0, 9), ran("a", 2, 9), ran("b", 10, 19)]) == 1
    assert _at_once([ran("a", 0, 9), ran("b", 1, 8), ran("c", 0, 9)]) == 3
    assert _at_once([ran("a", 0, 9, stacked=True), ran("b", 0, 9, stacked=True)]) == 1
    unknown = ran("a", 0, 9)
    unknown.started = ""
    assert _at_once([unknown]) is None


def test_measured_hours_use_the_studys_speed(study):
    budget = budget_of(PlanConfig(gpu_hours=2), small_law(), study)
    assert budget.flops == pytest.approx(7200 * synthetic.SPEED, rel=1e-6)


def test_a_measured_utilisation_goes_to_another_device_when_asked(study):
    cells = tuple(replace(c, utilisation=0.3) for c in study.cells)
    measured = replace(study, cells=cells)
    asked = PlanConfig(gpu_hours=2, device="h100", utilisation="measured")
    budget = budget_of(asked, small_law(), measured)
    assert budget.flops == pytest.approx(7200 * 0.3 * 989e12)
    assert "measured by the study small on cpu, not on h100" in budget.speed_reason
    with pytest.raises(ValueError, match="whose records have an mfu"):
        budget_of(asked, small_law(), study)
    with pytest.raises(ValueError, match="or be measured"):
        PlanConfig(utilisation="much")


@pytest.mark.parametrize(
    ("asked", "ran", "factor"),
    [(False, False, 1), (True, False, 0.75), (True, True, 1), (False, True, 1 / 0.75)],
)
def test_a_measured_speed_knows_whether_its_cells_were_checkpointed(study, asked, ran, factor):
    config = PlanConfig(gpu_hours=2, activation_checkpointing=asked)
    budget = budget_of(config, small_law(), replace(study, checkpointing=ran))
    assert budget.flops == pytest.approx(factor * 7200 * synthetic.SPEED, rel=1e-6)


def test_a_law_of_learning_rate_and_batch_goes_before_the_studys_rule(study):
    asked = PlanConfig(lr_batch="steplaw2025")
    pretrain = make_plan(small_law(), Budget(flops=3e13), study, asked).pretrain
    shape = ModelConfig(**pretrain.model).shape(vocab_size=1024, context=128)
    lr = 1.79 * shape.params.non_embedding**-0.713 * pretrain.tokens**0.307
    assert pretrain.peak_lr == pytest.approx(lr, rel=0.01)
    assert pretrain.reasons["peak_lr"].startswith("1.79 N^-0.713 D^0.307")
    assert "tokens to a power of two" in pretrain.reasons["batch_tokens"]
    with pytest.raises(ValueError, match="gives no learning rate or batch"):
        make_plan(small_law(), Budget(flops=3e13), study, PlanConfig(lr_batch="besiroglu2024"))


def test_vocabulary_and_context_are_lines_of_the_derivation(study):
    steps = {s.what: s for s in make_plan(small_law(), Budget(flops=3e13), study).steps}
    assert steps["vocabulary"].value == 1024
    assert "tokenizer of the study small" in steps["vocabulary"].rule
    assert steps["context"].value == 128


def test_the_vocabulary_follows_the_budget_where_no_tokenizer_fixes_it(study):
    asked = PlanConfig(shape=FamilySettings(vocab_rule="tao"))
    made = make_plan(load_law("besiroglu2024"), Budget(flops=1e21), default_study(), asked)
    vocab, width = made.cell["tokenizer"]["vocab_size"], made.pretrain.model["d_model"]
    assert vocab * width == pytest.approx(0.20 * 1e21**0.42, rel=0.01)
    assert vocab % 128 == 0
    with pytest.raises(ValueError, match="would leave the tokenizer"):
        make_plan(small_law(), Budget(flops=3e13), study, asked)
    with pytest.raises(ValueError, match="both set the vocabulary"):
        FamilySettings(vocab_rule="tao", vocab_size=1000)


def test_weight_decay_says_over_how_much_of_the_run_it_averages(study):
    pretrain = make_plan(small_law(), Budget(flops=3e13), study).pretrain
    scale = pretrain.batch_tokens / (pretrain.peak_lr * pretrain.weight_decay * pretrain.tokens)
    assert f"= {scale:.3g} of the run" in pretrain.reasons["weight_decay"]


def test_a_budget_below_the_largest_cells_family_takes_a_small_rungs(study):
    with pytest.raises(ValueError, match="no shape has"):
        make_plan(small_law(), Budget(flops=1e10), replace(study, cells=()))
    small = replace(study.like, d_head=8, n_head=2, n_kv_head=2, d_model=16, d_ff=48, n_layer=2)
    cells = (*study.cells, replace(study.cells[0], params=small.params.with_head, shape=small))
    plan = make_plan(small_law(), Budget(flops=2e10), replace(study, cells=cells))
    assert plan.pretrain.model["d_head"] == 8
    (alarm,) = [a for a in plan.alarms if a.code == "below_range"]
    assert "0.2 times the smallest fitted" in alarm.sentence


def test_the_factor_beyond_which_a_plan_is_far_is_stated_and_set(study):
    made = make_plan(small_law(), Budget(flops=3e14), study, PlanConfig(far=20))
    (alarm,) = [a for a in made.alarms if a.code == "far"]
    assert "30 times the largest fitted" in alarm.sentence
    assert "beyond 20 times" in alarm.sentence


def test_the_command_of_a_plan_asks_for_it_again():
    config = PlanConfig(
        law=["besiroglu2024", "hoffmann2022"], flops=1e21, sharded=True, reserve=0.1, dry_run=True
    )
    config.moe.experts, config.shape.vocab_size = 8, 50_000
    arguments = shlex.split(command_of(config))[3:]
    assert arguments == [
        "law=[besiroglu2024,hoffmann2022]",
        "flops=1e+21",
        "sharded=true",
        "reserve=0.1",
        "shape.vocab_size=50000",
        "moe.experts=8",
    ]
    assert command_of(PlanConfig()) == "python -m analysis.plan"


def test_a_law_of_an_unknown_count_is_refused():
    with pytest.raises(ValueError, match="counts N as 'embedding'"):
        small_law(count="embedding")


def test_unusable_law_needs_force(study):
    law = small_law(status="not_identified")
    with pytest.raises(ValueError, match=r"not_identified.*force=true"):
        make_plan(law, Budget(flops=3e13), study)
    plan = make_plan(law, Budget(flops=3e13), study, PlanConfig(force=True))
    assert derivation(plan)[0].startswith("ALARM forced")


@pytest.mark.parametrize(("flops", "code"), [(9.8e10, "below_range"), (2e16, "far")])
def test_budget_outside_the_range_raises_an_alarm(study, flops, code):
    plan = make_plan(small_law(), Budget(flops=flops), study)
    assert code in [a.code for a in plan.alarms]


def test_offset_not_identified_proceeds_with_an_alarm(study):
    plan = make_plan(small_law(status="offset_not_identified"), Budget(flops=3e13), study)
    assert plan.alarms[0].code == "offset"


def test_law_alarms_are_carried(study):
    alarm = Alarm(code="single_ray", sentence="One ray.")
    plan = make_plan(small_law(alarms=(alarm,)), Budget(flops=3e13), study)
    assert alarm in plan.alarms


def test_lines_fit_a_terminal(study):
    lines = derivation(make_plan(small_law(), Budget(flops=3e13), study))
    assert max(map(len, lines)) <= 100
    assert any(line.split()[:1] == ["params_target"] for line in lines)


def test_kl_coefficient_follows_gaussian_tilting():
    settings, _ = sized(PlanConfig().ppo, "ppo", params=1e6, context=128, pretrain_lr=1e-3)
    block = ppo_block(settings, pretrain_lr=1e-3, seed=0)
    assert block.kl_coefficient == pytest.approx(1 / math.sqrt(2 * settings.kl_budget), rel=1e-3)
    assert initial_kl_coefficient(2.0) == 0.5


def test_lora_learns_ten_times_faster():
    settings, _ = sized(PlanConfig().sft, "sft", params=1e6, context=128, pretrain_lr=1e-3)
    full = sft_block(settings, pretrain_lr=1e-3, seed=0).peak_lr
    settings.method = "lora"
    assert sft_block(settings, pretrain_lr=1e-3, seed=0).peak_lr == pytest.approx(10 * full)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["law=besiroglu2024"],
            "set exactly one of flops, gpu_hours, money, wall_hours, flops_multiple",
        ),
        (["law=besiroglu2024", "flops=1e20", "gpu_hours=3"], r"flops=1e+20 and gpu_hours=3"),
        (
            ["law=besiroglu2024", "gpu_hours=3", "device=abacus"],
            "device=abacus is unknown; known devices are v100",
        ),
        (["law=besiroglu2024", "gpu_hours=3"], "needs a speed"),
        (["law=besiroglu2024", "flops_multiple=3"], "needs a study to multiply"),
        (["law=besiroglu2024", "flops=-1"], "flops=-1.0 is out of range; set a number above 0"),
        (["flops=1e20"], "law is not set"),
    ],
)
def test_mistakes_are_one_sentence(arguments, sentence):
    values = OmegaConf.merge(OmegaConf.structured(PlanConfig), OmegaConf.from_dotlist(arguments))
    with pytest.raises((ValueError, OSError)) as caught:
        main(OmegaConf.to_object(values))
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def plan_command(*arguments, cwd):
    command = [sys.executable, "-m", "analysis.plan", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120)


@pytest.mark.slow
def test_command_plans_a_study_from_its_law(folder, tmp_path):
    small_law(inputs={"source": folder.as_posix()}).write(folder / "law.json")
    done = plan_command(
        f"law={folder}/law.json", "flops_multiple=3", f"out={tmp_path}/plan.yaml", cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    plan = read_plan(tmp_path / "plan.yaml")
    assert plan.study == "small"
    assert plan.runs == folder.parent.as_posix()
    assert set(plan.made_from) == {"law", "records"}
    assert "params_target" in done.stdout


def test_command_fails_with_a_sentence_and_writes_nothing(tmp_path):
    given = ("law=nothing.json", "flops=1e20", f"out={tmp_path}/plan.yaml")
    missing = call("analysis.plan", *given, cwd=ROOT)
    assert missing.returncode == 1
    assert "nothing.json" in missing.stderr
    assert "Traceback" not in missing.stderr
    assert not (tmp_path / "plan.yaml").exists()


def test_allocation_law_prints_n_and_d_but_writes_no_plan(tmp_path, capsys):
    config = PlanConfig(law="hoffmann2022_approach1", flops=1e21, out=f"{tmp_path}/plan.yaml")
    with pytest.raises(ValueError, match="give a law that predicts loss"):
        main(config)
    assert "params_target" in capsys.readouterr().out
    assert not (tmp_path / "plan.yaml").exists()


def machine_of(study, **settings):
    chosen = PlanConfig(law="besiroglu2024", **settings)
    devices = {k: settings[k] for k in ("device", "devices") if k in settings}
    plan = make_plan(small_law(), Budget(flops=3e13, **devices), study, chosen)
    assert plan.to_dict()["machine"].keys() == plan.reasons["machine"].keys()
    return plan, "\n".join(derivation(plan))


def test_the_final_run_is_computed_as_the_study_was_and_on_the_devices_planned_for(study, tmp_path):
    of_study = {**study.config, "machine": {"precision": "bf16", "compile": True}}
    plan, told = machine_of(
        replace(study, config=of_study), devices=2, sharded=True, activation_checkpointing=True
    )
    machine = load(plan, tmp_path / "plan.yaml").machine
    assert (machine.precision, machine.compile, machine.ranks) == ("bf16", True, 2)
    assert machine.shard
    assert machine.activation_checkpointing
    assert "as the study was trained" in told
    assert "devices=2: a process each" in told


def test_no_more_ranks_are_planned_than_share_a_steps_rows(study):
    plan, told = machine_of(study, devices=3)
    pretrain = plan.pretrain
    rows = pretrain.batch_tokens // pretrain.context
    assert plan.machine.ranks == max(n for n in (1, 2, 3) if rows % n == 0) < 3
    assert f"devices=3, of which {plan.machine.ranks} can share the {rows} rows" in " ".join(
        told.split()
    )
    assert not plan.machine.shard


def test_without_a_study_the_precision_is_that_of_the_devices_speed():
    law = load_law("besiroglu2024")
    for device, precision in (("h100", "bf16"), ("", "fp32")):
        plan = make_plan(law, Budget(flops=1e21, device=device), default_study())
        assert plan.machine.precision == precision
