"""Gold reward against d = sqrt(KL): Gao, Schulman and Hilton 2022 (2210.10760) eq. 1-2.

`best_of_n`: R = d (alpha - beta d). `rl_overoptimisation`: R = d (alpha - beta log d), which does
not hold near d = 0. `rl_overoptimisation_sizes`: beta = c0 - c1 log N for reward models of N
`params`. `kl` is in nats a sequence; `reward` is the gold reward less that of the initial policy.
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
    """Return one start, the mean slope, which is enough as the forms are linear."""

    def starts(table: pd.DataFrame) -> Mapping[str, Array]:
        slope = np.mean(column(table, "reward") / np.sqrt(column(table, "kl")))
        return {name: np.array([slope if name == "alpha" else 0.0]) for name in names}

    return starts


def _bon_peak(p: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return KL* and R* at d* = alpha / (2 beta)."""
    d = p["alpha"] / (2 * p["beta"])
    return d**2, p["alpha"] * d / 2


def _rl_peak(p: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return KL* and R* at d* = exp(alpha/beta - 1)."""
    with np.errstate(over="ignore"):
        d = np.exp(p["alpha"] / p["beta"] - 1)
        return d**2, p["beta"] * d


def _form(
    name: str,
    formula: str,
    function: Any,
    *parameters: str,
    sizes: bool = False,
    peak: Any = None,
    stage: str = "ppo",
) -> Form:
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
        peak=peak,
        stage=stage,
    )


FORMS = (
    _form(
        "best_of_n",
        "R = d (alpha - beta d), d = sqrt(KL)",
        _bon,
        "alpha",
        "beta",
        peak=_bon_peak,
    ),
    _form(
        "rl_overoptimisation",
        "R = d (alpha - beta log d)",
        _rl,
        "alpha",
        "beta",
        peak=_rl_peak,
    ),
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
