"""What a law of form=schedule answers: losses along a schedule, and the best decay.

Its block `curves` (law.json) holds the fit of each model size (`scaling.curves`). A table has one
size, whose N is not known.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from scaling.curves import BestDecay, CurveFit, best_decay, read_block

Curves = Mapping[str, Any] | None  # the block of a law, None for one of another form
FORM = "schedule"
FAR = 1.5  # a size farther than this factor from the nearest one fitted is not forecast


def fit_of(curves: Curves, params: float | None = None, *, form: str = FORM) -> CurveFit:
    """Return the fit of the size nearest to `params`, the largest where it is None.

    curves: of a law of form=schedule
    params: N; a law of a table has one size and reads none

    form: of the law, for the message

    Raises ValueError for a law of another form, and for a size far from those that were fitted.
    """
    if not curves:
        raise ValueError(
            f"a law of form {form} has no curves; fit one with scaling fit form=schedule"
        )
    sizes = curves["sizes"]
    one = sizes[-1]
    known = [size for size in sizes if size["params"] is not None]
    if params is not None and known:
        one = min(known, key=lambda size: abs(np.log(size["params"] / params)))
        if abs(np.log(one["params"] / params)) > np.log(FAR):
            raise ValueError(
                f"N = {params:.4g} is more than {FAR:g} times from the nearest size with curves,"
                f" {one['params']:.4g}; fit curves of a nearer size"
            )
    return read_block(one["fit"])


def losses_along(
    curves: Curves,
    step: ArrayLike,
    lr: ArrayLike,
    level: float,
    *,
    form: str,
    params: float | None,
    warmup_steps: float | None,
    peak_lr: float | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return losses and both ends of their intervals at the rows of a schedule; see `Law`."""
    fit = fit_of(curves, params, form=form)
    forecast = fit.predict(step, lr, level, warmup_steps=warmup_steps, peak_lr=peak_lr)
    return forecast.loss, forecast.low, forecast.high


def decay_of(
    curves: Curves,
    n_steps: int,
    *,
    form: str,
    shape: str,
    floor: float,
    level: float,
    params: float | None,
) -> BestDecay:
    """Return the best share of the steps to decay over; see `Law.best_decay`."""
    fit = fit_of(curves, params, form=form)
    return best_decay(fit, n_steps, shape=shape, floor=floor, level=level)


def check_curves(block: Mapping[str, Any] | None, path: Any) -> None:
    """Refuse a block of curves that is damaged."""
    if block is None:
        return
    try:
        sizes = list(block["sizes"])
        for size in sizes:
            if size["params"] is not None:
                float(size["params"])
            read_block(size["fit"])
        if not sizes:
            raise ValueError("it has no size")
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}; refit it with scaling fit form=schedule") from error


def curve_lines(curves: Curves, width: int) -> list[str]:
    """Return what the terminal shows of the curves, [] for a law of another form."""
    if not curves:
        return []
    lines = []
    for size in curves["sizes"]:
        lines += _size_lines(size)
    lines += [line[:width] for line in _decay_lines(curves.get("best_decay"))]
    return lines


def _size_lines(size: Mapping[str, Any]) -> list[str]:
    fit = read_block(size["fit"])
    of = "" if size["params"] is None else f"N = {size['params']:.4g}: "
    weights = ", ".join(
        f"{one.law.name} {weight:.2f}" for one, weight in zip(fit.laws, fit.weights, strict=True)
    )
    lines = [
        f"{of}{len(fit.names)} curves, {fit.n_rows} rows, {fit.status}; forecasts by {weights};"
        f" error {100 * fit.error:.2f}% of the loss"
    ]
    if fit.status != "converged":
        lines.append(f"  {fit.why}")
    if fit.withheld_errors:
        each = ", ".join(f"{name} {100 * e:.2f}%" for name, e in fit.withheld_errors.items())
        lines.append(f"  withheld in turn, mean error: {each}")
    for name, parameters in fit.parameters.items():
        values = "  ".join(f"{key} {value:.4g}" for key, value in parameters.items())
        lines.append(f"  {name:<12} {values}")
    return lines


def _decay_lines(rows: Any) -> list[str]:
    lines = []
    for one in rows or []:
        low, high = one["flat"]
        a, b = one["fraction_interval"]
        of = "" if one["params"] is None else f"N = {one['params']:.4g}, "
        lines.append(
            f"best decay ({of}{one['n_steps']:,} steps, {one['shape']}): the last"
            f" {100 * one['fraction']:.0f}% [{100 * a:.0f}, {100 * b:.0f}] of the steps,"
        )
        lines.append(
            f"  loss {one['loss']:.4f} [{one['interval'][0]:.4f}, {one['interval'][1]:.4f}];"
            f" within .1% of it from {100 * low:.0f}% to {100 * high:.0f}%"
            + ("; AT THE EDGE of what was compared" if one["at_edge"] else "")
        )
    return lines
