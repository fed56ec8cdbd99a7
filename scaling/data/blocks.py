"""Long documents cut into atoms and blocks, and the exact share of bytes that is test text.

An atom is about ATOM characters and ends at the end of a paragraph. A block is a row of atoms of
one document: a block is training text or test text as a whole. A test block loses its first and
last GAP characters, up to the end of a paragraph, where its document goes on: no training text
touches test text.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

ATOM = 4096  # Characters of an atom: about a page, the finest piece that the split knows.
GAP = 512  # Characters, some 100 words, between training and test text of one document.
FEWEST_BLOCKS = 10  # Of fewer independent blocks no standard error is worth its name.
# Blocks of a test part that is cut from long documents: the standard error of 32 is known to 13 %.
# A small corpus has fewer, down to ENOUGH_BLOCKS, so that the gaps take a fifth of them at most.
BLOCKS, ENOUGH_BLOCKS = 32, 12
# UTF-8 bytes of a token under a large vocabulary; 128,256 tokens have 4.6 on English.
BYTES_PER_TOKEN = 5
MOST_SHARE = 0.25  # eval.test_tokens raises the test part of a small corpus up to this share.

COLUMNS = ("start", "stop", "n_bytes", "head", "head_bytes", "tail", "tail_bytes")
TRAIN, TEST, DROPPED = 0, 1, 2


def cut_atoms(text: str, *, sliced: bool = False) -> list[tuple[int, ...]]:
    """Cut a text into atoms; return the COLUMNS of each: places in characters, and sizes.

    `head` and `tail` are the characters at the atom's ends that a gap takes.

    text: of a document
    sliced: whether the document is a piece of a longer one, so that its ends need gaps too
    """
    if len(text) <= 1.5 * ATOM and not sliced:
        return [whole_atom(text)]
    edges, at = [0], 0
    while len(text) - at > 1.5 * ATOM:
        at = _border(text, at + ATOM, at + int(1.4 * ATOM))
        edges.append(at)
    edges.append(len(text))
    atoms = []
    for start, stop in pairwise(edges):
        gap = min(GAP, (stop - start) // 3)
        most = max(gap, (stop - start) // 3)
        head = _border(text, start + gap, start + most)
        tail = _border_before(text, stop - most, stop - gap)
        sizes = (len(text[a:b].encode()) for a, b in ((start, stop), (start, head), (tail, stop)))
        n_bytes, head_bytes, tail_bytes = sizes
        atoms.append((start, stop, n_bytes, head - start, head_bytes, stop - tail, tail_bytes))
    return atoms


def whole_atom(text: str) -> tuple[int, ...]:
    """Return the COLUMNS of a text that is one atom, and needs no gap."""
    return (0, len(text), len(text.encode()), 0, 0, 0, 0)


def _border(text: str, low: int, high: int) -> int:
    """Return the first end of a paragraph in a range; else of a line, of a word, else `low`."""
    for mark in ("\n\n", "\n", " "):
        if (at := text.find(mark, low, high)) >= 0:
            return at + len(mark)
    return low


def _border_before(text: str, low: int, high: int) -> int:
    """Return the last start of a paragraph in a range; else of a line, of a word, else `high`."""
    for mark in ("\n\n", "\n", " "):
        if (at := text.rfind(mark, low, high)) >= 0:
            return at + len(mark)
    return high


@dataclass(frozen=True, kw_only=True)
class Atoms:
    """The atoms of all documents in order: `table` (n, COLUMNS), `document` (n,) of each."""

    document: np.ndarray
    table: np.ndarray
    sliced: np.ndarray  # (documents,) whether a document is a piece of a longer one

    def __getitem__(self, name: str) -> np.ndarray:
        """Return a column, (n,)."""
        return self.table[:, COLUMNS.index(name)]

    def at_start(self, rows: np.ndarray) -> np.ndarray:
        """Say of atoms whether they begin a text, so that they need no gap before them."""
        document = self.document[rows]
        before = np.where(rows > 0, self.document[np.maximum(rows - 1, 0)], -1)
        return (before != document) & ~self.sliced[document]

    def at_end(self, rows: np.ndarray) -> np.ndarray:
        """Say of atoms whether they end a text, so that they need no gap behind them."""
        document, last = self.document[rows], len(self.document) - 1
        after = np.where(rows < last, self.document[np.minimum(rows + 1, last)], -1)
        return (after != document) & ~self.sliced[document]

    def blocks(self, n_bytes: np.ndarray, size: float) -> np.ndarray:
        """Return the block of each atom, (n,), numbered in order.

        n_bytes: of each document, (documents,)
        size: bytes, about how large a block of a longer document is
        """
        counts = np.bincount(self.document, minlength=len(n_bytes))
        firsts = np.cumsum(counts) - counts
        blocks = np.clip(np.round(n_bytes / size).astype(np.int64), 1, np.maximum(counts, 1))
        place = np.arange(len(self.document)) - firsts[self.document]
        within = place * blocks[self.document] // counts[self.document]
        return (np.cumsum(blocks) - blocks)[self.document] + within


@dataclass(frozen=True, kw_only=True)
class Segments:
    """Stretches of documents that are texts of the corpus, in their order; all arrays are (n,)."""

    document: np.ndarray
    start: np.ndarray  # characters
    stop: np.ndarray
    n_bytes: np.ndarray

    @classmethod
    def whole(cls, n_bytes: np.ndarray, n_chars: np.ndarray) -> "Segments":
        """Return every document as one segment."""
        n = len(n_bytes)
        return cls(
            document=np.arange(n), start=np.zeros(n, dtype=np.int64), stop=n_chars, n_bytes=n_bytes
        )

    @property
    def n_chars(self) -> np.ndarray:
        """Characters of each segment."""
        return self.stop - self.start


def stretch(atoms: Atoms, first: np.ndarray, last: np.ndarray, *, gaps: np.ndarray) -> Segments:
    """Return the segments from atoms `first` to `last`, without their ends where `gaps` is set."""
    head = gaps & ~atoms.at_start(first)
    tail = gaps & ~atoms.at_end(last)
    sums = np.concatenate([[0], np.cumsum(atoms["n_bytes"])])
    n_bytes = sums[last + 1] - sums[first]
    return Segments(
        document=atoms.document[first],
        start=atoms["start"][first] + head * atoms["head"][first],
        stop=atoms["stop"][last] - tail * atoms["tail"][last],
        n_bytes=n_bytes - head * atoms["head_bytes"][first] - tail * atoms["tail_bytes"][last],
    )


def quota_bytes(total: int, *, share: float, needed: int) -> int:
    """Return the bytes of the test part.

    total: bytes of the corpus
    share: of the bytes that is test text (data.test_share)
    needed: bytes that eval.test_tokens needs; they count up to MOST_SHARE of the corpus
    """
    return int(max(share * total, min(needed, MOST_SHARE * total)))


def block_bytes(quota: int) -> float:
    """Return about how large a block of a long document is, in bytes, for a test part."""
    return max(1.0, quota / BLOCKS, min(2 * ATOM, quota / ENOUGH_BLOCKS))


def fill(sizes: Sequence[int] | np.ndarray, quota: int) -> np.ndarray:
    """Choose from sizes, in their order, what fits into a quota; return (n,) bool.

    A size that does not fit is passed over, so that the sum comes near the quota. Where none fits,
    the smallest is chosen, if there is another.
    """
    sizes = np.asarray(sizes, dtype=np.int64)
    fits = np.zeros(len(sizes), dtype=bool)
    if not len(sizes):
        return fits
    n = int(np.searchsorted(np.cumsum(sizes), quota, side="right"))
    fits[:n] = True
    remaining, least = quota - int(sizes[:n].sum()), int(sizes.min())
    for place in range(n, len(sizes)):
        if remaining < least:
            break
        if sizes[place] <= remaining:
            fits[place], remaining = True, remaining - int(sizes[place])
    if not fits.any() and len(sizes) > 1:
        fits[sizes.argmin()] = True
    return fits


def segments_of(atoms: Atoms, blocks: np.ndarray, sides: np.ndarray) -> tuple[Segments, np.ndarray]:
    """Join neighbouring atoms into segments; return them and the side of each, (segments,).

    Training atoms that follow one another are one segment, test atoms one segment a block.

    atoms: of all documents
    blocks: of each atom, (n,)
    sides: TRAIN, TEST or DROPPED of each atom, (n,)
    """
    new = np.ones(len(sides), dtype=bool)
    same = (atoms.document[1:] == atoms.document[:-1]) & (sides[1:] == sides[:-1])
    new[1:] = ~(same & ((sides[1:] == TRAIN) | (blocks[1:] == blocks[:-1])))
    first = np.flatnonzero(new)
    last = np.append(first[1:], len(sides)) - 1
    stays = sides[first] != DROPPED
    first, last = first[stays], last[stays]
    return stretch(atoms, first, last, gaps=sides[first] == TEST), sides[first]


def few_blocks(meta: dict[str, Any]) -> str:
    """Say that the test part has too few independent blocks for a standard error; else empty."""
    blocks = meta.get("test_blocks", FEWEST_BLOCKS)  # unknown to versions up to 0.1
    if blocks >= FEWEST_BLOCKS:
        return ""
    return (
        f"the test part has {blocks} independent block{'s' * (blocks != 1)} of text, fewer than "
        f"{FEWEST_BLOCKS}: the test loss depends on which they are, and its standard error is not "
        "known; add text, or raise data.test_share"
    )
