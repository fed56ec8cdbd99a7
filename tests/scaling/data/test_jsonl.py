"""Files of text and JSON lines that are not what they should be."""

import gzip
import json
import lzma

import pyarrow
import pyarrow.parquet
import pytest

from scaling.config import DataConfig
from scaling.data.division import Sources, divide_corpus
from scaling.data.jsonl import read_rows, read_text

ROWS = [{"text": f"row {i} of a table that is long enough to be packed"} for i in range(60)]


def documents(config: DataConfig, folder) -> None:
    divide_corpus(config, Sources.of(config, folder), folder / ".look", workers=1)


LINES = "".join(json.dumps(row) + "\n" for row in ROWS)


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "jsonl.xz"])
def test_rows_come_with_their_line(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    data = ("\n" + LINES).encode()
    pack = {"jsonl": bytes, "jsonl.gz": gzip.compress, "jsonl.xz": lzma.compress}[ending]
    path.write_bytes(pack(data))
    assert list(read_rows(path)) == list(enumerate(ROWS, start=2))
    if ending != "jsonl":
        path.write_bytes(pack(data)[:-30])  # a download that broke off
        with pytest.raises(ValueError, match=rf"a\.{ending} is damaged \(.*pack it again"):
            list(read_rows(path))
        path.write_bytes(data)
        with pytest.raises(ValueError, match=rf"a\.{ending} is damaged"):
            list(read_rows(path))


@pytest.mark.parametrize(
    ("line", "sentence"),
    [("{", "line 61 is not JSON"), ("[1]", "line 61 is not an object"), ("\udcff", "is not UTF-8")],
)
def test_a_line_that_is_no_row_is_named(tmp_path, line, sentence):
    path = tmp_path / "a.jsonl"
    path.write_bytes((LINES + line + "\n").encode(errors="surrogateescape"))
    for read in (
        lambda: list(read_rows(path)),
        lambda: documents(DataConfig(source="files", train=[str(path)]), tmp_path),
    ):
        with pytest.raises(ValueError, match=rf"a\.jsonl:? {sentence}"):
            read()


def test_text_is_read_whatever_its_bytes(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"caf\xe9\r\n")
    assert read_text(tmp_path / "a.txt") == "caf\ufffd\r\n"


def test_a_damaged_parquet_file_is_named(tmp_path):
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": [r["text"] for r in ROWS]}), path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"a\.parquet is damaged"):
        documents(DataConfig(source="files", train=[str(path)]), tmp_path)


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "jsonl.xz"])
def test_a_byte_order_mark_is_no_part_of_the_first_row(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    pack = {"jsonl": bytes, "jsonl.gz": gzip.compress, "jsonl.xz": lzma.compress}[ending]
    path.write_bytes(pack(("\ufeff" + LINES).encode()))
    assert list(read_rows(path)) == list(enumerate(ROWS, start=1))
    if ending == "jsonl":
        assert next(read_rows(path, stop=100)) == (1, ROWS[0])


@pytest.mark.parametrize("line", ["[" * 100_000, '{"a": ' + "1" * 5000 + "}"])
def test_json_that_python_does_not_take_is_named(tmp_path, line):
    (tmp_path / "a.jsonl").write_text(f"{LINES}{line}\n")
    with pytest.raises(ValueError, match=r"a\.jsonl: line 61 is not JSON"):
        list(read_rows(tmp_path / "a.jsonl"))
