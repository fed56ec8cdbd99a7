"""Fine-tuning: Zhang et al. 2024 (2402.17193), L = E + A N^-alpha D_f^-beta, and with epochs.

N is the model's size (or another scale, mapped to `params`) and D_f the number of fine-tuning
`examples`. Fit one method and task at a time, by `where=`. In `finetuning_epochs` D_f is the number
of fresh examples that `epochs` passes are worth, with the decay of Muennighoff et al. 2023
(2305.16264) eq. 5. Its R is fitted, since theirs was not measured for fine-tuning. The form cannot
rise with epochs, so leave out runs that overfit.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from analysis.forms.data_constrained import effective
from analysis.forms.form import EXPONENT_BOUNDS, Array, Form, Term, column
from analysis.forms.grid import product

FORM = Form(
    name="finetuning",
    formula="L = E + A N^-alpha D_f^-beta",
    source="Zhang et al. 2024, arXiv 2402.17193 eq. 1",
    parameters=("E", "A", "alpha", "beta"),
    variables=("params", "examples"),
    offset="E",
    stage="sft",
    terms=(Term(amplitude="A", exponents={"alpha": {"params": -1.0}, "beta": {"examples": -1.0}}),),
)


def loss(p: Mapping[str, Any], x: Mapping[str, Any]) -> Any:
    """Return L in nats per token of completions."""
    examples = x["examples"]
    worth = effective(examples * x["epochs"], examples, p["R"])
    return p["E"] + p["A"] * x["params"] ** -p["alpha"] * worth ** -p["beta"]


def starts(table: pd.DataFrame) -> Mapping[str, Array]:
    """Return grid points whose product has the reducible loss of the table's middle."""
    smallest, typical = (float(f(column(table, "loss"))) for f in (np.min, np.median))
    middle = {v: np.exp(np.log(column(table, v)).mean()) for v in ("params", "examples")}
    grid = product(E=(0.1, 0.5, 0.9), alpha=(0.1, 0.4), beta=(0.05, 0.2), R=(1.0, 5.0, 30.0))
    offset = smallest * grid["E"]
    amplitude = (
        (typical - offset) * middle["params"] ** grid["alpha"] * middle["examples"] ** grid["beta"]
    )
    return {**grid, "E": offset, "A": amplitude}


EPOCHS = Form(
    name="finetuning_epochs",
    formula="L = E + A N^-alpha D'^-beta, D' = D_f (1 + R (1 - exp(-(epochs - 1)/R)))",
    source="Zhang et al. 2024, arXiv 2402.17193 eq. 1; Muennighoff et al. 2023, 2305.16264 eq. 5",
    parameters=("E", "A", "alpha", "beta", "R"),
    variables=("params", "examples", "epochs"),
    offset="E",
    stage="sft",
    function=loss,
    logs=("A", "R"),
    amplitudes={"A": {"alpha": "params", "beta": "examples"}},
    bounds={
        "E": (0.0, np.inf),
        "alpha": EXPONENT_BOUNDS,
        "beta": EXPONENT_BOUNDS,
        "R": (0.05, 1e4),
    },
    starts=starts,
)
