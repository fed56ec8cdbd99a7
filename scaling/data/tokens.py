"""Tokens on disk: a corpus is tokenised once into memory-mapped uint16/uint32 files.

The files hold the documents, each followed by END. Their folder is named by a hash of the text and
of the vocabulary's settings.
"""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from scaling.config import TRUTHS, CellConfig, DataConfig
from scaling.data.blocks import BYTES_PER_TOKEN, few_blocks
from scaling.data.chunks import each
from scaling.data.division import DividedCorpus, Sources, divide_corpus
from scaling.data.encoded import EncodedSegments, encode, token_dtype, write_part
from scaling.data.file_hashes import damage, discard, has_hashes, mark_checked, write_hashes
from scaling.data.shards import TokenStream
from scaling.data.token_corpus import STARTS, cached_files, read_shards, stream
from scaling.data.tokenizer import train_tokenizer
from scaling.data.vocabulary import (
    TOKENIZER,
    VOCABULARY_FILES,
    SpecialTokens,
    Vocabulary,
    altered_text,
)
from scaling.data.vocabulary_files import (
    VERSION,
    cache_folder,
    refuse_changed_source,
    tokens_folder,
    vocabulary_of,
)
from scaling.schema import (
    read_json,
    sha256_json,
    sweep_temporaries,
    temporary_name,
    write_json,
    write_text,
)

