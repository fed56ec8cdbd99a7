"""Loss of a reward model in its size and its comparison pairs.

`reward_model`, L = E + A N^-alpha + B n^-beta, is the Chinchilla form with `pairs` for tokens. E is
at least the entropy of the labels' noise. Labels of a judge that always decides the same way have
no noise and no such floor: `reward_model_noiseless`, L = A N^-alpha n^-beta, needs far fewer cells.
Gao et al. 2022 (2210.10760) find a reward model near chance below about 2,000 comparisons: leave
such cells out.
"""

from analysis.forms.form import Form, Term

FORM = Form(
    name="reward_model",
    formula="L = E + A N^-alpha + B n^-beta",
    source="the form of Hoffmann et al. 2022 in the reward model's size and comparisons",
    parameters=("E", "A", "B", "alpha", "beta"),
    variables=("params", "pairs"),
    offset="E",
    stage="reward",
    terms=(
        Term(amplitude="A", exponents={"alpha": {"params": -1.0}}),
        Term(amplitude="B", exponents={"beta": {"pairs": -1.0}}),
    ),
)

NOISELESS = Form(
    name="reward_model_noiseless",
    formula="L = A N^-alpha n^-beta",
    source="the product of Zhang et al. 2024, arXiv 2402.17193 eq. 1, in size and comparisons",
    parameters=("A", "alpha", "beta"),
    variables=("params", "pairs"),
    stage="reward",
    terms=(Term(amplitude="A", exponents={"alpha": {"params": -1.0}, "beta": {"pairs": -1.0}}),),
)
