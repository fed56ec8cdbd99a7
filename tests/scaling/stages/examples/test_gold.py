"""The programmatic judge."""

import pytest

from scaling.stages.examples.docstrings import corpus_pairs
from scaling.stages.examples.gold import WEIGHTS, correlation, gold_scores, verdict

PROMPT = 'def area(width, height):\n    """Return the area of a rectangle."""\n'
GOOD = "    if width < 0:\n        raise ValueError(width)\n    return width * height\n"


def score(completion: str, *, ended: bool = True) -> float:
    return gold_scores([PROMPT], [completion], [ended])[0]


def test_a_good_body_has_every_check_met():
    assert verdict(PROMPT, GOOD, ended=True) == dict.fromkeys(WEIGHTS, 1.0)
    assert score(GOOD) == pytest.approx(1.0)


@pytest.mark.parametrize(
    "worse",
    [
        "",
        "    return width *\n",
        "    return depth * colour * other_name_of_it * another_unknown_name_here\n",
        "return width * height  # leaves the function, and is long enough otherwise\n",
        "    width width width width width width width width width width width width\n",
        GOOD * 30,
        "    x\n",
    ],
)
def test_worse_bodies_score_less(worse):
    assert score(worse) < score(GOOD) - 0.04


def test_an_unended_body_scores_less():
    assert score(GOOD, ended=False) == pytest.approx(score(GOOD) - WEIGHTS["ended"])


def test_a_later_error_scores_more_than_an_early_one():
    early = "    return )\n    width = height\n    height = width\n"
    late = "    width = height\n    height = width\n    return )\n"
    assert score(late) > score(early)


@pytest.mark.parametrize(
    "strange", ["\0", "(" * 500, "    return '\\d'\n", "    '", "\\", "    é = 1 if 1is 1 else 2\n"]
)
def test_strange_code_neither_raises_nor_warns(strange):
    assert 0 <= score(strange) <= 1


def test_code_is_not_run(tmp_path):
    mark = tmp_path / "mark"
    score(f"    open({str(mark)!r}, 'w')\n")
    assert not mark.exists()


def test_weights_sum_to_one():
    assert sum(WEIGHTS.values()) == pytest.approx(1.0)


def test_bodies_of_the_corpus_score_high(pretrained):
    pairs = corpus_pairs(pretrained("sft").corpus)[0]
    scores = gold_scores(
        [p.prompt for p in pairs], [p.completion for p in pairs], [True] * len(pairs)
    )
    assert min(scores) > 0.85


def test_correlation_of_a_constant_is_zero():
    assert correlation([1.0, 1.0], [1.0, 2.0]) == 0.0
    assert correlation([1.0, 2.0, 3.0], [2.0, 4.0, 6.0]) == pytest.approx(1.0)
