"""Read files of other versions: one rule for records, laws, plans, jobs and forecasts.

A dataclass describes the file. A field that was added later has a default: a file without the field
is read, and the default means "not recorded". A field that this version does not know is left out
of a result and named once in the log: the other measurements stay true, and no reader writes a
result again. Among settings it is refused, because its request would silently be ignored. A change
of the meaning of a field raises the file's `schema` number; a file with a higher number than the
reader's is refused.
"""

import dataclasses
import functools
import logging
import math
import types
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

T = TypeVar("T")
log = logging.getLogger(__name__)
UPGRADE = "upgrade with git pull in the checkout, or pip install --upgrade scaling-laws"
WORDS = {int: "whole number", float: "finite number", str: "text", bool: "true or false"}


def read_as(
    kind: type[T],
    values: Any,
    *,
    source: str | Path,
    noun: str,
    fix: str,
    schema: int = 1,
    settings: bool = False,
) -> T:
    """Build the dataclass `kind` from a file's values, or raise ValueError with one sentence.

    source: the file, as the sentence names it
    noun: what the file holds, as `record`
    fix: what to do about a damaged one, as `train the cell again`
    schema: the highest schema number that this version reads
    settings: whether an unknown field is refused instead of left out
    """
    check_schema(values, source=source, noun=noun, fix=fix, schema=schema)
    fields = {k: v for k, v in values.items() if k != "schema"}
    try:
        return _build(kind, fields, noun=noun, settings=settings)
    except _Unfit as error:
        raise ValueError(f"{source}: {error}; {fix}") from None
    except ValueError as error:  # raised by the dataclass' own check
        raise ValueError(f"{source}: {error}") from error


def check_schema(values: Any, *, source: str | Path, noun: str, fix: str, schema: int = 1) -> None:
    """Raise ValueError for a value that is no object, LaterVersion for one of a later version.

    The arguments are those of `read_as`.
    """
    if not isinstance(values, dict):
        raise ValueError(f"{source} is no {noun} (it holds {_shown(values)}, not fields); {fix}")
    number = values.get("schema", 1)
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise ValueError(f"{source}: schema={number!r} is no schema number of a {noun}; {fix}")
    if number > schema:
        raise LaterVersion(
            f"{source} has schema {number}: a later version wrote it, this one reads a {noun} up"
            f" to schema {schema}; {UPGRADE}"
        )


class LaterVersion(ValueError):
    """A later version wrote the file: it is not damaged, and nothing may take its place."""


class _Unfit(ValueError):
    """A field is missing, unknown or of another type; the message names it."""


def _build(kind: type[T], values: dict[str, Any], *, noun: str, settings: bool) -> T:
    readers, needed = _readers(kind)
    if unknown := sorted(str(name) for name in values if name not in readers):
        if settings:
            raise _Unfit(
                f"{noun} has {', '.join(unknown)}, which this version does not know ({UPGRADE})"
            )
        _log_unknown(noun, tuple(unknown))
    if missing := [name for name in needed if name not in values]:
        raise _Unfit(f"the {noun} has no {', '.join(missing)}")
    how = {"noun": noun, "settings": settings}
    arguments = {
        name: read(values[name], name, how) for name, read in readers.items() if name in values
    }
    return kind(**arguments)


# Returns a value that fits a type; it takes the value, the field's name, and noun and settings.
Reader = Callable[[Any, str, Mapping[str, Any]], Any]


@functools.cache
def _readers(kind: type) -> tuple[dict[str, Reader], tuple[str, ...]]:
    """Return a reader for each field of a dataclass, and the names without a default, sorted.

    They are made once: thousands of records are read for a status or a report.
    """
    hints = get_type_hints(kind)
    fields = [f for f in dataclasses.fields(kind) if f.init]
    blank = (dataclasses.MISSING, dataclasses.MISSING)
    needed = sorted(f.name for f in fields if (f.default, f.default_factory) == blank)
    return {f.name: _reader(hints[f.name]) for f in fields}, tuple(needed)


@functools.cache
def _log_unknown(noun: str, names: tuple[str, ...]) -> None:
    log.info("a later version's %s: %s is not known here and left out", noun, ", ".join(names))


def _reader(hint: Any) -> Reader:
    """Return what reads a value of a type, nested dataclasses too; _Unfit names the field."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (types.UnionType, Union):
        read = _reader(next(a for a in args if a is not type(None)))
        if type(None) not in args:
            return read
        return lambda value, name, how: None if value is None else read(value, name, how)
    if dataclasses.is_dataclass(hint):
        return functools.partial(_nested, cast(type, hint))
    if hint in WORDS:
        return functools.partial(_plain, hint)
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return lambda value, name, how: _word(_plain(str, value, name, how), hint)
    if hint is list or origin is list:
        each = _reader((args or (Any,))[0])
        return lambda value, name, how: [each(v, name, how) for v in _expect(list, value, name)]
    if origin is tuple:
        each = _reader(args[0])
        return lambda value, name, how: tuple(
            each(v, name, how) for v in _expect(list, value, name)
        )
    if hint is dict or origin is dict:
        inner = args[1] if args else Any
        if inner is Any:
            return lambda value, name, how: dict(_expect(dict, value, name))
        each = _reader(inner)
        return lambda value, name, how: {
            k: each(v, f"{name}.{k}", how) for k, v in _expect(dict, value, name).items()
        }
    return lambda value, name, how: value


def _nested(kind: type, value: Any, name: str, how: Mapping[str, Any]) -> Any:
    if not isinstance(value, dict):
        raise _Unfit(f"{name} holds {_shown(value)}, not fields")
    return _build(kind, value, **{**how, "noun": f"{how['noun']}'s {name}"})


def _word(text: str, kind: type[StrEnum]) -> str:
    """Return the member of an enumeration; a word that it lacks, of a later version, stays text."""
    return kind(text) if text in tuple(kind) else text


def _plain(hint: type, value: Any, name: str, how: Mapping[str, Any]) -> Any:
    if type(value) is hint and (hint is not float or math.isfinite(value)):
        return value
    if hint is int and isinstance(value, float) and value.is_integer():
        return int(value)
    fits = {
        int: isinstance(value, int) and not isinstance(value, bool),
        float: isinstance(value, (int, float)) and not isinstance(value, bool) and _finite(value),
        str: isinstance(value, str),
        bool: isinstance(value, bool),
    }
    if not fits[hint]:
        raise _Unfit(f"{name} is {_shown(value)}, no {WORDS[hint]}")
    return value  # as it is written: a whole budget read as 2048.0 would make another cell


def _finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond any float
        return False


def _expect(kind: type, value: Any, name: str) -> Any:
    if not isinstance(value, kind):
        raise _Unfit(f"{name} is {_shown(value)}, no {'list' if kind is list else 'object'}")
    return value


def _shown(value: Any) -> str:
    text = {True: "true", False: "false", None: "null"}.get(value) if _is_word(value) else None
    text = text or (f"a list of {len(value)}" if isinstance(value, list) else repr(value))
    return text if len(text) <= 60 else f"{text[:57]}..."


def _is_word(value: Any) -> bool:
    return value is None or isinstance(value, bool)
