"""Preferences read from files: which completions of a prompt are better than which.

Rows of one prompt become one ranking, so that all its pairs stand in one batch element. The keys of
a row tell its layout: prompt/chosen/rejected; chosen/rejected dialogues that share everything up to
the last turn (texts or lists of messages); a list of completions with scores (higher is better) or
ranks (lower is better), which stand in a list of their own or in each completion.
"""

from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

from scaling.data.chat_template import OWN_CHAT, ChatTemplate, is_messages
from scaling.data.row_text import LeftOut, NoText, describe, is_none, number_of, text_in, text_of
from scaling.stages.examples.pairs import Pair, in_template, numbered_rows

LISTS = ("completions", "responses", "answers")  # keys of a list of completions
TEXTS = ("text", "response", "content", "completion")  # keys of the text of one of them
# Keys of scores and ranks, with the sign that makes the higher number the better one.
MARKS = {"scores": 1, "score": 1, "overall_score": 1, "ranks": -1, "rank": -1}
LAYOUTS = "prompt/chosen/rejected, chosen/rejected dialogues, prompt/completions/scores (or ranks)"


class Ranking(NamedTuple):
    """A prompt, its completions, and the preferences among them."""

    prompt: str
    completions: list[str]
    order: list[tuple[int, int]]  # (better, worse) pairs of indices


def read_rankings(
    path: str | Path,
    *,
    template: str = "",
    chat: ChatTemplate = OWN_CHAT,
    name: str = "",
    left_out: LeftOut | None = None,
) -> list[Ranking]:
    """Read preferences, one ranking for each prompt.

    path: the file
    template: `chat` turns each prompt that is no dialogue into the first turn of one
    chat: how dialogues become text
    name: the hub set that the file came from, for messages
    left_out: where the rows, completions and pairs that are not used are counted: those without a
        text, with an empty one or without a score, and pairs that are tied or repeated

    ValueError where no pair remains.
    """
    rankings: dict[str, Ranking] = {}
    n, keys, left_out = 0, "", LeftOut() if left_out is None else left_out
    for where, row in numbered_rows(path, name):
        n, keys = n + 1, keys or ", ".join(sorted(row))
        try:
            prompt, completions, order = _ranking(row, where, left_out, chat)
        except NoText:
            left_out.add("null")
            continue
        texts = [in_template(prompt, t, template, chat) for t in completions]
        _add_row(rankings, prompt, texts, order, left_out)
    if not rankings:
        why = f" ({left_out.in_words()})" if n else ""
        keys = f": the first row has the keys {keys}" if n else ""
        raise ValueError(
            f"{name or path} {f'has {n} rows, none' if n else 'is empty: no row'} with a prompt and"
            f" two different completions, of which one is preferred{why}; give both sides, chosen"
            f" and rejected{keys}; a preference needs both sides, as {LAYOUTS}"
        )
    return list(rankings.values())


def _add_row(
    rankings: dict[str, Ranking],
    prompt: str,
    texts: list[Pair],
    order: list[tuple[int, int]],
    left_out: LeftOut,
) -> None:
    """Add the pairs of a row to the ranking of its prompt."""
    empty = [i for i, text in enumerate(texts) if not text.completion.strip()]
    left_out.add("empty", len(empty) if prompt.strip() else 1)
    if not prompt.strip():
        return
    for i, j in order:
        if i in empty or j in empty:
            continue
        if texts[i] == texts[j]:
            left_out.add("tied")
        elif not _add_pair(rankings, texts[i].prompt, texts[i].completion, texts[j].completion):
            left_out.add("repeated")


def _add_pair(rankings: dict[str, Ranking], prompt: str, better: str, worse: str) -> bool:
    """Add a pair to the ranking of its prompt; return False where the pair is there already."""
    ranking = rankings.setdefault(prompt, Ranking(prompt, [], []))
    for text in (better, worse):
        if text not in ranking.completions:
            ranking.completions.append(text)
    pair = ranking.completions.index(better), ranking.completions.index(worse)
    if pair in ranking.order:
        return False
    ranking.order.append(pair)
    return True


