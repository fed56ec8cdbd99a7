"""Byte-level byte-pair tokens (Sennrich et al. 2016; trained and run by `tokenizers`).

Ids 0..7 are special: end of document, padding, separator between prompt and completion, and five
reserved for chat roles. A prompt ends with the separator, so that no merge spans prompt and
completion.
"""

import itertools
import json
import logging
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from scaling.schema import check_readable

log = logging.getLogger(__name__)
END, PAD, SEP = 0, 1, 2
SPECIAL = (
    "<|end|>",
    "<|pad|>",
    "<|sep|>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|a|>",
    "<|b|>",
)

# How pre_tokenizers.ByteLevel cuts text into words (Radford et al. 2019, GPT-2's encoder.py).
WORDS = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
# The same after each digit was cut out as a word of its own.
DIGITS_AND_WORDS = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?![^\s\p{N}])|\s+"
# Text on which two encoders would differ if they cut words otherwise.
ODD = (
    "it's I'LL 3,141.59  x\u00b2 \u0661\u0662 \u4e2d\u6587\u3002 e\u0301\u00e9 \u00a0\u2003 a\r\n"
    "\r\n\t b \n  \n \U0001f600\u200d\U0001f44d \ufffd\x00 don\u2019t __x__ 1st 12a b3  4   5"
    " <|end|> </s> "
)
LONG_SPACE = re.compile(r"\s{4096}")  # tiktoken's matcher fails on longer runs of space.


def train_tokenizer(texts: Iterable[str], *, vocab_size: int) -> Tokenizer:
    """Train a vocabulary of `vocab_size` tokens, the 256 bytes and 8 specials among them."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.encode_special_tokens = True  # a document that spells <|end|> does not end
    return tokenizer


def load_tokenizer(path: str | Path) -> Tokenizer:
    """Read a saved tokenizer.json; a missing one raises FileNotFoundError."""
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"no tokenizer at {path}; run the sweep that made the checkpoint, or name its cache"
        )
    content = check_readable(path).read_bytes()
    try:
        return tokenizer_of(content)
    except Exception as error:
        raise ValueError(
            f"{path} is no tokenizer.json, or damaged ({error}); put a whole one there"
        ) from error


def tokenizer_of(content: bytes) -> Tokenizer:
    """Return the tokenizer of a tokenizer.json; a special token that a text spells is text to it.

    No text is cut short or padded, whatever the file says.
    """
    tokenizer = Tokenizer.from_buffer(content)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    return tokenizer


def encoder(
    tokenizer: Tokenizer, probe: Sequence[str]
) -> Callable[[Sequence[str]], list[list[int]]]:
    """Return a function that encodes texts, with what the tokenizer adds before each.

    The function uses tiktoken, which takes about a fifth of the time, where tiktoken is installed
    (extra `fast`), the vocabulary is one of byte-level pairs, and tiktoken gives the same tokens
    for `probe` and for ODD.
    """

    def slow(texts: Sequence[str]) -> list[list[int]]:
        return [e.ids for e in tokenizer.encode_batch_fast(list(texts))]

    try:
        import tiktoken
    except ImportError:
        return slow
    if (byte_pairs := _byte_pairs(tokenizer)) is None:
        return slow
    words, ranks = byte_pairs
    missing = [bytes([b]) for b in range(256) if bytes([b]) not in ranks]
    next_id = max(ranks.values()) + 1
    ranks |= {byte: next_id + place for place, byte in enumerate(missing)}
    encoding = tiktoken.Encoding("own", pat_str=words, mergeable_ranks=ranks, special_tokens={})
    before = tokenizer.encode("").ids

    def one(text: str) -> list[int]:
        ids = [] if LONG_SPACE.search(text) else encoding.encode_ordinary(text)
        if text and max(ids, default=next_id) >= next_id:  # a long space, or a byte without a token
            return tokenizer.encode(text).ids
        return [*before, *ids]

    def fast(texts: Sequence[str]) -> list[list[int]]:
        return [one(text) for text in texts]

    texts = [*probe, ODD]
    if fast(texts) == slow(texts):
        return fast
    log.warning("tiktoken cuts this text otherwise than its vocabulary does; it is left aside")
    return slow


def _byte_pairs(tokenizer: Tokenizer) -> tuple[str, dict[bytes, int]] | None:
    """Return the pattern of words and the rank of each token, as tiktoken takes them.

    Returns None for a vocabulary that tiktoken cannot encode: it must cut text by one pattern and
    number its tokens in the order of their merges.
    """
    values = json.loads(tokenizer.to_str())
    model, words = values["model"], _words(values["pre_tokenizer"])
    added = values["added_tokens"]
    if not words or values["normalizer"] or model["type"] != "BPE" or model["dropout"]:
        return None
    if not all(token["special"] for token in added):  # these are cut out of text before all else
        return None
    byte_of, special = _bytes_of_letters(), {token["content"] for token in added}
    vocabulary = {w: i for w, i in model["vocab"].items() if w not in special}
    if not all(letter in byte_of for word in vocabulary for letter in word):
        return None
    pairs = (m.split(" ") if isinstance(m, str) else m for m in model["merges"])
    ids = [vocabulary.get("".join(pair), -1) for pair in pairs]
    if any(a >= b for a, b in itertools.pairwise([-1, *ids])):
        return None
    return words, {bytes(byte_of[c] for c in word): index for word, index in vocabulary.items()}


def _words(cutter: dict[str, Any] | None) -> str:
    """Return the pattern by which a pre-tokenizer cuts text into words; empty where it has none.

    Known are ByteLevel (GPT-2), a pattern before ByteLevel (Llama 3, Qwen), and single digits
    before ByteLevel (SmolLM2).
    """
    parts = (cutter or {}).get("pretokenizers", [cutter])
    if any(part is None for part in parts):
        return ""
    *first, last = parts
    if last["type"] != "ByteLevel" or last["add_prefix_space"] or len(first) > 1:
        return ""
    if not first:
        return WORDS if last["use_regex"] else ""
    cut, splits = first[0], last["use_regex"]
    if cut["type"] == "Digits" and cut["individual_digits"] and splits:
        return DIGITS_AND_WORDS
    isolated = cut["type"] == "Split" and cut["behavior"] == "Isolated" and not cut["invert"]
    return cut["pattern"].get("Regex", "") if isolated and not splits else ""


def _bytes_of_letters() -> dict[str, int]:
    """Return the byte that each letter of a byte-level vocabulary stands for (GPT-2's table)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    letters = [*map(chr, printable), *(chr(256 + i) for i in range(len(others)))]
    return dict(zip(letters, [*printable, *others], strict=True))
