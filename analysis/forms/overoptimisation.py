"""Gold reward against d = sqrt(KL): Gao, Schulman and Hilton 2022 (2210.10760) eq. 1-2.

`best_of_n`: R = d (alpha - beta d). `rl_overoptimisation`: R = d (alpha - beta log d), not valid
near d = 0. `rl_overoptimisation_sizes`: beta = c0 - c1 log N over reward models of N `params`.
`kl` is in nats a sequence, `reward` the gold reward less that of the initial policy.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from analysis.forms.form import Array, Form, column


def _bon(p: Mapping[str, Any], x: Mapping[str, Any]) -> Any:
    d = np.sqrt(x["kl"])
    return d * (p["alpha"] - p["beta"] * d)


def _rl(p: Mapping[str, Any], x: Mapping[str, Any]) -> Any:
    d = np.sqrt(x["kl"])
    return d * (p["alpha"] - p["beta"] * np.log(d))


def _sizes(p: Mapping[str, Any], x: Mapping[str, Any]) -> Any:
    d = np.sqrt(x["kl"])
    beta = p["c0"] - p["c1"] * np.log(x["params"])
    return d * (p["alpha"] - beta * np.log(d))


def _starts(names: tuple[str, ...]) -> Any:
    """Return one start, as the forms are linear: the mean slope, nothing else."""

    def starts(table: pd.DataFrame) -> Mapping[str, Array]:
        slope = np.mean(column(table, "reward") / np.sqrt(column(table, "kl")))
        return {name: np.array([slope if name == "alpha" else 0.0]) for name in names}

    return starts


def _form(name: str, formula: str, function: Any, *parameters: str, sizes: bool = False) -> Form:
    return Form(
        name=name,
        formula=formula,
        source="Gao et al. 2022, arXiv 2210.10760 eq. 1-2",
        parameters=parameters,
        variables=("kl", "params") if sizes else ("kl",),
        target="reward",
        function=function,
        starts=_starts(parameters),
        objective="ls",
    )


FORMS = (
    _form("best_of_n", "R = d (alpha - beta d), d = sqrt(KL)", _bon, "alpha", "beta"),
    _form("rl_overoptimisation", "R = d (alpha - beta log d)", _rl, "alpha", "beta"),
    _form(
        "rl_overoptimisation_sizes",
        "R = d (alpha - (c0 - c1 log N) log d)",
        _sizes,
        "alpha",
        "c0",
        "c1",
        sizes=True,
    ),
)


def peak(form: str, parameters: Mapping[str, float]) -> tuple[float, float]:
    """Return d* and R(d*) of `best_of_n` or `rl_overoptimisation`; beta must be positive."""
    alpha, beta = parameters["alpha"], parameters["beta"]
    if form == "best_of_n":
        return alpha / (2 * beta), alpha**2 / (4 * beta)
    d = float(np.exp(alpha / beta - 1))
    return d, beta * d
