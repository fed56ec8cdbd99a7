import itertools
import json
import math
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from scaling.budget import resolve
from scaling.config import BranchConfig, BudgetConfig
from scaling.schema import read_curve, read_record
from scaling.study.lease import Holder, Lease, Pulse, Stopped, take
from scaling.study.places import cell_folder, trunk_folder
from scaling.train import checkpoint, heldout, requests, tensor_files
from scaling.train import step as step_module
from scaling.train import trunk as trunk_module
from scaling.train.device import has_compiler, pick_device
from scaling.train.health import copy_matrices, probe
from scaling.train.step import new_run, prepare, train_step
from scaling.train.trunk import train_trunk

UNEQUAL = {
    "seconds",
    "device_seconds",
    "tokens_per_second",
    "mfu",
    "started",
    "ended",
    "peak_memory_bytes",
    "config",
}


def science(record) -> dict:
    return {k: v for k, v in vars(record).items() if k not in UNEQUAL}


def curve(cell) -> list[dict]:
    rows = read_curve(cell_folder(cell) / "metrics.jsonl")
    return [{k: v for k, v in r.items() if k not in ("seconds", "tokens_per_second")} for r in rows]


CURVE_COST = "curve_test_flops"


class Killed(Exception):
    """Stands for a kill between two steps."""


def test_branches_of_a_trunk_equal_cells_trained_alone(make_cell, tmp_path):
    together = train_trunk([make_cell(n_tokens=n) for n in (1024, 2048)])
    alone = replace(make_cell(n_tokens=2048), runs=str(tmp_path / "alone"))
    assert science(train_trunk([alone])[0]) == science(together[1])
    assert together[0].test_loss > together[1].test_loss > 0
    assert together[0].trunk == together[1].trunk


@pytest.mark.slow
@pytest.mark.parametrize(
    ("schedule", "model", "optimizer"),
    [
        ("wsd", {}, "adamw"),
        ("cosine", {}, "adamw"),
        ("wsd", {"n_experts": 4, "parametrization": "completep"}, "adamw"),
        ("wsd", {}, "muon"),
    ],
    ids=["wsd", "cosine", "experts", "muon"],
)
def test_resume_matches_unbroken_run(make_cell, tmp_path, monkeypatch, schedule, model, optimizer):
    cell = make_cell(n_tokens=4096, model=model, optim={"name": optimizer})
    cell.schedule.name = schedule
    whole = train_trunk([replace(cell, runs=str(tmp_path / "whole"))])[0]
    unbroken = curve(replace(cell, runs=str(tmp_path / "whole")))
    cell.machine.checkpoint_seconds = 0.0
    for stop in (7, 23, 58, 61):
        with monkeypatch.context() as patch:
            patch.setattr(step_module, "train_step", dying(step_module.train_step, stop))
            with pytest.raises(Killed):
                train_trunk([cell])
    assert not (cell_folder(cell) / "record.json").exists()
    resumed = train_trunk([cell])[0]
    assert science(resumed) == science(whole)
    assert curve(cell) == unbroken


def dying(step, stop):
    def wrapped(run, setting, clip):
        if run.step == stop:
            raise Killed
        return step(run, setting, clip)

    return wrapped


def test_a_done_cell_is_not_trained_again(make_cell, monkeypatch):
    cell = make_cell()
    first = train_trunk([cell])[0]
    monkeypatch.setattr(step_module, "train_step", lambda *a: pytest.fail("trained again"))
    assert train_trunk([cell])[0] == first


@pytest.mark.slow
def test_a_larger_budget_continues_the_trunk_and_a_smaller_one_is_the_same_as_before(
    make_cell, tmp_path
):
    train_trunk([make_cell(n_tokens=2048)])
    grown = [train_trunk([make_cell(n_tokens=n)])[0] for n in (4096, 1024)]
    fresh = [
        train_trunk([replace(make_cell(n_tokens=n), runs=str(tmp_path / "fresh"))])[0]
        for n in (1024, 4096)
    ]
    assert [science(r) for r in grown] == [science(r) for r in reversed(fresh)]


