"""Files of token ids as others write them, read where they lie.

A window is read by its place in the file, with no copy of the file and no memory for the rest.

Read are raw ids (nanoGPT; uint16, uint32 or int64), llm.c's files with a header of 256 int32
(dev/data/data_common.py), and Megatron's pairs of .bin and .idx
(core/datasets/indexed_dataset.py). Several files are one stream.
Nothing in a file is run: sizes and numbers are read alone.
"""

import hashlib
import itertools
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from scaling.data.folders import files_in, files_of_glob

HEADER_BYTES = 1024  # of an llm.c file
LLM_C = {20240520: "uint16", 20240801: "uint32"}  # magic number of an llm.c file -> type of its ids
NO_TOKENS = {20240522: "an evaluation file of llm.c"}
MEGATRON = b"MMIDIDX\x00\x00"
MEGATRON_TYPES = {1: "uint8", 4: "int32", 5: "int64", 8: "uint16"}
MEGATRON_HEADER = struct.Struct("<9sQBQQ")  # magic, version, type, sequences, documents
SAMPLED, SAMPLE_BYTES = 64, 1 << 12  # A file is hashed and checked by so many pieces of this size.


@dataclass(frozen=True, kw_only=True)
class Shard:
    """A file of token ids: type and place of the ids in it, and its documents where they are known.

    `index` is Megatron's .idx, None for the other formats.
    """

    path: Path
    dtype: str
    first_byte: int
    n_tokens: int
    index: Path | None = None

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return ids `start` up to `stop`, fewer at the end of the file."""
        start, stop = (min(max(n, 0), self.n_tokens) for n in (start, stop))
        dtype = np.dtype(self.dtype)
        at = self.first_byte + start * dtype.itemsize
        return np.fromfile(self.path, dtype=dtype, count=stop - start, offset=at)

    def document_starts(self) -> np.ndarray | None:
        """Return the first token of each document of Megatron's index; None without one.

        A document is one sequence or, where the text was split into sentences, several.
        """
        if self.index is None:
            return None
        parts = _index_parts(self.index)
        starts = np.cumsum(parts.lengths, dtype=np.int64) - parts.lengths
        return starts[parts.documents[:-1]] if len(parts.documents) > 1 else starts

    def samples(self, *, align: int = 1) -> np.ndarray:
        """Return ids of pieces that are spread evenly over the file, its ends among them.

        Each piece starts at a multiple of `align` ids.
        """
        n = SAMPLE_BYTES // np.dtype(self.dtype).itemsize
        if self.n_tokens <= SAMPLED * n:
            return self.read(0, self.n_tokens)
        starts = np.linspace(0, self.n_tokens - n, SAMPLED).astype(np.int64) // align * align
        return np.concatenate([self.read(start, start + n) for start in starts.tolist()])

    def sha256(self) -> str:
        """Return a hash of type, size and the sampled pieces: a file may have 1e11 tokens."""
        sums = hashlib.sha256(f"{self.dtype} {self.n_tokens}".encode())
        sums.update(np.ascontiguousarray(self.samples()).tobytes())
        return sums.hexdigest()


def shard_files(entry: str) -> list[Path]:
    """Expand a folder, a glob or a file to the sorted .bin files that it names.

    FileNotFoundError where it names none, ValueError for a file of another ending, PermissionError
    for a folder that may not be listed.
    """
    path = Path(entry).expanduser()
    if path.is_dir():
        files = files_in(path, endings=(".bin",), beside=(".idx",))
    elif path.is_file():
        files = [path]
    else:
        files = [p for p in files_of_glob(str(path)) if p.suffix != ".idx"]
    if not files:
        raise FileNotFoundError(
            f"data path {entry} names no file of token ids; give a folder, a glob or a .bin file"
        )
    for file in files:
        if file.suffix != ".bin":
            raise ValueError(
                f"{file} is no .bin file of token ids; data=files reads text and tables"
            )
    return files


def open_shard(path: Path, *, vocab_size: int) -> Shard:
    """Read the header of a file, and what it holds.

    path: the .bin file; a .idx beside it makes it one of Megatron
    vocab_size: of the model; it tells the type of raw ids where the ids themselves do not

    ValueError for a file of no known format, of another size than it says, and for ids that
    `vocab_size` does not reach.
    """
    index = path.with_suffix(".idx")
    shard = _megatron(path, index) if index.is_file() else _llm_c(path) or _raw(path, vocab_size)
    if not shard.n_tokens:
        raise ValueError(f"{path} holds no token; take it out of the data")
    check_ids(shard.samples(), vocab_size, path)
    return shard


def check_ids(ids: np.ndarray, vocab_size: int, where: Path | str) -> None:
    """Raise ValueError for an id that the model's table does not reach; `where` names its file."""
    least, most = int(ids.min()), int(ids.max())
    if least < 0 or most >= vocab_size:
        raise ValueError(
            f"{where} holds the id {most if least >= 0 else least}, and the vocabulary has"
            f" {vocab_size:,} ids; set tokenizer.source to the tokenizer that made the file, or"
            " tokenizer.vocab_size to the number of its ids"
        )


