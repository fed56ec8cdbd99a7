"""FLOPs per token as a function of N, for the shapes of one family.

A law in N prices D tokens at C = c(N) D. `c` is 6N where nothing else is known. A study knows its
shapes, whose head and attention cost more than 6N: there c(N) is exact along the study's own line
of depth against width (`analysis.runs.ladder`), kept as knots of c / 6N in log N.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from analysis.forms.form import Array

COUNTED = "C = D x FLOPs per token of the study's shapes"
TURNS = 8  # each leaves a tenth of the distance: the ends of a search need no more


@dataclass(frozen=True, kw_only=True)
class TokenFlops:
    """c(N) / 6N at knots evenly spaced in log N; between them a cubic (Catmull and Rom 1974).

    least: N of the first knot
    step: ln N from one knot to the next
    over_6n: c / 6N at the knots (K,), K at least 2; beyond the knots it continues as a power of N
    """

    least: float
    step: float
    over_6n: Array

    def __call__(self, params: ArrayLike) -> Array:
        """Return training FLOPs per token at N, shaped like N."""
        n = np.asarray(params, dtype=float)
        logs, slope = self._knots
        place = np.log(n / self.least) / self.step
        inside = np.clip(place, 0.0, len(logs) - 1.0)
        i = np.minimum(inside.astype(int), len(logs) - 2)
        t = inside - i
        value = (
            (1 + 2 * t) * (1 - t) ** 2 * logs[i]
            + t * (1 - t) ** 2 * slope[i]
            + t**2 * (3 - 2 * t) * logs[i + 1]
            + t**2 * (t - 1) * slope[i + 1]
        )
        beyond = (place - inside) * np.where(place < 0, slope[0], slope[-1])
        return 6 * n * np.exp(value + beyond)

    @cached_property
    def _knots(self) -> tuple[Array, Array]:
        """Logs at the knots, and the slope there for each knot."""
        logs = np.log(self.over_6n)
        return logs, np.gradient(logs)

    def as_block(self) -> dict[str, Any]:
        """Return the block of law.json."""
        return {"least": self.least, "step": self.step, "over_6n": self.over_6n.tolist()}

    @classmethod
    def of(cls, block: Mapping[str, Any] | None) -> Self | None:
        """Read a block of law.json, None for none; ValueError for one that is damaged."""
        if block is None:
            return None
        try:
            least, step = float(block["least"]), float(block["step"])
            over = np.array(block["over_6n"], dtype=float)
        except (KeyError, TypeError, ValueError, OverflowError):
            least, step, over = 0.0, 0.0, np.empty(0)
        if not (least > 0 and step > 0 and over.ndim == 1 and len(over) > 1 and (over > 0).all()):
            raise ValueError(
                "token_flops must hold least, step and over_6n with two or more positive numbers"
            )
        return cls(least=least, step=step, over_6n=over)


def per_token(params: ArrayLike, token_flops: TokenFlops | None) -> Array:
    """Return training FLOPs per token at N: of the study's shapes, else 6N."""
    return 6 * np.asarray(params, dtype=float) if token_flops is None else token_flops(params)


def params_at_ratio(flops: float, ratio: float, token_flops: TokenFlops | None) -> float:
    """Return the N whose D = C / c(N) is `ratio` tokens per parameter."""
    if token_flops is None:
        return float(np.sqrt(flops / 6 / ratio))
    log_params = np.log(flops / 6 / ratio) / 2
    for _ in range(TURNS):  # the slope of log N + log c(N) is near 2
        cost = log_params + np.log(token_flops(np.exp(log_params)))
        log_params += (np.log(flops / ratio) - cost) / 2
    return float(np.exp(log_params))
