"""All cells of a study as a table that sorts and filters: the first rows as text, the rest as data.

A page holds at most `MOST_ROWS` rows as markup. Those beyond are numbers in JSON, from which the
page makes rows when the table is opened, so that thousands of cells stay a small file. `KINDS` says
how a column's numbers are written; page.js writes those beyond in the same way.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd
from markupsafe import Markup

from analysis.figures.canvas import MOST_TIPS
from analysis.number_text import power, short
from analysis.page.contents import Material
from scaling.schema import Record

MOST_ROWS = 300
KINDS: dict[str, Callable[[float], str]] = {
    "count": short,
    "power": lambda v: power(v, 3),
    "ratio": lambda v: f"{v:.3g}",
    "loss": lambda v: f"{v:.4f}",
    "whole": lambda v: f"{v:.0f}",
    "time": lambda v: f"{v:.1f}",
}
Value = str | float | None


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of the table: its head, and how its numbers are written; no kind is text."""

    label: str
    kind: str = ""


@dataclass(frozen=True, kw_only=True)
class CellTable:
    """The table: columns, rows in sight with the place of each curve, and the rest as JSON."""

    columns: tuple[Column, ...]
    rows: list[list[dict[str, Any]]]
    count: int
    more: Markup


OF_RECORDS = (
    Column(label="run"),
    Column(label="status"),
    Column(label="schedule"),
    Column(label="seed", kind="whole"),
    Column(label="N", kind="count"),
    Column(label="D", kind="count"),
    Column(label="D/N", kind="ratio"),
    Column(label="C (FLOPs)", kind="power"),
    Column(label="test loss", kind="loss"),
    Column(label="±", kind="loss"),
    Column(label="bits/byte", kind="loss"),
    Column(label="steps", kind="whole"),
    Column(label="batch", kind="whole"),
    Column(label="peak lr", kind="ratio"),
    Column(label="seconds", kind="time"),
    Column(label="tokens/s", kind="count"),
)
OF_TABLE = (
    Column(label="row"),
    Column(label="N", kind="count"),
    Column(label="D", kind="count"),
    Column(label="D/N", kind="ratio"),
    Column(label="C (FLOPs)", kind="power"),
    Column(label="loss", kind="loss"),
)


def cell_table(material: Material) -> CellTable:
    """Return every cell of a study, failed ones included, or every row of a table."""
    columns, values = OF_RECORDS, [list(_of_record(r, material.count)) for r in _cells(material)]
    curves: set[str] = set()
    if material.table is not None:
        columns, values = OF_TABLE, [list(_of_row(row)) for _, row in material.table.iterrows()]
    elif len(drawn := set(material.training["run"])) <= MOST_TIPS:
        curves = drawn
    shown = [
        [_text(v, c, curves) for v, c in zip(row, columns, strict=True)]
        for row in values[:MOST_ROWS]
    ]
    more = [[_short(v) for v in row] for row in values[MOST_ROWS:]]
    text = json.dumps(more, separators=(",", ":")).replace("<", "\\u003c")
    return CellTable(columns=columns, rows=shown, count=len(values), more=Markup(text))


def _cells(material: Material) -> list[Record]:
    return [r for r in material.records if r.stage == "pretrain"]


def _of_record(r: Record, count: str) -> Iterator[Value]:
    n = getattr(r.params, count)
    yield from (r.run_id, r.status, r.schedule, r.seed, n, r.tokens, r.tokens / n, r.flops)
    yield from (r.test_loss, r.test_loss_se, r.bits_per_byte, r.steps, r.batch_tokens, r.peak_lr)
    yield from (r.seconds, r.tokens_per_second)


def _of_row(row: pd.Series) -> Iterator[Value]:
    n, d = row.get("params"), row.get("tokens")
    yield str(row.get("run", row.name))
    yield from (n, d, d / n if n and d else None, row.get("flops"), row.get("loss"))


def _text(value: Value, column: Column, curves: set[str]) -> dict[str, Any]:
    """Return text, value to sort by (None for text), and the place of the run's curve, or ""."""
    if not column.kind:
        link = f"#curves-run-{value}" if column.label == "run" and value in curves else ""
        return {"text": value, "sort": None, "link": link}
    if value is None or pd.isna(value):
        return {"text": "–", "sort": "", "link": ""}
    number = float(value)
    return {"text": KINDS[column.kind](number), "sort": f"{number:.9g}", "link": ""}


def _short(value: Value) -> Value:
    if isinstance(value, str) or value is None:
        return value
    return None if pd.isna(value) else float(f"{value:.9g}")