def _head(path: Path, size: int) -> bytes:
    with path.open("rb") as stream:
        head = stream.read(size)
    if len(head) < size:
        raise ValueError(f"{path} has {len(head)} bytes, fewer than its header; write it again")
    return head


@dataclass(frozen=True, kw_only=True)
class _IndexParts:
    """The arrays of Megatron's index, memory-mapped.

    lengths: tokens of each sequence (sequences,)
    places: first byte of each sequence in the .bin (sequences,)
    documents: first sequence of each document, and the number of sequences last (documents + 1,)
    """

    lengths: np.ndarray
    places: np.ndarray
    documents: np.ndarray


def _index_parts(index: Path) -> _IndexParts:
    _, _, _, sequences, documents = MEGATRON_HEADER.unpack(_head(index, MEGATRON_HEADER.size))

    def part(dtype: str, offset: int, n: int) -> np.ndarray:
        at = MEGATRON_HEADER.size + offset
        return np.memmap(index, dtype=dtype, mode="r", offset=at, shape=(n,))

    if not sequences:
        nothing = np.zeros(0, np.int64)
        return _IndexParts(lengths=nothing, places=nothing, documents=nothing)
    return _IndexParts(
        lengths=part("<i4", 0, sequences),
        places=part("<i8", 4 * sequences, sequences),
        documents=part("<i8", 12 * sequences, documents) if documents else np.zeros(0, np.int64),
    )


def _check_index(index: Path, itemsize: int) -> None:
    """Raise ValueError for an index whose sequences or documents are out of order."""
    parts = _index_parts(index)
    n = len(parts.lengths)
    if not n:
        return
    ends = np.cumsum(parts.lengths, dtype=np.int64)
    if not np.array_equal(parts.places, (ends - parts.lengths) * itemsize):
        raise ValueError(
            f"{index} names sequences that do not follow each other in the .bin: it points into"
            " another file; merge the data set with Megatron's tools/merge_datasets.py"
        )
    documents = parts.documents
    if len(documents) and (
        documents[0] != 0 or documents[-1] != n or (np.diff(documents) < 0).any()
    ):
        raise ValueError(
            f"{index} names documents that are not in order from sequence 0 to {n:,}; write it"
            " again with Megatron's tools/preprocess_data.py"
        )


def _megatron(path: Path, index: Path) -> Shard:
    head = _head(index, MEGATRON_HEADER.size)
    magic, version, code, sequences, documents = MEGATRON_HEADER.unpack(head)
    if magic != MEGATRON or version != 1:
        raise ValueError(
            f"{index} is no index of Megatron (MMIDIDX, version 1); preprocess the text with its"
            " mmap data implementation, or move the .idx away if the .bin is of another kind"
        )
    if code not in MEGATRON_TYPES:
        raise ValueError(f"{index} says type {code}, which is none of token ids; write it again")
    # a length and a place of each sequence, and the first sequence of each document
    least = MEGATRON_HEADER.size + 12 * sequences + 8 * documents
    if index.stat().st_size < least:
        raise ValueError(
            f"{index} has {index.stat().st_size:,} bytes and names {sequences:,} sequences and"
            f" {documents:,} documents, which take {least:,} or more; write it again"
        )
    lengths = _index_parts(index).lengths
    dtype = np.dtype(MEGATRON_TYPES[code])
    n_tokens, size = int(lengths.sum(dtype=np.int64)), path.stat().st_size
    if size != n_tokens * dtype.itemsize:
        raise ValueError(
            f"{path} has {size:,} bytes and its .idx names {n_tokens:,} tokens of"
            f" {dtype.itemsize} bytes; put the two files of one data set there"
        )
    _check_index(index, dtype.itemsize)
    return Shard(path=path, dtype=dtype.name, first_byte=0, n_tokens=n_tokens, index=index)


