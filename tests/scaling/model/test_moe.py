import math

import pytest
import torch
from torch.nn import functional as F

from scaling.config import ModelConfig
from scaling.model import moe
from scaling.model.moe import MoE, grouped_linear, measure, padded_linear
from scaling.model.transformer import Transformer
from scaling.schema import read_curve
from scaling.train.trunk import train_trunk


def config(**changes) -> ModelConfig:
    return ModelConfig(**({"d_model": 32, "n_experts": 5, "top_k": 2, "d_expert": 24} | changes))


def layer(**changes) -> MoE:
    torch.manual_seed(0)
    made = MoE(config(**changes))
    for weight in made.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    return made


def plain(made: MoE, x: torch.Tensor) -> torch.Tensor:
    """Route and compute every token on its own."""
    rows = []
    for token in x:
        p = made.router(token).softmax(-1)
        best = p.argsort(descending=True)[: made.top_k]
        weight = p[best] / (p[best].sum() if made.top_k > 1 else 1)
        y = 0.0 if made.shared is None else made.shared(token)
        for w, e in zip(weight, best, strict=True):
            inner = made.up[e] @ token
            if made.gated:
                gate, up = inner.chunk(2)
                inner = F.silu(gate) * up
            else:
                inner = F.gelu(inner, approximate="tanh")
            y = y + w * (made.down[e] @ inner)
        rows.append(y)
    return torch.stack(rows)


@pytest.mark.parametrize("kernel", [True, False], ids=["grouped", "padded"])
@pytest.mark.parametrize(
    "changes",
    [{}, {"top_k": 1}, {"n_shared_experts": 2}, {"mlp": "gelu"}, {"d_expert": 23}, {"top_k": 5}],
    ids=str,
)
def test_grouped_experts_equal_the_plain_reference_with_its_gradients(changes, kernel, monkeypatch):
    if not kernel:
        monkeypatch.setattr(moe, "has_kernel", lambda x, weight: False)
    made = layer(**changes)
    x = torch.randn(50, 32, requires_grad=True)
    wanted = (x, *made.parameters())
    outputs = [made(x), plain(made, x)]
    gradients = [torch.autograd.grad((y * x).sum(), wanted) for y in outputs]
    torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def test_experts_without_a_token_and_odd_widths_are_no_exception():
    weight = torch.randn(4, 7, 8)
    x, counts = torch.randn(9, 8), torch.tensor([0, 5, 0, 4])
    expected = torch.cat([x[:5] @ weight[1].T, x[5:] @ weight[3].T])
    torch.testing.assert_close(grouped_linear(x, weight, counts), expected)
    torch.testing.assert_close(padded_linear(x, weight, counts), expected)


def test_router_losses_are_those_of_the_papers():
    even = measure(torch.zeros(8, 4), torch.full((8, 4), 0.25), torch.arange(8)[:, None] % 4)
    assert float(even.balance) == pytest.approx(1.0)
    assert float(even.z) == pytest.approx(math.log(4) ** 2)
    logits = torch.tensor([[2.0, 0.0], [2.0, 0.0]])
    p = logits.softmax(-1)
    one_sided = measure(logits, p, torch.zeros(2, 1, dtype=torch.long))
    assert float(one_sided.balance) == pytest.approx(2 * float(p[0, 0]))
    assert one_sided.load.tolist() == [1.0, 0.0]


def test_the_balance_loss_evens_out_a_lopsided_router():
    made = layer()
    made.router.weight.data[0] += 0.4
    x = torch.randn(256, 32) + 0.5
    optimizer = torch.optim.Adam([made.router.weight], lr=0.01)
    made(x)
    before = float(made.routing.load.max())
    for _ in range(60):
        made(x)
        made.routing.balance.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert before > 0.35
    assert float(made.routing.load.max()) < 0.28


def test_counts_of_a_mixture_by_hand():
    shape = config(n_shared_experts=1, n_head=2, d_head=16, n_layer=1).shape(
        vocab_size=300, context=24
    )
    attention, expert, router = 4 * 32 * 32, 3 * 32 * 24, 32 * 5
    assert shape.layer_matrices == attention + router + 6 * expert
    assert shape.params.total - shape.params.active == 3 * expert
    assert shape.params.multiplying == shape.params.with_head - 3 * expert
    assert shape.flops_per_token == 6 * (attention + router + 3 * expert + 300 * 32) + 12 * 32 * 24


def test_a_mixture_has_the_active_matrices_of_the_dense_model_but_for_the_router():
    dense = ModelConfig(d_model=32).shape(vocab_size=300, context=24)
    sparse = ModelConfig(d_model=32, n_experts=8).shape(vocab_size=300, context=24)
    assert sparse.active_matrices - dense.active_matrices == 8 * 32
    assert sparse.params.total > 3 * dense.params.total - 2 * 300 * 32


def test_the_curve_holds_the_load_and_the_router_losses(make_cell):
    cell = make_cell(n_tokens=2048, model={"n_experts": 4, "top_k": 1})
    (record,) = train_trunk([cell])
    rows = read_curve(f"{cell.runs}/tiny/{cell.run_id()}/metrics.jsonl")
    assert record.params.active < record.params.total
    assert {"router_balance", "router_z", "expert_load_max", "expert_load_min"} <= rows[-1].keys()
    assert 0 <= rows[-1]["expert_load_min"] <= 1 <= rows[-1]["expert_load_max"] <= 4


def test_a_batch_is_reported_without_the_router_losses_that_are_minimised():
    torch.manual_seed(0)
    model = Transformer(config(n_head=2, d_head=16), vocab_size=300, context=24)
    x = torch.randint(0, 300, (2, 24))
    loss = model.loss(x, x)
    plain_loss = F.cross_entropy(model.eval()(x).flatten(0, 1), x.flatten())
    torch.testing.assert_close(loss, plain_loss)
    assert model.router_loss().item() > 0.01


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"n_experts": 1}, "a number from 2 to 65536, or 0 .0 is dense"),
        ({"n_experts": 4, "top_k": 5}, "between 1 and model.n_experts=4"),
        ({"top_k": 2}, "needs experts"),
        ({"n_experts": 4, "bias": True}, r"model\.bias"),
        ({"n_experts": 4, "n_shared_experts": -1}, "a number from 0"),
    ],
)
def test_impossible_mixtures_are_refused_with_the_fix(changes, words):
    with pytest.raises(ValueError, match=words):
        ModelConfig(d_model=32, **changes)
