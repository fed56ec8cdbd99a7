"""Batched sampling with a key/value cache.

Prompts are padded on the left, so that all rows write the same column of the cache; a mask hides
the padding, and positions count from the first token of each prompt. Rows that have ended leave the
batch. Each row has its own stream of uniform draws (inverse-CDF sampling), so that its completion
depends neither on the other rows of the batch nor on when they end.

Legend: B batch, U different prompts, P longest prompt, S keys so far, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from scaling.cpu.decode import Decoder, has_decoder
from scaling.data.tokenizer import PAD
from scaling.inference.completions import CHUNK_TOKENS
from scaling.model.transformer import Cache, Transformer
from scaling.study.activity import moved

BATCH_ROWS = {"cpu": 256, "cuda": 512}  # rows that are sampled together, by device
# Ended rows are dropped once less than this share of the batch goes on: dropping moves rows of the
# cache.
DROP_SHARE = 0.9
DRAW_SEED = 2**31  # added to the seed: the draws differ from those of models with the same seed


@dataclass(kw_only=True)
class Samples:
    """Completions in the order of their prompts; an ended one has the end of a text last."""

    completions: list[list[int]] = field(default_factory=list)
    log_probs: list[list[float]] = field(default_factory=list)  # of the model at its temperature
    ended: list[bool] = field(default_factory=list)

    @property
    def n_tokens(self) -> int:
        """Number of tokens in all completions."""
        return sum(map(len, self.completions))


@dataclass(kw_only=True)
class Batch:
    """The rows that are being sampled; tensors shrink when rows end."""

    rows: Tensor  # (B,) number of each row within the chunk of prompts
    cache: Cache
    valid: Tensor  # (B, capacity) True where a key is a real token
    hidden: Tensor  # (B, capacity) the mask to add to attention: -inf where not `valid`, else 0
    positions: Tensor  # (B,) position of the next token
    draws: Tensor  # (B, max_new) uniform in [0, 1)

    def keep(self, alive: Tensor) -> Tensor:
        """Drop the rows that are not alive; the last rows move into their places.

        Returns the former number of the row at each place, (B,).
        """
        n = int(alive.sum())
        holes, movers = (~alive[:n]).nonzero()[:, 0], alive[n:].nonzero()[:, 0] + n

        def compact(values: Tensor) -> Tensor:
            values[holes] = values[movers]
            return values[:n]

        self.cache.keys = [compact(k) for k in self.cache.keys]
        self.cache.values = [compact(v) for v in self.cache.values]
        self.rows, self.valid, self.hidden = map(compact, (self.rows, self.valid, self.hidden))
        self.positions, self.draws = compact(self.positions), compact(self.draws)
        return compact(torch.arange(len(alive), device=alive.device))


@torch.inference_mode()
def generate(
    model: Transformer,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    seed: int = 0,
    batch_rows: int = 0,
) -> Samples:
    """Sample one completion of each prompt; repeat a prompt to get several.

    model: the language model
    prompts: token ids
    max_new_tokens: a completion ends with `model.text_end` or after this many tokens
    temperature: divides the logits; 0 takes the likeliest token
    seed: of the draws; a prompt's draws depend on the seed and on its place among the prompts
    batch_rows: rows that are sampled together; 0 takes BATCH_ROWS of the device

    ValueError for no prompts, for an empty one, and for one that leaves no room in the context.
    """
    check_room(prompts, max_new_tokens=max_new_tokens, context=model.context)
    batch_rows = batch_rows or BATCH_ROWS.get(model.device.type, 128)
    generator = torch.Generator().manual_seed(DRAW_SEED + seed)
    draws = torch.rand(len(prompts), max_new_tokens, generator=generator, dtype=torch.float64)
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    samples = Samples(
        completions=[[] for _ in prompts],
        log_probs=[[] for _ in prompts],
        ended=[False] * len(prompts),
    )
    was_training = model.training
    model.eval()
    for at in range(0, len(order), batch_rows):
        chunk = order[at : at + batch_rows]
        tokens, log_probs, counts = _sample(
            [prompts[i] for i in chunk], model, draws[chunk], temperature
        )
        for row, i in enumerate(chunk):
            samples.completions[i] = tokens[row][: counts[row]]
            samples.log_probs[i] = log_probs[row][: counts[row]]
            samples.ended[i] = samples.completions[i][-1] == model.text_end
    model.train(was_training)
    return samples


def check_room(prompts: Sequence[Sequence[int]], *, max_new_tokens: int, context: int) -> None:
    """Raise ValueError when a prompt is missing, empty or too long for the context."""
    if not prompts or not all(prompts):
        raise ValueError(
            "there is an empty prompt, or none at all; "
            "give at least one token each (a prompt ends with SEP)"
        )
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens={max_new_tokens} must be at least 1")
    longest = max(map(len, prompts))
    if longest + max_new_tokens > context:
        raise ValueError(
            f"the longest prompt ({longest} tokens) and max_new_tokens={max_new_tokens} "
            "exceed the context of "
            f"{context}; shorten the prompts or the completions"
        )


def _sample(
    prompts: list[Sequence[int]], model: Transformer, draws: Tensor, temperature: float
) -> tuple[list[list[int]], list[list[float]], list[int]]:
    """Sample one chunk; return by row the tokens, their log-probabilities, and how many count."""
    n, max_new = draws.shape
    device = model.device
    tokens = torch.full((n, max_new), PAD, device=device)
    log_probs = torch.zeros(n, max_new, device=device)
    counts = torch.full((n,), max_new, device=device)
    batch, logits = _prefill(prompts, model, draws.to(device))
    decoder = Decoder(model) if has_decoder(model) else None
    alive = torch.ones(n, dtype=torch.bool, device=device)  # of the rows still in the batch
    for step in range(max_new):
        next_tokens, logp = choose(logits, batch.draws[:, step], temperature)  # (B,) each
        moved()
        tokens[batch.rows, step] = next_tokens
        log_probs[batch.rows, step] = logp
        ends = alive & (next_tokens == model.text_end)
        counts[batch.rows] = torch.where(ends, step + 1, counts[batch.rows])
        alive = alive & ~ends
        n_alive = int(alive.sum())
        if n_alive == 0 or step == max_new - 1:
            break
        if n_alive < DROP_SHARE * len(alive):
            next_tokens, alive = next_tokens[batch.keep(alive)], alive[alive]
        logits = _decode(next_tokens, model, batch, decoder)
    return tokens.tolist(), log_probs.tolist(), counts.tolist()


def _prefill(
    prompts: list[Sequence[int]], model: Transformer, draws: Tensor
) -> tuple[Batch, Tensor]:
    """Run the prompts through the model; return the batch and the logits of the next token, (B, V).

    A prompt that several rows share passes once.
    """
    device, n = model.device, len(prompts)
    numbers = {p: i for i, p in enumerate(dict.fromkeys(map(tuple, prompts)))}
    unique = list(numbers)
    P = max(map(len, unique))
    cache = model.new_cache(len(unique), P + draws.shape[1])
    hidden, at = [], 0
    for part in parts_of(unique, device):
        hidden.append(_fill(part, model, cache, rows=slice(at, at + len(part)), end=P))
        at += len(part)
    cache.length, hidden = P, torch.cat(hidden)  # (U, C)
    lengths = torch.tensor([len(p) for p in unique], device=device)
    real = torch.arange(P, device=device) >= (P - lengths)[:, None]  # (U, P)
    if len(numbers) < n:
        whose = torch.tensor([numbers[tuple(p)] for p in prompts], device=device)
        cache.keys = [k[whose] for k in cache.keys]
        cache.values = [v[whose] for v in cache.values]
        hidden, real, lengths = hidden[whose], real[whose], lengths[whose]
    valid = torch.ones(n, P + draws.shape[1], dtype=torch.bool, device=device)
    valid[:, :P] = real
    barred = torch.zeros(valid.shape, device=device).masked_fill_(~valid, -torch.inf)
    batch = Batch(
        rows=torch.arange(n, device=device),
        cache=cache,
        valid=valid,
        hidden=barred,
        positions=lengths,
        draws=draws,
    )
    return batch, model.head(hidden)


def parts_of(
    prompts: list[tuple[int, ...]], device: torch.device
) -> Iterator[list[tuple[int, ...]]]:
    """Yield prompts, in order, in parts of about CHUNK_TOKENS tokens on a CPU; in one on a GPU."""
    total = sum(map(len, prompts))
    n_parts = max(1, total // CHUNK_TOKENS) if device.type == "cpu" else 1
    size = -(-len(prompts) // n_parts)
    for at in range(0, len(prompts), size):
        yield prompts[at : at + size]


def _fill(
    prompts: list[tuple[int, ...]], model: Transformer, cache: Cache, *, rows: slice, end: int
) -> Tensor:
    """Run prompts through the model into rows of a cache; return their last states, (u, C).

    prompts: u different prompts, as token ids
    model: the language model
    cache: is written in place
    rows: the rows of the cache that belong to the prompts
    end: the column of the cache after the last token of each prompt

    Prompts are padded on the left to the longest one; prompts of equal length need no mask.
    """
    lengths = torch.tensor([len(p) for p in prompts], device=model.device)
    P = int(lengths.max())
    tokens = torch.tensor([[PAD] * (P - len(p)) + list(p) for p in prompts], device=model.device)
    own = Cache(
        keys=[k[rows, :, end - P :] for k in cache.keys],
        values=[v[rows, :, end - P :] for v in cache.values],
    )
    if int(lengths.min()) == P:
        return model.hidden(tokens, cache=own)[:, -1]
    column = torch.arange(P, device=model.device)
    before = (P - lengths)[:, None]  # (u, 1) columns of padding
    itself = torch.eye(P, dtype=torch.bool, device=model.device)  # padding looks at nothing else
    causal = column[:, None] >= column  # (P, P)
    mask = (causal & (column >= before)[:, None] | itself)[:, None]  # (u, 1, P, P)
    positions = (column - before).clamp(min=0)
    return model.hidden(tokens, positions=positions, mask=mask, cache=own)[:, -1]


def _decode(
    next_tokens: Tensor, model: Transformer, batch: Batch, decoder: Decoder | None
) -> Tensor:
    """Feed each row its next token; return the logits of the token after it, (B, V)."""
    n_keys = batch.cache.length + 1
    if decoder is not None:
        logits = decoder.step(
            next_tokens, batch.positions, batch.hidden[:, None, :n_keys], batch.cache
        )
    else:
        mask = batch.valid[:, None, None, :n_keys]  # (B, 1, 1, S)
        logits = model(
            next_tokens[:, None], positions=batch.positions[:, None], mask=mask, cache=batch.cache
        )[:, 0]
    batch.positions = batch.positions + 1
    return logits


def cumulative_sums(shares: Tensor) -> Tensor:
    """Return cumulative sums of (B, V) shares over V, in float64.

    They are computed on the CPU where torch is set to deterministic algorithms: a GPU has no
    deterministic cumulative sum.
    """
    slow = shares.device.type == "cuda" and torch.are_deterministic_algorithms_enabled()
    sums = shares.to("cpu" if slow else shares.device).cumsum(-1, dtype=torch.float64)
    return sums.to(shares.device)


def choose(logits: Tensor, draws: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Choose a token for each row by its uniform draw; return tokens and log-probabilities, (B,).

    At temperature 0 the likeliest token is chosen; its log-probability is that at temperature 1.
    """
    logp = torch.log_softmax(logits.float() / (temperature or 1.0), dim=-1)  # (B, V)
    if temperature == 0:
        next_tokens = logp.argmax(-1)
    else:
        cumulative = cumulative_sums(logp.exp())
        thresholds = draws[:, None] * cumulative[:, -1:]
        next_tokens = torch.searchsorted(cumulative, thresholds, right=True)[:, 0].clamp(
            max=logits.shape[1] - 1
        )
    return next_tokens, logp.gather(1, next_tokens[:, None])[:, 0]
