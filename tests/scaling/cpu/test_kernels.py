"""Every kernel against the same formula in torch, in both kinds."""

import math

import pytest
import torch
from torch.nn import functional as F

from scaling.cpu import kernels
from scaling.cpu.jit import bind

KINDS = {"fp32": torch.float32, "bf16": torch.bfloat16}
N, WIDTH = 21, 37  # no multiples of a vector
kinds = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


def normal(*shape: int, kind: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator).to(kind)


def equal(given: torch.Tensor, wanted: torch.Tensor) -> None:
    """Compare with a float32 result: as rounded once where bfloat16 was written."""
    low = given.dtype == torch.bfloat16
    torch.testing.assert_close(
        given.float(), wanted, rtol=2**-8 if low else 2e-5, atol=1e-5 if low else 2e-6
    )


def test_rounding_to_bfloat16_is_torchs():
    x = torch.cat([normal(500), torch.tensor([0.0, -0.0, torch.inf, -torch.inf, 1e-39])])[None]
    x = torch.cat([x, x * 1e30, torch.tensor([1 + 2**-8, 1 + 3 * 2**-8]).repeat(253)[None, :505]])
    low = torch.empty_like(x, dtype=torch.bfloat16)
    bind(kernels.fold, x, torch.ones(505), 1.0, low)()
    assert torch.equal(low, x.to(torch.bfloat16))


@kinds
def test_a_matrix_takes_its_gain_and_gives_the_gradients_back(kind):
    weight, gain = (w.requires_grad_() for w in (normal(N, WIDTH), normal(WIDTH)))
    wanted = weight * gain * 0.5
    d = normal(N, WIDTH, kind=kind)
    wanted.backward(d.float())
    matrix = torch.empty(N, WIDTH, dtype=kind)
    d_weight, d_gain = torch.ones(N, WIDTH), torch.ones(WIDTH)
    bind(kernels.fold, weight, gain, 0.5, matrix)()
    bind(kernels.unfold, d, weight, gain, 0.5, d_weight, d_gain)()
    equal(matrix, wanted.detach())
    equal(d_weight, weight.grad + 1)  # they add
    equal(d_gain, gain.grad + 1)


@kinds
def test_the_norm_adds_the_branch_and_knows_its_gradient(kind):
    x, branch = normal(N, WIDTH), normal(N, WIDTH, kind=kind)
    total = (x + branch.float()).requires_grad_()
    wanted = F.rms_norm(total, (WIDTH,), eps=1e-5)
    normed, rate = torch.empty(N, WIDTH, dtype=kind), torch.empty(N)
    bind(kernels.norm, x, branch, 1e-5, normed, rate)()
    equal(x, total.detach())
    equal(normed, wanted.detach())
    d = normal(N, WIDTH + 1)[:, 1:].contiguous().to(kind)
    wanted.backward(d.float())
    dx, low = torch.ones(N, WIDTH), torch.empty(N, WIDTH, dtype=kind)
    bind(kernels.norm_back, d, normed, rate, dx, low)()
    if kind == torch.float32:
        equal(dx, total.grad + 1)
    assert (dx - 1 - total.grad).norm() < 3e-3 * total.grad.norm()  # of a normed that was rounded
    assert torch.equal(low, dx.to(kind))


@kinds
def test_swiglu_and_its_gradient(kind):
    product = (3 * normal(N, 2 * WIDTH)).to(kind)
    leaf = product.float().requires_grad_()
    gate, linear = leaf.chunk(2, -1)
    wanted = F.silu(gate) * linear
    d = normal(N, WIDTH, kind=kind)
    wanted.backward(d.float())
    act, d_product = (torch.empty(N, k * WIDTH, dtype=kind) for k in (1, 2))
    bind(kernels.swiglu, product, act)()
    bind(kernels.swiglu_back, product, d, d_product)()
    equal(act, wanted.detach())
    equal(d_product, leaf.grad)


