"""Loss of texts in which every token is scored once, in windows that roll over each document.

The first window begins with END; each next one predicts the tokens that follow, and the last one
takes as much of the text before as fits. So lm-evaluation-harness computes word perplexity, byte
perplexity and bits per byte (`loglikelihood_rolling`). Nothing of a short text is left out.
"""

import logging
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Tokenizer

from scaling.config import CellConfig
from scaling.data.blocks import BLOCKS, FEWEST_BLOCKS
from scaling.data.row_text import LeftOut
from scaling.data.tokenizer import END, PAD
from scaling.data.tokens import Corpus
from scaling.model.transformer import Transformer
from scaling.schema import TestSetScore, sha256_json
from scaling.study.activity import moved
from scaling.train.heldout import no_gradients
from scaling.train.test_files import check_sets, refuse_unknown_vocabulary, set_texts

log = logging.getLogger(__name__)
BATCH_TOKENS = 4096  # tokens that are scored at once, padding included
ENCODED = 256  # documents that are tokenised at once


@dataclass(frozen=True, kw_only=True)
class TextSet:
    """Texts as the windows that they are scored in; all arrays are (windows,).

    `windows` are token ids; the last `scored` of each are predicted, from those before. `blocks` is
    the document or, of few long documents, the part of it that a window belongs to.
    """

    windows: list[np.ndarray]
    scored: np.ndarray
    blocks: np.ndarray
    n_bytes: int
    n_words: int
    sha256: str

    @classmethod
    def of(
        cls, texts: Iterable[str], tokenizer: Tokenizer, *, context: int, end: int = END
    ) -> "TextSet":
        """Cut texts into windows of at most `context` predicted tokens; ValueError for no token.

        `end` is the token that ends a text; it stands before the first window of each.
        """
        windows, scored, documents, places = [], [], [], []
        n_bytes = n_words = number = 0
        sums: list[str] = []
        for batch in _batches(texts):
            for text, encoding in zip(batch, tokenizer.encode_batch_fast(batch), strict=True):
                n_bytes += len(text.encode("utf-8", "replace"))
                n_words += len(re.split(r"\s+", text))
                for ids, n, place in rolling_windows(encoding.ids, context=context, end=end):
                    windows.append(np.asarray(ids, dtype=np.int32))
                    scored.append(n)
                    documents.append(number)
                    places.append(place)
                number += 1
            sums.append(sha256_json(batch))
        if not windows:
            raise ValueError("the texts have no token to score; give texts that are not empty")
        blocks = np.array(documents)
        if number < FEWEST_BLOCKS:
            blocks = blocks * (BLOCKS + 1) + np.array(places) // -(-sum(scored) // BLOCKS)
        return cls(
            windows=windows,
            scored=np.array(scored),
            blocks=blocks,
            n_bytes=n_bytes,
            n_words=n_words,
            sha256=sha256_json(sums),
        )


def rolling_windows(
    ids: Sequence[int], *, context: int, end: int = END
) -> Iterator[tuple[list[int], int, int]]:
    """Yield the windows of a document: its tokens, how many are predicted, the place of the first.

    ids: of the document, without the token that ends it
    context: most tokens that the model reads
    end: the token that ends a text, as the one before this did
    """
    for place in range(0, len(ids), context):
        stop = min(place + context, len(ids))
        before = [end, *ids[:stop]] if stop <= context else ids[stop - context - 1 : stop]
        yield list(before), stop - place, place


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    for text in texts:
        batch.append(text)
        if len(batch) == ENCODED:
            yield batch
            batch = []
    if batch:
        yield batch


@dataclass(frozen=True, kw_only=True)
class TextScore:
    """Loss of texts: nats/token with its standard error over blocks, and what it is a mean of."""

    loss: float
    standard_error: float
    tokens: int
    bytes: int
    words: int

    @property
    def nats(self) -> float:
        """The summed loss."""
        return self.loss * self.tokens

    @property
    def bits_per_byte(self) -> float:
        """The loss in bits for each byte of UTF-8."""
        return self.nats / math.log(2) / self.bytes

    @property
    def byte_perplexity(self) -> float:
        """exp of the loss for each byte."""
        return math.exp(min(700.0, self.nats / self.bytes))

    @property
    def word_perplexity(self) -> float:
        """exp of the loss for each word; words are what white space parts."""
        return math.exp(min(700.0, self.nats / self.words))

    def of_record(self) -> TestSetScore:
        """Return the score as a record holds it."""
        return TestSetScore(
            loss=self.loss,
            loss_se=self.standard_error,
            bits_per_byte=self.bits_per_byte,
            bytes=self.bytes,
            tokens=self.tokens,
        )


