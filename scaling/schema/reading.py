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
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

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
    fields = {f.name: f for f in dataclasses.fields(kind) if f.init}  # type: ignore[arg-type]
    unknown = sorted(set(map(str, values)) - fields.keys())
    if unknown and settings:
        raise _Unfit(
            f"{noun} has {', '.join(unknown)}, which this version does not know ({UPGRADE})"
        )
    if unknown:
        _log_unknown(noun, tuple(unknown))
    blank = (dataclasses.MISSING, dataclasses.MISSING)
    needed = {n for n, f in fields.items() if (f.default, f.default_factory) == blank}
    if missing := sorted(needed - values.keys()):
        raise _Unfit(f"the {noun} has no {', '.join(missing)}")
    hints = _hints(kind)
    arguments = {
        name: _fit(values[name], hints[name], name, noun=noun, settings=settings)
        for name in fields
        if name in values
    }
    return kind(**arguments)


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


@functools.cache
def _log_unknown(noun: str, names: tuple[str, ...]) -> None:
    log.info("a later version's %s: %s is not known here and left out", noun, ", ".join(names))


def _fit(value: Any, hint: Any, name: str, **how: Any) -> Any:
    """Return a value that fits its type, nested dataclasses built; _Unfit names the field."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (types.UnionType, Union):
        if value is None and type(None) in args:
            return None
        hint = next(a for a in args if a is not type(None))
        return _fit(value, hint, name, **how)
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise _Unfit(f"{name} holds {_shown(value)}, not fields")
        return _build(hint, value, **{**how, "noun": f"{how['noun']}'s {name}"})  # type: ignore[arg-type]
    if hint in WORDS:
        return _plain(value, hint, name)
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return _word(_plain(value, str, name), hint)
    if hint is list or origin is list:
        return [_fit(v, (args or (Any,))[0], name, **how) for v in _expect(list, value, name)]
    if origin is tuple:
        return tuple(_fit(v, args[0], name, **how) for v in _expect(list, value, name))
    if hint is dict or origin is dict:
        inner = args[1] if args else Any
        return {
            k: _fit(v, inner, f"{name}.{k}", **how) for k, v in _expect(dict, value, name).items()
        }
    return value


def _word(text: str, kind: type[StrEnum]) -> str:
    """Return the member of an enumeration; a word that it lacks, of a later version, stays text."""
    return kind(text) if text in tuple(kind) else text


def _plain(value: Any, hint: type, name: str) -> Any:
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
