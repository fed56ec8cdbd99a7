"""Near-duplicates: texts that share over half of the smaller one's lines.

Shared lines are counted exactly. Lines are 64-bit hashes, of which a range at a time is sorted, so
that memory does not grow with the text.
"""

from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b
from itertools import pairwise

import numpy as np

SHARED_LINES = 0.5  # Near-duplicates share more than this part of the smaller text's lines.
COMMON_LINE = 30  # A line in more texts than this (of a licence) says nothing about duplication.
SHORT_LINE = 20  # Characters; shorter lines (`return None`) are in many texts.
HELD = 1 << 22  # Lines, or pairs, that are in memory together.

Lines = tuple[np.ndarray, np.ndarray]  # hashes in rising order, and the text of each


def hash_lines(texts: Iterable[str]) -> Lines:
    """Return the hashes of each text's different lines, (m,) uint64, and the text of each line."""
    hashes, counts = [], []
    for text in texts:
        different = {s for line in text.split("\n") if len(s := line.strip()) >= SHORT_LINE}
        hashes += [blake2b(s.encode("utf-8", "replace"), digest_size=8).digest() for s in different]
        counts.append(len(different))
    all_hashes = np.frombuffer(b"".join(hashes), dtype=np.uint64)
    order = np.argsort(all_hashes)
    return all_hashes[order], np.repeat(np.arange(len(counts)), counts)[order]


def similar(part: Callable[[int, int], Lines], lines: np.ndarray) -> np.ndarray:
    """Return the pairs of near-duplicates, (p, 2), the smaller index first.

    part: `part(low, high)` returns the lines with hashes from low up to high
    lines: how many lines each text has, (n,)
    """
    n, ranges = len(lines), int(lines.sum()) // HELD + 1
    edges = [i * (2**64 - 1) // ranges for i in range(ranges)] + [2**64 - 1]
    counted = np.empty((2, 0), dtype=np.int64)  # pairs as a * n + b, and the lines they share
    pending: list[np.ndarray] = []
    for low, high in pairwise(edges):
        for a, b in _pairs(*part(low, high)):
            pending.append(a * n + b)
            if sum(map(len, pending)) > HELD:
                counted, pending = _count(counted, pending), []
    pairs, shared = _count(counted, pending)
    a, b = pairs // max(n, 1), pairs % max(n, 1)
    close = shared > SHARED_LINES * np.minimum(lines[a], lines[b])
    return np.stack([a[close], b[close]], axis=1)


def _pairs(hashes: np.ndarray, owners: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the pairs of texts that share a line, once for each line."""
    order = np.lexsort((owners, hashes))
    hashes, owners = hashes[order], owners[order].astype(np.int64)
    starts = np.flatnonzero(np.concatenate([[True], hashes[1:] != hashes[:-1]]))
    holders_of = np.diff(np.append(starts, len(hashes)))
    for holders in range(2, COMMON_LINE + 1):
        first, second = np.triu_indices(holders, 1)
        places = starts[holders_of == holders]
        step = max(1, HELD // len(first))
        for at in range(0, len(places), step):
            texts = owners[places[at : at + step, None] + np.arange(holders)]
            yield texts[:, first].ravel(), texts[:, second].ravel()


def _count(counted: np.ndarray, more: list[np.ndarray]) -> np.ndarray:
    """Add the occurrences of more keys to the counted keys, (2, keys): key and count."""
    keys, place = np.unique(np.concatenate([counted[0], *more]), return_inverse=True)
    counts = np.bincount(place[counted.shape[1] :], minlength=len(keys))
    counts[place[: counted.shape[1]]] += counted[1]
    return np.stack([keys, counts])


def groups(pairs: np.ndarray, n: int) -> np.ndarray:
    """Label each of n texts with the first text that pairs join it to, (n,)."""
    # Imported here: a cell whose tokens are cached needs no scipy.
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    _, labels = connected_components(graph, directed=False)
    first = np.full(labels.max(initial=-1) + 1, n)
    np.minimum.at(first, labels, np.arange(n))
    return first[labels]