def test_a_diverging_cell_becomes_a_record_and_its_better_branch_stays(make_cell, monkeypatch):
    cells = [make_cell(n_tokens=n) for n in (1024, 8192)]
    late = resolve(cells[0]).n_steps + 5

    def exploding(run, setting, clip):
        loss, norm = train_step(run, setting, clip)
        return (loss * math.nan if run.step > late else loss), norm

    monkeypatch.setattr(step_module, "train_step", exploding)
    small, large = train_trunk(cells)
    assert (small.status, large.status) == ("done", "diverged")
    assert large.test_loss is None
    assert "lower optim.peak_lr" in large.error
    assert "NaN" not in (cell_folder(cells[1]) / "record.json").read_text()


def test_one_batch_overfits(make_cell):
    cell = make_cell(model={"d_model": 32}, optim={"peak_lr": 0.02})
    setting = prepare(cell, lambda flops: None)
    run = new_run(setting)
    fixed = setting.batches(0)
    setting = replace(setting, batches=lambda step: fixed)
    losses = [float(train_step(run, setting, 1.0)[0]) for _ in range(200)]
    assert losses[-1] < 0.2 * losses[0]


def test_the_record_holds_what_the_contract_names(make_cell):
    cell = make_cell()
    record = train_trunk([cell])[0]
    assert record == read_record(cell_folder(cell) / "record.json")
    assert record.bits_per_byte == pytest.approx(
        record.test_loss / math.log(2) / prepare(cell, lambda f: None).corpus.bytes_per_token
    )
    assert record.test_loss_se > 0
    assert 0 < record.mfu < 1.5
    assert record.config["model"]["d_ff"] == 48
    rows = curve(cell)
    assert [r["step"] for r in rows] == sorted({r["step"] for r in rows})
    assert rows[-1]["tokens"] == record.tokens
    assert rows[-1]["train_loss"] == record.train_loss


def test_checkpoints_of_another_model_are_refused(make_cell, tmp_path):
    run = new_run(prepare(make_cell(), lambda f: None))
    other = new_run(prepare(make_cell(model={"d_model": 32}), lambda f: None))
    checkpoint.save(tmp_path, model=run.model, state={"a": 1})
    with pytest.raises(ValueError, match="is of another model"):
        checkpoint.load(tmp_path, model=other.model)


def test_a_failing_write_leaves_the_former_checkpoint(make_cell, tmp_path, monkeypatch):
    run = new_run(prepare(make_cell(), lambda f: None))
    checkpoint.save(tmp_path, model=run.model, state={"step": 1})

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tensor_files, "save_file", full)
    with pytest.raises(OSError, match="free space"):
        checkpoint.save(tmp_path, model=run.model, state={"step": 2})
    assert checkpoint.load(tmp_path, model=run.model) == {"step": 1}
    assert [p.name for p in Path(tmp_path).iterdir()] == ["checkpoint.safetensors"]


@pytest.mark.slow
def test_wandb_that_cannot_write_is_said_once_and_harms_nothing(make_cell, monkeypatch, caplog):
    from scaling.study import wandb_mirror as mirror

    mirror._logged.clear()
    cells = [make_cell(n_tokens=n) for n in (1024, 2048)]
    for cell in cells:
        cell.log.wandb = "offline"
        blocked = Path(cell.runs) / cell.study / "wandb"
        blocked.parent.mkdir(parents=True, exist_ok=True)
        blocked.write_text("a file where the mirror wants its folder")
    records = train_trunk(cells)
    assert [r.status for r in records] == ["done", "done"]
    assert sum("wandb is off" in m for m in caplog.messages) == 1


def test_the_learning_rate_warms_up_holds_and_decays():
    from scaling.config import ScheduleConfig
    from scaling.optim.schedule import lr_factor

    wsd = [lr_factor(s, schedule=ScheduleConfig(), n_steps=100, decay_start=80) for s in range(100)]
    assert wsd[0] == 0.1
    assert wsd[9:80] == [1.0] * 71
    assert all(a > b for a, b in itertools.pairwise(wsd[79:]))
    assert wsd[-1] < 0.05
    cosine = ScheduleConfig(name="cosine", floor=0.1)
    assert lr_factor(999, schedule=cosine, n_steps=1000, decay_start=0) == pytest.approx(
        0.1, abs=1e-4
    )


