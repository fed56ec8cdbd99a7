"""Atoms tile a document, and a quota is filled to the byte where sizes allow."""

import numpy as np
import pytest

from scaling.data.blocks import ATOM, GAP, MOST_SHARE, cut_atoms, fill, quota_bytes


def prose(n: int, seed: int = 0) -> str:
    """Return n paragraphs of words that are seldom repeated."""
    rng = np.random.default_rng(seed)
    words = [f"w{i}" for i in rng.integers(1_000_000, size=60 * n)]
    return "\n\n".join(" ".join(words[60 * i : 60 * i + 60]) for i in range(n))


@pytest.mark.parametrize("mark", ["\n\n", "\n", " ", "é"])
def test_atoms_tile_a_text_and_end_where_a_paragraph_a_line_or_a_word_does(mark):
    text = prose(100).replace("\n\n", mark) if mark != "é" else "é" * 5 * ATOM
    atoms = np.array(cut_atoms(text))
    assert (atoms[0, 0], atoms[-1, 1]) == (0, len(text))
    assert (atoms[1:, 0] == atoms[:-1, 1]).all()
    assert len(atoms) >= 5
    for start, stop, n_bytes, head, head_bytes, tail, tail_bytes in atoms.tolist():
        assert n_bytes == len(text[start:stop].encode())
        assert head_bytes == len(text[start : start + head].encode())
        assert tail_bytes == len(text[stop - tail : stop].encode())
        assert head >= GAP <= tail
        if mark != "é":
            ends = [start, start + head, stop - tail]
            assert all(text[:end].endswith(mark) for end in ends if end)


def test_a_page_is_one_atom_without_gaps_unless_it_is_a_piece_of_a_file():
    text = prose(3)
    assert cut_atoms(text) == [(0, len(text), len(text), 0, 0, 0, 0)]
    ((*_, head, _, tail, _),) = cut_atoms(text, sliced=True)
    assert 0 < head + tail < len(text)


def test_a_quota_is_a_share_or_what_the_test_tokens_need():
    assert quota_bytes(1000, share=0.08, needed=0) == 80
    assert quota_bytes(1000, share=0.08, needed=100) == 100
    assert quota_bytes(1000, share=0.08, needed=900) == 1000 * MOST_SHARE
    assert quota_bytes(1000, share=0.5, needed=900) == 500


def test_what_fits_is_chosen_in_order():
    assert fill([40, 50, 30, 20, 10], 100).tolist() == [True, True, False, False, True]
    assert fill([500, 300], 100).tolist() == [False, True]  # a test part of some kind
    assert fill([500], 100).tolist() == [False]
    assert fill([], 100).tolist() == []
