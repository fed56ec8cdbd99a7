import math

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from scaling.config import ModelConfig
from scaling.model.loss import linear_cross_entropy
from scaling.model.transformer import Transformer, rotary_angles, rotate
from scaling.train.device import autocast

SHAPES = {
    "llama": {},
    "grouped": {"n_kv_head": 1},
    "gpt2": {"norm": "layernorm", "mlp": "gelu", "positions": "learned", "bias": True},
    "untied": {"tied": False, "positions": "sinusoidal"},
    "experts": {"n_experts": 4, "top_k": 2, "n_shared_experts": 1, "d_ff": 96},
    "completep": {"parametrization": "completep", "n_layer": 3, "base_width": 16},
}


def build(**changes) -> Transformer:
    torch.manual_seed(0)
    config = ModelConfig(**({"n_layer": 2, "d_model": 32, "d_head": 8} | changes))
    return Transformer(config, vocab_size=300, context=24)


@pytest.fixture(params=SHAPES, ids=str)
def model(request) -> Transformer:
    return build(**SHAPES[request.param])


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randint(0, 300, (3, 24), generator=torch.Generator().manual_seed(1))


def test_a_later_token_changes_no_earlier_logit(model, tokens):
    changed = tokens.clone()
    changed[:, 15:] = (changed[:, 15:] + 1) % 300
    before, after = model(tokens), model(changed)
    torch.testing.assert_close(before[:, :15], after[:, :15])
    assert not torch.allclose(before[:, 15:], after[:, 15:])


def test_initial_loss_is_near_log_of_the_vocabulary(model, tokens):
    loss = model.loss(tokens[:, :-1], tokens[:, 1:])
    assert abs(loss.item() - math.log(300)) < 0.1


def test_parameter_counts_are_those_of_torch(model):
    shape = model.config.shape(vocab_size=300, context=24)
    assert shape.params.total == sum(p.numel() for p in model.parameters())


def test_flops_are_those_of_torchs_counter(model, tokens):
    x = torch.cat([tokens, tokens], 1)[:, :24]
    grouped = {torch.ops.aten._grouped_mm: grouped_flops}  # which torch's counter leaves out
    counter = FlopCounterMode(display=False, custom_mapping=grouped)
    with sdpa_kernel(SDPBackend.MATH), counter:
        model.loss(x, x).backward()
    shape = model.config.shape(vocab_size=300, context=24)
    assert counter.get_total_flops() == shape.flops_per_token * x.numel()


def grouped_flops(a, b, offs=None, *rest, out_shape=None, **options) -> int:
    """Rows of `a` times each one's matrix, or (backward) columns of `a` times rows of `b`."""
    return 2 * a[0] * a[1] * b[-1]


def test_the_cache_gives_the_logits_of_one_pass(model, tokens):
    cache = model.new_cache(3, 24)
    parts = [model(tokens[:, :10], cache=cache), model(tokens[:, 10:17], cache=cache)]
    parts += [model(tokens[:, i : i + 1], cache=cache) for i in range(17, 24)]
    torch.testing.assert_close(torch.cat(parts, 1), model(tokens), rtol=1e-4, atol=1e-5)


def test_the_turn_of_a_head_is_the_plain_formula_and_its_gradient():
    x = torch.randn(2, 3, 5, 8, dtype=torch.float64).transpose(1, 2).requires_grad_()
    cos, sin = (a.double() for a in rotary_angles(torch.arange(3), 8, torch.float32))

    def plain(x):
        first, second = x.chunk(2, dim=-1)
        return x * cos + torch.cat([-second, first], dim=-1) * sin

    torch.testing.assert_close(rotate(x, cos, sin), plain(x))
    weights = torch.randn(2, 5, 3, 8, dtype=torch.float64)
    found = torch.autograd.grad((rotate(x, cos, sin) * weights).sum(), x)
    torch.testing.assert_close(found, torch.autograd.grad((plain(x) * weights).sum(), x))


def test_rotary_positions_see_distance_alone(tokens):
    model = build()
    shifted = model(tokens, positions=torch.arange(5, 29))
    torch.testing.assert_close(shifted, model(tokens), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("precision", "near"),
    [("fp32", {"rtol": 1e-4, "atol": 1e-7}), ("bf16", {"rtol": 0.03, "atol": 1e-4})],
)
def test_fused_loss_and_gradients_equal_the_plain_ones(precision, near):
    torch.manual_seed(0)
    hidden = torch.randn(700, 16, requires_grad=True)
    head = torch.randn(300, 16, requires_grad=True)
    targets = torch.randint(0, 300, (700,))
    with autocast(torch.device("cpu"), precision):
        fused = linear_cross_entropy(hidden, head, targets)
    plain = torch.nn.functional.cross_entropy(hidden @ head.t(), targets)
    torch.testing.assert_close(fused, plain, rtol=1e-5 if precision == "fp32" else 0.01, atol=0)
    for a, b in zip(
        torch.autograd.grad(fused, (hidden, head)),
        torch.autograd.grad(plain, (hidden, head)),
        strict=True,
    ):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a, b, **near)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"d_model": 33}, "multiple of model.d_head"),
        ({"n_kv_head": 3}, "divide model.n_head"),
        ({"positions": "alibi"}, "rope, learned, sinusoidal"),
        ({"d_head": 1}, "odd"),
        ({"n_layer": 0}, "out of range; set a number from 1"),
    ],
)
def test_impossible_shapes_are_refused_with_the_fix(changes, words):
    with pytest.raises(ValueError, match=words):
        build(**changes)
