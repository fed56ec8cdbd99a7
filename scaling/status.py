"""Say how every cell of a study stands, one line each.

    python -m scaling.status runs/NAME [--json]

Reads the folder alone: records say done, diverged or failed and why; a curve without a record is a
cell that runs or was killed. Exit status 1 when a cell failed.
"""

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from scaling.schema import Record, read_curve, read_record

QUIET_SECONDS = 300  # a curve that has not grown for this long belongs to a killed run


@dataclass(frozen=True, kw_only=True)
class CellStatus:
    """One cell as its files show it."""

    run_id: str
    state: str  # done, diverged, failed, running, stopped
    step: int
    tokens: int
    test_loss: float | None
    error: str


def read_status(folder: str | Path) -> list[CellStatus]:
    """Return every cell of a study folder; FileNotFoundError without one."""
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"no study folder {folder}; run the sweep first or check the path")
    cells = sorted(
        p
        for p in folder.iterdir()
        if p.is_dir() and not p.name.startswith(".") and p.name not in ("final", "wandb")
    )
    return [of_cell(p) for p in cells]


def of_cell(folder: Path) -> CellStatus:
    """Return a cell's status from its record, or from its curve while there is none."""
    path = folder / "record.json"
    if path.is_file():
        return of_record(read_record(path))
    curve = folder / "metrics.jsonl"
    last = (read_curve(curve) or [{}])[-1]
    fresh = curve.exists() and time.time() - curve.stat().st_mtime < QUIET_SECONDS
    return CellStatus(
        run_id=folder.name,
        state="running" if fresh else "stopped",
        step=last.get("step", 0),
        tokens=last.get("tokens", 0),
        test_loss=last.get("test_loss"),
        error="" if fresh else "no record and no news; run the sweep again to resume it",
    )


def of_record(record: Record) -> CellStatus:
    """Return the status that a record states."""
    lines = (record.error or "").strip().splitlines()
    return CellStatus(
        run_id=record.run_id,
        state=record.status,
        step=record.steps,
        tokens=record.tokens,
        test_loss=record.test_loss,
        error=lines[-1] if lines else "",
    )


def show(cells: list[CellStatus]) -> str:
    """Return the table: one line a cell, then the counts."""
    lines = [f"{'cell':10}  {'state':8} {'step':>7} {'tokens':>12} {'test loss':>9}  why"]
    for c in cells:
        loss = "" if c.test_loss is None else f"{c.test_loss:.4f}"
        lines.append(
            f"{c.run_id:10}  {c.state:8} {c.step:7} {c.tokens:12,} {loss:>9}  {c.error}".rstrip()
        )
    counts = {s: sum(c.state == s for c in cells) for s in sorted({c.state for c in cells})}
    return (
        "\n".join([*lines, ", ".join(f"{n} {s}" for s, n in counts.items()) or "no cells yet"])
        + "\n"
    )


def main() -> int:
    """Print the status; 0, or 1 when a cell failed or the folder is missing."""
    parser = argparse.ArgumentParser(
        prog="python -m scaling.status", description="How every cell of a study stands."
    )
    parser.add_argument("folder", help="runs/NAME")
    parser.add_argument("--json", action="store_true", help="one JSON list instead of the table")
    arguments = parser.parse_args()
    try:
        cells = read_status(arguments.folder)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    sys.stdout.write(
        json.dumps([asdict(c) for c in cells]) + "\n" if arguments.json else show(cells)
    )
    return int(any(c.state == "failed" for c in cells))


if __name__ == "__main__":
    sys.exit(main())
