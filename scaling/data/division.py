"""What a corpus holds, and which of its text is training and test text.

A corpus is divided by hashes of the names, texts and lines of its documents, so that its text need
not fit in memory (scaling.data.split). Near-duplicates lie in one part.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from scaling.config import TRUTHS, DataConfig
from scaling.data.blocks import Atoms, cut_atoms, whole_atom
from scaling.data.chunks import chunks, each, write_whole
from scaling.data.documents import (
    Piece,
    pieces,
    read_piece,
    source_files,
    stdlib_files,
    stdlib_root,
)
from scaling.data.file_hashes import damage, discard, has_hashes, mark_checked, write_hashes
from scaling.data.hub import fetch
from scaling.data.near_duplicates import hash_lines
from scaling.data.row_text import LeftOut
from scaling.data.split import Documents, LineIndex, Split, split_corpus
from scaling.data.synthetic import texts
from scaling.schema import sha256_file, sha256_json, write_text

log = logging.getLogger(__name__)
COUNTED = ("null", "empty")  # The reasons (row_text.REASONS) why a row of a table is no document.


@dataclass(frozen=True, kw_only=True)
class Sources:
    """The files of each training part, and of the test part where it has its own."""

    train: list[list[Path]]
    test: list[Path]
    text_key: str
    root: Path | None = None

    @classmethod
    def of(cls, config: DataConfig, cache: Path) -> "Sources":
        """Find the files of a config; synthetic text and hub sets are written to the cache.

        Raises FileNotFoundError or ValueError for files that cannot be read.
        """
        if config.source == "stdlib":
            return cls(train=[stdlib_files()], test=[], text_key="", root=stdlib_root())
        if config.source in TRUTHS:
            return cls(**_write_synthetic(config, cache), text_key="text")
        if config.source == "hub":
            limits = _shares(config)
            train = [
                fetch(config, name, "train", cache, max_bytes=limit)
                for name, limit in zip(config.train, limits, strict=True)
            ]
            most = config.max_bytes
            test = [fetch(config, n, "test", cache, max_bytes=most) for n in config.test]
            key = "text"
        else:
            train, test = (
                [source_files([e]) for e in part] for part in (config.train, config.test)
            )
            key = config.text_key
        parts = train if config.weights else [list(chain.from_iterable(train))]
        return cls(train=parts, test=list(chain.from_iterable(test)), text_key=key)

    def stamp(self) -> list[tuple[str, int, int]]:
        """Return name, size and time of every file."""
        files = [*chain.from_iterable(self.train), *self.test]
        return [(str(f), (s := f.stat()).st_size, s.st_mtime_ns) for f in files]

    def tables(self) -> bool:
        """Say whether a file holds rows."""
        files = chain(*self.train, self.test)
        return any(f.suffix == ".parquet" or ".jsonl" in f.name for f in files)

    def pieces(self) -> Iterator[Piece]:
        """Yield the pieces of the training parts, then those of the test part as part -1."""
        for part, files in [*enumerate(self.train), (-1, self.test)]:
            for path in files:
                name = str(path.relative_to(self.root)) if self.root else path.name
                yield from pieces(path, name, part=part)


def _shares(config: DataConfig) -> list[int]:
    """Divide data.max_bytes among the entries of data.train."""
    weights = config.weights or [1.0] * len(config.train)
    return [int(config.max_bytes * w / sum(weights)) for w in weights]


def _write_synthetic(config: DataConfig, cache: Path) -> dict[str, Any]:
    """Write the texts of a source of known entropy; return their paths, as `Sources` takes them."""
    key = sha256_json({"source": config.source, "truth": vars(config.truth)})
    folder = cache / f"made-{key[:16]}"
    paths = [folder / "train.jsonl", folder / "test.jsonl"]
    lengths = config.truth.train_symbols, config.truth.test_symbols
    if folder.is_dir():
        if has_hashes(folder):
            why = damage(folder)
        else:  # written by an earlier version, or cut off
            rows = [len(json.dumps({"text": ""})) + n + 1 for n in lengths]
            complete = [
                p.is_file() and p.stat().st_size == n for p, n in zip(paths, rows, strict=True)
            ]
            why = "" if all(complete) else "a file has not its size"
        if why:
            discard(folder, why)
    if not folder.is_dir():
        log.info("making the corpus (%s)", config.source)
        for path, text in zip(paths, texts(config.source, config.truth), strict=True):
            write_text(path, json.dumps({"text": text}) + "\n")
    if not has_hashes(folder):
        with suppress(OSError):  # a cache that is only read
            write_hashes(folder, [p.name for p in paths])
            mark_checked(folder)
    return {"train": [paths[:1]], "test": paths[1:]}


@dataclass(frozen=True, kw_only=True)
class DividedCorpus:
    """The n documents of a corpus, and which segments of them are training and test text.

    `left_out` counts the rows of tables without text.
    """

    chunks: list[list[Piece]]
    text_key: str
    firsts: np.ndarray  # (chunks + 1,) first document of each chunk
    documents: Documents
    split: Split
    left_out: LeftOut

    @property
    def train(self) -> np.ndarray:
        """The segments of the training part, in order."""
        return self.split.train

    @property
    def test(self) -> np.ndarray:
        """The segments of the test part, in order."""
        return self.split.test

    @property
    def parts(self) -> np.ndarray:
        """The part of the mixture of each segment."""
        return self.documents.parts[self.split.segments.document]

    @property
    def sha256(self) -> str:
        """The hash of names, texts, split and parts."""
        sums, segments = hashlib.sha256(), self.split.segments
        parts = np.bincount(self.parts[self.train]).tolist()
        sums.update(json.dumps([len(self.train), len(self.test), parts]).encode())
        whole = np.array_equal(segments.n_chars, self.documents.n_chars[segments.document])
        for order in (self.train, self.test):
            sums.update(self.documents.identity[segments.document[order]].tobytes())
            if not whole:
                ends = np.stack([segments.start[order], segments.stop[order]])
                sums.update(ends.astype("<i8").tobytes())
        return sums.hexdigest()

    def tasks(self, chosen: np.ndarray) -> list[tuple[list[Piece], np.ndarray]]:
        """Return each chunk with chosen segments, (n,) bool, and their place, start and stop."""
        segments, tasks = self.split.segments, []
        rows = np.flatnonzero(chosen)
        edges = np.searchsorted(segments.document[rows], self.firsts)
        for number, chunk in enumerate(self.chunks):
            here = rows[edges[number] : edges[number + 1]]
            if len(here):
                place = segments.document[here] - self.firsts[number]
                tasks.append(
                    (chunk, np.stack([place, segments.start[here], segments.stop[here]], axis=1))
                )
        return tasks

    def read(self, order: np.ndarray, *, workers: int = 1) -> list[str]:
        """Return the texts of segments, in this order."""
        in_order = np.zeros(len(self.split.segments.document), dtype=bool)
        in_order[order] = True
        tasks = [(c, (self.text_key, p)) for c, p in self.tasks(in_order)]
        lists = each("reading a sample", read_segments, tasks, workers=workers)
        texts = list(chain.from_iterable(lists))
        rank = np.cumsum(in_order) - 1
        return [texts[i] for i in rank[order]]

    def sample(self, limit: int) -> np.ndarray:
        """Choose training segments, spread over the corpus, of about `limit` characters."""
        sizes = self.split.segments.n_chars[self.train]
        step = max(1, round(int(sizes.sum()) / limit))
        order = np.concatenate([np.arange(start, len(sizes), step) for start in range(step)])
        n = np.searchsorted(np.cumsum(sizes[order]), limit, side="right") + 1
        return self.train[order[:n]]


def read_segments(chunk: list[Piece], argument: tuple[str, np.ndarray]) -> list[str]:
    """Return the texts of segments of a chunk, in rising order."""
    return list(texts_at(chunk, *argument))


def texts_at(chunk: list[Piece], text_key: str, segments: np.ndarray) -> Iterator[str]:
    """Yield the texts of segments of a chunk, (n, 3) document, start and stop in rising order."""
    numbers = iter(segments.tolist())
    place, start, stop = next(numbers, (-1, 0, 0))
    documents = (d for piece in chunk for d in read_piece(piece, text_key=text_key))
    for number, document in enumerate(documents):
        while number == place:
            yield document.text[start:stop]
            place, start, stop = next(numbers, (-1, 0, 0))


def divide_corpus(
    config: DataConfig, sources: Sources, scratch: Path, *, workers: int, test_bytes: int = 0
) -> DividedCorpus:
    """Read a corpus and divide it into training and test text.

    config: of the data
    sources: the files
    scratch: a folder for the results of single chunks, removed at the end
    workers: the most processes that read
    test_bytes: bytes that eval.test_tokens needs, for a split by blocks

    Raises ValueError for a corpus without training or test text.
    """
    all_chunks = list(chunks(sources.pieces()))
    paths = [scratch / f"{i:06}.npz" for i in range(len(all_chunks))]
    arguments = [(sources.text_key, config.in_blocks, p) for p in paths]
    tasks = list(zip(all_chunks, arguments, strict=True))
    list(each("reading the corpus", scan, tasks, workers=workers))
    results = [{k: v for k, v in np.load(p).items() if k != "lines"} for p in paths]
    names = (
        np.concatenate([result.pop("names") for result in results])
        .tobytes()
        .decode()
        .split("\0")[:-1]
    )
    left_out = LeftOut()
    for result in results:
        for reason, n in zip(COUNTED, result.pop("left_out", ()), strict=False):
            left_out.add(reason, int(n))
    firsts = np.cumsum([0, *(len(result["parts"]) for result in results)])
    first_atoms = np.cumsum([0, *(len(result["atoms"]) for result in results)])
    for result, first in zip(results, firsts, strict=False):
        result["owners"] = result["owners"] + first
    table = {k: np.concatenate([result[k] for result in results]) for k in results[0]}
    atoms = Atoms(
        document=table.pop("owners"), table=table.pop("atoms"), sliced=table.pop("sliced")
    )
    documents = Documents(names=names, **table)
    lines = [np.load(p.with_suffix(".npy"), mmap_mode="r") for p in paths]
    try:
        split = split_corpus(
            config,
            documents,
            atoms,
            LineIndex(lines=lines, firsts=first_atoms),
            test_bytes=test_bytes,
        )
    except ValueError as error:
        why = f"; left out are rows {left_out.in_words()}" if left_out.as_dict() else ""
        raise ValueError(f"{error}{why}") from error
    shutil.rmtree(scratch, ignore_errors=True)
    return DividedCorpus(
        chunks=all_chunks,
        text_key=sources.text_key,
        firsts=firsts,
        documents=documents,
        split=split,
        left_out=left_out,
    )


def scan(chunk: list[Piece], argument: tuple[str, bool, Path]) -> None:
    """Write hashes and sizes of a chunk's documents and the lines of their atoms, unless done.

    chunk: pieces of files
    argument: the key of the text in tables, whether documents are cut, and the file to write
    """
    text_key, cuts, path = argument
    if _scanned(path):
        return
    left_out = LeftOut()
    documents = [
        d for piece in chunk for d in read_piece(piece, text_key=text_key, left_out=left_out)
    ]
    atoms = [
        cut_atoms(d.text, sliced=d.sliced) if cuts else [whole_atom(d.text)] for d in documents
    ]
    hashes, owners = hash_lines(
        d.text[start:stop]
        for d, own in zip(documents, atoms, strict=True)
        for start, stop, *_ in own
    )
    with write_whole(path.with_suffix(".npy")) as stream:
        np.save(stream, np.stack([hashes, owners.astype(np.uint64)]))
    identity = [[_digest(d.name), _digest(d.text)] for d in documents]
    counts = [len(own) for own in atoms]
    with write_whole(path) as stream:
        np.savez(
            stream,
            names=np.frombuffer("".join(f"{d.name}\0" for d in documents).encode(), dtype=np.uint8),
            identity=np.asarray(identity, dtype=np.uint8).reshape(-1, 2, 32),
            parts=np.asarray([d.part for d in documents], dtype=np.int32),
            n_bytes=np.asarray([sum(a[2] for a in own) for own in atoms], dtype=np.int64),
            n_chars=np.asarray([len(d.text) for d in documents], dtype=np.int64),
            sliced=np.asarray([d.sliced for d in documents], dtype=bool),
            atoms=np.asarray(list(chain.from_iterable(atoms)), dtype=np.int64).reshape(-1, 7),
            owners=np.repeat(np.arange(len(documents)), np.asarray(counts, dtype=np.int64)),
            lines=np.asarray(sha256_file(path.with_suffix(".npy"))),
            left_out=np.asarray([left_out.counts[reason] for reason in COUNTED]),
        )


def _scanned(path: Path) -> bool:
    """Say whether a chunk was scanned before, and its files are undamaged."""
    try:
        with np.load(path) as arrays:  # zip files check themselves
            values = {k: arrays[k] for k in arrays.files}
        return str(values.get("lines")) == sha256_file(path.with_suffix(".npy"))
    except FileNotFoundError:
        return False
    except (OSError, ValueError, EOFError, BadZipFile):
        log.warning("%s is damaged; its part of the text is read again", path)
        return False


def _digest(text: str) -> list[int]:
    return list(hashlib.sha256(text.encode("utf-8", "replace")).digest())
