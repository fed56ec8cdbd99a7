"""Farseer (2506.10972): a data exponent that depends on N.

L = exp(a3 N^gamma + b3) + exp(a2 N^beta + b2) D^-exp(a1 N^alpha + b1). The nine parameters need a
dense grid. N^x depends on units, so the constants hold for N in parameters and D in tokens.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from analysis.forms.form import Array, Form, column
from analysis.forms.grid import product


def loss(p: Mapping[str, Any], x: Mapping[str, Any]) -> Any:
    """Return L."""
    log_n, log_d = np.log(x["params"]), np.log(x["tokens"])
    by_size = np.exp(p["a3"] * np.exp(p["gamma"] * log_n) + p["b3"])
    slope = np.exp(p["a1"] * np.exp(p["alpha"] * log_n) + p["b1"])
    return by_size + np.exp(p["a2"] * np.exp(p["beta"] * log_n) + p["b2"] - slope * log_d)


def outward(theta: Mapping[str, Any], middle: Mapping[str, float]) -> Mapping[str, Any]:
    """Return the parameters, given level and slope in log N of each piece at the middle.

    a N^g + b = level + slope ((N/N0)^g - 1) / g, where neither trades against the exponent g.
    """
    parameters = dict(theta)
    for number, exponent in _PIECES.items():
        level, slope, power = theta[f"b{number}"], theta[f"a{number}"], theta[exponent]
        if exponent == "beta":  # the data term's level is that at the middle of D
            level = level + np.exp(theta["b1"]) * middle["tokens"]
        ratio = slope / power
        parameters[f"a{number}"] = ratio * np.exp(power * -middle["params"])
        parameters[f"b{number}"] = level - ratio
    return parameters


def inward(parameters: Mapping[str, Any], middle: Mapping[str, float]) -> Mapping[str, Any]:
    """Invert `outward`."""
    theta = dict(parameters)
    for number, exponent in _PIECES.items():
        power = parameters[exponent]
        value = parameters[f"a{number}"] * np.exp(power * middle["params"])
        theta[f"a{number}"] = value * power
        theta[f"b{number}"] = parameters[f"b{number}"] + value
    theta["b2"] = theta["b2"] - np.exp(theta["b1"]) * middle["tokens"]
    return theta


_PIECES = {"1": "alpha", "2": "beta", "3": "gamma"}


def starts(table: pd.DataFrame) -> Mapping[str, Array]:
    """Return Chinchilla-like surfaces whose pieces change at some rates per log N."""
    log_n, log_d = (np.log(column(table, v)).mean() for v in ("params", "tokens"))
    smallest, typical = (float(f(column(table, "loss"))) for f in (np.min, np.median))
    grid = product(
        share=(0.75, 0.92),
        slope=(0.25, 0.45),
        drift=(-0.05, 0.0, 0.05),
        gamma=(0.12,),
        beta=(-0.1,),
        alpha=(0.12,),
        rate=(-0.03, -0.1),
    )
    out = {name: grid[name] for name in ("alpha", "beta", "gamma")}
    level = np.log(smallest * grid["share"])
    out["a3"] = grid["rate"] / grid["gamma"] * np.exp(-grid["gamma"] * log_n)
    out["b3"] = level - grid["rate"] / grid["gamma"]
    out["a1"] = grid["drift"] / grid["alpha"] * np.exp(-grid["alpha"] * log_n)
    out["b1"] = np.log(grid["slope"]) - grid["drift"] / grid["alpha"]
    data = np.log(typical - smallest * grid["share"]) + grid["slope"] * log_d
    change = grid["drift"] * grid["slope"] * log_d  # keeps the data term level in N at the middle
    out["a2"] = change / grid["beta"] * np.exp(-grid["beta"] * log_n)
    out["b2"] = data - change / grid["beta"]
    return out


FORM = Form(
    name="farseer",
    formula="L = exp(a3 N^gamma + b3) + exp(a2 N^beta + b2) D^-exp(a1 N^alpha + b1)",
    source="Li et al. 2025 (Farseer), arXiv 2506.10972",
    parameters=("a1", "alpha", "b1", "a2", "beta", "b2", "a3", "gamma", "b3"),
    variables=("params", "tokens"),
    function=loss,
    bounds=dict.fromkeys(("alpha", "beta", "gamma"), (-1.0, 1.0)),
    starts=starts,
    outward=outward,
    inward=inward,
)
