"""Over-training and the error that follows from loss: Gadre et al. 2024 (2403.08540) eq. 4-5.

`overtraining`: L = E + (a M^eta + b M^-eta) C^-eta with M = D/N and C = 6ND. This is the Chinchilla
form with alpha = beta = 2 eta, A = a 6^-eta and B = b 6^-eta, and is solved as such.
`downstream_error`: Err = eps - k exp(-g L), given the loss L of the same runs.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from analysis.forms.form import Array, Form, Term, column
from analysis.forms.grid import product


def optimum(p: Mapping[str, Any], flops: Any) -> Any:
    """Return log N* for C = 6ND: a M^eta = b M^-eta."""
    log_ratio = (np.log(p["b"]) - np.log(p["a"])) / (2 * p["eta"])  # log M*
    return (np.log(flops / 6) - log_ratio) / 2


OVERTRAINING = Form(
    name="overtraining",
    formula="L = E + (a M^eta + b M^-eta) C^-eta, M = D/N",
    source="Gadre et al. 2024, arXiv 2403.08540 eq. 4",
    parameters=("E", "a", "b", "eta"),
    variables=("params", "tokens"),
    offset="E",
    terms=(
        Term(amplitude="a", exponents={"eta": {"params": -2.0}}, factors={"eta": 1 / 6}),
        Term(amplitude="b", exponents={"eta": {"tokens": -2.0}}, factors={"eta": 1 / 6}),
    ),
    bounds={"eta": (5e-4, 2.0)},
    optimum=optimum,
)


def _error(p: Mapping[str, Any], x: Mapping[str, Any]) -> Any:
    return p["eps"] - p["k"] * np.exp(-p["g"] * x["loss"])


def _error_starts(table: pd.DataFrame) -> Mapping[str, Array]:
    """Return k so that the curve passes through the middle of the table."""
    error, loss = np.median(column(table, "error")), np.median(column(table, "loss"))
    worst = float(column(table, "error").max())
    grid = product(eps=(1.02, 1.2, 1.6), g=(0.3, 0.8, 2.0))
    grid["eps"] = grid["eps"] * worst
    return {**grid, "k": (grid["eps"] - error) * np.exp(grid["g"] * loss)}


DOWNSTREAM_ERROR = Form(
    name="downstream_error",
    formula="Err = eps - k exp(-g L)",
    source="Gadre et al. 2024, arXiv 2403.08540 eq. 5",
    parameters=("eps", "k", "g"),
    variables=("loss",),
    target="error",
    function=_error,
    logs=("eps", "k", "g"),
    bounds={"g": (1e-3, 50.0)},
    starts=_error_starts,
    objective="ls",
)
