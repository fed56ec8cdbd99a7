"""Read documents from the standard library, files or a hub set, and split them without leaks.

The split goes by a fixed hash of the name, after near-duplicates are
put into one group, so that no file of the test part has a twin in the training part.
"""

import hashlib
import sysconfig
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from scaling.config import TRUTHS, DataConfig
from scaling.jsonl import read_rows, read_text
from scaling.truth import texts


class Document(NamedTuple):
    """A text, its name, and which part of a mixture it belongs to."""

    name: str
    text: str
    part: int = 0


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
# Tests, installed packages, and pydoc_data, one generated 700 kB file that is no program.
LEFT_OUT = frozenset({"test", "tests", "idle_test", "site-packages", "dist-packages", "pydoc_data"})
SHARED_LINES = 0.5  # of the smaller file's lines: then the two are near-duplicates
COMMON_LINE = 30  # a line in more files than this (a licence) says nothing about duplication
SHORT_LINE = 20  # characters; shorter lines (`return None`) are everywhere


def source_files(paths: Iterable[str]) -> list[Path]:
    """Expand folders, globs and files to a sorted list of readable files.

    Raises FileNotFoundError for a path that matches nothing and ValueError for an unknown ending.
    """
    found: list[Path] = []
    for text in paths:
        path = Path(text).expanduser()
        if path.is_dir():
            here = sorted(p for p in path.rglob("*") if p.is_file() and p.name.endswith(SUFFIXES))
        elif path.is_file():
            here = [path]
        else:
            root = Path(path.anchor or ".")
            here = sorted(p for p in root.glob(str(path.relative_to(path.anchor))) if p.is_file())
        if not here:
            raise FileNotFoundError(
                f"data path {text} matches no file; give a folder, a glob or a file"
            )
        found += here
    for path in found:
        if not path.name.endswith(SUFFIXES):
            raise ValueError(f"{path} has an unknown ending; readable are {' '.join(SUFFIXES)}")
    return found


def stdlib_files() -> list[Path]:
    """List the running interpreter's library source, without tests and installed packages."""
    root = Path(sysconfig.get_path("stdlib"))
    return sorted(
        p for p in root.rglob("*.py") if LEFT_OUT.isdisjoint(p.relative_to(root).parts[:-1])
    )


def read_documents(
    files: Iterable[Path], *, text_key: str, root: Path | None = None
) -> Iterator[Document]:
    """Yield the non-empty documents of files, one a text file, one a row of a table."""
    for path in files:
        name = str(path.relative_to(root)) if root else path.name
        if ".jsonl" in path.name or path.suffix == ".parquet":
            for number, text in enumerate(_rows(path, text_key)):
                if text.strip():
                    yield Document(f"{name}:{number}", text)
        else:
            text = read_text(path)
            if text.strip():
                yield Document(name, text)


def _rows(path: Path, key: str) -> Iterator[str]:
    if path.suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet as parquet

        try:
            table = parquet.ParquetFile(path)
            _need(key, table.schema_arrow.names, path)
            for batch in table.iter_batches(columns=[key], batch_size=1024):
                yield from (str(v) for v in batch.column(0).to_pylist() if v is not None)
        except pyarrow.ArrowException as error:
            raise ValueError(f"{path} is damaged ({error}); fetch or write it again") from error
        return
    for _, row in read_rows(path):
        _need(key, list(row), path)
        yield str(row[key])


def _need(key: str, names: list[str], path: Path) -> None:
    if key not in names:
        raise ValueError(
            f"{path} has no text column {key!r}; set data.text_key to one of {', '.join(names)}"
        )


def hub_documents(names: Iterable[str], *, split: str, text_key: str) -> Iterator[Document]:
    """Stream documents of hub data sets (or local folders that `datasets` can load)."""
    try:
        import datasets
    except ImportError as error:
        raise ValueError(
            "data.source=hub needs the package `datasets`; install scaling-laws[hub]"
        ) from error
    for name in names:
        for number, row in enumerate(datasets.load_dataset(name, split=split, streaming=True)):
            _need(text_key, list(row), Path(name))
            yield Document(f"{name}:{number}", str(row[text_key]))


