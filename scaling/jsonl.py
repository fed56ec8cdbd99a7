"""Text files and JSON lines, plain or packed; a damaged file is named, and its line."""

import gzip
import io
import json
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

BOM = "\ufeff"  # Windows programs write one at the start of a file
DAMAGE = (EOFError, gzip.BadGzipFile, lzma.LZMAError, zlib.error)


@contextmanager
def open_text(
    path: str | Path, *, errors: str = "strict", start: int = 0, stop: int = 0
) -> Iterator[TextIO]:
    """Open a UTF-8 file, unpacked where it ends in .gz or .xz.

    With a `stop` only the bytes from `start` up to it are read, of a file that is not packed.

    Raises FileNotFoundError for one that is not there, ValueError for one that is damaged or, with
    `errors` strict, not UTF-8.
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
        raise ValueError(f"{path} is not UTF-8 ({error.reason}); convert it") from error


def read_text(path: str | Path, *, start: int = 0, stop: int = 0) -> str:
    """Return a text file's content; bytes that are not UTF-8 become U+FFFD."""
    with open_text(path, errors="replace", start=start, stop=stop) as stream:
        return stream.read()


def read_rows(
    path: str | Path, *, start: int = 0, stop: int = 0, first: int = 1
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield line number and object of each line of JSON; ValueError names a line that is none.

    The line at byte `start` has the number `first`. A byte order mark before the first is no text.
    """
    with open_text(path, start=start, stop=stop) as stream:
        for number, line in enumerate(stream, start=first):
            if number == 1:
                line = line.removeprefix(BOM)
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:  # integers of 4300 digits, nested lists
                raise ValueError(f"{path}: line {number} is not JSON ({error}); mend it") from error
            if not isinstance(row, dict):
                raise ValueError(
                    f"{path}: line {number} is not an object; give one JSON object a line"
                )
            yield number, row
