"""Checks that settings of every command share, before anything is read."""

from collections.abc import Iterable
from pathlib import Path

from scaling.schema import OneOf, did_you_mean

__all__ = ["check_choice_of", "did_you_mean", "wrote"]


def check_choice_of(key: str, value: str, choices: Iterable[str]) -> None:
    """Refuse a value that is none of the choices, naming the nearest first."""
    legal = OneOf(*choices)
    if not legal.holds(value):
        raise ValueError(legal.refusal(key, value))


def wrote(paths: Iterable[Path], *, here: bool) -> str:
    """Return a line for each file that was written; `here`: nobody said where to."""
    lines = [f"wrote {path}" for path in paths]
    if here:
        lines.append(f"in the current folder (out=FILE writes elsewhere): {Path.cwd()}")
    return "\n".join(lines)
