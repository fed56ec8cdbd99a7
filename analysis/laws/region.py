"""Where a law of rows near the compute frontier holds, and how far it errs for other shapes.

The fitted rows lie in a valley about N*(C), between two distances in log N. The rows that were left
out lie beyond it, at larger or at smaller models for their C, and miss the law there. The error of
a shape beyond the valley is taken as proportional to its log-distance from it, by the root mean
square of these rows on its own side. A side without such rows takes the other side's.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from analysis.forms import Array
from analysis.forms.average import Surface
from analysis.forms.optimum import optimal_split

FEWEST_ROWS = 3  # left-out rows of a side that tell its error


def region_block(surface: Surface, near: Mapping[str, Array], far: Mapping[str, Array]) -> Any:
    """Return the `region` block of law.json.

    surface: what the law predicts with
    near: params, tokens, loss of the fitted rows, each (n,)
    far: the same of the rows that were left out
    """
    flops = 6 * near["params"] * near["tokens"]
    ends = [float(flops.min()), float(flops.max())]
    sizes = [
        float(np.log(optimal_split(surface.form, surface.parameters, c)["params"])) for c in ends
    ]
    block: dict[str, Any] = {
        "flops": ends[1],
        "params": float(np.exp(sizes[1])),
        "a": (sizes[1] - sizes[0]) / float(np.log(ends[1] / ends[0])),
    }
    at = _distance(block, near["params"], near["tokens"])
    block |= {"low": float(at.min()), "high": float(at.max())}
    beyond = _beyond(block, far["params"], far["tokens"])
    values = {"params": far["params"], "tokens": far["tokens"]}
    error = np.log(surface.form.predict(surface.parameters, values) / far["loss"])
    growth = [_growth(beyond[side], error[side]) for side in (beyond < 0, beyond > 0)]
    most = max((g for g in growth if g is not None), default=0.0)
    return block | {"growth": [most if g is None else g for g in growth]}


def error_beyond(block: Mapping[str, Any], params: Array, tokens: Array) -> Array:
    """Return the deviation of log loss about the law by the distance from the region; 0 inside.

    block: the `region` block of law.json
    params, tokens: N and D, of one shape
    """
    beyond = _beyond(block, params, tokens)
    below, above = block["growth"]
    return np.where(beyond < 0, -beyond * below, beyond * above)


def _distance(block: Mapping[str, Any], params: Array, tokens: Array) -> Array:
    """Return log N less log N*(C), C = 6ND."""
    log_ratio = np.log(6 * params * tokens / block["flops"])
    return np.log(params / block["params"]) - block["a"] * log_ratio


def _beyond(block: Mapping[str, Any], params: Array, tokens: Array) -> Array:
    """Return the log-distance from the region: negative for smaller models, 0 inside."""
    at = _distance(block, params, tokens)
    return np.minimum(at - block["low"], 0.0) + np.maximum(at - block["high"], 0.0)


def _growth(beyond: Array, error: Array) -> float | None:
    if len(error) < FEWEST_ROWS:
        return None
    return float(np.sqrt((error**2).sum() / (beyond**2).sum()))


def check_region(block: Any, path: str | Path) -> None:
    """Raise ValueError for a `region` block of a file that is none."""
    if block is None:
        return
    try:
        numbers = [block[k] for k in ("within", "flops", "params", "a", "low", "high")]
        below, above = block["growth"]
        fine = all(map(math.isfinite, [*numbers, below, above])) and block["low"] <= block["high"]
        if not (fine and min(block["flops"], block["params"]) > 0 <= min(below, above)):
            raise ValueError("low, high, growth")
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path}: the region is not that of a law near the frontier ({error}); refit it with"
            " scaling fit form=all"
        ) from error
