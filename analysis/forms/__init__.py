"""The forms that a law can have, one short file each; `analysis.forms.form` says what a form is.

To add one, write a file with a `Form` and list it here.
"""

import difflib
from collections.abc import Mapping
from types import MappingProxyType

from analysis.forms import (
    accuracy,
    bnsl,
    chinchilla,
    coupled,
    data_constrained,
    farseer,
    finetuning,
    frontier,
    kaplan,
    mixture,
    overoptimisation,
    overtraining,
    power,
    reward_model,
    rl_sigmoid,
)
from analysis.forms.form import EXPONENT_BOUNDS, Array, Form, Term, column

__all__ = ["EXPONENT_BOUNDS", "FORMS", "Array", "Form", "Term", "column", "form_named"]

_ALL = (
    chinchilla.FORM,
    coupled.FORM,
    kaplan.FORM,
    frontier.FORM,
    *power.POWERS,
    data_constrained.FORM,
    mixture.FORM,
    overtraining.OVERTRAINING,
    overtraining.DOWNSTREAM_ERROR,
    accuracy.FORM,
    farseer.FORM,
    bnsl.FORM,
    finetuning.FORM,
    finetuning.EPOCHS,
    reward_model.FORM,
    reward_model.NOISELESS,
    *overoptimisation.FORMS,
    rl_sigmoid.FORM,
)
OTHERS = (
    "all",
    "isoflop",
    "isoflop_akima",
    "envelope",
    "lr_batch",
    "critical_batch",
)  # other names that `fit` takes
FORMS: Mapping[str, Form] = MappingProxyType({form.name: form for form in _ALL})


def form_named(name: str) -> Form:
    """Return a form by name; raises ValueError listing the names."""
    if name not in FORMS:
        close = difflib.get_close_matches(name, [*FORMS, *OTHERS], n=1)
        hint = f", did you mean {close[0]}?" if close else ""
        raise ValueError(
            f"form={name} is not known{hint}; choose one of {', '.join((*FORMS, *OTHERS))}"
        )
    return FORMS[name]
