"""The band of the sealed forecast curve, in which a final run should stay (LAWS 8, step 7).

At 10, 25, 50 and 75 % of its tokens the run is scored on the windows that curves are scored on, and
the score is compared with the forecast there. A run that is outside the 95 % band twice in a row
has left the band: its record gets a warning and a flag or, with stop_outside=true, the run ends
after a checkpoint. The comparison is written to runs/NAME/final/curve.json.
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

LEVEL = 0.95  # The probability that a run of the law lies inside the band.
WIDTH = NormalDist().inv_cdf((1 + LEVEL) / 2)  # Half the band's width in standard deviations.
FLAG = "left_forecast"  # The flag in Record.flags, and the outcome of a run that stops outside.


@dataclass(frozen=True, kw_only=True)
class ForecastBand:
    """Forecasts by step: each {share, tokens, test_loss, interval}, interval at `level`.

    `path` is where the comparison is written. With `stop` a run that has left the band ends.
    """

    forecasts: dict[int, dict[str, Any]] = field(default_factory=dict)
    level: float = LEVEL
    path: Path = Path()
    stop: bool = False

    @classmethod
    def of(cls, sealed: dict[str, Any], *, n_steps: int, path: Path, stop: bool) -> "ForecastBand":
        """Return the band of a sealed forecast; empty where the forecast rests on no curves.

        A forecast without curves is the law of finished runs. A run under way lies above that law.

        sealed: the sealed forecast, with `level` and `curve`
        n_steps: steps of the final run
        path: the file for the comparison
        stop: whether a run that has left the band ends
        """
        rows = [r for r in sealed.get("curve", ()) if r.get("curves") and r["interval"]]
        steps = [max(1, round(r["share"] * n_steps)) for r in rows]
        forecasts = dict(zip(steps, rows, strict=True))
        return cls(forecasts=forecasts, level=sealed["level"], path=path, stop=stop)

    @property
    def steps(self) -> frozenset[int]:
        """Steps after which the test loss is measured."""
        return frozenset(self.forecasts)

    def readings(self, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return forecast against measurement at each step of the band in a curve's rows."""
        return [
            self._reading(row)
            for row in rows
            if row["step"] in self.forecasts and row.get("test_loss") is not None
        ]

    def compare(self, rows: Sequence[dict[str, Any]]) -> str:
        """Write where a run stands after a step of the band; return the outcome to stop with.

        The outcome is FLAG where the run has left the band and is to stop, else empty.
        """
        readings = self.readings(rows)
        outside = shares_outside(readings)
        write_json(self.path, {"schema": 1, "level": LEVEL, "rows": readings, "left": outside})
        last = readings[-1]
        log.log(
            logging.INFO if last["inside"] else logging.WARNING,
            "at %.0f%% of the tokens test loss %.4f, forecast %.4f, %s the 95%% band [%.4f, %.4f]",
            100 * last["share"],
            last["test_loss"],
            last["forecast"],
            "inside" if last["inside"] else "OUTSIDE",
            *last["band"],
        )
        if outside and not last["inside"]:
            log.warning("%s", outside_warning(readings, outside))
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


def shares_outside(readings: Sequence[dict[str, Any]]) -> list[float]:
    """Return the shares of the first two readings in a row that are outside; [] while none are."""
    for pair in itertools.pairwise(readings):
        if not any(r["inside"] for r in pair):
            return [r["share"] for r in pair]
    return []


def outside_warning(readings: Sequence[dict[str, Any]], shares: Sequence[float]) -> str:
    """Say that a run left the band, at which shares of its tokens, and what to do."""
    at = " and ".join(f"{share:.0%}" for share in shares)
    last = readings[-1]
    side = "above" if last["z"] > 0 else "below"
    return (
        f"the run has left the 95% band of its forecast, at {at} of the tokens ({side} it): what is"
        " wrong with the run or the law is cheaper to find now than at the end"
    )


def read_shares_outside(path: str | Path) -> list[float]:
    """Return the shares at which a run left its band.

    The list is empty where the run did not leave the band, and where no file says so.
    """
    return read_json(path)["left"] if Path(path).is_file() else []
