"""Layouts of files, the split, and token ids."""

import json
import warnings

import pytest

from scaling.data.row_text import LeftOut
from scaling.data.tokenizer import END, SEP
from scaling.stages.examples.docstrings import corpus_pairs
from scaling.stages.examples.pairs import (
    Layout,
    Pair,
    encode,
    read_pairs,
    rows_file,
    split,
    split_held_out,
)


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
        ({"instruction": "a", "response": "b"}, "a\n"),
        ({"instruction": "a", "context": "c", "response": "b"}, "a\n\nc\n"),
        ({"instruction": "a", "context": None, "response": "b", "category": "x"}, "a\n"),
        ({"input": "a", "output": "b"}, "a\n"),
        ({"query": "a", "answer": "b"}, "a\n"),
        ({"query": "a", "response": "b"}, "a\n"),
        ({"prompt": "a ", "response": "b"}, "a "),
        ({"text": "a", "label": "b"}, "a\n"),
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
    assert read_pairs(write(tmp_path / "d.jsonl", rows), layout=Layout(template="chat")) == [
        Pair("\n\nHuman: a\n\nc\n\nAssistant:", " b"),
        Pair(FIRST, " Hello"),
    ]


def test_an_unknown_role_is_named(tmp_path):
    row = {"messages": [{"role": "critic", "content": "a"}]}
    with pytest.raises(ValueError, match=r"role 'critic' .* of system, user"):
        read_pairs(write(tmp_path / "d.jsonl", [row]))


def test_instances_of_an_instruction_are_a_pair_each(tmp_path):
    row = {"instruction": "a", "instances": [{"input": i, "output": f"o{i}"} for i in ("", "c")]}
    pairs = read_pairs(write(tmp_path / "d.jsonl", [row]))
    assert pairs == [Pair("a\n", "o"), Pair("a\n\nc\n", "oc")]


def test_a_file_without_a_pair_is_refused(tmp_path):
    with pytest.raises(ValueError, match="none of the 1 rows"):
        read_pairs(write(tmp_path / "d.jsonl", [{"prompt": "a", "completion": " "}]))


@pytest.mark.slow
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
    pairs = read_pairs(shared / f"data/sft/{name}.jsonl.gz")
    assert len(pairs) >= rows
    assert all(p.completion.strip() for p in pairs)


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
    monkeypatch.setattr("scaling.data.hub._stream", None)  # it is not fetched again
    assert rows_file(f"hub:{tmp_path / 'set'}", tmp_path / "cache") == path


def test_a_line_that_is_not_json_is_named(tmp_path):
    (tmp_path / "d.jsonl").write_text('{"prompt": "a", "completion": "b"}\n{\n')
    with pytest.raises(ValueError, match="line 2"):
        read_pairs(tmp_path / "d.jsonl")


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"prompt": "goal", "completion": "sol"}, Pair("g\n", "s")),
        ({"prompt": "goal"}, Pair("g\n", "an")),
        ({"completion": "sol"}, Pair("q\n", "s")),
        ({"prompt": "goal", "completion": "sol", "context": "q"}, Pair("g\n\nq\n", "s")),
    ],
)
def test_any_columns_can_be_named(tmp_path, caplog, columns, expected):
    rows = [{"goal": "g", "sol": "s", "question": "q", "answer": "an", "q": "q"}]
    with caplog.at_level("INFO"):
        path = write(tmp_path / "d.jsonl", rows)
        assert read_pairs(path, layout=Layout(columns=columns)) == [expected]
    assert "completions are" in caplog.text
    with pytest.raises(ValueError, match=r"1 without text .*goal, q, question"):
        read_pairs(path, layout=Layout(columns={"prompt": "absent"}))


def test_an_unknown_layout_says_how_to_name_its_columns(tmp_path):
    with pytest.raises(
        ValueError, match=r"sft\.columns\.prompt=NAME sft\.columns\.completion=NAME"
    ):
        read_pairs(write(tmp_path / "d.jsonl", [{"goal": "g", "sol": "s"}]))
    with pytest.raises(ValueError, match=r"line 1: label is the number 1\.5, not text"):
        read_pairs(write(tmp_path / "d.jsonl", [{"text": "g", "label": 1.5}]))


@pytest.mark.parametrize(
    ("n_rows", "n_test"), [(2, 1), (40, 20), (120, 50), (700, 70), (4999, 500), (9000, 500)]
)
def test_a_tenth_is_held_out_at_least_50_and_at_most_500(n_rows, n_test):
    train, test = split([Pair(f"p{i}", "x") for i in range(n_rows)])
    assert (len(train), len(test)) == (n_rows - n_test, n_test)


