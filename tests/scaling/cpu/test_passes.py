"""The passes written out by hand against autograd on the same model."""

import math

import pytest
import torch

from scaling.config import ModelConfig
from scaling.cpu.passes import Passes
from scaling.model.loss import CHUNK_BYTES
from scaling.model.transformer import Transformer
from scaling.train.step import has_passes

CPU = torch.device("cpu")
VOCAB, ROWS, CONTEXT = 300, 3, 16
MODELS = {
    "default": {},
    "heads": {"n_layer": 3, "d_model": 48, "d_head": 8},
    "untied": {"tied": False},
    "sinusoidal": {"positions": "sinusoidal"},
    "plain_embedding": {"embedding_norm": False},
    "mup": {"d_model": 64, "parametrization": "mup"},
    "completep": {"n_layer": 4, "d_model": 64, "parametrization": "completep"},
    "narrow": {"d_model": 8, "d_head": 2, "d_ff": 5},
}


def made(context: int = CONTEXT, **model: object) -> Transformer:
    """Return a model whose every weight is away from where it starts."""
    torch.manual_seed(0)
    transformer = Transformer(ModelConfig(**model), vocab_size=VOCAB, context=context)
    with torch.no_grad():
        for weight in transformer.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return transformer


def batch(seed: int = 1, context: int = CONTEXT) -> tuple[torch.Tensor, torch.Tensor]:
    tokens = torch.randint(
        VOCAB, (ROWS, context + 1), generator=torch.Generator().manual_seed(seed)
    )
    return tokens[:, :-1], tokens[:, 1:]


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_loss_and_every_gradient_equal_autograds(model):
    transformer = made(**model)
    assert has_passes(transformer.config, context=CONTEXT, device=CPU, precision="fp32")
    x, y = batch()
    loss = transformer.loss(x, y)
    loss.backward()
    wanted = {name: w.grad.clone() for name, w in transformer.named_parameters()}
    passes = Passes(transformer, rows=ROWS, context=CONTEXT)
    passes([batch(seed=2)])  # what a first batch leaves in the buffers must not matter
    assert float(passes([(x, y)])) == pytest.approx(loss.item(), rel=1e-6)
    for name, weight in transformer.named_parameters():
        error = (weight.grad - wanted[name]).norm() / wanted[name].norm()
        assert error < 5e-6, name


@pytest.mark.slow
@pytest.mark.many(3)
@pytest.mark.parametrize("context", [CONTEXT, 128])
@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_in_bfloat16_gradients_are_no_further_from_float32_than_autocasts(model, context):
    transformer = made(context, **model)
    x, y = batch(context=context)

    def gradients() -> torch.Tensor:
        return torch.cat([w.grad.flatten() for w in transformer.parameters()])

    exact = transformer.loss(x, y)
    exact.backward()
    wanted = gradients()
    transformer.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        transformer.loss(x, y).backward()
    autocast = float((gradients() - wanted).norm() / wanted.norm())
    passes = Passes(transformer, rows=ROWS, context=context, precision="bf16")
    passes([batch(seed=2, context=context)])
    loss = float(passes([(x, y)]))
    assert loss == pytest.approx(exact.item(), rel=5e-3)
    assert loss != exact.item()
    assert 1e-4 < float((gradients() - wanted).norm() / wanted.norm()) < 1.2 * autocast


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("vocabulary", [272, 300])
def test_what_new_memory_holds_reaches_no_gradient(precision, vocabulary, monkeypatch):
    """Tiles of a processor (AMX) reach beyond rows of 272 logits, or of 2 x 88, to the next 32."""
    new = torch.empty

    def anything(*shape, **options):
        tensor = new(*shape, **options)
        return tensor.fill_(math.nan) if tensor.is_floating_point() else tensor

    torch.manual_seed(0)
    transformer = Transformer(ModelConfig(), vocab_size=vocabulary, context=128)
    monkeypatch.setattr(torch, "empty", anything)
    passes = Passes(transformer, rows=ROWS, context=128, precision=precision)
    monkeypatch.undo()
    x, y = batch(context=128)
    passes([(x % vocabulary, y % vocabulary)])
    for name, weight in transformer.named_parameters():
        assert weight.grad.isfinite().all(), name


def test_bfloat16_leaves_the_precision_of_other_products_as_it_was():
    products = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = products.fp32_precision
    passes = Passes(made(), rows=ROWS, context=CONTEXT, precision="bf16")
    x, y = batch()
    passes([(x, y)])
    with pytest.raises(IndexError, match="outside the vocabulary"):
        passes([(x, y + VOCAB)])
    assert products.fp32_precision == before != "bf16"


