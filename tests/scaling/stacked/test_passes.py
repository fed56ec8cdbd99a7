"""Cells of one shape trained together against the same cells trained alone."""

import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from scaling.budget import by_trunk
from scaling.config import ModelConfig
from scaling.cpu.passes import Passes
from scaling.jobs import tasks as job_tasks
from scaling.jobs.pool import Pool, Running
from scaling.jobs.stalls import ProcessWatch
from scaling.jobs.tasks import ExitCode, JobTasks, stack_key, tasks_of
from scaling.jobs.worker import make_workers, train
from scaling.model.transformer import Transformer
from scaling.schema import read_curve, read_record
from scaling.stacked import passes
from scaling.stacked.passes import StackedPasses, StackedWeights
from scaling.stacked.runs import StackedRuns
from scaling.study.lease import Holder, Lease, Pulse, attempts, last_attempt, take
from scaling.study.places import cell_folder, trunk_folder
from scaling.train import trunk, trunk_state
from scaling.train.trunk import train_trunk

CPU = torch.device("cpu")
VOCAB, ROWS, CONTEXT = 300, 3, 16
MODELS = {
    "default": {},
    "heads": {"n_layer": 3, "d_model": 48, "d_head": 8},
    "untied": {"tied": False},
    "sinusoidal": {"positions": "sinusoidal"},
    "plain_embedding": {"embedding_norm": False},
    "completep": {"n_layer": 4, "d_model": 64, "parametrization": "completep"},
    "narrow": {"d_model": 8, "d_head": 2, "d_ff": 5},
}
LOSS, ROW = 2e-4, 5e-3  # relative, of what rounding grows to over a run of these tests


def models(count: int, **config: object) -> list[Transformer]:
    """Return models of one shape whose every weight is away from where it starts."""
    torch.manual_seed(0)
    made = []
    for _ in range(count):
        model = Transformer(ModelConfig(**config), vocab_size=VOCAB, context=CONTEXT)
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(0.1 * torch.randn_like(weight))
        made.append(model)
    return made


