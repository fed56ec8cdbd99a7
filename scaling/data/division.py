"""What a corpus holds, and which documents are training and test text.

A corpus is divided by hashes of the names, texts and lines of its documents, so that its text need
not fit in memory. Near-duplicates form a group, and a fixed hash of a name in the group decides its
part. So no document of the test part has a near-duplicate in the training part.
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
from scaling.data.chunks import chunks, each, write_whole
from scaling.data.documents import (
    Document,
    Piece,
    pieces,
    read_piece,
    source_files,
    stdlib_files,
    stdlib_root,
)
from scaling.data.file_hashes import damage, discard, has_hashes, mark_checked, write_hashes
from scaling.data.hub import fetch
from scaling.data.near_duplicates import Lines, groups, hash_lines, similar
from scaling.data.row_text import LeftOut
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
    """The n documents of a corpus, and the order of those that are training and test text.

    `dropped` counts copies of a text that is in the corpus already. `twins` counts near-duplicates
    that the split keeps together or, where the test part has its own files, test documents with a
    near-duplicate in the training part. `left_out` counts the rows of tables without text.
    """

    chunks: list[list[Piece]]
    text_key: str
    firsts: np.ndarray  # (chunks + 1,) first document of each chunk
    parts: np.ndarray  # (n,)
    n_bytes: np.ndarray
    n_chars: np.ndarray
    identity: np.ndarray  # (n, 2, 32) uint8, hashes of name and text
    train: np.ndarray
    test: np.ndarray
    dropped: int
    twins: int
    left_out: LeftOut

    @property
    def sha256(self) -> str:
        """The hash of names, texts, split and parts."""
        sums = hashlib.sha256()
        parts = np.bincount(self.parts[self.train]).tolist()
        sums.update(json.dumps([len(self.train), len(self.test), parts]).encode())
        for order in (self.train, self.test):
            sums.update(self.identity[order].tobytes())
        return sums.hexdigest()

    def tasks(self, wanted: np.ndarray) -> list[tuple[list[Piece], np.ndarray]]:
        """Return each chunk with documents in `wanted`, (n,) bool, and their places in it."""
        places = [np.flatnonzero(wanted[a:b]) for a, b in zip(*self._edges(), strict=True)]
        return [(c, p) for c, p in zip(self.chunks, places, strict=True) if len(p)]

    def _edges(self) -> tuple[np.ndarray, np.ndarray]:
        return self.firsts[:-1], self.firsts[1:]

    def read(self, order: np.ndarray, *, workers: int = 1) -> list[str]:
        """Return the texts of documents, in this order."""
        wanted = np.zeros(len(self.parts), dtype=bool)
        wanted[order] = True
        tasks = [(c, (self.text_key, p)) for c, p in self.tasks(wanted)]
        lists = each("reading a sample", read_places, tasks, workers=workers)
        texts = list(chain.from_iterable(lists))
        rank = np.cumsum(wanted) - 1
        return [texts[i] for i in rank[order]]


def read_places(chunk: list[Piece], wanted: tuple[str, np.ndarray]) -> list[str]:
    """Return the texts at places of a chunk, in rising order."""
    return [d.text for d in documents_at(chunk, *wanted)]


def documents_at(chunk: list[Piece], text_key: str, places: np.ndarray) -> Iterator[Document]:
    """Yield the documents at places of a chunk, in rising order."""
    chosen = set(places.tolist())
    documents = (d for piece in chunk for d in read_piece(piece, text_key=text_key))
    return (d for place, d in enumerate(documents) if place in chosen)


def divide_corpus(
    config: DataConfig, sources: Sources, scratch: Path, *, workers: int
) -> DividedCorpus:
    """Read a corpus and divide it into training and test text.

    config: of the data
    sources: the files
    scratch: a folder for the results of single chunks, removed at the end
    workers: the most processes that read

    Raises ValueError for a corpus without training or test text.
    """
    all_chunks = list(chunks(sources.pieces()))
    paths = [scratch / f"{i:06}.npz" for i in range(len(all_chunks))]
    tasks = [(c, (sources.text_key, p)) for c, p in zip(all_chunks, paths, strict=True)]
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
    table = {k: np.concatenate([result[k] for result in results]) for k in results[0]}
    firsts = np.cumsum([0, *(len(result["parts"]) for result in results)])
    lines = [np.load(p.with_suffix(".npy"), mmap_mode="r") for p in paths]
    try:
        sides = split_documents(config, names, table, LineIndex(lines=lines, firsts=firsts))
    except ValueError as error:
        why = f"; left out are rows {left_out.in_words()}" if left_out.as_dict() else ""
        raise ValueError(f"{error}{why}") from error
    shutil.rmtree(scratch, ignore_errors=True)
    return DividedCorpus(
        chunks=all_chunks,
        text_key=sources.text_key,
        firsts=firsts,
        left_out=left_out,
        **table,
        **sides,
    )


def scan(chunk: list[Piece], argument: tuple[str, Path]) -> None:
    """Write hashes and sizes of a chunk's documents and the hashes of their lines, unless done."""
    text_key, path = argument
    if _scanned(path):
        return
    left_out = LeftOut()
    documents = [d for piece in chunk for d in read_piece(piece, text_key=text_key, left=left_out)]
    hashes, owners = hash_lines(d.text for d in documents)
    with write_whole(path.with_suffix(".npy")) as stream:
        np.save(stream, np.stack([hashes, owners.astype(np.uint64)]))
    identity = [[_digest(d.name), _digest(d.text)] for d in documents]
    with write_whole(path) as stream:
        np.savez(
            stream,
            names=np.frombuffer("".join(f"{d.name}\0" for d in documents).encode(), dtype=np.uint8),
            identity=np.asarray(identity, dtype=np.uint8).reshape(-1, 2, 32),
            parts=np.asarray([d.part for d in documents], dtype=np.int32),
            n_bytes=np.asarray([len(d.text.encode()) for d in documents], dtype=np.int64),
            n_chars=np.asarray([len(d.text) for d in documents], dtype=np.int64),
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


@dataclass(frozen=True, kw_only=True)
class LineIndex:
    """The lines of all chunks, (2, lines) each: hashes in rising order, documents in the chunk."""

    lines: list[np.ndarray]
    firsts: np.ndarray

    def similar(self, chosen: np.ndarray) -> np.ndarray:
        """Return the pairs of near-duplicates among `chosen` documents (c,), as places in it."""
        place = np.full(self.firsts[-1], -1)
        place[chosen] = np.arange(len(chosen))

        def places_of(index: int, low: int = 0, high: int | None = None) -> np.ndarray:
            return place[self.firsts[index] + self.lines[index][1, low:high].astype(np.int64)]

        def part(low: int, high: int) -> Lines:
            hashes, owners = [], []
            for index, lines in enumerate(self.lines):
                ends = np.searchsorted(lines[0], np.asarray([low, high], dtype=np.uint64))
                owners_here = places_of(index, *ends)
                hashes.append(lines[0, slice(*ends)][owners_here >= 0])
                owners.append(owners_here[owners_here >= 0])
            return np.concatenate(hashes), np.concatenate(owners)

        counts = np.zeros(len(chosen), dtype=np.int64)
        for index in range(len(self.lines)):
            owners_here = places_of(index)
            counts += np.bincount(owners_here[owners_here >= 0], minlength=len(chosen))
        return similar(part, counts)


def split_documents(
    config: DataConfig, names: list[str], table: dict[str, np.ndarray], line_index: LineIndex
) -> dict[str, Any]:
    """Return the order of training and test documents, and the counts `dropped` and `twins`.

    config: of the data
    names: of all documents
    table: identity, parts, n_bytes and n_chars of all documents, as in DividedCorpus
    line_index: the lines of all documents
    """
    names_key, texts_key = (table["identity"][:, i, :8].copy().view(">u8")[:, 0] for i in (0, 1))
    not_test, test = np.flatnonzero(table["parts"] >= 0), np.flatnonzero(table["parts"] < 0)
    train = not_test[_different(texts_key[not_test])]
    train = train[~np.isin(texts_key[train], texts_key[test])]
    dropped = len(not_test) - len(train)
    pairs = line_index.similar(np.concatenate([train, test]))
    if config.test or config.source in TRUTHS:
        across = pairs[(pairs[:, 0] < len(train)) & (pairs[:, 1] >= len(train))]
        twins = len(np.unique(across[:, 1]))
    else:
        labels = groups(pairs, len(train))
        twins = int((np.bincount(labels)[labels] > 1).sum()) if len(labels) else 0
        leader = train[_leaders(labels, [names[i] for i in train])]
        held_out = (names_key[leader] >> np.uint64(32)) / 2**32 < config.test_share
        train, test = train[~held_out], train[held_out]
        test = test[np.argsort(names_key[test], kind="stable")]
    if config.max_bytes:
        order = train[np.argsort(names_key[train], kind="stable")]
        n = np.searchsorted(np.cumsum(table["n_bytes"][order]), config.max_bytes, side="right")
        train = order[: max(1, n)]
        train = train[np.argsort(table["parts"][train], kind="stable")]
    for part, documents in (("training", train), ("test", test)):
        if not len(documents):
            raise ValueError(
                f"the corpus has no {part} documents, {len(train) + len(test)} in all; add text, "
                f"change data.test_share={config.test_share}, or name files of their own for the "
                "test, as 'data.test=[FILE]'"
            )
    return {"train": train, "test": test, "dropped": dropped, "twins": twins}


def _different(keys: np.ndarray) -> np.ndarray:
    """Return the first place of each key, in the order in which the keys are seen last."""
    _, first = np.unique(keys, return_index=True)
    _, last = np.unique(keys[::-1], return_index=True)
    return first[np.argsort(-last)]


def _leaders(labels: np.ndarray, names: list[str]) -> np.ndarray:
    """Return, for each text, the text of its group whose name comes first."""
    first: dict[int, int] = {}
    for index, label in enumerate(labels.tolist()):
        leader = first.setdefault(label, index)
        if names[index] < names[leader]:
            first[label] = index
    return np.asarray([first[label] for label in labels.tolist()], dtype=np.int64)
