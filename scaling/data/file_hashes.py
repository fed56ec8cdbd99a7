"""Size and sha256 of cached files: of a folder's files in files.json, of a JSON file in itself.

Sizes are compared whenever a folder is opened. The sha256 is computed again only where a file's
size, inode or times differ from those of the last check, which are kept beside the folder. So a
corpus of many GB is hashed where it is made and where it was copied, not by each of a sweep's
cells. Every write to a file changes its change time, which no program can set. What a disk loses
without a write is not seen.
"""

import json
import logging
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from scaling.schema import sha256_file, sha256_json, temporary_name, write_json

log = logging.getLogger(__name__)
HASHES_FILE = "files.json"  # The file of a folder that holds sizes and hashes of the others.
HASH = "sha256"  # The key of a JSON file's own hash, and of a hash in files.json.


def write_hashes(folder: Path, names: Iterable[str]) -> None:
    """Add size and sha256 of some files of a folder to its files.json.

    Call `mark_checked` afterwards, so that the next reader need not hash them again.
    """
    names = list(names)
    entries = _read(folder / HASHES_FILE)
    for name in names:
        path = folder / name
        entries[name] = {"bytes": path.stat().st_size, HASH: sha256_file(path)}
    write_json(folder / HASHES_FILE, entries)


def mark_checked(folder: Path, stamps: dict[str, list[int]] | None = None) -> None:
    """Note that the files of a folder are checked, as they are now or were at `stamps`."""
    with suppress(OSError):  # a cache without write permission: the next process hashes again
        stamps = stamps or {n: _stamp(folder / n) for n in _read(folder / HASHES_FILE)}
        write_json(_checked(folder), stamps)


def has_hashes(folder: Path) -> bool:
    """Say whether a folder has a file of sizes and hashes."""
    return (folder / HASHES_FILE).is_file()


def damage(folder: Path) -> str:
    """Say which file of a folder differs from what was written; empty where none does."""
    recorded, checked = _read(folder / HASHES_FILE), _read(_checked(folder))
    if not recorded:
        return f"{HASHES_FILE} cannot be read"
    stamps = {}
    for name, entry in recorded.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        stamps[name] = _stamp(path)
        if (size := path.stat().st_size) != entry["bytes"]:
            return f"{name} has {size:,} bytes of {entry['bytes']:,}"
        if checked.get(name) != stamps[name] and sha256_file(path) != entry[HASH]:
            return f"{name} differs from its sha256"
    if stamps != checked:
        mark_checked(folder, stamps)
    return ""


def discard(folder: Path, why: str) -> None:
    """Remove a damaged folder of a cache, so that it is made again, and log it in one line.

    Raises OSError where the folder cannot be removed.
    """
    removed = folder.with_name(temporary_name(folder.name))
    try:
        folder.rename(removed)  # in one step: no process opens a folder that is half removed
    except FileNotFoundError:  # another process was faster
        return
    except OSError as error:
        raise OSError(
            f"{folder} is damaged ({why}) and cannot be replaced ({error.strerror}); set "
            "machine.cache to a folder of your own"
        ) from error
    log.warning("%s is damaged (%s); it is made again", folder, why)
    shutil.rmtree(removed, ignore_errors=True)
    _checked(folder).unlink(missing_ok=True)


def write_hashed(path: Path, value: dict[str, Any]) -> Path:
    """Write a JSON object with its own sha256 in it."""
    return write_json(path, {**value, HASH: sha256_json(value)})


def read_hashed(path: Path) -> dict[str, Any] | None:
    """Read an object of `write_hashed`; None where the file is missing or damaged.

    A damaged file is logged. A file of an earlier version has no hash and gets one.
    """
    if not path.is_file():
        return None
    try:
        value: dict[str, Any] = json.loads(
            path.read_text(encoding="utf-8")
        )  # read_json limits the size
        sha256 = value.pop(HASH, None)
        if sha256 in (None, sha256_json(value)):
            if sha256 is None:
                with suppress(OSError):  # a folder without write permission
                    write_hashed(path, value)
            return value
    except (ValueError, AttributeError, TypeError):
        pass
    log.warning("%s is damaged; it is made again", path)
    return None


def read_inputs(folder: Path) -> dict[str, Any] | None:
    """Return what a stage was made from, by its inputs.json or, where that is damaged, its record.

    Returns None where neither file says so.
    """
    path, record = folder / "inputs.json", folder / "record.json"
    if not path.is_file():
        return None
    inputs = _read(path)
    if not inputs:
        log.warning("%s is damaged; what the record says is taken", path)
        inputs = _read(record).get("inputs")
    return inputs


def _stamp(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns]


def _checked(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.checked.json")


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
