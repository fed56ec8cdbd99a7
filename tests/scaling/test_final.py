"""The final run: reading a plan, the chain of stages, skipping, the sealed forecast."""

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from scaling.app.next_command import next_command
from scaling.final import run_final
from scaling.schema import read_json, read_record, sha256_file
from scaling.stages.outcome import following, summary
from scaling.stages.plan import chosen_stages, final_folder, load_plan, planned_cell

ROOT = Path(__file__).parents[2]


@pytest.fixture
def plan(final_config, tmp_path):
    """A plan.yaml of the tiny run."""
    Path(final_config.machine.cache, "tokens-0").mkdir(parents=True, exist_ok=True)  # is in use
    final_config.forecast.test_loss, final_config.forecast.interval = 5.5, [5.0, 6.0]
    path = tmp_path / "plan.yaml"
    path.write_text(OmegaConf.to_yaml(OmegaConf.structured(final_config)))
    return path


def test_a_plan_is_read_back_as_written(plan, final_config):
    assert load_plan(plan) == replace(final_config, plan=str(plan))


def test_overrides_apply_on_top_of_the_plan(plan):
    config = load_plan(
        plan, ["ppo.episodes=128", "machine.threads=1", "plan=ignored.yaml", "sft.data='a b.jsonl'"]
    )
    assert (config.ppo.episodes, config.sft.data, config.plan) == (128, "a b.jsonl", str(plan))


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("sft: {example: 3}\npretrain: {tokens: 1}", "example"),
        ("pretrain: {tokens: many}", "many"),
        ("just text", "holds no plan"),
        ("a: [", "not YAML"),
    ],
)
def test_a_plan_that_is_none_is_refused_by_name(tmp_path, text, match):
    path = tmp_path / "plan.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=match):
        load_plan(path)


def test_data_paths_of_another_start_are_refused_with_the_folder(
    final_config, tmp_path, monkeypatch
):
    final_config.runs = "runs"
    final_config.cell["data"] = {"source": "files", "train": ["text"]}
    study = tmp_path / "runs" / final_config.study
    study.mkdir(parents=True)
    (study / "plan.yaml").write_text(OmegaConf.to_yaml(OmegaConf.structured(final_config)))
    (tmp_path / "text").mkdir()
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "sub")
    name = f"runs/{final_config.study}/plan.yaml"
    with pytest.raises(ValueError, match=rf"data text relative .* cd {tmp_path}, .*plan={name}$"):
        load_plan(f"../{name}", ["machine.cache=cache"])
    monkeypatch.chdir(tmp_path)
    assert load_plan(name, ["machine.cache=cache"]).cell["data"]["train"] == ["text"]


def test_a_stage_that_was_not_planned_has_a_learning_rate_and_is_said(plan, tmp_path, caplog):
    values = yaml.safe_load(plan.read_text())
    del values["sft"]
    path = tmp_path / "pretrain.yaml"
    path.write_text(yaml.safe_dump({**values, "stages": "pretrain"}))
    assert load_plan(path).sft.peak_lr == 0
    assert not caplog.messages
    config = load_plan(path, ["stages='pretrain,sft'", "sft.lr_fraction=0.5"])
    assert config.sft.peak_lr == 0.5 * values["pretrain"]["peak_lr"]
    assert "the plan has no stage sft" in caplog.text


def test_a_missing_plan_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="scaling plan"):
        load_plan(tmp_path / "absent.yaml")


def test_stages_run_in_their_order():
    assert chosen_stages("ppo, sft") == ["sft", "ppo"]
    with pytest.raises(ValueError, match="choose among pretrain, sft, reward, ppo"):
        chosen_stages("sft,rlhf")


def test_the_cell_takes_the_plans_values(final_config):
    cell = planned_cell(final_config)
    assert cell.budget.n_tokens == final_config.pretrain.tokens
    assert (cell.optim.peak_lr, cell.optim.batch_tokens) == (0.01, 384)
    assert cell.data.context == 96
    assert cell.schedule.warmup_steps == final_config.pretrain.warmup_steps


def test_a_wrong_key_in_the_cell_is_named(final_config):
    final_config.cell["modle"] = {}
    with pytest.raises(ValueError, match="modle"):
        planned_cell(final_config)


def test_a_stage_without_the_one_before_says_what_to_run(final_config):
    final_config.stages = "ppo"
    with pytest.raises(ValueError, match=r"stage ppo cannot run: .* run stages=sft,ppo"):
        run_final(final_config)


def test_the_plan_that_ran_holds_what_the_command_set(plan):
    config = load_plan(plan, ["stages=pretrain", "ppo.episodes=16", "pretrain.seed=3"])
    (record,) = run_final(config)
    ran = load_plan(final_folder(config) / "plan.yaml")
    assert ran.overrides == ["ppo.episodes=16", "pretrain.seed=3"]
    assert (ran.ppo.episodes, ran.pretrain.seed, record.seed) == (16, 3, 3)
    assert planned_cell(ran).run_id() == planned_cell(config).run_id()


