"""Preferences: layouts, one ranking a prompt, what makes no pair."""

import json

import pytest

from scaling.data.row_text import LeftOut
from scaling.stages.examples.rankings import Ranking, read_rankings

PAIR = {"prompt": "p", "chosen": "a", "rejected": "b"}
ASK = [{"role": "user", "content": "Hi"}]
START = "\n\nHuman: Hi\n\nAssistant:"


def answer(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def read(tmp_path, *rows, **options):
    path = tmp_path / "d.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return read_rankings(path, **options)


@pytest.mark.parametrize(
    ("row", "wanted"),
    [
        (PAIR, ("p", ["a", "b"], [(0, 1)])),
        (
            {"chosen": START + " Hello", "rejected": START + " Helmet"},
            (START, [" Hello", " Helmet"], [(0, 1)]),
        ),
        (
            {"chosen": ASK + answer("Hello"), "rejected": ASK + answer("No")},
            (START, [" Hello", " No"], [(0, 1)]),
        ),
        (
            {"prompt": ASK, "chosen": answer("Hello"), "rejected": answer("No")},
            (START, [" Hello", " No"], [(0, 1)]),
        ),
        (
            {"prompt": "p", "completions": ["a", "b", "c"], "scores": [1, 3, 2]},
            ("p", ["b", "a", "c"], [(0, 1), (2, 1), (0, 2)]),
        ),
        (
            {"prompt": "p", "responses": ["a", "b"], "ranks": [2, 1]},
            ("p", ["b", "a"], [(0, 1)]),
        ),
        (
            {"prompt": "p", "completions": [{"response": x, "score": s} for x, s in ("a1", "b2")]},
            ("p", ["b", "a"], [(0, 1)]),
        ),
    ],
    ids=["pair", "dialogue", "messages", "prompt of messages", "scores", "ranks", "in each"],
)
def test_layouts_are_found_by_their_keys(tmp_path, row, wanted):
    assert read(tmp_path, row) == [Ranking(*wanted)]


def test_rows_of_a_prompt_are_one_ranking(tmp_path):
    rows = [PAIR, {**PAIR, "rejected": "c"}, {**PAIR, "chosen": "b", "rejected": "c"}, PAIR]
    assert read(tmp_path, *rows) == [Ranking("p", ["a", "b", "c"], [(0, 1), (0, 2), (1, 2)])]


def test_ties_and_empty_completions_are_no_pair(tmp_path):
    row = {"prompt": "p", "completions": ["a", "b", " ", "a"], "scores": [1, 1, 0, 2]}
    assert read(tmp_path, row) == [Ranking("p", ["a", "b"], [(0, 1)])]


def test_a_template_makes_a_prompt_a_turn(tmp_path):
    assert read(tmp_path, PAIR, template="chat") == [
        Ranking("\n\nHuman: p\n\nAssistant:", [" a", " b"], [(0, 1)])
    ]


@pytest.mark.parametrize(
    ("rows", "match"),
    [
        ([], "is empty"),
        ([{**PAIR, "rejected": "a"}] * 3, "has 3 rows, none with .* two different completions"),
        ([{**PAIR, "rejected": ""}], "give both sides, chosen and rejected"),
        (
            [{"prompt": "p", "chosen": "a"}],
            "keys chosen, prompt; a preference needs both sides, as prompt",
        ),
        (
            [{"prompt": "p", "completions": ["a", "b"], "scores": [1]}],
            "a preference needs both sides",
        ),
        ([{"chosen": ASK, "rejected": ASK}], "do not end in two answers to the same prompt"),
    ],
    ids=["empty", "equal", "one side empty", "one side missing", "scores missing", "no answer"],
)
def test_files_without_a_preference_are_named(tmp_path, rows, match):
    with pytest.raises(ValueError, match=match) as error:
        read(tmp_path, *rows)
    assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize(
    ("name", "least"), [("alpaca_eval_gpt4_test", 1200), ("hh_harmless_base_test", 2000)]
)
def test_real_preferences_are_read(shared, name, least):
    rankings = read_rankings(shared / f"data/prefs/{name}.jsonl.gz")
    assert sum(len(r.order) for r in rankings) >= least
    if name.startswith("hh"):
        assert all(r.prompt.endswith("\n\nAssistant:") for r in rankings[:100])


RANKED = {"prompt": "p", "completions": ["a", "b", "c"]}


@pytest.mark.parametrize("none", [None, float("nan")])
def test_a_completion_without_a_score_makes_no_pair(tmp_path, none):
    left_out = LeftOut()
    assert read(tmp_path, {**RANKED, "scores": [5, 1, none]}, left_out=left_out) == [
        Ranking("p", ["a", "b"], [(0, 1)])
    ]
    assert left_out.as_dict() == {"unscored": 1}


def test_scores_in_each_may_be_missing_and_a_row_without_any_makes_no_pair(tmp_path):
    each = [{"text": "a", "score": 2}, {"text": "b", "score": 1}, {"text": "c"}, {"score": 3}]
    left_out = LeftOut()
    rows = [{"prompt": "p", "completions": each}, {**RANKED, "prompt": "q"}]
    rows += [{**RANKED, "scores": None}]
    assert read(tmp_path, *rows, left_out=left_out) == [Ranking("p", ["a", "b"], [(0, 1)])]
    assert left_out.as_dict() == {"null": 1, "unscored": 1 + 3 + 3}


@pytest.mark.parametrize("score", ["N/A", float("inf"), True, [1]])
def test_a_score_that_is_no_number_is_named_with_its_line(tmp_path, score):
    with pytest.raises(ValueError, match=r"d\.jsonl: line 2: item 3 of scores is .* finite number"):
        read(tmp_path, PAIR, {**RANKED, "scores": [5, 1, score]})


def test_what_makes_no_pair_is_counted(tmp_path):
    left_out = LeftOut()
    rows = [
        PAIR,
        PAIR,
        {**PAIR, "rejected": "a"},
        {**PAIR, "rejected": " "},
        {**PAIR, "chosen": None},
        {"prompt": None, "chosen": "a", "rejected": "b"},
        {"prompt": "p", "chosen": "a"},
        {**RANKED, "prompt": "q", "scores": [1, 1, 0]},
        {"prompt": "r", "completions": ["a"], "scores": [1]},
        {"chosen": ASK + answer("x"), "rejected": ASK + answer("")},
    ]
    read(tmp_path, *rows, left_out=left_out)
    assert left_out.as_dict() == {"null": 4, "empty": 2, "tied": 2, "repeated": 1}


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "p", "chosen": ["a"], "rejected": "b"},
        {"prompt": 4, "chosen": "a", "rejected": "b"},
        {"prompt": "p", "completions": ["a", 5], "scores": [1, 2]},
        {"prompt": "p", "completions": "ab", "scores": [1, 2]},
        {"prompt": "p", "completions": ["a", "b"], "scores": 3},
    ],
    ids=str,
)
def test_what_is_no_text_is_refused_with_its_line(tmp_path, row):
    with pytest.raises(ValueError, match=r"d\.jsonl: line 2[: ]"):
        read(tmp_path, PAIR, row)
