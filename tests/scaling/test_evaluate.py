"""Scoring of trained models: likelihoods, tasks, and the command on a trained cell."""

import gzip
import json
import math
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from scaling import evaluate
from scaling.config import MachineConfig
from scaling.data.tokenizer import END, train_tokenizer
from scaling.inference import evaluation
from scaling.inference.evaluation import EvaluateConfig, score_task
from scaling.inference.likelihood import Likelihoods, log_likelihoods
from scaling.inference.tasks import NAMES, Question, Task, read_question, read_task, with_typos
from scaling.inference.trained import open_trained, trained_folders
from scaling.study.places import cell_folder
from scaling.train.heldout import calibration_error
from scaling.train.rolling import TextSet, score_set
from scaling.train.trunk import train_trunk

EVAL = Path(os.environ.get("SCALING_SHARED", "../shared")) / "data/eval"
CPU = torch.device("cpu")
TEXT = "the cat sat on a mat while rain fell over hills and dogs ran home to eat"
WORDS = TEXT.split()


def by_hand(model, tokenizer, context: str, said: str) -> float:
    """One request at a time, nothing padded."""
    whole, head = tokenizer.encode(context + said).ids, tokenizer.encode(context).ids
    ids, start = (whole, len(head)) if head else ([END, *whole], 1)
    ids, scored = ids[-(model.context + 1) :], len(ids) - start
    with torch.no_grad():
        log_p = model(torch.tensor(ids[:-1])[None]).log_softmax(-1)[0]
    return sum(float(log_p[i - 1, ids[i]]) for i in range(len(ids) - scored, len(ids)))


def test_log_likelihoods_are_those_of_each_request_alone(model, tokenizer):
    requests = [
        ("the cat", " sat"),
        ("", "rain fell"),
        ("the cat sat on a mat while rain fell over hills and dogs", " ran home"),  # too long
        ("a", " mat while rain fell"),
    ]
    counts: list[int] = []
    likelihoods = log_likelihoods(model, tokenizer, requests, report=counts.append)
    expected = [by_hand(model, tokenizer, *r) for r in requests]
    np.testing.assert_allclose(likelihoods.nats, expected, rtol=1e-5)
    assert counts[-1] == len(requests)
    assert len(tokenizer.encode(requests[2][0]).ids) > 0


def test_a_blank_at_a_contexts_end_belongs_to_what_follows(model, tokenizer):
    pair = [("the cat ", "sat"), ("the cat", " sat")]
    likelihoods = log_likelihoods(model, tokenizer, pair)
    assert likelihoods.nats[0] == likelihoods.nats[1]


def test_greedy_says_whether_the_model_would_say_it(model, tokenizer):
    requests, expected = [], []
    for context in WORDS:
        ids = tokenizer.encode(context).ids
        best = int(model(torch.tensor(ids)[None])[0, -1].argmax())
        text = tokenizer.decode([best])
        if tokenizer.encode(context + text).ids == [*ids, best]:  # a whole letter or more
            requests += [(context, text), (context, " zebra")]
            expected += [True, False]
    assert any(expected)
    assert log_likelihoods(model, tokenizer, requests).greedy.tolist() == expected


def test_a_continuation_without_a_token_is_refused(model, tokenizer):
    with pytest.raises(ValueError, match="after 'the cat' has no token"):
        log_likelihoods(model, tokenizer, [("the cat", "")])


class Oracle:
    """Stands for a model of known likelihoods."""

    def __init__(self, nats: list[float], greedy: list[bool] | None = None) -> None:
        self.found = Likelihoods(
            nats=np.array(nats),
            tokens=np.ones(len(nats)),
            greedy=np.array(greedy or [False] * len(nats)),
        )


def scored(task: Task, oracle: Oracle, monkeypatch) -> dict:
    monkeypatch.setattr(evaluation, "log_likelihoods", lambda *a, **k: oracle.found)
    return score_task(task, type("T", (), {"model": None, "tokenizer": None})())


