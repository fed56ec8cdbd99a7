"""Cells of one shape trained together against the same cells trained alone."""

from dataclasses import replace

import pytest
import torch

from scaling.attempt import Holder, last_attempt
from scaling.config import ModelConfig
from scaling.failure import cell_folder
from scaling.model import Transformer
from scaling.passes import Passes
from scaling.schema import read_curve, read_record
from scaling.stack import Bundle, StackedPasses
from scaling.trainer import train_trunk
from scaling.work import tasks_of
from scaling.worker import make_workers, train

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
    weights, given = (Bundle(members[0], len(members), CPU) for _ in range(2))
    weights.fill(members)
    return StackedPasses(
        members[0].config, weights, given if gradient else None, rows=ROWS, context=CONTEXT
    )


@pytest.mark.parametrize("tile", [1 << 19, 1 << 16, 1 << 13], ids=["all", "models", "tokens"])
@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
@torch.no_grad()
def test_losses_and_every_gradient_equal_those_of_one_model(model, tile, monkeypatch):
    monkeypatch.setattr("scaling.stack.LOGIT_BYTES", tile)
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
    """Train cells in one gang; return its exit code and workers."""
    holder = Holder.here(round="r", job="test")
    workers = make_workers(tasks_of(cells), holder=holder, retry=retry)
    assert workers[0].gang is not None
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
