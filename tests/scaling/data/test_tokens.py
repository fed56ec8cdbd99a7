import gzip
import json
import lzma
import math
import re
from dataclasses import replace

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from scaling.config import DataConfig
from scaling.corpus import describe_corpus
from scaling.data import chunks, division, documents, tokens
from scaling.data.batches import BLOCK, Batches
from scaling.data.division import DividedCorpus, Sources
from scaling.data.documents import Document, pieces, read_piece
from scaling.data.tokenizer import END
from scaling.data.tokens import open_corpus
from scaling.train.heldout import clustered_error, make_test_set
from scaling.train.trunk import train_trunk


def look(config: DataConfig, folder) -> DividedCorpus:
    sources = Sources.of(config, folder)
    return division.divide_corpus(config, sources, folder / ".look", workers=1)


def texts(found: DividedCorpus) -> tuple[list[str], list[str]]:
    return found.read(found.train), found.read(found.test)


def test_near_duplicates_stay_on_one_side(corpus_folder, tmp_path):
    config = DataConfig(source="files", train=[str(corpus_folder)], test_share=0.5)
    found = look(config, tmp_path)
    train, test = texts(found)
    twins = {(corpus_folder / f"{n}.txt").read_text() for n in ("doc03", "twin")}
    assert any(twins <= set(side) for side in (train, test))
    assert len(train) + len(test) == 31
    assert found.split.twins >= 2
    again = look(config, tmp_path)
    assert (texts(again), again.sha256) == ((train, test), found.sha256)


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "jsonl.xz", "parquet", "txt"])
def test_every_kind_of_file_gives_its_documents(tmp_path, ending):
    bodies = [f"document number {i}" for i in range(20)]
    path = tmp_path / f"corpus.{ending}"
    if ending == "parquet":
        pyarrow.parquet.write_table(pyarrow.table({"body": bodies}), path)
    elif ending == "txt":
        for i, text in enumerate(bodies):
            (tmp_path / f"{i}.txt").write_text(text)
        path = tmp_path
    else:
        opener = {"gz": gzip.open, "xz": lzma.open}.get(ending.split(".")[-1], open)
        with opener(path, "wt", encoding="utf-8") as stream:
            stream.writelines(json.dumps({"body": t}) + "\n" for t in bodies)
    shape = {"source": "files", "train": [str(path)], "text_key": "body", "test_share": 0.3}
    train, test = texts(look(DataConfig(**shape), tmp_path))
    assert sorted(train + test) == sorted(bodies)


def test_a_wrong_text_column_is_answered_with_the_right_ones(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"id": 1, "body": "x"}\n')
    with pytest.raises(ValueError, match=r"set data\.text_key to one of id, body"):
        look(DataConfig(source="files", train=[str(tmp_path / "a.jsonl")]), tmp_path)


def test_missing_and_empty_corpora_are_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="matches no file"):
        look(DataConfig(source="files", train=[str(tmp_path / "none*.txt")]), tmp_path)
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "a.csv").write_text("a,b\n")
    with pytest.raises(FileNotFoundError, match=r"a folder without a readable file; .* \.txt"):
        look(DataConfig(source="files", train=[str(tmp_path / "tables")]), tmp_path)
    (tmp_path / "empty.txt").write_text("  \n")
    with pytest.raises(ValueError, match="no training documents"):
        look(DataConfig(source="files", train=[str(tmp_path)]), tmp_path)
    (tmp_path / "one.txt").write_text("one document\n")
    with pytest.raises(
        ValueError, match=r"no (test|training) documents, 1 in all; .*'data\.test=\[FILE\]'"
    ):
        look(DataConfig(source="files", train=[str(tmp_path / "one.txt")]), tmp_path / "other")


