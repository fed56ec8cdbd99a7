"""Byte-level byte-pair tokens (Sennrich et al. 2016; trained and run by `tokenizers`).

Ids 0..7 are special: end of document, padding, separator between prompt and completion, and five
reserved for chat roles. A prompt ends with the separator, so that no merge spans prompt and
completion.
"""

import logging
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

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
    with Path(path).open("rb"):  # without read permission the error says so
        pass
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:
        raise ValueError(
            f"{path} is no tokenizer.json, or damaged ({error}); put a whole one there"
        ) from error
    tokenizer.encode_special_tokens = True
    return tokenizer


def encoder(
    tokenizer: Tokenizer, probe: Sequence[str]
) -> Callable[[Sequence[str]], list[list[int]]]:
    """Return a function that encodes texts with a vocabulary that was trained here.

    The function uses tiktoken, which takes about a fifth of the time, where tiktoken is installed
    (extra `fast`) and gives the same tokens for `probe`.
    """

    def slow(texts: Sequence[str]) -> list[list[int]]:
        return [e.ids for e in tokenizer.encode_batch_fast(list(texts))]

    try:
        import tiktoken
    except ImportError:
        return slow
    byte_of = _bytes_of_letters()
    ranks = {
        bytes(byte_of[c] for c in word): index
        for word, index in tokenizer.get_vocab().items()
        if index >= len(SPECIAL)
    }
    encoding = tiktoken.Encoding("own", pat_str=WORDS, mergeable_ranks=ranks, special_tokens={})

    def fast(texts: Sequence[str]) -> list[list[int]]:
        return [
            tokenizer.encode(t).ids if LONG_SPACE.search(t) else encoding.encode_ordinary(t)
            for t in texts
        ]

    if fast(probe) == slow(probe):
        return fast
    log.warning("tiktoken cuts this text otherwise than its vocabulary does; it is left aside")
    return slow


def _bytes_of_letters() -> dict[str, int]:
    """Return the byte that each letter of a byte-level vocabulary stands for (GPT-2's table)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    letters = [*map(chr, printable), *(chr(256 + i) for i in range(len(others)))]
    return dict(zip(letters, [*printable, *others], strict=True))
