"""The test part: an exact share of bytes, apart from the training text, the same every time."""

import json
import re
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from scaling.config import CellConfig, DataConfig, with_former_split
from scaling.corpus import describe_corpus
from scaling.data import documents
from scaling.data.blocks import GAP
from scaling.data.division import DividedCorpus, Sources, divide_corpus
from scaling.data.tokens import open_corpus
from scaling.train.heldout import make_test_set

from .test_blocks import prose


def look(folder, *paths, needed: int = 0, **options) -> DividedCorpus:
    config = DataConfig(source="files", train=list(map(str, paths)), **options)
    sources = Sources.of(config, folder)
    return divide_corpus(config, sources, folder / ".look", workers=1, test_bytes=needed)


def sides(found: DividedCorpus) -> tuple[list[str], list[str]]:
    return found.read(found.train), found.read(found.test)


def grams(texts: list[str]) -> set[tuple[str, ...]]:
    """Return the 13-grams of words."""
    found = set()
    for text in texts:
        words = text.split()
        found |= {tuple(words[i : i + 13]) for i in range(len(words) - 12)}
    return found


def corpus_of(kind: str, folder) -> str:
    """Write a corpus of about a megabyte; return its path."""
    if kind == "one":
        (folder / "one.txt").write_text(prose(2500))
        return str(folder / "one.txt")
    if kind == "rows":
        rows = [json.dumps({"text": prose(1 + i % 9, seed=i)}) for i in range(600)]
        (folder / "rows.jsonl").write_text("\n".join(rows))
        return str(folder / "rows.jsonl")
    for i in range(5):
        (folder / f"{i}.txt").write_text(prose(200 + 150 * i, seed=i))
    return str(folder)


@pytest.mark.parametrize("kind", ["one", "books", "rows"])
def test_the_test_part_is_an_exact_share_in_many_blocks_and_none_of_it_is_in_training(
    kind, tmp_path
):
    found = look(tmp_path, corpus_of(kind, tmp_path))
    train, test = sides(found)
    total = int(found.documents.n_bytes.sum())
    n_test = sum(len(t.encode()) for t in test)
    assert n_test / total == pytest.approx(0.08, abs=0.004)
    assert sum(len(t.encode()) for t in train) + n_test + found.split.gap_bytes == total
    assert found.split.test_blocks == len(test) >= 12
    assert not grams(train) & grams(test)
    assert found.split.gap_bytes < 0.03 * total


def test_a_gap_lies_between_test_and_training_text(tmp_path):
    found = look(tmp_path, corpus_of("one", tmp_path))
    segments, tested = found.split.segments, set(found.test.tolist())
    starts, stops = segments.start.tolist(), segments.stop.tolist()
    length = int(found.documents.n_chars[0])
    for i in range(len(starts)):
        if i in tested:
            before, after = (stops[i - 1] if i else 0), [*starts, length][i + 1]
            assert starts[i] == 0 or starts[i] - before >= GAP
            assert stops[i] == length or after - stops[i] >= GAP
    text = (tmp_path / "one.txt").read_text()
    assert all(text[:s].endswith("\n\n") for s in [*starts, *stops] if 0 < s < length)


def test_pages_of_another_book_stay_on_its_side(tmp_path):
    """A third of each book stands in another one, at another place."""
    whole = [prose(120, seed=i) for i in range(8)]
    for i, text in enumerate(whole):
        other = whole[(i + 1) % 8].split("\n\n")[40:80]
        (tmp_path / f"{i}.txt").write_text(text + "\n\n" + "\n\n".join(other))
    found = look(tmp_path, tmp_path, test_share=0.2)
    train, test = sides(found)
    shared = grams(train) & grams(test)
    assert found.split.twins > 10
    assert len(shared) < 0.02 * len(grams(test))
    assert found.split.test_blocks < len(test)


