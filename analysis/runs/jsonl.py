"""Read a table from JSONL: one object a line, integers of any size, a byte-order mark allowed."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd

EXACT_DIGITS = 15  # digits of an integer that a float holds exactly; longer ones become floats


def read_jsonl(path: Path) -> pd.DataFrame:
    """Return the rows; ValueError names the line that is no JSON object."""
    rows: list[dict[str, Any]] = []
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                rows.append(_row(line, f"line {number}"))
    return pd.DataFrame(rows)


def _row(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line, parse_int=_integer, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        text = getattr(error, "msg", None) or str(error)
        raise ValueError(f"{where} is no JSON object: {text}") from error
    if not isinstance(row, dict):
        raise ValueError(f"{where} is no JSON object but {json.dumps(row)[:40]}")
    return row


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= EXACT_DIGITS else float(digits)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        twice = sorted(name for name, many in counts.items() if many > 1)
        raise ValueError(f"the key {twice[0]!r} stands there twice")
    return row
