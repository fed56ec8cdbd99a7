"""Layouts of files, the split, and token ids."""

import json

import pytest

from scaling.docstrings import corpus_pairs
from scaling.pairs import Pair, encode, parts, read_pairs, read_preferences, split
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


def test_dialogues_are_cut_at_their_last_shared_turn(tmp_path):
    start = "\n\nHuman: Hi\n\nAssistant:"
    rows = [{"chosen": start + " Hello", "rejected": start + " Helmet"}]
    assert read_preferences(write(tmp_path / "d.jsonl", rows)) == [(start, " Hello", " Helmet")]


def test_a_file_without_a_preference_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no row"):
        read_preferences(
            write(tmp_path / "d.jsonl", [{"prompt": "a", "chosen": "b", "rejected": "b"}])
        )


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


def test_ids_end_with_the_separator_and_the_end(pretrained):
    corpus = pretrained("sft").corpus
    examples = encode(corpus.tokenizer, corpus_pairs(corpus)[0], context=96)
    assert all(e.prompt[-1] == SEP and e.completion[-1] == END for e in examples)


def test_pairs_beyond_the_context_are_refused(pretrained):
    corpus = pretrained("sft").corpus
    with pytest.raises(ValueError, match="no pair fits the context of 4 tokens"):
        encode(corpus.tokenizer, corpus_pairs(corpus)[0], context=4)


def test_held_out_rows_of_their_own_leave_their_prompts_out_of_training():
    rows = [Pair(f"p{i}", "x") for i in range(10)]
    train, test = parts(rows, [Pair("p3", "y"), Pair("q", "z")])
    assert len(train) == 9
    assert [p.prompt for p in test] == ["p3", "q"]
    assert parts(rows, []) == split(rows)
    with pytest.raises(ValueError, match="every training prompt is a held-out one"):
        parts(rows[:1], rows)
