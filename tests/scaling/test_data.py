import gzip
import json
import lzma

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from scaling.batches import BLOCK, Batches
from scaling.config import DataConfig
from scaling.data import open_corpus
from scaling.documents import documents, near_duplicates
from scaling.heldout import clustered_error, make_test_set
from scaling.tokenizer import END


def test_near_duplicates_stay_on_one_side(corpus_folder):
    config = DataConfig(source="files", train=[str(corpus_folder)], test_share=0.5)
    train, test = documents(config)
    sides = [{d.name for d in part} for part in (train, test)]
    assert any({"doc03.txt", "twin.txt"} <= side for side in sides)
    assert len(train) + len(test) == 31
    assert documents(config) == (train, test)


def test_texts_that_share_most_lines_are_one_group():
    a = "\n".join(f"a line of its own, number {i}" for i in range(10))
    assert near_duplicates([a, a.replace("number 3", "number three"), "something else\n" * 9]) == [
        0,
        0,
        2,
    ]


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "jsonl.xz", "parquet", "txt"])
def test_every_kind_of_file_gives_its_documents(tmp_path, ending):
    texts = [f"document number {i}" for i in range(20)]
    path = tmp_path / f"corpus.{ending}"
    if ending == "parquet":
        pyarrow.parquet.write_table(pyarrow.table({"body": texts}), path)
    elif ending == "txt":
        for i, text in enumerate(texts):
            (tmp_path / f"{i}.txt").write_text(text)
        path = tmp_path
    else:
        opener = {"gz": gzip.open, "xz": lzma.open}.get(ending.split(".")[-1], open)
        with opener(path, "wt", encoding="utf-8") as stream:
            stream.writelines(json.dumps({"body": t}) + "\n" for t in texts)
    train, test = documents(
        DataConfig(source="files", train=[str(path)], text_key="body", test_share=0.3)
    )
    assert sorted(d.text for d in train + test) == sorted(texts)


def test_a_wrong_text_column_is_answered_with_the_right_ones(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"id": 1, "body": "x"}\n')
    with pytest.raises(ValueError, match=r"set data\.text_key to one of id, body"):
        documents(DataConfig(source="files", train=[str(tmp_path / "a.jsonl")]))


def test_missing_and_empty_corpora_are_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="matches no file"):
        documents(DataConfig(source="files", train=[str(tmp_path / "none*.txt")]))
    (tmp_path / "empty.txt").write_text("  \n")
    with pytest.raises(ValueError, match="no training documents"):
        documents(DataConfig(source="files", train=[str(tmp_path)]))


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
