"""The sealed forecast curve as a corridor that a final run should stay in (LAWS 8, step 7).

At 10, 25, 50 and 75 % of its tokens the run is scored on the windows that curves are scored on, and
held to the forecast there. Outside the 95 % band twice in a row it has left the corridor: a warning
and a flag of its record, or, with stop_outside=true, a checkpoint and an end. Kept in
runs/NAME/final/curve.json.
"""

import itertools
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import NormalDist
from typing import Any

from scaling.schema import deviations, read_json, write_json

log = logging.getLogger(__name__)

LEVEL = 0.95
WIDTH = NormalDist().inv_cdf((1 + LEVEL) / 2)  # deviations to each side
IN_A_ROW = 2
FLAG = "left_forecast"


@dataclass(frozen=True, kw_only=True)
class Corridor:
    """Forecasts by step: each {share, tokens, test_loss, interval}, interval at `level`."""

    forecasts: dict[int, dict[str, Any]] = field(default_factory=dict)
    level: float = LEVEL
    path: Path = Path()
    stop: bool = False

    @classmethod
    def of(cls, sealed: dict[str, Any], *, n_steps: int, path: Path, stop: bool) -> "Corridor":
        """Return the corridor of a sealed forecast; empty where it rests on no curves.

        Without curves it is the law of finished runs, which a run under way lies above.
        """
        rows = [r for r in sealed.get("curve", ()) if r.get("curves") and r["interval"]]
        steps = [max(1, round(r["share"] * n_steps)) for r in rows]
        found = dict(zip(steps, rows, strict=True))
        return cls(forecasts=found, level=sealed["level"], path=path, stop=stop)

    @property
    def steps(self) -> frozenset[int]:
        """Steps after which the test loss is wanted."""
        return frozenset(self.forecasts)

    def readings(self, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return forecast against measurement at each step of the corridor in a curve's rows."""
        return [
            self._reading(row)
            for row in rows
            if row["step"] in self.forecasts and row.get("test_loss") is not None
        ]

    def seen(self, rows: Sequence[dict[str, Any]]) -> str:
        """Note where a run stands after a step of the corridor; return an outcome to end as."""
        found = self.readings(rows)
        left = out_of(found)
        write_json(self.path, {"schema": 1, "level": LEVEL, "rows": found, "left": left})
        last = found[-1]
        log.log(
            logging.INFO if last["inside"] else logging.WARNING,
            "at %.0f%% of the tokens test loss %.4f, forecast %.4f, %s the 95%% band [%.4f, %.4f]",
            100 * last["share"],
            last["test_loss"],
            last["forecast"],
            "inside" if last["inside"] else "OUTSIDE",
            *last["band"],
        )
        if left and not last["inside"]:
            log.warning("%s", told(found, left))
            return FLAG if self.stop else ""
        return ""

    def _reading(self, row: dict[str, Any]) -> dict[str, Any]:
        forecast = self.forecasts[row["step"]]
        middle, ends = forecast["test_loss"], forecast["interval"]
        z = deviations(middle, ends, self.level, row["test_loss"])
        scale = WIDTH / NormalDist().inv_cdf((1 + self.level) / 2)
        return {
            "share": forecast["share"],
            "step": row["step"],
            "tokens": row["tokens"],
            "forecast": middle,
            "band": [middle * (e / middle) ** scale for e in ends],
            "test_loss": row["test_loss"],
            "z": z,
            "inside": abs(z) <= WIDTH,
        }


def out_of(readings: Sequence[dict[str, Any]]) -> list[float]:
    """Return the shares of the first two readings in a row that are outside; [] while none are."""
    for pair in itertools.pairwise(readings):
        if not any(r["inside"] for r in pair):
            return [r["share"] for r in pair]
    return []


def told(readings: Sequence[dict[str, Any]], left: Sequence[float]) -> str:
    """Say that a run left its corridor, and what to do."""
    at = " and ".join(f"{share:.0%}" for share in left)
    last = readings[-1]
    side = "above" if last["z"] > 0 else "below"
    return (
        f"the run has left the 95% band of its forecast, at {at} of the tokens ({side} it): what is"
        " wrong with the run or the law is cheaper to find now than at the end"
    )


def read_left(path: str | Path) -> list[float]:
    """Return the shares at which a run left its corridor, [] where it did not or is not known."""
    return read_json(path)["left"] if Path(path).is_file() else []
