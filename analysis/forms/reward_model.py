"""Loss of a reward model in its size and its comparison pairs: L = E + A N^-alpha + B n^-beta.

The Chinchilla form with `pairs` for tokens; E is at least the entropy of the labels' noise. Gao et
al. 2022 (2210.10760) find it near chance below about 2,000 comparisons: leave those out.
"""

from analysis.forms.form import Form, Term

FORM = Form(
    name="reward_model",
    formula="L = E + A N^-alpha + B n^-beta",
    source="the form of Hoffmann et al. 2022 in the reward model's size and comparisons",
    parameters=("E", "A", "B", "alpha", "beta"),
    variables=("params", "pairs"),
    offset="E",
    terms=(
        Term(amplitude="A", exponents={"alpha": {"params": -1.0}}),
        Term(amplitude="B", exponents={"beta": {"pairs": -1.0}}),
    ),
)
