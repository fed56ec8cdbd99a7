"""Checks that settings of every command share, before anything is read."""

import difflib
from collections.abc import Iterable
from pathlib import Path


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
    lines = [f"wrote {path}" for path in paths]
    if here:
        lines.append(f"in the current folder (out=FILE writes elsewhere): {Path.cwd()}")
    return "\n".join(lines)


def did_you_mean(value: str, choices: Iterable[str]) -> str:
    """Return `, did you mean x?` for the choice nearest to a value, nothing where none is near."""
    close = difflib.get_close_matches(value, list(choices), n=1, cutoff=0.6)
    return f", did you mean {close[0]}?" if close else ""
