"""The importers: how the source of each is recognised, and the one that reads a source.

runs=wandb:ENTITY/PROJECT     a project, through wandb's public API
runs=FOLDER or runs=FILE      logs, recognised by the names and layouts of their files
runs=TOOL:PATH                logs of that tool, where a folder holds those of several
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.runs.columns import Columns
from analysis.runs.files import TABLES
from analysis.runs.importers import (
    lm_eval_results,
    mlflow_store,
    nanochat,
    olmo,
    tensorboard_events,
    torchtitan,
    transformers_state,
    wandb_offline,
    wandb_project,
)
from analysis.runs.importers.logged_run import Logs
from analysis.runs.importers.names import is_training_loss
from analysis.runs.importers.options import LogsConfig
from analysis.runs.importers.rows import Table, curves_of, table_of
from scaling.schema import check_listable, near_path, sha256_file

MOST_HASHED = 1_000  # files of a source whose hashes law.json holds


@dataclass(frozen=True, kw_only=True)
class Importer:
    """How one tool's files are recognised and read; `read` takes the path."""

    recognises: Callable[[Path], bool]
    read: Callable[[Path], Logs]


IMPORTERS = {  # in the order in which a folder is tried: the more a tool's files say, the earlier
    "transformers": Importer(
        recognises=transformers_state.recognises, read=transformers_state.read
    ),
    "mlflow": Importer(recognises=mlflow_store.recognises, read=mlflow_store.read),
    "wandb_offline": Importer(recognises=wandb_offline.recognises, read=wandb_offline.read),
    "nanochat": Importer(recognises=nanochat.recognises, read=nanochat.read),
    "torchtitan": Importer(recognises=torchtitan.recognises, read=torchtitan.read),
    "olmo": Importer(recognises=olmo.recognises, read=olmo.read),
    "tensorboard": Importer(recognises=tensorboard_events.recognises, read=tensorboard_events.read),
    "lm_eval": Importer(recognises=lm_eval_results.recognises, read=lm_eval_results.read),
}
OWN_FILES = ("*/record.json", "jobs.jsonl")  # of a study of this project, which is no log


def is_logs(source: str | Path) -> bool:
    """Return whether a source is logs of another tool, and no study and no table."""
    text, path = str(source), Path(source)
    if _prefix(text):
        return True
    if path.is_file():
        return path.suffix.lower() not in TABLES and bool(tools_of(path))
    if not path.is_dir() or any(next(path.glob(name), None) for name in OWN_FILES):
        return False
    return bool(tools_of(check_listable(path)))


def is_study(source: str | Path) -> bool:
    """Return whether a source is a folder, and not one of another tool's logs."""
    return Path(source).is_dir() and not is_logs(source)


def tools_of(path: Path) -> list[str]:
    """Return the names of the importers that recognise a path, the first of which reads it."""
    return [name for name, importer in IMPORTERS.items() if importer.recognises(path)]


def read_logs(source: str | Path, *, histories: bool = False) -> Logs:
    """Return the runs of a source.

    source: wandb:ENTITY/PROJECT, TOOL:PATH, a folder or a file
    histories: whether metrics by step are read where they cost a request (wandb:)

    Raises FileNotFoundError for a path that is not there, ValueError for one that no importer
    recognises and for what the importer refuses.
    """
    text, prefix = str(source), _prefix(str(source))
    if prefix == "wandb":
        return wandb_project.read(text, histories=histories)
    path = Path(text.partition(":")[2] if prefix else text)
    if not path.exists():
        raise FileNotFoundError(f"no logs {path}{near_path(path)}; check the path given as runs=")
    tools = tools_of(path)
    if prefix and prefix not in tools:
        also = f"; it holds those of {', '.join(tools)}" if tools else ""
        raise ValueError(f"{path} holds no logs of {prefix}{also}; check runs={text}")
    if not tools:
        raise ValueError(f"{path} holds no logs of {', '.join(IMPORTERS)}; check the path")
    logs = IMPORTERS[prefix or tools[0]].read(path)
    if others := [t for t in tools if t != (prefix or tools[0])]:
        logs.notes.append(
            f"the folder holds logs of {', '.join(others)} too, which runs={others[0]}:{path} reads"
        )
    return logs


def read_runs(
    source: str | Path, *, columns: Columns | None = None, logs: LogsConfig | None = None
) -> tuple[Table, dict[str, Any]]:
    """Return the table of a source, before units are converted, and its `inputs` for law.json.

    source: as `read_logs` takes it
    columns: a `loss` other than its default names the metric that is read
    logs: what the logs do not say
    """
    of_source = read_logs(source)
    table = table_of(of_source, columns or Columns(), logs or LogsConfig())
    reading: dict[str, Any] = {
        "tool": of_source.tool,
        "loss": table.loss,
        "training_loss": of_source.tool != "lm-eval" and is_training_loss(table.loss),
        "notes": table.notes,
    }
    inputs: dict[str, Any] = {"source": str(source), "logs": reading}
    if of_source.files:
        files = of_source.files[:MOST_HASHED]
        inputs["sha256"] = {p.as_posix(): sha256_file(p) for p in files}
    if logs and logs.beside:
        reading["beside"] = {logs.beside: sha256_file(logs.beside)}
    return table, inputs


def read_curves(
    source: str | Path, *, columns: Columns | None = None, logs: LogsConfig | None = None
) -> pd.DataFrame:
    """Return the courses of all runs: columns schedule, step, lr, loss (in the logs' unit).

    source, columns, logs: as `read_runs` takes them

    `schedule` is the run's name. A row is a step at which the loss was logged. Raises ValueError
    where no run has both a loss and a rate by step.
    """
    of_source = read_logs(source, histories=True)
    return curves_of(of_source, columns or Columns(), logs or LogsConfig())


def _prefix(source: str) -> str:
    """Return the tool that a source names before a colon; empty for a plain path."""
    name, colon, _ = source.partition(":")
    return name if colon and name in (*IMPORTERS, "wandb") else ""
