"""Documents of text files and tables; a large file is read in pieces."""

import sysconfig
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from scaling.data.folders import files_in, files_of_glob
from scaling.data.jsonl import read_rows, read_text
from scaling.data.row_text import LeftOut, NoText, clean, text_of

SUFFIXES = (
    ".txt",
    ".md",
    ".rst",
    ".py",
    ".jsonl",
    ".jsonl.gz",
    ".jsonl.xz",
    ".txt.gz",
    ".txt.xz",
    ".parquet",
)
# Folders of the standard library that are not read: tests, installed packages, and pydoc_data, one
# generated file of 700 kB that is no program.
LEFT_OUT = frozenset({"test", "tests", "idle_test", "site-packages", "dist-packages", "pydoc_data"})
PIECE = 16 << 20  # Bytes; a larger file is read in pieces.
TEXT = 1 << 20  # Bytes; a text file larger than PIECE is cut into documents of about this size.


class Document(NamedTuple):
    """A text, its name, which part of a mixture it belongs to, whether it is cut from a file."""

    name: str
    text: str
    part: int = 0
    sliced: bool = False


class Piece(NamedTuple):
    """A file or, of a large file, its bytes (or row groups) from `start` up to `stop`.

    `first` is the number of the piece's first row, `size` its bytes on disk.
    """

    path: Path
    name: str
    size: int
    part: int = 0
    first: int = 0
    start: int = 0
    stop: int = 0


def source_files(paths: Iterable[str]) -> list[Path]:
    """Expand folders, globs and files to a sorted list of readable files.

    Raises FileNotFoundError for a path that matches nothing, ValueError for an unknown ending, and
    PermissionError for a folder that may not be listed.
    """
    files: list[Path] = []
    for text in paths:
        path = Path(text).expanduser()
        if path.is_dir():
            matches = files_in(path, endings=SUFFIXES)
        else:
            matches = [path] if path.is_file() else files_of_glob(str(path))
        if not matches:
            what = "matches no file; give a folder, a glob or a file"
            if not path.is_absolute():
                what += " (a study's paths are relative to the folder where its sweep was started)"
            if path.is_dir():
                what = f"is a folder without a readable file; readable are {' '.join(SUFFIXES)}"
            raise FileNotFoundError(f"data path {text} {what}")
        files += matches
    for path in files:
        if not path.name.endswith(SUFFIXES):
            raise ValueError(f"{path} has an unknown ending; readable are {' '.join(SUFFIXES)}")
    return files


def stdlib_root() -> Path:
    """Return the folder of the running interpreter's library."""
    return Path(sysconfig.get_path("stdlib"))


def stdlib_files() -> list[Path]:
    """List the running interpreter's library source, without tests and installed packages."""
    root = stdlib_root()
    return sorted(
        p for p in root.rglob("*.py") if LEFT_OUT.isdisjoint(p.relative_to(root).parts[:-1])
    )


def read_documents(
    files: Iterable[Path], *, text_key: str, left_out: LeftOut | None = None
) -> Iterator[Document]:
    """Yield the non-empty documents of files, one a text file, one a row of a table.

    Rows without text are counted in `left_out`.
    """
    for path in files:
        for piece in pieces(path, path.name):
            yield from read_piece(piece, text_key=text_key, left_out=left_out)


def pieces(path: Path, name: str, *, part: int = 0) -> Iterator[Piece]:
    """Yield the pieces of a file; its documents do not depend on where it is cut."""
    size = path.stat().st_size
    file = Piece(path, name, size, part)
    if size <= PIECE or path.suffix in (".gz", ".xz"):
        yield file
    elif path.suffix == ".parquet":
        yield from _row_groups(file)
    else:
        yield from _cut(file, TEXT if path.suffix != ".jsonl" else PIECE)


def _cut(file: Piece, size: int) -> Iterator[Piece]:
    """Cut a file at line ends into pieces of about `size` bytes."""
    start, line, number = 0, 0, 0
    table = file.path.suffix == ".jsonl"
    with file.path.open("rb") as stream:
        while start < file.size:
            stream.seek(start)
            data = stream.read(size)
            while data and not data.endswith(b"\n") and (more := stream.readline(size)):
                data += more
                if not table and len(data) >= 2 * size:  # a text without line ends
                    data += _rest_of_character(stream.read(3))
                    break
            stop = start + len(data)
            first = line if table else number
            yield file._replace(size=len(data), first=first, start=start, stop=stop)
            start, line, number = stop, line + data.count(b"\n"), number + 1


