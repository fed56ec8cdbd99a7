"""Preferences: layouts, one ranking a prompt, what makes no pair."""

import json

import pytest

from scaling.rankings import Ranking, read_rankings

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
    found = read_rankings(shared / f"data/prefs/{name}.jsonl.gz")
    assert sum(len(r.order) for r in found) >= least
    if name.startswith("hh"):
        assert all(r.prompt.endswith("\n\nAssistant:") for r in found[:100])