def score_set(model: Transformer, texts: TextSet) -> TextScore:
    """Score a model on texts."""
    nats = np.empty(len(texts.windows))
    for window, losses, _ in scored_tokens(model, texts.windows, texts.scored):
        nats[window] = losses.sum()
    tokens = int(texts.scored.sum())
    loss = float(nats.sum() / tokens)
    return TextScore(
        loss=loss,
        standard_error=_ratio_error(nats, texts.scored, texts.blocks),
        tokens=tokens,
        bytes=texts.n_bytes,
        words=texts.n_words,
    )


def _ratio_error(nats: np.ndarray, tokens: np.ndarray, blocks: np.ndarray) -> float:
    """Return the standard error of sum(nats) / sum(tokens), clustered by block; 0 for one block."""
    _, labels = np.unique(blocks, return_inverse=True)
    sums = np.bincount(labels, nats - tokens * (nats.sum() / tokens.sum()))
    n = len(sums)
    return math.sqrt(n / (n - 1) * float((sums**2).sum())) / float(tokens.sum()) if n > 1 else 0.0


def scored_tokens(
    model: Transformer,
    windows: Sequence[Sequence[int] | np.ndarray],
    scored: Sequence[int] | np.ndarray,
    *,
    report: Callable[[int], None] = lambda done: None,
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yield for each window its number, the losses of its last tokens, and which are likeliest.

    model: the language model
    windows: token ids; those of a window are at most the model's context + 1
    scored: how many of a window's last tokens are scored
    report: called with the number of windows done; the longest come first

    The losses are in nats, (scored,) float64.
    """
    order = sorted(range(len(windows)), key=lambda i: -len(windows[i]))
    was_training, at = model.training, 0
    model.eval()
    while at < len(order):
        longest = len(windows[order[at]]) - 1
        chunk = order[at : at + max(1, BATCH_TOKENS // longest)]
        rows = torch.full((len(chunk), longest + 1), PAD)
        for row, i in zip(rows, chunk, strict=True):
            row[: len(windows[i])] = torch.as_tensor(np.asarray(windows[i], dtype=np.int64))
        rows = rows.to(model.device)
        with no_gradients(model):
            # padding is on the right: no scored token sees it
            values, likeliest = model.token_losses(rows[:, :-1], rows[:, 1:])  # (B, T)
            losses, hits = values.double().cpu().numpy(), likeliest.cpu().numpy()
        for row, i in enumerate(chunk):
            span = slice(len(windows[i]) - 1 - int(scored[i]), len(windows[i]) - 1)
            yield i, losses[row, span], hits[row, span]
        at += len(chunk)
        report(at)
        moved()
    model.train(was_training)


def read_text_set(
    name: str,
    paths: Sequence[str],
    tokenizer: Tokenizer,
    *,
    context: int,
    text_key: str,
    end: int = END,
) -> TextSet:
    """Read the files of a named set.

    name: of the set, for messages
    paths: folders, globs or files, as data.train
    tokenizer: of the model
    context: of the model
    text_key: column of a table, or key of a JSON line, that holds the text
    end: the token that ends a text

    Raises FileNotFoundError or ValueError, which name the set, for files that cannot be read.
    """
    left_out = LeftOut()
    documents = set_texts(name, paths, text_key=text_key, left_out=left_out)
    texts = TextSet.of(documents, tokenizer, context=context, end=end)
    if left_out.as_dict():
        log.info("test set %s: rows left out: %s", name, left_out.in_words())
    return texts


def named_sets(cell: CellConfig, corpus: Corpus) -> dict[str, TextSet]:
    """Read the test sets that a cell names (eval.sets).

    ValueError for files that changed, and for a corpus of token ids without its tokenizer.
    """
    refuse_unknown_vocabulary(cell)
    check_sets(cell.eval.sets, cell.eval.sets_sha256)
    return {
        name: read_text_set(
            name,
            paths,
            corpus.vocabulary.tokenizer,
            context=cell.data.context,
            text_key=cell.data.text_key,
            end=corpus.special.end,
        )
        for name, paths in cell.eval.sets.items()
    }
