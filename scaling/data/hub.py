"""Hub data sets, streamed once into files of the cache.

A download that was cut off goes on after the rows that are there. It ends at data.max_bytes.
"""

import json
import logging
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from scaling.app.progress import Progress
from scaling.config import DataConfig
from scaling.data.chunks import write_whole
from scaling.data.file_hashes import damage, discard, has_hashes, mark_checked, write_hashes
from scaling.data.row_text import NoText, text_of
from scaling.schema import read_json, sha256_json, write_json

log = logging.getLogger(__name__)
SHARD = 64 << 20  # Bytes of text in one file.


def fetch(config: DataConfig, entry: str, split: str, cache: Path, *, max_bytes: int) -> list[Path]:
    """Return the files with the text of a hub set; download it where they are missing.

    config: whose text_key names the column
    entry: NAME, NAME:CONFIG or NAME:CONFIG:SPLIT; NAME may be a local folder that `datasets` loads
    split: where the entry names none
    cache: the folder for the files
    max_bytes: of text; rows beyond are not read (0: all are)

    Raises ValueError for an unknown set, split or column, OSError where the hub is out of reach.
    """
    request = {"entry": entry, "split": split, "key": config.text_key, "max_bytes": max_bytes}
    folder = cache / f"hub-{sha256_json(request)[:16]}"
    _refuse_damaged(folder)
    state = _state(folder)
    if not state["complete"]:
        _download(folder, state, request)
        state = _state(folder)
    if not state["files"]:
        raise ValueError(f"hub set {entry} has no text in its split; name another")
    return [folder / name for name in state["files"]]


def fetch_rows(entry: str, cache: Path) -> Path:
    """Return the file with all rows of a hub set NAME[:CONFIG[:SPLIT]]; SPLIT is train by default.

    For pairs and preferences, whose layout is recognised by their keys. Raises as `fetch` does.
    """
    path = cache / f"hub-{sha256_json({'rows': entry})[:16]}" / "rows.jsonl"
    _refuse_damaged(path.parent)
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        n = 0
        with write_whole(path) as out:
            for row in _stream(entry, "train"):
                out.write(f"{json.dumps(row, default=str)}\n".encode())
                n += 1
        write_hashes(path.parent, [path.name])
        mark_checked(path.parent)
        log.info("hub set %s: %d rows", entry, n)
    return path


def _refuse_damaged(folder: Path) -> None:
    """Remove the folder of a set whose files are damaged, and log it.

    Files of an earlier version have no hashes: they must end with a complete row, and get hashes.
    """
    if not folder.is_dir():
        return
    why = ""
    if has_hashes(folder):
        why = damage(folder)
    elif files := sorted(folder.glob("*.jsonl")):
        torn = [p.name for p in files if not _ends_a_row(p)]
        why = f"{torn[0]} ends within a row" if torn else ""
        if not why:
            with suppress(OSError):  # a cache without write permission
                write_hashes(folder, [p.name for p in files])
                mark_checked(folder)
    if not why and _state(folder) is None:
        why = "state.json cannot be read"
    if why:
        discard(folder, why)


def _ends_a_row(path: Path) -> bool:
    with path.open("rb") as stream:
        size = stream.seek(0, 2)
        stream.seek(max(0, size - 1))
        return stream.read() == b"\n"


def _state(folder: Path) -> Any:
    """Return how far a set was read; None where the file that says so is damaged."""
    path = folder / "state.json"
    if not path.is_file():
        return {"files": [], "rows": 0, "bytes": 0, "complete": False}
    try:
        state = read_json(path)
    except ValueError:
        return None
    has_keys = isinstance(state, dict) and state.keys() >= {"files", "rows", "bytes", "complete"}
    return state if has_keys and all((folder / n).is_file() for n in state["files"]) else None


def _download(folder: Path, state: dict[str, Any], request: dict[str, Any]) -> None:
    limit, rows = request["max_bytes"], _rows(request, skip=state["rows"])
    progress = Progress(f"hub set {request['entry']}", total=limit or 1)
    while not state["complete"]:
        name, size = f"{len(state['files']):05}.jsonl", 0
        with write_whole(folder / name) as out:
            for text in rows:
                out.write(f"{json.dumps({'text': text})}\n".encode())
                size += len(text.encode()) if text else 0
                state["rows"] += 1
                if size >= SHARD or (limit and state["bytes"] + size >= limit):
                    break
                if limit:
                    progress.update(state["bytes"] + size)
            else:
                state["complete"] = True
        state["bytes"] += size
        state["complete"] |= bool(limit) and state["bytes"] >= limit
        if size:
            state["files"].append(name)
            write_hashes(folder, [name])
            mark_checked(folder)
        write_json(folder / "state.json", state)
        log.info(
            "hub set %s: %d rows, %.0f MB", request["entry"], state["rows"], state["bytes"] / 1e6
        )
    progress.close()


def _rows(request: dict[str, Any], *, skip: int) -> Iterator[str | None]:
    """Stream the texts of a set after the first `skip` rows, None for a row without text."""
    key = request["key"]
    rows = _stream(request["entry"], request["split"], skip=skip)
    for number, row in enumerate(rows, start=skip + 1):
        if key not in row:
            name = request["entry"].partition(":")[0]
            raise ValueError(
                f"hub set {name} has no text column {key!r}; set data.text_key to one of "
                f"{', '.join(row)}"
            )
        try:
            yield text_of(row[key], key, f"hub set {request['entry']}: row {number}")
        except NoText:
            yield None


def _stream(entry: str, split: str, *, skip: int = 0) -> Iterator[dict[str, Any]]:
    """Stream the rows of a set after the first `skip`."""
    try:
        import datasets
        from datasets.exceptions import DatasetsError
    except ImportError as error:
        raise ValueError(
            "hub sets need the package `datasets`; install scaling-laws[hub]"
        ) from error
    name, _, rest = entry.partition(":")
    config, _, entry_split = rest.partition(":")
    try:
        try:
            rows = datasets.load_dataset(
                name, config or None, split=entry_split or split, streaming=True
            )
        except ValueError as error:  # an unknown configuration or split
            raise ValueError(f"hub set {name}: {_first_line(error)}") from error
        yield from rows.skip(skip)
    except (OSError, DatasetsError) as error:
        raise OSError(
            f"hub set {name} cannot be read ({_first_line(error)}); correct the name, or put its "
            "files in a folder and take data=files; what was read is kept"
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
