"""Tokens on disk: a corpus is tokenised once into memory-mapped uint16/uint32 files.

Documents are joined by END, under a folder named by the text's content and the vocabulary.
"""

import json
import logging
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from scaling.config import TRUTHS, CellConfig, DataConfig, TokenizerConfig
from scaling.documents import Document, documents, source_files, stdlib_files
from scaling.schema import read_json, sha256_json, write_json
from scaling.tokenizer import END, load_tokenizer, train_tokenizer

log = logging.getLogger(__name__)
Parts = tuple[list[Document], list[Document]]
VERSION = 2  # of the files below; a change makes old folders unused


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """A tokenised corpus: memory-mapped token ids and what is known of them."""

    folder: Path
    meta: dict[str, Any]

    @cached_property
    def train(self) -> np.ndarray:
        """Training token ids, 1-D, memory-mapped."""
        return self._tokens("train")

    @cached_property
    def test(self) -> np.ndarray:
        """Test token ids, 1-D, memory-mapped."""
        return self._tokens("test")

    @cached_property
    def test_starts(self) -> np.ndarray:
        """First token of each test document."""
        return np.load(self.folder / "test_starts.npy")

    @property
    def tokenizer_path(self) -> Path:
        """The vocabulary's file."""
        return self.folder / "tokenizer.json"

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The vocabulary."""
        return load_tokenizer(self.tokenizer_path)

    @property
    def sha256(self) -> str:
        """Identity of the text (not of the vocabulary)."""
        return self.meta["sha256"]

    @property
    def bytes_per_token(self) -> float:
        """UTF-8 bytes of the test part per token of it."""
        return self.meta["test_bytes"] / self.meta["test_tokens"]

    def train_texts(self) -> Iterator[str]:
        """Yield the raw training documents."""
        return self._texts("train")

    def test_texts(self) -> Iterator[str]:
        """Yield the raw test documents."""
        return self._texts("test")

    def _texts(self, part: str) -> Iterator[str]:
        with (self.folder / f"{part}.jsonl").open(encoding="utf-8") as stream:
            for line in stream:
                yield json.loads(line)

    def _tokens(self, part: str) -> np.ndarray:
        return np.memmap(self.folder / f"{part}.bin", dtype=self.meta["dtype"], mode="r")


def open_corpus(config: CellConfig) -> Corpus:
    """Open the tokenised corpus of a config, making it first where it is not cached.

    Raises ValueError when there is no text, or when `data.sha256` is given and differs.
    """
    cache = cache_folder(config)
    sha256, found = content_hash(config.data, cache)
    if config.data.sha256 and config.data.sha256 != sha256:
        raise ValueError(
            f"data.sha256 is {config.data.sha256[:12]} but the text found here hashes to "
            f"{sha256[:12]}; "
            "restore the text (for stdlib: the same Python) or drop the override"
        )
    folder = tokens_folder(cache, sha256, config.tokenizer)
    if not (folder / "meta.json").is_file():
        _build(folder, config, sha256, *(found or documents(config.data)))
    return Corpus(folder=folder, meta=read_json(folder / "meta.json"))


def tokens_folder(cache: Path, sha256: str, tokenizer: TokenizerConfig) -> Path:
    """Return where the tokens of a text under a vocabulary are kept."""
    key = {"version": VERSION, "sha256": sha256, "vocab": vars(tokenizer)}
    return cache / f"tokens-{sha256_json(key)[:16]}"


def cache_folder(config: CellConfig) -> Path:
    """Return where tokens and vocabularies are kept: machine.cache, or .cache beside the runs."""
    return Path(config.machine.cache or Path(config.runs) / ".cache")


def content_hash(config: DataConfig, cache: Path) -> tuple[str, Parts | None]:
    """Hash the documents and their split; files are read again only when size or time changed.

    Returns the hash and, where they had to be read, the documents.
    """
    stamp = sha256_json({"version": VERSION, "files": _stamp(config), "config": _identity(config)})
    known = cache / f"text-{stamp[:16]}.json"
    if known.is_file():
        return read_json(known)["sha256"], None
    log.info("reading the corpus (%s)", config.source)
    train, test = documents(config)
    sha256 = sha256_json(_content(train, test))
    write_json(known, {"sha256": sha256, "train": len(train), "test": len(test)})
    return sha256, (train, test)


def _identity(config: DataConfig) -> dict[str, Any]:
    """Return what decides which documents there are, and in which part."""
    beside = ("sha256", "context", "weights", "unique_tokens", "mask_documents")
    known = {k: v for k, v in asdict(config).items() if k not in beside}
    return {**known, "mixture": bool(config.weights)}


def _content(train: list[Document], test: list[Document]) -> list[Any]:
    parts = Counter(d.part for d in train)
    of_parts = [[parts[i] for i in range(max(parts) + 1)]] if len(parts) > 1 else []
    return [[d[:2] for d in train], [d[:2] for d in test], *of_parts]


def _stamp(config: DataConfig) -> list[tuple[str, int, int]]:
    if config.source in ("hub", *TRUTHS):
        return []
    files = (
        stdlib_files() if config.source == "stdlib" else source_files([*config.train, *config.test])
    )
    return [(str(f), (s := f.stat()).st_size, s.st_mtime_ns) for f in files]


def _build(
    folder: Path, config: CellConfig, sha256: str, train: list[Document], test: list[Document]
) -> None:
    """Train the vocabulary, tokenise both parts, then put the folder in place in one rename."""
    scratch = folder.with_name(f".{folder.name}.{os.getpid()}")
    scratch.mkdir(parents=True, exist_ok=True)
    size = config.tokenizer.vocab_size
    log.info("training a byte-pair vocabulary of %d tokens", size)
    tokenizer = train_tokenizer(_sample(train, config.tokenizer.sample_bytes), vocab_size=size)
    tokenizer.save(str(scratch / "tokenizer.json"))
    dtype = "uint16" if tokenizer.get_vocab_size() <= 2**16 else "uint32"
    meta: dict[str, Any] = {
        "version": VERSION,
        "sha256": sha256,
        "dtype": dtype,
        "vocab_size": tokenizer.get_vocab_size(),
    }
    for part, found in (("train", train), ("test", test)):
        log.info("tokenising %d %s documents", len(found), part)
        meta |= _write_part(scratch, part, found, tokenizer, dtype)
    meta["part_tokens"] = _part_tokens(scratch, train, meta["train_tokens"])
    if config.data.source in TRUTHS:
        meta["truth"] = {"source": config.data.source, **asdict(config.data.truth)}
    write_json(scratch / "meta.json", meta)
    try:
        scratch.rename(folder)
    except OSError:  # another process was faster; its folder is the same
        shutil.rmtree(scratch)
        if not (folder / "meta.json").is_file():
            raise
    log.info(
        "corpus: %s training and %s test tokens, %.3f bytes per token",
        f"{meta['train_tokens']:,}",
        f"{meta['test_tokens']:,}",
        meta["test_bytes"] / meta["test_tokens"],
    )


def _part_tokens(folder: Path, train: list[Document], n_tokens: int) -> list[int]:
    """Return the training tokens of each part of a mixture, which follow one another."""
    starts = np.load(folder / "train_starts.npy")
    firsts = np.searchsorted([d.part for d in train], np.arange(train[-1].part + 1))
    return np.diff([*starts[firsts], n_tokens]).tolist()


def _sample(found: list[Document], limit: int) -> Iterator[str]:
    """Yield training texts, spread over the corpus, up to `limit` bytes."""
    total = sum(len(text) for _, text, _ in found)
    step = max(1, round(total / limit))
    size = 0
    for start in range(step):
        for _, text, _ in found[start::step]:
            if size > limit:
                return
            size += len(text)
            yield text


def _write_part(
    folder: Path, part: str, found: list[Document], tokenizer: Tokenizer, dtype: str
) -> dict[str, int]:
    starts, n_tokens, n_bytes = [], 0, 0
    with (
        (folder / f"{part}.bin").open("wb") as tokens,
        (folder / f"{part}.jsonl").open("w") as texts,
    ):
        for at in range(0, len(found), 256):
            chunk = [d.text for d in found[at : at + 256]]
            for text, encoding in zip(chunk, tokenizer.encode_batch_fast(chunk), strict=True):
                ids = np.asarray([*encoding.ids, END], dtype=dtype)
                tokens.write(ids.tobytes())
                texts.write(json.dumps(text) + "\n")
                starts.append(n_tokens)
                n_tokens += len(ids)
                n_bytes += len(text.encode("utf-8", "replace"))
    np.save(folder / f"{part}_starts.npy", np.asarray(starts))
    return {f"{part}_tokens": n_tokens, f"{part}_bytes": n_bytes, f"{part}_documents": len(found)}