@pytest.mark.parametrize(("part", "side"), [("prompt", 0), ("completion", 1)])
def test_truncation_keeps_a_pair_that_is_too_long(pretrained, part, side):
    vocabulary, left_out = pretrained("sft").corpus.vocabulary, LeftOut()
    pairs = [Pair("a b c d " * 20, "x y"), Pair("a b", "x y z " * 30)]
    whole, cut = (
        [e for _, e in encode(vocabulary, pairs, context=context, truncate=part, left_out=left_out)]
        for context in (1000, 60)
    )
    assert left_out.as_dict() == {"too_long": 1}  # the other side alone is longer than the context
    kept = cut[0]
    assert len(kept.prompt) + len(kept.completion) == 60
    of = next(e for e in whole if e[1 - side] == kept[1 - side])
    if part == "prompt":
        assert kept.prompt == of.prompt[-len(kept.prompt) :]
    else:
        assert kept.completion == of.completion[: len(kept.completion)]
        assert kept.completion[-1] != END


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
    assert len(split_held_out(rows, test[:1])[0]) == len(rows) - 2


def test_ids_end_with_the_separator_and_the_end(pretrained):
    corpus = pretrained("sft").corpus
    examples = encode(corpus.vocabulary, corpus_pairs(corpus)[0], context=96)
    assert all(e.prompt[-1] == SEP and e.completion[-1] == END for _, e in examples)


def test_pairs_beyond_the_context_are_refused(pretrained):
    corpus = pretrained("sft").corpus
    with pytest.raises(ValueError, match="no pair of data fits the context of 4 tokens"):
        encode(corpus.vocabulary, corpus_pairs(corpus)[0], context=4)


def test_held_out_rows_of_their_own_leave_their_prompts_out_of_training():
    rows = [Pair(f"p{i}", "x") for i in range(10)]
    train, test = split_held_out(rows, [Pair("p3", "y"), Pair("q", "z")])
    assert len(train) == 9
    assert [p.prompt for p in test] == ["p3", "q"]
    assert split_held_out(rows, []) == split(rows)
    with pytest.raises(ValueError, match="every training prompt is a held-out one"):
        split_held_out(rows[:1], rows)


NONE = [{"output": None}, {"output": float("nan")}, {}, {"output": "b", "instruction": None}]


def test_rows_without_a_text_are_left_out_and_counted(tmp_path):
    rows = [{"instruction": "a", **more} for more in [{"output": "b"}, *NONE, {"output": " "}]]
    left_out = LeftOut()
    assert read_pairs(write(tmp_path / "d.jsonl", rows), left_out=left_out) == [Pair("a\n", "b")]
    assert left_out.as_dict() == {"null": 4, "empty": 1}
    with pytest.raises(
        ValueError, match=r"none of the 5 rows .*4 without text .*the first has the"
    ):
        read_pairs(write(tmp_path / "d.jsonl", rows[1:]))


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "a", "completion": 5},
        {"prompt": ["a"], "completion": "b"},
        {"question": "a", "answer": {"text": "b"}},
        {"instruction": "a", "input": 3, "output": "b"},
        {"instruction": "a", "instances": [{"input": "", "output": True}]},
        {"messages": [{"role": "user", "content": 5}, {"role": "assistant", "content": "b"}]},
        {"messages": "a"},
        {"messages": [{"role": ["user"], "content": "b"}]},
    ],
    ids=str,
)
def test_what_is_no_text_is_refused_with_its_line(tmp_path, row):
    path = write(tmp_path / "d.jsonl", [{"prompt": "a", "completion": "b"}, row])
    with pytest.raises(ValueError, match=r"d\.jsonl: line 2[:, ]"):
        read_pairs(path)


def test_rows_of_a_hub_set_are_named_by_the_set(tmp_path):
    path = write(tmp_path / "rows.jsonl", [{"prompt": "a", "completion": 5}])
    with pytest.raises(ValueError, match=r"^hub:set: row 1: completion is the number 5"):
        read_pairs(path, name="hub:set")


CALL = {"function": {"name": "look", "arguments": "{}"}}
CALLED = '{"name": "look", "arguments": "{}"}'


