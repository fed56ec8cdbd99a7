"""Fine-tuning: Zhang et al. 2024 (2402.17193), L = E + A N^-alpha D_f^-beta.

N is the model's size (or another scale, renamed onto `params`), D_f the number of fine-tuning
`examples`. Fit one method and task at a time, by `where=` or `group`.
"""

from analysis.forms.form import Form, Term

FORM = Form(
    name="finetuning",
    formula="L = E + A N^-alpha D_f^-beta",
    source="Zhang et al. 2024, arXiv 2402.17193 eq. 1",
    parameters=("E", "A", "alpha", "beta"),
    variables=("params", "examples"),
    offset="E",
    terms=(Term(amplitude="A", exponents={"alpha": {"params": -1.0}, "beta": {"examples": -1.0}}),),
)