def test_curve_rows_are_json_lines(make_cell):
    cell = make_cell()
    train_trunk([cell])
    text = (cell_folder(cell) / "metrics.jsonl").read_text()
    assert all(json.loads(line) for line in text.splitlines())
    assert torch.get_num_threads() == 1


def wandb_records(path: Path) -> list:
    """Read an offline file, a log of LevelDB's format: blocks of 32 KiB, headers of 7 bytes."""
    from wandb.proto import wandb_internal_pb2

    data, place, held, found = path.read_bytes(), 7, b"", []
    while place + 7 <= len(data):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
            continue
        size, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        held += data[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # whole, or the last of its parts
            found.append(wandb_internal_pb2.Record.FromString(held))
            held = b""
    return found


@pytest.mark.slow
def test_a_resumed_cell_leaves_one_wandb_folder_of_one_id_with_each_step_once(make_cell):
    from scaling.config import LogConfig
    from scaling.study.curve import RunLog

    cell = make_cell()
    config = LogConfig(wandb="offline", tags=["tuned"])
    folder = cell_folder(cell)
    rows = [{"step": s, "tokens": s, "flops": 1.0, "train_loss": 1.0 / s} for s in (10, 20, 30)]
    with RunLog(folder, config, name=cell.run_id(), group="tiny") as first:
        first.extend(rows[:2])
    with RunLog(folder, config, name=cell.run_id(), group="tiny", resume_step=10) as second:
        second.extend(rows[1:])
    (left,) = (folder.parent / "wandb").glob("offline-run-*")
    assert left.name.endswith(f"-tiny-{cell.run_id()}")
    deadline = time.monotonic() + 20  # wandb's own process writes on for a moment
    while not (records := wandb_records(next(left.glob("*.wandb")))) or not records[-1].HasField(
        "exit"
    ):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert [r.history.step.num for r in records if r.HasField("history")] == [10, 20, 30]
    run = next(r.run for r in records if r.HasField("run"))
    assert (run.run_id, run.run_group) == (f"tiny-{cell.run_id()}", "tiny")
    assert list(run.tags) == ["tiny", "tuned"]


@pytest.mark.slow
def test_a_worker_that_is_told_to_stop_leaves_a_checkpoint_and_goes_on_from_it(
    make_cell, tmp_path, monkeypatch
):
    cell = make_cell(n_tokens=4096)
    whole = train_trunk([replace(cell, runs=str(tmp_path / "whole"))])[0]
    for stop in (5, 30, 61):
        pulse = Pulse()

        def step(run, setting, clip, pulse=pulse, stop=stop):
            pulse.stop = "preempted" if run.step + 1 == stop else ""
            return train_step(run, setting, clip)

        with monkeypatch.context() as patch:
            patch.setattr(step_module, "train_step", step)
            with pytest.raises(Stopped, match="preempted"):
                train_trunk([cell], pulse=pulse)
        assert pulse.step == stop
    assert science(train_trunk([cell])[0]) == science(whole)
    rows = curve(cell)
    assert rows == curve(replace(cell, runs=str(tmp_path / "whole")))
    assert len({r["step"] for r in rows}) == len(rows)


def test_a_changed_config_or_default_is_another_cell(make_cell, monkeypatch):
    from scaling import config

    cell = make_cell()
    assert replace(cell, retry=3, detach=True, runs="elsewhere").run_id() == cell.run_id()
    assert replace(cell, seed=1).run_id() != cell.run_id()
    before = make_cell().run_id()
    monkeypatch.setattr(
        config.OptimConfig.__init__, "__kwdefaults__",
        config.OptimConfig.__init__.__kwdefaults__ | {"weight_decay": 0.2},
    )  # fmt: skip
    assert make_cell().run_id() != before


def test_a_kill_while_a_cell_resumes_costs_no_row_of_its_curve(make_cell, tmp_path, monkeypatch):
    from scaling.study import wandb_mirror as mirror

    cell = make_cell(n_tokens=4096)
    train_trunk([replace(cell, runs=str(tmp_path / "whole"))])
    pulse = Pulse()

    def late(run, setting, clip):
        pulse.stop = "preempted" if run.step == 60 else ""
        return train_step(run, setting, clip)

    with monkeypatch.context() as patch, suppress(Stopped):
        patch.setattr(step_module, "train_step", late)
        train_trunk([cell], pulse=pulse)
    assert pulse.step == 61

    def killed(self, row):
        raise Killed

    with monkeypatch.context() as patch, suppress(Killed):
        patch.setattr(mirror.Mirror, "log", killed)
        train_trunk([cell])
    assert not (cell_folder(cell) / "record.json").exists()
    train_trunk([cell])
    assert curve(cell) == curve(replace(cell, runs=str(tmp_path / "whole")))


@pytest.mark.slow
def test_a_trunk_that_resumes_beyond_a_kept_point_leaves_it_as_it_was(
    make_cell, tmp_path, monkeypatch
):
    cells, pulse = [make_cell(n_tokens=n) for n in (1024, 4096)], Pulse()

    def late(run, setting, clip):
        pulse.stop = "preempted" if run.step == 30 else ""
        return train_step(run, setting, clip)

    with monkeypatch.context() as patch, suppress(Stopped):
        patch.setattr(step_module, "train_step", late)
        train_trunk(cells, pulse=pulse, part="trunk")
    assert pulse.step == 31
    train_trunk(cells, part="trunk")
    parted = [train_trunk([cell], part="branch")[0] for cell in cells]
    whole = train_trunk([replace(c, runs=str(tmp_path / "whole")) for c in cells])
    assert list(map(science, parted)) == list(map(science, whole))


def halted(cells, *, at: int, part: str = "all") -> None:
    """Train up to a step and leave a checkpoint there."""
    pulse = Pulse()

    def late(run, setting, clip):
        pulse.stop = "preempted" if run.step == at - 1 else pulse.stop
        return train_step(run, setting, clip)

    with pytest.MonkeyPatch.context() as patch, suppress(Stopped):
        patch.setattr(step_module, "train_step", late)
        train_trunk(cells, pulse=pulse, part=part)
    assert pulse.step == at


SPOILS = {
    "odd": lambda rows: [rows[0], "what is this", *rows[1:]],
    "cut": lambda rows: [rows[0], rows[1][:20], *rows[2:]],
    "no object": lambda rows: ["17", *rows],
    "rows missing": lambda rows: rows[:1],
}


@pytest.mark.slow
@pytest.mark.parametrize("how", SPOILS)
@pytest.mark.parametrize("at", [31, 60], ids=["trunk", "branch"])
def test_a_damaged_curve_sends_a_cell_back_to_where_it_was_whole(
    make_cell, tmp_path, caplog, how, at
):
    cell = make_cell(n_tokens=4096)
    (whole,) = train_trunk([replace(cell, runs=str(tmp_path / "whole"))])
    unbroken = curve(replace(cell, runs=str(tmp_path / "whole")))
    halted([cell], at=at)
    folder = trunk_folder(cell) if at == 31 else cell_folder(cell)
    path = folder / "metrics.jsonl"
    path.write_text("\n".join(SPOILS[how](path.read_text().splitlines())) + "\n")
    (record,) = train_trunk([cell])
    assert science(record) == science(whole)
    assert curve(cell) == unbroken
    aside = sorted(p.name for p in folder.glob("*damaged*"))
    assert aside == ["checkpoint.damaged-1.safetensors", "metrics.damaged-1.jsonl"]
    assert "metrics.jsonl is damaged and set aside as metrics.damaged-1.jsonl" in caplog.text


@pytest.mark.slow
def test_a_branch_whose_state_is_damaged_after_its_trunk_went_on_starts_the_trunk_again(
    make_cell, tmp_path
):
    cells = [make_cell(n_tokens=n) for n in (1024, 4096)]
    whole = train_trunk([replace(c, runs=str(tmp_path / "whole")) for c in cells])
    halted(cells[:1], at=15)  # in the short cell's decay, after step 13
    halted(cells[1:], at=40)  # the trunk is beyond it
    (cell_folder(cells[0]) / "metrics.jsonl").write_text("?\n?\n")
    assert list(map(science, train_trunk(cells))) == list(map(science, whole))


def test_a_test_loss_on_the_way_that_is_no_number_is_left_out_of_the_curve(
    make_cell, monkeypatch, caplog
):
    cell, seen = make_cell(), []

    def spoiled(model, test, *, windows=None):
        score = heldout.evaluate(model, test, windows=windows)
        seen.append(windows)
        return replace(score, loss=math.nan) if windows and len(seen) == 1 else score

    monkeypatch.setattr(requests, "evaluate", spoiled)
    pulse = Pulse()
    (record,) = train_trunk([cell], pulse=pulse)
    assert record.status == "done"
    rows = curve(cell)
    assert "test_loss" not in rows[0]
    assert any("test_loss" in r for r in rows[1:])
    assert "NaN" not in (trunk_folder(cell) / "metrics.jsonl").read_text()
    assert "is not finite, and left out" in caplog.text


@pytest.mark.slow
def test_a_worker_that_was_taken_over_writes_nothing_more(make_cell, monkeypatch):
    cell, pulse = make_cell(n_tokens=4096), Pulse()
    cell.machine.checkpoint_seconds = 0.0  # it wants to write after every step
    folder, files = cell_folder(cell), {}

    def asleep(run, setting, clip):
        if run.step == 60:
            take(folder, replace(Holder.here(round="r", job="1_0"), pid=1))
            files.update({p: p.read_bytes() for p in states()})
        return train_step(run, setting, clip)

    def states():
        places = (folder, trunk_folder(cell))
        return [p for place in places for p in place.glob("*") if p.is_file()]

    monkeypatch.setattr(step_module, "train_step", asleep)
    holder = replace(Holder.here(round="r", job="1_0"), pid=2)
    with pytest.raises(Stopped, match="superseded"), Lease(folder, holder, pulse):
        train_trunk([cell], pulse=pulse)
    assert {p: p.read_bytes() for p in states()} == files
    assert len(files) > 2


def spoilt(steps, factor):
    """Return a training step whose gradients of some steps are multiplied by a factor."""

    def step(run, setting, clip):
        if run.step not in steps:
            return train_step(run, setting, clip)
        clip_whole = run.passes.clip

        def clip_spoilt(most):
            run.passes.gradient.mul_(factor)
            return clip_whole(most)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(run.passes, "clip", clip_spoilt)
            return train_step(run, setting, clip)

    return step


@pytest.mark.parametrize(("factor", "spike"), [(math.nan, 0.0), (1e4, 10.0)], ids=["nan", "spike"])
def test_bad_steps_are_skipped_and_said(make_cell, monkeypatch, caplog, factor, spike):
    cell = make_cell(n_tokens=4096, optim={"spike_factor": spike, "max_skipped": 3})
    monkeypatch.setattr(step_module, "train_step", spoilt({20, 21, 33}, factor))
    (record,) = train_trunk([cell])
    assert (record.status, record.flags) == ("done", ["skipped_steps"])
    assert math.isfinite(record.test_loss)
    assert sum("is skipped" in m for m in caplog.messages) == 3
    rows = curve(cell)
    assert rows[-1]["skipped_steps"] == 3
    assert max(r["grad_norm"] for r in rows) < 100


def test_more_bad_steps_than_the_bound_are_a_divergence(make_cell, monkeypatch):
    cell = make_cell(n_tokens=4096, optim={"max_skipped": 2})
    monkeypatch.setattr(step_module, "train_step", spoilt(set(range(30, 64)), math.nan))
    (record,) = train_trunk([cell])
    assert record.status == "diverged"
    assert record.steps == 32
    assert "optim.max_skipped=2" in record.error


def test_a_skipped_step_leaves_weights_and_moments_as_they_were(make_cell):
    setting = prepare(make_cell(), lambda flops: None)
    run = new_run(setting)
    train_step(run, setting, 1.0)
    held = checkpoint.snapshot(run.model, run.optimizer)
    spoilt({0}, math.nan)(run, setting, 1.0)
    after = checkpoint.snapshot(run.model, run.optimizer)
    assert all(torch.equal(held[name], after[name]) for name in held)


def test_rows_hold_the_health_of_the_model_and_can_do_without(make_cell, tmp_path):
    names = {"update_ratio", "rms_mlp", "rms_stream", "rms_logits", "attention_logit_max"}
    cell = make_cell()
    (watched,) = train_trunk([cell])
    assert all(names <= row.keys() for row in curve(cell))
    assert 1e-4 < curve(cell)[0]["update_ratio"] < 1
    blind = replace(cell, runs=str(tmp_path / "blind"), log=replace(cell.log, health=False))
    (unwatched,) = train_trunk([blind])
    assert science(watched) == science(unwatched)
    assert not names & curve(blind)[0].keys()


def test_a_run_that_ends_hot_is_flagged(make_cell):
    cell = make_cell(n_tokens=4096)
    cell.schedule.decay = 0.05
    assert train_trunk([cell])[0].flags == ["undercooled"]
    cell.schedule.decay = 0.3
    assert train_trunk([cell])[0].flags == []


@pytest.mark.slow
@pytest.mark.many(3)
@pytest.mark.parametrize("model", [{}, {"n_experts": 4}, {"norm": "layernorm"}])
def test_a_deterministic_run_gives_its_bits_twice_on_two_threads(make_cell, tmp_path, model):
    cell = make_cell(model=model)
    machine = replace(cell.machine, deterministic=True, threads=2)
    runs = [replace(cell, machine=machine, runs=str(tmp_path / name)) for name in "ab"]
    first, second = (train_trunk([run])[0] for run in runs)
    assert science(first) == science(second)
    assert curve(runs[0]) == curve(runs[1])
    pick_device(cell.machine)


@pytest.mark.long
@pytest.mark.slow  # the compiler takes its time
@pytest.mark.filterwarnings("ignore")  # the compiler warns of its own ways
@pytest.mark.skipif(not has_compiler(), reason="no C++ compiler; install g++ to run this")
def test_a_compiled_model_trains_alike_and_its_health_is_seen(make_cell):
    cell = make_cell()
    losses, probes = [], []
    for compiled in (False, True):
        machine = replace(cell.machine, compile=compiled)
        setting = prepare(replace(cell, machine=machine), lambda flops: None)
        run = new_run(setting)
        assert (run.passes is None) == compiled
        losses.append([float(train_step(run, setting, 1.0)[0]) for _ in range(3)])
        probes.append(probe(run.model, torch.from_numpy(setting.test.inputs[:2])))
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert probes[1] == pytest.approx(probes[0], rel=1e-3)


@pytest.mark.slow
def test_the_trunk_is_copied_for_every_branch_but_the_last(make_cell, monkeypatch):
    copies = []

    def counted(model, optimizer):
        copies.append(1)
        return snapshot(model, optimizer)

    snapshot = checkpoint.snapshot
    monkeypatch.setattr(checkpoint, "snapshot", counted)
    train_trunk([make_cell(n_tokens=n) for n in (1024, 1536, 2048)])
    assert len(copies) == 2
    train_trunk([make_cell(n_tokens=3072)])
    train_trunk([make_cell(n_tokens=1024, seed=1)])
    assert len(copies) == 2


def test_what_training_copies_is_counted(make_cell):
    cell = make_cell()
    n = resolve(cell).shape.params.total
    matrices = sum(w.numel() for w in copy_matrices(new_run(prepare(cell, print)).model))
    assert resolve(cell).copied_bytes == 12 * n + 4 * matrices
    cell.log.health, cell.schedule.name = False, "cosine"
    assert resolve(cell).copied_bytes == 0


def test_blocks_compiled_for_another_shape_are_forgotten(make_cell, monkeypatch):
    """torch compiles one piece of code eight times, and computes it uncompiled from then on."""
    resets = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: None)
    monkeypatch.setattr(torch.compiler, "reset", lambda: resets.append(1))
    monkeypatch.setattr(step_module, "compiled_for", None)
    for width, seed in ((16, 0), (16, 1), (32, 0), (32, 1), (16, 0)):
        cell = make_cell(model={"d_model": width}, seed=seed)
        cell.machine.compile = True
        new_run(prepare(cell, lambda flops: None))
    assert len(resets) == 2


