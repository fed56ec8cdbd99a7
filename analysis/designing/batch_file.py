"""design.jsonl: what a design chose, batch by batch, and where the interval stood before each.

A line is written before its cells run and never changed, so what they cost and which they are is
known after any interruption. The last line has no cells and says why the design ended.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from analysis.designing.candidates import Candidate
from analysis.designing.goal import Goal
from analysis.designing.selection import Pick
from analysis.number_text import interval, number, power, short
from scaling.schema import now, parse_json, read_as

NAME = "design.jsonl"
SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One line: `spent` and `cost` in FLOPs, `half` and `wanted` in the unit of the quantity."""

    number: int
    spent: float
    n_runs: int
    status: str
    value: float | None
    interval: list[float]
    half: float | None
    wanted: float | None
    quantity: str
    target_flops: float
    level: float
    cost: float
    cells: list[dict[str, Any]]
    planned: int
    planned_cost: float
    why: str
    stop: str
    made: str = field(default_factory=now)
    schema: int = SCHEMA

    @property
    def run_ids(self) -> list[str]:
        """The cells' names."""
        return [cell["run"] for cell in self.cells]


def append_batch(folder: Path, batch: Batch) -> None:
    """Append a line."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / NAME).open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(asdict(batch), allow_nan=False) + "\n")


def read_batches(folder: Path) -> list[Batch]:
    """Read the lines, none where there is no file; ValueError names one that does not fit."""
    path = folder / NAME
    if not path.is_file():
        return []
    found = []
    fix = "remove the line: the design is made again from the cells"
    for i, line in enumerate(path.read_bytes().splitlines(), start=1):
        source = f"{path}, line {i}"
        try:
            values = parse_json(line)
        except ValueError as error:
            raise ValueError(f"{source} is not JSON ({error}); {fix}") from error
        found.append(read_as(Batch, values, source=source, noun="batch", fix=fix, schema=SCHEMA))
    return found


def cell_rows(
    picks: Sequence[Pick], candidates: Sequence[Candidate], halves: Sequence[float]
) -> list[dict[str, Any]]:
    """Return chosen cells as plain rows, `half` what the half-width should be after each."""
    rows = []
    for i, pick in enumerate(picks):
        cell = candidates[pick.index]
        rows.append(
            {
                "run": cell.name,
                "params": cell.params,
                "tokens": cell.tokens,
                "flops": cell.flops,
                "seed": cell.seed,
                "cost": pick.flops,
                "half": halves[i] if i < len(halves) else None,
                "per_flop": pick.per_flop if halves else None,
            }
        )
    return rows


def told(batch: Batch, goal: Goal) -> list[str]:
    """Return a batch in words: where the interval stands, what is chosen, why."""
    unit = "nats" if goal.quantity == "loss" else "of N*"
    head = f"design {batch.number}: {batch.n_runs} cells fitted, {short(batch.spent)} FLOPs spent"
    if batch.half is not None:
        head += f"; {standing_words(batch)}, half-width {number(batch.half, 3)} {unit}" + (
            f", wanted {number(batch.wanted, 3)}" if batch.wanted else ""
        )
    if batch.stop:
        return [head, f"ended: {batch.stop}"]
    planned = ""
    if batch.planned > len(batch.cells):
        planned = f" (the first of {batch.planned} planned, {power(batch.planned_cost)} FLOPs)"
    lines = [head, f"next {len(batch.cells)} cells{planned}; {batch.why}"]
    for cell in batch.cells:
        then = "" if cell["half"] is None else f", then {number(cell['half'], 3)}"
        lines.append(
            f"  {cell['run']}  N {short(cell['params'])}  D {short(cell['tokens'])}  "
            f"C {power(cell['flops'])}  costs {power(cell['cost'])}{then}"
        )
    return lines


def standing_words(batch: Batch) -> str:
    """Say the value and its interval."""
    name = "loss" if batch.quantity == "loss" else "N*"
    return (
        f"{name} at {power(batch.target_flops)} FLOPs {number(batch.value)}"
        f" {interval(batch.interval)}"
    )