def test_the_largest_corpus_is_cut_but_its_documents_are_not(tmp_path, monkeypatch):
    """`data.max_bytes` keeps a part that does not depend on the order of the files."""
    write_rows(tmp_path / "a.jsonl", 40)
    config = DataConfig(source="files", train=[str(tmp_path / "a.jsonl")], max_bytes=500)
    train, _ = texts(look(config, tmp_path))
    assert 0 < sum(len(t.encode()) for t in train) <= 500
    whole, _ = texts(look(replace(config, max_bytes=0), tmp_path))
    assert set(train) < set(whole)


def write_rows(path, n: int) -> list[str]:
    bodies = [f"row {i}\nof a table, {i * i} and 'é'\n" * (1 + i % 5) for i in range(n)]
    if path.suffix == ".parquet":
        table = pyarrow.table({"text": bodies})
        pyarrow.parquet.write_table(table, path, row_group_size=3)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps({"text": t}) + "\n" for t in bodies))
    else:
        path.write_text("".join(bodies))
    return bodies


@pytest.mark.parametrize("ending", ["jsonl", "parquet", "txt"])
def test_a_large_file_is_read_in_pieces_and_gives_the_same_documents(tmp_path, monkeypatch, ending):
    path = tmp_path / f"a.{ending}"
    said = write_rows(path, 50)
    (one,) = pieces(path, "a")
    whole = list(read_piece(one, text_key="text"))
    monkeypatch.setattr(documents, "PIECE", 300)
    monkeypatch.setattr(documents, "TEXT", 200)
    cut = list(pieces(path, "a"))
    assert len(cut) > 5
    found = [d for piece in cut for d in read_piece(piece, text_key="text")]
    if ending == "txt":
        assert "".join(d.text for d in found) == "".join(said)
        assert all(d.text.endswith("\n") and len(d.text) < 300 for d in found)
        assert len({d.name for d in found}) == len(found)
    else:
        assert found == whole == [Document(f"a:{i}", t) for i, t in enumerate(said)]


def test_a_row_of_half_a_character_is_read(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a \\ud83d b"}\n')
    (found,) = pieces(tmp_path / "a.jsonl", "a")
    assert [d.text for d in read_piece(found, text_key="text")] == ["a ? b"]


def a_mixture(folder) -> DataConfig:
    for part in "ab":
        lines = [json.dumps({"text": f"{part} {n} of the rows, " * (n % 7 + 2)}) for n in range(60)]
        (folder / f"{part}.jsonl").write_text("\n".join(lines))
    train = [str(folder / f"{part}.jsonl") for part in "ab"]
    return DataConfig(source="files", train=train, weights=[1, 1], test_share=0.2, context=16)


def files_of(corpus) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(corpus.folder.iterdir())}


@pytest.mark.slow
def test_processes_make_the_same_corpus(make_cell, tmp_path, monkeypatch):
    cell = make_cell()
    cell.data = a_mixture(tmp_path)
    cell.machine = replace(cell.machine, cache=str(tmp_path / "one"))
    alone = open_corpus(cell)
    for module in (documents, chunks):
        monkeypatch.setattr(module, "PIECE" if module is documents else "CHUNK", 900)
    monkeypatch.setattr(chunks, "POOLED", 0)
    cell.machine = replace(cell.machine, cache=str(tmp_path / "two"), workers=2)
    assert files_of(open_corpus(cell)) == files_of(alone)


