"""Prompt/completion pairs: their files, their split, their token ids.

A prompt's ids end with SEP, so that no byte-pair merge crosses into the completion; a completion's
ids end with END. Ids are kept, never decoded and encoded again: that changes one sample in seven.

Layouts of JSONL rows (.jsonl, .gz, .xz) or of a hub set, found by their keys: prompt/completion,
question/answer, instruction[/input]/output or /instances, messages or conversations (each of the
assistant's turns is a pair), prompt/completion that are lists of messages.
"""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypeVar

from tokenizers import Tokenizer

from scaling.data.chat_template import (
    TURN,
    as_dialogue,
    before_first_answer,
    completions_of,
    is_messages,
)
from scaling.data.hub import fetch_rows
from scaling.data.jsonl import read_rows
from scaling.data.row_text import LeftOut, NoText, clean, describe, is_none, text_in, text_of
from scaling.data.tokenizer import END, SEP

COMPLETION_KEYS = (("prompt", "completion"), ("question", "answer"), ("instruction", "output"))
MESSAGES = ("messages", "conversations")
LAYOUTS = (*("/".join(keys) for keys in COMPLETION_KEYS), "instruction/instances", *MESSAGES)
HUB = "hub:"
HELD_OUT = 0.06  # share of the prompts of a file that is never trained on
T = TypeVar("T", bound="tuple[Any, ...]")


class Pair(NamedTuple):
    """A prompt and one completion, as text."""

    prompt: str
    completion: str


class Example(NamedTuple):
    """A pair as token ids: the prompt ends with SEP, the completion with END."""

    prompt: list[int]
    completion: list[int]


def rows_file(name: str, cache: Path, *, what: str = "data") -> Path:
    """Return the file of rows: itself, or that of `hub:NAME[:CONFIG[:SPLIT]]`, fetched once.

    FileNotFoundError where there is none, ValueError for a table of another kind.
    """
    if name.startswith(HUB):
        return fetch_rows(name.removeprefix(HUB), cache)
    if not Path(name).is_file():
        raise FileNotFoundError(
            f"{what}={name} is no file; give a .jsonl file, {HUB}NAME of a hub set, or the default"
        )
    if name.endswith(".parquet"):
        raise ValueError(
            f"{what}={name} is Parquet, and rows of pairs are JSON lines; put it alone into a"
            f" folder and give {what}={HUB}FOLDER, or write it as .jsonl"
        )
    return Path(name)


