"""What cached files must be: size and sha256 of each, in a file of their folder, or in themselves.

Sizes are compared whenever a folder is opened. The sha256 is computed again only where a file's
size, inode or times differ from those of the last check, which are kept beside the folder: a corpus
of many GB is hashed where it is made and where it was copied, not by each of a sweep's cells. Every
program that writes to a file moves its change time, which none can set; what a disk loses without a
write is not seen.
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
SEALS = "files.json"
HASH = "sha256"  # the key of a JSON file's own hash


def seal(folder: Path, names: Iterable[str]) -> None:
    """Write down size and sha256 of files of a folder, beside those that are written down.

    `remember` then spares the next reader the hashing.
    """
    names = list(names)
    known = _read(folder / SEALS)
    for name in names:
        path = folder / name
        known[name] = {"bytes": path.stat().st_size, HASH: sha256_file(path)}
    write_json(folder / SEALS, known)


def remember(folder: Path, stamps: dict[str, list[int]] | None = None) -> None:
    """Take the files of a folder, as they are now or were at given `stamps`, for checked."""
    with suppress(OSError):  # a cache that is only read: the next process hashes again
        stamps = stamps or {n: _stamp(folder / n) for n in _read(folder / SEALS)}
        write_json(_checked(folder), stamps)


def is_sealed(folder: Path) -> bool:
    """Say whether sizes and hashes of a folder's files are written down."""
    return (folder / SEALS).is_file()


def damage(folder: Path) -> str:
    """Say which sealed file of a folder is not what was written; empty where all are."""
    known, checked = _read(folder / SEALS), _read(_checked(folder))
    if not known:
        return f"{SEALS} cannot be read"
    stamps = {}
    for name, wanted in known.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        stamps[name] = _stamp(path)
        if (size := path.stat().st_size) != wanted["bytes"]:
            return f"{name} has {size:,} bytes of {wanted['bytes']:,}"
        if checked.get(name) != stamps[name] and sha256_file(path) != wanted[HASH]:
            return f"{name} differs from its sha256"
    if stamps != checked:
        remember(folder, stamps)
    return ""


def discard(folder: Path, why: str) -> None:
    """Remove a damaged folder of a cache, so that it is made again, and say so in one line.

    OSError where it may not be removed.
    """
    gone = folder.with_name(temporary_name(folder.name))
    try:
        folder.rename(gone)  # at once: nobody opens one that is half removed
    except FileNotFoundError:  # another process was faster
        return
    except OSError as error:
        raise OSError(
            f"{folder} is damaged ({why}) and cannot be replaced ({error.strerror}); set "
            "machine.cache to a folder of your own"
        ) from error
    log.warning("%s is damaged (%s); it is made again", folder, why)
    shutil.rmtree(gone, ignore_errors=True)
    _checked(folder).unlink(missing_ok=True)


def write_sealed(path: Path, value: dict[str, Any]) -> Path:
    """Write a JSON object with its own sha256 in it."""
    return write_json(path, {**value, HASH: sha256_json(value)})


def read_sealed(path: Path) -> dict[str, Any] | None:
    """Read an object of `write_sealed`; None where there is none, or a damaged one, which is said.

    One of an earlier version has no hash and is given it.
    """
    if not path.is_file():
        return None
    try:
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))  # of any size
        known = value.pop(HASH, None)
        if known in (None, sha256_json(value)):
            if known is None:
                with suppress(OSError):  # a folder that is only read
                    write_sealed(path, value)
            return value
    except (ValueError, AttributeError, TypeError):
        pass
    log.warning("%s is damaged; it is made again", path)
    return None


def read_inputs(folder: Path) -> dict[str, Any] | None:
    """Return what a stage was made from, by its inputs.json or, where that is torn, its record.

    None where neither says.
    """
    path, record = folder / "inputs.json", folder / "record.json"
    if not path.is_file():
        return None
    found = _read(path)
    if not found:
        log.warning("%s is damaged; what the record says is taken", path)
        found = _read(record).get("inputs")
    return found


def _stamp(path: Path) -> list[int]:
    found = path.stat()
    return [found.st_size, found.st_ino, found.st_mtime_ns, found.st_ctime_ns]


def _checked(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.checked.json")


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
