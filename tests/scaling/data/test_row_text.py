"""What is text in a row, what is none, and what is refused."""

import math

import pytest

from scaling.data.row_text import LeftOut, NoText, clean, label_of, number_of, text_in, text_of

WRONG = [
    (5, "the number 5"),
    (1.5, "the number 1.5"),
    (True, "true"),
    (["a"], "a list"),
    ({"a": 1}, "an object"),
    (b"a", "b'a'"),
]


@pytest.mark.parametrize("value", [None, math.nan])
def test_null_and_nan_and_missing_are_no_text(value):
    with pytest.raises(NoText, match=r"f: line 3 has no prompt"):
        text_of(value, "prompt", "f: line 3")
    with pytest.raises(NoText):
        text_in({}, "prompt", "f: line 3")


@pytest.mark.parametrize(("value", "said"), WRONG)
def test_what_is_no_text_is_refused_with_its_place(value, said):
    with pytest.raises(ValueError, match=rf"f: line 3: prompt is {said}, not text") as error:
        text_of(value, "prompt", "f: line 3")
    assert not isinstance(error.value, NoText)


def test_words_that_look_like_none_are_text():
    assert [text_of(t, "a", "f") for t in ("None", "nan", "null", "")] == [
        "None",
        "nan",
        "null",
        "",
    ]


def test_half_a_character_is_replaced_and_others_stay():
    assert clean("a \ud83d b \U0001f600 é") == "a ? b \U0001f600 é"
    assert text_of("\ud83d", "a", "f") == "?"


def test_scores_are_finite_numbers_or_none():
    assert [number_of(v, "s", "f") for v in (1, 2.5, "3", None, math.nan)] == [
        1,
        2.5,
        3,
        None,
        None,
    ]
    for value in ("N/A", "nan", math.inf, "inf", -math.inf, True, [1], {}, "", 10**400):
        with pytest.raises(ValueError, match=r"f: s is .*; give a finite number"):
            number_of(value, "s", "f")


def test_labels_are_whole_numbers_however_they_are_written():
    assert [label_of(v, "gold", "f") for v in (0, "0", 0.0, "1", 1.0, " 1 ")] == [0, 0, 0, 1, 1, 1]
    for value in (None, True, 0.5, "A", "1.5", math.nan, math.inf, [0], "", "9" * 5000):
        with pytest.raises(ValueError, match=r"f: gold is .*; give the number of the right choice"):
            label_of(value, "gold", "f")


def test_what_was_left_out_is_said_with_what_mends_it():
    left = LeftOut()
    assert (left.in_words(), left.as_dict()) == ("", {})
    left.add("too_long", 1200)
    left.add("null")
    left.add("tied", 0)
    assert left.as_dict() == {"null": 1, "too_long": 1200}
    assert left.in_words(too_long="a context of 64 holds all") == (
        "1 without text (null or missing), 1,200 too long (a context of 64 holds all)"
    )