@pytest.mark.slow
def test_the_whole_run_and_then_nothing_again(plan, caplog):
    config = load_plan(plan)
    records = run_final(config)
    folder = final_folder(config)
    assert [r.stage for r in records] == ["pretrain", "sft", "reward", "ppo"]
    assert all((folder / r.stage / "record.json").is_file() for r in records)
    sealed = read_json(folder / "forecast.json")
    assert sealed["plan_sha256"] == sha256_file(plan)
    assert sealed["sealed"] <= records[0].ended
    lines = summary(config, records)
    assert "forecast 5.5000" in lines[0]
    assert "the 95% interval" in lines[0]
    assert len(lines) == 4
    assert following(config) == next_command("report", runs=Path(config.runs, config.study))
    with caplog.at_level("INFO"):
        assert run_final(config) == records
    assert caplog.text.count("done before, kept") == 4
    again = run_final(replace(config, ppo=replace(config.ppo, episodes=16)))
    assert again[:3] == records[:3]
    assert again[3].metrics["episodes"] == 16


@pytest.mark.slow
def test_a_mixture_of_experts_is_run_as_planned(plan):
    experts = ["pretrain.model.n_experts=4", "pretrain.model.top_k=2", "pretrain.model.d_expert=12"]
    (record,) = run_final(load_plan(plan, [*experts, "stages=pretrain", "pretrain.count=active"]))
    assert record.config["model"]["n_experts"] == 4
    assert record.params.active < record.params.total
    assert record.flops_6nd == 6 * record.params.multiplying * record.tokens


@pytest.mark.long
@pytest.mark.slow
def test_ranks_of_torchrun_pretrain_as_planned_and_keep_what_is_done(plan, final_config):
    def final(*arguments: str) -> str:
        ranks = ["-m", "torch.distributed.run", "--nproc-per-node=2", "-m", "scaling.final"]
        done = subprocess.run(
            [sys.executable, *ranks, f"plan={plan}", *arguments],
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"},
            timeout=240,
            check=False,
        )
        assert (done.returncode == 0) == ("stages=pretrain" in arguments), done.stderr
        return done.stderr

    assert final("stages=pretrain").count("the 95% interval") == 1
    two = read_record(final_folder(final_config) / "pretrain/record.json")
    assert (two.status, two.device_seconds) == ("done", 2 * two.seconds)
    assert "done before, kept" in final("stages=pretrain")
    assert "ranks of torchrun or srun train pretraining alone" in final()
    (one,) = run_final(replace(load_plan(plan), study="alone", stages="pretrain"))
    assert two.test_loss == pytest.approx(one.test_loss, rel=1e-5)


def test_what_cannot_be_trained_is_refused_while_the_former_run_is_still_there(plan):
    config = replace(load_plan(plan), stages="pretrain")
    run_final(config)
    before = (final_folder(config) / "pretrain/record.json").read_text()
    config = replace(config, machine=replace(config.machine, ranks=3), resume=False)
    with pytest.raises(ValueError, match="4 rows of a step cannot be shared by 3 ranks"):
        run_final(config)
    assert (final_folder(config) / "pretrain/record.json").read_text() == before


def test_the_seal_is_not_broken_by_a_later_forecast(plan):
    config = replace(load_plan(plan), stages="pretrain")
    run_final(config)
    config.forecast.test_loss = 1.0
    run_final(config)
    assert read_json(final_folder(config) / "forecast.json")["test_loss"] == 5.5


def test_another_tokenizer_is_refused(plan):
    config = load_plan(plan)
    run_final(replace(config, stages="pretrain"))
    path = final_folder(config) / "pretrain" / "record.json"
    record = json.loads(path.read_text())
    record["inputs"]["tokenizer"] = "0" * 64
    path.write_text(json.dumps(record))
    with pytest.raises(ValueError, match="another tokenizer"):
        run_final(replace(config, stages="sft"))


def test_a_diverged_stage_ends_the_run(plan):
    config = load_plan(plan, ["sft.peak_lr=1e30"])
    with pytest.raises(ValueError, match="stage sft ended as diverged"):
        run_final(config)
    record = read_json(final_folder(config) / "sft" / "record.json")
    assert record["status"] == "diverged"
    assert not (final_folder(config) / "reward").exists()


def test_a_plans_values_survive_as_plain_data(final_config):
    values = asdict(final_config)
    assert json.loads(json.dumps(values, allow_nan=False)) == values


def test_the_stages_before_a_refused_one_are_handed_over(plan):
    config, ended = replace(load_plan(plan), stages="pretrain,sft,reward"), []
    config.reward.peak_lr = 1e30
    with pytest.raises(ValueError, match="stage reward ended as diverged"):
        run_final(config, ended.append)
    assert [r.stage for r in ended] == ["pretrain", "sft"]
    assert len(summary(config, ended)) == 2


def test_gold_is_not_spoken_of_where_the_preferences_are_the_user_s(plan):
    config = load_plan(plan)
    records = run_final(config)
    assert "correlation with gold" in summary(config, records)[2]
    config.reward.data = "preferences.jsonl"
    assert "gold" not in summary(config, records)[2]
    assert "correlation with length" in summary(config, records)[2]
