"""Cells of a study as a swarm."""

import pytest

from analysis.mixing.study import read_swarm, source_names


def test_sources_are_named_by_their_files_and_globs_by_their_folder():
    entries = ["corpora/code.jsonl", "data/books/train-*.jsonl.xz", "web"]
    assert source_names(entries) == ["code", "books", "web"]
    assert source_names(["a/x.jsonl", "b/x.jsonl"]) == ["a/x.jsonl", "b/x.jsonl"]


def test_a_folder_without_records_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"holds no record\.json"):
        read_swarm(tmp_path)
