"""Preferences: which of a prompt's completions is better, and the files that say so.

Rows of one prompt are one ranking, so that all its pairs stand in one batch element. Layouts, found
by their keys: prompt/chosen/rejected, chosen/rejected dialogues that share everything up to the
last turn (texts or lists of messages), and ranked lists: completions with scores (the higher the
better) or ranks (the lower the better), beside them or in each.
"""

from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

from scaling.data.chat_template import TURN, completions_of, is_messages, render, turns_of
from scaling.data.row_text import LeftOut, NoText, describe, is_none, number_of, text_in, text_of
from scaling.stages.examples.pairs import Pair, filled, placed_rows

LISTS = ("completions", "responses", "answers")
TEXTS = ("text", "response", "content", "completion")
MARKS = {"scores": 1, "score": 1, "overall_score": 1, "ranks": -1, "rank": -1}  # higher is better?
LAYOUTS = "prompt/chosen/rejected, chosen/rejected dialogues, prompt/completions/scores (or ranks)"


class Ranking(NamedTuple):
    """A prompt, its completions, and the pairs (better, worse) among them that are known."""

    prompt: str
    completions: list[str]
    order: list[tuple[int, int]]


def read_rankings(
    path: str | Path, *, template: str = "", name: str = "", left: LeftOut | None = None
) -> list[Ranking]:
    """Read preferences, one ranking a prompt; what makes no pair is counted in `left`.

    That are rows and completions without a text or with an empty one, completions without a score,
    and pairs that are tied or repeated. `name` is what a hub set's file came from. ValueError where
    no pair is left.
    """
    found: dict[str, Ranking] = {}
    n, keys, left = 0, "", LeftOut() if left is None else left
    for where, row in placed_rows(path, name):
        n, keys = n + 1, keys or ", ".join(sorted(row))
        try:
            prompt, completions, order = _ranking(row, where, left)
        except NoText:
            left.add("null")
            continue
        _take(found, prompt, [filled(prompt, t, template) for t in completions], order, left)
    if not found:
        why = f" ({left.in_words()})" if n else ""
        keys = f": the first row has the keys {keys}" if n else ""
        raise ValueError(
            f"{name or path} {f'has {n} rows, none' if n else 'is empty: no row'} with a prompt and"
            f" two different completions, of which one is preferred{why}; give both sides, chosen"
            f" and rejected{keys}; a preference needs both sides, as {LAYOUTS}"
        )
    return list(found.values())


def _take(
    found: dict[str, Ranking],
    prompt: str,
    texts: list[Pair],
    order: list[tuple[int, int]],
    left: LeftOut,
) -> None:
    """Put what a row says into the ranking of its prompt."""
    empty = [i for i, text in enumerate(texts) if not text.completion.strip()]
    left.add("empty", len(empty) if prompt.strip() else 1)
    if not prompt.strip():
        return
    for i, j in order:
        if i in empty or j in empty:
            continue
        if texts[i] == texts[j]:
            left.add("tied")
        elif not _add(found, texts[i].prompt, texts[i].completion, texts[j].completion):
            left.add("repeated")


def _add(found: dict[str, Ranking], prompt: str, better: str, worse: str) -> bool:
    """Put a pair into the ranking of its prompt; say whether it was not there yet."""
    ranking = found.setdefault(prompt, Ranking(prompt, [], []))
    for text in (better, worse):
        if text not in ranking.completions:
            ranking.completions.append(text)
    pair = ranking.completions.index(better), ranking.completions.index(worse)
    if pair in ranking.order:
        return False
    ranking.order.append(pair)
    return True


