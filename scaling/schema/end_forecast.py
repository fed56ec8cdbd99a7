"""The forecast of a running cell's final loss, as attempts and `scaling status` hold it."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class EndForecast:
    """The forecast of a run's final test loss, in nats per token.

    loss, low, high: the forecast, and the interval that should hold the share `level` of losses
    step: of the last row of the curve that it rests on
    """

    loss: float
    low: float
    high: float
    level: float
    step: int

    def __str__(self) -> str:
        """Return the forecast in words, with the digits that the interval supports."""
        half = max(self.high - self.low, 1e-4) / 2
        digits = min(4, max(2, math.ceil(-math.log10(half))))
        values = (f"{v:.{digits}f}" for v in (self.loss, self.low, self.high))
        return "at the end {} [{}, {}]".format(*values)
