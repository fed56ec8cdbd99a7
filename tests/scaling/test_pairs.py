"""Layouts of files, the split, and token ids."""

import json
import warnings

import pytest

from scaling.docstrings import corpus_pairs
from scaling.pairs import Pair, encode, parts, read_pairs, rows_file, split
from scaling.tokenizer import END, SEP


def write(path, rows):
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({"prompt": "a ", "completion": "b"}, "a "),
        ({"question": "a", "answer": "b"}, "a\n"),
        ({"instruction": "a", "input": "", "output": "b"}, "a\n"),
        ({"instruction": "a", "input": "c", "output": "b"}, "a\n\nc\n"),
    ],
)
def test_layouts_are_found_by_their_keys(tmp_path, row, prompt):
    assert read_pairs(write(tmp_path / "d.jsonl", [row])) == [Pair(prompt, "b")]


def test_an_unknown_layout_names_the_legal_ones(tmp_path):
    with pytest.raises(ValueError, match="prompt/completion, question/answer"):
        read_pairs(write(tmp_path / "d.jsonl", [{"text": "a"}]))


MESSAGES = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": "Bye"},
    {"role": "assistant", "content": "So long"},
]
FIRST = "Be kind.\n\nHuman: Hi\n\nAssistant:"


@pytest.mark.parametrize("key", ["messages", "conversations"])
def test_each_answer_of_a_dialogue_is_a_pair(tmp_path, key):
    names = {"system": "system", "user": "human", "assistant": "gpt"}
    turns = [{"from": names[m["role"]], "value": m["content"]} for m in MESSAGES]
    row = {key: MESSAGES if key == "messages" else turns}
    assert read_pairs(write(tmp_path / "d.jsonl", [row])) == [
        Pair(FIRST, " Hello"),
        Pair(FIRST + " Hello\n\nHuman: Bye\n\nAssistant:", " So long"),
    ]


def test_prompt_and_completion_may_be_messages(tmp_path):
    row = {"prompt": MESSAGES[:2], "completion": MESSAGES[2:3]}
    assert read_pairs(write(tmp_path / "d.jsonl", [row])) == [Pair(FIRST, " Hello")]


def test_the_template_makes_a_prompt_a_turn_and_leaves_dialogues(tmp_path):
    rows = [{"instruction": "a", "input": "c", "output": "b "}, {"messages": MESSAGES[:3]}]
    assert read_pairs(write(tmp_path / "d.jsonl", rows), template="chat") == [
        Pair("\n\nHuman: a\n\nc\n\nAssistant:", " b"),
        Pair(FIRST, " Hello"),
    ]


def test_an_unknown_role_is_named(tmp_path):
    row = {"messages": [{"role": "critic", "content": "a"}]}
    with pytest.raises(ValueError, match=r"role 'critic' .* of system, user"):
        read_pairs(write(tmp_path / "d.jsonl", [row]))


def test_instances_of_an_instruction_are_a_pair_each(tmp_path):
    row = {"instruction": "a", "instances": [{"input": i, "output": f"o{i}"} for i in ("", "c")]}
    found = read_pairs(write(tmp_path / "d.jsonl", [row]))
    assert found == [Pair("a\n", "o"), Pair("a\n\nc\n", "oc")]


def test_a_file_without_a_pair_is_refused(tmp_path):
    with pytest.raises(ValueError, match="none of the 1 rows"):
        read_pairs(write(tmp_path / "d.jsonl", [{"prompt": "a", "completion": " "}]))


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("alpaca_15k", 15_068),
        ("dolly_3k", 2_990),
        ("gsm8k/test", 1_319),
        ("self_instruct_seed", 175),
    ],
)
def test_real_instructions_are_read(shared, name, rows):
    found = read_pairs(shared / f"data/sft/{name}.jsonl.gz")
    assert len(found) >= rows
    assert all(p.completion.strip() for p in found)


def test_a_hub_set_is_the_same_interface(tmp_path, monkeypatch):
    pytest.importorskip("datasets", reason="needs datasets; install scaling-laws[hub]")
    (tmp_path / "set").mkdir()
    write(
        tmp_path / "set" / "train.jsonl", [{"question": f"q{i}", "answer": "a"} for i in range(5)]
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of datasets and its imports
        path = rows_file(f"hub:{tmp_path / 'set'}", tmp_path / "cache")
    assert read_pairs(path) == [Pair(f"q{i}\n", "a") for i in range(5)]
    monkeypatch.setattr("scaling.hub._stream", None)  # it is not fetched again
    assert rows_file(f"hub:{tmp_path / 'set'}", tmp_path / "cache") == path


def test_a_line_that_is_not_json_is_named(tmp_path):
    (tmp_path / "d.jsonl").write_text('{"prompt": "a", "completion": "b"}\n{\n')
    with pytest.raises(ValueError, match="line 2"):
        read_pairs(tmp_path / "d.jsonl")


def test_split_keeps_a_prompt_on_one_side():
    rows = [Pair(f"p{i % 20}", str(i)) for i in range(60)]
    train, test = split(rows)
    assert len(train) + len(test) == 60
    assert not {p.prompt for p in train} & {p.prompt for p in test}
    assert (train, test) == split(rows)


def test_all_turns_of_a_dialogue_are_on_one_side():
    turns = [f"\n\nHuman: {i}\n\nAssistant:" for i in range(20)]
    rows = [Pair(t + " x\n\nHuman: more\n\nAssistant:" * k, "y") for t in turns for k in (0, 1)]
    train, test = split(rows)
    assert {p.prompt[:12] for p in train}.isdisjoint({p.prompt[:12] for p in test})
    assert len(parts(rows, test[:1])[0]) == len(rows) - 2


def test_ids_end_with_the_separator_and_the_end(pretrained):
    corpus = pretrained("sft").corpus
    examples = encode(corpus.tokenizer, corpus_pairs(corpus)[0], context=96)
    assert all(e.prompt[-1] == SEP and e.completion[-1] == END for e in examples)


def test_pairs_beyond_the_context_are_refused(pretrained):
    corpus = pretrained("sft").corpus
    with pytest.raises(ValueError, match="no pair of data fits the context of 4 tokens"):
        encode(corpus.tokenizer, corpus_pairs(corpus)[0], context=4)


def test_held_out_rows_of_their_own_leave_their_prompts_out_of_training():
    rows = [Pair(f"p{i}", "x") for i in range(10)]
    train, test = parts(rows, [Pair("p3", "y"), Pair("q", "z")])
    assert len(train) == 9
    assert [p.prompt for p in test] == ["p3", "q"]
    assert parts(rows, []) == split(rows)
    with pytest.raises(ValueError, match="every training prompt is a held-out one"):
        parts(rows[:1], rows)
