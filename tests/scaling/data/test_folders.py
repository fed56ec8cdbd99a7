"""Folders and globs: what is not read is refused or counted."""

import os
from contextlib import contextmanager

import pytest

from scaling.data.documents import source_files
from scaling.data.shards import shard_files


@contextmanager
def somebody_else():
    """Act as a user whom permissions hold back: root is not."""
    user = os.geteuid()
    os.seteuid(user or 65534)
    try:
        yield
    finally:
        os.seteuid(user)


@pytest.fixture
def folder(tmp_path):
    """A folder of two readable files, one of them in a subfolder without read permission."""
    for parent in [tmp_path, *tmp_path.parents][:-2]:  # pytest keeps its folders to itself
        if parent.stat().st_uid == os.getuid():
            parent.chmod(parent.stat().st_mode | 0o055)
    (tmp_path / "d/x/y").mkdir(parents=True)
    for name in ("a", "x/y/b"):
        for ending in ("txt", "bin"):
            (tmp_path / f"d/{name}.{ending}").write_text("1234")
    yield tmp_path / "d"
    (tmp_path / "d/x").chmod(0o755)


@pytest.mark.parametrize("pattern", ["", "**/*", "*/*/*", "x/*/b*"])
@pytest.mark.parametrize(
    ("read", "ending"), [(lambda p: source_files([p]), ".txt"), (shard_files, ".bin")]
)
def test_a_subfolder_without_read_permission_is_refused_and_named(folder, read, ending, pattern):
    entry = str(folder / pattern) + (ending if pattern else "")
    assert folder / f"x/y/b{ending}" in read(entry)
    (folder / "x").chmod(0)
    with somebody_else(), pytest.raises(PermissionError) as error:
        read(entry)
    assert str(folder / "x") in str(error.value)


def test_files_of_other_endings_are_counted_in_the_log(folder, caplog):
    caplog.set_level("INFO")
    for name in ("1.csv", "x/2.csv", "Makefile", "a.idx"):
        (folder / name).touch()
    assert len(source_files([str(folder)])) == 2
    counted = "6 files skipped (2 .bin, 2 .csv, 1 .idx, 1 without ending); readable are .txt"
    assert counted in caplog.text
    assert len(shard_files(str(folder))) == 2
    assert "5 files skipped (2 .csv, 2 .txt, 1 without ending); readable are .bin" in caplog.text
