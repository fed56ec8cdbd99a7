"""Text and numbers in rows of other people's files: which values count as missing, which raise.

null, NaN and a missing key mean that there is no text: readers leave the row out and count it
(`LeftOut`). A number, a list or an object in the place of text raises ValueError with file and
line. Half of a surrogate pair, which JSON writes as \\ud83d and no tokenizer takes, becomes a
question mark.
"""

import math
import re
from collections import Counter
from typing import Any

REASONS = {  # Why a row is left out: the key of the count in a record, and the words for people.
    "null": "without text (null or missing)",
    "empty": "empty",
    "too_long": "too long",
    "tied": "tied",
    "repeated": "repeated",
    "unscored": "without a score (null)",
}
WHOLE = re.compile(r"\s*[+-]?[0-9]{1,18}\s*")


class NoText(ValueError):
    """A row has no text in the place of text; the message says where."""


class LeftOut:
    """Rows that were left out, counted by reason; `longest` is the longest row's need (tokens)."""

    def __init__(self, **counts: int) -> None:
        self.counts: Counter[str] = Counter(counts)
        self.longest = 0

    def add(self, reason: str, n: int = 1) -> None:
        """Count `n` more for one of the REASONS."""
        assert reason in REASONS
        self.counts[reason] += n

    def as_dict(self) -> dict[str, int]:
        """Return the counts that are not 0, as a record holds them."""
        return {reason: self.counts[reason] for reason in REASONS if self.counts[reason]}

    def in_words(self, **more: str) -> str:
        """Return the counts in words, each followed by the text in `more` for its reason."""
        return ", ".join(
            f"{n:,} {REASONS[reason]}" + (f" ({more[reason]})" if more.get(reason) else "")
            for reason, n in self.as_dict().items()
        )


def clean(text: str) -> str:
    """Return the text with halves of surrogate pairs, which UTF-8 lacks, as question marks."""
    if text.isascii():
        return text
    return text.encode("utf-8", "replace").decode()


def is_none(value: Any) -> bool:
    """Say whether a value means "missing": null or NaN."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def text_of(value: Any, what: str, where: str) -> str:
    """Return a value that is text; NoText for null or NaN, ValueError for anything else."""
    if isinstance(value, str):
        return clean(value)
    if is_none(value):
        raise NoText(f"{where} has no {what} (null or missing); give text or take the row out")
    raise ValueError(f"{where}: {what} is {describe(value)}, not text; give a string (or null)")


def text_in(row: dict[str, Any], key: str, where: str) -> str:
    """Return the text under a key, as `text_of` does; NoText for a missing key too."""
    return text_of(row.get(key), key, where)


def number_of(value: Any, what: str, where: str) -> float | None:
    """Return a finite number, None for null or NaN; ValueError for anything else."""
    if is_none(value):
        return None
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            number = float(value)
        except (ValueError, OverflowError):
            number = math.inf
        if math.isfinite(number):
            return number
    raise ValueError(
        f"{where}: {what} is {describe(value)}; give a finite number, or null for none"
    )


def label_of(value: Any, what: str, where: str) -> int:
    """Return a whole number, also one written as "0" or 0.0; ValueError for anything else."""
    if isinstance(value, str) and WHOLE.fullmatch(value):
        return int(value)
    if isinstance(value, int | float) and not isinstance(value, bool) and value % 1 == 0:
        return int(value)
    raise ValueError(f"{where}: {what} is {describe(value)}; give the number of the right choice")


def describe(value: Any) -> str:
    """Return a short description of a value for a message."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return "a list"
    if isinstance(value, dict):
        return "an object"
    text = repr(value)
    text = text if len(text) <= 40 else f"{text[:40]}..."
    return f"the number {text}" if isinstance(value, int | float) else text
