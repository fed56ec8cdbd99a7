"""Encoded segments: tokens and texts of a corpus by chunks, and how a part is put together of them.

A chunk that was encoded before is not encoded again, so that a build that was cut off goes on.
"""

import json
import logging
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Self
from zipfile import BadZipFile

import numpy as np

from scaling.data.chunks import write_whole
from scaling.data.division import texts_at
from scaling.data.documents import Piece
from scaling.data.tokenizer import encoder
from scaling.data.vocabulary import Vocabulary
from scaling.schema import sha256_file

log = logging.getLogger(__name__)
PROBED = 1 << 16  # Characters of a chunk that both encoders encode, to check that they agree.


def encode(chunk: list[Piece], argument: tuple[str, np.ndarray, Path, Path]) -> None:
    """Write tokens and texts of segments of a chunk, unless they were before."""
    text_key, segments, folder, path = argument
    if _is_encoded(path):
        return
    vocabulary = Vocabulary.read(folder)
    end, dtype = vocabulary.special.end, token_dtype(vocabulary)
    texts_of_chunk = texts_at(chunk, text_key, segments)
    sizes, encoded = [], None
    with write_whole(path) as tokens, write_whole(path.with_suffix(".jsonl")) as texts:
        while batch := list(islice(texts_of_chunk, 256)):
            encoded = encoded or encoder(vocabulary.tokenizer, [batch[0][:PROBED]])
            for text, own in zip(batch, encoded(batch), strict=True):
                ids = np.asarray([*own, end], dtype=dtype)
                tokens.write(ids.tobytes())
                sizes.append((len(ids), texts.write(f"{json.dumps(text)}\n".encode())))
    hashes = [sha256_file(p) for p in (path, path.with_suffix(".jsonl"))]
    with write_whole(path.with_suffix(".npz")) as stream:
        np.savez(stream, sizes=np.asarray(sizes, dtype=np.int64), hashes=np.asarray(hashes))


def token_dtype(vocabulary: Vocabulary) -> str:
    """Return the smallest type that holds the ids of a vocabulary."""
    return "uint16" if vocabulary.n_ids <= 2**16 else "uint32"


def _is_encoded(path: Path) -> bool:
    """Say whether a chunk was encoded before, and its files are undamaged."""
    try:
        with np.load(path.with_suffix(".npz")) as arrays:  # zip files check themselves
            hashes = arrays["hashes"].tolist()
            return len(arrays["sizes"]) > 0 and hashes == [
                sha256_file(p) for p in (path, path.with_suffix(".jsonl"))
            ]
    except FileNotFoundError:
        return False
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        log.warning("%s is damaged; its part of the text is tokenised again", path)
        return False


@dataclass(frozen=True, kw_only=True)
class EncodedSegments:
    """Where the tokens and the text of each segment are: file, offset and length.

    `offsets` and `lengths` are (n, 2): of tokens, and of bytes of text. Files and offsets of unused
    segments are -1.
    """

    paths: list[Path]
    files: np.ndarray  # (n,)
    offsets: np.ndarray
    lengths: np.ndarray

    @classmethod
    def of(cls, paths: list[Path], used: np.ndarray) -> Self:
        """Read the lengths that `encode` wrote for the used segments, (n,) bool."""
        sizes = [np.load(p.with_suffix(".npz"))["sizes"] for p in paths]
        files, offsets = np.full(len(used), -1), np.full((len(used), 2), -1)
        lengths = np.zeros_like(offsets)
        files[used] = np.repeat(np.arange(len(paths)), [len(size) for size in sizes])
        lengths[used] = np.concatenate(sizes)
        offsets[used] = np.concatenate([np.cumsum(size, axis=0) - size for size in sizes])
        return cls(paths=paths, files=files, offsets=offsets, lengths=lengths)

    def gather(self, order: np.ndarray, out: IO[bytes], *, text: bool, itemsize: int) -> None:
        """Write the segments of an order one after the other; neighbours are copied at once.

        order: segments
        out: the file to write to
        text: whether the text is written, or the tokens
        itemsize: bytes of a token, or 1 for text
        """
        files, ending = self.files[order], ".jsonl" if text else ".bin"
        at, size = (a[order, int(text)] * itemsize for a in (self.offsets, self.lengths))
        follows = (files[1:] == files[:-1]) & (at[1:] == at[:-1] + size[:-1])
        runs = np.flatnonzero(np.concatenate([[True], ~follows]))
        contents = [np.memmap(p.with_suffix(ending), dtype=np.uint8, mode="r") for p in self.paths]
        for run, length in zip(runs, np.add.reduceat(size, runs), strict=True):
            out.write(contents[files[run]][at[run] : at[run] + length])

    def tokens_of(self, order: np.ndarray, parts: np.ndarray, n_parts: int) -> list[int]:
        """Return how many tokens an order has of each part of a mixture."""
        counts = np.bincount(parts[order], self.lengths[order, 0], minlength=n_parts)
        return counts.astype(int).tolist()


def write_part(
    folder: Path, part: str, order: np.ndarray, pieces: EncodedSegments, dtype: str
) -> dict[str, int]:
    """Write tokens, texts and starts of a part; return how many tokens and documents it has.

    folder: of the tokens
    part: train or test
    order: its segments
    pieces: where they are
    dtype: of a token
    """
    with write_whole(folder / f"{part}.bin") as out:
        pieces.gather(order, out, text=False, itemsize=np.dtype(dtype).itemsize)
    with write_whole(folder / f"{part}.jsonl") as out:
        pieces.gather(order, out, text=True, itemsize=1)
    ends = np.cumsum(pieces.lengths[order, 0])
    np.save(folder / f"{part}_starts.npy", ends - pieces.lengths[order, 0])
    return {f"{part}_tokens": int(ends[-1]), f"{part}_documents": len(order)}