def test_messages_of_tools_and_developers_and_contents_in_parts_are_read(tmp_path):
    parts = [{"type": "text", "text": "Hi"}, {"type": "text", "text": " there", "image": None}]
    row = [
        {"role": "developer", "content": "Be kind."},
        {"role": "user", "content": parts},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": "42"},
        {"role": "assistant", "content": "It is 42."},
    ]
    start = "Be kind.\n\nHuman: Hi there\n\nAssistant:"
    assert read_pairs(write(tmp_path / "d.jsonl", [{"messages": row}])) == [
        Pair(start, f" {CALLED}"),
        Pair(f"{start} {CALLED}\n\nTool: 42\n\nAssistant:", " It is 42."),
    ]


def test_a_message_without_a_text_leaves_its_row_out_and_an_empty_answer_its_pair(tmp_path):
    ask = {"role": "user", "content": "a"}
    answers = ["b", None, ""]
    rows = [{"messages": [ask, {"role": "assistant", "content": text}]} for text in answers]
    left_out = LeftOut()
    path = write(tmp_path / "d.jsonl", [*rows, {"messages": None}, {"messages": [ask]}])
    assert read_pairs(path, left_out=left_out) == [Pair("\n\nHuman: a\n\nAssistant:", " b")]
    assert left_out.as_dict() == {"null": 2, "empty": 2}


def test_a_part_that_is_no_text_is_named_with_its_line_and_message(tmp_path):
    image = {"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}
    path = write(tmp_path / "d.jsonl", [{"messages": MESSAGES}, {"messages": [MESSAGES[0], image]}])
    with pytest.raises(ValueError, match=r"line 2, message 2 has a part of type 'image_url'"):
        read_pairs(path)


def test_half_a_character_is_replaced_before_it_is_encoded(pretrained, tmp_path):
    rows = [{"prompt": f"{i} \ud83d", "completion": "b \ud83d"} for i in range(2)]
    pairs = read_pairs(write(tmp_path / "d.jsonl", rows))
    assert pairs == [Pair(f"{i} ?", "b ?") for i in range(2)]
    tokenizer = pretrained("sft").corpus.vocabulary
    assert encode(tokenizer, [Pair("a \ud83d", "b")], context=96)  # of a docstring's escape


def test_pairs_that_are_too_long_are_counted_with_what_the_longest_needs(pretrained):
    left_out, pairs = LeftOut(), [Pair("a", "b"), Pair("a" * 40, "b c d e f" * 40)]
    tokenizer = pretrained("sft").corpus.vocabulary
    assert len(encode(tokenizer, pairs, context=96, left_out=left_out)) == 1
    assert left_out.as_dict() == {"too_long": 1}
    assert left_out.longest > 96
    halves = LeftOut()
    encode(tokenizer, [*pairs, Pair("a", "b d" * 14)], context=96, longest=20, left_out=halves)
    assert halves.counts["too_long"] == 2


def test_training_rows_with_a_held_out_prompt_are_counted():
    left_out = LeftOut()
    split_held_out([Pair(f"p{i}", "x") for i in range(10)], [Pair("p3", "y")], left_out=left_out)
    assert left_out.as_dict() == {"repeated": 1}


def test_parquet_is_answered_with_what_reads_it(tmp_path):
    (tmp_path / "d.parquet").write_bytes(b"PAR1")
    with pytest.raises(
        ValueError, match=r"sft\.data=.*d\.parquet is Parquet.*sft\.data=hub:FOLDER"
    ):
        rows_file(str(tmp_path / "d.parquet"), tmp_path, what="sft.data")


@pytest.mark.parametrize(
    ("truncate", "advice"),
    [("", "prompt or completion"), ("prompt", "completion"), ("completion", "prompt")],
)
def test_pairs_of_a_file_beyond_the_context_name_what_cuts_them(pretrained, truncate, advice):
    corpus = pretrained("sft").corpus
    pairs = [Pair("a prompt of words " * 30, "a completion of words " * 30)]
    with pytest.raises(ValueError, match=f"or set sft.truncate={advice} to cut them"):
        encode(corpus.vocabulary, pairs, context=8, truncate=truncate, may_cut=True)


def test_the_number_of_a_class_is_a_completion(tmp_path):
    path = tmp_path / "classes.jsonl"
    rows = [{"text": "a film", "label": 1}, {"text": "a book", "label": 0}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [p.completion for p in read_pairs(path)] == ["1", "0"]
    path.write_text(json.dumps({"text": "a film", "label": True}))
    with pytest.raises(ValueError, match="label is true, not text"):
        read_pairs(path)
    path.write_text(json.dumps({"question": "a film", "answer": 1}))
    with pytest.raises(ValueError, match="answer is the number 1, not text"):
        read_pairs(path)
