"""design.jsonl: the batches of a design, each with the interval before its cells ran.

A line is written before its cells run and never changed, so that cells and cost are known after any
interruption. The last line has no cells and says why the design ended.
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
from scaling.app.plurals import plural
from scaling.schema import now, parse_json, read_as

NAME = "design.jsonl"
SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One line: `spent` and `cost` in FLOPs, `half` and `wanted` in the unit of the quantity.

    `wanted` is the precision, `planned` the number of cells that the goal is expected to need.
    """

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
    batches = []
    fix = "remove the line: the design is made again from the cells"
    for i, line in enumerate(path.read_bytes().splitlines(), start=1):
        source = f"{path}, line {i}"
        try:
            values = parse_json(line)
        except ValueError as error:
            raise ValueError(f"{source} is not JSON ({error}); {fix}") from error
        batches.append(read_as(Batch, values, source=source, noun="batch", fix=fix, schema=SCHEMA))
    return batches


def cell_rows(
    picks: Sequence[Pick], candidates: Sequence[Candidate], halves: Sequence[float]
) -> list[dict[str, Any]]:
    """Return the picked cells as plain rows; `half` is the half-width expected after each."""
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


def batch_lines(batch: Batch, goal: Goal) -> list[str]:
    """Return a batch as text: the interval so far, the cells that are next, and why."""
    unit = "nats" if goal.quantity == "loss" else "of N*"
    fitted = plural(batch.n_runs, "cell")
    head = f"design {batch.number}: {fitted} fitted, {short(batch.spent)} FLOPs spent"
    if batch.half is not None:
        head += f"; {interval_text(batch)}, half-width {number(batch.half, 3)} {unit}" + (
            f", wanted {number(batch.wanted, 3)}" if batch.wanted else ""
        )
    if batch.stop:
        return [head, f"ended: {batch.stop}"]
    planned = ""
    if batch.planned > len(batch.cells):
        planned = f" (the first of {batch.planned} planned, {power(batch.planned_cost)} FLOPs)"
    lines = [head, f"next {plural(len(batch.cells), 'cell')}{planned}; {batch.why}"]
    for cell in batch.cells:
        then = "" if cell["half"] is None else f", then {number(cell['half'], 3)}"
        lines.append(
            f"  {cell['run']}  N {short(cell['params'])}  D {short(cell['tokens'])}  "
            f"C {power(cell['flops'])}  costs {power(cell['cost'])}{then}"
        )
    return lines


def interval_text(batch: Batch) -> str:
    """Return the target's value and its interval as text."""
    name = "loss" if batch.quantity == "loss" else "N*"
    return (
        f"{name} at {power(batch.target_flops)} FLOPs {number(batch.value)}"
        f" {interval(batch.interval)}"
    )
