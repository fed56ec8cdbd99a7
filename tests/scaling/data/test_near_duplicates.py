"""Near-duplicates, counted exactly however many lines are in memory together."""

from itertools import combinations

import numpy as np
import pytest

from scaling.data import near_duplicates
from scaling.data.near_duplicates import COMMON_LINE, Lines, groups, hash_lines, similar


def groups_of(texts: list[str]) -> list[int]:
    """Label each text with the first text of its group."""
    hashes, owners = hash_lines(texts)

    def part(low: int, high: int) -> Lines:
        here = slice(*np.searchsorted(hashes, np.asarray([low, high], dtype=np.uint64)))
        return hashes[here], owners[here]

    lines = np.bincount(owners, minlength=len(texts))
    return groups(similar(part, lines), len(texts)).tolist()


def test_texts_that_share_most_lines_are_one_group():
    a = "\n".join(f"a line of its own, number {i}" for i in range(10))
    twin = a.replace("number 3", "number three")
    assert groups_of([a, twin, "something else\n" * 9]) == [0, 0, 2]
    assert groups_of([]) == []
    assert groups_of(["short", "short"]) == [0, 1]


@pytest.mark.parametrize("held", [near_duplicates.HELD, 40])
def test_the_pairs_are_those_of_a_plain_count(monkeypatch, held):
    monkeypatch.setattr(near_duplicates, "HELD", held)
    rng = np.random.default_rng(0)
    owned = [{f"the line with the number {i}" for i in rng.integers(80, size=9)} for _ in range(60)]
    owned += [{"a licence that everybody has", *lines} for lines in owned[:40]]
    holders = {s: sum(s in lines for lines in owned) for lines in owned for s in lines}
    expected = {
        (i, j)
        for (i, a), (j, b) in combinations(enumerate(owned), 2)
        if sum(holders[s] <= COMMON_LINE for s in a & b) > 0.5 * min(len(a), len(b))
    }
    assert 40 <= len(expected) < 1000
    hashes, owners = hash_lines("\n".join(lines) for lines in owned)

    def part(low: int, high: int):
        here = (hashes >= low) & (hashes < high)
        return hashes[here], owners[here]

    pairs = similar(part, np.bincount(owners, minlength=len(owned)))
    assert {tuple(p) for p in pairs.tolist()} == expected


def test_groups_are_named_by_their_first():
    assert groups(np.asarray([[1, 4], [2, 4]]), 6).tolist() == [0, 1, 1, 3, 1, 5]
