"""Legal values of settings, as annotations of a config's fields, checked by one function.

    @dataclass(kw_only=True)
    @checked("model")                          # below `dataclass`, which must see its __post_init__
    class ModelConfig:
        n_layer: Annotated[int, Range(1, 1000)] = 2
        peak_lr: Annotated[float, Range(0, 100, note="0 follows the rule")] = 0.0
        mlp: Annotated[str, OneOf("swiglu", "gelu")] = "swiglu"

A range refuses NaN and infinity too, since every range ends at a number. A choice stays plain text
and is no enum, so that recorded configs and the ids of cells hold the word itself.
"""

import difflib
import functools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import MISSING, Field, dataclass, fields
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T")
LIKE = 0.6  # difflib's similarity from which a known word is proposed for an unknown one


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
        """Say the range in words, its note included."""
        return self.words() + (f" ({self.note})" if self.note else "")

    def words(self, noun: str = "a number") -> str:
        """Say the range in words, without its note."""
        if self.least == self.most:
            return _text(self.least)
        least, most = _text(self.least), _text(self.most)
        text = f"{noun} from {least} to {most}"
        if self.above or self.below:
            low = f"above {least}" if self.above else f"of at least {least}"
            text = f"{noun} {low} and {'below' if self.below else 'at most'} {most}"
        return "".join([text, *(f", or {_text(value)}" for value in self.also)])

    def refusal(self, name: str, value: Any, whole: Any = None) -> str:
        """Say in one sentence that a value is out of range; `whole` is the list it is in."""
        return f"{_named(name, value, whole)} is out of range; set {self}"


class OneOf:
    """The legal values of a text; an empty one among them means that nothing is chosen."""

    def __init__(self, *values: str) -> None:
        self.values = values

    def holds(self, value: Any) -> bool:
        """Say whether a value is legal."""
        return value in self.values

    def __str__(self) -> str:
        """List the values that are not empty."""
        return ", ".join(value for value in self.values if value)

    def refusal(self, name: str, value: Any, whole: Any = None) -> str:
        """Say in one sentence that a value is none of the choices; `whole` is the list it is in."""
        hint = did_you_mean(str(value), self.values)
        return f"{_named(name, value, whole)} is unknown{hint}; choose one of {self}"


def did_you_mean(value: str, choices: Iterable[str]) -> str:
    """Return `, did you mean x?` for the choice nearest to a value, nothing where none is near."""
    close = difflib.get_close_matches(value, list(choices), n=1, cutoff=LIKE)
    return f", did you mean {close[0]}?" if close else ""


def checked(prefix: str = "") -> Callable[[type[T]], type[T]]:
    """Let a config's `__post_init__` check its annotated fields, before what it checks itself.

    `prefix` is the config's own name in the command, as `model`.
    """

    def decorated(config: type[T]) -> type[T]:
        own: Callable[[Any], None] | None = vars(config).get("__post_init__")

        def __post_init__(self: Any) -> None:
            check_settings(self, prefix)
            if own:
                own(self)

        config.__post_init__ = __post_init__  # type: ignore[attr-defined]
        return config

    return decorated


def check_settings(config: Any, prefix: str = "") -> None:
    """Raise a ValueError for the first field with an illegal value: what, the value, what is legal.

    `prefix` is the config's own name in the command, as `model`.
    """
    for field, limit in limits_of(type(config)).items():
        value = getattr(config, field)
        for part in _parts(value):
            if part is None or limit.holds(part):
                continue
            name = f"{prefix}.{field}" if prefix else field
            whole = None if part is value else value
            raise ValueError(limit.refusal(name, part, whole) + _usual(type(config), field, limit))


@functools.cache
def limits_of(config: type) -> dict[str, Range | OneOf]:
    """Return the range or the choices of each field of a dataclass that has one."""
    hints = get_type_hints(config, include_extras=True)
    limits = {}
    for field in fields(config):
        extras = [e for _, extras in _kinds(hints[field.name]) for e in extras]
        for limit in (e for e in extras if isinstance(e, Range | OneOf)):
            limits[field.name] = limit
    return limits


def ranges_of(config: type) -> dict[str, Range]:
    """Return the range of each numeric field of a dataclass that has one."""
    return {name: r for name, r in limits_of(config).items() if isinstance(r, Range)}


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


def _parts(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list | tuple) else [value]


def _named(name: str, value: Any, whole: Any) -> str:
    return f"{name}={value!r}" if whole is None else f"{name}={whole!r} holds {value!r}, which"


def _usual(config: type, name: str, limit: Range | OneOf) -> str:
    if isinstance(limit, OneOf) or limit.least == limit.most:
        return ""
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