def _ranking(row: dict[str, Any], where: str, left: LeftOut) -> Ranking:
    """Return what a row of any layout says; NoText where it lacks a text that it needs."""
    if row.keys() & {"chosen", "rejected"}:
        return _pair(row, where)
    there = [k for k in LISTS if k in row]
    key = next((k for k in there if isinstance(row[k], list)), "".join(there[:1]))
    if not key:
        raise ValueError(
            f"{where} has the keys {', '.join(sorted(row))}; a preference needs both sides, as"
            f" {LAYOUTS}"
        )
    prompt = _prompt(row.get("prompt"), where)
    texts, marks = _marked(row, key, where, left)
    pairs = [(i, j) for i, j in combinations(range(len(texts)), 2)]
    order = [(i, j) if marks[i] > marks[j] else (j, i) for i, j in pairs if marks[i] != marks[j]]
    left.add("tied", len(pairs) - len(order))
    return Ranking(prompt, texts, order)


def _marked(
    row: dict[str, Any], key: str, where: str, left: LeftOut
) -> tuple[list[str], list[float]]:
    """Return the texts of a list and a number of each that is higher the better it is.

    Those without a text or a number are counted in `left` instead.
    """
    given, mark, marks = _completions(row, key, where)
    if len(given) < 2:
        left.add("null")  # the other side is missing
    texts, numbers = [], []
    for at, (text, value) in enumerate(zip(given, marks, strict=True), start=1):
        number = number_of(value, f"item {at} of {mark}", where)
        if is_none(text):
            left.add("null")
        elif number is None:
            left.add("unscored")
        else:
            texts.append(text_of(text, f"item {at} of {key}", where))
            numbers.append(MARKS[mark] * number)
    return texts, numbers


def _completions(row: dict[str, Any], key: str, where: str) -> tuple[list[Any], str, list[Any]]:
    """Return a row's completions, what marks them, and the marks; both as they are written."""
    given = row[key]
    if is_none(given):
        raise NoText(f"{where} has no {key}")
    if not isinstance(given, list):
        raise ValueError(f"{where}: {key} is {describe(given)}, not a list of completions; mend it")
    if is_messages(given):
        text = next((k for k in TEXTS if any(k in c for c in given)), TEXTS[0])
        mark = next((k for k in MARKS if any(k in c for c in given)), "score")
        given, marks = [c.get(text) for c in given], [c.get(mark) for c in given]
    else:
        mark = next((k for k in MARKS if k in row), "scores")
        marks = [None] * len(given) if is_none(row.get(mark)) else row[mark]
    if not isinstance(marks, list) or len(marks) != len(given):
        raise ValueError(
            f"{where} has {len(given)} {key}, and its {mark} are no list of as many; a preference"
            f" needs both sides, as {LAYOUTS}"
        )
    return given, mark, marks


def _prompt(value: Any, where: str) -> str:
    if is_messages(value):
        return render(turns_of(value, where)) + TURN
    return text_of(value, "prompt", where)


def _pair(row: dict[str, Any], where: str) -> Ranking:
    sides: list[Any] = [row.get("chosen"), row.get("rejected")]
    if any(map(is_none, sides)):
        raise NoText(f"{where} lacks a side")
    if all(map(is_messages, sides)):
        before = row["prompt"] if is_messages(row.get("prompt")) else []
        ends = [completions_of([*before, *side], where)[-1:] for side in sides if side]
        if not all(ends) or ends[0][0][0] != ends[1][0][0]:
            raise ValueError(
                f"{where} has chosen and rejected messages that do not end in two answers to the"
                " same prompt; give dialogues that differ in the last turn alone"
            )
        return Ranking(ends[0][0][0], [end[0][1] for end in ends], [(0, 1)])
    chosen, rejected = (text_in(row, key, where) for key in ("chosen", "rejected"))
    if "prompt" in row:
        return Ranking(_prompt(row["prompt"], where), [chosen, rejected], [(0, 1)])
    same = (a == b for a, b in zip(chosen, rejected, strict=False))
    shared = next((i for i, equal in enumerate(same) if not equal), min(len(chosen), len(rejected)))
    at = chosen.rfind(TURN, 0, shared + 1) + len(TURN) if TURN in chosen[:shared] else shared
    return Ranking(chosen[:at], [chosen[at:], rejected[at:]], [(0, 1)])
