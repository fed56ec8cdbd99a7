"""Prompt/completion pairs: reading them from files, splitting them, encoding them.

Prompt and completion are encoded apart (scaling.data.vocabulary), so that no merge crosses from one
into the other; the ids of a completion end with the end of a text. Ids are never decoded and
encoded again: that changes one sample in seven.

Rows come from JSONL files (.jsonl, .gz, .xz) or a hub set. The keys of a row tell its layout:
the pairs of COMPLETION_KEYS, an instruction with an input or a context beside it,
instruction/instances, messages or conversations (each of the assistant's turns is a pair), and a
prompt and a completion that are lists of messages. `sft.columns` names any other columns.
"""

import hashlib
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypeVar

from scaling.data.chat_template import OWN_CHAT, ChatTemplate, is_messages
from scaling.data.hub import fetch_rows
from scaling.data.jsonl import read_rows
from scaling.data.row_text import LeftOut, NoText, describe, is_none, text_in, text_of
from scaling.data.vocabulary import Vocabulary

# Columns of a prompt and its completion; where a row fits several, the first is taken.
COMPLETION_KEYS = (
    ("prompt", "completion"),
    ("question", "answer"),
    ("instruction", "output"),
    ("instruction", "response"),
    ("prompt", "response"),
    ("query", "answer"),
    ("query", "response"),
    ("input", "output"),
    ("text", "label"),
)
LABEL = "label"  # the column whose completions may be whole numbers: data sets of classes
CONTEXT_KEYS = ("input", "context")  # columns that an instruction may have beside it
MESSAGES = ("messages", "conversations")
LAYOUTS = (*("/".join(keys) for keys in COMPLETION_KEYS), "instruction/instances", *MESSAGES)
OTHER = "for other columns set sft.columns.prompt=NAME sft.columns.completion=NAME"
HUB = "hub:"
# Rows of a file that are held out where no test file is given: a share, at least and at most.
HELD_OUT, FEWEST_HELD_OUT, MOST_HELD_OUT = 0.10, 50, 500
log = logging.getLogger(__name__)
T = TypeVar("T", bound="tuple[Any, ...]")


class Pair(NamedTuple):
    """A prompt and one completion, as text."""

    prompt: str
    completion: str


