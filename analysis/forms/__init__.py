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
    experts,
    farseer,
    finetuning,
    frontier,
    kaplan,
    overoptimisation,
    overtraining,
    power,
    reward_model,
    rl_sigmoid,
)
from analysis.forms.form import EXPONENT_BOUNDS, Array, Form, Term, column
from analysis.forms.settings import surface

__all__ = [
    "COMPARISONS",
    "EXPONENT_BOUNDS",
    "FORMS",
    "Array",
    "Form",
    "Term",
    "column",
    "current_form",
    "form_named",
    "forms_of_size_and_data",
]

_ALL = (
    chinchilla.FORM,
    coupled.FORM,
    kaplan.FORM,
    frontier.FORM,
    *power.POWERS,
    *data_constrained.FORMS,
    experts.FORM,
    overtraining.OVERTRAINING,
    overtraining.DOWNSTREAM_ERROR,
    *accuracy.FORMS,
    farseer.FORM,
    bnsl.FORM,
    finetuning.FORM,
    finetuning.EPOCHS,
    reward_model.FORM,
    reward_model.NOISELESS,
    *overoptimisation.FORMS,
    rl_sigmoid.FORM,
    surface.FORM,
)
# Other names that `fit` takes: comparisons of forms, and methods that are no formula.
COMPARISONS = ("all", "repetition", "downstream")
OTHERS = (
    *COMPARISONS,
    "isoflop",
    "isoflop_akima",
    "envelope",
    "lr_batch",
    "critical_batch",
    "schedule",
)
FORMS: Mapping[str, Form] = MappingProxyType({form.name: form for form in _ALL})
FORMER = {"mixture": "experts"}  # names of forms in earlier versions, which are still read


def current_form(name: str) -> str:
    """Return the name of a form in this version, whatever the version that the name is from."""
    return FORMER.get(name, name)


def forms_of_size_and_data() -> list[str]:
    """Return the names of the forms of N and D that the solver of all forms fits."""
    return [form.name for form in FORMS.values() if form.is_surface and not form.own_method]


def form_named(name: str) -> Form:
    """Return a form by name, or by a former one; raises ValueError listing the names."""
    if name == "schedule":
        raise ValueError(
            "form=schedule is a law of loss curves, which scaling fit and scaling report alone"
            " read; choose a form of N and D, as form=chinchilla"
        )
    name = current_form(name)
    if name not in FORMS:
        close = difflib.get_close_matches(name, [*FORMS, *OTHERS], n=1)
        hint = f", did you mean {close[0]}?" if close else ""
        raise ValueError(
            f"form={name} is not known{hint}; choose one of {', '.join((*FORMS, *OTHERS))}"
        )
    return FORMS[name]
