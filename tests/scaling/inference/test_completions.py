"""Rows of prompt and completion: masks, log-probabilities, counted FLOPs."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from scaling.config import ModelConfig
from scaling.data.tokenizer import PAD
from scaling.inference.completions import (
    by_length,
    completion_losses,
    forward_flops,
    join,
    log_probs,
    pack,
    scatter,
    scatter_lists,
    states,
)
from scaling.model.transformer import Transformer

PROMPTS, COMPLETIONS = [[5, 6, 2], [7, 2]], [[8, 0], [9, 10, 11]]


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Transformer(ModelConfig(n_layer=2, d_model=16, d_head=8), vocab_size=40, context=16)


def test_the_mask_marks_completion_tokens_alone():
    rows = join(PROMPTS, [[8, 0], [9]])
    assert rows.tokens.tolist() == [[5, 6, 2, 8, 0], [7, 2, 9, PAD, PAD]]
    assert rows.mask.tolist() == [[False, False, True, True], [False, True, False, False]]
    assert rows.last.tolist() == [4, 2]
    assert rows.n_tokens == 8


def test_log_probs_are_those_of_the_full_logits(model):
    rows = join(PROMPTS, COMPLETIONS)
    log_probabilities = scatter(log_probs(model, rows)[0], rows.mask)
    full = model(rows.tokens).log_softmax(-1)[:, :-1].gather(2, rows.tokens[:, 1:, None])[..., 0]
    torch.testing.assert_close(log_probabilities, full * rows.mask)


def test_rows_in_chunks_of_like_length_give_the_same(model, monkeypatch):
    generator = torch.Generator().manual_seed(1)

    def ids(n: int) -> list[int]:
        return torch.randint(4, 40, (n,), generator=generator).tolist()

    prompts, completions = zip(
        *((ids(1 + i % 7), ids(1 + (3 * i) % 8)) for i in range(12)), strict=True
    )
    rows, model = join(prompts, completions), model.double()  # sums of 12 rows cancel
    whole = [states(model, rows), states(model, rows, last=True)]
    monkeypatch.setattr("scaling.inference.completions.CHUNK_TOKENS", 20)
    assert len(by_length(model, rows)) > 3
    in_chunks = [states(model, rows), states(model, rows, last=True)]
    torch.testing.assert_close(in_chunks, whole)
    toward = torch.randn(whole[0].shape, generator=generator)  # a normed state's square is constant
    (in_chunks[0] * toward).sum().backward()
    gradient = model.embedding.weight.grad.clone()
    model.zero_grad()
    (whole[0] * toward).sum().backward()
    torch.testing.assert_close(gradient, model.embedding.weight.grad, rtol=1e-4, atol=1e-4)


def examples(n: int) -> tuple[list[list[int]], list[list[int]]]:
    generator = torch.Generator().manual_seed(2)
    sizes = [(1 + i % 4, 1 + (3 * i) % 5) for i in range(n)]
    draw = lambda k: torch.randint(4, 40, (k,), generator=generator).tolist()  # noqa: E731
    return [draw(a) for a, _ in sizes], [draw(b) for _, b in sizes]


@pytest.mark.parametrize("positions", ["rope", "learned", "sinusoidal"])
@pytest.mark.parametrize("chunk", [1024, 20])
def test_packed_rows_give_the_loss_and_gradient_of_rows_apart(positions, chunk, monkeypatch):
    monkeypatch.setattr("scaling.inference.completions.CHUNK_TOKENS", chunk)
    torch.manual_seed(0)
    config = ModelConfig(n_layer=2, d_model=16, d_head=8, positions=positions)
    model = Transformer(config, vocab_size=40, context=16)
    prompts, completions = examples(11)
    apart, packed = join(prompts, completions), pack(prompts, completions, context=16)
    assert len(packed.tokens) <= 0.6 * len(apart.tokens)
    results = []
    for rows in (apart, packed):
        loss = completion_losses(model, rows).mean()
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        results.append([loss, *gradients])
    torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=1e-6)


def test_routers_do_not_count_padding():
    torch.manual_seed(0)
    config = ModelConfig(n_layer=2, d_model=16, d_head=8, n_experts=4)
    model = Transformer(config, vocab_size=40, context=16)
    torch.nn.init.normal_(model.embedding.weight)
    losses = []
    for rows in (join(*examples(11)), pack(*examples(11), context=16)):
        states(model, rows)
        losses.append(model.router_loss())
    torch.testing.assert_close(*losses)
    states(model, join([[5]], [[6]]))
    model.hidden(torch.full((2, 3), 7))  # plain batches count all again
    assert all(layer.counted is None for layer in model.mixtures())


def test_packed_rows_hold_every_example_once_and_count_as_rows_apart():
    prompts, completions = examples(11)
    prompts[3] = [7] * 30  # longer than the context: a row of its own
    apart, packed = join(prompts, completions), pack(prompts, completions, context=16)
    assert packed.lengths.sort().values.tolist() == apart.lengths.sort().values.tolist()
    assert packed.mask.sum() == apart.mask.sum() == sum(map(len, completions))
    assert packed.n_tokens == apart.n_tokens
    config = ModelConfig(n_layer=2, d_model=16, d_head=8)
    assert forward_flops(config, 40, packed) == forward_flops(config, 40, apart)
    assert sorted(packed.tokens[:, 1:][packed.mask].tolist()) == sorted(
        token for c in completions for token in c
    )


def test_entropy_has_a_gradient_where_it_is_asked_for(model):
    rows = join(PROMPTS, COMPLETIONS)
    assert not log_probs(model, rows)[1].requires_grad
    assert log_probs(model, rows, entropy_learns=True)[1].requires_grad


def test_padding_changes_no_log_prob(model):
    alone = join(PROMPTS[:1], COMPLETIONS[:1])
    padded_row = join([*PROMPTS[:1], [7] * 9], [*COMPLETIONS[:1], [1]])
    torch.testing.assert_close(log_probs(model, alone)[0], log_probs(model, padded_row)[0][:2])


def test_the_loss_is_that_of_completion_tokens(model):
    rows = join(PROMPTS, COMPLETIONS)
    torch.testing.assert_close(completion_losses(model, rows), -log_probs(model, rows)[0])


def test_take_cuts_to_the_longest_row():
    rows = join(PROMPTS, [[8, 0], [9]]).take(torch.tensor([1]))
    assert rows.tokens.tolist() == [[7, 2, 9]]
    assert rows.mask.tolist() == [[False, True]]


def test_scatter_lists_puts_numbers_where_the_mask_is():
    rows = join(PROMPTS, COMPLETIONS)
    assert scatter_lists([[1, 2], [3, 4, 5]], rows.mask).tolist() == [[0, 0, 1, 2], [0, 3, 4, 5]]


def test_forward_flops_equal_torchs_counter(model):
    rows = join([[5, 6, 2]] * 3, [[8, 9, 0]] * 3)
    with (
        FlopCounterMode(display=False) as counter,
        torch.no_grad(),
        torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH),
    ):
        log_probs(model, rows)
    assert forward_flops(model.config, 40, rows) == counter.get_total_flops()
