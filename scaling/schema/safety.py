"""What is checked before a file of somebody else is read, or one of ours is written.

A study, plan, law or table may come from anybody. Its names stay inside the runs folder, what is
read is a regular file of a bounded size, what is written replaces a regular file alone, and a plan
or record holds values: nothing in it names a variable of the environment or is run.
"""

import errno
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MOST_TEXT_BYTES = 64 << 20  # of one JSON or YAML file: a law of 20,000 draws takes 4 MB
LONGEST_NAME = 200  # bytes of a study's name; file systems end at 255, and we append to it
OF_RUNS = ("forecasts.jsonl", "wandb")  # names that the runs folder holds beside studies
# Settings whose values are run: commands, and functions named by their module (DESIGN section 5).
RUN_CODE = (
    "trainer.command",
    "reward.function",
    "hydra.launcher.setup",
    "hydra.launcher.container",
)
_RUN_CODE = re.compile(rf"(^|\.)({'|'.join(map(re.escape, RUN_CODE))})($|[.\[])")


def check_study(name: str, setting: str = "study") -> str:
    """Return a study's name; ValueError where it is not the name of one folder of `runs`."""
    why = ""
    if not name.strip():
        why = "is empty"
    elif name in (".", "..") or "/" in name or "\\" in name:
        why = "is a path"
    elif name.startswith(".") or name in OF_RUNS:
        why = "is a name that the runs folder uses itself"
    elif name != name.strip() or not name.isprintable():
        why = "has blanks at its ends, or characters that do not print"
    elif len(name.encode("utf-8", "replace")) > LONGEST_NAME:
        why = f"is longer than {LONGEST_NAME} bytes"
    if why:
        raise ValueError(
            f"{setting}={name!r} {why}; give the name of one folder, as study=quick, and the "
            "folder that holds it by runs="
        )
    return name


def check_folder(field: str, name: str) -> None:
    """Refuse a cell's name, read from a file, that is not the name of one folder of the study."""
    if name in ("", ".", "..") or "/" in name or not name.isprintable():
        raise ValueError(f"{field} holds {name!r}, which is no folder of the study")


def destination(path: str | Path) -> Path:
    """Return the file that writing to `path` replaces: a link is followed.

    Raises ValueError for a folder, a device or another thing that is no regular file.
    """
    path = Path(path)
    try:
        real = path.resolve()
        if real.is_dir():
            raise ValueError(f"{path} is a folder; name a file, as {path / 'out.json'}")
        if real.exists() and not real.is_file():
            raise ValueError(f"{path} is a device or pipe, no regular file; name a file")
    except (OSError, RuntimeError) as error:  # a loop of links; a name that is too long
        raise ValueError(f"{path} cannot be written ({_why(error)}); name another file") from error
    return real


def readable(path: str | Path, *, most_bytes: int = MOST_TEXT_BYTES) -> Path:
    """Return `path` if it is a regular file of at most `most_bytes`.

    Raises FileNotFoundError for none, ValueError for a folder, a device or a larger file.
    """
    path = Path(path)
    try:
        missing = not path.exists()
        regular, size = (False, 0) if missing else (path.is_file(), path.stat().st_size)
    except PermissionError:
        raise
    except (OSError, ValueError) as error:  # a name that is too long, or holds a NUL
        raise FileNotFoundError(f"no file {str(path)[:LONGEST_NAME]!r} ({_why(error)})") from error
    if missing:
        raise FileNotFoundError(f"no file {path}; check the path")
    if not regular:
        what = "a folder" if path.is_dir() else "a device or pipe"
        raise ValueError(f"{path} is {what}, no regular file; name a file")
    if size > most_bytes:
        raise ValueError(
            f"{path} has {size / 2**20:,.0f} MiB; at most {most_bytes / 2**20:,.0f} are read"
        )
    return path


def listable(folder: Path) -> Path:
    """Return a folder; PermissionError where its files may not be listed, which `glob` hides."""
    if folder.is_dir() and not os.access(folder, os.R_OK | os.X_OK, effective_ids=True):
        raise PermissionError(errno.EACCES, "permission denied", str(folder))
    return folder


def refuse_code(values: Any, path: str | Path) -> None:
    """Refuse values of a plan, record or law that would be resolved or run.

    `${...}` reads the environment and other files; RUN_CODE are commands. Raises ValueError with
    the words to add to the command, where the user wants the value.
    """
    for key, value in _leaves(values):
        for text in (key, value):
            if isinstance(text, str) and "${" in text:
                raise ValueError(
                    f"{path}: {_shown(key)}={_shown(value)} holds an interpolation, which is not "
                    "followed in a file; write the value itself"
                )
        if value not in (None, "") and _RUN_CODE.search(key):
            raise ValueError(
                f"{path} holds {_shown(key)}, whose value is run; it is not taken from a file. If "
                f"you want it, look at it and add {_shown(key)}=... to the command"
            )


def finite(values: Any, path: str | Path) -> None:
    """Refuse a NaN or an infinity among the numbers of a file."""
    for key, value in _leaves(values):
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{path}: {_shown(key)} is {value}, no finite number; write it again")


def _leaves(values: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every value that is no mapping or list, with its dotted key."""
    pairs: Any = ()
    if isinstance(values, dict):
        pairs = ((f"{prefix}.{k}" if prefix else str(k), v) for k, v in values.items())
    elif isinstance(values, list | tuple):
        pairs = ((f"{prefix}[{i}]", v) for i, v in enumerate(values))
    else:
        yield prefix, values
    for key, value in pairs:
        yield from _leaves(value, key)


def _shown(value: Any) -> str:
    return re.sub(r"\s+", " ", str(value))[:80]


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