@pytest.mark.slow
def test_a_build_that_was_cut_off_goes_on(make_cell, tmp_path, monkeypatch):
    cell = make_cell()
    cell.data = a_mixture(tmp_path)
    cell.machine = replace(cell.machine, cache=str(tmp_path / "one"))
    whole = open_corpus(cell)
    cell.machine = replace(cell.machine, cache=str(tmp_path / "two"))
    monkeypatch.setattr(documents, "PIECE", 900)
    monkeypatch.setattr(chunks, "CHUNK", 900)
    seen: list[str] = []
    for module, name in ((division, "scan"), (tokens, "encode")):
        step = getattr(module, name)

        def full(chunk, given, step=step, name=name):
            if seen.count(name) == 3:
                seen.append("full")
                raise OSError("the disk is full")
            seen.append(name)
            return step(chunk, given)

        monkeypatch.setattr(module, name, full)
        with pytest.raises(OSError, match="is full"):
            open_corpus(cell)
        monkeypatch.setattr(module, name, step)
    read: list[int] = []

    def counted(piece, **options):
        read.append(piece.start)
        return read_piece(piece, **options)

    monkeypatch.setattr(division, "read_piece", counted)
    found = open_corpus(cell)
    assert files_of(found) == files_of(whole)
    sources = division.Sources.of(cell.data, tmp_path)
    n = len(list(sources.pieces()))
    # The text was hashed before; to tokenise, all chunks are read twice but the three that were.
    assert seen == ["scan"] * 3 + ["full"] + ["encode"] * 3 + ["full"]
    assert n < len(read) < 3 * n
    assert [p.name for p in (tmp_path / "two").iterdir() if p.name.startswith(".")] == []


def test_test_documents_with_a_twin_in_training_are_told(make_cell, tmp_path, caplog):
    lines = [f"line {i} of a text that is long enough\n" for i in range(40)]
    (tmp_path / "train.txt").write_text("".join(lines))
    (tmp_path / "other.txt").write_text("".join(f"another {x}" for x in lines))
    (tmp_path / "test").mkdir()
    (tmp_path / "test/copy.txt").write_text("".join(lines))
    (tmp_path / "test/twin.txt").write_text("".join(f"another {x}" for x in lines[:30]))
    (tmp_path / "test/own.txt").write_text("".join(f"new {x}" for x in lines))
    cell = make_cell()
    train = [str(tmp_path / "train.txt"), str(tmp_path / "other.txt")]
    cell.data = DataConfig(source="files", train=train, test=[str(tmp_path / "test")], context=8)
    with caplog.at_level("WARNING"):
        corpus = open_corpus(cell)
    assert (corpus.meta["dropped"], corpus.meta["twins"]) == (1, 1)
    assert "1 of 3 test documents share most of their lines" in caplog.text
    assert len(list(corpus.train_texts())) == 1


def test_the_corpus_command_says_what_there_is(make_cell, tmp_path):
    cell = make_cell()
    cell.data = a_mixture(tmp_path)
    said = describe_corpus(open_corpus(cell))
    assert re.search(r"train +\d+ documents .* bytes per token", said)
    assert "parts of the mixture: " in said
    assert "near-duplicates: " in said


def test_tokens_on_disk_decode_to_the_text(make_cell):
    corpus = open_corpus(make_cell())
    ends = np.flatnonzero(corpus.train == END)
    first = corpus.tokenizer.decode(corpus.train[: ends[0]].tolist())
    assert first == next(corpus.train_texts())
    assert corpus.bytes_per_token == pytest.approx(
        sum(len(t.encode()) for t in corpus.test_texts()) / len(corpus.test)
    )
    assert corpus.train.dtype == np.uint16


def test_a_given_hash_refuses_other_text(make_cell):
    cell = make_cell()
    cell.data.sha256 = "0" * 64
    with pytest.raises(ValueError, match="restore the text"):
        open_corpus(cell)


def test_batches_are_a_function_of_the_step_and_cover_each_epoch_once():
    tokens = np.arange(101, dtype=np.uint16)
    batches = Batches(tokens=tokens, context=10, rows=5, seed=3)
    seen = np.concatenate([batches(s)[0][:, 0] for s in range(2)])
    assert sorted(seen) == list(range(0, 100, 10))
    again = np.concatenate([batches(s)[0][:, 0] for s in range(2, 4)])
    assert sorted(again) == sorted(seen)
    assert list(again) != list(seen)
    for first, second in zip(batches(1), batches(1), strict=True):
        assert (first == second).all()
    x, y = batches(0)
    assert (y == x + 1).all()


