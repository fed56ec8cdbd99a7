"""The command `analysis.compare`: what it refuses, what it prints."""

import pytest

from analysis.comparing.options import CompareConfig
from analysis.comparing.text import arm_rows, lines_of, pair_rows
from tests.analysis.comparing.arms_of import LAW, table_of
from tests.in_process import call

ARM = {
    "study": "a", "law_status": "converged", "loss_at_target": 3.0, "interval": [2.9, 3.1],
    "p_best": 0.4, "regret": 0.02, "runs": 30, "seeds": 1, "largest_flops": 1e20, "why": "",
    "alarms": [],
}  # fmt: skip
PAIR = {
    "a": "a", "b": "b", "k": 1.2, "k_interval": [0.9, 1.6], "p_better": 0.6, "p_value": 0.4,
    "q_value": 0.4, "promoted": False, "trend": 0.01, "trend_interval": [-0.1, 0.1],
    "fades": False, "paired_seeds": 30, "seeds_needed": 7, "always_valid_p": 0.5, "why": "",
}  # fmt: skip
RESULT = {
    "unit": "nats_per_token", "comparable": True, "why": "", "question": [], "accidents": [],
    "notes": [], "reference": "a", "rate": 0.05, "difference": 0.01,
    "target": {"flops": 1e21, "extrapolation": 100.0, "given": True},
    "arms": [ARM, {**ARM, "study": "b", "p_best": 0.6}], "pairs": [PAIR],
    "single_size": None, "hindcast": None, "inputs": {"a": {}, "b": {}},
}  # fmt: skip


def test_arms_stand_in_the_order_of_their_chance_and_numbers_are_short():
    assert [row[0] for row in arm_rows(RESULT)] == ["b", "a"]
    assert pair_rows(RESULT)[0][:4] == ("b over a", "1.2", "[0.9, 1.6]", "0.60")


def test_what_to_run_next_names_the_seeds_and_the_larger_size():
    text = "\n".join(lines_of(RESULT))
    assert "7 seeds at one size tell 0.01; there are 1" in text
    assert "confirm the order at one larger size" in text
    assert max(map(len, text.split("\n"))) <= 100


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "set either studies"),
        (["studies=[a]"], "names one study"),
        (["studies=[a,b]", "by=x"], "by=x is for a table"),
        (["runs=t.csv"], "by is not set"),
        (["runs=t.csv", "by=corpora"], "did you mean by=corpus"),
        (["runs=t.csv", "by=loss"], "values, more than"),
        (["runs=t.csv", "by=corpus", "reference=z"], "reference"),
        (["runs=t.csv", "by=corpus", "where=corpus == 'a'"], "has one value"),
        (["runs=t.csv", "by=corpus", "form=nothing"], "form"),
        (["runs=t.csv", "by=corpus", "target=web"], "columns.loss"),
        (["studies=[a,a]"], "a"),
    ],
)
def test_mistakes_are_answered_in_one_sentence(tmp_path, arguments, words):
    table_of({"a": LAW, "b": LAW}, noise=0.01, seeds=4).to_csv(tmp_path / "t.csv", index=False)
    done = call("analysis.compare", *arguments, cwd=tmp_path)
    assert done.returncode == 1
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_vocabulary_column_that_differs_is_refused(tmp_path):
    table = table_of({"a": LAW, "b": LAW}, noise=0.01)
    table = table.assign(tokenizer=table["corpus"].map({"a": "gpt2", "b": "llama"}))
    table.to_csv(tmp_path / "t.csv", index=False)
    done = call("analysis.compare", "runs=t.csv", "by=corpus", cwd=tmp_path)
    assert done.returncode == 1
    assert "tokenizer (a: gpt2, b: llama)" in done.stderr
    assert (tmp_path / "compare.json").exists()


def test_a_row_without_an_arm_is_named(tmp_path):
    table = table_of({"a": LAW, "b": LAW})
    table.loc[7, "corpus"] = None
    table.to_csv(tmp_path / "t.csv", index=False)
    done = call("analysis.compare", "runs=t.csv", "by=corpus", cwd=tmp_path)
    assert "empty in 1 of 60 rows (the first is row 8)" in done.stderr


def test_the_defaults_are_those_of_the_contract():
    config = CompareConfig(runs="t.csv", by="corpus")
    assert (config.difference, config.intervals.level, config.out) == (0.01, 0.9, "")
