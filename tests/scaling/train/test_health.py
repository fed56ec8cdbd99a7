import math

import pytest
import torch

from scaling.config import ModelConfig
from scaling.model.transformer import Transformer
from scaling.train import health
from scaling.train.health import copy_matrices, probe, update_ratio


def model(**changes) -> Transformer:
    torch.manual_seed(0)
    config = ModelConfig(**({"n_layer": 2, "d_model": 32, "d_head": 8} | changes))
    return Transformer(config, vocab_size=300, context=24)


@pytest.mark.parametrize("changes", [{}, {"n_kv_head": 2}, {"n_experts": 4}], ids=str)
def test_a_probe_reads_what_the_layers_put_out_and_leaves_the_model_as_it_was(changes):
    made = model(**changes)
    tokens = torch.randint(0, 300, (2, 24))
    made.loss(tokens, tokens)
    routings = made.routings()
    found = probe(made, tokens)
    assert made.training
    assert made.routings() == routings
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in made.modules())
    logits = made(tokens)
    assert found["rms_logits"] == pytest.approx(logits.square().mean().sqrt().item(), rel=1e-5)


def test_the_largest_score_is_that_of_the_masked_products():
    made = model(n_layer=1)
    tokens = torch.randint(0, 300, (1, 24))
    block = made.blocks[0]
    x, rope = made._embed(tokens, torch.arange(24))
    q, k, _ = block.attention.project(block.norm_attention(x), rope)
    scores = torch.einsum("bhtk,bhsk->bhts", q, k) / math.sqrt(8)
    expected = max(scores[0, :, t, s].max().item() for t in range(24) for s in range(t + 1))
    assert probe(made, tokens)["attention_logit_max"] == pytest.approx(expected, rel=1e-5)


def test_the_update_ratio_is_of_all_matrices_together():
    made = model()
    before = copy_matrices(made)
    with torch.no_grad():
        for block in made.blocks:
            for weight in block.parameters():
                weight.mul_(1.01)
        made.embedding.weight.mul_(2)
    assert update_ratio(before, made) == pytest.approx(0.01, rel=1e-4)


def test_matrices_are_copied_to_the_cpu_and_compared_one_at_a_time(monkeypatch):
    made, sizes = model(), []
    before = copy_matrices(made)
    assert {t.device.type for t in before} == {"cpu"}
    as_part = health.as_part
    monkeypatch.setattr(
        health, "as_part", lambda own, copy: sizes.append(copy.numel()) or as_part(own, copy)
    )
    assert update_ratio(before, made) == 0.0
    assert sizes == [t.numel() for t in before]


def test_scores_of_a_long_context_are_held_a_strip_at_a_time(monkeypatch):
    made, tokens = model(), torch.randint(0, 300, (2, 24))
    whole = probe(made, tokens)["attention_logit_max"]
    monkeypatch.setattr(health, "STRIP", 5)
    assert probe(made, tokens)["attention_logit_max"] == pytest.approx(whole, rel=1e-6)
