"""Byte-level byte-pair tokens (Sennrich et al. 2016; trained and run by `tokenizers`).

Ids 0..7 are special: end of document, padding, separator between prompt and completion, and five
kept free for chat roles. A prompt ends with the separator, so that no merge crosses into the
completion.
"""

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

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
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.encode_special_tokens = True
    return tokenizer
