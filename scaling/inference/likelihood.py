"""Log-likelihoods of continuations under a model.

Context and continuation are encoded together; the tokens of the continuation are those after the
tokens of the context, as in lm-evaluation-harness. An empty context becomes the END of a document
before.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from tokenizers import Tokenizer

from scaling.data.tokenizer import END
from scaling.model.transformer import Transformer
from scaling.train.rolling import scored_tokens


@dataclass(frozen=True, kw_only=True)
class Likelihoods:
    """The likelihood of each request's continuation; all arrays are (requests,)."""

    nats: np.ndarray  # log-likelihood, summed over tokens
    tokens: np.ndarray  # number of tokens scored
    greedy: np.ndarray  # whether greedy decoding gives the continuation


def encode_requests(
    tokenizer: Tokenizer, requests: Sequence[tuple[str, str]], *, context: int, end: int = END
) -> list[tuple[list[int], int]]:
    """Return the last `context` + 1 tokens of each request, and how many of them are scored.

    `end` is the token that ends a text; it stands before a request without a context.
    """
    blanks = [len(c) - len(c.rstrip()) for c, _ in requests]  # encoded with what follows them
    wholes = tokenizer.encode_batch_fast([c + continuation for c, continuation in requests])
    heads = tokenizer.encode_batch_fast(
        [c[: len(c) - blank] for (c, _), blank in zip(requests, blanks, strict=True)]
    )
    encoded = []
    for whole, head in zip(wholes, heads, strict=True):
        ids, start = whole.ids, len(head.ids)
        if not start:
            ids, start = [end, *ids], 1
        scored = len(ids) - start
        encoded.append((ids[-(context + 1) :], min(scored, context)))
    return encoded


def log_likelihoods(
    model: Transformer,
    tokenizer: Tokenizer,
    requests: Sequence[tuple[str, str]],
    *,
    report: Callable[[int], None] = lambda done: None,
) -> Likelihoods:
    """Return the log-likelihoods of continuations given their contexts.

    model: the language model
    tokenizer: of the model
    requests: (context, continuation) pairs; a pair that is too long for the model loses its first
        tokens
    report: called with the number of requests done; the longest come first

    ValueError for a continuation without a token.
    """
    encoded = encode_requests(tokenizer, requests, context=model.context, end=model.text_end)
    for (context, continuation), (_, scored) in zip(requests, encoded, strict=True):
        if scored < 1:
            raise ValueError(
                f"the continuation {continuation!r} after {context[-40:]!r} has no token"
            )
    counts = np.array([scored for _, scored in encoded])
    nats, greedy = np.empty(len(encoded)), np.empty(len(encoded), dtype=bool)
    windows = [ids for ids, _ in encoded]
    for i, losses, hits in scored_tokens(model, windows, counts, report=report):
        nats[i], greedy[i] = -losses.sum(), hits.all()
    return Likelihoods(nats=nats, tokens=counts, greedy=greedy)
