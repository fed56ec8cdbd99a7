"""Pickles are read as plain data: values come out, and nothing that a file names is run."""

import os
import pickle
import pickletools
from pathlib import Path

import pytest

from analysis.downloads.pickle_values import Call, Name, plain_values

VALUES = {"a": [1, 2.5, -300, 2**40], "b": ("x", b"y", None, True, ()), "c": {"d": [[], {}]}}


class Attack:
    """Runs a command where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_data_comes_out_as_it_went_in(protocol):
    values = VALUES if protocol > 2 else {**VALUES, "b": ("x", None)}  # 2 has no opcode of bytes
    assert plain_values(pickle.dumps(values, protocol)) == values


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_what_a_pickle_would_run_is_written_down_and_not_run(tmp_path, protocol):
    path = tmp_path / "ran"
    call = plain_values(pickle.dumps(Attack(path), protocol))
    assert isinstance(call, Call)
    assert call.of == Name("posix", "system")
    assert call.args == (f"touch {path}",)
    assert not path.exists()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "no pickle|pickle exhausted"),
        (b"\x80\x04]\x94.", None),  # an empty list
        (b"(i__main__\nAttack\n.", "uses INST"),
        (b"\x80\x04Pname\n.", "uses PERSID"),
        (b"\x80\x04h\x07.", "no pickle of plain data"),
        (b"\x80\x04K\x01K\x02.", "values to unpack"),
        (b"\x80\x04\x86.", "takes more values"),
        (b"\x80\x04K\x01K\x02a.", "needs list"),
        (b"\x80\x04u.", "no pickle of plain data"),
        (pickle.dumps({1, 2}, 4), "uses EMPTY_SET"),
    ],
)
def test_other_bytes_are_refused_in_one_sentence(data, words):
    if words is None:
        assert plain_values(data) == []
        return
    with pytest.raises(ValueError, match=words):
        plain_values(data)


def test_a_pickle_too_long_is_refused(monkeypatch):
    monkeypatch.setattr("analysis.downloads.pickle_values.MOST_BYTES", 3)
    with pytest.raises(ValueError, match="at most 3 are read"):
        plain_values(pickle.dumps([1, 2, 3]))


def test_every_opcode_that_is_read_is_one_of_pickletools():
    from analysis.downloads import pickle_values as reader

    names = {o.name for o in pickletools.opcodes}
    used = (*reader._VALUES, *reader._CONSTANTS, *reader._NOTHING, *reader._TUPLES, *reader._GETS)
    assert set(used) <= names
