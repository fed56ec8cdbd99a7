"""Files of text and JSON lines that are not what they should be."""

import gzip
import json
import lzma

import pyarrow
import pyarrow.parquet
import pytest
from tokenizers import Tokenizer
from tokenizers.models import BPE

from scaling.config import DataConfig
from scaling.data.division import Sources, divide_corpus
from scaling.data.documents import read_documents
from scaling.data.jsonl import read_rows, read_text
from scaling.data.row_text import LeftOut
from scaling.train.rolling import read_text_set

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


WORDS = "caf\u00e9 and words " * 100


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (WORDS.encode("latin-1"), "100 bytes that are not UTF-8 and 0 NULs .* at byte 3;"),
        (WORDS.encode("utf-16"), "at byte 0; convert it .iconv"),
        (b"a" * 999 + b"\0" * 2, "2 NULs among 1,001 characters, the first at byte 999"),
        (bytes(range(256)) * 9, "1,152 bytes that are not UTF-8 and 9 NULs"),
    ],
)
@pytest.mark.parametrize("ending", ["txt", "txt.gz"])
def test_a_file_that_is_no_text_is_refused_with_its_place(tmp_path, data, sentence, ending):
    path = tmp_path / f"a.{ending}"
    path.write_bytes(gzip.compress(data) if ending == "txt.gz" else data)
    with pytest.raises(ValueError, match=rf"a\.{ending} is no UTF-8 text.*{sentence}"):
        documents(DataConfig(source="files", train=[str(path)]), tmp_path)
    with pytest.raises(ValueError, match=rf"test set web: .*a\.{ending} is no UTF-8 text"):
        read_text_set("web", [str(path)], Tokenizer(BPE()), context=8, text_key="text")


def test_single_bytes_that_are_no_text_are_replaced_and_logged(tmp_path, caplog):
    (tmp_path / "a.txt").write_bytes(b"caf\xe9\r\n\xef\xbf\xbd" + b"words " * 400 + b"\0")
    text = read_text(tmp_path / "a.txt")
    assert text == "caf\ufffd\r\n\ufffd" + "words " * 400 + "\0"
    assert [d.text for d in read_documents([tmp_path / "a.txt"], text_key="")] == [text]
    assert not caplog.text
    list(read_documents([tmp_path / "a.txt"], text_key="", left_out=LeftOut()))
    assert "a.txt: 1 bytes are not UTF-8 and are read as U+FFFD; 1 NULs are kept" in caplog.text


def test_a_text_without_line_ends_is_cut_between_characters(tmp_path, monkeypatch):
    monkeypatch.setattr("scaling.data.documents.PIECE", 100)
    monkeypatch.setattr("scaling.data.documents.TEXT", 100)
    (tmp_path / "a.txt").write_text("a" + "\u4e2d" * 500, encoding="utf-8")
    texts = [d.text for d in read_documents([tmp_path / "a.txt"], text_key="")]
    assert len(texts) > 5
    assert "".join(texts) == "a" + "\u4e2d" * 500


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