def batches(count: int, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(VOCAB, (count, ROWS, CONTEXT + 1), generator=generator)
    return tokens[..., :-1], tokens[..., 1:]


def stacked(members: list[Transformer], *, gradient: bool = True) -> StackedPasses:
    weights, given = (StackedWeights(members[0], len(members), CPU) for _ in range(2))
    weights.fill(members)
    return StackedPasses(
        members[0].config, weights, given if gradient else None, rows=ROWS, context=CONTEXT
    )


@pytest.mark.parametrize("tile", [1 << 19, 1 << 16, 1 << 13], ids=["all", "models", "tokens"])
@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
@torch.no_grad()
def test_losses_and_every_gradient_equal_those_of_one_model(model, tile, monkeypatch):
    monkeypatch.setattr("scaling.stacked.passes.LOGIT_BYTES", tile)
    members = models(3, **model)
    passes = stacked(members)
    passes(*batches(3, seed=2))  # what a first batch leaves in the buffers must not matter
    x, y = batches(3)
    losses = passes(x, y)
    each = passes.losses(x, y).mean((1, 2))
    assert len(passes.head.tiles) >= {1 << 19: 1, 1 << 16: 3, 1 << 13: 9}[tile]
    for row, member in enumerate(members):
        alone = Passes(member, rows=ROWS, context=CONTEXT)
        loss = float(alone([(x[row], y[row])]))
        assert float(losses[row]) == pytest.approx(loss, rel=1e-6)
        assert float(each[row]) == pytest.approx(loss, rel=1e-6)
        for name, weight in member.named_parameters():
            given = passes.gradient.named[name][row]
            assert (given - weight.grad).norm() < 5e-6 * weight.grad.norm(), name


def cells_of(make_cell, **changes):
    """Return trunks of one shape: other seeds, rates, decays; one of two branches."""
    kinds = [
        {"seed": 0},
        {"seed": 1, "n_tokens": 1024},
        {"seed": 0, "optim": {"peak_lr": 0.02, "weight_decay": 0.0}},
        {"seed": 0, "n_tokens": 4096},
    ]
    return [make_cell(**({"n_tokens": 2048} | kind | changes)) for kind in kinds]


def together(cells, *, retry: int = 0):
    """Train cells in turns; return the exit code and the workers."""
    holder = Holder.here(round="r", job="test")
    workers = make_workers(tasks_of(cells), holder=holder, retry=retry)
    assert workers[0].stack is not None
    return train(workers), workers


def record(cell):
    return read_record(cell_folder(cell) / "record.json")


def curve(cell):
    return read_curve(cell_folder(cell) / "metrics.jsonl")


def assert_equal(cell, other):
    """Compare records and curves within rounding."""
    one, two = record(cell), record(other)
    for name in ("run_id", "status", "steps", "tokens", "flops", "peak_lr", "trunk", "flags"):
        assert getattr(one, name) == getattr(two, name), name
    assert one.test_loss == pytest.approx(two.test_loss, rel=LOSS)
    assert one.test_loss_se == pytest.approx(two.test_loss_se, rel=ROW)
    assert one.train_loss == pytest.approx(two.train_loss, rel=ROW)
    rows, others = curve(cell), curve(other)
    assert len(rows) == len(others) > 3
    for row, wanted in zip(rows, others, strict=True):
        assert row.keys() == wanted.keys()
        for name in row.keys() - {"seconds", "tokens_per_second"}:
            assert row[name] == pytest.approx(wanted[name], rel=ROW), (row["step"], name)


def elsewhere(cells, tmp_path):
    return [replace(c, runs=str(tmp_path / "alone")) for c in cells]


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["wsd", "cosine"])
def test_seeds_rates_and_budgets_equal_cells_trained_alone(make_cell, tmp_path, schedule):
    cells = cells_of(make_cell)
    for cell in cells:
        cell.schedule.name = schedule
    code, workers = together(cells)
    assert code == 0
    assert len(workers) == len({c.trunk_id() for c in cells}) == (3 if schedule == "wsd" else 4)
    for cell, other in zip(cells, elsewhere(cells, tmp_path), strict=True):
        train_trunk([other])
        assert_equal(cell, other)
        assert record(cell).metrics["stacked"] == 1
        assert last_attempt(cell_folder(cell)).outcome == "done"


@pytest.mark.slow
def test_a_cell_has_the_same_bits_whatever_is_trained_beside_it(make_cell, tmp_path):
    cells = cells_of(make_cell)
    together(cells)
    for cell, other in zip(cells, elsewhere(cells, tmp_path), strict=True):
        together([other])
        one, two = record(cell), record(other)
        assert (one.test_loss, one.train_loss) == (two.test_loss, two.train_loss)
        times = ("seconds", "tokens_per_second")
        assert all(
            {k: v for k, v in a.items() if k not in times}
            == {k: v for k, v in b.items() if k not in times}
            for a, b in zip(curve(cell), curve(other), strict=True)
        )


@pytest.mark.slow
def test_their_seconds_are_shares_of_what_passed(make_cell):
    cells = [make_cell(seed=seed) for seed in range(4)]
    began = time.monotonic()
    together(cells)
    gone = time.monotonic() - began
    found = [record(c).seconds for c in cells]
    assert min(found) > 0
    assert sum(found) <= gone  # each alone would claim most of it
    assert record(cells[0]).tokens_per_second == pytest.approx(2048 / found[0])


@pytest.mark.slow
def test_one_that_diverges_leaves_and_the_others_go_on(make_cell, tmp_path):
    bad = make_cell(seed=3, optim={"peak_lr": 1e30, "max_skipped": 3})
    cells = [bad, *cells_of(make_cell)]
    code, _ = together(cells)
    assert code == 0
    for cell, other in zip(cells, elsewhere(cells, tmp_path), strict=True):
        train_trunk([other])
        if cell is not bad:
            assert_equal(cell, other)
            continue
        assert record(cell).status == record(other).status == "diverged"
        assert record(cell).steps == record(other).steps
        assert "optim.max_skipped=3" in record(cell).error
        assert last_attempt(cell_folder(cell)).outcome == "diverged"