def _rest_of_character(data: bytes) -> bytes:
    """Return the bytes at the start of `data` that continue a character of UTF-8."""
    return data[: next((i for i, byte in enumerate(data) if byte & 0xC0 != 0x80), len(data))]


def _row_groups(file: Piece) -> Iterator[Piece]:
    import pyarrow.parquet as parquet

    with _refuse_damaged_parquet(file.path):
        meta = parquet.ParquetFile(file.path).metadata
    start, first, rows, size = 0, 0, 0, 0
    for group in range(meta.num_row_groups):
        rows += meta.row_group(group).num_rows
        size += meta.row_group(group).total_byte_size
        if size >= PIECE or group == meta.num_row_groups - 1:
            yield file._replace(size=size, first=first, start=start, stop=group + 1)
            start, first, rows, size = group + 1, first + rows, 0, 0


@contextmanager
def _refuse_damaged_parquet(path: Path) -> Iterator[None]:
    import pyarrow

    try:
        yield
    except pyarrow.ArrowException as error:
        raise ValueError(f"{path} is damaged ({error}); fetch or write it again") from error


def read_piece(
    piece: Piece, *, text_key: str, left_out: LeftOut | None = None
) -> Iterator[Document]:
    """Yield the non-empty documents of a piece; rows without text are counted in `left_out`.

    With `left_out`, single bytes that are not UTF-8 are logged. Raises ValueError, which names the
    row, for a row whose text is not a string, and for a file that is no UTF-8 text.
    """
    first_reading, left_out = left_out is not None, left_out or LeftOut()
    if piece.path.suffix == ".parquet" or ".jsonl" in piece.path.name:
        yield from _rows(piece, text_key, left_out)
        return
    text = read_text(piece.path, start=piece.start, stop=piece.stop, warn=first_reading)
    if text.strip():
        name = f"{piece.name}:{piece.first}" if piece.stop else piece.name
        yield Document(clean(name), clean(text), piece.part, bool(piece.stop))


def _rows(piece: Piece, key: str, left_out: LeftOut) -> Iterator[Document]:
    """Yield the documents of a table's piece, each named by its row, counted from 0."""
    word = "row" if piece.path.suffix == ".parquet" else "line"
    for number, value in _column(piece, key) if word == "row" else _lines(piece, key):
        try:
            text = text_of(value, key, f"{piece.path}: {word} {number + 1}")
        except NoText:
            left_out.add("null")
            continue
        if text.strip():
            yield Document(clean(f"{piece.name}:{number}"), text, piece.part)
        else:
            left_out.add("empty")


def _lines(piece: Piece, key: str) -> Iterator[tuple[int, Any]]:
    """Yield number and text of each line of JSON; ValueError where no line has the key."""
    names: list[str] | None = None
    lines = read_rows(piece.path, start=piece.start, stop=piece.stop, first=piece.first + 1)
    for line, row in lines:
        if names is None or (key not in names and key in row):
            names = list(row)
        yield line - 1, row.get(key)
    if names is not None:
        _check_column(key, names, piece.path)


def _column(piece: Piece, key: str) -> Iterator[tuple[int, Any]]:
    import pyarrow.parquet as parquet

    number = piece.first
    with _refuse_damaged_parquet(piece.path):
        table = parquet.ParquetFile(piece.path)
        _check_column(key, table.schema_arrow.names, piece.path)
        groups = range(piece.start, piece.stop or table.num_row_groups)
        for batch in table.iter_batches(columns=[key], batch_size=1024, row_groups=list(groups)):
            values = batch.column(0).to_pylist()
            yield from enumerate(values, start=number)
            number += len(values)


def _check_column(key: str, names: list[str], path: Path) -> None:
    if key not in names:
        raise ValueError(
            f"{path} has no text column {key!r}; set data.text_key to one of {', '.join(names)}"
        )
