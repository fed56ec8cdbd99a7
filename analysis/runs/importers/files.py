"""Find and read the files of a log folder, with limits: they may come from anybody."""

import json
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from scaling.schema import check_readable

MOST_LOG_BYTES = 512 << 20  # of one file; a run of a million logged steps has 200 MB
MOST_FILES = 20_000  # files that a folder is searched for
LONGEST_LINE = 1 << 16  # characters of a line of text that are read
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def below(path: Path, pattern: str, *, deepest: int) -> list[Path]:
    """Return the files of a name below a folder, sorted, or the file itself where it matches.

    path: a folder or a file
    pattern: of the file's name, as `*.log`
    deepest: folders between `path` and the file at most

    Files that a link leads out of the folder are left out, and a file with two paths is there once.
    """
    if path.is_file():
        return [path] if path.match(pattern) else []
    if not path.is_dir():
        return []
    root, matches = path.resolve(), []
    for depth in range(deepest + 1):
        matches += islice(path.glob("/".join(["*"] * depth + [pattern])), MOST_FILES)
    files = {p.resolve(): p for p in sorted(matches, key=_is_linked, reverse=True) if p.is_file()}
    return sorted(p for real, p in files.items() if real.is_relative_to(root))[:MOST_FILES]


def _is_linked(path: Path) -> bool:
    """Return whether a path goes through a link, as wandb's `latest-run` does."""
    return path.resolve() != path.absolute()


def name_below(path: Path, root: Path) -> str:
    """Return a file's or folder's path below the source's folder, as the name of a run."""
    if path == root:
        return path.resolve().name
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name


def read_values(path: Path) -> Any:
    """Return the value of a JSON file, NaN and infinities as floats.

    Raises ValueError for one that is too large, no text or no JSON.
    """
    check_readable(path, most_bytes=MOST_LOG_BYTES)
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path.name} is not text in UTF-8") from error
    except RecursionError as error:
        raise ValueError(f"{path.name} is nested too deep") from error
    except ValueError as error:
        raise ValueError(f"{path.name} is not JSON ({error})") from error


def lines_of(path: Path, *, most_bytes: int = MOST_LOG_BYTES) -> Iterator[str]:
    """Yield the lines of a text log without colours and line ends; long lines are cut.

    Raises ValueError for a file of more than `MOST_LOG_BYTES`; reads `most_bytes` at most.
    """
    check_readable(path, most_bytes=MOST_LOG_BYTES)
    with path.open(encoding="utf-8", errors="replace") as stream:
        count = 0
        while count < most_bytes and (line := stream.readline(LONGEST_LINE)):
            count += len(line)
            yield _COLOUR.sub("", line).rstrip("\r\n")


def holds(path: Path, pattern: re.Pattern[str], *, most_bytes: int = 4 << 20) -> bool:
    """Return whether a line in the first bytes of a text log matches."""
    try:
        return any(pattern.search(line) for line in lines_of(path, most_bytes=most_bytes))
    except (ValueError, OSError):
        return False
