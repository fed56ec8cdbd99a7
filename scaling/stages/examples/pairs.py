"""Prompt/completion pairs: reading them from files, splitting them, encoding them.

The token ids of a prompt end with SEP, so that no byte-pair merge crosses into the completion; the
ids of a completion end with END. Ids are never decoded and encoded again: that changes one sample
in seven.

Rows come from JSONL files (.jsonl, .gz, .xz) or a hub set. The keys of a row tell its layout:
prompt/completion, question/answer, instruction[/input]/output, instruction/instances, messages or
conversations (each of the assistant's turns is a pair), and a prompt and a completion that are
lists of messages.
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
HELD_OUT = 0.06  # the share of a file's prompts that is held out where no test file is given
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
    """Return the file of rows that a setting names; a hub set is fetched once.

    name: a path, or hub:NAME[:CONFIG[:SPLIT]]
    cache: where hub sets are kept
    what: the setting, for messages

    FileNotFoundError where there is no such file, ValueError for a Parquet file.
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


def numbered_rows(path: str | Path, name: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each row of a file after its place in words; `name` is the file's hub set, if any."""
    for number, row in read_rows(path):
        yield f"{name}: row {number}" if name.startswith(HUB) else f"{path}: line {number}", row


def read_pairs(
    path: str | Path, *, template: str = "", name: str = "", left_out: LeftOut | None = None
) -> list[Pair]:
    """Read prompt/completion rows, without those that lack a text or have an empty one.

    path: the file
    template: `chat` turns each prompt that is no dialogue into the first turn of one
    name: the hub set that the file came from, for messages
    left_out: where rows without a text are counted

    ValueError for a row of no known layout, and where no row can be used.
    """
    left_out = LeftOut() if left_out is None else left_out
    n, keys, pairs = 0, "", []
    for where, row in numbered_rows(path, name):
        n, keys = n + 1, keys or ", ".join(sorted(row))
        for pair in _pairs(row, where, template, left_out):
            if pair.prompt.strip() and pair.completion.strip():
                pairs.append(pair)
            else:
                left_out.add("empty")
    if not pairs:
        why = f" ({left_out.in_words()}; the first has the keys {keys})" if n else ""
        raise ValueError(
            f"none of the {n} rows of {name or path} has a prompt and a completion that are not"
            f" empty{why}; give rows of the layout {', '.join(LAYOUTS)}"
        )
    return pairs


def _pairs(row: dict[str, Any], where: str, template: str, left_out: LeftOut) -> list[Pair]:
    """Return the pairs of a row; one without a text is counted in `left_out` instead."""
    try:
        pairs = _dialogue(row, where)
        if pairs is None:
            pairs = _instances(row, where, template, left_out)
        if pairs is None:
            pairs = [in_template(*_prompt_and_completion(row, where), template)]
    except NoText:
        left_out.add("null")
        return []
    if not pairs:
        left_out.add("empty")
    return pairs


def _dialogue(row: dict[str, Any], where: str) -> list[Pair] | None:
    """Return the pairs of a row that holds messages; None for other rows."""
    for key in MESSAGES:
        if is_messages(row.get(key)):
            return [Pair(*p) for p in completions_of(row[key], where)]
    sides: list[Any] = [row.get("prompt"), row.get("completion")]
    if all(map(is_messages, sides)):
        return [Pair(*p) for p in completions_of([m for s in sides for m in s], where)[-1:]]
    return None


def _instances(
    row: dict[str, Any], where: str, template: str, left_out: LeftOut
) -> list[Pair] | None:
    """Return the pairs of an instruction with several instances; None for other rows."""
    if "instruction" not in row or not is_messages(row.get("instances")):
        return None
    parts = [{"instruction": row["instruction"], **i} for i in row["instances"]]
    return [p for part in parts for p in _pairs(part, where, template, left_out)]


def _prompt_and_completion(row: dict[str, Any], where: str) -> Pair:
    """Return prompt and completion of a row of texts; NoText where one of them is missing."""
    prompt, completion = max(COMPLETION_KEYS, key=lambda keys: len(row.keys() & set(keys)))
    if prompt not in row and completion not in row:
        return _no_layout(row, where)
    text, answer = (text_in(row, key, where) for key in (prompt, completion))
    if prompt == "prompt":
        return Pair(text, answer)  # spaces and line ends stay as the file has them
    extra = row.get("input") if prompt == "instruction" else None
    extra = "" if is_none(extra) else text_of(extra, "input", where).strip()
    return Pair(text.strip() + (f"\n\n{extra}" if extra else "") + "\n", answer)


def _no_layout(row: dict[str, Any], where: str) -> NoReturn:
    """Raise ValueError for a row of no known layout; NoText for messages that are null or empty."""
    for key in (*MESSAGES, "instances"):
        value = row.get(key)
        if key in row and (is_none(value) or value == []):
            raise NoText(f"{where} has no {key}")
        if key in row:
            raise ValueError(f"{where}: {key} is {describe(value)}, not a list of objects; mend it")
    raise ValueError(
        f"{where} has the keys {', '.join(sorted(row))}; readable layouts are {', '.join(LAYOUTS)}"
    )


def in_template(prompt: str, completion: str, template: str) -> Pair:
    """Put a prompt and its completion into a template, unless they come from a dialogue."""
    if template == "chat" and prompt.strip() and not prompt.endswith(TURN):
        return Pair(as_dialogue(prompt), f" {completion.strip()}")
    return Pair(prompt, completion)


def split(rows: Sequence[T], *, share: float = HELD_OUT) -> tuple[list[T], list[T]]:
    """Split rows by the hash of their prompt into training and held-out rows; neither is empty.

    All turns of a dialogue are in the same part. ValueError for fewer than two prompts.
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


def split_held_out(
    rows: Sequence[T], held_out: Sequence[T], *, left_out: LeftOut | None = None
) -> tuple[list[T], list[T]]:
    """Return training and held-out rows; without `held_out` rows, hold out a share of the prompts.

    Training rows with a held-out prompt are left out and counted in `left_out`. ValueError where no
    training row remains.
    """
    if not held_out:
        return split(rows)
    held_out_prompts = {before_first_answer(row[0]) for row in held_out}
    train = [row for row in rows if before_first_answer(row[0]) not in held_out_prompts]
    if not train:
        raise ValueError("every training prompt is a held-out one too; give other rows to train on")
    if left_out is not None:
        left_out.add("repeated", len(rows) - len(train))
    return train, list(held_out)


def encode_all(tokenizer: Tokenizer, pairs: Sequence[Pair]) -> list[Example]:
    """Return pairs as token ids, in order."""
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
    left_out: LeftOut | None = None,
) -> list[Example]:
    """Return pairs as token ids, without those that are too long.

    tokenizer: of the model
    pairs: as text
    context: the longest pair, in tokens
    longest: the longest completion, in tokens; 0 is the context
    what: the data, for messages
    setting: the setting of the context, for messages
    left_out: where pairs that are too long are counted

    ValueError when no pair remains.
    """
    examples = encode_all(tokenizer, pairs)
    room, left_out = longest or context, LeftOut() if left_out is None else left_out
    needs = [
        max(len(e.prompt) + len(e.completion), -(-len(e.completion) * context // room))
        for e in examples
    ]
    fitting = [e for e, need in zip(examples, needs, strict=True) if need <= context]
    left_out.add("too_long", len(examples) - len(fitting))
    left_out.longest = max([left_out.longest, *needs])
    if not fitting:
        raise ValueError(
            f"no pair of {what} fits the context of {context} tokens "
            f"(the shortest of {len(examples)} needs {min(needs, default=0)}); "
            f"pretrain with a longer {setting} or give shorter pairs"
        )
    return fitting
