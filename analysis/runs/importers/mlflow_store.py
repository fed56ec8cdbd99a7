"""MLflow's stores on disk: a folder `mlruns/`, or the database `mlflow.db`.

Layout: `mlflow/store/tracking/{file_store,sqlalchemy_store}.py`. The folder has
`EXPERIMENT/RUN/{meta.yaml,metrics,params,tags}`, a metric's file a line `time value step` for each
value; the database has tables of the same. Both are read without MLflow, the database read-only.
"""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

from analysis.runs.importers.files import MOST_LOG_BYTES, below, lines_of
from analysis.runs.importers.logged_run import (
    MOST_NAMES,
    MOST_ROWS,
    History,
    LoggedRun,
    Logs,
    printable,
    quantity,
    read_each,
)
from scaling.schema import check_readable, read_yaml

META = "meta.yaml"
DATABASE = "mlflow.db"
MOST_SECONDS = 300.0  # that reading a database may take: a table in it may be a costly view
FINISHED = (3, "FINISHED")  # a folder has the number of the status, a database its name
STATES = {1: "RUNNING", 2: "SCHEDULED", 3: "FINISHED", 4: "FAILED", 5: "KILLED"}
RUNS = (
    "SELECT run_uuid, name, status FROM runs WHERE lifecycle_stage = 'active' ORDER BY start_time"
)
METRICS = "SELECT key, step, value, is_nan FROM metrics WHERE run_uuid = ? ORDER BY step, timestamp"
PARAMS = "SELECT key, value FROM params WHERE run_uuid = ?"


def recognises(path: Path) -> bool:
    """Return whether a folder is a store or holds one, or a file is a database of MLflow."""
    return bool(_run_folders(path)) or _database(path) is not None


def read(path: Path) -> Logs:
    """Read all runs that are not deleted."""
    if (database := _database(path)) is not None:
        return _read_database(database)
    folders = _run_folders(path)
    runs, left_out = read_each([(f.name, f) for f in folders], _run_of_folder)
    deleted = [r for r in runs if r.stated.get("deleted")]
    notes = [f"{len(deleted)} deleted runs are passed over"] if deleted else []
    return Logs(
        tool="MLflow",
        runs=[r for r in runs if r not in deleted],
        left_out=left_out,
        notes=notes,
        files=[f / META for f in folders],
    )


def _run_folders(path: Path) -> list[Path]:
    """Return the folders of runs of a store, of an experiment, or of the `mlruns` inside."""
    if not path.is_dir():
        return []
    metas = below(path, META, deepest=3)
    return [m.parent for m in metas if (m.parent / "metrics").is_dir()]


def _database(path: Path) -> Path | None:
    file = path / DATABASE if path.is_dir() else path
    if not file.is_file() or file.suffix != ".db":
        return None
    with file.open("rb") as stream:
        return file if stream.read(15) == b"SQLite format 3" else None


def _run_of_folder(name: str, folder: Path) -> LoggedRun:
    meta = read_yaml(folder / META)
    history = History()
    for file in islice(sorted((folder / "metrics").rglob("*")), MOST_NAMES):
        if file.is_file():
            metric = file.relative_to(folder / "metrics").as_posix()
            for line in lines_of(file):
                _, value, step, *_ = line.split(" ")
                history.add(int(step), {metric: float(value)})
    params = {}
    for file in islice(sorted((folder / "params").rglob("*")), MOST_NAMES):
        if file.is_file():
            text = next(iter(lines_of(file)), "")
            params[file.relative_to(folder / "params").as_posix()] = text
    run = _logged(meta.get("run_name") or name, name, params, history, meta["status"])
    if meta.get("lifecycle_stage") == "deleted":
        return LoggedRun(name=run.name, stated={"deleted": True})
    return run


def _logged(
    shown: str, run_id: str, params: dict[str, str], history: History, status: Any
) -> LoggedRun:
    state = STATES.get(status, status)
    ended = status in FINISHED
    return LoggedRun(
        name=printable(f"{shown} ({run_id[:8]})"),
        settings={printable(k): _setting(v) for k, v in params.items()},
        history=history.values,
        last_step=history.last_step,
        ended=ended,
        why="" if ended else f"its status is {printable(str(state))}",
    )


def _setting(text: str) -> Any:
    """Return a parameter, which MLflow keeps as a text, as a number where it is one."""
    try:
        number = float(text)
    except ValueError:
        return printable(text)
    return number if quantity(number) is not None else printable(text)


def _read_database(path: Path) -> Logs:
    check_readable(path, most_bytes=8 * MOST_LOG_BYTES)
    try:
        waiting = path.with_name(f"{path.name}-wal").exists()  # writes that are not in the file yet
        address = f"{path.resolve().as_uri()}?mode=ro{'' if waiting else '&immutable=1'}"
        with closing(sqlite3.connect(address, uri=True)) as store:
            store.execute("PRAGMA trusted_schema = OFF")
            started = time.monotonic()
            store.set_progress_handler(lambda: time.monotonic() - started > MOST_SECONDS, 100_000)
            found = [(name or uuid, (uuid, status)) for uuid, name, status in store.execute(RUNS)]
            runs, left_out = read_each(found, lambda name, run: _run_of_database(store, name, *run))
    except sqlite3.Error as error:
        raise ValueError(f"{path} is no database of MLflow ({error}); check the path") from error
    return Logs(tool="MLflow", runs=runs, left_out=left_out, files=[path])


def _run_of_database(store: sqlite3.Connection, name: str, uuid: str, status: str) -> LoggedRun:
    history = History()
    for key, step, value in _values(store, uuid):
        history.add(int(step), {key: value})
    params = dict(islice(store.execute(PARAMS, (uuid,)), MOST_NAMES))
    return _logged(name, uuid, params, history, status)


def _values(store: sqlite3.Connection, uuid: str) -> Iterator[tuple[str, int, float]]:
    for key, step, value, is_nan in islice(store.execute(METRICS, (uuid,)), MOST_ROWS + 1):
        yield key, step, float("nan") if is_nan else value