def test_choices_are_ranked_by_sum_and_by_character(monkeypatch):
    questions = [
        Question(requests=(("q", " ab"), ("q", " abcdefgh")), gold=1, group="long"),
        Question(requests=(("q", " ab"), ("q", " cd")), gold=0, group="even"),
    ]
    scores = scored(Task(name="t", questions=questions), Oracle([-4, -6, -1, -3]), monkeypatch)
    assert (scores["acc"], scores["acc_norm"], scores["chance"], scores["n"]) == (0.5, 1.0, 0.5, 2)
    assert scores["acc_se"] == pytest.approx(0.5)
    assert scores["groups"] == {"even": 1.0, "long": 0.0}
    assert scores["bits_per_byte"] == pytest.approx((6 + 1) / math.log(2) / (9 + 3))
    p = 1 / (1 + math.exp(-2))  # of the chosen one, both times
    assert scores["choice_loss"] == pytest.approx(-(math.log(1 - p) + math.log(p)) / 2)
    assert scores["ece"] == pytest.approx(abs(p - 0.5))


def test_a_single_continuation_counts_when_it_is_said(monkeypatch):
    questions = [Question(requests=(("q", f" {w}"),), gold=0) for w in "ab"]
    scores = scored(
        Task(name="t", questions=questions), Oracle([-1, -3], [True, False]), monkeypatch
    )
    assert (scores["acc"], scores["perplexity"]) == (0.5, pytest.approx(math.exp(2)))
    assert "choice_loss" not in scores


def test_calibration_error_of_known_gaps():
    right = np.array([True, False, True, True])
    assert calibration_error(np.array([0.55, 0.55, 1.0, 1.0]), right) == pytest.approx(0.025)


def test_layouts_are_told_by_their_fields():
    question = read_question({"sentence_good": "a b", "sentence_bad": "b a", "UID": "x"}, "f")
    assert (question.requests, question.gold, question.group) == (
        (("", " a b"), ("", " b a")),
        0,
        "x",
    )
    question = read_question({"query": "Question: Q?\n", "choices": ["a", "b"], "gold": 1}, "f")
    assert question.requests == (("Question: Q?\nAnswer:", " a"), ("Question: Q?\nAnswer:", " b"))
    question = read_question({"query": "It rained, so", "choices": ["a", "b"], "gold": 1}, "f")
    assert question.requests == (("It rained, so", " a"), ("It rained, so", " b"))
    question = read_question({"ctx": "He", "choices": ["a", "b"], "gold": 0}, "f")
    assert question.requests == (("He", " a"), ("He", " b"))
    question = read_question({"context_options": ["A", "B"], "continuation": "c", "gold": 1}, "f")
    assert question.requests == (("A", " c"), ("B", " c"))
    assert question.text == " c"
    assert read_question({"context": "A", "continuation": "b"}, "f").requests == (("A", " b"),)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (
            '{"question": "x"}',
            r": line 1 has the fields question, of no known layout; give choices",
        ),
        ('{"query": "x", "choices": ["a"], "gold": 0}', r"line 1 has 1 choices and gold=0"),
        ('{"query": "x", "choices": ["a", "b"], "gold": 2}', r"2 choices and gold=2; mend the row"),
        ('{"query": ', r": line 1 is not JSON"),
        ('{"query": null, "choices": ["a", "b"], "gold": 0}', r": line 1 has no query \(null"),
        (
            '{"query": "x", "choices": ["a", null], "gold": 0}',
            r": line 1 has no item 2 of choices \(null",
        ),
        (
            '{"query": "x", "choices": ["a", 5], "gold": 0}',
            r"line 1: item 2 of choices is the number 5",
        ),
        ('{"query": "x", "choices": {"text": ["a"]}, "gold": 0}', r"line 1: choices is an object"),
        ('{"query": "x", "choices": null, "gold": 0}', r"line 1: choices is null, not a list"),
        ('{"query": "x", "choices": ["a", "b"], "gold": null}', r"line 1: gold is null; give the"),
        ('{"query": "x", "choices": ["a", "b"], "gold": true}', r"line 1: gold is true; give the"),
        (
            '{"query": "x", "choices": ["a", "b"], "gold": 0.5}',
            r"gold is the number 0\.5; give the",
        ),
        ('{"query": "x", "choices": ["a", "b"], "gold": "B"}', r"line 1: gold is 'B'; give the"),
        ('{"query": "x", "choices": ["a", "b"], "gold": NaN}', r"gold is the number nan; give the"),
        ('{"query": "x", "choices": ["a", "b"], "gold": "-1"}', r"2 choices and gold=-1; mend"),
        ('{"context": "a", "continuation": null}', r": line 1 has no continuation \(null"),
        ('{"context": ["a"], "continuation": "b"}', r"line 1: context is a list, not text"),
        (
            '{"context_options": "ab", "continuation": "c", "gold": 0}',
            r"options is 'ab', not a list",
        ),
        ('{"sentence_good": NaN, "sentence_bad": "b"}', r": line 1 has no sentence_good \(null"),
        ("", r"has no questions"),
        (
            '{"context": "A", "continuation": "b"}\n'
            '{"query": "x", "choices": ["a", "b"], "gold": 0}',
            "mixes choices with single continuations",
        ),
    ],
)
def test_a_bad_file_is_refused_with_its_line(tmp_path, line, sentence):
    path = tmp_path / "mine.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(ValueError, match=sentence):
        read_task(str(path), folder="")


