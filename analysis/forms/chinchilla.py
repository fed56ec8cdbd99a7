"""Hoffmann et al. 2022 (2203.15556) eq. 10: L = E + A N^-alpha + B D^-beta."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from analysis.forms.form import Form, Term


def optimum(parameters: Mapping[str, Any], flops: Any) -> Any:
    """Return log N* for C = 6ND (eq. 4): N* = G (C/6)^(beta/(alpha+beta))."""
    alpha, beta = parameters["alpha"], parameters["beta"]
    log_ratio = np.log(alpha * parameters["A"]) - np.log(beta * parameters["B"])
    return (log_ratio + beta * np.log(flops / 6)) / (alpha + beta)


FORM = Form(
    name="chinchilla",
    formula="L = E + A N^-alpha + B D^-beta",
    source="Hoffmann et al. 2022, arXiv 2203.15556 eq. 10",
    parameters=("E", "A", "B", "alpha", "beta"),
    variables=("params", "tokens"),
    offset="E",
    terms=(
        Term(amplitude="A", exponents={"alpha": {"params": -1.0}}),
        Term(amplitude="B", exponents={"beta": {"tokens": -1.0}}),
    ),
    optimum=optimum,
)
