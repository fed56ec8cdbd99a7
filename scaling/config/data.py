"""Settings of the corpus and its tokenizer."""

from dataclasses import dataclass, field
from typing import Annotated, Any

from scaling.config.ranges import MOST_TEXT, MOST_TOKENS, SHARE_BELOW_1, check
from scaling.schema import OneOf, Range, Seed, checked


@dataclass(kw_only=True)
@checked("tokenizer")
class TokenizerConfig:
    """The vocabulary: byte-level byte pairs trained on the training text, or somebody else's."""

    vocab_size: Annotated[int, Range(2, MOST_TOKENS, note="264 or more where trained here")] = 1024
    """Number of tokens: 256 bytes, 8 special tokens, and as many merges as remain. With source it
    is the size of that vocabulary."""
    sample_bytes: Annotated[int, Range(1, 1e15)] = 4_000_000
    """Bytes of training text that the merges are learned from; unused with source."""
    source: str = ""
    """A finished vocabulary to take as it is: a tokenizer.json, a transformers folder, or a study
    or its cell; empty trains one. The hash is part of a cell's id, the path is not."""
    sha256: str = ""
    """Hash of the vocabulary of source: filled in when it is read. A hash that you give must be
    met."""

    def identity(self) -> dict[str, Any]:
        """Return what makes this vocabulary another one: the settings of one that is trained here,
        the hash and the size of one that is taken."""
        names = ("sha256", "vocab_size") if self.sha256 else ("vocab_size", "sample_bytes")
        return {name: getattr(self, name) for name in names}


TRUTHS = ("markov", "hmm", "zipf", "hierarchy")  # sources that are made, of known entropy
OWN_TRUTH = {  # source -> settings that it alone reads; the ids of other sources' cells omit them
    "zipf": ("name_length", "exponent", "noise"),
    "hierarchy": ("rules", "branches", "depth"),
}
MOST_STATES = 4096  # states of a process: its transition table is an array in memory
MOST_TUPLES = 2**24  # tuples of a rule, and symbols of a sentence: an array in memory holds them
BYTES_ALONE = 264  # a vocabulary of single bytes: no merges, so that a symbol is a token


@dataclass(kw_only=True)
@checked("data.truth")
class TruthConfig:
    """A source of known entropy, to check a fitted loss floor against (scaling.data.synthetic)."""

    symbols: Annotated[int, Range(2, 62)] = 16
    """Number of different symbols; each is one character and one token."""
    order: Annotated[int, Range(1, 12)] = 2
    """Number of last symbols that fix the next one's chances (markov)."""
    states: Annotated[int, Range(1, MOST_STATES)] = 64
    """Number of hidden states (hmm)."""
    concentration: Annotated[float, Range(0, 1e6, above=True)] = 0.3
    """Parameter of the Dirichlet distribution that each state's chances are drawn from (markov,
    hmm); below 1 a few symbols dominate."""
    name_length: Annotated[int, Range(1, 12)] = 2
    """Number of symbols in a thing's name (zipf)."""
    exponent: Annotated[float, Range(0, 1e3, above=True)] = 0.5
    """The k-th thing is named with a chance proportional to k^-(1 + exponent) (zipf)."""
    noise: Annotated[float, SHARE_BELOW_1] = 0.0
    """Share of answers that are drawn at random instead of being the thing's own (zipf)."""
    rules: Annotated[int, Range(1, 1e6)] = 2
    """Number of tuples that a symbol of one level may become on the next (hierarchy)."""
    branches: Annotated[int, Range(2, 24)] = 2
    """Number of symbols in such a tuple (hierarchy)."""
    depth: Annotated[int, Range(1, 24)] = 6
    """Number of levels; a sentence has branches^depth symbols (hierarchy)."""
    train_symbols: Annotated[int, Range(1, 1e12)] = 4_000_000
    """Symbols of training text to make."""
    test_symbols: Annotated[int, Range(1, 1e12)] = 200_000
    """Symbols of held-out text to make."""
    seed: Seed = 0
    """Seed of the process and of its text."""

    def __post_init__(self) -> None:
        """Check that the process fits in memory."""
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
@checked("data")
class DataConfig:
    """Where the text comes from, and how it is cut."""

    source: Annotated[str, OneOf("stdlib", "files", "hub", "tokens", *TRUTHS)] = "stdlib"
    """Kind of text: the source of the running interpreter's own library, files, a data set of the
    hub, files of token ids, or text made by a process of known entropy (data.truth)."""
    train: list[str] = field(default_factory=list)
    """Training text: folders, globs or files (.txt .py .md .jsonl[.gz|.xz] .parquet) for
    source=files, the same of .bin for source=tokens, NAME, NAME:CONFIG or NAME:CONFIG:SPLIT for
    source=hub."""
    test: list[str] = field(default_factory=list)
    """Held-out text, written as train is; an empty list holds out a share of the training text."""
    text_key: str = "text"
    """Column of a table, or key of a JSON line, that holds the text."""
    test_share: Annotated[float, Range(0, 1, above=True, below=True)] = 0.08
    """Share of the text that is held out where test is empty: of its bytes (split=blocks; more
    where eval.test_tokens needs more, up to a quarter), of its documents (split=documents)."""
    split: Annotated[str, OneOf("blocks", "documents")] = "blocks"
    """How text of files or of the hub is held out: blocks holds out an exact share of its bytes
    and cuts long documents at paragraphs; documents holds out whole documents by a fixed hash, as
    versions up to 0.1 did and as every other source does."""
    context: Annotated[int, Range(2, MOST_TOKENS)] = 128
    """Tokens of a training window: the model's context."""
    max_bytes: Annotated[int, Range(0, MOST_TEXT, note="0 is all")] = 0
    """Bytes of text to read at most; 0 reads all. It ends the download of a hub set too."""
    weights: list[Annotated[float, Range(0, 1e12, above=True)]] = field(default_factory=list)
    """Shares of a mixture: training windows are drawn from each entry of train in this proportion,
    with epochs of its own; an empty list takes the text as it is."""
    unique_tokens: Annotated[int, Range(0, MOST_TEXT, note="0 is all there are")] = 0
    """Training tokens to keep, the same for every model and nested from one number to the next, to
    measure repetition (Muennighoff et al. 2023); 0 keeps all."""
    mask_documents: bool = False
    """Keep attention within a document (Llama 3, 2407.21783, section 3.2)."""
    truth: TruthConfig = field(default_factory=TruthConfig)
    sha256: str = ""
    """Hash of the corpus: filled in when it is read. A hash that you give must be met."""

    @property
    def in_blocks(self) -> bool:
        """Whether the test part is an exact share of bytes, in blocks."""
        return self.source in ("files", "hub") and not self.test and self.split == "blocks"

    def __post_init__(self) -> None:
        """Read the truth of a record; check that the text is named and the weights fit it."""
        if isinstance(self.truth, dict):
            self.truth = TruthConfig(**self.truth)
        check(
            "data.train",
            self.train,
            self.source not in ("files", "hub", "tokens") or bool(self.train),
            f"is empty; data.source={self.source} needs paths or a hub name",
        )
        check(
            "data.max_bytes",
            self.max_bytes,
            self.source != "tokens" or not self.max_bytes,
            "counts text, which data=tokens has none of; set data.unique_tokens instead",
        )
        check(
            "data.weights",
            self.weights,
            len(self.weights) in (0, len(self.train)),
            f"must be a positive number for each of the {len(self.train)} entries of data.train",
        )
