"""The faster encoder gives the vocabulary's own tokens, or is not used."""

import sys

import pytest

from scaling.data import tokenizer as module
from scaling.data.documents import stdlib_files
from scaling.data.jsonl import read_text
from scaling.data.tokenizer import encoder, train_tokenizer

TEXTS = [read_text(f)[:20_000] for f in stdlib_files()[:40:4]]
ODD = ["<|end|> it's 中文 é\u00a0\r\n\t x" * 3, " " * 10_000 + "x", "a" * 3000, "", "\x00\ufffd"]


@pytest.fixture(scope="module")
def vocabulary():
    """A vocabulary of the standard library."""
    found = train_tokenizer(TEXTS, vocab_size=600)
    return found


def test_tiktoken_gives_the_same_tokens(vocabulary, caplog):
    pytest.importorskip("tiktoken", reason="needs tiktoken; install scaling-laws[fast]")
    fast = encoder(vocabulary, TEXTS[:1])
    assert fast.__name__ == "fast"
    assert fast(TEXTS + ODD) == [e.ids for e in vocabulary.encode_batch(TEXTS + ODD)]
    assert not caplog.records


def test_without_tiktoken_or_with_another_result_the_vocabulary_encodes(
    vocabulary, monkeypatch, caplog
):
    wanted = [e.ids for e in vocabulary.encode_batch(TEXTS)]
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "tiktoken", None)
        assert encoder(vocabulary, TEXTS[:1])(TEXTS) == wanted
    pytest.importorskip("tiktoken")
    monkeypatch.setattr(module, "WORDS", r"\S+|\s+")
    assert encoder(vocabulary, TEXTS[:1])(TEXTS) == wanted
    assert "left aside" in caplog.text