def test_a_corpus_below_one_window_is_refused():
    with pytest.raises(ValueError, match="fewer than one window"):
        Batches(tokens=np.arange(8), context=8, rows=1, seed=0)


def test_the_test_set_is_the_same_for_every_cell(make_cell):
    sets = [make_test_set(open_corpus(make_cell(seed=s)), context=32, n_tokens=512) for s in (0, 1)]
    assert (sets[0].inputs == sets[1].inputs).all()
    assert sets[0].inputs.shape == (16, 32)


def test_the_clustered_error_is_the_plain_one_for_single_windows_and_larger_in_clusters():
    values = np.random.default_rng(0).normal(size=400)
    plain = values.std(ddof=1) / 20
    assert clustered_error(values, np.arange(400)) == pytest.approx(plain, rel=1e-9)
    repeated = np.repeat(values[:100], 4)
    assert clustered_error(repeated, np.repeat(np.arange(100), 4)) == pytest.approx(
        values[:100].std(ddof=1) / 10, rel=1e-9
    )


def mixed(**kwargs) -> Batches:
    """Two parts, tokens 0..999 and 1000..1399, three quarters of the windows from the first."""
    tokens = np.arange(1400, dtype=np.uint16)
    shares = {"part_tokens": (1000, 400), "weights": (3.0, 1.0)}
    return Batches(tokens=tokens, context=10, rows=8, seed=1, **shares, **kwargs)


def firsts(batches: Batches, n_steps: int) -> np.ndarray:
    return np.concatenate([batches(step)[0][:, 0] for step in range(n_steps)]).astype(int)


