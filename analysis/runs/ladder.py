"""The line of depth against width along which a study's models grow, and what its shapes cost.

The depths of a ladder are whole numbers, so c(N) of its rungs is ragged. A smooth line through
them, log depth = p + q log width, gives one c(N) for every size: the FLOPs per token of the shape
on the line. Beyond the widest rung the line turns to the constant width / layers that it has there,
since no other proportion was tried.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np

from analysis.forms import Array
from analysis.forms.token_flops import TokenFlops
from scaling.schema import Record, Shape

# (parameters, width / layers) of Chinchilla's shapes: Hoffmann et al. 2022 (2203.15556), table A9.
ASPECTS = ((3.06e8, 64.0), (1.143e9, 69.0), (9.293e9, 97.5), (1.6183e10, 109.0))
# Width / layers of ladders at 1e5 parameters, far below those shapes; linear in log N in between.
SMALLEST_ASPECT = 16.0
TURN = 0.25  # of log width, over which the line turns beyond the widest rung
WIDTHS = (1.0, 1e7)  # widths of the line's knots
KNOTS = 801
REACH = (1e-2, 1e6)  # c(N) is kept from so far below the smallest rung to above the largest
OF_TOKEN_FLOPS = 129  # knots of c(N): a fifteenth of a decade apart for a ladder of one decade


@dataclass(frozen=True, kw_only=True)
class Ladder:
    """Depth by width of a family, as knots in logs; `like` has its heads, ratios and settings."""

    like: Shape
    log_widths: Array
    log_depths: Array

    def depth(self, width: float) -> float:
        """Return the number of layers of the line at a width, before it is rounded."""
        return float(np.exp(np.interp(math.log(width), self.log_widths, self.log_depths)))

    def width(self, params: float, count: str) -> float:
        """Return the width of the line at a size, before it is rounded."""
        return float(np.exp(np.interp(math.log(params), self._log_params(count), self.log_widths)))

    def token_flops(self, count: str, *, sizes: Sequence[float]) -> TokenFlops:
        """Return c(N) of the shapes on the line.

        count: which parameters N counts
        sizes: N of the trained models; c(N) is kept from `REACH` below to above them
        """
        costs = [self.at(float(np.exp(x))).flops_per_token for x in self.log_widths]
        logs = self._log_params(count)
        low, high = math.log(REACH[0] * min(sizes)), math.log(REACH[1] * max(sizes))
        low, high = max(low, logs[0]), min(high, logs[-1])
        places = np.linspace(low, high, OF_TOKEN_FLOPS)
        over = np.exp(np.interp(places, logs, np.log(costs)) - places) / 6
        step = float(places[1] - places[0])
        return TokenFlops(least=float(np.exp(low)), step=step, over_6n=over)

    def at(self, width: float) -> Shape:
        """Return the shape on the line at a width, its numbers not rounded."""
        return stretched(self.like, n_layer=self.depth(width), width=width)

    def _log_params(self, count: str) -> Array:
        return self._counted[count]

    @cached_property
    def _counted(self) -> dict[str, Array]:
        every = [self.at(float(np.exp(x))).params for x in self.log_widths]
        names = ("total", "non_embedding", "with_head", "active", "multiplying", "active_body")
        return {name: np.log([float(getattr(p, name)) for p in every]) for name in names}


def stretched(like: Shape, *, n_layer: Any, width: Any) -> Shape:
    """Return a shape of the same proportions at a depth and width, its numbers not rounded.

    Fractions of heads stand for the smooth line only; no model has this shape.
    """
    scale = width / like.d_model
    changed: dict[str, Any] = {
        "n_layer": n_layer,
        "d_model": width,
        "n_head": like.n_head * scale,
        "n_kv_head": like.n_kv_head * scale,
        "d_ff": like.d_ff * scale,
        "d_expert": like.d_expert * scale,
    }
    return Shape(**{**asdict(like), **changed})


def trained_ladder(shapes: Sequence[Shape], like: Shape) -> Ladder:
    """Return the line through trained shapes by least squares in logs.

    shapes: the trained shapes, each counted once
    like: whose heads, ratios and settings every shape of the line has
    """
    rungs = sorted({(s.d_model, s.n_layer) for s in shapes} or {(like.d_model, like.n_layer)})
    x, y = (np.log(values) for values in zip(*rungs, strict=True))
    turn = _turn(x, x.max())
    steep = x - turn
    spread = float(((steep - steep.mean()) ** 2).sum())
    slope = 1.0
    if spread > 1e-3:
        slope = float(((steep - steep.mean()) * (y - turn)).sum()) / spread
    slope = min(max(slope, 0.0), 1.0)
    level = float((y - turn - slope * steep).mean())
    log_widths = np.linspace(math.log(WIDTHS[0]), math.log(WIDTHS[1]), KNOTS)
    turned = _turn(log_widths, x.max())
    return Ladder(
        like=like,
        log_widths=log_widths,
        log_depths=level + slope * (log_widths - turned) + turned,
    )


def token_flops_of(records: Iterable[Record], count: str) -> TokenFlops | None:
    """Return FLOPs per token by N of the shapes of records; None where a record names no shape.

    records: done cells
    count: which parameters N counts
    """
    shapes_by_flops = []
    for record in records:
        try:
            shapes_by_flops.append((record.flops, Shape.of(record)))
        except (ValueError, KeyError, TypeError):
            return None  # as those of other programs
    if not shapes_by_flops:
        return None
    like = max(shapes_by_flops, key=lambda pair: pair[0])[1]
    shapes = list(dict.fromkeys(shape for _, shape in shapes_by_flops))
    sizes = [getattr(shape.params, count) for shape in shapes]
    return trained_ladder(shapes, like).token_flops(count, sizes=sizes)


def _turn(log_widths: Array, widest: float) -> Array:
    """Return 0 well below the widest rung, and the distance to it well above."""
    return TURN * np.logaddexp(0.0, (log_widths - widest) / TURN)


def chinchilla_ladder(like: Shape) -> Ladder:
    """Return the line of Chinchilla's shapes, for a family of which nothing was trained."""
    sizes, aspects = zip((1e5, SMALLEST_ASPECT), *ASPECTS, strict=True)
    aspect = np.array(aspects)
    widths = (np.array(sizes) * aspect / 12) ** (1 / 3)  # N = 12 layers width^2
    log_widths = np.linspace(math.log(WIDTHS[0]), math.log(WIDTHS[1]), KNOTS)
    log_aspects = np.interp(log_widths, np.log(widths), np.log(aspect))
    return Ladder(like=like, log_widths=log_widths, log_depths=log_widths - log_aspects)
