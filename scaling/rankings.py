"""Preferences: which of a prompt's completions is better, and the files that say so.

Rows of one prompt are one ranking, so that all its pairs stand in one batch element. Layouts, found
by their keys: prompt/chosen/rejected, chosen/rejected dialogues that share everything up to the
last turn (texts or lists of messages), and ranked lists: completions with scores (the higher the
better) or ranks (the lower the better), beside them or in each.
"""

from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

from scaling.dialogue import TURN, completions_of, is_messages, rendered, turns_of
from scaling.jsonl import read_rows
from scaling.pairs import filled

LISTS = ("completions", "responses", "answers")
TEXTS = ("text", "response", "content", "completion")
MARKS = {"scores": 1, "score": 1, "overall_score": 1, "ranks": -1, "rank": -1}  # higher is better?
LAYOUTS = "prompt/chosen/rejected, chosen/rejected dialogues, prompt/completions/scores (or ranks)"


class Ranking(NamedTuple):
    """A prompt, its completions, and the pairs (better, worse) among them that are known."""

    prompt: str
    completions: list[str]
    order: list[tuple[int, int]]


def read_rankings(path: str | Path, *, template: str = "") -> list[Ranking]:
    """Read preferences, one ranking a prompt; equal and empty completions make no pair.

    ValueError where no pair is left.
    """
    found: dict[str, Ranking] = {}
    n = 0
    for _, row in read_rows(path):
        n += 1
        prompt, completions, order = _ranking(row, path)
        texts = [filled(prompt, text, template) for text in completions]
        for i, j in order:
            better, worse = texts[i], texts[j]
            differ = better.completion.strip() and worse.completion.strip() and better != worse
            if prompt.strip() and differ:
                _add(found, better.prompt, better.completion, worse.completion)
    if not found:
        raise ValueError(
            f"{path} {f'has {n} rows, none' if n else 'is empty: no row'} with a prompt and two"
            " different completions, of which one is preferred; give both sides, chosen and"
            " rejected"
        )
    return list(found.values())


def _add(found: dict[str, Ranking], prompt: str, better: str, worse: str) -> None:
    """Put a pair into the ranking of its prompt."""
    ranking = found.setdefault(prompt, Ranking(prompt, [], []))
    for text in (better, worse):
        if text not in ranking.completions:
            ranking.completions.append(text)
    pair = ranking.completions.index(better), ranking.completions.index(worse)
    if pair not in ranking.order:
        ranking.order.append(pair)


def _ranking(row: dict[str, Any], path: str | Path) -> Ranking:
    """Return what a row of any layout says."""
    if {"chosen", "rejected"} <= row.keys():
        return _pair(row, path)
    for key in LISTS:
        if isinstance(row.get(key), list) and "prompt" in row:
            texts, marks = _marked(row, row[key])
            if texts and len(marks) == len(texts):
                order = [
                    (i, j) if marks[i] > marks[j] else (j, i)
                    for i, j in combinations(range(len(texts)), 2)
                    if marks[i] != marks[j]
                ]
                return Ranking(_prompt(row["prompt"], path), texts, order)
    raise ValueError(
        f"{path} has rows with the keys {', '.join(sorted(row))}; a preference needs both sides, as"
        f" {LAYOUTS}"
    )


def _marked(row: dict[str, Any], completions: list[Any]) -> tuple[list[str], list[float]]:
    """Return the texts of a list and a number of each that is higher the better it is."""
    if is_messages(completions):
        text = next((k for k in TEXTS if all(k in c for c in completions)), "")
        mark = next((k for k in MARKS if all(k in c for c in completions)), "")
        if not (text and mark):
            return [], []
        found = [str(c[text]) for c in completions], [c[mark] for c in completions]
    else:
        mark = next((k for k in MARKS if isinstance(row.get(k), list)), "")
        found = [str(c) for c in completions], row[mark] if mark else []
    return found[0], [MARKS[mark] * float(value) for value in found[1]]


def _prompt(value: Any, path: str | Path) -> str:
    return rendered(turns_of(value, path)) + TURN if is_messages(value) else str(value)


def _pair(row: dict[str, Any], path: str | Path) -> Ranking:
    sides = [row["chosen"], row["rejected"]]
    if all(map(is_messages, sides)):
        before = row["prompt"] if is_messages(row.get("prompt")) else []
        ends = [completions_of(before + side, path)[-1:] for side in sides]
        if not all(ends) or ends[0][0][0] != ends[1][0][0]:
            raise ValueError(
                f"{path} has chosen and rejected messages that do not end in two answers to the"
                " same prompt; give dialogues that differ in the last turn alone"
            )
        return Ranking(ends[0][0][0], [end[0][1] for end in ends], [(0, 1)])
    chosen, rejected = map(str, sides)
    if "prompt" in row:
        return Ranking(_prompt(row["prompt"], path), [chosen, rejected], [(0, 1)])
    same = (a == b for a, b in zip(chosen, rejected, strict=False))
    shared = next((i for i, equal in enumerate(same) if not equal), min(len(chosen), len(rejected)))
    at = chosen.rfind(TURN, 0, shared + 1) + len(TURN) if TURN in chosen[:shared] else shared
    return Ranking(chosen[:at], [chosen[at:], rejected[at:]], [(0, 1)])