log = logging.getLogger(__name__)
# Characters and texts of the sample that a finished vocabulary must give back.
ALTERED_SAMPLE, MOST_ALTERED = 400_000, 100
HASHED_TOKENS = 1 << 26  # Test tokens that are hashed, a quarter of a GB as 32-bit ids.
ROWS = 2  # The version of how rows of tables are read: version 1 read null as the word None.
FILES = (
    "meta.json",
    TOKENIZER,
    *(f"{part}{end}" for part in ("train", "test") for end in (".bin", ".jsonl", "_starts.npy")),
)


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """A tokenised corpus: memory-mapped token ids, and counts and hashes in `meta`."""

    folder: Path
    meta: dict[str, Any]

    @cached_property
    def train(self) -> np.ndarray | TokenStream:
        """Training token ids, 1-D, memory-mapped."""
        return self._tokens("train")

    @cached_property
    def test(self) -> np.ndarray | TokenStream:
        """Test token ids, 1-D, memory-mapped."""
        return self._tokens("test")

    @cached_property
    def test_starts(self) -> np.ndarray:
        """First token of each test document."""
        return np.load(self.folder / STARTS)

    @property
    def tokenizer_path(self) -> Path:
        """The vocabulary's file."""
        return self.folder / TOKENIZER

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The vocabulary with its special tokens and chat template.

        ValueError for token ids whose vocabulary is not known.
        """
        if not self.has_vocabulary:
            raise ValueError(
                "the vocabulary of data=tokens is not known here, which text, separate documents"
                " and later stages need; set tokenizer.source to the tokenizer that made the ids"
            )
        return Vocabulary.read(self.tokenizer_path)

    @property
    def has_vocabulary(self) -> bool:
        """Whether the vocabulary is known: of token ids alone it may not be."""
        return self.tokenizer_path.is_file()

    @property
    def tokenizer(self) -> Tokenizer:
        """What encodes and decodes text."""
        return self.vocabulary.tokenizer

    @property
    def inputs(self) -> dict[str, str]:
        """The hashes of text and vocabulary, as the record of what is trained on them holds."""
        vocabulary = {"tokenizer": self.vocabulary.sha256} if self.has_vocabulary else {}
        return {"corpus": self.sha256, **vocabulary}

    @cached_property
    def test_sha256(self) -> str:
        """The hash of the test part's token ids: equal for one text and vocabulary.

        Of a longer test part its first `HASHED_TOKENS` count, and its length.
        """
        ids = np.asarray(self.test[: min(len(self.test), HASHED_TOKENS)])
        sums = hashlib.sha256(f"{len(self.test)} ".encode())
        sums.update(ids.astype("<u4").tobytes())
        return sums.hexdigest()

    def write_vocabulary(self, folder: Path) -> None:
        """Write the vocabulary beside the weights of a model, which can then be copied alone."""
        if self.has_vocabulary:
            self.vocabulary.write(folder)

    @property
    def special(self) -> SpecialTokens:
        """The ids of the special tokens."""
        return self.vocabulary.special

    @property
    def sha256(self) -> str:
        """The hash of the text (not of the vocabulary)."""
        return self.meta["sha256"]

    @property
    def bytes_per_token(self) -> float | None:
        """UTF-8 bytes of the test part per token of it; None where the bytes are not known."""
        n_bytes = self.meta.get("test_bytes")
        return n_bytes / self.meta["test_tokens"] if n_bytes else None

    def train_texts(self) -> Iterator[str]:
        """Yield the raw training documents."""
        return self._texts("train")

    def test_texts(self) -> Iterator[str]:
        """Yield the raw test documents."""
        return self._texts("test")

    def _texts(self, part: str) -> Iterator[str]:
        if f"{part}_spans" in self.meta:
            raise ValueError(
                "data=tokens holds token ids and no text to cut functions from; set"
                " sft.data=FILE.jsonl, or give the text with data=files"
            )
        with (self.folder / f"{part}.jsonl").open(encoding="utf-8") as stream:
            for line in stream:
                yield json.loads(line)

    def _tokens(self, part: str) -> np.ndarray | TokenStream:
        if spans := self.meta.get(f"{part}_spans"):
            return stream(spans, vocab_size=self.meta["vocab_size"])
        return np.memmap(self.folder / f"{part}.bin", dtype=self.meta["dtype"], mode="r")


def open_corpus(config: CellConfig) -> Corpus:
    """Open the tokenised corpus of a config, making it first where it is not cached.

    A build that was cut off goes on where it was. Raises ValueError where there is no text, and
    where `data.sha256` is set and differs.
    """
    cache = cache_folder(config)
    sweep_temporaries(cache)
    refuse_changed_source(config.tokenizer)
    if config.data.source == "tokens":
        return _open_token_ids(config, cache)
    sources = Sources.of(config.data, cache)
    test_bytes = BYTES_PER_TOKEN * config.eval.test_tokens if config.data.in_blocks else 0
    stamp, division = _stamp(config.data, sources, test_bytes), None
    known_file = cache / f"text-{stamp}.json"
    workers = config.machine.workers or len(os.sched_getaffinity(0))

    def divide() -> DividedCorpus:
        log.info("reading the corpus (%s)", config.data.source)
        scratch = cache / f".text-{stamp}"
        division = divide_corpus(
            config.data, sources, scratch, workers=workers, test_bytes=test_bytes
        )
        values = {"sha256": division.sha256, "left_out": division.left_out.as_dict()}
        write_json(known_file, values | {"seal": _hash_of_text(stamp, values)})
        if division.left_out.as_dict():
            log.info("corpus: rows left out: %s", division.left_out.in_words())
        return division

    text = _text_read_before(known_file, stamp)
    if text is None:
        division = divide()
        text = {"sha256": division.sha256, "left_out": division.left_out.as_dict()}
    _refuse_other_text(config, text["sha256"])
    folder = tokens_folder(cache, text["sha256"], config.tokenizer)
    if not has_tokens(folder):
        division = division or divide()
        _refuse_other_text(config, division.sha256)
        folder = tokens_folder(cache, division.sha256, config.tokenizer)
        if not has_tokens(folder):  # else the file about the text was wrong
            try:
                _build(folder, config, division, workers)
            except OSError:  # another process was faster and has removed the encoded chunks
                if not has_tokens(folder):
                    raise
    meta = read_json(folder / "meta.json") | {"left_out": text.get("left_out", {})}
    return Corpus(folder=folder, meta=meta)


def _stamp(config: DataConfig, sources: Sources, test_bytes: int) -> str:
    """Return a name for the text of a config, in parts, as its files are now."""
    identity = {"version": VERSION, "files": sources.stamp(), "config": _identity(config)}
    if sources.tables():
        identity["rows"] = ROWS
    if test_bytes:
        identity["test_bytes"] = test_bytes
    return sha256_json(identity)[:16]


def _open_token_ids(config: CellConfig, cache: Path) -> Corpus:
    """Open a corpus of token ids (data=tokens); the cache keeps counts and the vocabulary."""
    meta = read_shards(config)
    _refuse_other_text(config, meta["sha256"])
    folder = tokens_folder(cache, meta["sha256"], config.tokenizer)
    if not has_tokens(folder):
        scratch = folder.with_name(temporary_name(folder.name))
        scratch.mkdir(parents=True)
        vocabulary = vocabulary_of(config) if config.tokenizer.sha256 else None
        cached_files(scratch, dict(meta), vocabulary)
        write_hashes(scratch, [p.name for p in sorted(scratch.iterdir())])
        _put_in_place(scratch, folder)
    return Corpus(folder=folder, meta=read_json(folder / "meta.json") | meta)


def _text_read_before(path: Path, stamp: str) -> dict[str, Any] | None:
    """Return the hash of a text that was read before, and the rows left out.

    Returns None where the text was not read before, or the file that says so is damaged.
    """
    if not path.is_file():
        return None
    try:
        values = read_json(path)
        written_hash = values.pop("seal", None)
        if isinstance(values["sha256"], str) and written_hash in (
            None,
            _hash_of_text(stamp, values),
        ):
            return values
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    log.warning("%s is damaged; the text is read again", path)
    return None


def _hash_of_text(stamp: str, values: dict[str, Any]) -> str:
    return sha256_json([stamp, values])[:16]


def _refuse_other_text(config: CellConfig, sha256: str) -> None:
    if config.data.sha256 and config.data.sha256 != sha256:
        raise ValueError(
            f"data.sha256 is {config.data.sha256[:12]} but the text found here hashes to "
            f"{sha256[:12]}; "
            "restore the text (for stdlib: the same Python) or drop the override"
        )


def has_tokens(folder: Path) -> bool:
    """Say whether a folder holds undamaged tokens; a damaged folder is removed, and logged.

    A folder of an earlier version has no hashes: its sizes are checked, and it gets hashes.
    """
    if not folder.is_dir():
        return False
    if has_hashes(folder):
        why = damage(folder)
    elif not (why := _wrong_size(folder)):
        with suppress(OSError):  # a cache without write permission
            write_hashes(folder, FILES)
            mark_checked(folder)
    if why:
        discard(folder, why)
    return not why


def _wrong_size(folder: Path) -> str:
    """Say which file in a folder of an earlier version has a wrong size; empty for none."""
    try:
        meta = read_json(folder / "meta.json")
        itemsize = np.dtype(meta["dtype"]).itemsize
        for part in ("train", "test"):
            tokens, size = meta[f"{part}_tokens"], (folder / f"{part}.bin").stat().st_size
            if size != tokens * itemsize:
                return f"{part}.bin has {size:,} bytes of {tokens * itemsize:,}"
            if len(np.load(folder / f"{part}_starts.npy")) != meta[f"{part}_documents"]:
                return f"{part}_starts.npy has not its documents"
            with (folder / f"{part}.jsonl").open("rb") as stream:
                if sum(1 for _ in stream) != meta[f"{part}_documents"]:
                    return f"{part}.jsonl has not its documents"
        json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def _identity(config: DataConfig) -> dict[str, Any]:
    """Return the settings that decide which documents there are, and in which part."""
    other_keys = ["sha256", "context", "weights", "unique_tokens", "mask_documents"]
    if not config.in_blocks:
        other_keys.append("split")  # as before the setting existed
    values = {k: v for k, v in asdict(config).items() if k not in other_keys}
    return {**values, "mixture": bool(config.weights)}


def _build(folder: Path, config: CellConfig, division: DividedCorpus, workers: int) -> None:
    """Train the vocabulary, tokenise chunk by chunk, then put the folder in place in one rename.

    folder: for the tokens
    config: of the data and the vocabulary
    division: the documents and their order
    workers: the most processes that tokenise
    """
    parts = folder.with_name(f".{folder.name}.parts")
    scratch = folder.with_name(temporary_name(folder.name))
    vocabulary = _vocabulary(parts, config, division, workers)
    dtype = token_dtype(vocabulary)
    meta: dict[str, Any] = {
        "version": VERSION,
        "sha256": division.sha256,
        "dtype": dtype,
        "vocab_size": vocabulary.n_ids,
        "dropped": division.split.dropped,
        "twins": division.split.twins,
        "gap_bytes": division.split.gap_bytes,
        "test_blocks": division.split.test_blocks,
        "own_test": bool(config.data.test) or config.data.source in TRUTHS,
    }
    if config.tokenizer.sha256:
        sample = division.read(division.sample(ALTERED_SAMPLE)[:MOST_ALTERED], workers=workers)
        meta["altered"] = vocabulary.altered(sample)
    segments = division.split.segments
    for part, chosen in (("train", division.train), ("test", division.test)):
        meta[f"{part}_sources"] = len(np.unique(segments.document[chosen]))
    used = np.zeros(len(segments.document), dtype=bool)
    used[division.train] = used[division.test] = True
    tasks = [(c, (division.text_key, p)) for c, p in division.tasks(used)]
    paths = [parts / f"{i:06}.bin" for i in range(len(tasks))]
    encode_tasks = [(c, (*a, parts, p)) for (c, a), p in zip(tasks, paths, strict=True)]
    list(each(f"tokenising {folder.name}", encode, encode_tasks, workers=workers))
    scratch.mkdir(parents=True, exist_ok=True)
    vocabulary.write(scratch)
    pieces = EncodedSegments.of(paths, used)
    for part, order in (("train", division.train), ("test", division.test)):
        meta |= write_part(scratch, part, order, pieces, dtype)
        meta[f"{part}_bytes"] = int(segments.n_bytes[order].sum())
    meta["part_tokens"] = pieces.tokens_of(
        division.train, division.parts, len(config.data.weights) or 1
    )
    if config.data.source in TRUTHS:
        meta["truth"] = {"source": config.data.source, **asdict(config.data.truth)}
    write_json(scratch / "meta.json", meta)
    names = [name for name in VOCABULARY_FILES if (scratch / name).is_file()]
    write_hashes(scratch, dict.fromkeys([*FILES, *names]))
    _put_in_place(scratch, folder)
    shutil.rmtree(parts, ignore_errors=True)
    log.info(
        "corpus: %s training and %s test tokens, %.3f bytes per token",
        f"{meta['train_tokens']:,}",
        f"{meta['test_tokens']:,}",
        meta["test_bytes"] / meta["test_tokens"],
    )
    if division.split.twins and meta["own_test"]:
        log.warning(
            "%d of %d test documents share most of their lines with a training document; "
            "the test loss looks better than it is",
            division.split.twins,
            len(division.test),
        )
    for alarm in (few_blocks(meta), altered_text(meta)):
        if alarm:
            log.warning("%s", alarm)


def _put_in_place(scratch: Path, folder: Path) -> None:
    """Rename a finished folder to its place in the cache."""
    try:
        scratch.rename(folder)
    except OSError:  # another process was faster; its folder is the same
        shutil.rmtree(scratch)
        if not (folder / "meta.json").is_file():
            raise
    mark_checked(folder)


def _vocabulary(
    folder: Path, config: CellConfig, division: DividedCorpus, workers: int
) -> Vocabulary:
    """Return the vocabulary of `tokenizer.source`, or train one; its files go into a folder."""
    tokenizer = config.tokenizer
    if tokenizer.sha256:
        vocabulary_of(config).write(folder)
    elif not (folder / TOKENIZER).is_file():
        log.info("training a byte-pair vocabulary of %d tokens", tokenizer.vocab_size)
        sample = division.read(division.sample(tokenizer.sample_bytes), workers=workers)
        bpe = train_tokenizer(sample, vocab_size=tokenizer.vocab_size)
        write_text(folder / TOKENIZER, bpe.to_str(pretty=True))
    return Vocabulary.read(folder)
