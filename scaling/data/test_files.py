"""The files of named test sets (eval.sets) and their hashes."""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from scaling.data.documents import source_files
from scaling.schema import sha256_file, sha256_json


def set_files(name: str, paths: Sequence[str]) -> list[Path]:
    """Return the files of a set; FileNotFoundError or ValueError, which name it, where none are."""
    try:
        return source_files(paths)
    except (FileNotFoundError, ValueError) as error:
        raise type(error)(f"test set {name}: {error}") from error


def sets_sha256(sets: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Return the hash of the files of each set, whatever they are called."""
    return {name: sha256_json(_hashes(name, paths)) for name, paths in sets.items()}


def check_sets(sets: Mapping[str, Sequence[str]], known: Mapping[str, str]) -> None:
    """Raise ValueError for a set whose files are not those that the sweep started with.

    sets: the files of each set
    known: the hashes of that time; a set without one is not checked
    """
    for name, sha256 in sets_sha256({n: p for n, p in sets.items() if n in known}).items():
        if sha256 != known[name]:
            raise ValueError(
                f"the files of test set {name} changed since the study started; restore them, or "
                "start a study of another name"
            )


def _hashes(name: str, paths: Sequence[str]) -> list[str]:
    return [_hash(f, f.stat().st_mtime_ns, f.stat().st_size) for f in set_files(name, paths)]


@cache
def _hash(path: Path, changed_ns: int, size: int) -> str:
    return sha256_file(path)