def test_a_task_that_is_not_there_is_said_with_the_ones_that_are(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"'blump' is unknown; choose among blimp, hella"):
        read_task("blump", folder=str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"no blimp\.jsonl.*set folder="):
        read_task("blimp", folder=str(tmp_path))


def test_a_limit_spreads_over_the_file(tmp_path):
    path = tmp_path / "copa.jsonl.gz"
    with gzip.open(path, "wt") as stream:
        for i in range(10):
            stream.write(json.dumps({"query": str(i), "choices": ["a", "b"], "gold": 0}) + "\n")
    task = read_task("copa", folder=str(tmp_path), limit=4)
    assert [q.requests[0][0] for q in task.questions] == ["0", "3", "6", "9"]


def test_typos_swap_letters_of_contexts_and_of_bare_sentences():
    question = Question(requests=(("abcdefgh", " tail"), ("abcdefgh", " tale")), gold=0)
    bare = Question(requests=(("", "abcdefgh"), ("", "hgfedcba")), gold=0)
    spoilt = with_typos(Task(name="t", questions=[question, bare]), 0.5).questions
    assert [text for _, text in spoilt[0].requests] == [" tail", " tale"]
    assert sorted(spoilt[0].requests[0][0]) == sorted("abcdefgh") != spoilt[0].requests[0][0]
    assert spoilt[1].requests[0][1] != "abcdefgh"
    assert with_typos(Task(name="t", questions=[question]), 0.5).questions == [spoilt[0]]  # seeded


@pytest.mark.slow
@pytest.mark.skipif(not EVAL.is_dir(), reason=f"no {EVAL}; set SCALING_SHARED to run this")
@pytest.mark.parametrize("name", NAMES)
def test_the_published_files_are_read(name):
    task = read_task(name, folder=str(EVAL), limit=40)
    assert len(task.questions) == 40
    choices = {"lambada": math.inf, "hellaswag": 4, "arc_easy": 4, "arc_challenge": 4}.get(name, 2)
    assert task.chance == pytest.approx(1 / choices, abs=0.01)


@pytest.mark.slow
def test_a_cell_is_scored_and_what_was_found_is_kept(make_cell, tmp_path, capsys):
    cells = [make_cell(n_tokens=n) for n in (1024, 2048)]
    train_trunk(cells)
    path = tmp_path / "mine.jsonl"
    path.write_text(
        "".join(
            json.dumps({"sentence_good": f"def f{i}(x):", "sentence_bad": f"):x(f{i} def"}) + "\n"
            for i in range(5)
        )
    )
    text = tmp_path / "long.txt"
    text.write_text("def read(path):\n    return open(path).read()\n" * 8)
    study = cell_folder(cells[0]).parent
    config = EvaluateConfig(
        checkpoint=str(study), tasks=[str(path)], typos=0.2, machine=MachineConfig(device="cpu")
    )
    evaluate.main(config)
    evaluate.main(
        replace(
            config,
            checkpoint=str(cell_folder(cells[0])),
            tasks=[],
            texts=[str(text)],
            prompts=["def f"],
            max_new_tokens=4,
        )
    )
    output = capsys.readouterr().out
    assert output.count("mine ") == 2
    assert "perplexity" in output
    evaluation = json.loads((cell_folder(cells[0]) / "evaluation.json").read_text())
    assert (evaluation["run_id"], evaluation["schema"]) == (cells[0].run_id(), 1)
    assert evaluation["tasks"]["mine"]["n"] == 5  # of the first call, kept by the second
    assert 0 <= evaluation["tasks"]["mine"]["acc_typos"] <= 1
    (name,) = evaluation["texts"]
    assert name.endswith("/long")
    assert evaluation["samples"][0]["prompt"] == "def f"
    model = open_trained(cell_folder(cells[0]), CPU)
    texts = TextSet.of([text.read_text()], model.tokenizer, context=model.model.context)
    score = score_set(model.model, texts)
    written = evaluation["texts"][name]
    assert score.loss == pytest.approx(written["loss"])
    assert score.word_perplexity == pytest.approx(written["word_perplexity"])
    assert written["bytes"] == text.stat().st_size


