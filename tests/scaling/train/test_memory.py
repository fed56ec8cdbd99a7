"""What a step takes of memory, and what is said when it is too much."""

from dataclasses import replace

import pytest
import torch

from scaling.train import heldout, trunk_state
from scaling.train import step as step_module
from scaling.train.memory import is_out_of_memory, largest_that_fits
from scaling.train.step import new_run, prepare, train_step
from scaling.train.trunk import train_trunk


def stepped(cell, **machine) -> tuple[list[float], dict[str, torch.Tensor]]:
    setting = prepare(replace(cell, machine=replace(cell.machine, **machine)), lambda flops: None)
    run = new_run(setting)
    losses = [float(train_step(run, setting, 1.0)[0]) for _ in range(3)]
    return losses, {name: w.grad for name, w in run.model.named_parameters()}


@pytest.mark.parametrize("model", [{}, {"norm": "layernorm"}], ids=["passes", "autograd"])
@pytest.mark.parametrize("rows", [1, 2])
def test_micro_batches_give_the_whole_batchs_step(make_cell, model, rows):
    cell = make_cell(model=model, optim={"batch_tokens": 128})
    whole, gradients = stepped(cell)
    losses, others = stepped(cell, micro_batch=rows)
    assert losses == pytest.approx(whole, rel=1e-5)
    for name, gradient in gradients.items():
        assert (others[name] - gradient).norm() < 1e-3 * gradient.norm() + 1e-7, name


def test_a_micro_batch_that_divides_nothing_is_refused_with_those_that_do(make_cell):
    cell = make_cell(optim={"batch_tokens": 128})
    with pytest.raises(ValueError, match=r"micro_batch=3 does not divide the 4 rows.*1, 2, 4"):
        train_trunk([replace(cell, machine=replace(cell.machine, micro_batch=3))])
    assert (
        replace(cell, machine=replace(cell.machine, micro_batch=2)).run_id() == cell.run_id()
    )  # the same cell


@pytest.mark.parametrize("model", [{}, {"n_layer": 3, "n_experts": 4}], ids=["dense", "experts"])
def test_recomputed_activations_give_the_same_gradients(make_cell, model, monkeypatch):
    cell = make_cell(model=model)
    monkeypatch.setattr(step_module, "has_passes", lambda *a, **k: False)
    plain, gradients = stepped(cell)
    losses, others = stepped(cell, activation_checkpointing=True)
    assert losses == plain
    assert all(torch.equal(others[name], g) for name, g in gradients.items())


def test_recomputing_keeps_fewer_activations(make_cell):
    def kept(**machine) -> int:
        cell = make_cell(model={"n_layer": 4})
        machine = replace(cell.machine, **machine)
        setting = prepare(replace(cell, machine=machine), lambda flops: None)
        model, sizes = new_run(setting).model, []
        x, y = map(torch.from_numpy, setting.batches(0))
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t: sizes.append(t.numel()) or t, lambda t: t
        ):
            model.train().loss(x, y)
        return sum(sizes)

    assert kept(activation_checkpointing=True) < kept() / 2


class Small(torch.nn.Module):
    """Stands for a device whose memory holds `most` rows of a forward pass."""

    def __init__(self, model, most: int) -> None:
        super().__init__()
        self.model, self.most, self.config = model, most, model.config

    def loss(self, x, y):
        if len(x) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return self.model.loss(x, y)

    def router_loss(self):
        return 0.0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("most", "sentence"),
    [
        (3, r"out of memory with 8 rows a forward pass; machine\.micro_batch=2 fits"),
        (0, r"and with a single one; shorten data\.context"),
    ],
)
def test_out_of_memory_names_the_largest_micro_batch_that_fits(
    make_cell, monkeypatch, most, sentence
):
    cell = make_cell(optim={"batch_tokens": 256})
    monkeypatch.setattr(step_module, "has_passes", lambda *a, **k: False)

    def small(setting):
        run = new_run(setting)
        run.model = Small(run.model, most)
        run.objective = step_module.Objective(run.model, "fp32")
        return run

    monkeypatch.setattr(trunk_state, "new_run", small)
    with pytest.raises(RuntimeError, match=sentence):
        train_trunk([cell])


@pytest.mark.slow
def test_other_errors_are_not_taken_for_memory():
    assert is_out_of_memory(
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried")
    )
    assert not is_out_of_memory(RuntimeError("shapes differ"))

    def broken(rows):
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        largest_that_fits(4, broken)


def test_what_fits_leaves_room_for_the_moments_of_a_first_step(make_cell, monkeypatch):
    cell = make_cell()
    setting = prepare(cell, lambda flops: None)
    run, asked, moments = new_run(setting), [], step_module.moments_of
    monkeypatch.setattr(step_module, "moments_of", lambda run: asked.append(1) or moments(run))
    wanted = 2 * sum(w.numel() for w in run.model.parameters())
    assert sum(w.numel() for w in moments(run)) == wanted
    step_module.trial(run, setting, 1)
    assert len(asked) == 1
    train_step(run, setting, 1.0)
    step_module.trial(run, setting, 1)
    assert len(asked) == 1


def test_large_logits_are_scored_some_windows_at_a_time(make_cell, monkeypatch):
    setting = prepare(make_cell(), lambda flops: None)
    model = new_run(setting).model
    whole, sizes = heldout.evaluate(model, setting.test), []
    scored = model.token_losses
    monkeypatch.setattr(model, "token_losses", lambda x, y: sizes.append(len(x)) or scored(x, y))
    monkeypatch.setattr(heldout, "LOGIT_BYTES", 3 * 4 * 300 * 32)
    assert heldout.evaluate(model, setting.test).loss == pytest.approx(whole.loss, rel=1e-6)
    assert max(sizes) == 3
    assert heldout.rows_at_once(10**6, 10**6) == 1
