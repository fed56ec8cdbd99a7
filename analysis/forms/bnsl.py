"""A smoothly broken power law, as a check of curvature: Caballero et al. 2022 (2210.14891) eq. 1.

L = a + b C^-c0 (1 + (C/d)^(1/f))^(-c1 f) has one break at C = d of width f, along the frontier of a
table. With c1 = 0 it is a plain power law with offset, so an interval of c1 without 0 says that the
frontier bends inside the data. The form cannot see a break beyond them.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from analysis.forms.form import Array, Form, column
from analysis.forms.grid import product


def loss(p: Mapping[str, Any], x: Mapping[str, Any]) -> Any:
    """Return L, its break summed in logs."""
    log_c = np.log(x["flops"])
    beyond = np.logaddexp(0.0, (log_c - np.log(p["d"])) / p["f"])
    return p["a"] + np.exp(np.log(p["b"]) - p["c0"] * log_c - p["c1"] * p["f"] * beyond)


def starts(table: pd.DataFrame) -> Mapping[str, Array]:
    """Return breaks at the quartiles of log C, of both signs."""
    log_c, level = np.log(column(table, "flops")), np.log(column(table, "loss"))
    slope = max(-float(np.polyfit(log_c, level, 1)[0]), 1e-3)
    grid = product(
        a=(0.0, 0.6), d=(0.25, 0.5, 0.75), f=(0.2, 1.0), c0=(1.0, 3.0), c1=(-0.3, 0.0, 0.3)
    )
    grid["d"] = np.exp(log_c.min() + grid["d"] * np.ptp(log_c))
    grid["a"] = grid["a"] * np.exp(level.min())
    grid["c0"], grid["c1"] = grid["c0"] * slope, grid["c1"] * slope
    reducible = np.log(np.exp(np.median(level)) - grid["a"])
    return {**grid, "b": np.exp(reducible + grid["c0"] * np.median(log_c))}


FORM = Form(
    name="bnsl",
    formula="L = a + b C^-c0 (1 + (C/d)^(1/f))^(-c1 f)",
    source="Caballero et al. 2022, arXiv 2210.14891 eq. 1 with one break",
    parameters=("a", "b", "c0", "c1", "d", "f"),
    variables=("flops",),
    offset="a",
    function=loss,
    logs=("b", "d", "f"),
    amplitudes={"b": {"c0": "flops"}},
    bounds={
        "a": (0.0, np.inf),
        "c0": (1e-3, 4.0),
        "c1": (-4.0, 4.0),
        "f": (0.02, 10.0),
    },
    starts=starts,
    objective="ls_log",
)