def branching(make_cell, factor=1, *, at=1024, tokens=512, **settings):
    """Return a branch with another batch than its trunk."""
    branch = BranchConfig(at_tokens=at, tokens=tokens, batch_factor=factor, **settings)
    return replace(make_cell(), budget=BudgetConfig(), branch=branch)


def test_a_branch_of_another_batch_equals_one_trained_alone_and_leaves_the_trunk_as_it_was(
    make_cell, tmp_path
):
    usual = make_cell(n_tokens=2560)  # leaves at 2048 tokens, after every branch
    cells = [usual, *(branching(make_cell, k, at=at) for at in (1536, 1024) for k in (4, 1, 2))]
    assert len({c.trunk_id() for c in cells}) == 1
    records = {r.run_id: r for r in train_trunk(cells)}
    for cell in (usual, cells[1], cells[5]):
        alone = replace(cell, runs=str(tmp_path / f"alone-{cell.run_id()}"))
        one, shared = science(train_trunk([alone])[0]), science(records[cell.run_id()])
        for values in (one, shared):  # the trunk's test losses are those of its longest cell
            values["metrics"] = {k: v for k, v in values["metrics"].items() if k != CURVE_COST}
        assert one == shared
    four = records[cells[1].run_id()]
    assert (four.tokens, four.batch_tokens, four.steps) == (2048, 256, 24 + 2)
    assert four.peak_lr == pytest.approx(2 * records[usual.run_id()].peak_lr)
    assert curve(cells[1])[-1]["tokens"] == 2048


