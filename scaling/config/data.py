"""Settings of the corpus and its tokenizer."""

from dataclasses import dataclass, field
from typing import Annotated

from scaling.config.ranges import MOST_TEXT, MOST_TOKENS, SHARE_BELOW_1, check, one_of
from scaling.schema import (
    Range,
    Seed,
    check_ranges,
)


@dataclass(kw_only=True)
class TokenizerConfig:
    """Byte-level byte-pair vocabulary, trained on the training part of the corpus."""

    vocab_size: Annotated[int, Range(264, MOST_TOKENS, note="256 bytes, 8 special")] = 1024
    sample_bytes: Annotated[int, Range(1, 1e15)] = 4_000_000

    def __post_init__(self) -> None:
        """Check that the 256 bytes and the special tokens fit."""
        check_ranges(self, "tokenizer")


TRUTHS = ("markov", "hmm", "zipf", "hierarchy")
OWN_TRUTH = {  # settings that one source alone reads, so that they are no part of another's cell
    "zipf": ("name_length", "exponent", "noise"),
    "hierarchy": ("rules", "branches", "depth"),
}
MOST_STATES = 4096
MOST_TUPLES = 2**24  # of a rule, and symbols of a sentence: what an array in memory holds
BYTES_ALONE = 264  # a vocabulary of single bytes: no merges, so that a symbol is a token


@dataclass(kw_only=True)
class TruthConfig:
    """A source of known entropy (scaling.data.synthetic).

    `markov` reads `order`, `hmm` reads `states`; each state's symbols are Dirichlet(concentration).
    `zipf` reads `name_length`, `exponent` and `noise`, `hierarchy` `rules`, `branches`, `depth`.
    """

    symbols: Annotated[int, Range(2, 62)] = 16
    order: Annotated[int, Range(1, 12)] = 2
    states: Annotated[int, Range(1, MOST_STATES)] = 64
    concentration: Annotated[float, Range(0, 1e6, above=True)] = 0.3
    name_length: Annotated[int, Range(1, 12)] = 2
    exponent: Annotated[float, Range(0, 1e3, above=True)] = 0.5
    noise: Annotated[float, SHARE_BELOW_1] = 0.0
    rules: Annotated[int, Range(1, 1e6)] = 2
    branches: Annotated[int, Range(2, 24)] = 2
    depth: Annotated[int, Range(1, 24)] = 6
    train_symbols: Annotated[int, Range(1, 1e12)] = 4_000_000
    test_symbols: Annotated[int, Range(1, 1e12)] = 200_000
    seed: Seed = 0

    def __post_init__(self) -> None:
        """Check sizes."""
        check_ranges(self, "data.truth")
        check(
            "data.truth.order",
            self.order,
            self.symbols**self.order <= MOST_STATES,
            f"must leave {self.symbols}**order at most {MOST_STATES} states; lower it",
        )
        names = self.symbols ** (self.name_length + 1) // (self.symbols - 1)
        check(
            "data.truth.name_length",
            self.name_length,
            names <= MOST_STATES,
            f"must leave names of {self.symbols} symbols at most {MOST_STATES} states; lower it",
        )
        for name, base in (("branches", self.symbols), ("depth", self.branches)):
            value = getattr(self, name)
            check(
                f"data.truth.{name}",
                value,
                base**value <= MOST_TUPLES,
                f"must leave {base}**{name} at most {MOST_TUPLES}; lower it",
            )
        check(
            "data.truth.rules",
            self.rules,
            self.rules <= self.symbols ** (self.branches - 1),
            "are more than there are different tuples for, symbols^(branches - 1) ="
            f" {self.symbols ** (self.branches - 1)}",
        )


@dataclass(kw_only=True)
class DataConfig:
    """Where text comes from: `stdlib` (the running interpreter's own source), files, or a hub set.

    Those of TRUTHS are made, with an entropy that is known: `truth` shapes them.

    `source: files` reads `train` (folders, globs or files: .txt .py .md .jsonl[.gz|.xz] .parquet),
    and `test` likewise or, when that is empty, a fixed hash share of the training documents.
    `sha256` is the corpus' content: filled in when it is read; a given one must be met.

    `weights` make a mixture: the share of training windows drawn from each entry of `train`, each
    with epochs of its own. `unique_tokens` keeps that many training tokens, the same for every
    model and nested from one number to the next, to measure repetition (Muennighoff et al. 2023).
    `mask_documents` keeps attention within a document (Llama 3, 2407.21783, section 3.2).
    """

    source: str = "stdlib"
    train: list[str] = field(default_factory=list)
    test: list[str] = field(default_factory=list)
    text_key: str = "text"
    test_share: Annotated[float, Range(0, 1, above=True, below=True)] = 0.08
    context: Annotated[int, Range(2, MOST_TOKENS)] = 128
    max_bytes: Annotated[int, Range(0, MOST_TEXT, note="0 is all")] = 0
    weights: list[Annotated[float, Range(0, 1e12, above=True)]] = field(default_factory=list)
    unique_tokens: Annotated[int, Range(0, MOST_TEXT, note="0 is all there are")] = 0
    mask_documents: bool = False
    truth: TruthConfig = field(default_factory=TruthConfig)
    sha256: str = ""

    def __post_init__(self) -> None:
        """Check source and shares."""
        if isinstance(self.truth, dict):  # as a record keeps it
            self.truth = TruthConfig(**self.truth)
        check_ranges(self, "data")
        one_of("data.source", self.source, ("stdlib", "files", "hub", *TRUTHS))
        check(
            "data.train",
            self.train,
            self.source not in ("files", "hub") or bool(self.train),
            f"is empty; data.source={self.source} needs paths or a hub name",
        )
        check(
            "data.weights",
            self.weights,
            len(self.weights) in (0, len(self.train)),
            f"must be a positive number for each of the {len(self.train)} entries of data.train",
        )
