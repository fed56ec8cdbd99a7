"""Read a table from a CSV, Parquet or JSONL file, with limits on its size.

Files may come from anybody: a header of millions of names or a small file that unpacks to more than
memory is refused before pandas reads it.
"""

import csv
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.runs.columns import Columns, duplicate_names_message
from analysis.runs.jsonl import read_jsonl
from scaling.schema import check_readable, near_path, sha256_file

TABLES = (".csv", ".parquet", ".jsonl")  # ends of the names of tables
MOST_COLUMNS = 2_000  # pandas takes a second for ten thousand columns; a table of runs has twenty
MOST_HEADER = 1 << 20  # characters of a header that are read
MOST_TABLE_BYTES = 2 << 30  # bytes of a file, about ten million rows
MOST_TABLE_VALUES = 200_000_000  # values of a Parquet table (1.6 GB), which packs repeats


def read_file(path: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Return a file's table and its `inputs` (path and sha256).

    Raises FileNotFoundError for no file, ValueError for one that is too large, empty or damaged.
    """
    if not path.exists():
        raise FileNotFoundError(
            f"no table or study {path}{near_path(path)}; check the path given as runs="
        )
    check_readable(path, most_bytes=MOST_TABLE_BYTES)
    readers = {
        ".csv": lambda p: pd.read_csv(p, low_memory=False),  # one type a column, no warning of two
        ".parquet": _read_parquet,
        ".jsonl": read_jsonl,
    }
    suffix = path.suffix.lower()
    if suffix not in readers:
        raise ValueError(f"{path} is not a table we read; give {', '.join(readers)} or a study")
    if not path.stat().st_size:
        raise ValueError(f"{path} is empty; a table needs a header and rows")
    if suffix == ".csv":
        _refuse_header(path)
    try:
        raw = readers[suffix](path)
    except pd.errors.EmptyDataError as error:
        raise ValueError(f"{path} is empty; a table needs a header and rows") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8 ({error}); save it as such") from error
    except ValueError as error:
        text = " ".join(str(error).split()).rstrip(".")
        raise ValueError(f"{path} does not read as {suffix[1:]} ({text}); repair it") from error
    if suffix == ".csv" and not raw.index.equals(pd.RangeIndex(len(raw))):
        raise ValueError(
            f"{path} has rows with more values than its header has names, so that no column is "
            "sure; repair it"
        )
    raw.columns = [name.strip() if isinstance(name, str) else name for name in raw.columns]
    if len(raw.columns) == 1:
        _refuse_separator(path, str(raw.columns[0]))
    return raw, {"source": path.as_posix(), "sha256": sha256_file(path)}


def _read_parquet(path: Path) -> pd.DataFrame:
    """Read a Parquet table; refuse one that a few bytes make larger than memory."""
    from pyarrow import ArrowException
    from pyarrow.parquet import read_metadata

    try:
        meta = read_metadata(path)
        if meta.num_rows * meta.num_columns > MOST_TABLE_VALUES:
            raise ValueError(
                f"it holds {meta.num_rows:,} rows of {meta.num_columns} columns, more than"
                f" {MOST_TABLE_VALUES:,} values"
            )
        raw = pd.read_parquet(path)
        counted = raw.index.name is None and pd.api.types.is_integer_dtype(raw.index)
        return raw.reset_index(drop=True) if counted else raw  # rows are those of the file
    except ArrowException as error:
        raise ValueError(str(error)) from error


def _refuse_header(path: Path) -> None:
    """Refuse too many columns, and two of one name, the second of which pandas would rename."""
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as stream:
        line = stream.readline(MOST_HEADER)
    try:
        header = next(csv.reader([line]), [])
    except csv.Error:  # a name longer than any
        header = []
    if len(header) > MOST_COLUMNS:
        raise ValueError(f"{path} has {len(header):,} columns; at most {MOST_COLUMNS:,} are read")
    names = [name.strip() for name in header if name.strip()]
    twice = sorted({name for name in names if names.count(name) > 1})
    our_names = {name.lower() for name in Columns().names()}
    if any(name.lower() in our_names for name in twice):
        raise ValueError(duplicate_names_message(twice))


def _refuse_separator(path: Path, header: str) -> None:
    for mark, words in ((";", "';'"), ("\t", "tabs"), ("|", "'|'")):
        if mark in header:
            raise ValueError(
                f"{path} is separated by {words}, not by commas; save it with commas between "
                "columns and points in decimals"
            )