def _llm_c(path: Path) -> Shard | None:
    """Return a file of llm.c; None where it does not begin as one."""
    if path.stat().st_size < HEADER_BYTES:
        return None
    magic, _, n_tokens = struct.unpack("<3i", _head(path, 12))
    if magic in NO_TOKENS:
        raise ValueError(f"{path} is {NO_TOKENS[magic]}, which holds no text to learn from")
    if magic not in LLM_C:
        return None
    dtype = np.dtype(LLM_C[magic])
    size = path.stat().st_size
    if size != HEADER_BYTES + n_tokens * dtype.itemsize:
        raise ValueError(
            f"{path} has {size:,} bytes, and its header names {n_tokens:,} tokens of"
            f" {dtype.itemsize} bytes after {HEADER_BYTES}; copy it again"
        )
    return Shard(path=path, dtype=dtype.name, first_byte=HEADER_BYTES, n_tokens=n_tokens)


def _raw(path: Path, vocab_size: int) -> Shard:
    """Return a file of ids alone; its numbers say of which type they are.

    Ids are uint32 where every second uint16 is only a high half of an id, and int64 (numpy's
    default) where the upper four of every eight bytes are 0 besides.
    """
    size = path.stat().st_size
    if size % 2:
        raise ValueError(f"{path} has {size:,} bytes, an odd number, and so no uint16 or uint32")
    file = Shard(path=path, dtype="uint16", first_byte=0, n_tokens=size // 2)
    # (ids of 8 bytes, uint16 of each, the lowest first): a piece that starts within an id would
    # swap the halves.
    halves = file.samples(align=4)
    pairs = halves[: len(halves) // 2 * 2].reshape(-1, 2)
    fours = halves[: len(halves) // 4 * 4].reshape(-1, 4)
    wide = vocab_size > 1 << 16
    if not len(pairs) or size % 4 or int(pairs[:, 1].max()) > (vocab_size - 1) >> 16:
        return file
    if not size % 8 and fours[:, :2].any() and not fours[:, 2:].any():
        return Shard(path=path, dtype="int64", first_byte=0, n_tokens=size // 8)
    if wide or pairs[:, 0].any():
        return Shard(path=path, dtype="uint32", first_byte=0, n_tokens=size // 4)
    return file


@dataclass(frozen=True, kw_only=True)
class Span:
    """Tokens `start` up to `stop` of a shard."""

    shard: Shard
    start: int
    stop: int


class TokenStream:
    """Spans of files one after the other, indexed as an array of ids that need not fit in memory.

    Ids beyond `vocab_size` raise ValueError when they are read.
    """

    def __init__(self, spans: Sequence[Span], *, vocab_size: int) -> None:
        self.spans, self.vocab_size = [s for s in spans if s.stop > s.start], vocab_size
        self._ends = np.cumsum([s.stop - s.start for s in self.spans], dtype=np.int64)

    @classmethod
    def of(cls, shards: Sequence[Shard], start: int, stop: int, *, vocab_size: int) -> Self:
        """Return tokens `start` up to `stop` of several files, counted through all of them."""
        spans, first = [], 0
        for shard in shards:
            low, high = (min(max(n - first, 0), shard.n_tokens) for n in (start, stop))
            spans.append(Span(shard=shard, start=low, stop=high))
            first += shard.n_tokens
        return cls(spans, vocab_size=vocab_size)

    def __len__(self) -> int:
        """Return the number of tokens."""
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, places: np.ndarray | slice) -> np.ndarray:
        """Return the ids at places, an array of any shape, as int64 of that shape.

        Neighbours are read at once, so that a window is one read.
        """
        if isinstance(places, slice):
            places = np.arange(*places.indices(len(self)))
        flat = np.asarray(places).reshape(-1)
        files = np.searchsorted(self._ends, flat, side="right")
        result = np.empty(flat.shape, dtype=np.int64)
        breaks = np.flatnonzero((np.diff(flat) != 1) | (np.diff(files) != 0)) + 1
        for low, high in itertools.pairwise([0, *breaks.tolist(), len(flat)]):
            if low < high:
                span = self.spans[files[low]]
                start = int(flat[low] - self._ends[files[low]]) + span.stop
                ids = span.shard.read(start, start + high - low)
                check_ids(ids, self.vocab_size, span.shard.path)
                result[low:high] = ids
        return result.reshape(np.shape(places))
