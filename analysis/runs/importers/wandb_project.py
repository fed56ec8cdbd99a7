"""Runs of a wandb project through wandb's public API: `wandb:ENTITY/PROJECT`.

A table is made from the configurations and summaries, which hold the last value of each metric;
the histories are read for curves alone, since each costs a request.
"""

import inspect
import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

from analysis.runs.importers.logged_run import (
    MOST_ROWS,
    MOST_RUNS,
    History,
    LoggedRun,
    Logs,
    finite,
    flat,
    printable,
    read_each,
)

PROJECT = re.compile(r"wandb:([^/\s:]+)/([^/\s:]+)/?$")
SECONDS = 30  # that one request may take
PAGE = 100  # runs of one request


def recognises(source: str) -> bool:
    """Return whether a source names a project."""
    return source.startswith("wandb:")


def read(source: str, *, histories: bool) -> Logs:
    """Read all runs of a project.

    source: wandb:ENTITY/PROJECT
    histories: whether the metrics by step are read too

    Raises ValueError where wandb is missing, refuses, or has no such project.
    """
    match = PROJECT.match(source)
    if not match:
        raise ValueError(
            f"runs={source} names no project of wandb; give the entity and the project, as"
            " runs=wandb:ENTITY/PROJECT"
        )
    found, count = [], 0
    for run in _runs(f"{match[1]}/{match[2]}"):
        count += 1
        if count > MOST_RUNS:
            break
        found.append((printable(f"{run.name} ({run.id})"), run))
    runs, left_out = read_each(found, lambda name, run: _run(name, run, histories))
    notes = [] if histories else ["values are those of wandb's summary, the last of each metric"]
    if count > MOST_RUNS:
        notes.append(f"only the first {MOST_RUNS:,} runs of the project are read")
    return Logs(tool="wandb", runs=runs, left_out=left_out, notes=notes)


def _runs(project: str) -> Iterator[Any]:
    """Yield the runs of a project; ValueError where wandb is missing or does not give them."""
    try:
        import wandb
    except ImportError as error:
        raise ValueError(
            "wandb is not installed, which runs=wandb: needs; run pip install wandb"
        ) from error
    with _one_sentence(f"the runs of {project}"):
        api = wandb.Api(timeout=SECONDS)
        lazy = "lazy" in inspect.signature(api.runs).parameters  # of versions that load in parts
        whole: dict[str, Any] = {"lazy": False} if lazy else {}
        yield from api.runs(project, per_page=PAGE, **whole)


@contextmanager
def _one_sentence(what: str) -> Iterator[None]:
    """Turn whatever wandb raises, some of which has no class of its own, into a ValueError."""
    try:
        yield
    except Exception as error:  # whatever fails in wandb
        text = " ".join(str(error).split())[:300] or type(error).__name__
        raise ValueError(
            f"wandb did not give {what} ({text}); check the names, `wandb login` and the network"
        ) from error


def _run(name: str, run: Any, histories: bool) -> LoggedRun:
    history = History()
    if histories:
        with _one_sentence("its history"):
            rows = list(islice(run.scan_history(), MOST_ROWS))
        for row in rows:
            history.add(int(row["_step"]), {k: v for k, v in row.items() if k[:1] != "_"})
    summary = flat(dict(run.summary_metrics or {}))
    last_step = finite(summary.get("_step"))
    ended = run.state == "finished"
    return LoggedRun(
        name=name,
        settings=flat({k: v for k, v in run.config.items() if not k.startswith("_")}),
        history=history.values,
        summary={k: float(v) for k, v in summary.items() if k[:1] != "_" and finite(v) is not None},
        last_step=int(last_step) if last_step is not None else history.last_step,
        ended=ended,
        why="" if ended else f"its state is {printable(str(run.state))}",
    )