def stopping(step: int):
    """Return a step of stacked runs that stops all of them when one reaches a step."""
    whole = StackedRuns.step

    def stop(self, requests):
        answers = whole(self, requests)
        if any(r.run.step + 1 >= step for r in requests):
            for request in requests:
                request.setting.pulse.stop = "stopped"
        return answers

    return stop


@pytest.mark.slow
@pytest.mark.parametrize("resumed", ["together", "alone"])
def test_a_stopped_gang_resumes_together_or_alone(make_cell, tmp_path, monkeypatch, resumed):
    cells = cells_of(make_cell)
    others = elsewhere(cells, tmp_path)
    together(others)
    for step in (7, 20, 30):
        with monkeypatch.context() as patch:
            patch.setattr(StackedRuns, "step", stopping(step))
            code, workers = together(cells)
        assert code == ExitCode.STOPPED
        for worker in workers:
            folder = trunk_folder(worker.task.cells[0])
            assert last_attempt(folder).outcome in ("stopped", "done")
            assert (folder / "checkpoint.safetensors").is_file()
    if resumed == "together":
        together(cells)
    else:
        for trunk in by_trunk(cells).values():
            train_trunk(trunk)
    for cell, other in zip(cells, others, strict=True):
        assert_equal(cell, other)
        if resumed == "together":
            assert record(cell).test_loss == record(other).test_loss


@pytest.mark.slow
def test_a_trunk_that_is_held_elsewhere_is_left_out(make_cell):
    cells = cells_of(make_cell)
    holder = Holder.here(round="r", job="other")
    with (
        Lease(trunk_folder(cells[1]), holder, Pulse()),
        Lease(cell_folder(cells[2]), holder, Pulse()),
    ):
        code, _ = together(cells)
    assert code == ExitCode.HELD
    done = [(cell_folder(c) / "record.json").is_file() for c in cells]
    assert done == [True, False, False, True]


@pytest.mark.slow
def test_a_failure_is_its_own_trunks_alone(make_cell, monkeypatch):
    cells = cells_of(make_cell)
    save = trunk_state.save_state

    def full(run, setting, folder, *, name="checkpoint"):
        if setting.cell.seed == 1:
            raise OSError("no space left")
        save(run, setting, folder, name=name)

    for module in (trunk, trunk_state):
        monkeypatch.setattr(module, "save_state", full)
    code, _ = together(cells)
    assert code == 1
    assert [record(c).status for c in cells] == ["done", "failed", "done", "done"]
    assert "no space left" in record(cells[1]).error


def test_an_error_of_the_stack_fails_every_trunk_with_its_reason(make_cell, monkeypatch):
    cells = cells_of(make_cell)

    def broken(self, requests):
        raise RuntimeError("the stack is broken")

    monkeypatch.setattr(StackedRuns, "step", broken)
    assert together(cells)[0] == 1
    assert all("the stack is broken" in record(c).error for c in cells)


def test_what_a_stack_does_not_compute_is_trained_alone(make_cell):
    def kind(machine=None, **fields):
        cell = make_cell(**fields)
        (task,) = tasks_of([replace(cell, machine=replace(cell.machine, **(machine or {})))])
        return stack_key(task)

    assert kind(seed=0) == kind(seed=1, n_tokens=4096, optim={"peak_lr": 0.1}) != ""
    assert kind() != kind(model={"d_model": 32})
    assert not kind(model={"n_experts": 4})
    assert not kind(optim={"name": "muon"})
    assert not kind(model={"d_model": 256})
    assert kind(model={"d_model": 256}, machine={"stack": 4})
    alone = ({"stack": 0}, {"compile": True}, {"deterministic": True}, {"micro_batch": 1})
    assert not any(kind(machine=m) for m in (*alone, {"precision": "bf16"}))


