"""Test loss on a fixed set of held-out tokens, the same in the same order for every cell."""

import math
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from scaling.config import TruthConfig
from scaling.data.batches import cut
from scaling.data.blocks import BLOCKS, FEWEST_BLOCKS
from scaling.data.synthetic import ALPHABET, process_of
from scaling.data.tokens import Corpus
from scaling.model.transformer import Transformer
from scaling.study.activity import moved
from scaling.train.device import to_device
from scaling.train.ranks import is_part

BINS = 10  # Bins of confidence, equally wide (Guo et al. 2017).
ROWS = 16  # Windows scored at once: more logits would leave the cache of a CPU.
LOGIT_BYTES = 4 << 30  # Bytes of logits at once; three copies of them must fit beside a model.


@dataclass(frozen=True, kw_only=True)
class TestSet:
    """Windows of the test part, drawn once by a fixed generator.

    `documents` is the document or block in which each window begins. `bayes_loss` is the least mean
    loss that any model can reach on the windows, None where it is not known.
    """

    __test__ = False

    inputs: np.ndarray  # (windows, context)
    targets: np.ndarray
    documents: np.ndarray  # (windows,)
    bytes_per_token: float | None  # None where the bytes are not known
    bayes_loss: float | None = None

    def blocks(self, meta: dict[str, Any]) -> int:
        """Return how many independent blocks of a corpus (its `meta`) the windows begin in."""
        scored = len(np.unique(self.documents))
        if "truth" in meta:  # a process without documents: each window is as good as a block
            return len(self.documents)
        return min(scored, meta.get("test_blocks", scored))


@dataclass(frozen=True, kw_only=True)
class Score:
    """Mean loss in nats/token, its standard error over blocks of text, and bits per byte.

    Bits per byte are None where the bytes of the tokens are not known. `window_losses` are the mean
    losses of the windows, (windows,), in the order of the test set.
    """

    loss: float
    standard_error: float
    bits_per_byte: float | None
    window_losses: np.ndarray = field(compare=False, repr=False)

    def loss_of_first(self, windows: int) -> float:
        """Return the mean loss, in nats/token, on the first windows: those that curves use."""
        return float(self.window_losses[:windows].mean())


def make_test_set(corpus: Corpus, *, context: int, n_tokens: int) -> TestSet:
    """Draw windows for about `n_tokens` tokens; ValueError where not one fits the test part."""
    windows = (len(corpus.test) - 1) // context
    if windows < 1:
        raise ValueError(
            f"the test part has {len(corpus.test)} tokens, fewer than one window of {context + 1}; "
            "add test text, raise data.test_share, or shorten data.context"
        )
    order = np.random.default_rng(0).permutation(windows)[: max(1, n_tokens // context)]
    starts = np.sort(order) * context
    inputs, targets = cut(corpus.test, starts, context)
    return TestSet(
        inputs=inputs,
        targets=targets,
        documents=blocks_at(corpus, starts),
        bytes_per_token=corpus.bytes_per_token,
        bayes_loss=known_loss(corpus, inputs, targets),
    )


def blocks_at(corpus: Corpus, starts: np.ndarray) -> np.ndarray:
    """Return the block of test text that each place lies in, (windows,).

    A block is a document of the test part. Where the user's own test files hold few documents, a
    long one counts as several.
    """
    documents = np.searchsorted(corpus.test_starts, starts, side="right")
    own = corpus.meta.get("own_test") and "truth" not in corpus.meta
    if len(corpus.test_starts) >= FEWEST_BLOCKS or not own:
        return documents
    size = -(-len(corpus.test) // BLOCKS)
    within = (starts - corpus.test_starts[documents - 1]) // size
    return documents * (BLOCKS + 1) + within


def known_loss(corpus: Corpus, inputs: np.ndarray, targets: np.ndarray) -> float | None:
    """Return the Bayes loss (nats/token) of windows of a source of known entropy, else None."""
    if "truth" not in corpus.meta:
        return None
    source, values = corpus.meta["truth"]["source"], dict(corpus.meta["truth"])
    del values["source"]
    symbols = np.full(corpus.meta["vocab_size"], -1)
    for symbol, letter in enumerate(ALPHABET):
        symbols[corpus.tokenizer.token_to_id(letter)] = symbol
    process = process_of(source, TruthConfig(**values))
    return process.bayes_loss(symbols[inputs], symbols[targets])


def evaluate(model: Transformer, test: TestSet, *, windows: int | None = None) -> Score:
    """Score the model on the first `windows` of the set (all by default).

    The standard error is that of a ratio clustered by document: losses within one are correlated.
    All models see the same documents, so it is not the error of a difference between two of them.
    """
    with no_gradients(model):
        return _evaluate(model, test, windows)


def no_gradients(model: Transformer) -> AbstractContextManager[Any]:
    """Return the context in which a model is scored."""
    # Gathered weights are used in training again, which inference mode would forbid.
    gathers = is_part(model.embedding.weight)
    return torch.no_grad() if gathers else torch.inference_mode()


def _evaluate(model: Transformer, test: TestSet, windows: int | None) -> Score:
    was_training = model.training
    model.eval()
    n = len(test.inputs) if windows is None else min(windows, len(test.inputs))
    means, rows = [], rows_at_once(model.vocab_size, test.inputs.shape[1])
    for at in range(0, n, rows):
        here = slice(at, min(at + rows, n))
        x, y = (to_device(part[here], model.device) for part in (test.inputs, test.targets))
        losses, _ = model.token_losses(x, y)  # (rows, T)
        means.append(losses.double().mean(1).cpu())  # (rows,)
        moved()
    model.train(was_training)
    return score_of(torch.cat(means).numpy(), test)


def rows_at_once(vocab_size: int, context: int) -> int:
    """Return how many windows are scored at once."""
    return max(1, min(ROWS, LOGIT_BYTES // (4 * vocab_size * context)))


def score_of(per_window: np.ndarray, test: TestSet) -> Score:
    """Return the score from the mean losses of the set's first windows, (windows,)."""
    loss, per_token = float(per_window.mean()), test.bytes_per_token
    return Score(
        loss=loss,
        standard_error=clustered_error(per_window, test.documents[: len(per_window)]),
        bits_per_byte=loss / math.log(2) / per_token if per_token else None,
        window_losses=per_window,
    )


def clustered_error(values: np.ndarray, clusters: np.ndarray) -> float:
    """Return the standard error of the mean of `values` that are correlated within a cluster."""
    _, labels = np.unique(clusters, return_inverse=True)
    sums = np.bincount(labels, weights=values - values.mean())
    n = len(sums)
    if n < 2:
        return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else 0.0
    return float(math.sqrt(n / (n - 1) * (sums**2).sum()) / len(values))


def calibration_error(confidence: np.ndarray, right: np.ndarray) -> float:
    """Return the mean gap between confidence and accuracy over bins, weighted by their questions.

    The expected calibration error of Guo et al. 2017 (1706.04599), equation 3.
    """
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gaps = [abs((confidence[bins == b] - right[bins == b]).sum()) for b in range(BINS)]
    return float(sum(gaps) / len(confidence))