def _read(config: DataConfig, entries: list[str], *, split: str) -> Iterator[Document]:
    if config.source == "hub":
        return hub_documents(entries, split=split, text_key=config.text_key)
    return read_documents(source_files(entries), text_key=config.text_key)


def _training(config: DataConfig) -> Iterator[Document]:
    """Yield the training documents, one part after the other."""
    if config.source == "stdlib":
        root = Path(sysconfig.get_path("stdlib"))
        yield from read_documents(stdlib_files(), text_key="", root=root)
        return
    parts = [[entry] for entry in config.train] if config.weights else [config.train]
    for part, entries in enumerate(parts):
        for found in _read(config, entries, split="train"):
            yield found._replace(part=part)


def documents(config: DataConfig) -> tuple[list[Document], list[Document]]:
    """Return the training and the test documents of a data config; ValueError when one is empty."""
    if config.source in TRUTHS:
        made = zip(("train", "test"), texts(config.source, config.truth), strict=True)
        train, test = ([Document(name, text)] for name, text in made)
        return train, test
    train = list(_training(config))
    test = list(_read(config, config.test, split="test")) if config.test else None
    train = _unique(train)
    if test is None:
        train, test = split(train, share=config.test_share)
    else:
        held_out = {_digest(d.text) for d in test}
        train = [d for d in train if _digest(d.text) not in held_out]
    if config.max_bytes:
        train = _limit(train, config.max_bytes)
    for part, found in (("training", train), ("test", test)):
        if not found:
            raise ValueError(
                f"the corpus has no {part} documents; add text, or change "
                f"data.test_share={config.test_share}"
            )
    return train, test


def _limit(found: list[Document], max_bytes: int) -> list[Document]:
    kept: list[Document] = []
    size = 0
    for one in sorted(found, key=lambda d: _digest(d.name)):
        size += len(one.text.encode())
        if kept and size > max_bytes:
            break
        kept.append(one)
    return sorted(kept, key=lambda d: d.part)


def _unique(found: list[Document]) -> list[Document]:
    return list({_digest(d.text): d for d in reversed(found)}.values())[::-1]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def split(found: list[Document], *, share: float) -> tuple[list[Document], list[Document]]:
    """Split by the hash of each near-duplicate group's first name; `share` of them is test."""
    groups = near_duplicates([d.text for d in found])
    first: dict[int, str] = {}
    for one, group in zip(found, groups, strict=True):
        first[group] = min(one.name, first.get(group, one.name))
    held_out = {g for g, name in first.items() if int(_digest(name)[:8], 16) / 16**8 < share}
    train = [d for d, g in zip(found, groups, strict=True) if g not in held_out]
    test = [d for d, g in zip(found, groups, strict=True) if g in held_out]
    return train, sorted(test, key=lambda d: _digest(d.name))


def near_duplicates(texts: list[str]) -> list[int]:
    """Label each text with its group: texts that share over half of the smaller one's lines."""
    lines = [
        {hash(s) for line in text.split("\n") if len(s := line.strip()) >= SHORT_LINE}
        for text in texts
    ]
    holders: dict[int, list[int]] = defaultdict(list)
    for index, own in enumerate(lines):
        for line in own:
            holders[line].append(index)
    shared: Counter[tuple[int, int]] = Counter()
    for held in holders.values():
        if 1 < len(held) <= COMMON_LINE:
            shared.update((a, b) for i, a in enumerate(held) for b in held[i + 1 :])
    parent = list(range(len(texts)))

    def find(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for (a, b), count in shared.items():
        if count > SHARED_LINES * min(len(lines[a]), len(lines[b])):
            parent[max(find(a), find(b))] = min(find(a), find(b))
    return [find(i) for i in range(len(texts))]