def test_a_mixture_draws_its_shares_and_each_part_has_epochs_of_its_own():
    seen = firsts(mixed(), BLOCK // 8)
    small, large = seen[seen >= 1000], seen[seen < 1000]
    assert len(small) == BLOCK // 4
    for part, windows in ((small, 39), (large, 99)):
        epochs = [part[i : i + windows] for i in range(0, len(part) - windows, windows)]
        assert all(len(set(e)) == windows for e in epochs)
        assert len(epochs) >= 3
    x, y = mixed()(5)
    assert (y == x + 1).all()  # no window spans two parts
    half = firsts(mixed(), BLOCK // 16)
    assert (half == seen[: len(half)]).all()  # and a resumed run sees what an unbroken one does


def test_unique_tokens_and_epochs_are_counted_exactly():
    batches = mixed()
    for steps in (1, 5, 7, 31, 90):
        seen, n_tokens = firsts(batches, steps), steps * 8 * 10
        assert batches.unique(n_tokens) == 10 * len(set(seen))
        small = (seen >= 1000).sum()
        assert batches.epochs(n_tokens) == max(small / 39, (len(seen) - small) / 99)


def test_unique_tokens_are_the_same_for_every_seed_and_nested():
    def seen(unique: int, seed: int) -> set[int]:
        tokens = np.arange(1001, dtype=np.uint16)
        return set(
            firsts(Batches(tokens=tokens, context=10, rows=5, seed=seed, unique_tokens=unique), 20)
        )

    assert len(seen(200, 0)) == 20
    assert seen(200, 0) == seen(200, 1) < seen(400, 0)
    assert len(set(firsts(mixed(unique_tokens=400), 200))) == 40
    with pytest.raises(ValueError, match=r"and the 1320 tokens there are"):
        mixed(unique_tokens=1400)


def test_the_parts_of_a_mixture_lie_one_after_the_other(make_cell, tmp_path):
    for part in "ab":
        lines = [json.dumps({"text": f"{part} {n} " * 40}) for n in range(60)]
        (tmp_path / f"{part}.jsonl").write_text("\n".join(lines))
    train = [str(tmp_path / f"{part}.jsonl") for part in "ba"]
    shape = {"source": "files", "train": train, "test_share": 0.2, "context": 16}
    cell = make_cell()
    cell.data = DataConfig(weights=[1, 3], **shape)
    corpus = open_corpus(cell)
    first, second = corpus.meta["part_tokens"]
    assert first + second == len(corpus.train)
    decoded = corpus.tokenizer.decode(corpus.train[first : first + 20].tolist())
    assert decoded.startswith("a ")
    batches = Batches.of(corpus, cell.data, rows=8, seed=0)
    assert batches.weights == (1, 3)
    cell.data = DataConfig(**shape)
    assert Batches.of(open_corpus(cell), cell.data, rows=8, seed=0).part_tokens == ()
    with pytest.raises(ValueError, match="each of the 2 entries"):
        DataConfig(weights=[1], **shape)


NULLS = [None, "", " \n"]


def with_nulls(path) -> None:
    """Write rows of which three hold no text."""
    said = [f"text {i} of a table, {i * i}\n" * 20 for i in range(20)] + NULLS
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.table({"text": said}), path)
    else:
        rows = [{"text": t} for t in said[:-3]] + [{"other": 1}, {"text": math.nan}, {"text": ""}]
        path.write_text("".join(json.dumps(r) + "\n" for r in rows))


@pytest.mark.parametrize(
    ("ending", "counts"),
    [("jsonl", {"null": 2, "empty": 1}), ("parquet", {"null": 1, "empty": 2})],
)
def test_rows_without_text_are_left_out_counted_and_said(
    make_cell, tmp_path, caplog, ending, counts
):
    with_nulls(tmp_path / f"a.{ending}")
    cell = make_cell()
    cell.data = DataConfig(
        source="files", train=[str(tmp_path / f"a.{ending}")], test_share=0.3, context=8
    )
    cell.machine.cache = str(tmp_path / "cache")
    with caplog.at_level("INFO"):
        corpus = open_corpus(cell)
    assert corpus.meta["train_documents"] + corpus.meta["test_documents"] == 20
    assert "corpus: rows left out: " in caplog.text
    assert "rows left out: " in describe_corpus(corpus)
    assert open_corpus(cell).meta["left_out"] == counts  # of the cache too
    assert train_trunk([cell])[0].left_out == counts


@pytest.mark.parametrize(
    ("ending", "values", "said"),
    [
        ("jsonl", ["a", 5], "line 2: text is the number 5, not text"),
        ("jsonl", [None, ["a", "b"]], "line 2: text is a list, not text"),
        ("jsonl", ["a", {"a": 1}], "line 2: text is an object, not text"),
        ("parquet", [math.nan, 2.5], "row 2: text is the number 2.5, not text"),
        ("parquet", [None, ["a"]], "row 2: text is a list, not text"),
        ("parquet", [b"a"], "row 1: text is b'a', not text"),
    ],
)
def test_a_row_whose_text_is_none_is_named(tmp_path, ending, values, said):
    path = tmp_path / f"a.{ending}"
    if ending == "parquet":
        pyarrow.parquet.write_table(pyarrow.table({"text": values}), path)
    else:
        path.write_text("".join(json.dumps({"text": v}) + "\n" for v in values))
    (piece,) = pieces(path, "a")
    with pytest.raises(ValueError, match=rf"a\.{ending}: {re.escape(said)}"):
        list(read_piece(piece, text_key="text"))


def test_a_table_of_nulls_says_that_it_holds_no_text(make_cell, tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": null}\n' * 3)
    cell = make_cell()
    cell.data = DataConfig(source="files", train=[str(tmp_path / "a.jsonl")], context=8)
    with pytest.raises(
        ValueError, match=r"no training documents.*left out are rows 3 without text"
    ):
        open_corpus(cell)
    (tmp_path / "a.jsonl").write_text('{"other": "a"}\n' * 3)
    with pytest.raises(
        ValueError, match=r"no text column 'text'; set data.text_key to one of other"
    ):
        open_corpus(cell)