class Example(NamedTuple):
    """A pair as token ids: the prompt ends with the separator, the completion with the end."""

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
        start = " (a relative path starts at the folder where the sweep was started)"
        start *= not Path(name).is_absolute()
        raise FileNotFoundError(
            f"{what}={name} is no file; give a .jsonl file{start}, {HUB}NAME of a hub set, or the"
            " default"
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


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How the rows of a file become pairs.

    template: `chat` turns each prompt that is no dialogue into the first turn of one
    chat: how dialogues become text
    columns: names of the columns `prompt`, `completion` and `context` that the user gave
    """

    template: str = ""
    chat: ChatTemplate = OWN_CHAT
    columns: dict[str, str] = field(default_factory=dict)


def read_pairs(
    path: str | Path,
    *,
    layout: Layout | None = None,
    name: str = "",
    left_out: LeftOut | None = None,
) -> list[Pair]:
    """Read prompt/completion rows, without those that lack a text or have an empty one.

    path: the file
    layout: how rows become pairs; by default their keys tell, and prompts stay as they are
    name: the hub set that the file came from, for messages
    left_out: where rows without a text are counted

    ValueError for a row of no known layout, and where no row can be used.
    """
    left_out, layout = LeftOut() if left_out is None else left_out, layout or Layout()
    n, keys, pairs = 0, "", []
    for where, row in numbered_rows(path, name):
        if not n and (said := in_words(row, layout)):
            log.info("%s: %s", name or path, said)
        n, keys = n + 1, keys or ", ".join(sorted(row))
        for pair in _pairs(row, where, layout, left_out):
            if pair.prompt.strip() and pair.completion.strip():
                pairs.append(pair)
            else:
                left_out.add("empty")
    if not pairs:
        why = f" ({left_out.in_words()}; the first has the keys {keys})" if n else ""
        raise ValueError(
            f"none of the {n} rows of {name or path} has a prompt and a completion that are not"
            f" empty{why}; give rows of the layout {', '.join(LAYOUTS)}; {OTHER}"
        )
    return pairs


def _pairs(row: dict[str, Any], where: str, layout: Layout, left_out: LeftOut) -> list[Pair]:
    """Return the pairs of a row; one without a text is counted in `left_out` instead."""
    try:
        pairs = None if layout.columns else _dialogue(row, where, layout.chat)
        if pairs is None and not layout.columns:
            pairs = _instances(row, where, layout, left_out)
        if pairs is None:
            pair = _prompt_and_completion(row, where, layout)
            pairs = [in_template(*pair, layout.template, layout.chat)]
    except NoText:
        left_out.add("null")
        return []
    if not pairs:
        left_out.add("empty")
    return pairs


def _dialogue(row: dict[str, Any], where: str, chat: ChatTemplate) -> list[Pair] | None:
    """Return the pairs of a row that holds messages; None for other rows."""
    for key in MESSAGES:
        if is_messages(row.get(key)):
            return [Pair(*p) for p in chat.completions_of(row[key], where)]
    sides: list[Any] = [row.get("prompt"), row.get("completion")]
    if all(map(is_messages, sides)):
        both = [m for s in sides for m in s]
        return [Pair(*p) for p in chat.completions_of(both, where)[-1:]]
    return None


def _instances(
    row: dict[str, Any], where: str, layout: Layout, left_out: LeftOut
) -> list[Pair] | None:
    """Return the pairs of an instruction with several instances; None for other rows."""
    if "instruction" not in row or not is_messages(row.get("instances")):
        return None
    parts = [{"instruction": row["instruction"], **i} for i in row["instances"]]
    return [p for part in parts for p in _pairs(part, where, layout, left_out)]


def columns_of(row: dict[str, Any], layout: Layout) -> tuple[str, str, str]:
    """Return the columns of a row's prompt, completion and context; empty where it has none.

    Columns that the user named come first; for the rest the keys of the row tell its layout.
    """
    given = layout.columns
    options = [keys for keys in COMPLETION_KEYS if keys[0] == given.get("prompt", keys[0])]
    options = [keys for keys in options if keys[1] == given.get("completion", keys[1])]
    if given.get("prompt") and not options:
        options = [(given["prompt"], keys[1]) for keys in COMPLETION_KEYS]
    if given.get("completion"):
        options = [(keys[0], given["completion"]) for keys in options or COMPLETION_KEYS]
    prompt, completion = max(options, key=lambda keys: len(row.keys() & set(keys)))
    if not (row.keys() & {prompt, completion} or given):
        return "", "", ""
    contexts = CONTEXT_KEYS if prompt == "instruction" and not given.get("context") else ()
    context = next((key for key in contexts if key in row and key != completion), "")
    return prompt, completion, given.get("context") or context


def in_words(row: dict[str, Any], layout: Layout) -> str:
    """Say which columns of a row become prompt and completion; empty for dialogues and the like."""
    prompt, completion, context = columns_of(row, layout)
    if not layout.columns and (not prompt or is_messages(row.get(prompt)) or "instances" in row):
        return ""
    before = f"{prompt} and {context}" if context else prompt
    return f"prompts are {before}, completions are {completion}"


def _prompt_and_completion(row: dict[str, Any], where: str, layout: Layout) -> Pair:
    """Return prompt and completion of a row of texts; NoText where one of them is missing."""
    prompt, completion, context = columns_of(row, layout)
    if not prompt:
        return _no_layout(row, where)
    text, answer = text_in(row, prompt, where), _answer(row, completion, where)
    extra = row.get(context) if context else None
    extra = "" if is_none(extra) else text_of(extra, context, where).strip()
    if prompt == "prompt" and not context:
        return Pair(text, answer)  # spaces and line ends stay as the file has them
    if not text.strip():
        return Pair("", answer)  # a context alone is no prompt
    return Pair(text.strip() + (f"\n\n{extra}" if extra else "") + "\n", answer)


def _answer(row: dict[str, Any], completion: str, where: str) -> str:
    """Return the text of a completion; the number of a class, in a column of labels, is its text.

    NoText where it is missing.
    """
    value = row.get(completion)
    if completion == LABEL and isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return text_of(value, completion, where)


def _no_layout(row: dict[str, Any], where: str) -> NoReturn:
    """Raise ValueError for a row of no known layout; NoText for messages that are null or empty."""
    for key in (*MESSAGES, "instances"):
        value = row.get(key)
        if key in row and (is_none(value) or value == []):
            raise NoText(f"{where} has no {key}")
        if key in row:
            raise ValueError(f"{where}: {key} is {describe(value)}, not a list of objects; mend it")
    raise ValueError(
        f"{where} has the keys {', '.join(sorted(row))}; readable layouts are {', '.join(LAYOUTS)};"
        f" {OTHER}"
    )


def in_template(prompt: str, completion: str, template: str, chat: ChatTemplate) -> Pair:
    """Put a prompt and its completion into a template, unless they come from a dialogue."""
    if template == "chat" and prompt.strip() and not chat.is_dialogue(prompt):
        return Pair(*chat.as_dialogue(prompt, completion))
    return Pair(prompt, completion)


def held_out_rows(n_rows: int) -> int:
    """Return how many of a file's rows are held out: a share, within limits, at most half."""
    return max(1, min(max(FEWEST_HELD_OUT, round(HELD_OUT * n_rows)), MOST_HELD_OUT, n_rows // 2))


def split(rows: Sequence[T], *, chat: ChatTemplate = OWN_CHAT) -> tuple[list[T], list[T]]:
    """Split rows by the hash of their prompt into training and held-out rows; neither is empty.

    rows: with the prompt first
    chat: whose dialogues they are; all turns of a dialogue are in the same part

    Prompts are held out until there are `held_out_rows` rows. ValueError for fewer than two
    prompts.
    """

    def digest(row: T) -> str:
        return hashlib.sha256(
            chat.before_first_answer(row[0]).encode("utf-8", "surrogatepass")
        ).hexdigest()

    digests = [digest(row) for row in rows]
    counts = sorted(Counter(digests).items())
    if len(counts) < 2:
        raise ValueError(
            f"the file has {len(counts)} different prompt; at least 2 are needed, one to hold out"
        )
    held_out: set[str] = set()
    total, wanted = 0, held_out_rows(len(rows))
    for prompt, n in counts[:-1]:
        if total >= wanted:
            break
        held_out.add(prompt)
        total += n
    parts: tuple[list[T], list[T]] = ([], [])
    for row, prompt in zip(rows, digests, strict=True):
        parts[prompt in held_out].append(row)
    return parts


def split_held_out(
    rows: Sequence[T],
    held_out: Sequence[T],
    *,
    left_out: LeftOut | None = None,
    chat: ChatTemplate = OWN_CHAT,
) -> tuple[list[T], list[T]]:
    """Return training and held-out rows; without `held_out` rows, hold out a share of the prompts.

    rows: with the prompt first
    held_out: rows of a file of their own
    left_out: where training rows with a held-out prompt are counted
    chat: whose dialogues they are

    ValueError where no training row remains.
    """
    if not held_out:
        return split(rows, chat=chat)
    before = chat.before_first_answer
    held_out_prompts = {before(row[0]) for row in held_out}
    train = [row for row in rows if before(row[0]) not in held_out_prompts]
    if not train:
        raise ValueError("every training prompt is a held-out one too; give other rows to train on")
    if left_out is not None:
        left_out.add("repeated", len(rows) - len(train))
    return train, list(held_out)


def encode_all(vocabulary: Vocabulary, pairs: Sequence[Pair]) -> list[Example]:
    """Return pairs as token ids, in order."""
    prompts = vocabulary.encode_prompts([p.prompt for p in pairs])
    completions = vocabulary.encode_completions([p.completion for p in pairs])
    return [Example(p, c) for p, c in zip(prompts, completions, strict=True)]


def shorten(example: Example, context: int, *, part: str, keep: int) -> Example:
    """Return a pair that fits the context, where cutting one side of it can make it fit.

    example: the pair
    context: the longest pair, in tokens
    part: `prompt` loses its first tokens, `completion` its last ones and so its end
    keep: fewest tokens of a prompt that is cut; a completion keeps one
    """
    prompt, completion = example
    excess = len(prompt) + len(completion) - context
    if excess <= 0:
        return example
    if part == "prompt" and len(prompt) - excess >= keep:
        return Example(prompt[excess:], completion)
    if part == "completion" and len(completion) - excess >= 1:
        return Example(prompt, completion[:-excess])
    return example


def encode(
    vocabulary: Vocabulary,
    pairs: Sequence[Pair],
    *,
    context: int,
    longest: int = 0,
    truncate: str = "",
    may_cut: bool = False,
    what: str = "data",
    longer: str = "a longer data.context",
    left_out: LeftOut | None = None,
) -> list[tuple[str, Example]]:
    """Return (prompt as text, token ids) of pairs, without those that are too long.

    vocabulary: of the model
    pairs: as text
    context: the longest pair, in tokens
    longest: the longest completion, in tokens; 0 is the context
    truncate: what a pair that is too long loses instead (sft.truncate); empty for nothing
    may_cut: whether the pairs are those of a file, which sft.truncate may cut
    what: the data, for messages
    longer: how the context becomes longer, for messages
    left_out: where pairs that are too long are counted

    ValueError when no pair remains.
    """
    examples = encode_all(vocabulary, pairs)
    if truncate:
        keep = 1 + len(vocabulary.special.separator)
        examples = [shorten(e, context, part=truncate, keep=keep) for e in examples]
    room, left_out = longest or context, LeftOut() if left_out is None else left_out
    needs = [
        max(len(e.prompt) + len(e.completion), -(-len(e.completion) * context // room))
        for e in examples
    ]
    fitting = [
        (pair.prompt, example)
        for pair, example, need in zip(pairs, examples, needs, strict=True)
        if need <= context
    ]
    left_out.add("too_long", len(examples) - len(fitting))
    left_out.longest = max([left_out.longest, *needs])
    if not fitting:
        cut = {"": "prompt or completion", "prompt": "completion", "completion": "prompt"}[truncate]
        cuts = f", or set sft.truncate={cut} to cut them" if may_cut else ""
        raise ValueError(
            f"no pair of {what} fits the context of {context} tokens "
            f"(the shortest of {len(examples)} needs {min(needs, default=0)}); "
            f"set {longer} or give shorter pairs{cuts}"
        )
    return fitting
