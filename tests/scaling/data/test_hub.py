"""Hub data sets, as a local folder that `datasets` loads."""

import json

import pyarrow
import pyarrow.parquet
import pytest

from scaling.config import DataConfig
from scaling.data import hub
from scaling.data.hub import fetch
from scaling.data.tokens import open_corpus

pytest.importorskip("datasets", reason="needs datasets; install scaling-laws[hub]")
pytestmark = pytest.mark.filterwarnings("ignore")  # those of datasets and its imports
ROWS = [f"row {i} of a set, " * 20 for i in range(200)]


@pytest.fixture
def folder(tmp_path) -> str:
    """A data set with a training and a test split."""
    path = tmp_path / "set"
    path.mkdir()
    for split, rows in (("train", ROWS), ("test", ROWS[:7])):
        table = pyarrow.table({"body": [f"{split} {r}" for r in rows]})
        pyarrow.parquet.write_table(table, path / f"{split}-00000.parquet", row_group_size=20)
    return str(path)


def config(folder: str, **kwargs) -> DataConfig:
    return DataConfig(source="hub", train=[folder], text_key="body", context=16, **kwargs)


def read(paths) -> list[str]:
    return [json.loads(line)["text"] for p in paths for line in p.read_text().splitlines()]


def test_a_set_is_trained_on(folder, make_cell):
    cell = make_cell()
    cell.data = config(folder, test=[folder])
    corpus = open_corpus(cell)
    assert corpus.meta["train_documents"] == 200
    assert corpus.meta["test_documents"] == 7
    assert next(corpus.train_texts()) == f"train {ROWS[0]}"


def test_a_stream_stops_at_its_bytes_and_names_its_split(folder, tmp_path):
    few = read(fetch(config(folder), folder, "train", tmp_path, max_bytes=2000))
    assert 2000 <= sum(map(len, few)) < 2400
    assert few == [f"train {r}" for r in ROWS[: len(few)]]
    other = read(fetch(config(folder), f"{folder}:default:test", "train", tmp_path, max_bytes=0))
    assert other == [f"test {r}" for r in ROWS[:7]]


def test_a_stream_that_broke_off_goes_on(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "SHARD", 5000)
    rows, asked = hub._rows, []

    def broken(given, *, skip):
        asked.append(skip)
        for number, text in enumerate(rows(given, skip=skip)):
            if len(asked) == 1 and number == 100:
                raise OSError("no route to the hub")
            yield text

    monkeypatch.setattr(hub, "_rows", broken)
    with pytest.raises(OSError, match="no route"):
        fetch(config(folder), folder, "train", tmp_path, max_bytes=0)
    assert read(fetch(config(folder), folder, "train", tmp_path, max_bytes=0)) == [
        f"train {r}" for r in ROWS
    ]
    assert asked[0] == 0
    assert 0 < asked[1] <= 100
    fetch(config(folder), folder, "train", tmp_path, max_bytes=0)
    assert len(asked) == 2


@pytest.mark.parametrize(
    ("name", "key", "sentence"),
    [
        ("{}", "text", "set data.text_key to one of body"),
        ("{}:default:dev", "body", "hub set .*Available splits"),
        ("{}-none", "body", "cannot be read .*take data=files"),
    ],
)
def test_what_is_not_there_is_said(folder, tmp_path, name, key, sentence):
    asked = DataConfig(source="hub", train=["x"], text_key=key)
    with pytest.raises((ValueError, OSError), match=sentence):
        fetch(asked, name.format(folder), "train", tmp_path, max_bytes=0)


def test_rows_without_text_are_counted_and_others_refused(tmp_path, make_cell):
    path = tmp_path / "nulls"
    path.mkdir()
    table = pyarrow.table({"body": [*ROWS[:30], None, ""]})
    pyarrow.parquet.write_table(table, path / "train-00000.parquet")
    cell = make_cell()
    cell.data = config(str(path), test_share=0.3)
    assert open_corpus(cell).meta["left_out"] == {"null": 1, "empty": 1}
    table = pyarrow.table({"body": [["a"], ["b"]]})
    pyarrow.parquet.write_table(table, path / "train-00000.parquet")
    with pytest.raises(ValueError, match=r"hub set .*nulls: row 1: body is a list, not text"):
        fetch(cell.data, str(path), "train", tmp_path / "other", max_bytes=0)
