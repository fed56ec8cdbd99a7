"""Log-likelihoods of continuations, and of whole texts, under a model.

Context and continuation are encoded together; the tokens of the continuation are those after the
tokens of the context, as in lm-evaluation-harness. An empty context becomes the END of a document
before.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Tokenizer
from torch.nn import functional as F

from scaling.data.tokenizer import END, PAD
from scaling.model.transformer import Transformer
from scaling.train.heldout import Score, TestSet, evaluate

BATCH_TOKENS = 4096  # tokens that are scored at once, padding included


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


@torch.inference_mode()
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
    order = sorted(range(len(encoded)), key=lambda i: -len(encoded[i][0]))
    nats, greedy = np.empty(len(order)), np.empty(len(order), dtype=bool)
    was_training, at = model.training, 0
    model.eval()
    while at < len(order):
        longest = len(encoded[order[at]][0]) - 1
        chunk = order[at : at + max(1, BATCH_TOKENS // longest)]
        rows = torch.full((len(chunk), longest + 1), PAD)
        for row, i in zip(rows, chunk, strict=True):
            row[: len(encoded[i][0])] = torch.tensor(encoded[i][0])
        rows = rows.to(model.device)
        logits = model(rows[:, :-1]).float()  # padding is on the right: no scored token sees it
        losses = F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten(), reduction="none")
        losses = losses.view(len(chunk), longest).double().cpu().numpy()
        hits = (logits.argmax(-1) == rows[:, 1:]).cpu().numpy()
        for row, i in enumerate(chunk):
            ids, scored = encoded[i]
            span = slice(len(ids) - 1 - scored, len(ids) - 1)
            nats[i], greedy[i] = -losses[row, span].sum(), hits[row, span].all()
        at += len(chunk)
        report(at)
    model.train(was_training)
    return Likelihoods(nats=nats, tokens=np.array([s for _, s in encoded]), greedy=greedy)


def score_texts(model: Transformer, tokenizer: Tokenizer, texts: Sequence[str]) -> Score:
    """Return loss and bits per byte of texts, cut into windows of the model's context.

    The end of a text that fills no window is not scored. ValueError when no text fills a window.
    """
    context = model.context
    inputs, targets, documents, n_bytes, n_tokens = [], [], [], 0, 0
    for number, encoding in enumerate(tokenizer.encode_batch_fast(list(texts))):
        ids = np.array([model.text_end, *encoding.ids, model.text_end])
        n_bytes += len(texts[number].encode("utf-8", "replace"))
        n_tokens += len(ids) - 1
        for at in range(0, len(ids) - context, context):
            inputs.append(ids[at : at + context])
            targets.append(ids[at + 1 : at + context + 1])
            documents.append(number)
    if not inputs:
        raise ValueError(
            f"no text fills the model's context of {context} tokens; give longer texts"
        )
    windows = TestSet(
        inputs=np.array(inputs),
        targets=np.array(targets),
        documents=np.array(documents),
        bytes_per_token=n_bytes / n_tokens,
    )
    return evaluate(model, windows)
