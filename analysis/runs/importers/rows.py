"""From logged runs to the rows of a table: which loss, at which step, N, D, C, rate and batch.

The columns are run, params, tokens, flops, lr, batch, seed and step under our names, then the
chosen loss, all other metrics (their last values) and all settings under the names of the logs, so
that `columns.KEY=NAME` and `where=` reach each. A metric or setting that is called as one of our
columns gets `metric.` or `config.` before its name: what a log calls `loss` is its training loss.
A training loss is read only where it is named.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import pandas as pd

from analysis.runs.columns import Columns
from analysis.runs.importers import names
from analysis.runs.importers.beside import Beside
from analysis.runs.importers.logged_run import LoggedRun, Logs
from analysis.runs.importers.options import LogsConfig
from analysis.runs.importers.run_values import ValuesOf, first_number, rate_of
from scaling.app.quoting import override

SHOWN = 4  # names that a sentence lists before it ends in `..`
MOST_COLUMNS = 400  # metrics and settings in the table beside our columns
FEWEST_PARAMS = 1e3  # below, a number of parameters is in millions or billions
FEWEST_TOKENS = 1e3  # likewise of training tokens
NEARLY = 0.98  # share of the planned steps from which a run counts as ended
OURS = {*Columns().names(), "run", "step"}


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of logged runs.

    rows: one a run, columns as this module's docstring says
    loss: the name of the loss's column; empty where no run has one
    left_out: [{"run", "why"}]
    notes: sentences on what was read and how
    """

    rows: pd.DataFrame
    loss: str
    left_out: list[dict[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def table_of(logs: Logs, columns: Columns, options: LogsConfig) -> Table:
    """Return the table of logged runs.

    logs: the runs
    columns: a `loss` other than its default names the metric that is read
    options: what the logs do not say

    Raises ValueError in one sentence for no runs, no loss on held-out text, or several of them.
    """
    beside = Beside.read(options.beside, [run.name for run in logs.runs])
    loss = chosen_loss(logs, columns, beside)
    notes, left_out, rows = list(logs.notes), list(logs.left_out), []
    seen: dict[str, str] = {}
    for run in logs.runs:
        row, why = _row(run, loss, options, beside.of(run.name), seen)
        if why:
            left_out.append({"run": run.name, "why": why})
        else:
            rows.append(row)
    if not rows:
        raise ValueError(_nothing(logs, left_out))
    table = pd.DataFrame(rows)
    front = [c for c in ("run", *Columns().names(), "step", loss) if c in table]
    rest = [c for c in table if c not in front]
    if len(rest) > MOST_COLUMNS:
        notes.append(f"{len(rest) - MOST_COLUMNS} more metrics and settings are not in the table")
    table = table.loc[:, list(dict.fromkeys(front)) + rest[:MOST_COLUMNS]]
    return Table(rows=table, loss=loss, left_out=left_out, notes=[*notes, *seen.values()])


def chosen_loss(logs: Logs, columns: Columns, beside: Beside) -> str:
    """Return the name of the loss that is read: the one that is asked for, else on held-out text.

    Empty where the CSV beside the logs gives it, or where a user asks for no loss and none is there
    but other results are. Raises ValueError where there are several, or training losses alone.
    """
    metrics = list(dict.fromkeys(_column(m, "metric") for run in logs.runs for m in run.metrics))
    if columns.loss in beside.columns:
        return columns.loss
    if columns.loss != "loss":
        settings = dict.fromkeys(s for run in logs.runs for s in run.settings)
        return _asked_for(columns.loss, [*metrics, *settings], logs.tool)
    usual = [m for pattern in logs.losses for m in metrics if fnmatchcase(m, pattern)]
    found = list(dict.fromkeys(usual)) or [m for m in metrics if names.is_held_out_loss(m)]
    in_nats = [m for m in found if not names.EXPONENTIAL.search(names.plain(m))]
    found = in_nats or found
    if len(found) == 1 or (found and found[0] in logs.losses):
        return found[0]
    if found:
        raise ValueError(
            f"the {logs.tool} runs have {len(found)} losses on held-out text ({_listed(found)});"
            f" name the one to fit, as {override('columns.loss', found[0])}"
        )
    training = [m for m in metrics if names.is_training_loss(m)]
    if training:
        raise ValueError(
            f"the {logs.tool} runs have no loss on held-out text, only {_listed(training)} of"
            f" training; to fit it all the same name it, as"
            f" {override('columns.loss', training[0])}, or give the loss in a CSV, as"
            " logs.beside=FILE.csv with columns run and loss"
        )
    return ""


def _asked_for(loss: str, present: list[str], tool: str) -> str:
    """Return the name of a loss; ValueError, which names the nearest, where no run has it."""
    if loss not in present:
        near = difflib.get_close_matches(loss, present, n=3, cutoff=0.4) or present[:SHOWN]
        raise ValueError(
            f"no {tool} run has a metric {loss!r}; nearest are {', '.join(near)}: set"
            f" {override('columns.loss', near[0] if near else 'NAME')}"
        )
    return loss


def _row(
    run: LoggedRun, loss: str, options: LogsConfig, beside: Mapping[str, Any], seen: dict[str, str]
) -> tuple[dict[str, Any], str]:
    """Return the row of a run, or why it is left out; `seen` collects notes on conversions."""
    by_column = {_column(m, "metric"): m for m in run.metrics}
    value, step = run.last(by_column[loss]) if loss in by_column else (None, run.last_step)
    if loss and value is None and loss not in beside and loss not in run.settings:
        return {}, f"it has no finite {loss}"
    why = _unfinished(run, step)
    if why and not options.unfinished:
        return {}, f"{why} (logs.unfinished=true takes it)"
    values = ValuesOf(run, step, options, beside, seen)
    ours = {"run": run.name, **values.ours()}
    for name, fewest in (("params", FEWEST_PARAMS), ("tokens", FEWEST_TOKENS)):
        if name in ours and ours[name] < fewest:
            return {}, (
                f"its {name} are {ours[name]:g}, which is in millions or billions; give the number"
                f" itself, or a text as 125M, in logs.beside=FILE.csv"
            )
    ours |= {"step": step} if step is not None else {}
    metrics = {
        column: run.last(metric)[0]
        for column, metric in by_column.items()
        if not names.LR_METRIC.search(names.plain(metric))
    }
    settings = {_column(k, "config"): v for k, v in run.settings.items() if k not in ours}
    return {**settings, **metrics, **beside, **ours}, ""


def _unfinished(run: LoggedRun, step: int | None) -> str:
    """Return why a run has no final loss; empty where it ended as planned or nothing is said."""
    if run.ended is False:
        return run.why or "it did not end"
    planned = run.stated.get("planned_steps") or first_number(run.settings, names.PLANNED_STEPS)
    if planned and step is not None and run.last_step is not None:
        if run.last_step < NEARLY * planned:
            return f"it stands at step {run.last_step:,} of {planned:,.0f}"
        if step < NEARLY * planned:
            return f"its loss is of step {step:,} of {planned:,.0f}"
    return ""


def curves_of(logs: Logs, columns: Columns, options: LogsConfig) -> pd.DataFrame:
    """Return the courses of the runs: columns schedule (the run), step, lr, loss.

    A row is a step after 0 at which the loss was logged; its rate is the one logged at that step or
    last before it. Runs that stopped are there too. `attrs` of the frame has the loss's name, which
    says its unit. Raises ValueError where no run has both.
    """
    loss = chosen_loss(logs, columns, Beside.read(options.beside, [r.name for r in logs.runs]))
    parts = []
    for run in logs.runs:
        losses = {_column(m, "metric"): v for m, v in run.history.items()}.get(loss, {})
        rates = rate_of(run)
        if not losses or not rates:
            continue
        of_loss = pd.DataFrame({"step": list(losses), "loss": list(losses.values())})
        of_rate = pd.DataFrame({"step": list(rates), "lr": list(rates.values())})
        both = pd.merge_asof(of_loss.sort_values("step"), of_rate.sort_values("step"), on="step")
        parts.append(both[both["step"] > 0].assign(schedule=run.name).dropna())
    if not any(map(len, parts)):
        raise ValueError(
            f"no {logs.tool} run logged both a learning rate and {loss or 'a loss'} by step, which"
            " curves need; name the loss by columns.loss=NAME"
        )
    curves = pd.concat(parts, ignore_index=True).loc[:, ["schedule", "step", "lr", "loss"]]
    curves.attrs["loss"] = loss
    return curves


def _column(name: str, prefix: str) -> str:
    """Return the column of a metric or setting: its name, prefixed where it is one of ours."""
    return f"{prefix}.{name}" if name in OURS else name


def _listed(found: list[str]) -> str:
    return ", ".join(found[:SHOWN]) + (", .." if len(found) > SHOWN else "")


def _nothing(logs: Logs, left_out: list[dict[str, str]]) -> str:
    if not left_out:
        return f"the {logs.tool} logs hold no run; check the path"
    whys = "; ".join(dict.fromkeys(one["why"] for one in left_out[:SHOWN]))
    return f"none of {len(left_out)} {logs.tool} runs can be read ({whys})"
