"""The closing line of a command: which command follows it."""

import shlex
from os import PathLike

from scaling.app.quoting import override


def next_command(command: str, *words: str, **settings: str | float | PathLike[str]) -> str:
    """Return `Next: scaling fit runs=runs/books form=all`, which can be pasted into bash.

    command: the word after `scaling`
    words: arguments without a key, as runs/books of `scaling status`
    settings: key and value of each setting, in the order in which they are shown; a number is
        rounded to four digits
    """
    shown = [shlex.quote(word) for word in words]
    for key, value in settings.items():
        is_number = isinstance(value, float)
        number = f"{value:.4g}".replace("e+", "e") if is_number else ""
        shown.append(f"{key}={number}" if is_number else override(key, str(value)))
    return f"Next: {' '.join(['scaling', command, *shown])}"
