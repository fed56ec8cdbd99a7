"""Ranges of numeric settings, as annotations of a config's fields, checked by one function.

    n_layer: Annotated[int, Range(1, 1000)] = 2
    peak_lr: Annotated[float, Range(0, 100, note="0 follows the rule")] = 0.0

A range refuses NaN and infinity too, since every range ends at a number.
"""

import functools
import math
from collections.abc import Iterable, Iterator
from dataclasses import MISSING, Field, dataclass, fields
from typing import Annotated, Any, get_args, get_origin, get_type_hints


@dataclass(frozen=True)
class Range:
    """The legal values of a number, both ends included.

    least, most: the ends
    above, below: leave out the least, or the most
    also: single values outside the ends that mean something
    note: what the `also` or the least means, for the sentence of a refusal
    """

    least: float
    most: float
    above: bool = False
    below: bool = False
    also: tuple[float, ...] = ()
    note: str = ""

    def holds(self, value: Any) -> bool:
        """Say whether a value is legal."""
        if not isinstance(value, int | float):
            return False
        low = self.least < value if self.above else self.least <= value
        high = value < self.most if self.below else value <= self.most
        return (low and high) or value in self.also

    def __str__(self) -> str:
        """Return the range in words."""
        if self.least == self.most:
            return _text(self.least) + (f" ({self.note})" if self.note else "")
        least, most = _text(self.least), _text(self.most)
        words = f"a number from {least} to {most}"
        if self.above or self.below:
            low = f"above {least}" if self.above else f"of at least {least}"
            words = f"a number {low} and {'below' if self.below else 'at most'} {most}"
        for value in self.also:
            words += f", or {_text(value)}"
        return words + (f" ({self.note})" if self.note else "")


def check_ranges(config: Any, prefix: str = "") -> None:
    """Raise a ValueError for the first field outside its range: what, the value, what is legal.

    `prefix` is the config's own name in the command, as `model`.
    """
    for field, limit in ranges_of(type(config)).items():
        value = getattr(config, field)
        for number in _numbers(value):
            if number is None or limit.holds(number):
                continue
            name = f"{prefix}.{field}" if prefix else field
            shown = f"{value!r} holds {number!r}, which" if number is not value else f"{value!r}"
            usual = "" if limit.least == limit.most else _usual(type(config), field)
            raise ValueError(f"{name}={shown} is out of range; set {limit}{usual}")


@functools.cache
def ranges_of(config: type) -> dict[str, Range]:
    """Return the range of each field of a dataclass that has one."""
    hints = get_type_hints(config, include_extras=True)
    ranges = {}
    for field in fields(config):
        limits = [a for kind in _kinds(hints[field.name]) for a in kind[1] if isinstance(a, Range)]
        if limits:
            ranges[field.name] = limits[0]
    return ranges


def numeric_fields(config: type) -> list[str]:
    """Return the fields of a dataclass that hold numbers, lists of numbers included."""
    hints = get_type_hints(config, include_extras=True)
    return [
        f.name
        for f in fields(config)
        if any(kind in (int, float) for kind, _ in _kinds(hints[f.name]))
    ]


def _kinds(hint: Any) -> Iterator[tuple[Any, tuple[Any, ...]]]:
    """Yield every plain type within a type hint, with its annotations."""
    if get_origin(hint) is Annotated:
        inner, *extras = get_args(hint)
        for kind, more in _kinds(inner):
            yield kind, (*more, *extras)
    elif get_args(hint):
        for part in get_args(hint):
            yield from _kinds(part)
    else:
        yield hint, ()


def _numbers(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list | tuple) else [value]


def _usual(config: type, name: str) -> str:
    field: Field[Any] = next(f for f in fields(config) if f.name == name)
    if field.default is MISSING or field.default is None:
        return ""
    return f"; the default is {_text(field.default)}"


def _text(value: float) -> str:
    """Write a number as it can be typed, small whole ones in full."""
    most = 1e12 if isinstance(value, int) else 1e6
    whole = math.isfinite(value) and value == int(value) and abs(value) < most
    return str(int(value)) if whole else f"{value:g}"


# The ends of ranges lie far beyond any real use: they refuse what no machine could hold.
MOST = 1e35  # For numbers without a natural end.
MOST_FLOPS = 1e35  # Three million years of a machine of 1e21 FLOP/s, the largest of 2025.
MOST_RESAMPLES = 20_000  # A page holds a law's draws at each point of each curve: 0.4 GB.
FLOPS = Range(0, MOST_FLOPS)
LEVEL = Range(0, 1, above=True, below=True)  # The probability of an interval.
Seed = Annotated[int, Range(0, 2**32 - 1)]
