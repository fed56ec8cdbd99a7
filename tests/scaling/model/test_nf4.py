"""Weights in 4 bits: the published table, nearest codes, gradients, memory, merging."""

import copy

import pytest
import torch
from scipy.stats import norm
from torch import nn
from torch.nn import functional as F

from scaling.config import ModelConfig
from scaling.model.lora import LoraLinear, add_lora, frozen_bytes, merge_lora
from scaling.model.nf4 import BLOCK, LEVELS, NF4Linear, Scales, codes_of, weights_of
from scaling.model.transformer import Transformer

TOKENS = torch.arange(12).view(2, 6)


def weight(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)) * 0.05


def build() -> Transformer:
    torch.manual_seed(0)
    return Transformer(ModelConfig(n_layer=2, d_model=32, d_head=16), vocab_size=40, context=16)


def test_the_levels_are_quantiles_of_a_normal_over_the_largest():
    # 2305.14314, equation 4 and appendix E: 8 levels below zero, 7 above, and zero itself
    offset = 0.9677083
    above = norm.ppf(torch.linspace(offset, 0.5, 9)[:-1].numpy())
    below = -norm.ppf(torch.linspace(offset, 0.5, 8)[:-1].numpy())
    wanted = torch.tensor(sorted([*below, 0.0, *above])) / max(above)
    torch.testing.assert_close(torch.tensor(LEVELS), wanted.float(), atol=1e-6, rtol=0)


def test_each_weight_takes_the_nearest_level_of_its_block():
    w = weight(6, 64)
    codes, scales = codes_of(w)
    torch.testing.assert_close(scales, w.abs().amax(1))
    unit = w / scales[:, None]
    nearest = (unit[..., None] - torch.tensor(LEVELS)).abs().argmin(-1).flatten()
    assert torch.stack([codes >> 4, codes & 15], 1).flatten().equal(nearest.to(torch.uint8))
    again, _ = codes_of(weights_of(codes, scales))
    assert again.equal(codes)


def test_a_block_of_zeros_stays_zero():
    assert weights_of(*codes_of(torch.zeros(BLOCK))).equal(torch.zeros(BLOCK))


@pytest.mark.slow
def test_codes_are_those_of_bitsandbytes():
    functional = pytest.importorskip("bitsandbytes.functional")
    w = weight(64, 128)
    theirs, state = functional.quantize_4bit(w, blocksize=BLOCK, quant_type="nf4")
    codes, scales = codes_of(w)
    assert codes.equal(theirs.flatten())
    torch.testing.assert_close(scales, state.absmax)


def test_scales_in_8_bits_are_near_their_own():
    scales = weight(1000).abs() + 0.1
    found = Scales(scales).dense()
    assert (found - scales).abs().max() < 0.07 * (scales - scales.mean()).abs().max()
    assert Scales(torch.full((3,), 0.2)).dense().tolist() == pytest.approx([0.2] * 3)


@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_equals_a_plain_one_of_its_matrix_with_the_gradient(bias):
    layer = NF4Linear(nn.Linear(40, 24, bias=bias).requires_grad_(False))  # no multiple of a block
    x = weight(2, 3, 40).requires_grad_()
    y = layer(x)
    wanted = F.linear(x, layer.weight, layer.bias)
    torch.testing.assert_close(y, wanted)
    grads = [torch.autograd.grad(out.square().sum(), x)[0] for out in (y, wanted)]
    torch.testing.assert_close(*grads)
    torch.testing.assert_close(layer.dense()(x), wanted)


def test_the_error_is_that_of_four_bits():
    w = weight(256, 256)
    layer = nn.Linear(256, 256, bias=False)
    layer.weight.data = w
    error = (NF4Linear(layer).weight - w).norm() / w.norm()
    assert 0.08 < float(error) < 0.1  # of a normal: .091


def test_the_base_takes_4_13_bits_a_weight():
    layer = NF4Linear(nn.Linear(1024, 1024, bias=False))
    assert 8 * frozen_bytes(layer) / 1024**2 == pytest.approx(
        4 + 8 / 64 + 32 / (64 * 256), abs=1e-3
    )


def test_adapters_on_four_bits_merge_into_the_matrix_that_was_tuned():
    model = add_lora(build(), rank=2, four_bits=True)
    layers = [m for m in model.modules() if isinstance(m, LoraLinear)]
    assert len(layers) == 2 * 4
    assert all(isinstance(m.base, NF4Linear) for m in layers)
    model(TOKENS).square().mean().backward()
    assert {n.rpartition(".")[2] for n, p in model.named_parameters() if p.grad is not None} == {
        "down",
        "up",
    }
    for layer in layers:
        nn.init.normal_(layer.up, std=0.1)
    wanted = model(TOKENS)
    merged = merge_lora(copy.deepcopy(model))
    torch.testing.assert_close(merged(TOKENS), wanted, rtol=1e-5, atol=1e-5)
    assert merged.state_dict().keys() == build().state_dict().keys()
    assert frozen_bytes(model) < 0.4 * frozen_bytes(add_lora(build(), rank=2))
