"""Prompt/completion pairs and preferences: their files, their split, their token ids.

A prompt's ids end with SEP, so that no byte-pair merge crosses into the completion; a completion's
ids end with END. Ids are kept, never decoded and encoded again: that changes one sample in seven.

Layouts of JSONL rows (.jsonl, .gz, .xz), found by their keys: prompt/completion, question/answer,
instruction[/input]/output; preferences prompt/chosen/rejected, or chosen/rejected dialogues that
share everything up to the last turn.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from tokenizers import Tokenizer

from scaling.jsonl import read_rows
from scaling.tokenizer import END, SEP

COMPLETION_KEYS = (("prompt", "completion"), ("question", "answer"), ("instruction", "output"))
TURN = "\n\nAssistant:"  # the last turn of a dialogue (Bai et al. 2022, 2204.05862)
HELD_OUT = 0.06  # share of the prompts of a file that is never trained on
T = TypeVar("T", bound="Pair | Preference")


class Pair(NamedTuple):
    """A prompt and one completion, as text."""

    prompt: str
    completion: str


class Preference(NamedTuple):
    """A prompt, the completion preferred and the other one, as text."""

    prompt: str
    chosen: str
    rejected: str


class Example(NamedTuple):
    """A pair as token ids: the prompt ends with SEP, the completion with END."""

    prompt: list[int]
    completion: list[int]


def read_pairs(path: str | Path) -> list[Pair]:
    """Read prompt/completion rows; rows with an empty completion are left out."""
    return _filled(path, [_pair(row, path) for _, row in read_rows(path)])


def read_preferences(path: str | Path) -> list[Preference]:
    """Read chosen/rejected rows; rows whose two completions are equal are left out."""
    found = [_preference(row, path) for _, row in read_rows(path)]
    return _filled(path, [p for p in found if p.chosen != p.rejected])


def _filled(path: str | Path, found: list[T]) -> list[T]:
    kept = [p for p in found if all(text.strip() for text in p)]
    if not kept:
        raise ValueError(
            f"{path} has no row with a prompt and non-empty, different completions; check the file"
        )
    return kept


def _pair(row: dict[str, Any], path: str | Path) -> Pair:
    for prompt, completion in COMPLETION_KEYS:
        if prompt in row and completion in row:
            extra = str(row.get("input") or "").strip() if prompt == "instruction" else ""
            text = str(row[prompt]).strip() + (f"\n\n{extra}" if extra else "") + "\n"
            if prompt == "prompt":
                text = str(row[prompt])  # the file decides about its spaces
            return Pair(text, str(row[completion]))
    legal = ", ".join("/".join(keys) for keys in COMPLETION_KEYS)
    raise ValueError(
        f"{path} has rows with the keys {', '.join(sorted(row))}; readable layouts are {legal}"
    )


def _preference(row: dict[str, Any], path: str | Path) -> Preference:
    if not {"chosen", "rejected"} <= row.keys():
        raise ValueError(
            f"{path} has rows with the keys {', '.join(sorted(row))}; "
            "preferences need chosen and rejected "
            "(and prompt, unless the two are dialogues)"
        )
    chosen, rejected = str(row["chosen"]), str(row["rejected"])
    if "prompt" in row:
        return Preference(str(row["prompt"]), chosen, rejected)
    same = (a == b for a, b in zip(chosen, rejected, strict=False))
    shared = next((i for i, equal in enumerate(same) if not equal), min(len(chosen), len(rejected)))
    at = chosen.rfind(TURN, 0, shared + 1) + len(TURN) if TURN in chosen[:shared] else shared
    return Preference(chosen[:at], chosen[at:], rejected[at:])


def split(rows: Sequence[T], *, share: float = HELD_OUT) -> tuple[list[T], list[T]]:
    """Split by the hash of the prompt into training and held-out rows, neither of them empty.

    ValueError for fewer than two prompts.
    """

    def digest(row: T) -> str:
        return hashlib.sha256(row[0].encode("utf-8", "surrogatepass")).hexdigest()

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
    known = {row[0] for row in held_out}
    train = [row for row in rows if row[0] not in known]
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
    tokenizer: Tokenizer, pairs: Sequence[Pair], *, context: int, longest: int = 0
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
            f"no pair fits the context of {context} tokens "
            f"(the shortest of {len(found)} has {shortest}); "
            "train with a longer data.context or give shorter pairs"
        )
    return kept
