"""Kaplan et al. 2020 (2001.08361) eq. 1.5: L = [(N_c/N)^(alpha_N/alpha_D) + D_c/D]^alpha_D.

Their N has no embeddings (`count=non_embedding`). The form has no irreducible loss: for runs whose
loss levels off the exponents shrink, and far forecasts are too low.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from analysis.forms.form import Array, Form, column
from analysis.forms.grid import product


def loss(p: Mapping[str, Any], x: Mapping[str, Any]) -> Any:
    """Return L; the sum is taken in logs."""
    by_size = p["alpha_N"] / p["alpha_D"] * (np.log(p["N_c"]) - np.log(x["params"]))
    return np.exp(p["alpha_D"] * np.logaddexp(by_size, np.log(p["D_c"]) - np.log(x["tokens"])))


def optimum(p: Mapping[str, Any], flops: Any) -> Any:
    """Return log N* for C = 6ND, where both terms fall equally fast in log N."""
    ratio = p["alpha_N"] / p["alpha_D"]
    constant = np.log(ratio) + ratio * np.log(p["N_c"]) - np.log(p["D_c"])
    return (constant + np.log(flops / 6)) / (1 + ratio)


def starts(table: pd.DataFrame) -> Mapping[str, Array]:
    """Return exponents on a grid, each with constants that give the median loss at the middle."""
    level = np.log(np.median(column(table, "loss")))
    middle = {v: np.log(column(table, v)).mean() for v in ("params", "tokens")}
    grid = product(alpha_N=(0.04, 0.08, 0.15, 0.3), alpha_D=(0.05, 0.1, 0.2, 0.4), share=(0.3, 0.7))
    of_size = np.log(grid["share"]) + level / grid["alpha_D"]
    of_data = np.log1p(-grid["share"]) + level / grid["alpha_D"]
    log_n_c = middle["params"] + of_size * grid["alpha_D"] / grid["alpha_N"]
    exponents = {name: grid[name] for name in ("alpha_N", "alpha_D")}
    return {"N_c": np.exp(log_n_c), "D_c": np.exp(middle["tokens"] + of_data), **exponents}


FORM = Form(
    name="kaplan",
    formula="L = [(N_c/N)^(alpha_N/alpha_D) + D_c/D]^alpha_D",
    source="Kaplan et al. 2020, arXiv 2001.08361 eq. 1.5",
    parameters=("N_c", "D_c", "alpha_N", "alpha_D"),
    variables=("params", "tokens"),
    function=loss,
    logs=("N_c", "D_c", "alpha_N", "alpha_D"),
    bounds={"alpha_N": (1e-3, 4.0), "alpha_D": (1e-3, 4.0)},
    starts=starts,
    optimum=optimum,
)
