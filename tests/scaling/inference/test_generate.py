"""Sampling with the cache equals sampling without it."""

import pytest
import torch

from scaling.config import ModelConfig
from scaling.cpu.decode import has_decoder
from scaling.data.tokenizer import END
from scaling.inference.completions import join, log_probs
from scaling.inference.generate import generate
from scaling.model.transformer import Transformer

PROMPTS = [[5, 6, 7, 2], [9, 2], [3, 4, 5, 6, 7, 8, 2], [11, 12, 2]]


def build(**shape) -> Transformer:
    torch.manual_seed(1)
    config = ModelConfig(n_layer=2, d_model=16, d_head=8, **shape)
    model = Transformer(config, vocab_size=24, context=32)
    torch.nn.init.normal_(model.embedding.weight, std=0.2)  # so that the samples differ
    return model.eval()


def greedy(model: Transformer, prompt: list[int], n: int) -> list[int]:
    tokens = list(prompt)
    while len(tokens) < len(prompt) + n and (len(tokens) == len(prompt) or tokens[-1] != END):
        tokens.append(int(model(torch.tensor([tokens]))[0, -1].argmax()))
    return tokens[len(prompt) :]


@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"n_kv_head": 1},
        {"positions": "learned"},
        {"positions": "sinusoidal", "norm": "layernorm"},
    ],
)
def test_greedy_with_the_cache_equals_the_plain_model(shape):
    model = build(**shape)
    with torch.no_grad():
        expected = [greedy(model, p, 10) for p in PROMPTS]
    assert generate(model, PROMPTS, max_new_tokens=10, temperature=0).completions == expected


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probs_are_those_of_a_plain_pass(temperature):
    model = build()
    samples = generate(model, PROMPTS * 8, max_new_tokens=12, temperature=temperature)
    rows = join(PROMPTS * 8, samples.completions)
    with torch.no_grad():
        plain, _ = log_probs(model, rows, temperature=temperature)
    sampled_log_probs = torch.tensor([v for row in samples.log_probs for v in row])
    torch.testing.assert_close(sampled_log_probs, plain, atol=1e-5, rtol=0)


def test_a_row_does_not_depend_on_its_batch():
    model = build()
    together = generate(model, PROMPTS * 8, max_new_tokens=12, seed=3)
    apart = generate(model, PROMPTS * 8, max_new_tokens=12, seed=3, batch_rows=5)
    assert together.completions == apart.completions
    assert len(set(map(len, together.completions))) > 1


def test_a_completion_stops_at_its_end():
    samples = generate(build(), PROMPTS * 8, max_new_tokens=12)
    for tokens, ended in zip(samples.completions, samples.ended, strict=True):
        assert END not in tokens[:-1]
        assert ended == (tokens[-1] == END)
        assert ended or len(tokens) == 12


def test_samples_follow_the_models_distribution():
    model = build()
    samples = generate(model, [PROMPTS[0]] * 4000, max_new_tokens=1)
    with torch.no_grad():
        probabilities = model(torch.tensor([PROMPTS[0]]))[0, -1].softmax(-1)
    frequencies = torch.bincount(torch.tensor(samples.completions)[:, 0], minlength=24) / 4000
    torch.testing.assert_close(frequencies, probabilities, atol=0.03, rtol=0)


@pytest.mark.parametrize(
    ("prompts", "n", "match"),
    [
        ([[]], 4, "empty prompt"),
        ([], 4, "empty prompt"),
        ([[5] * 30], 4, "exceed the context"),
        ([[5]], 0, "at least 1"),
    ],
)
def test_impossible_requests_are_refused(prompts, n, match):
    with pytest.raises(ValueError, match=match):
        generate(build(), prompts, max_new_tokens=n)


@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"embedding_norm": False, "tied": False},
        {"parametrization": "completep", "n_layer": 3, "base_width": 16},
        {"parametrization": "mup", "base_width": 16},
    ],
)
def test_steps_written_out_give_the_models_logits(shape, monkeypatch):
    torch.manual_seed(1)
    config = ModelConfig(**{"n_layer": 2, "d_model": 32, "d_head": 8} | shape)
    model = Transformer(config, vocab_size=60, context=40).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    prompts = [[5, 6, 7, 2], [8, 2], [9] * 11, [2]]
    assert has_decoder(model)
    samples = generate(model, prompts, max_new_tokens=20, seed=3)
    monkeypatch.setattr("scaling.inference.generate.has_decoder", lambda model: False)
    expected = generate(model, prompts, max_new_tokens=20, seed=3)
    assert samples.completions == expected.completions
    for own, other in zip(samples.log_probs, expected.log_probs, strict=True):
        torch.testing.assert_close(torch.tensor(own), torch.tensor(other), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "shape", [{"n_kv_head": 1}, {"norm": "layernorm"}, {"n_experts": 4}, {"positions": "learned"}]
)
def test_other_models_are_sampled_by_their_own_passes(shape):
    config = ModelConfig(**{"n_layer": 1, "d_model": 16, "d_head": 8} | shape)
    model = Transformer(config, vocab_size=60, context=40)
    assert not has_decoder(model)
    assert len(generate(model, [[5, 2]], max_new_tokens=3).completions) == 1


def test_a_prompt_of_many_rows_goes_through_once(monkeypatch):
    model, seen = build(), []
    plain = model.hidden

    def hidden(tokens, **options):
        seen.append(len(tokens))
        return plain(tokens, **options)

    monkeypatch.setattr(model, "hidden", hidden)
    many = [p for p in PROMPTS for _ in range(5)]
    samples = generate(model, many, max_new_tokens=8, seed=2)
    assert seen[0] == len(PROMPTS)
    apart = [generate(model, many, max_new_tokens=8, seed=2, batch_rows=1)]
    assert samples.completions == apart[0].completions
    assert len({tuple(c) for c in samples.completions[:5]}) > 1
