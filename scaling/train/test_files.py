"""The files of named test sets (eval.sets), their texts and their hashes."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

from scaling.config import CellConfig
from scaling.data.documents import read_documents, source_files
from scaling.data.row_text import LeftOut
from scaling.schema import sha256_file, sha256_json


def set_files(name: str, paths: Sequence[str]) -> list[Path]:
    """Return the files of a set; FileNotFoundError or ValueError, which name it, where none are."""
    try:
        return source_files(paths)
    except (FileNotFoundError, ValueError) as error:
        raise type(error)(f"test set {name}: {error}") from error


def set_texts(
    name: str, paths: Sequence[str], *, text_key: str, left_out: LeftOut | None = None
) -> Iterator[str]:
    """Yield the texts of a set.

    name: of the set, for messages
    paths: folders, globs or files, as data.train
    text_key: column of a table, or key of a JSON line, that holds the text
    left_out: counts the rows without text

    FileNotFoundError or ValueError, which name the set, for files that cannot be read and for a set
    without text.
    """
    files, text = set_files(name, paths), None
    try:
        for _, text, *_ in read_documents(files, text_key=text_key, left_out=left_out):
            yield text
    except ValueError as error:
        raise ValueError(f"test set {name}: {error}") from error
    if text is None:
        raise ValueError(
            f"test set {name} holds no text ({', '.join(map(str, files[:3]))}); give files that are"
            " not empty, or leave the set out"
        )


def refuse_unknown_vocabulary(cell: CellConfig) -> None:
    """Raise ValueError for sets of a cell whose corpus is token ids without their tokenizer."""
    if cell.eval.sets and cell.data.source == "tokens" and not cell.tokenizer.sha256:
        raise ValueError(
            "eval.sets are texts, and the corpus is token ids of an unknown vocabulary; name it"
            " with tokenizer.source=FILE, or leave eval.sets out"
        )


def check_texts(cell: CellConfig) -> dict[str, int]:
    """Read the texts of the sets that a cell names, as each cell does before it is scored on them.

    The bytes of each set are returned. The errors are those of `set_texts`; ValueError for token
    ids without their tokenizer.
    """
    refuse_unknown_vocabulary(cell)
    key = cell.data.text_key
    return {
        name: sum(len(t.encode()) for t in set_texts(name, p, text_key=key, left_out=LeftOut()))
        for name, p in cell.eval.sets.items()
    }


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