def _ranking(row: dict[str, Any], where: str, left_out: LeftOut, chat: ChatTemplate) -> Ranking:
    """Return the ranking of a row of any layout; NoText where a text is missing."""
    if row.keys() & {"chosen", "rejected"}:
        return _chosen_rejected(row, where, chat)
    present = [k for k in LISTS if k in row]
    key = next((k for k in present if isinstance(row[k], list)), "".join(present[:1]))
    if not key:
        raise ValueError(
            f"{where} has the keys {', '.join(sorted(row))}; a preference needs both sides, as"
            f" {LAYOUTS}"
        )
    prompt = _prompt(row.get("prompt"), where, chat)
    texts, numbers = _texts_and_numbers(row, key, where, left_out)
    pairs = [(i, j) for i, j in combinations(range(len(texts)), 2)]
    order = [
        (i, j) if numbers[i] > numbers[j] else (j, i) for i, j in pairs if numbers[i] != numbers[j]
    ]
    left_out.add("tied", len(pairs) - len(order))
    return Ranking(prompt, texts, order)


def _texts_and_numbers(
    row: dict[str, Any], key: str, where: str, left_out: LeftOut
) -> tuple[list[str], list[float]]:
    """Return the completions of a list, and a number for each: the higher, the better.

    A completion without a text or a number is counted in `left_out` instead.
    """
    completions, mark, marks = _completions(row, key, where)
    if len(completions) < 2:
        left_out.add("null")  # there is nothing to compare it with
    texts, numbers = [], []
    for at, (text, value) in enumerate(zip(completions, marks, strict=True), start=1):
        number = number_of(value, f"item {at} of {mark}", where)
        if is_none(text):
            left_out.add("null")
        elif number is None:
            left_out.add("unscored")
        else:
            texts.append(text_of(text, f"item {at} of {key}", where))
            numbers.append(MARKS[mark] * number)
    return texts, numbers


def _completions(row: dict[str, Any], key: str, where: str) -> tuple[list[Any], str, list[Any]]:
    """Return a row's completions, the key of their scores or ranks, and these; all as written."""
    completions = row[key]
    if is_none(completions):
        raise NoText(f"{where} has no {key}")
    if not isinstance(completions, list):
        raise ValueError(
            f"{where}: {key} is {describe(completions)}, not a list of completions; mend it"
        )
    if is_messages(completions):
        text = next((k for k in TEXTS if any(k in c for c in completions)), TEXTS[0])
        mark = next((k for k in MARKS if any(k in c for c in completions)), "score")
        marks = [c.get(mark) for c in completions]
        completions = [c.get(text) for c in completions]
    else:
        mark = next((k for k in MARKS if k in row), "scores")
        marks = [None] * len(completions) if is_none(row.get(mark)) else row[mark]
    if not isinstance(marks, list) or len(marks) != len(completions):
        raise ValueError(
            f"{where} has {len(completions)} {key}, and its {mark} are no list of as many; a"
            f" preference needs both sides, as {LAYOUTS}"
        )
    return completions, mark, marks


def _prompt(value: Any, where: str, chat: ChatTemplate) -> str:
    """Return a prompt as text, also one that is a list of messages."""
    if is_messages(value):
        return chat.prompt_of(value, where)
    return text_of(value, "prompt", where)


def _chosen_rejected(row: dict[str, Any], where: str, chat: ChatTemplate) -> Ranking:
    """Return the ranking of a row with the keys chosen and rejected.

    Dialogues without a prompt are split where their last turn begins; texts that are no dialogues
    are split at their first difference.
    """
    sides: list[Any] = [row.get("chosen"), row.get("rejected")]
    if any(map(is_none, sides)):
        raise NoText(f"{where} lacks a side")
    if all(map(is_messages, sides)):
        before = row["prompt"] if is_messages(row.get("prompt")) else []
        ends = [chat.completions_of([*before, *side], where)[-1:] for side in sides if side]
        if not all(ends) or ends[0][0][0] != ends[1][0][0]:
            raise ValueError(
                f"{where} has chosen and rejected messages that do not end in two answers to the"
                " same prompt; give dialogues that differ in the last turn alone"
            )
        return Ranking(ends[0][0][0], [end[0][1] for end in ends], [(0, 1)])
    chosen, rejected = (text_in(row, key, where) for key in ("chosen", "rejected"))
    if "prompt" in row:
        return Ranking(_prompt(row["prompt"], where, chat), [chosen, rejected], [(0, 1)])
    same = (a == b for a, b in zip(chosen, rejected, strict=False))
    shared = next((i for i, equal in enumerate(same) if not equal), min(len(chosen), len(rejected)))
    turn = chat.turn
    marked = turn and turn in chosen[:shared]
    at = chosen.rfind(turn, 0, shared + 1) + len(turn) if marked else shared
    return Ranking(chosen[:at], [chosen[at:], rejected[at:]], [(0, 1)])
