"""What a law answers: the loss at N and D, and the split of a budget, each with intervals."""

from dataclasses import dataclass, field

from analysis.forms import Array


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Loss in nats per token at some points, with its interval at `level` (None without draws).

    `parts` are the half-widths of the interval in log loss that each cause alone would give:
    `parameters`, `forms` (their disagreement), `scatter` (of a single run), `hindcast` (the error
    of the law beyond its data) and, for a law of runs near the frontier, `region` (the error of
    shapes away from it). They join in squares.
    """

    loss: Array
    low: Array | None
    high: Array | None
    level: float
    parts: dict[str, Array] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Optimum:
    """The compute-optimal split of `flops`, with intervals {name: (low, high)}."""

    flops: float
    params: float
    tokens: float
    tokens_per_param: float
    loss: float | None
    a: float
    b: float
    level: float
    intervals: dict[str, tuple[float, float]]
