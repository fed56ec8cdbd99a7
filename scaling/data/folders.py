"""The files of folders and globs; a folder that may not be listed is refused, never left out."""

import logging
import os
from collections import Counter
from functools import cache
from pathlib import Path

from scaling.schema import check_listable

log = logging.getLogger(__name__)
MAGIC = frozenset("*?[")  # A part of a path with one of these characters is a pattern.


def files_in(folder: Path, *, endings: tuple[str, ...], beside: tuple[str, ...] = ()) -> list[Path]:
    """Return the files below a folder, sorted; a log line counts those of other endings.

    folder: is looked through with all its subfolders; links to folders are not followed
    endings: of the files to return
    beside: endings of files that belong to these and are not counted

    PermissionError, which names it, for a subfolder that may not be listed.
    """

    def refuse(error: OSError) -> None:
        raise error

    files, others = [], Counter()
    for root, folders, names in os.walk(check_listable(folder), onerror=refuse):
        for name in folders:
            if not (path := Path(root, name)).is_symlink():
                check_listable(path)
        for name in names:
            if not (path := Path(root, name)).is_file():
                continue
            if name.endswith(endings):
                files.append(path)
            elif not name.endswith(beside or ("\0",)):
                others[path.suffix or "without ending"] += 1
    if others:
        counts = ", ".join(f"{n:,} {ending}" for ending, n in sorted(others.items()))
        _log_skipped(folder, f"{others.total():,}", counts, " ".join(endings))
    return sorted(files)


def files_of_glob(pattern: str) -> list[Path]:
    """Return the files that a glob names, sorted.

    PermissionError, which names it, for a folder on the way that may not be listed.
    """
    path = Path(pattern)
    root, parts = Path(path.anchor or "."), path.relative_to(path.anchor).parts
    first = next((i for i, part in enumerate(parts) if MAGIC & set(part)), len(parts))
    for end in range(first, len(parts)):
        for folder in root.glob(str(Path(*parts[:end]))) if end else [root]:
            if not folder.is_symlink():
                check_listable(folder)
    return sorted(p for p in root.glob(str(Path(*parts))) if p.is_file())


@cache
def _log_skipped(folder: Path, total: str, counts: str, endings: str) -> None:
    """Log, once a process, which files of a folder are not read."""
    log.info("%s: %s files skipped (%s); readable are %s", folder, total, counts, endings)
