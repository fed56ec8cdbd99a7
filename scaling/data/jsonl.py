"""Text files and JSON lines, plain or packed; errors name the file and the line."""

import gzip
import io
import json
import logging
import lzma
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

log = logging.getLogger(__name__)
LONGEST_LINE = 128 << 20  # Characters of one row; the longest books have 20 million.
LARGEST_TEXT = 1 << 30  # Characters of a text file that is read as one document.
BOM = "\ufeff"  # The byte order mark; Windows programs write one at the start of a file.
DAMAGE = (EOFError, gzip.BadGzipFile, lzma.LZMAError, zlib.error)  # Raised by damaged packed files.
MOST_ODD = (
    1e-3  # Share of characters of a text that may be no UTF-8, or NUL: slips, as in old books.
)
NOT_UTF8 = re.compile("[\udc80-\udcff]")  # How `surrogateescape` reads a byte that is not UTF-8.
NOT_UTF8_OR_NUL = re.compile("[\0\udc80-\udcff]")


class _NotUtf8(ValueError):
    """A file holds a byte that is not UTF-8; the message names it and the fix."""


@contextmanager
def open_text(
    path: str | Path, *, errors: str = "strict", start: int = 0, stop: int = 0
) -> Iterator[TextIO]:
    """Open a UTF-8 file, unpacked where its name ends in .gz or .xz.

    path: of the file
    errors: what to do with bytes that are not UTF-8, as for `open`
    start, stop: bytes of a file that is not packed; with stop=0 all of the file is read

    Raises FileNotFoundError for a missing file, ValueError for a damaged file or, with `errors`
    strict, one that is not UTF-8.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}; correct the path")
    opener = {".gz": gzip.open, ".xz": lzma.open}.get(path.suffix, open)
    try:
        if stop:
            with path.open("rb") as whole:
                whole.seek(start)
                data = io.BytesIO(whole.read(stop - start))
            yield io.TextIOWrapper(data, encoding="utf-8", errors=errors, newline="\n")
            return
        with opener(path, "rt", encoding="utf-8", errors=errors, newline="\n") as stream:
            yield stream
    except DAMAGE as error:
        raise ValueError(f"{path} is damaged ({error}); fetch or pack it again") from error
    except UnicodeDecodeError as error:
        raise _NotUtf8(
            f"{path} is not UTF-8 ({error.reason}); convert it, as iconv -f LATIN1 -t UTF-8 does"
        ) from error


def read_text(path: str | Path, *, start: int = 0, stop: int = 0, warn: bool = False) -> str:
    """Return a text file's content; single bytes that are not UTF-8 become U+FFFD.

    path: of the file
    start, stop: as in `open_text`
    warn: log how many characters are not UTF-8 or are NUL

    ValueError where more than MOST_ODD of the characters are: the file is no UTF-8 text.
    """
    try:
        text = _read(path, start, stop, errors="strict")
    except _NotUtf8:
        text = _read(path, start, stop, errors="surrogateescape")
    odd = [text.count("\0"), 0 if text.isascii() else len(NOT_UTF8.findall(text))]
    if not any(odd):
        return text
    if sum(odd) > MOST_ODD * len(text):
        first = NOT_UTF8_OR_NUL.search(text)
        assert first
        before = text[: first.start()].encode("utf-8", "surrogateescape")
        raise ValueError(
            f"{path} is no UTF-8 text: {odd[1]:,} bytes that are not UTF-8 and {odd[0]:,} NULs"
            f" among {len(text):,} characters, the first at byte {start + len(before):,}; convert"
            " it (iconv -f LATIN1 -t UTF-8, or -f UTF-16), or take it out of the data"
        )
    if warn:
        log.warning(
            "%s: %d bytes are not UTF-8 and are read as U+FFFD; %d NULs are kept",
            path,
            odd[1],
            odd[0],
        )
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _read(path: str | Path, start: int, stop: int, *, errors: str) -> str:
    with open_text(path, errors=errors, start=start, stop=stop) as stream:
        text = stream.read(LARGEST_TEXT + 1)
    if len(text) > LARGEST_TEXT:
        raise ValueError(
            f"{path} unpacks to more than {LARGEST_TEXT:,} characters; unpack it, or cut it into"
            " several files"
        )
    return text


def read_lines(stream: TextIO, path: str | Path) -> Iterator[str]:
    """Yield lines; ValueError for one too long for a row: packed files may unpack to any size."""
    number = 0
    while line := stream.readline(LONGEST_LINE + 1):
        number += 1
        if len(line) > LONGEST_LINE:
            raise ValueError(
                f"{path}: line {number} has more than {LONGEST_LINE:,} characters; give one row a"
                " line"
            )
        yield line


def read_rows(
    path: str | Path, *, start: int = 0, stop: int = 0, first: int = 1
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield line number and object of each line of JSON; a byte order mark is left out.

    path: of the file
    start, stop: as in `open_text`
    first: the number of the line at byte `start`

    Raises ValueError, which names the line, where it is no JSON object.
    """
    with open_text(path, start=start, stop=stop) as stream:
        for number, line in enumerate(read_lines(stream, path), start=first):
            if number == 1:
                line = line.removeprefix(BOM)
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:  # or an integer of too many digits
                raise ValueError(f"{path}: line {number} is not JSON ({error}); mend it") from error
            if not isinstance(row, dict):
                raise ValueError(
                    f"{path}: line {number} is not an object; give one JSON object a line"
                )
            yield number, row
