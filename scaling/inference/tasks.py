"""Evaluation tasks: questions whose possible answers a language model ranks by likelihood.

Files are JSON lines, plain, .gz or .xz. The fields of a row tell its layout:

- `sentence_good`, `sentence_bad`: minimal pairs (BLiMP, Warstadt et al. 2020), grouped by `UID`;
- `query` or `ctx`, `choices`, `gold`: several choices (ARC, PIQA, COPA, HellaSwag);
- `context_options`, `continuation`, `gold`: one continuation after each context (WinoGrande);
- `context`, `continuation`: one continuation that greedy decoding must reproduce (LAMBADA).

A row without one of its texts or without a label is refused with its line: an accuracy on part of a
benchmark can be compared with no other.

Texts are put together as in lm-evaluation-harness (Gao et al. 2021): a blank before each
continuation, `Answer:` on a line of its own after a query that begins with `Question:`, sentences
after the end of another document.
"""

import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from scaling.data.jsonl import read_rows
from scaling.data.row_text import describe, is_none, label_of, text_in, text_of

# The tasks that have a name, with the name of their file in the harness' data.
NAMES = {
    "blimp": "blimp",
    "hellaswag": "hellaswag_val",
    "arc_easy": "arc_easy",
    "arc_challenge": "arc_challenge",
    "piqa": "piqa",
    "copa": "copa",
    "lambada": "lambada_openai",
    "winogrande": "winogrande",
}
ENDINGS = (".jsonl", ".jsonl.gz", ".jsonl.xz")


@dataclass(frozen=True, kw_only=True)
class Question:
    """Continuations to score after their contexts.

    A single continuation is not ranked: the model is right when greedy decoding reproduces it.
    """

    requests: tuple[tuple[str, str], ...]  # (context, continuation)
    gold: int  # index of the right continuation
    group: str = ""  # a part of the task that has a score of its own

    @property
    def text(self) -> str:
        """The right continuation."""
        return self.requests[self.gold][1]


@dataclass(frozen=True, kw_only=True)
class Task:
    """A named list of questions."""

    name: str
    questions: list[Question]

    @property
    def ranked(self) -> bool:
        """Whether the questions have several choices."""
        return len(self.questions[0].requests) > 1

    @property
    def chance(self) -> float:
        """Expected accuracy of a random choice; 0 for single continuations."""
        if not self.ranked:
            return 0.0
        return float(np.mean([1 / len(q.requests) for q in self.questions]))


def read_task(name: str, *, folder: str, limit: int = 0) -> Task:
    """Read a task.

    name: one of NAMES, or a file
    folder: where the files of NAMES are
    limit: take this many questions, spread evenly over the file; 0 takes all

    FileNotFoundError for an unknown name or a missing file, ValueError for an unknown layout and
    for a row that cannot be used.
    """
    path = task_file(name, folder)
    questions = [read_question(row, f"{path}: line {number}") for number, row in read_rows(path)]
    if not questions:
        raise ValueError(f"{path} has no questions; give a file with one JSON object a line")
    if 0 < limit < len(questions):
        indices = np.linspace(0, len(questions) - 1, limit).round().astype(int)
        questions = [questions[i] for i in indices]
    if len({len(q.requests) > 1 for q in questions}) > 1:
        raise ValueError(f"{path} mixes choices with single continuations; split it into two files")
    return Task(name=name if name in NAMES else path.name.split(".")[0], questions=questions)


def task_file(name: str, folder: str) -> Path:
    """Return the file of a task; FileNotFoundError for an unknown name or a missing file."""
    if name not in NAMES:
        if name.endswith(ENDINGS) and Path(name).is_file():
            return Path(name)
        raise FileNotFoundError(
            f"task {name!r} is unknown; choose among {', '.join(NAMES)}, "
            "or give a .jsonl[.gz|.xz] file"
        )
    for ending in ENDINGS:
        path = Path(folder) / f"{NAMES[name]}{ending}"
        if folder and path.is_file():
            return path
    raise FileNotFoundError(
        f"no {NAMES[name]}.jsonl[.gz|.xz] in folder={folder or '(not set)'}; "
        "set folder= to the one with the tasks' files"
    )


def read_question(row: dict[str, Any], where: str) -> Question:
    """Return a row as a question; ValueError for an unknown layout."""
    fields = set(row)
    if {"sentence_good", "sentence_bad"} <= fields:
        good, bad = (text_in(row, key, where) for key in ("sentence_good", "sentence_bad"))
        group = "" if is_none(row.get("UID")) else text_in(row, "UID", where)
        return Question(requests=(("", f" {good}"), ("", f" {bad}")), gold=0, group=group)
    if {"context_options", "continuation", "gold"} <= fields:
        continuation = f" {text_in(row, 'continuation', where).lstrip()}"
        contexts = texts_in(row, "context_options", where)
        return question_of_choices(tuple((c, continuation) for c in contexts), row["gold"], where)
    if {"choices", "gold"} <= fields and fields & {"query", "ctx"}:
        query = text_in(row, "query" if "query" in fields else "ctx", where)
        if query.startswith("Question:"):
            query = f"{query.rstrip()}\nAnswer:"
        choices = texts_in(row, "choices", where)
        return question_of_choices(tuple((query, f" {c}") for c in choices), row["gold"], where)
    if {"context", "continuation"} <= fields:
        context, continuation = (text_in(row, key, where) for key in ("context", "continuation"))
        return Question(requests=((context, f" {continuation.lstrip()}"),), gold=0)
    raise ValueError(
        f"{where} has the fields {', '.join(sorted(fields))}, of no known layout; give choices "
        "(query, choices, gold), minimal pairs (sentence_good, sentence_bad), "
        "(context_options, continuation, gold) or (context, continuation)"
    )


def texts_in(row: dict[str, Any], key: str, where: str) -> list[str]:
    """Return a row's list of texts; ValueError, with the item, for anything else."""
    value = row[key]
    if not isinstance(value, list):
        raise ValueError(f"{where}: {key} is {describe(value)}, not a list of texts; mend the row")
    return [text_of(item, f"item {at} of {key}", where) for at, item in enumerate(value, start=1)]


def question_of_choices(requests: tuple[tuple[str, str], ...], gold: Any, where: str) -> Question:
    """Return a question of two or more choices; ValueError where `gold` is none of them."""
    label = label_of(gold, "gold", where)
    if len(requests) < 2 or not 0 <= label < len(requests):
        raise ValueError(f"{where} has {len(requests)} choices and gold={label}; mend the row")
    return Question(requests=requests, gold=label)


def with_typos(task: Task, rate: float, seed: int = 0) -> Task:
    """Return the task with a share `rate` of the neighbouring letters in its contexts swapped.

    Questions without a context (minimal pairs) have typos in both sentences.
    """
    generator = random.Random(seed)

    def misspell(text: str) -> str:
        letters = list(text)
        for i in range(len(letters) - 1):
            if letters[i].isalpha() and letters[i + 1].isalpha() and generator.random() < rate:
                letters[i], letters[i + 1] = letters[i + 1], letters[i]
        return "".join(letters)

    def misspelt(one: Question) -> Question:
        bare = not any(context for context, _ in one.requests)
        pairs = [(misspell(c), misspell(s) if bare else s) for c, s in one.requests]
        return replace(one, requests=tuple(pairs))

    return replace(task, questions=[misspelt(q) for q in task.questions])
