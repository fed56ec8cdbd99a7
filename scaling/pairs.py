"""Prompt/completion pairs: their files, their split, their token ids.

A prompt's ids end with SEP, so that no byte-pair merge crosses into the completion; a completion's
ids end with END. Ids are kept, never decoded and encoded again: that changes one sample in seven.

Layouts of JSONL rows (.jsonl, .gz, .xz) or of a hub set, found by their keys: prompt/completion,
question/answer, instruction[/input]/output or /instances, messages or conversations (each of the
assistant's turns is a pair), prompt/completion that are lists of messages.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from tokenizers import Tokenizer

from scaling.dialogue import TURN, asked, completions_of, is_messages, opening
from scaling.hub import fetch_rows
from scaling.jsonl import read_rows
from scaling.tokenizer import END, SEP

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

    FileNotFoundError where there is none.
    """
    if name.startswith(HUB):
        return fetch_rows(name.removeprefix(HUB), cache)
    if not Path(name).is_file():
        raise FileNotFoundError(
            f"{what}={name} is no file; give a .jsonl file, {HUB}NAME of a hub set, or the default"
        )
    return Path(name)


def read_pairs(path: str | Path, *, template: str = "") -> list[Pair]:
    """Read prompt/completion rows; rows with an empty completion are left out.

    With the `template` chat prompts that are no dialogues become one's first turn. ValueError where
    nothing is left.
    """
    rows = [row for _, row in read_rows(path)]
    found = [p for row in rows for p in _pairs(row, path, template)]
    kept = [p for p in found if p.prompt.strip() and p.completion.strip()]
    if not kept:
        raise ValueError(
            f"none of the {len(rows)} rows of {path} has a prompt and a completion that are not"
            " empty; check the file"
        )
    return kept


def _pairs(row: dict[str, Any], path: str | Path, template: str) -> list[Pair]:
    """Return the pairs of a row of any layout."""
    for key in MESSAGES:
        if is_messages(row.get(key)):
            return [Pair(*p) for p in completions_of(row[key], path)]
    if is_messages(row.get("prompt")) and is_messages(row.get("completion")):
        return [Pair(*p) for p in completions_of(row["prompt"] + row["completion"], path)[-1:]]
    if "instruction" in row and is_messages(row.get("instances")):
        parts = [{"instruction": row["instruction"], **i} for i in row["instances"]]
        return [p for part in parts for p in _pairs(part, path, template)]
    for prompt, completion in COMPLETION_KEYS:
        if prompt in row and completion in row:
            extra = str(row.get("input") or "").strip() if prompt == "instruction" else ""
            text = str(row[prompt]).strip() + (f"\n\n{extra}" if extra else "") + "\n"
            if prompt == "prompt":
                text = str(row[prompt])  # the file decides about its spaces
            return [filled(text, str(row[completion]), template)]
    raise ValueError(
        f"{path} has rows with the keys {', '.join(sorted(row))}; readable layouts are"
        f" {', '.join(LAYOUTS)}"
    )


def filled(prompt: str, completion: str, template: str) -> Pair:
    """Put a prompt and its completion into a template, unless they are a dialogue's already."""
    if template == "chat" and prompt.strip() and not prompt.endswith(TURN):
        return Pair(asked(prompt), f" {completion.strip()}")
    return Pair(prompt, completion)


def split(rows: Sequence[T], *, share: float = HELD_OUT) -> tuple[list[T], list[T]]:
    """Split by the hash of the prompt into training and held-out rows, neither of them empty.

    All turns of a dialogue go together. ValueError for fewer than two prompts.
    """

    def digest(row: T) -> str:
        return hashlib.sha256(opening(row[0]).encode("utf-8", "surrogatepass")).hexdigest()

    prompts = sorted({digest(row) for row in rows})
    if len(prompts) < 2:
        raise ValueError(
            f"the file has {len(prompts)} different prompt; at least 2 are needed, one to hold out"
        )
    held_out = set(prompts[: max(1, round(share * len(prompts)))])
    train = [row for row in rows if digest(row) not in held_out]
    return train, [row for row in rows if digest(row) in held_out]


def parts(rows: Sequence[T], held_out: Sequence[T]) -> tuple[list[T], list[T]]:
    """Return training and held-out rows: those given, or a share of the prompts of `rows`.

    Training rows with a held-out prompt are left out; ValueError where none is left.
    """
    if not held_out:
        return split(rows)
    known = {opening(row[0]) for row in held_out}
    train = [row for row in rows if opening(row[0]) not in known]
    if not train:
        raise ValueError("every training prompt is a held-out one too; give other rows to train on")
    return train, list(held_out)


def encode_all(tokenizer: Tokenizer, pairs: Sequence[Pair]) -> list[Example]:
    """Turn pairs into ids, in order."""
    prompts = tokenizer.encode_batch_fast([p.prompt for p in pairs])
    completions = tokenizer.encode_batch_fast([p.completion for p in pairs])
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
) -> list[Example]:
    """Turn pairs into ids, without those longer than the context (or than a `longest` completion).

    ValueError when none is left.
    """
    found = encode_all(tokenizer, pairs)
    room = longest or context
    kept = [
        e
        for e in found
        if len(e.prompt) + len(e.completion) <= context and len(e.completion) <= room
    ]
    if not kept:
        shortest = min((len(e.prompt) + len(e.completion) for e in found), default=0)
        raise ValueError(
            f"no pair of {what} fits the context of {context} tokens "
            f"(the shortest of {len(found)} has {shortest}); "
            "train with a longer data.context or give shorter pairs"
        )
    return kept