def test_without_numba_larger_models_are_stacked_too(make_cell, monkeypatch):
    (task,) = tasks_of([make_cell(model={"d_model": 32, "n_layer": 4})])  # 60,000 parameters
    assert not stack_key(task)
    monkeypatch.setattr(job_tasks, "has_numba", lambda: False)
    assert stack_key(task)


def test_a_pool_divides_alike_tasks_among_its_slots(make_cell):
    cells = [make_cell(seed=seed) for seed in range(9)]
    odd = make_cell(model={"n_experts": 4}, n_tokens=1024)
    pool = Pool(job_tasks=JobTasks(round="r", tasks=tasks_of([*cells, odd]), workers=2), job="test")
    first = pool.next_tasks(2)
    assert len(first) == 4
    assert pool.next_tasks(1) == [t for t in tasks_of(cells) if t not in first]
    assert pool.next_tasks(1) == tasks_of([odd])
    assert pool.next_tasks(1) == []


def test_of_a_process_that_dies_each_task_is_tried_alone_and_none_is_blamed(make_cell):
    cells = [make_cell(seed=seed) for seed in range(3)]
    tasks = tasks_of(cells)
    pool = Pool(job_tasks=JobTasks(round="r", tasks=tasks), job="test")
    taken, me = pool.next_tasks(1), Holder.here(round="r", job="test")
    for cell in cells:
        take(cell_folder(cell), me)
    seen = ProcessWatch.of(me.pid, taken, 0.0)
    pool.handle_end(Running(SimpleNamespace(exitcode=-9, pid=me.pid), taken, 0, [0, 0, 0], seen))
    assert [last_attempt(cell_folder(c)).outcome for c in cells] == ["preempted"] * 3
    assert [len(pool.next_tasks(1)) for _ in range(4)] == [1, 1, 1, 0]
    pool.handle_end(Running(SimpleNamespace(exitcode=0, pid=1), tasks[:1], 0, [1], seen))
    assert last_attempt(cell_folder(tasks[0].cells[0])).outcome == "failed"


@pytest.mark.long
@pytest.mark.slow
def test_the_sweep_trains_alike_cells_together_by_itself(corpus_folder, tmp_path):
    def sweep(name: str, *more: str) -> list[float]:
        command = [
            sys.executable,
            "-m",
            "scaling.sweep",
            "-m",
            "~sweeps",
            f"runs={tmp_path}/{name}",
        ]
        command += [
            "study=grid",
            "model=m2k",
            "seed=0,1,2",
            "optim.peak_lr=0.01,0.03",
            "data=files",
        ]
        command += [f"data.train=[{corpus_folder}]", "data.test_share=0.2", "data.context=32"]
        command += [
            "budget.n_tokens=4096,8192",
            "optim.batch_tokens=64",
            "tokenizer.vocab_size=300",
        ]
        command += [f"machine.cache={tmp_path}/cache", "machine.device=cpu", "machine.workers=1"]
        command += ["eval.test_tokens=512", "log.wandb=disabled", *more]
        subprocess.run(command, check=True, capture_output=True)
        found = [read_record(p) for p in sorted((tmp_path / name).glob("grid/*/record.json"))]
        assert len(found) == 12
        assert all(r.metrics.get("stacked", 0) == (name == "stacked") for r in found)
        pids = {a.pid for r in found for a in attempts(tmp_path / name / "grid" / r.run_id)}
        assert len(pids) == (1 if name == "stacked" else 6)
        return [r.test_loss for r in found]

    losses = sweep("alone", "machine.stack=0")
    assert sweep("stacked") == pytest.approx(losses, rel=1e-3)


def test_norms_are_the_same_where_torch_has_no_call_for_all_tensors():
    tensors = torch.randn(3, 300).unbind()
    assert torch.equal(
        torch.stack(passes._each_norm(tensors)), torch.stack(passes.foreach_norm(tensors))
    )