def placed_rows(path: str | Path, name: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each row of a file with its place; `name` is what a hub set's file came from."""
    for number, row in read_rows(path):
        yield f"{name}: row {number}" if name.startswith(HUB) else f"{path}: line {number}", row


def read_pairs(
    path: str | Path, *, template: str = "", name: str = "", left: LeftOut | None = None
) -> list[Pair]:
    """Read prompt/completion rows; those without a text or with an empty one are left out.

    They are counted in `left`. With the `template` chat prompts that are no dialogues become one's
    first turn. ValueError for a row of no known layout, or where nothing is left.
    """
    left = LeftOut() if left is None else left
    n, keys, kept = 0, "", []
    for where, row in placed_rows(path, name):
        n, keys = n + 1, keys or ", ".join(sorted(row))
        for pair in _pairs(row, where, template, left):
            if pair.prompt.strip() and pair.completion.strip():
                kept.append(pair)
            else:
                left.add("empty")
    if not kept:
        why = f" ({left.in_words()}; the first has the keys {keys})" if n else ""
        raise ValueError(
            f"none of the {n} rows of {name or path} has a prompt and a completion that are not"
            f" empty{why}; give rows of the layout {', '.join(LAYOUTS)}"
        )
    return kept


def _pairs(row: dict[str, Any], where: str, template: str, left: LeftOut) -> list[Pair]:
    """Return the pairs of a row; one without a text is counted in `left` instead."""
    try:
        made = _dialogue(row, where)
        if made is None:
            made = _instances(row, where, template, left)
        if made is None:
            made = [filled(*_asked(row, where), template)]
    except NoText:
        left.add("null")
        return []
    if not made:
        left.add("empty")
    return made


def _dialogue(row: dict[str, Any], where: str) -> list[Pair] | None:
    """Return the pairs of a row that holds messages, None for other rows."""
    for key in MESSAGES:
        if is_messages(row.get(key)):
            return [Pair(*p) for p in completions_of(row[key], where)]
    sides: list[Any] = [row.get("prompt"), row.get("completion")]
    if all(map(is_messages, sides)):
        return [Pair(*p) for p in completions_of([m for s in sides for m in s], where)[-1:]]
    return None


def _instances(row: dict[str, Any], where: str, template: str, left: LeftOut) -> list[Pair] | None:
    """Return the pairs of an instruction with several instances, None for other rows."""
    if "instruction" not in row or not is_messages(row.get("instances")):
        return None
    parts = [{"instruction": row["instruction"], **i} for i in row["instances"]]
    return [p for part in parts for p in _pairs(part, where, template, left)]


def _asked(row: dict[str, Any], where: str) -> Pair:
    """Return prompt and completion of a row of texts; NoText where it lacks one of them."""
    prompt, completion = max(COMPLETION_KEYS, key=lambda keys: len(row.keys() & set(keys)))
    if prompt not in row and completion not in row:
        return _no_layout(row, where)
    text, answer = (text_in(row, key, where) for key in (prompt, completion))
    if prompt == "prompt":
        return Pair(text, answer)  # the file decides about its spaces
    extra = row.get("input") if prompt == "instruction" else None
    extra = "" if is_none(extra) else text_of(extra, "input", where).strip()
    return Pair(text.strip() + (f"\n\n{extra}" if extra else "") + "\n", answer)


def _no_layout(row: dict[str, Any], where: str) -> NoReturn:
    """Refuse a row of no known layout; NoText for messages that are null or none."""
    for key in (*MESSAGES, "instances"):
        value = row.get(key)
        if key in row and (is_none(value) or value == []):
            raise NoText(f"{where} has no {key}")
        if key in row:
            raise ValueError(f"{where}: {key} is {describe(value)}, not a list of objects; mend it")
    raise ValueError(
        f"{where} has the keys {', '.join(sorted(row))}; readable layouts are {', '.join(LAYOUTS)}"
    )


def filled(prompt: str, completion: str, template: str) -> Pair:
    """Put a prompt and its completion into a template, unless they are a dialogue's already."""
    if template == "chat" and prompt.strip() and not prompt.endswith(TURN):
        return Pair(as_dialogue(prompt), f" {completion.strip()}")
    return Pair(prompt, completion)


def split(rows: Sequence[T], *, share: float = HELD_OUT) -> tuple[list[T], list[T]]:
    """Split by the hash of the prompt into training and held-out rows, neither of them empty.

    All turns of a dialogue go together. ValueError for fewer than two prompts.
    """

    def digest(row: T) -> str:
        return hashlib.sha256(
            before_first_answer(row[0]).encode("utf-8", "surrogatepass")
        ).hexdigest()

    prompts = sorted({digest(row) for row in rows})
    if len(prompts) < 2:
        raise ValueError(
            f"the file has {len(prompts)} different prompt; at least 2 are needed, one to hold out"
        )
    held_out = set(prompts[: max(1, round(share * len(prompts)))])
    train = [row for row in rows if digest(row) not in held_out]
    return train, [row for row in rows if digest(row) in held_out]


def parts(
    rows: Sequence[T], held_out: Sequence[T], *, left: LeftOut | None = None
) -> tuple[list[T], list[T]]:
    """Return training and held-out rows: those given, or a share of the prompts of `rows`.

    Training rows with a held-out prompt are left out, and counted; ValueError where none is left.
    """
    if not held_out:
        return split(rows)
    known = {before_first_answer(row[0]) for row in held_out}
    train = [row for row in rows if before_first_answer(row[0]) not in known]
    if not train:
        raise ValueError("every training prompt is a held-out one too; give other rows to train on")
    if left is not None:
        left.add("repeated", len(rows) - len(train))
    return train, list(held_out)


def encode_all(tokenizer: Tokenizer, pairs: Sequence[Pair]) -> list[Example]:
    """Turn pairs into ids, in order."""
    prompts = tokenizer.encode_batch_fast([clean(p.prompt) for p in pairs])
    completions = tokenizer.encode_batch_fast([clean(p.completion) for p in pairs])
    return [
        Example([*p.ids, SEP], [*c.ids, END]) for p, c in zip(prompts, completions, strict=True)
    ]


def encode(
    tokenizer: Tokenizer,
    pairs: Sequence[Pair],
    *,
    context: int,
    longest: int = 0,
    what: str = "data",
    setting: str = "data.context",
    left: LeftOut | None = None,
) -> list[Example]:
    """Turn pairs into ids, without those longer than the context (or than a `longest` completion).

    These are counted in `left`. ValueError when none is left; `setting` sets the context.
    """
    found = encode_all(tokenizer, pairs)
    room, left = longest or context, LeftOut() if left is None else left
    needs = [
        max(len(e.prompt) + len(e.completion), -(-len(e.completion) * context // room))
        for e in found
    ]
    kept = [e for e, need in zip(found, needs, strict=True) if need <= context]
    left.add("too_long", len(found) - len(kept))
    left.longest = max([left.longest, *needs])
    if not kept:
        raise ValueError(
            f"no pair of {what} fits the context of {context} tokens "
            f"(the shortest of {len(found)} needs {min(needs, default=0)}); "
            f"pretrain with a longer {setting} or give shorter pairs"
        )
    return kept
