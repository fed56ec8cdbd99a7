"""The page of several studies: the numbers of scaling compare, alarms first, refusals too."""

import re
from pathlib import Path

import pytest

from analysis.page.compared_studies import alarms, compared, page, sentence
from analysis.report import ReportConfig, main
from tests.analysis.comparing.test_comparability import study

PAIR = {"a": "old", "b": "new", "k": 1.3, "k_interval": [1.1, 1.6], "p_better": 0.97, "why": ""}
RESULT = {"target": {"flops": 1e20}, "level": 0.9}


def test_a_multiplier_above_one_says_that_b_is_better():
    said = sentence(PAIR, RESULT)
    assert "new is worth k = 1.3 times the compute of old (90% interval [1.1, 1.6])" in said
    assert "P(new is better) = 0.97" in said
    none = sentence({**PAIR, "k": None, "why": "the law of new is not_identified"}, RESULT)
    assert "nothing is known of new over old: the law of new is not_identified" in none


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with three studies: `b` loses to `a`, `c` has another test text."""
    folder = tmp_path_factory.mktemp("studies")
    study(folder / "a")
    study(folder / "b", seed=1, loss=1.02)
    study(folder / "c", seed=2, test="t2")
    return folder


@pytest.mark.slow
def test_the_page_has_the_numbers_of_the_command(folder, capsys):
    main(ReportConfig(compare=[str(folder / "a"), str(folder / "b")]))
    said = capsys.readouterr().out
    (pair,) = compared([str(folder / "a"), str(folder / "b")])["pairs"]
    assert pair["k"] < 1
    assert f"b is worth k = {pair['k']:.3g} times the compute of a" in said
    text = (folder / "a-against-b.html").read_text()
    assert text.count("<svg") == 2
    assert f"{pair['k']:.3g}" in text
    assert "http" not in re.sub(r"http-equiv|xmlns[^ ]*|http://www.w3.org/[^\"]*", "", text)
    for name in ("Arms", "Pairs", "P(best)", "regret", "seeds needed"):
        assert name in text


def test_what_does_not_compare_is_refused_on_the_page_as_on_the_terminal(folder, capsys):
    with pytest.raises(ValueError, match="the test parts are different text"):
        main(ReportConfig(compare=[str(folder / "a"), str(folder / "c")]))
    text = (folder / "a-against-c.html").read_text()
    assert "the test parts are different text" in text
    assert text.index('class="alarms"') < text.index('id="answer"')
    assert "<svg" not in text
    assert "times the compute" not in text
    assert capsys.readouterr().out == ""


def test_arms_without_a_law_and_accidents_are_alarms():
    result = {
        "comparable": True,
        "accidents": ["precision (fp32 and bf16)"],
        "arms": [
            {"study": "a", "why": "a has no law: 3 rows", "alarms": []},
            {"study": "b", "why": "", "alarms": [{"code": "few_units", "sentence": "Few."}]},
        ],
    }
    assert [a["code"] for a in alarms(result)] == ["arm_without_law", "other_recipe", "few_units"]
    refused = {"comparable": False, "why": "no", "arms": [{"study": "a"}, {"study": "b"}]}
    assert "do not compare: no" in page(refused)


@pytest.mark.parametrize("given", [["a"], []])
def test_two_studies_are_asked_for(given):
    with pytest.raises(ValueError, match=r"must name two studies or more|runs is not set"):
        main(ReportConfig(compare=given))
