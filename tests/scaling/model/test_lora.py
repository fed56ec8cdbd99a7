"""Adapters: no change at the start, exact merge, frozen base."""

import copy

import pytest
import torch

from scaling.config import ModelConfig
from scaling.model.lora import LoraLinear, add_lora, merge_lora
from scaling.model.transformer import Transformer

TOKENS = torch.arange(12).view(2, 6)


def build() -> Transformer:
    torch.manual_seed(0)
    return Transformer(ModelConfig(n_layer=2, d_model=16, d_head=8), vocab_size=40, context=16)


def disturbed() -> Transformer:
    model = add_lora(build(), rank=2)
    for name, weight in model.named_parameters():
        if name.endswith("up"):
            torch.nn.init.normal_(weight, std=0.1)
    return model


def test_nothing_changes_before_the_first_step():
    torch.testing.assert_close(add_lora(build(), rank=2)(TOKENS), build()(TOKENS), rtol=0, atol=0)


def test_all_linear_layers_but_the_head_are_adapted():
    model = add_lora(build(), rank=2)
    adapted = [n for n, m in model.named_modules() if isinstance(m, LoraLinear)]
    assert len(adapted) == 2 * 4
    trainable = {n.rpartition(".")[2] for n, p in model.named_parameters() if p.requires_grad}
    assert trainable == {"down", "up"}


def test_merged_equals_adapted():
    model = disturbed()
    wanted = model(TOKENS)
    merged = merge_lora(copy.deepcopy(model))
    assert not any(isinstance(m, LoraLinear) for m in merged.modules())
    assert (wanted - build()(TOKENS)).abs().max() > 1e-2
    torch.testing.assert_close(merged(TOKENS), wanted, rtol=1e-5, atol=1e-5)


def test_a_merged_model_has_the_plain_models_weights():
    assert merge_lora(disturbed()).state_dict().keys() == build().state_dict().keys()


@pytest.mark.parametrize("rank", [0, 17])
def test_an_impossible_rank_is_refused(rank):
    with pytest.raises(ValueError, match="lora_rank"):
        add_lora(build(), rank=rank)
