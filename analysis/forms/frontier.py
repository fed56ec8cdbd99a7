"""The loss near the compute frontier: L = E + (A x^-kappa + B x^kappa) (ND)^-gamma, x = N (ND)^-a.

The frontier itself is L*(C) = E + 2 sqrt(A B) (C/6)^-gamma, and N* ~ C^a with a = mu / kappa. The
valley across it has its own exponent kappa. Chinchilla's form ties all three together, since its
alpha and beta are both the steepness of the valley and the fall along the frontier; with
alpha = beta = kappa it is this form at gamma = kappa / 2 and a = 1/2. Badly tuned runs break that
tie: what a wrong size costs then tells nothing about larger budgets. IsoFLOP lines (Hoffmann et al.
2022 section 3.2) and L(C) are fitted apart for the same reason. Far from the frontier the form says
nothing: it is fitted to runs near it alone.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from analysis.forms.form import Form, Term


def optimum(p: Mapping[str, Any], flops: Any) -> Any:
    """Return log N* for C = 6ND, where both terms are equal."""
    log_ratio = np.log(p["A"]) - np.log(p["B"])
    return (log_ratio / 2 + p["mu"] * np.log(flops / 6)) / p["kappa"]


def _along(sign: float) -> dict[str, dict[str, float]]:
    """Return the exponents of the term that falls (-1) or grows (1) with N at one C."""
    return {
        "gamma": {"params": -1.0, "tokens": -1.0},
        "kappa": {"params": sign},
        "mu": {"params": -sign, "tokens": -sign},
    }


FORM = Form(
    name="frontier",
    formula="L = E + [A N^-kappa (N D)^mu + B N^kappa (N D)^-mu] (N D)^-gamma",
    source="after Hoffmann et al. 2022, arXiv 2203.15556 section 3.2, as one surface",
    parameters=("E", "A", "B", "gamma", "kappa", "mu"),
    variables=("params", "tokens"),
    offset="E",
    terms=(
        Term(amplitude="A", exponents=_along(-1.0)),
        Term(amplitude="B", exponents=_along(1.0)),
    ),
    optimum=optimum,
    near_frontier=True,
)