def test_the_split_depends_on_the_text_alone(tmp_path, monkeypatch):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    texts = [prose(60, seed=i) for i in range(12)]
    for i, text in enumerate(texts):
        (tmp_path / "a" / f"{i}.txt").write_text(text)
        (tmp_path / "b" / f"{11 - i}.txt").write_text(text)
    first, renamed = (sorted(sides(look(tmp_path, tmp_path / n))[1]) for n in ("a", "b"))
    assert first == renamed
    one, again = (look(tmp_path, tmp_path / "a").sha256 for _ in range(2))
    assert one == again


def test_a_large_file_that_is_read_in_pieces_has_gaps_at_their_ends(tmp_path, monkeypatch):
    path = corpus_of("one", tmp_path)
    monkeypatch.setattr(documents, "PIECE", 1000)
    monkeypatch.setattr(documents, "TEXT", 20_000)
    found = look(tmp_path, path)
    train, test = sides(found)
    assert len(found.documents.names) > 40
    assert not grams(train) & grams(test)
    text = (tmp_path / "one.txt").read_text()
    places = sorted((text.index(t), t in test, len(t)) for t in [*train, *test])
    for (at, one, n), (then, other, _) in pairwise(places):
        assert one == other or then - at - n >= GAP / 2


def test_what_the_test_tokens_need_raises_the_share(tmp_path):
    found = look(tmp_path, corpus_of("one", tmp_path), needed=150_000)
    n_test = sum(len(t.encode()) for t in sides(found)[1])
    assert n_test == pytest.approx(150_000, rel=0.03)


def test_the_blocks_of_long_files_are_not_called_documents(make_cell, tmp_path):
    (tmp_path / "long.txt").write_text("\n\n".join(prose(20, seed=i) for i in range(60)))
    cell = make_cell()
    cell.data = replace(cell.data, train=[str(tmp_path / "long.txt")], test_share=0.3, context=8)
    said = describe_corpus(open_corpus(cell))
    assert re.search(r"train +\d+ blocks of 1 document ", said)
    assert re.search(r"test +\d+ blocks of 1 document ", said)
    assert "a document is a file of text" in said


def test_few_blocks_are_an_alarm_and_their_number_is_in_the_test_set(make_cell, tmp_path, caplog):
    (tmp_path / "few.jsonl").write_text(
        "\n".join(json.dumps({"text": prose(20, seed=i)}) for i in range(6))
    )
    cell = make_cell()
    cell.data = replace(cell.data, train=[str(tmp_path / "few.jsonl")], test_share=0.3, context=8)
    with caplog.at_level("WARNING"):
        corpus = open_corpus(cell)
    assert re.search(r"has \d independent blocks? of text, fewer than 10", caplog.text)
    assert "alarm few_test_blocks" in describe_corpus(corpus)
    assert re.search(r"test +\d documents ", describe_corpus(corpus))  # a row each
    test = make_test_set(corpus, context=8, n_tokens=10**6)
    assert len(np.unique(test.documents)) == corpus.meta["test_blocks"] < 10


def test_cells_from_before_the_setting_keep_their_split_and_their_id():
    values = {"data": {"source": "files", "train": ["x"]}, "budget": {"n_tokens": 1e6}}
    old = CellConfig.from_dict(values)
    assert old.data.split == "documents"
    assert "split" not in old.science()["data"]
    new = replace(old, data=replace(old.data, split="blocks"))
    assert new.science()["data"]["split"] == "blocks"
    assert new.run_id() != old.run_id()
    default = CellConfig()
    assert "split" not in default.science()["data"]
    assert with_former_split({"data": {"split": "blocks"}})["data"]["split"] == "blocks"


def test_a_test_part_that_is_the_training_part_is_named(make_cell, tmp_path):
    (tmp_path / "a.txt").write_text(prose(20))
    files = [str(tmp_path / "a.txt")]
    cell = make_cell()
    cell.data = replace(cell.data, train=files, test=files)
    with pytest.raises(ValueError, match=r"every training document is in data\.test too \(1 of"):
        open_corpus(cell)