def test_branches_of_every_batch_see_the_same_windows(make_cell):
    setting = prepare(branching(make_cell), lambda flops: None)
    windows = []
    for factor in (1, 4):
        cell = branching(make_cell, factor)
        own, r = setting.for_branch(cell), resolve(cell)
        steps = range(r.leaves, r.n_steps)
        windows.append(np.concatenate([own.batches(step)[0] for step in steps]))
    trunk = np.concatenate([setting.batches(step)[0] for step in range(16, 24)])
    assert np.array_equal(windows[0], windows[1])
    assert np.array_equal(windows[0], trunk)


def test_the_rate_of_a_branch_follows_its_batch_by_the_rule(make_cell, monkeypatch):
    rates = []
    monkeypatch.setattr(trunk_module, "set_lr", lambda optimizer, factor: rates.append(factor))
    for rule in ("sqrt", "linear", "none"):
        cell = branching(make_cell, 4, lr_rule=rule, tokens=2560)  # 16 steps, then 10
        train_trunk([replace(cell, runs=f"{cell.runs}-{rule}")])
    at_whole_rate = [rates[26 * i + 16 + 7] for i in range(3)]
    assert at_whole_rate == [2.0, 4.0, 1.0]
    assert rates[15] == 1.0


def test_a_branch_that_was_killed_goes_on_where_it_stopped(make_cell, tmp_path, monkeypatch):
    cells = [branching(make_cell, k) for k in (1, 2)]
    unbroken = train_trunk([replace(c, runs=str(tmp_path / "unbroken")) for c in cells])
    steps = itertools.count()

    def step(self):
        if next(steps) == 20:  # within the first branch
            raise Killed
        return step_module.step_or_advise(self.run, self.setting, self.clip)

    with monkeypatch.context() as patch:
        patch.setattr(requests.StepRequest, "answer", step)
        with suppress(Killed):
            train_trunk(cells)
    assert list(map(science, train_trunk(cells))) == list(map(science, unbroken))
