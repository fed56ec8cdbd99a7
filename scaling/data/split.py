"""Which text is training and which is test text: whole documents by a hash, or blocks by a quota.

Near-duplicates form a group, and a group lies on one side. By documents, a hash of a name in the
group decides its side (the default corpus, and data.split=documents). By blocks, groups are taken
in the order of a hash of their text until the test part has its bytes.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from scaling.config import TRUTHS, DataConfig
from scaling.data.blocks import (
    DROPPED,
    TEST,
    TRAIN,
    Atoms,
    Segments,
    block_bytes,
    fill,
    quota_bytes,
    segments_of,
    stretch,
)
from scaling.data.near_duplicates import Lines, groups, similar


@dataclass(frozen=True, kw_only=True)
class LineIndex:
    """The lines of all chunks, (2, lines) each: hashes in rising order, atoms in the chunk."""

    lines: list[np.ndarray]
    firsts: np.ndarray

    def similar(self, chosen: np.ndarray) -> np.ndarray:
        """Return the pairs of near-duplicates among `chosen` atoms (c,), as places in it."""
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


@dataclass(frozen=True, kw_only=True)
class Split:
    """The segments of training and test text, in their order, and what the split counted.

    `dropped` counts documents that copy another one's text. `twins` counts near-duplicates that
    are kept together or, where the test part has files of its own, test documents with a
    near-duplicate in the training part. `gap_bytes` are neither training nor test text.
    `test_blocks` counts independent test blocks: near-duplicates are one.
    """

    segments: Segments
    train: np.ndarray
    test: np.ndarray
    dropped: int
    twins: int
    gap_bytes: int = 0
    test_blocks: int = 0


@dataclass(frozen=True, kw_only=True)
class Documents:
    """What is known of all documents: names, and `table` as in `DividedCorpus`."""

    names: list[str]
    identity: np.ndarray
    parts: np.ndarray
    n_bytes: np.ndarray
    n_chars: np.ndarray

    def keys(self, which: int) -> np.ndarray:
        """Return 64 bits of the hash of each name (0) or text (1)."""
        return self.identity[:, which, :8].copy().view(">u8")[:, 0].astype(np.uint64)


def split_corpus(
    config: DataConfig, documents: Documents, atoms: Atoms, lines: LineIndex, *, test_bytes: int
) -> Split:
    """Divide a corpus into training and test text.

    config: of the data
    documents: all of them
    atoms: of the documents
    lines: of the atoms
    test_bytes: bytes that eval.test_tokens needs

    Raises ValueError for a corpus without training or test text.
    """
    if config.in_blocks:
        split = _by_blocks(config, documents, atoms, lines, test_bytes)
    else:
        split = _by_documents(config, documents, lines)
    if config.max_bytes:
        train = _first_bytes(split, documents, config.max_bytes)
        split = Split(**{**vars(split), "train": train})
    if config.test and not len(split.train) and split.dropped:
        raise ValueError(
            f"every training document is in data.test too ({split.dropped:,} of data.train), and "
            "what is tested is not trained on; name training and test files apart"
        )
    for part, chosen in (("training", split.train), ("test", split.test)):
        if not len(chosen):
            raise ValueError(
                f"the corpus has no {part} documents, {len(split.train) + len(split.test)} in all; "
                f"add text, change data.test_share={config.test_share}, or name files of their own "
                "for the test, as 'data.test=[FILE]'"
            )
    return split


def _first_bytes(split: Split, documents: Documents, most: int) -> np.ndarray:
    """Keep `most` bytes of the training text, chosen by the hashes of names."""
    segments, keys, train = split.segments, documents.keys(0), split.train
    order = train[np.argsort(keys[segments.document[train]], kind="stable")]
    n = np.searchsorted(np.cumsum(segments.n_bytes[order]), most, side="right")
    train = order[: max(1, n)]
    return train[np.argsort(documents.parts[segments.document[train]], kind="stable")]


def _by_documents(config: DataConfig, documents: Documents, lines: LineIndex) -> Split:
    """Hold out groups of documents by the hash of a name; or take the files of the test part."""
    names_key, texts_key = documents.keys(0), documents.keys(1)
    not_test, test = np.flatnonzero(documents.parts >= 0), np.flatnonzero(documents.parts < 0)
    train = not_test[_different(texts_key[not_test])]
    train = train[~np.isin(texts_key[train], texts_key[test])]
    dropped = len(not_test) - len(train)
    pairs = lines.similar(np.concatenate([train, test]))
    if config.test or config.source in TRUTHS:
        across = pairs[(pairs[:, 0] < len(train)) & (pairs[:, 1] >= len(train))]
        twins = len(np.unique(across[:, 1]))
        sizes = documents.n_bytes[test]
        blocks = np.round(sizes / block_bytes(int(sizes.sum()))).astype(int)
        test_blocks = int(np.maximum(blocks, 1).sum())
    else:
        labels = groups(pairs, len(train))
        twins = _not_alone(labels)
        leader = train[_leaders(labels, [documents.names[i] for i in train])]
        held_out = (names_key[leader] >> np.uint64(32)) / 2**32 < config.test_share
        test_blocks = len(np.unique(labels[held_out]))
        train, test = train[~held_out], train[held_out]
        test = test[np.argsort(names_key[test], kind="stable")]
    return Split(
        segments=Segments.whole(documents.n_bytes, documents.n_chars),
        train=train,
        test=test,
        dropped=dropped,
        twins=twins,
        test_blocks=test_blocks,
    )


def _by_blocks(
    config: DataConfig, documents: Documents, atoms: Atoms, lines: LineIndex, test_bytes: int
) -> Split:
    """Hold out an exact share of bytes: groups of blocks, in the order of a hash of their text."""
    texts_key = documents.keys(1)
    mask = np.zeros(len(texts_key), dtype=bool)
    mask[np.unique(texts_key, return_index=True)[1]] = True
    sizes = np.where(mask, documents.n_bytes, 0)
    quota = quota_bytes(int(sizes.sum()), share=config.test_share, needed=test_bytes)

    if not len(atoms.document):
        nobody = np.empty(0, dtype=np.int64)
        whole = Segments.whole(documents.n_bytes, documents.n_chars)
        return Split(segments=whole, train=nobody, test=nobody, dropped=0, twins=0)
    used = np.flatnonzero(mask[atoms.document])
    blocks = atoms.blocks(documents.n_bytes, block_bytes(quota))
    first, last = _ends(blocks)
    pairs = used[lines.similar(used)]
    labels = groups(blocks[pairs], len(first))
    alone = stretch(atoms, first, last, gaps=np.ones(len(first), dtype=bool))
    keys = _keys(texts_key[alone.document], alone.start)

    leaders, group = np.unique(labels, return_inverse=True)  # groups by their first block
    used_block = mask[alone.document]
    group_bytes = np.bincount(group, alone.n_bytes * used_block).astype(np.int64)
    group_keys = np.full(len(leaders), np.iinfo(np.uint64).max, dtype=np.uint64)
    np.minimum.at(group_keys, group, keys)
    order = np.argsort(group_keys, kind="stable")
    order = order[group_bytes[order] > 0]
    in_test = np.zeros(len(leaders), dtype=bool)
    in_test[order[fill(group_bytes[order], quota)]] = True

    sides = np.where(in_test[group][blocks], TEST, TRAIN)
    remaining = quota - int(group_bytes[in_test].sum())
    members = np.bincount(group[used_block], minlength=len(leaders))
    rest = (int(leaders[g]) for g in order if not in_test[g] and members[g] == 1)
    sides = _fill_up(atoms, first, last, sides, rest, remaining)
    sides[~mask[atoms.document]] = DROPPED
    segments, side = segments_of(atoms, blocks, sides)
    test = np.flatnonzero(side == TEST)
    test_keys = _keys(texts_key[segments.document[test]], segments.start[test])
    tested = np.unique(group[np.unique(blocks[sides == TEST])])
    return Split(
        segments=segments,
        train=np.flatnonzero(side == TRAIN),
        test=test[np.argsort(test_keys, kind="stable")],
        dropped=int((~mask).sum()),
        twins=_not_alone(labels[used_block]),
        gap_bytes=int(sizes.sum() - segments.n_bytes.sum()),
        test_blocks=len(tested),
    )


def _fill_up(
    atoms: Atoms,
    first: np.ndarray,
    last: np.ndarray,
    sides: np.ndarray,
    rest: Iterable[int],
    left: int,
) -> np.ndarray:
    """Give the first atoms of one more block to the test part; the others of the block are dropped.

    atoms: of all documents
    first, last: atoms of each block
    sides: of the atoms, changed in place
    rest: blocks that may be taken, in order
    left: bytes that the test part still needs
    """
    for block in rest:
        ends = np.arange(first[block], last[block])  # not the last: the whole block did not fit
        if not len(ends):
            continue
        starts = np.full_like(ends, first[block])
        sizes = stretch(atoms, starts, ends, gaps=np.ones(len(ends), dtype=bool)).n_bytes
        n = int(np.searchsorted(sizes, left, side="right"))
        if n:
            sides[first[block] : last[block] + 1] = DROPPED
            sides[first[block] : ends[n - 1] + 1] = TEST
        break
    return sides


def _ends(blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the first and the last atom of each block."""
    new = np.flatnonzero(np.concatenate([[True], blocks[1:] != blocks[:-1]]))
    return new, np.append(new[1:], len(blocks)) - 1


def _keys(texts: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Return a hash of text and place, (n,) uint64: splitmix64 (Steele et al. 2014)."""
    z = texts + (starts.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _not_alone(labels: np.ndarray) -> int:
    """Count the members of groups of two and more."""
    return int((np.bincount(labels)[labels] > 1).sum()) if len(labels) else 0


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
