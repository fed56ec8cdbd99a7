"""A task's error from its loss, a sigmoid from chance to 0: Bhagia et al. 2024 (2412.04403).

`downstream_accuracy`: Err = (1 - chance) / (1 + exp(-g (L - L_half))), where L is the loss of the
right answers in any unit. Near chance it is Gadre's eps - k exp(-g L) with eps = 1 - chance; unlike
that form it stays within [0, 1]. A known chance is fixed by `+fixed.chance=0.25`.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from analysis.forms.form import Array, Form, column
from analysis.forms.grid import product


def _error(p: Mapping[str, Any], x: Mapping[str, Any]) -> Any:
    return (1 - p["chance"]) / (1 + np.exp(-p["g"] * (x["loss"] - p["L_half"])))


def _starts(table: pd.DataFrame) -> Mapping[str, Array]:
    """Return sigmoids whose middle lies below, within and at the end of the table's losses."""
    losses = column(table, "loss")
    low, middle = float(losses.min()), float(np.median(losses))
    return product(
        chance=(0.0, 0.25, 0.5), g=(0.5, 2.0, 8.0), L_half=(low / 2, 0.8 * low, low, middle)
    )


FORM = Form(
    name="downstream_accuracy",
    formula="Err = (1 - chance) / (1 + exp(-g (L - L_half)))",
    source="Bhagia et al. 2024, arXiv 2412.04403 eq. 3",
    parameters=("chance", "g", "L_half"),
    variables=("loss",),
    target="error",
    function=_error,
    logs=("g", "L_half"),
    bounds={"chance": (0.0, 0.99), "g": (1e-3, 100.0), "L_half": (1e-3, 1e3)},
    starts=_starts,
    objective="ls",
)
