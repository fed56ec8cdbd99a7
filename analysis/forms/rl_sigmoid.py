"""Reward against RL compute: ScaleRL (2510.13786), R = R_0 + (A - R_0) / (1 + (C_mid/C)^B).

A is the ceiling; B and C_mid describe the efficiency. The paper leaves out the first part of
training, which `where=` does here.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from analysis.forms.form import Array, Form, column
from analysis.forms.grid import product


def reward(p: Mapping[str, Any], x: Mapping[str, Any]) -> Any:
    """Return R; the sigmoid is computed in logs."""
    behind = np.logaddexp(0.0, p["B"] * (np.log(p["C_mid"]) - np.log(x["flops"])))
    return p["R_0"] + (p["A"] - p["R_0"]) * np.exp(-behind)


def starts(table: pd.DataFrame) -> Mapping[str, Array]:
    """Return sigmoids with midpoints within and beyond the data, from the rewards of the table."""
    log_c, rewards = np.log(column(table, "flops")), column(table, "reward")
    low, span = float(rewards.min()), float(np.ptp(rewards))
    grid = product(A=(1.0, 1.5), B=(0.4, 1.0, 2.5), C_mid=(0.3, 0.7, 1.1), R_0=(0.0, -0.3))
    grid["C_mid"] = np.exp(log_c.min() + grid["C_mid"] * np.ptp(log_c))
    grid["A"], grid["R_0"] = low + grid["A"] * span, low + grid["R_0"] * span
    return grid


FORM = Form(
    name="rl_sigmoid",
    formula="R = R_0 + (A - R_0) / (1 + (C_mid/C)^B)",
    source="Khatri et al. 2025 (ScaleRL), arXiv 2510.13786",
    parameters=("R_0", "A", "B", "C_mid"),
    variables=("flops",),
    target="reward",
    function=reward,
    logs=("B", "C_mid"),
    bounds={"B": (0.02, 50.0)},
    starts=starts,
    objective="ls",
)
