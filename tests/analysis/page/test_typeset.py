import re
from dataclasses import replace

import pytest

from analysis.forms import FORMS
from analysis.laws.law import Law
from analysis.page.typeset import law_mathml, mathml, name_mathml


def plain(markup: str) -> str:
    """Return MathML as text: fractions with a slash, powers with a caret."""
    text = re.sub(r"<msup>(<mrow>.*?</mrow>|<mn>10</mn>)(.*?)</msup>", r"\1^\2", markup)
    text = re.sub(r"<mfrac>(<mrow>.*?</mrow>)(<mrow>.*?</mrow>)</mfrac>", r"\1/\2", text)
    return re.sub(r"<[^>]+>", "", text)


def test_a_negative_exponent_is_a_fraction_and_numbers_have_powers_of_ten():
    text = mathml("L = E + A N^-alpha", {"E": "1.7", "A": "4.1e3", "alpha": "0.34"}, of="(N, D)")
    assert plain(text) == "L(N, D)=1.7+4.1×10^3/N^0.34"


def test_a_negative_number_turns_its_sign_and_its_exponent():
    assert plain(mathml("L = exp(a N^g + b)", {"a": "2", "g": "-0.1", "b": "-3"})) == (
        "L=exp(2/N^0.1−3)"
    )


def test_two_numbers_side_by_side_have_a_sign_between_them():
    assert plain(mathml("R = d (a - b d)", {"a": "2", "b": "3"})) == "R=d(2−3d)"
    assert plain(mathml("L = a b N", {"a": "2", "b": "3"})) == "L=2×3N"


def test_names_have_greek_letters_and_subscripts():
    assert plain(name_mathml("alpha_N")) == "αN"
    assert "<msub>" in name_mathml("c0")
    assert "<msub>" in name_mathml("D_f")


@pytest.mark.parametrize("form", sorted(FORMS))
def test_every_form_is_typeset_with_all_its_numbers(form):
    values = {name: 1.5 + i for i, name in enumerate(FORMS[form].parameters)}
    law = Law(
        form=form, count="total", parameters=values, objective={}, status="converged", n_runs=9
    )
    markup = law_mathml(law)
    for value in values.values():
        assert f"<mn>{value:.4g}</mn>" in markup
    for tag in ("mrow", "msup", "mfrac", "msub", "math", "mi", "mn", "mo"):
        assert markup.count(f"<{tag}>") + markup.count(f"<{tag} ") == markup.count(f"</{tag}>")


def test_numbers_have_the_digits_that_their_intervals_support():
    law = Law(
        form="chinchilla", count="total", objective={}, status="converged", n_runs=9,
        parameters={"E": 1.69337, "A": 406.43, "B": 410.7, "alpha": 0.33917, "beta": 0.2849},
        intervals={"level": 0.9, "parameters": {"E": [1.51, 1.82], "alpha": [0.32, 0.36]}},
    )  # fmt: skip
    markup = law_mathml(law)
    assert "<mn>1.69</mn>" in markup
    assert "<mn>0.339</mn>" in markup
    wide = replace(law, intervals={"level": 0.9, "parameters": {"E": [0.9, 2.5]}})
    assert "<mn>1.7</mn>" in law_mathml(wide)
    assert law_mathml(None) == law_mathml(replace(law, form="unheard_of")) == ""
