"""Stages as cells of a sweep: what they start from, what they are, what they leave behind."""

import json
from contextlib import nullcontext
from dataclasses import replace

import pytest

from analysis.runs.table import load_runs
from scaling.budget import planned, resolve, workload
from scaling.config import BudgetConfig, CellConfig, PpoPlan, RewardPlan, SftPlan
from scaling.jobs.external_ranks import train_on_ranks
from scaling.jobs.tasks import JobTasks, parcels, tasks_of
from scaling.schema import read_json, read_record
from scaling.stages import ppo
from scaling.stages.cells import (
    best_policy,
    refuse_changed_files,
    resolve_policies,
    train_stages,
)
from scaling.study.lease import Pulse, Stopped
from scaling.study.places import cell_folder, record_path, status_of, trained_at
from scaling.train.trunk import train_trunk


@pytest.fixture
def cell(post_root, post_cell, tmp_path) -> CellConfig:
    """Fine-tuning of a model that trains in a blink."""
    cell_config = replace(
        post_cell,
        runs=str(tmp_path / "runs"),
        stage="sft",
        optim=replace(post_cell.optim, batch_tokens=96 * 4),
        budget=BudgetConfig(n_tokens=96 * 4 * 4),
        sft=SftPlan(examples=24, epochs=1, batch_examples=8),
        reward=RewardPlan(pairs=40, batch_pairs=12, samples_per_prompt=3),
        ppo=PpoPlan(episodes=16, batch_episodes=8, minibatch_episodes=8, max_new_tokens=12),
        machine=replace(post_cell.machine, device="cpu", cache=str(post_root / "cache")),
        log=replace(post_cell.log, wandb="disabled", every_seconds=1e9),
    )
    return cell_config


def train(*cells: CellConfig):
    return train_stages(list(cells), pulse=Pulse(), hold=lambda cell, folder: nullcontext())


def test_a_stage_is_another_cell_and_pretraining_stays_what_it_was(cell):
    body = cell.body()
    assert body.run_id() == replace(body, sft=SftPlan(examples=7)).run_id()
    assert cell.run_id() != replace(cell, sft=SftPlan(examples=7)).run_id() != body.run_id()
    assert cell.run_id() == replace(cell, reward=RewardPlan(pairs=7)).run_id()
    reasoned = replace(cell.sft, reasons={"examples": "all"}, forecast_loss=2.0)
    assert cell.run_id() == replace(cell, sft=reasoned).run_id()
    assert [replace(cell, stage=s).before().stage for s in ("sft", "reward", "ppo")] == [
        "pretrain", "sft", "reward",
    ]  # fmt: skip


def test_the_stages_before_are_trained_once_and_found_in_other_studies(cell):
    train(cell)
    body = cell.body()
    assert status_of(cell) == status_of(body) == "done"
    record = read_record(record_path(cell))
    assert (record.run_id, record.stage) == (cell.run_id(), "sft")
    assert record.peak_lr == pytest.approx(0.2 * resolve(cell).peak_lr)
    other = replace(cell, study="other", sft=replace(cell.sft, method="lora", lora_rank=2))
    assert trained_at(other.before()) == cell_folder(body)
    train(other)
    assert status_of(other) == "done"
    assert not record_path(other.body()).exists()
    assert planned(other).sft.peak_lr == pytest.approx(10 * record.peak_lr)


@pytest.mark.slow
def test_a_way_to_ppo_trains_every_stage(cell, monkeypatch):
    monkeypatch.setattr(ppo, "refuse_chance", lambda stage: None)
    cell = replace(cell, stage="ppo")
    before = cell.before()
    reward = read_json_of(train, before)
    assert reward["config"]["before"]["sft"]["examples"] == 24
    train(cell)
    runs = load_runs(cell_folder(cell).parent, needed=("kl", "reward"), stage="ppo")
    assert len(runs) == 1
    assert runs.table["kl"][0] > 0
    assert {d["why"].split(",")[0] for d in runs.dropped} == {
        "stage is pretrain", "stage is sft", "stage is reward",
    }  # fmt: skip


@pytest.mark.slow
def test_a_reward_model_of_another_rung_judges_the_policy(cell, monkeypatch):
    monkeypatch.setattr(ppo, "refuse_chance", lambda stage: None)
    own = replace(cell, stage="ppo")
    cell = replace(own, ppo=replace(cell.ppo, reward_model="m4k"))
    before = cell.before()
    assert (before.stage, before.model.d_model) == ("reward", 12)
    assert before.run_id() == replace(own, model=before.model).before().run_id()
    assert cell.run_id() != own.run_id()
    named = replace(own, model=before.model)
    assert replace(named, ppo=cell.ppo).run_id() == named.run_id()  # its own rung is no other
    train(cell)
    record = read_record(record_path(cell))
    assert status_of(replace(own, stage="sft")) == status_of(before.before()) == "done"
    assert status_of(replace(own, stage="reward")) == "missing"
    assert record.metrics["reward_params"] < record.params.total == resolve(own).shape.params.total
    with pytest.raises(
        ValueError, match=r"ppo.reward_model=m3k is no rung; choose one of .*m11m, "
    ):
        replace(cell, ppo=replace(cell.ppo, reward_model="m3k")).before()


