"""Cells of a study that train at the moment, from the files of their attempts."""

import math
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scaling.schema.files import read_json

# A cell whose attempt was not written for so many seconds does not run: the holder of a lease
# writes it every five (scaling.study.lease, STALE_SECONDS).
SILENT_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class EndForecast:
    """The forecast of a run's final test loss."""

    loss: float
    """The forecast, in nats per token."""
    low: float
    """Lower end of its interval."""
    high: float
    """Upper end of its interval."""
    level: float
    """Share of losses that the interval should hold."""
    step: int
    """Step of the last row of the curve that the forecast rests on."""

    @property
    def digits(self) -> int:
        """The digits after the point that the interval supports, two at least."""
        half = max(self.high - self.low, 1e-4) / 2
        return min(4, max(2, math.ceil(-math.log10(half))))

    def __str__(self) -> str:
        """Return the forecast in words, with the digits that the interval supports."""
        values = (f"{v:.{self.digits}f}" for v in (self.loss, self.low, self.high))
        return "at the end {} [{}, {}]".format(*values)


@dataclass(frozen=True, kw_only=True)
class RunningCell:
    """A cell in training, or the final run, as its process reported it last.

    run_id: of the cell; `final/pretrain` for the final run
    step: last step
    test_loss: last test loss on the windows that curves use, in nats per token; None before one
    at_end: the forecast of the final test loss; None while too little is known
    """

    run_id: str
    step: int
    test_loss: float | None
    at_end: EndForecast | None


def running_cells(folder: str | Path) -> list[RunningCell]:
    """Return the cells of a study that train now, the furthest first; files in pieces are left out.

    The folder is that of the study; one without attempts gives an empty list.
    """
    folder, cells = Path(folder), []
    for place in (*folder.glob("*/attempts"), folder / "final" / "pretrain" / "attempts"):
        files = sorted(place.glob("[0-9]*.json"))
        with suppress(OSError, ValueError, KeyError, TypeError):
            values: Any = read_json(files[-1]) if files else {"ended": "never begun"}
            if values["ended"] is None and time.time() - files[-1].stat().st_mtime < SILENT_SECONDS:
                forecast = values.get("at_end")
                cells.append(
                    RunningCell(
                        run_id=place.parent.relative_to(folder).as_posix(),
                        step=int(values["step"]),
                        test_loss=values.get("test_loss"),
                        at_end=EndForecast(**forecast) if forecast else None,
                    )
                )
    return sorted(cells, key=lambda c: c.step, reverse=True)
