"""Tokens on disk: a corpus is tokenised once into memory-mapped uint16/uint32 files.

Documents are joined by END, under a folder named by the text's content and the vocabulary.
"""

import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import IO, Any, Self
from zipfile import BadZipFile

import numpy as np
from tokenizers import Tokenizer

from scaling.config import TRUTHS, CellConfig, DataConfig, TokenizerConfig
from scaling.data.chunks import each, whole
from scaling.data.division import Sources, Survey, documents_at, survey
from scaling.data.documents import Piece
from scaling.data.file_hashes import damage, discard, is_sealed, remember, seal
from scaling.data.tokenizer import END, encoder, load_tokenizer, train_tokenizer
from scaling.schema import (
    read_json,
    sha256_file,
    sha256_json,
    sweep_temporaries,
    temporary_name,
    write_json,
    write_text,
)

log = logging.getLogger(__name__)
PROBED = 1 << 16  # characters of a chunk that are encoded twice, to be sure
ROWS = 2  # of how rows of tables are read: 1 took null for the word None
VERSION = 3  # of the files below; a change makes old folders unused
FILES = (
    "meta.json",
    "tokenizer.json",
    *(f"{part}{end}" for part in ("train", "test") for end in (".bin", ".jsonl", "_starts.npy")),
)


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

    A build that was cut off goes on where it was. Raises ValueError when there is no text, or when
    `data.sha256` is given and differs.
    """
    cache = cache_folder(config)
    sweep_temporaries(cache)
    sources = Sources.of(config.data, cache)
    identity = {"version": VERSION, "files": sources.stamp(), "config": _identity(config.data)}
    if sources.tables():
        identity["rows"] = ROWS
    stamp, found = sha256_json(identity)[:16], None
    known = cache / f"text-{stamp}.json"
    workers = config.machine.workers or len(os.sched_getaffinity(0))

    def look() -> Survey:
        log.info("reading the corpus (%s)", config.data.source)
        looked = survey(config.data, sources, cache / f".text-{stamp}", workers=workers)
        values = {"sha256": looked.sha256, "left_out": looked.left.as_dict()}
        write_json(known, values | {"seal": _seal(stamp, values)})
        if looked.left.as_dict():
            log.info("corpus: rows left out: %s", looked.left.said())
        return looked

    text = _known_text(known, stamp)
    if text is None:
        found = look()
        text = {"sha256": found.sha256, "left_out": found.left.as_dict()}
    _refuse_other_text(config, text["sha256"])
    folder = tokens_folder(cache, text["sha256"], config.tokenizer)
    if not whole_tokens(folder):
        found = found or look()
        _refuse_other_text(config, found.sha256)
        folder = tokens_folder(cache, found.sha256, config.tokenizer)
        if not whole_tokens(folder):  # else what was known of the text was wrong
            try:
                _build(folder, config, found, workers)
            except OSError:  # another process was faster and has swept the pieces away
                if not whole_tokens(folder):
                    raise
    meta = read_json(folder / "meta.json") | {"left_out": text.get("left_out", {})}
    return Corpus(folder=folder, meta=meta)


def _known_text(path: Path, stamp: str) -> dict[str, Any] | None:
    """Return what is known of a text that was read before: its hash, and the rows left out.

    None where it was not read, or where the file is in doubt.
    """
    if not path.is_file():
        return None
    try:
        values = read_json(path)
        seal_of = values.pop("seal", None)
        if isinstance(values["sha256"], str) and seal_of in (None, _seal(stamp, values)):
            return values
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    log.warning("%s is damaged; the text is read again", path)
    return None


def _seal(stamp: str, values: dict[str, Any]) -> str:
    return sha256_json([stamp, values])[:16]


def _refuse_other_text(config: CellConfig, sha256: str) -> None:
    if config.data.sha256 and config.data.sha256 != sha256:
        raise ValueError(
            f"data.sha256 is {config.data.sha256[:12]} but the text found here hashes to "
            f"{sha256[:12]}; "
            "restore the text (for stdlib: the same Python) or drop the override"
        )


def whole_tokens(folder: Path) -> bool:
    """Say whether a folder holds the tokens that were written; a damaged one is removed, and said.

    One of an earlier version has no hashes: its sizes are checked and it is given them.
    """
    if not folder.is_dir():
        return False
    if is_sealed(folder):
        why = damage(folder)
    elif not (why := _wrong_size(folder)):
        with suppress(OSError):  # a cache that is only read
            seal(folder, FILES)
            remember(folder)
    if why:
        discard(folder, why)
    return not why


def _wrong_size(folder: Path) -> str:
    """Say which file of the tokens of an earlier version has not its size; empty for none."""
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


def tokens_folder(cache: Path, sha256: str, tokenizer: TokenizerConfig) -> Path:
    """Return where the tokens of a text under a vocabulary are kept."""
    key = {"version": VERSION, "sha256": sha256, "vocab": vars(tokenizer)}
    return cache / f"tokens-{sha256_json(key)[:16]}"


def cache_folder(config: CellConfig) -> Path:
    """Return where tokens and vocabularies are kept: machine.cache, or .cache beside the runs."""
    return Path(config.machine.cache or Path(config.runs) / ".cache")


def _identity(config: DataConfig) -> dict[str, Any]:
    """Return what decides which documents there are, and in which part."""
    beside = ("sha256", "context", "weights", "unique_tokens", "mask_documents")
    known = {k: v for k, v in asdict(config).items() if k not in beside}
    return {**known, "mixture": bool(config.weights)}


def _build(folder: Path, config: CellConfig, found: Survey, workers: int) -> None:
    """Train the vocabulary, tokenise chunk by chunk, then put the folder in place in one rename."""
    parts = folder.with_name(f".{folder.name}.parts")
    scratch = folder.with_name(temporary_name(folder.name))
    tokenizer = _vocabulary(parts / "tokenizer.json", config.tokenizer, found, workers)
    dtype = "uint16" if tokenizer.get_vocab_size() <= 2**16 else "uint32"
    meta: dict[str, Any] = {
        "version": VERSION,
        "sha256": found.sha256,
        "dtype": dtype,
        "vocab_size": tokenizer.get_vocab_size(),
        "dropped": found.dropped,
        "twins": found.twins,
        "own_test": bool(config.data.test) or config.data.source in TRUTHS,
    }
    wanted = np.zeros(len(found.parts), dtype=bool)
    wanted[found.train] = wanted[found.test] = True
    tasks = [(c, (found.text_key, p)) for c, p in found.tasks(wanted)]
    paths = [parts / f"{i:06}.bin" for i in range(len(tasks))]
    given = [(c, (*a, parts / "tokenizer.json", p)) for (c, a), p in zip(tasks, paths, strict=True)]
    list(each(f"tokenising {folder.name}", encode, given, workers=workers))
    scratch.mkdir(parents=True, exist_ok=True)
    (scratch / "tokenizer.json").write_bytes((parts / "tokenizer.json").read_bytes())
    pieces = Pieces.of(paths, wanted)
    for part, order in (("train", found.train), ("test", found.test)):
        meta |= _write_part(scratch, part, order, pieces, dtype)
        meta[f"{part}_bytes"] = int(found.n_bytes[order].sum())
    meta["part_tokens"] = pieces.tokens_of(found.train, found.parts, len(config.data.weights) or 1)
    if config.data.source in TRUTHS:
        meta["truth"] = {"source": config.data.source, **asdict(config.data.truth)}
    write_json(scratch / "meta.json", meta)
    seal(scratch, FILES)
    try:
        scratch.rename(folder)
    except OSError:  # another process was faster; its folder is the same
        shutil.rmtree(scratch)
        if not (folder / "meta.json").is_file():
            raise
    remember(folder)
    shutil.rmtree(parts, ignore_errors=True)
    log.info(
        "corpus: %s training and %s test tokens, %.3f bytes per token",
        f"{meta['train_tokens']:,}",
        f"{meta['test_tokens']:,}",
        meta["test_bytes"] / meta["test_tokens"],
    )
    if found.twins and meta["own_test"]:
        log.warning(
            "%d of %d test documents share most of their lines with a training document; "
            "the test loss looks better than it is",
            found.twins,
            len(found.test),
        )


def _vocabulary(path: Path, config: TokenizerConfig, found: Survey, workers: int) -> Tokenizer:
    if not path.is_file():
        log.info("training a byte-pair vocabulary of %d tokens", config.vocab_size)
        sample = found.read(_sample(found, config.sample_bytes), workers=workers)
        tokenizer = train_tokenizer(sample, vocab_size=config.vocab_size)
        write_text(path, tokenizer.to_str(pretty=True))
    return load_tokenizer(path)


def _sample(found: Survey, limit: int) -> np.ndarray:
    """Choose training documents, spread over the corpus, of about `limit` characters."""
    sizes = found.n_chars[found.train]
    step = max(1, round(int(sizes.sum()) / limit))
    order = np.concatenate([np.arange(start, len(sizes), step) for start in range(step)])
    n = np.searchsorted(np.cumsum(sizes[order]), limit, side="right") + 1
    return found.train[order[:n]]


def encode(chunk: list[Piece], given: tuple[str, np.ndarray, Path, Path]) -> None:
    """Write the tokens and texts of the documents at places of a chunk, unless they are there."""
    text_key, places, vocabulary, path = given
    if _encoded(path):
        return
    tokenizer = load_tokenizer(vocabulary)
    dtype = "uint16" if tokenizer.get_vocab_size() <= 2**16 else "uint32"
    found = (d.text for d in documents_at(chunk, text_key, places))
    sizes, encoded = [], None
    with whole(path) as tokens, whole(path.with_suffix(".jsonl")) as texts:
        while batch := list(islice(found, 256)):
            encoded = encoded or encoder(tokenizer, [batch[0][:PROBED]])
            for text, own in zip(batch, encoded(batch), strict=True):
                ids = np.asarray([*own, END], dtype=dtype)
                tokens.write(ids.tobytes())
                sizes.append((len(ids), texts.write(f"{json.dumps(text)}\n".encode())))
    hashes = [sha256_file(p) for p in (path, path.with_suffix(".jsonl"))]
    with whole(path.with_suffix(".npz")) as stream:
        np.savez(stream, sizes=np.asarray(sizes, dtype=np.int64), hashes=np.asarray(hashes))


def _encoded(path: Path) -> bool:
    """Say whether a chunk was encoded before, and is as it was written; others are done again."""
    try:
        with np.load(path.with_suffix(".npz")) as known:  # zip files check themselves
            hashes = known["hashes"].tolist()
            return len(known["sizes"]) > 0 and hashes == [
                sha256_file(p) for p in (path, path.with_suffix(".jsonl"))
            ]
    except FileNotFoundError:
        return False
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        log.warning("%s is damaged; its part of the text is tokenised again", path)
        return False


@dataclass(frozen=True, kw_only=True)
class Pieces:
    """Where the tokens and the text of each document lie: file, offset and length.

    `offsets` and `lengths` are (n, 2), of tokens and of bytes of text; -1 where there is nothing.
    """

    paths: list[Path]
    files: np.ndarray  # (n,)
    offsets: np.ndarray
    lengths: np.ndarray

    @classmethod
    def of(cls, paths: list[Path], wanted: np.ndarray) -> Self:
        """Read the lengths that `encode` left for the wanted documents (n,) bool."""
        found = [np.load(p.with_suffix(".npz"))["sizes"] for p in paths]
        files, offsets = np.full(len(wanted), -1), np.full((len(wanted), 2), -1)
        lengths = np.zeros_like(offsets)
        files[wanted] = np.repeat(np.arange(len(paths)), [len(f) for f in found])
        lengths[wanted] = np.concatenate(found)
        offsets[wanted] = np.concatenate([np.cumsum(f, axis=0) - f for f in found])
        return cls(paths=paths, files=files, offsets=offsets, lengths=lengths)

    def gather(self, order: np.ndarray, out: IO[bytes], *, text: bool, itemsize: int) -> None:
        """Write the documents of an order one after the other; neighbours are copied at once."""
        files, ending = self.files[order], ".jsonl" if text else ".bin"
        at, size = (a[order, int(text)] * itemsize for a in (self.offsets, self.lengths))
        follows = (files[1:] == files[:-1]) & (at[1:] == at[:-1] + size[:-1])
        runs = np.flatnonzero(np.concatenate([[True], ~follows]))
        found = [np.memmap(p.with_suffix(ending), dtype=np.uint8, mode="r") for p in self.paths]
        for run, length in zip(runs, np.add.reduceat(size, runs), strict=True):
            out.write(found[files[run]][at[run] : at[run] + length])

    def tokens_of(self, order: np.ndarray, parts: np.ndarray, n_parts: int) -> list[int]:
        """Return the tokens that an order has of each part."""
        found = np.bincount(parts[order], self.lengths[order, 0], minlength=n_parts)
        return found.astype(int).tolist()


def _write_part(
    folder: Path, part: str, order: np.ndarray, pieces: Pieces, dtype: str
) -> dict[str, int]:
    with whole(folder / f"{part}.bin") as out:
        pieces.gather(order, out, text=False, itemsize=np.dtype(dtype).itemsize)
    with whole(folder / f"{part}.jsonl") as out:
        pieces.gather(order, out, text=True, itemsize=1)
    ends = np.cumsum(pieces.lengths[order, 0])
    np.save(folder / f"{part}_starts.npy", ends - pieces.lengths[order, 0])
    return {f"{part}_tokens": int(ends[-1]), f"{part}_documents": len(order)}
