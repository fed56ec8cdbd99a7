"""A number with its noun."""

import pytest

from scaling.app.plurals import plural


@pytest.mark.parametrize(
    ("n", "noun", "text"),
    [
        (1, "cell", "1 cell"),
        (2, "cell", "2 cells"),
        (0, "pass", "0 passes"),
        (1, "pass", "1 pass"),
        (0.999, "pass", "0.999 passes"),
        (2.5, "pass", "2.5 passes"),
        (1234, "query", "1,234 queries"),
        (3, "day", "3 days"),
    ],
)
def test_the_noun_is_singular_for_one(n, noun, text):
    assert plural(n, noun) == text


def test_a_number_that_is_written_as_one_is_one():
    assert plural(1.0004, "pass", text="1") == "1 pass"
