"""Files that a crash, a full disk or a hand has damaged: how they are told, and put aside.

What is damaged is renamed, never removed: `record.json` becomes `record.damaged-1.json`. Only the
process that holds the work renames; readers say what they leave out and go on.
"""

import functools
import itertools
import json
import logging
import types
import typing
from contextlib import suppress
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, TypeVar

log = logging.getLogger(__name__)
T = TypeVar("T")


def set_aside(path: str | Path, why: str) -> Path:
    """Rename a damaged file or folder to `<stem>.damaged-N<suffix>`, and say so in one line.

    N is the first that is free. One that another process has just put aside is no error.
    """
    path = Path(path)
    names = (f"{path.stem}.damaged-{n}{path.suffix}" for n in itertools.count(1))
    target = next(t for t in map(path.with_name, names) if not t.exists())
    with suppress(FileNotFoundError):
        path.rename(target)
        log.warning("%s is damaged and set aside as %s: %s", path, target.name, why)
    return target


def built(kind: type[T], text: str | bytes) -> T:
    """Return a flat dataclass of the JSON object in `text`, later versions' fields left out.

    ValueError where it is no JSON object, lacks a field, or has a value of another type.
    """
    return built_of(kind, json.loads(text))


def built_of(kind: type[T], values: Any) -> T:
    """Return a flat dataclass of plain values, as `built` does."""
    if not isinstance(values, dict):
        raise ValueError(f"it holds {type(values).__name__}, not an object")
    hints, needed = _shape(kind)
    known = {k: v for k, v in values.items() if k in hints}
    if missing := sorted(needed - known.keys()):
        raise ValueError(f"it lacks {', '.join(missing)}")
    for name, value in known.items():
        if not _is(value, hints[name]):
            raise ValueError(f"its {name} is {value!r}")
    return kind(**known)


@functools.cache
def _shape(kind: type) -> tuple[dict[str, Any], frozenset[str]]:
    """Return the types of a dataclass' fields, and the names of those without a default."""
    hints = typing.get_type_hints(kind)
    own = fields(kind)
    needed = {f.name for f in own if f.default is MISSING and f.default_factory is MISSING}
    return {f.name: hints[f.name] for f in own}, frozenset(needed)


def _is(value: Any, hint: Any) -> bool:
    if isinstance(hint, types.UnionType):
        return any(_is(value, h) for h in typing.get_args(hint))
    if typing.get_origin(hint) is list:
        (item,) = typing.get_args(hint)
        return isinstance(value, list) and all(_is(v, item) for v in value)
    if isinstance(value, bool):
        return hint is bool
    return isinstance(value, (int, float) if hint is float else hint)
