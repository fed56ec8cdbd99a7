"""Rows of prompt and completion as tensors: layout, log-probabilities, counted FLOPs.

A row is a prompt, its completion, then padding on the right: plain causal attention never sees the
padding and needs no mask. A packed row holds several examples, and a mask keeps attention
within each of them (Krell et al. 2021, 2107.02027). A (B, L-1) tensor of numbers per token
holds at index t the number of token t+1, which is predicted from the state at t.

Legend: B batch, L row length, C width, V vocabulary, M completion tokens of the batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from scaling.config import ModelConfig
from scaling.data.tokenizer import PAD
from scaling.model.transformer import Transformer, causal_within

# On a CPU rows go through the model in chunks of this many tokens: with fewer, the calls cost more
# than the arithmetic.
CHUNK_TOKENS = 1024


@dataclass(frozen=True, kw_only=True)
class Rows:
    """A batch of rows of token ids."""

    tokens: Tensor  # (B, L)
    mask: Tensor  # (B, L-1) True at t where token t+1 belongs to a completion
    last: Tensor  # (B,) index of the last token before the padding
    example: Tensor | None = None  # (B, L) of packed rows: which example of its row a token is in

    def take(self, index: Tensor) -> "Rows":
        """Return the rows of an index, (b,), without the columns that all of them pad."""
        length = int(self.last[index].max()) + 1
        return Rows(
            tokens=self.tokens[index, :length],
            mask=self.mask[index, : length - 1],
            last=self.last[index],
            example=None if self.example is None else self.example[index, :length],
        )

    @property
    def n_tokens(self) -> int:
        """Number of tokens, padding not counted."""
        return int(self.last.sum()) + len(self.last)

    @property
    def real(self) -> Tensor:
        """True where a token is not padding, (B, L)."""
        column = torch.arange(self.tokens.shape[1], device=self.last.device)
        return column <= self.last[:, None]

    @property
    def lengths(self) -> Tensor:
        """Number of tokens of each example; packed examples come in no particular order."""
        if self.example is None:
            return self.last + 1
        numbers = torch.arange(len(self.last), device=self.last.device)[:, None]
        slots = (numbers * (int(self.example.max()) + 1) + self.example).flatten()
        counts = slots[self.real.flatten()].bincount()
        return counts[counts > 0]


def join(
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    device: torch.device | None = None,
) -> Rows:
    """Lay out one row for each prompt and its completion, which holds at least one token."""
    lengths = [len(p) + len(c) for p, c in zip(prompts, completions, strict=True)]
    tokens = torch.full((len(lengths), max(lengths)), PAD)
    mask = torch.zeros(len(lengths), max(lengths) - 1, dtype=torch.bool)
    for i, (p, c) in enumerate(zip(prompts, completions, strict=True)):
        tokens[i, : lengths[i]] = torch.tensor([*p, *c])
        mask[i, len(p) - 1 : lengths[i] - 1] = True
    last = torch.tensor(lengths) - 1
    return Rows(tokens=tokens.to(device), mask=mask.to(device), last=last.to(device))


def pack(
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    *,
    context: int,
    device: torch.device | None = None,
) -> Rows:
    """Lay out examples in rows of up to `context` tokens, by first-fit with the longest first.

    prompts: token ids
    completions: token ids, one completion for each prompt
    context: the length of a row; a longer example has a row of its own
    device: where the rows are put; None is the CPU
    """
    pairs = list(zip(prompts, completions, strict=True))
    rows_of_examples: list[list[int]] = []  # numbers of the examples of each row
    room: list[int] = []
    for i in sorted(range(len(pairs)), key=lambda i: -len(pairs[i][0]) - len(pairs[i][1])):
        size = len(pairs[i][0]) + len(pairs[i][1])
        at = next((k for k, free in enumerate(room) if free >= size), len(room))
        if at == len(room):
            rows_of_examples.append([])
            room.append(context)
        rows_of_examples[at].append(i)
        room[at] -= size
    joined = [[t for i in row for side in pairs[i] for t in side] for row in rows_of_examples]
    rows = join([[]] * len(joined), joined)
    mask, example = torch.zeros_like(rows.mask), torch.full_like(rows.tokens, len(pairs))
    for b, row in enumerate(rows_of_examples):
        end = 0
        for number, i in enumerate(row):
            start, end = end, end + len(pairs[i][0]) + len(pairs[i][1])
            example[b, start:end] = number
            mask[b, start + len(pairs[i][0]) - 1 : end - 1] = True
    return Rows(
        tokens=rows.tokens.to(device),
        mask=mask.to(device),
        last=rows.last.to(device),
        example=example.to(device),
    )


def states(model: Transformer, rows: Rows, *, last: bool = False) -> Tensor:
    """Return the hidden states from which completion tokens are predicted, (M, C) in row order.

    `last` returns the state at the last token of each row instead, (B, C). On a CPU rows of like
    length go through the model together, so that little of the work is padding.
    """
    chunks = by_length(model, rows)
    if len(chunks) == 1:
        return _states_of_rows(model, rows, last)
    by_chunk = torch.cat([_states_of_rows(model, rows.take(chunk), last) for chunk in chunks])
    counts = torch.ones_like(rows.last) if last else rows.mask.sum(1)
    order = torch.cat(chunks)
    begins = torch.empty_like(counts)  # where each row's states begin in `by_chunk`
    begins[order] = counts[order].cumsum(0) - counts[order]
    shift = begins - (counts.cumsum(0) - counts)
    return by_chunk[torch.arange(len(by_chunk)) + shift.repeat_interleave(counts)]


def _states_of_rows(model: Transformer, rows: Rows, last: bool) -> Tensor:
    mask = positions = None
    if rows.example is not None:
        mask = causal_within(rows.example)
        if model.config.positions != "rope":  # rope depends on distances alone
            positions = restart_positions(rows.example)
    real = rows.real if model.config.n_experts else None
    hidden = model.hidden(rows.tokens, positions=positions, mask=mask, real=real)  # (B, L, C)
    if last:
        return hidden[torch.arange(len(rows.last), device=hidden.device), rows.last]
    return hidden[:, :-1][rows.mask]


def restart_positions(example: Tensor) -> Tensor:
    """Return positions, (B, L), that start at 0 in each run of equal numbers of `example`."""
    column = torch.arange(example.shape[1], device=example.device).expand_as(example)
    begins = example.diff(dim=1, prepend=example[:, :1]) != 0
    return column - (column * begins).cummax(1).values


def by_length(model: Transformer, rows: Rows) -> list[Tensor]:
    """Return the numbers of the rows, sorted by length, in chunks of about CHUNK_TOKENS tokens.

    There is one chunk on a GPU, and for a mixture of experts: their load is balanced over the
    batch.
    """
    n = len(rows.last)
    parts = min(n, rows.n_tokens // CHUNK_TOKENS)
    if parts < 2 or rows.tokens.device.type != "cpu" or model.config.n_experts:
        return [torch.arange(n, device=rows.tokens.device)]
    return list(rows.last.argsort().tensor_split(parts))


def log_probs(
    model: Transformer, rows: Rows, *, temperature: float = 1.0, entropy_learns: bool = False
) -> tuple[Tensor, Tensor]:
    """Return log-probability and entropy (nats) of each completion token, (M,) each.

    model: the language model
    rows: prompts and completions
    temperature: divides the logits
    entropy_learns: whether the entropy has a gradient

    Both are in row order, as `rows.mask` selects them; `scatter` makes them (B, L-1).
    """
    logits = model.head(states(model, rows)).float() / temperature  # (M, V)
    logp = F.log_softmax(logits, dim=-1)
    entropy_logp = logp if entropy_learns else logp.detach()
    entropy = -(entropy_logp.exp() * entropy_logp).sum(-1)  # (M,)
    return logp.gather(1, rows.tokens[:, 1:][rows.mask][:, None])[:, 0], entropy


def completion_losses(model: Transformer, rows: Rows) -> Tensor:
    """Return the cross-entropy (nats) of each completion token, (M,), in row order."""
    targets = rows.tokens[:, 1:][rows.mask]
    return F.cross_entropy(model.head(states(model, rows)).float(), targets, reduction="none")


def scatter(values: Tensor, mask: Tensor) -> Tensor:
    """Put (M,) values where `mask` is True and 0 elsewhere, (B, L-1)."""
    return torch.zeros(mask.shape, dtype=values.dtype, device=values.device).masked_scatter(
        mask, values
    )


def scatter_lists(lists: Sequence[Sequence[float]], mask: Tensor) -> Tensor:
    """Put the numbers of each row's completion tokens where `mask` is True, (B, L-1), float32."""
    flat = torch.tensor([v for row in lists for v in row], dtype=torch.float32)
    return scatter(flat.to(mask.device), mask)


def forward_flops(config: ModelConfig, vocab_size: int, rows: Rows, *, head: bool = True) -> float:
    """Count the FLOPs of one forward pass over rows; forward and backward are three times this.

    config: the model's shape
    vocab_size: of the model
    rows: what is passed
    head: whether logits are computed

    The count is that of `Shape.flops_per_token`, with these differences: attention costs the square
    of each example's own length, the head passes completion tokens alone, padding is not counted.
    """
    shape = config.shape(vocab_size=vocab_size, context=1)
    lengths = rows.lengths.double()
    matrices = 2.0 * shape.n_layer * shape.active_matrices * float(lengths.sum())
    attention = 4.0 * shape.n_layer * shape.n_head * shape.d_head * float((lengths**2).sum())
    logits = 2.0 * vocab_size * shape.d_model * int(rows.mask.sum()) if head else 0.0
    return matrices + attention + logits