def read_json_of(train, cell: CellConfig) -> dict:
    train(cell)
    return read_json(record_path(cell))


@pytest.mark.slow
def test_reward_models_of_two_seeds_learn_from_one_policys_pairs(cell):
    train(cell)
    policy = best_policy(str(cell_folder(cell).parent))
    assert policy == cell_folder(cell)
    cells = [
        replace(
            cell,
            stage="reward",
            reward=replace(cell.reward, policy=str(policy), pairs=n, seed=seed),
        )
        for n, seed in ((20, 0), (40, 0), (20, 1))
    ]
    resolve_policies(cells)
    assert len({c.run_id() for c in cells}) == 3
    train(*cells)
    pairs_folder = cell_folder(cell).parent / ".pairs"
    assert len(list(pairs_folder.glob("*/test.json"))) == 1
    assert {p.name for p in pairs_folder.glob("*/seed-*")} == {"seed-0", "seed-1"}
    metrics = [read_record(record_path(c)).metrics for c in cells]
    assert metrics[0]["test_pairs"] == metrics[1]["test_pairs"] == metrics[2]["test_pairs"]
    assert metrics[0]["pairs"] < metrics[1]["pairs"]


def test_no_policy_is_said(cell, tmp_path):
    cell = replace(cell, stage="reward", reward=replace(cell.reward, policy=str(tmp_path)))
    with pytest.raises(FileNotFoundError, match="holds no fine-tuned model; sweep stage=sft"):
        resolve_policies([cell])


def test_what_a_stage_starts_from_is_named_when_it_fails(cell):
    broken = replace(cell, stage="reward", sft=replace(cell.sft, data="gone.jsonl"))
    with pytest.raises(RuntimeError, match=r"the sft it starts from, \w{10}, failed: .*gone"):
        train(broken)


@pytest.mark.slow
def test_a_stage_that_is_asked_to_stop_goes_on_from_its_checkpoint(cell, monkeypatch):
    whole = read_json_of(train, replace(cell, study="whole"))
    pulse = Pulse()
    from scaling.stages import loop

    saved = loop.Saver.save

    def save(saver):
        saved(saver)
        steps.append(saver.tally.step)

    steps: list[int] = []
    monkeypatch.setattr(loop.Saver, "save", save)
    train_trunk([cell.body()])
    pulse.stop = "preempted"
    with pytest.raises(Stopped, match="preempted"):
        train_stages([cell], pulse=pulse, hold=lambda cell, folder: nullcontext())
    assert steps == [1]
    assert status_of(cell) == "missing"
    record = read_json_of(train, cell)
    assert record["test_loss"] == whole["test_loss"]
    assert record["steps"] == whole["steps"] == 3


def test_tasks_group_by_model_until_it_is_there(cell):
    cells = [replace(cell, sft=replace(cell.sft, examples=n)) for n in (8, 16, 24)]
    assert [len(t.cells) for t in tasks_of(cells)] == [3]
    assert JobTasks.from_dict(
        JobTasks(round="r", tasks=tasks_of(cells)).to_dict()
    ).tasks == tasks_of(cells)
    assert [len(p.tasks) for p in parcels(cells, cells_per_job=0, branches="jobs")] == [1]
    train_trunk([cell.body()])
    tasks = tasks_of(cells)
    assert [(t.part, len(t.cells)) for t in tasks] == [("branch", 1)] * 3
    assert [t.cells[0].sft.examples for t in tasks] == [24, 16, 8]
    assert [len(p.tasks) for p in parcels(cells, cells_per_job=2, branches="trunk")] == [2, 1]


def test_every_stage_has_a_cost(cell):
    costs = [workload(replace(cell, stage=s)) for s in ("pretrain", "sft", "reward", "ppo")]
    assert [steps for _, steps in costs] == [4, 3, 4, 2]
    assert all(flops > 0 for flops, _ in costs)
    adapters = replace(cell, sft=replace(cell.sft, method="lora"))
    assert workload(adapters)[0] == pytest.approx(costs[1][0] * 2 / 3)


def test_several_ranks_are_refused_to_a_stage(cell):
    with pytest.raises(ValueError, match="stage=sft is trained by one process; start it without"):
        train_on_ranks(cell)


def test_rows_that_were_changed_after_a_cell_learned_from_them_are_refused(cell, tmp_path):
    rows, path = (
        [{"prompt": f"p{i}", "completion": f"c{i}"} for i in range(40)],
        tmp_path / "a.jsonl",
    )
    path.write_text("".join(f"{json.dumps(r)}\n" for r in rows))
    cell = replace(cell, sft=replace(cell.sft, data=str(path)))
    refuse_changed_files([cell])  # nothing has learned from it
    train(cell)
    refuse_changed_files([cell, replace(cell, stage="ppo")])
    path.write_text(path.read_text().replace("c7", "other"))
    for cell_config in (cell, replace(cell, stage="ppo")):
        with pytest.raises(ValueError, match=rf"sft\.data=.*after cell {cell.run_id()} learned"):
            refuse_changed_files([cell_config])
