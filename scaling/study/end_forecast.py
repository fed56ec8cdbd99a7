"""The forecast of a cell's final loss while it trains: scaling.curves.at_end on the study's files.

The forecast is made anew after each test loss and goes into the pulse, from which the lease writes
it to the attempt's file. What ended cells say is read once a process.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from scaling.budget import resolve
from scaling.config import CellConfig
from scaling.curves.at_end import EndedCurve, loss_at_end
from scaling.optim.schedule import lr_factor
from scaling.schema import EndForecast, Record, Status, find_record, read_curve
from scaling.study.places import study_folder

MOST_OTHERS = 12  # Ended cells of other trunks that are read, the nearest in FLOPs.


@dataclass
class EndedCells:
    """The ended pretraining cells of a study's folder; each record and curve is read once."""

    folder: Path
    records: dict[str, Record] = field(default_factory=dict)
    curves: dict[str, EndedCurve] = field(default_factory=dict)

    def refresh(self) -> None:
        """Read the records of cells that have ended since the last look."""
        for path in self.folder.glob("*/record.json"):
            name = path.parent.name
            if name in self.records or name == "final":
                continue
            record = find_record(path)
            if record and record.status == Status.DONE and record.stage == "pretrain":
                self.records[name] = record

    def near(self, cell: CellConfig) -> list[EndedCurve]:
        """Return the curves of the cell's own trunk and of the nearest other cells."""
        self.refresh()
        trunk, flops = cell.trunk_id(), resolve(cell).flops
        own = [r for r in self.records.values() if r.trunk == trunk]
        others = [r for r in self.records.values() if r.trunk != trunk and r.flops]
        others.sort(key=lambda r: abs(math.log(r.flops / flops)))
        nearest = [self.curve(r, same_trunk=False) for r in others[:MOST_OTHERS]]
        return [self.curve(r, same_trunk=True) for r in own] + nearest

    def curve(self, record: Record, *, same_trunk: bool) -> EndedCurve:
        """Return the curve of an ended cell."""
        key = f"{record.run_id} {same_trunk}"
        if key not in self.curves:
            self.curves[key] = EndedCurve.of(
                record,
                read_curve(self.folder / record.run_id / "metrics.jsonl"),
                same_trunk=same_trunk,
            )
        return self.curves[key]


@cache
def ended_cells(folder: Path) -> EndedCells:
    """Return the ended cells of a study, the same object each time."""
    return EndedCells(folder)


def forecast_end(
    rows: Sequence[dict[str, Any]], cell: CellConfig, *, unique_tokens: float
) -> EndForecast | None:
    """Forecast the final test loss of a cell; None where too little is known.

    rows: of its curve so far
    cell: the cell
    unique_tokens: how many of its training tokens are different text
    """
    resolved = resolve(cell)
    n_steps, decay_start = resolved.n_steps, resolved.decay_start
    end_rate = lr_factor(
        n_steps - 1, schedule=cell.schedule, n_steps=n_steps, decay_start=decay_start
    )
    return loss_at_end(
        rows,
        n_steps=n_steps,
        end_rate=end_rate,
        warmup_steps=resolved.warmup_steps,
        unique_tokens=unique_tokens,
        finished=ended_cells(study_folder(cell)).near(cell),
    )
