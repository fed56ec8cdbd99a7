import pytest

from analysis.number_text import supported, supported_interval


@pytest.mark.parametrize(
    ("value", "ends", "text"),
    [
        (1.69337, (1.51, 1.82), "1.69"),  # half-width .155: two digits
        (1.69337, (0.9, 2.5), "1.7"),  # .8: one digit
        (0.33917, (0.32, 0.36), "0.339"),
        (406.43, (350.0, 470.0), "410"),
        (4.1e3, (2e2, 4e6), "4e3"),  # at least one digit
        (-2.345, (-2.6, -2.1), "-2.35"),
        (0.2849, None, "0.2849"),
        (0.5, (0.5, 0.5), "0.5"),
    ],
)
def test_a_number_ends_where_its_interval_does(value, ends, text):
    assert supported(value, ends) == text


def test_both_ends_have_the_same_last_place():
    assert supported_interval((1.5123, 1.8234)) == "[1.51, 1.82]"
    assert supported_interval(None) == "–"
