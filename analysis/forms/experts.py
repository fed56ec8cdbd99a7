"""Mixtures of experts: L = E + A N^-alpha X^-delta + B D^-beta, X experts of which 1 is dense.

N counts the parameters that one token passes (`count=active`, `multiplying` or `active_body`), as
in C = 6ND. Experts enlarge N in the first term to N X^(delta/alpha), the effective parameter count
of Clark et al. 2022 (2202.01169). At a fixed X the form is a Chinchilla law (`dense_at`), so that
plans treat it as one. The joint law of Ludziejewski et al. 2025 (2502.05172) has X in the data term
and in both exponents too, and an X that saturates: five more constants, which need more runs.
"""

from collections.abc import Mapping
from typing import Any

from analysis.forms.chinchilla import optimum
from analysis.forms.form import Form, Term

FORM = Form(
    name="experts",
    formula="L = E + A N^-alpha X^-delta + B D^-beta, X experts",
    source="effective parameters of Clark et al. 2022, arXiv 2202.01169, in the form of Hoffmann et"
    " al. 2022",
    parameters=("E", "A", "B", "alpha", "beta", "delta"),
    variables=("params", "tokens", "experts"),
    optional=("experts",),
    offset="E",
    terms=(
        Term(
            amplitude="A",
            exponents={"alpha": {"params": -1.0}, "delta": {"experts": -1.0}},
        ),
        Term(amplitude="B", exponents={"beta": {"tokens": -1.0}}),
    ),
    bounds={"delta": (-1.0, 2.0)},  # below 0, as experts make some of our small models worse
    optimum=optimum,  # that of the dense model, X = 1
)


def dense_at(parameters: Mapping[str, Any], experts: float) -> dict[str, Any]:
    """Return the parameters, numbers or arrays, of the Chinchilla law at a number of experts."""
    others = {k: v for k, v in parameters.items() if k != "delta"}
    return {**others, "A": parameters["A"] * float(experts) ** -parameters["delta"]}
