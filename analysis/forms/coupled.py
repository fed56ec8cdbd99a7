"""Terms of size and data under a common power: L = E + [(A N^-alpha)^p + (B D^-beta)^p]^(1/p).

Chinchilla's form has p = 1, and Kaplan's E = 0 and p beta = 1. Droppo & Elibol 2021 (2106.09488)
leave p free and put E under the root. With p above 1 the larger term dominates: tokens help a large
model more than a small one, which a sum of terms cannot express.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from analysis.forms.form import EXPONENT_BOUNDS, Array, Form, column
from analysis.forms.grid import product


def loss(parameters: Mapping[str, Any], x: Mapping[str, Any]) -> Any:
    """Return L; the power is taken in logs."""
    p = parameters["p"]
    by_size = np.log(parameters["A"]) - parameters["alpha"] * np.log(x["params"])
    by_data = np.log(parameters["B"]) - parameters["beta"] * np.log(x["tokens"])
    return parameters["E"] + np.exp(np.logaddexp(p * by_size, p * by_data) / p)


def optimum(parameters: Mapping[str, Any], flops: Any) -> Any:
    """Return log N* for C = 6ND, which is that of Chinchilla's form in p alpha and p beta."""
    p, alpha, beta = (parameters[k] for k in ("p", "alpha", "beta"))
    log_ratio = np.log(alpha / beta) / p + np.log(parameters["A"]) - np.log(parameters["B"])
    return (log_ratio + beta * np.log(flops / 6)) / (alpha + beta)


def as_coupled(form: str, parameters: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return parameters that make this form equal to another form's law; None where none do.

    The parameters are numbers or arrays.
    """
    p = dict(parameters)
    if form == "chinchilla":
        return {**p, "p": 1.0 + 0.0 * p["E"]}
    if form == "kaplan":
        alpha, beta = p["alpha_N"], p["alpha_D"]
        scales = {"A": p["N_c"] ** alpha, "B": p["D_c"] ** beta}
        return {"E": 0.0 * alpha, **scales, "alpha": alpha, "beta": beta, "p": 1 / beta}
    if form == "overtraining":
        eta = p["eta"]
        terms = {"A": p["a"] * 6**-eta, "B": p["b"] * 6**-eta, "alpha": 2 * eta, "beta": 2 * eta}
        return {"E": p["E"], **terms, "p": 1.0 + 0.0 * eta}
    return p if form == FORM.name else None


def starts(table: pd.DataFrame) -> Mapping[str, Array]:
    """Return shapes on a grid, each with constants that give the median loss at the middle."""
    smallest, typical = (float(f(column(table, "loss"))) for f in (np.min, np.median))
    middle = {v: np.log(column(table, v)).mean() for v in ("params", "tokens")}
    grid = product(
        p=(1.0, 2.0, 5.0),
        offset=(0.0, 0.4, 0.8),
        alpha=(0.1, 0.35),
        beta=(0.1, 0.35),
        share=(0.3, 0.7),
    )
    p, offset = grid["p"], grid["offset"] * smallest
    term = np.log(typical - offset)
    return {
        "E": offset,
        "A": np.exp(term + np.log(grid["share"]) / p + grid["alpha"] * middle["params"]),
        "B": np.exp(term + np.log1p(-grid["share"]) / p + grid["beta"] * middle["tokens"]),
        **{name: grid[name] for name in ("alpha", "beta", "p")},
    }


FORM = Form(
    name="coupled",
    formula="L = E + [(A N^-alpha)^p + (B D^-beta)^p]^(1/p)",
    source="after Kaplan et al. 2020 eq. 1.5 and Droppo & Elibol 2021, arXiv 2106.09488",
    parameters=("E", "A", "B", "alpha", "beta", "p"),
    variables=("params", "tokens"),
    offset="E",
    function=loss,
    logs=("A", "B", "p"),
    amplitudes={"A": {"alpha": "params"}, "B": {"beta": "tokens"}},
    bounds={
        "E": (0.0, np.inf),
        "alpha": EXPONENT_BOUNDS,
        "beta": EXPONENT_BOUNDS,
        "p": (0.2, 50.0),
    },
    starts=starts,
    optimum=optimum,
)
