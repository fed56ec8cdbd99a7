"""Checks that settings of every command share, before anything is read."""

import difflib
import math
from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any


def check_finite(config: Any) -> None:
    """Refuse a number among a config's settings that is infinite or not a number."""
    for key, value in _numbers(config, ""):
        if not math.isfinite(value):
            raise ValueError(f"{key}={value} is no finite number; give one, or leave {key} out")


def check_least(least: float, **settings: float) -> None:
    """Refuse settings below `least`."""
    for key, value in settings.items():
        if not value >= least:
            raise ValueError(f"{key}={value} is below {least:g}; give {least:g} or more")


def check_choice_of(key: str, value: str, choices: Iterable[str]) -> None:
    """Refuse a value that is none of the choices, naming the nearest first."""
    choices = list(choices)
    if value not in choices:
        raise ValueError(
            f"{key}={value} is not known{did_you_mean(value, choices)}; choose one of "
            f"{', '.join(choices)}"
        )


def wrote(paths: Iterable[Path], *, here: bool) -> str:
    """Return a line for each file that was written; `here`: nobody said where to."""
    where = f" in the current folder {Path.cwd()}; out=FILE writes elsewhere" if here else ""
    return "\n".join(f"wrote {path}{where}" for path in paths)


def did_you_mean(value: str, choices: Iterable[str]) -> str:
    """Return `, did you mean x?` for the choice nearest to a value, nothing where none is near."""
    close = difflib.get_close_matches(value, list(choices), n=1, cutoff=0.6)
    return f", did you mean {close[0]}?" if close else ""


def _numbers(value: Any, key: str) -> Iterator[tuple[str, float]]:
    """Yield every number of a config with its dotted key."""
    if is_dataclass(value) and not isinstance(value, type):
        for f in fields(value):
            yield from _numbers(getattr(value, f.name), f"{key}.{f.name}" if key else f.name)
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from _numbers(item, f"{key}.{name}")
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _numbers(item, key)
    elif isinstance(value, float):
        yield key, value
