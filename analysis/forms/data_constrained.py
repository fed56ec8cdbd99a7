"""Repeated data: Muennighoff et al. 2023 (2305.16264) eq. 5-6 and 17.

L = E + A N'^-alpha + B D'^-beta. With U unique tokens and R = D/U - 1 repetitions,
D' = U + U R_D (1 - exp(-R/R_D)). N' has the same formula for the parameters beyond U_N, the size
that is optimal for U tokens under the same law. Up to one epoch and up to U_N the form is
Chinchilla's. The paper fixed E, A, B, alpha and beta at those of runs without repetition
(`+fixed.E=..` and so on); by default all seven parameters are fitted here. R_N is weakly determined
unless large models repeat data.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from analysis.forms.chinchilla import optimum
from analysis.forms.form import EXPONENT_BOUNDS, Array, Form, column
from analysis.forms.grid import product

MOST_REPEATS = 1e4  # bound of R_D and R_N, where no run tells a repeated token from a fresh one


def loss(p: Mapping[str, Any], x: Mapping[str, Any]) -> Any:
    """Return L; without `unique_tokens` every token is fresh."""
    params, tokens = x["params"], x["tokens"]
    if "unique_tokens" in x:
        unique = np.minimum(x["unique_tokens"], tokens)
        useful = np.minimum(_optimal_size(p, unique), params)
        tokens = effective(tokens, unique, p["R_D"])
        params = effective(params, useful, p["R_N"])
    return p["E"] + p["A"] * params ** -p["alpha"] + p["B"] * tokens ** -p["beta"]


def effective(total: Any, unique: Any, decay: Any) -> Any:
    """Return the fresh tokens worth as much as `total` of which `unique` are distinct (eq. 5)."""
    return unique * (1 + decay * (1 - np.exp((1 - total / unique) / decay)))


def _optimal_size(p: Mapping[str, Any], tokens: Any) -> Any:
    """Return the N whose compute-optimal D is `tokens`."""
    alpha, beta = p["alpha"], p["beta"]
    log_g = np.log(alpha * p["A"] / (beta * p["B"])) / (alpha + beta)
    return np.exp(log_g + beta / alpha * (np.log(tokens) + log_g))


def starts(table: pd.DataFrame) -> Mapping[str, Array]:
    """Return grid points whose terms have given shares of the reducible loss at the middle."""
    smallest, typical = (float(f(column(table, "loss"))) for f in (np.min, np.median))
    middle = {v: np.exp(np.log(column(table, v)).mean()) for v in ("params", "tokens")}
    grid = product(
        E=(0.4, 0.7, 0.9),
        alpha=(0.25, 0.45),
        beta=(0.25, 0.45),
        R_D=(3.0, 15.0, 60.0, 200.0),
        R_N=(0.5, 2.0, 8.0),
    )
    offset = smallest * grid["E"]
    half = (typical - offset) / 2
    amplitudes = {
        "A": half * middle["params"] ** grid["alpha"],
        "B": half * middle["tokens"] ** grid["beta"],
    }
    return {**grid, "E": offset, **amplitudes}


FORM = Form(
    name="data_constrained",
    formula="L = E + A N'^-alpha + B D'^-beta, D' = U (1 + R_D (1 - exp(-(D/U - 1)/R_D)))",
    source="Muennighoff et al. 2023, arXiv 2305.16264 eq. 5-6, 17",
    parameters=("E", "A", "B", "alpha", "beta", "R_D", "R_N"),
    variables=("params", "tokens", "unique_tokens"),
    optional=("unique_tokens",),
    offset="E",
    function=loss,
    logs=("A", "B", "R_D", "R_N"),
    amplitudes={"A": {"alpha": "params"}, "B": {"beta": "tokens"}},
    bounds={
        "E": (0.0, np.inf),
        "alpha": EXPONENT_BOUNDS,
        "beta": EXPONENT_BOUNDS,
        "R_D": (0.05, MOST_REPEATS),
        "R_N": (0.05, MOST_REPEATS),
    },
    starts=starts,
    optimum=optimum,
)