@pytest.mark.parametrize(("rows", "context"), [(1, 13), (3, 1), (2, 16)])
@pytest.mark.parametrize("at_once", [1, 1 << 20])
def test_rows_and_lengths_may_be_any_and_all_fit_in_parts(monkeypatch, rows, context, at_once):
    monkeypatch.setattr("scaling.cpu.passes.SCORE_BYTES", at_once)  # one head or all
    monkeypatch.setitem(CHUNK_BYTES, "cpu", at_once)  # sixteen tokens or all
    transformer = made(d_model=48, d_head=16)
    transformer.document_end = 7
    x, y = (t[:rows, :context].contiguous() for t in batch())
    x[:, context // 2] = 7
    loss = transformer.loss(x, y)
    loss.backward()
    wanted = [w.grad.clone() for w in transformer.parameters()]
    passes = Passes(transformer, rows=rows, context=context)
    assert float(passes([(x, y)])) == pytest.approx(loss.item(), rel=1e-6)
    for weight, gradient in zip(transformer.parameters(), wanted, strict=True):
        assert (weight.grad - gradient).norm() <= 5e-6 * gradient.norm() + 1e-7


@pytest.mark.parametrize("most", [0.0, 1e-3, 1e6])
def test_the_gradient_is_clipped_as_torch_clips_it(most):
    transformer = made()
    x, y = batch()
    transformer.loss(x, y).backward()
    wanted = torch.nn.utils.clip_grad_norm_(transformer.parameters(), most or torch.inf)
    gradients = [w.grad.clone() for w in transformer.parameters()]
    passes = Passes(transformer, rows=ROWS, context=CONTEXT)
    passes([(x, y)])
    torch.testing.assert_close(passes.clip(most), wanted)
    for weight, gradient in zip(transformer.parameters(), gradients, strict=True):
        torch.testing.assert_close(
            weight.grad, gradient, rtol=1e-4, atol=1e-6 * float(gradient.abs().max())
        )


def test_parts_of_a_batch_add_up_to_the_whole():
    transformer = made()
    (a, b), (c, d) = batch(), batch(seed=2)
    whole = Passes(transformer, rows=2 * ROWS, context=CONTEXT)
    loss = whole([(torch.cat([a, c]), torch.cat([b, d]))])
    gradient = whole.gradient.clone()
    parts = Passes(transformer, rows=ROWS, context=CONTEXT)
    torch.testing.assert_close(parts([(a, b), (c, d)]), loss)
    assert (parts.gradient - gradient).norm() < 5e-6 * gradient.norm()


def test_gradients_set_to_none_come_back():
    transformer = made()
    passes = Passes(transformer, rows=ROWS, context=CONTEXT)
    passes([batch()])
    transformer.zero_grad(set_to_none=True)
    passes([batch()])
    assert all(w.grad is not None and w.grad.any() for w in transformer.parameters())


def test_weights_that_change_are_seen():
    transformer = made()
    passes = Passes(transformer, rows=ROWS, context=CONTEXT)
    x, y = batch()
    first = float(passes([(x, y)]))
    with torch.no_grad():
        for weight in transformer.parameters():
            weight.mul_(1.1)
    second = float(passes([(x, y)]))
    assert second == pytest.approx(transformer.loss(x, y).item(), rel=1e-6)
    assert second != first


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("bad", [torch.inf, torch.nan])
@pytest.mark.parametrize("name", ["norm.weight", "blocks.0.mlp.up.weight", "embedding.weight"])
def test_a_loss_that_overflows_is_said_to(precision, bad, name):
    transformer = made()
    with torch.no_grad():
        dict(transformer.named_parameters())[name].fill_(bad)
    passes = Passes(transformer, rows=ROWS, context=CONTEXT, precision=precision)
    assert not torch.isfinite(passes([batch()]))
    assert not torch.isfinite(passes.clip(1.0))


@pytest.mark.parametrize(
    "model",
    [
        {"norm": "layernorm"},
        {"mlp": "gelu"},
        {"bias": True},
        {"positions": "learned"},
        {"positions": "sinusoidal", "d_model": 15, "d_head": 5},
        {"n_experts": 4},
        {"d_model": 64, "n_head": 4, "n_kv_head": 2},
    ],
)
def test_what_they_do_not_compute_is_left_to_autograd(model):
    config = ModelConfig(**model)
    assert not has_passes(config, context=CONTEXT, device=CPU, precision="fp32")


def test_long_rows_other_devices_and_precisions_are_left_to_autograd():
    config = ModelConfig()
    assert not has_passes(config, context=1024, device=CPU, precision="fp32")
    assert not has_passes(config, context=CONTEXT, device=CPU, precision="fp16")
    assert not has_passes(config, context=CONTEXT, device=torch.device("cuda"), precision="fp32")


def test_masked_documents_are_read_as_if_alone_by_autograd_and_by_the_passes():
    transformer = made(n_layer=2)
    tokens = batch()[0].clamp_min(1)
    ends = torch.tensor([[3, 9], [0, 15], [7, 8]])
    tokens.scatter_(1, ends, 0)
    transformer.document_end = 0
    together = transformer(tokens)
    for row, (first, second) in enumerate(ends.tolist()):
        for start, stop in ((0, first + 1), (first + 1, second + 1), (second + 1, CONTEXT)):
            if start < stop:
                alone = transformer(tokens[row : row + 1, start:stop])
                torch.testing.assert_close(
                    together[row, start:stop], alone[0], rtol=1e-4, atol=1e-4
                )
    targets = batch(seed=4)[1]
    loss = transformer.loss(tokens, targets)
    loss.backward()
    wanted = {name: w.grad.clone() for name, w in transformer.named_parameters()}
    passes = Passes(transformer, rows=ROWS, context=CONTEXT)
    passes([batch(seed=2)])  # with other documents
    assert float(passes([(tokens, targets)])) == pytest.approx(loss.item(), rel=1e-6)
    for name, weight in transformer.named_parameters():
        assert (weight.grad - wanted[name]).norm() < 5e-6 * wanted[name].norm(), name
    transformer.document_end = None
    assert transformer.loss(tokens, targets).item() != pytest.approx(loss.item(), rel=1e-4)