@pytest.mark.slow
@kinds
@pytest.mark.parametrize("half", [1, 3, 8])
def test_heads_are_turned_scaled_and_ordered_and_come_back(kind, half):
    P, B, T, H = 3, 2, 5, 3
    packed = normal(B * T, P * H * 2 * half, kind=kind)
    cos, sin = normal(P, T, half), normal(T, P, half).transpose(0, 1).contiguous()
    leaf = packed.float().requires_grad_()
    u, v = leaf.view(B, T, P, H, 2, half).permute(4, 2, 0, 3, 1, 5)  # (P, B, H, T, K/2) each
    c, s = (a[:, None, None] for a in (cos, sin))
    wanted = torch.cat([u * c - v * s, v * c + u * s], -1)
    lanes, heads = (0,) * half, torch.empty(P, B, H, T, 2 * half, dtype=kind)
    bind(kernels.by_head, packed, cos, sin, lanes, heads, None)()
    equal(heads, wanted.detach())
    exact, low = torch.empty(heads.shape), torch.zeros_like(heads)
    bind(kernels.by_head, packed, cos, sin, lanes, exact, low)()
    equal(exact, wanted.detach())
    assert torch.equal(low, heads)
    d = normal(*heads.shape, kind=kind)
    wanted.backward(d.float())
    bind(kernels.by_token, d, cos, sin, lanes, packed)()
    equal(packed, leaf.grad)


def softmax(scores: torch.Tensor, kind: torch.dtype = torch.float32) -> torch.Tensor:
    """Return the kernel's weights of causal (B H T, T) scores."""
    context = scores.shape[1]
    hidden = torch.full((context, context), -math.inf).triu(1)
    weights = torch.zeros(scores.shape, dtype=kind)
    bind(kernels.softmax, scores, hidden, weights)()
    return weights


@pytest.mark.slow
@kinds
@pytest.mark.parametrize("context", [1, 7, 40, 64])
def test_softmax_looks_at_no_later_key(kind, context):
    scores = 9 * normal(3 * context, context)
    later = torch.ones(context, context).triu(1).bool().repeat(3, 1)
    leaf = scores.masked_fill(later, -math.inf).requires_grad_()
    wanted = leaf.softmax(-1)
    d = normal(3 * context, context)
    wanted.backward(d)
    weights, d_scores = softmax(scores, kind), torch.zeros(3 * context, context, dtype=kind)
    equal(weights, wanted.detach())
    assert not weights[later].any()
    bind(kernels.softmax_back, d, weights, d_scores)()
    if kind == torch.float32:
        equal(d_scores, leaf.grad)
    assert (d_scores.float() - leaf.grad).norm() <= 8e-3 * leaf.grad.norm()


def test_softmax_gives_nothing_to_keys_of_minus_infinity():
    scores = torch.tensor([[0.0, 9.0], [-math.inf, 2.0]])
    torch.testing.assert_close(softmax(scores), torch.eye(2))


@kinds
@pytest.mark.parametrize("size", [1.0, 50.0])
def test_cross_entropy_and_its_gradient(kind, size):
    logits = (size * normal(N, WIDTH)).to(kind)
    targets = torch.randint(WIDTH, (N,), generator=torch.Generator().manual_seed(0))
    leaf = logits.float().requires_grad_()
    wanted = F.cross_entropy(leaf, targets, reduction="sum")
    (wanted / N).backward()
    loss = bind(kernels.cross_entropy, logits, targets, torch.empty(WIDTH))(1 / N)
    assert loss == pytest.approx(wanted.item(), rel=1e-6)
    equal(logits, leaf.grad)


def test_a_target_outside_the_vocabulary_is_refused():
    targets = torch.tensor([0, WIDTH])
    with pytest.raises(IndexError, match="outside the vocabulary"):
        bind(kernels.cross_entropy, normal(2, WIDTH), targets, torch.empty(WIDTH))(1.0)


@kinds
@pytest.mark.parametrize("bad", [math.nan, -math.nan, math.inf])
def test_what_is_not_finite_shows(kind, bad):
    logits = torch.zeros(2, WIDTH, dtype=kind)
    logits[1, 5] = bad
    targets = torch.zeros(2, dtype=torch.int64)
    loss = bind(kernels.cross_entropy, logits, targets, torch.empty(WIDTH))(1.0)
    assert not math.isfinite(loss)
    assert logits[0].isfinite().all()
    assert not logits[1].isfinite().all()
    scores = torch.zeros(4, 4)
    scores[2, 1] = bad
    assert softmax(scores, kind).isfinite().all(1).tolist() == [True, True, False, True]
    product, act = torch.ones(1, 2, dtype=kind), torch.empty(1, 1, dtype=kind)
    product[0, 0] = bad
    bind(kernels.swiglu, product, act)()
    assert not act.isfinite().any()


def test_rows_add_where_tokens_repeat():
    values, places, table = normal(N, WIDTH), torch.arange(N) % 4, torch.ones(6, WIDTH)
    wanted = torch.ones(6, WIDTH).index_add_(0, places, values)
    bind(kernels.add_rows, values, places, table)()
    equal(table, wanted)