def test_what_is_no_finished_model_is_said(make_cell, tmp_path):
    with pytest.raises(FileNotFoundError, match="no finished model in checkpoint="):
        trained_folders(tmp_path)
    cell = make_cell()
    (record,) = train_trunk([cell])
    folder = cell_folder(cell)
    (folder / "model.safetensors").rename(tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"has no model\.safetensors; train it again"):
        trained_folders(folder)
    replace(record, stage="reward").write(folder / "record.json")
    with pytest.raises(ValueError, match="is a reward model"):
        trained_folders(folder)
    replace(record, status="diverged", error="the loss").write(folder / "record.json")
    with pytest.raises(ValueError, match=r"ended as diverged \(the loss\)"):
        trained_folders(folder)


def test_another_vocabulary_is_refused(make_cell, tmp_path):
    cell = make_cell()
    train_trunk([cell])
    other = train_tokenizer(["abc " * 900, "def f(x): return x\n" * 90] * 3, vocab_size=310)
    other.add_tokens([f"word{i}" for i in range(40)])
    other.save(str(tmp_path / "other.json"))
    with pytest.raises(ValueError, match="is not the vocabulary that"):
        open_trained(cell_folder(cell), CPU, tokenizer=str(tmp_path / "other.json"))
    with pytest.raises(FileNotFoundError, match="no tokenizer at"):
        open_trained(cell_folder(cell), CPU, tokenizer=str(tmp_path / "nothing.json"))


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({}, "checkpoint='' is missing"),
        ({"checkpoint": "x"}, "set one of them"),
        ({"checkpoint": "x", "tasks": ["copa"], "limit": -1}, "limit=-1"),
        ({"checkpoint": "x", "tasks": ["copa"], "typos": 1.5}, "of at least 0 and below 1"),
    ],
)
def test_settings_are_checked(values, sentence):
    with pytest.raises(ValueError, match=sentence):
        EvaluateConfig(**values)


@pytest.mark.parametrize("gold", [1, "1", 1.0])
def test_a_label_is_a_whole_number_however_it_is_written(gold):
    question = read_question({"query": "x", "choices": ["a", "b"], "gold": gold}, "f")
    assert (question.gold, type(question.gold)) == (1, int)


def test_half_a_character_is_scored_as_corpora_read_it(make_cell, tmp_path):
    cell = make_cell()
    train_trunk([cell])
    path = tmp_path / "mine.jsonl"
    path.write_text('\ufeff{"query": "x \\ud83d", "choices": ["a", "\\ud83d"], "gold": "0"}\n')
    (question,) = read_task(str(path), folder="").questions
    assert question.requests == (("x ?", " a"), ("x ?", " ?"))
    evaluate.main(
        EvaluateConfig(
            checkpoint=str(cell_folder(cell)),
            tasks=[str(path)],
            prompts=["def \ud83d"],
            max_new_tokens=2,
            machine=MachineConfig(device="cpu"),
        )
    )
    evaluation = json.loads((cell_folder(cell) / "evaluation.json").read_text())
    assert evaluation["tasks"]["mine"]["n"] == 1
    assert evaluation["samples"][0]["prompt"] == "def ?"
