"""What a report of a table of runs shows: the table, its law, and a plan where one is named.

The law is fitted as `scaling fit runs=TABLE` fits it, unless a file is named. It is
written beside the page, so that a plan can follow from it.
"""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from analysis.estimation.checks import needed_columns, stage_of
from analysis.estimation.fit import fit
from analysis.laws.law import Law
from analysis.page.contents import Material
from analysis.page.figure_files import thinned
from analysis.page.sections.mixture import FILE, read_mixture
from analysis.planning.written.plan_file import read_plan
from analysis.runs.columns import Columns
from analysis.runs.example import example_or
from analysis.runs.files import read_file
from analysis.runs.importers.options import LogsConfig
from analysis.runs.table import load_runs
from analysis.solve.progress import OnProgress, no_progress
from scaling.schema import Measure, sha256_file

NO_TABLE = (".json", ".yaml", ".yml", ".html")  # endings of the files that a study has beside it


def refuse_no_table(path: Path) -> None:
    """Raise ValueError for a file that a study or a plan is made of, which is given as a table."""
    if path.suffix in NO_TABLE and (path.is_file() or not path.exists()):
        raise ValueError(
            f"runs={path} is no study and no table; give the study's folder or a table of runs, as"
            f" runs={path.parent if path.parent.name else 'runs/NAME'} or runs=TABLE.csv"
        )


def read_table(
    path: str | Path,
    *,
    page: str | Path,
    form: str = "chinchilla",
    columns: Columns | None = None,
    law: str = "",
    plan: str = "",
    context: float | None = None,
    logs: LogsConfig | None = None,
    on_progress: OnProgress = no_progress,
) -> Material:
    """Read a table of runs and its law, or fit the law and write it beside the page.

    path: CSV, Parquet or JSONL file, logs of another tool, or `example`
    page: the file that the page is written to
    form: that is fitted
    columns: what our columns are called in the table
    law, plan: their files; empty fits the law, and shows no plan
    context: tokens of a sequence, where the table has a column batch_sequences
    logs: what logs of another tool do not say
    on_progress: takes (stage, done, total) while the law is fitted

    Raises ValueError in one sentence for a table that cannot be read or cannot carry the form.
    """
    path = Path(path)
    mixture = read_mixture(path.parent, path) if path.is_file() else None
    if mixture and not law and not {"params", "tokens", "loss"} & set(read_file(path)[0].columns):
        return _of_mixtures(path, mixture)
    needed, stage = needed_columns(form), stage_of(form)
    runs = load_runs(
        path,
        columns=columns or Columns(),
        needed=needed,
        stage=stage,
        context=context,
        logs=logs,
    )
    law_path = Path(law) if law else Path(page).with_suffix(".law.json")
    if law:
        fitted = Law.read(law_path)
    else:
        fitted = fit(runs, form, on_progress=on_progress)
        named = [f"columns.{k}={v}" for k, v in (runs.inputs.get("columns") or {}).items()]
        named += [] if context is None else [f"context={context:g}"]
        given = {k: v for k, v in asdict(logs or LogsConfig()).items() if v}
        named += [
            f"logs.{k}={v:.15g}" if isinstance(v, float) else f"logs.{k}={v}"
            for k, v in given.items()
        ]
        arguments = [f"runs={path.as_posix()}", f"form={form}", *named, f"out={law_path}"]
        fitted = replace(fitted, inputs={**fitted.inputs, "arguments": arguments})
        fitted.write(law_path)
    plan_path = Path(plan) if plan else Path("plan.yaml")
    source = Path(str(example_or(path)))
    files = [*([source] if source.is_file() else []), law_path, *([plan_path] if plan else [])]
    table = thinned(runs.table) if "run" in runs.table else thinned(runs.table).assign(run="")
    return Material(
        folder=path,
        records=[],
        law=fitted,
        law_path=law_path,
        measure=Measure(),
        plan=read_plan(plan_path) if plan else None,
        plan_path=plan_path,
        sha256={p.name: sha256_file(p) for p in files},
        table=table,
        mixture=mixture,
        unread_rows=len(runs.table) - len(table),
    )


def _of_mixtures(path: Path, mixture: dict[str, Any]) -> Material:
    """Return what the page of a table of shares and losses shows: no law in N and D."""
    rows, _ = read_file(path)
    table = thinned(rows).assign(run="")
    files = [path, path.parent / FILE]
    return Material(
        folder=path,
        records=[],
        law=None,
        plan=None,
        sha256={p.name: sha256_file(p) for p in files},
        table=table,
        mixture=mixture,
        unread_rows=len(rows) - len(table),
    )
