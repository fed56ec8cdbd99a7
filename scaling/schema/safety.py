"""Checks before a file is read or written: a study, plan, law or table may come from anybody.

Names stay inside the runs folder. Only regular files of a bounded size are read, and only regular
files are replaced. A plan or record holds values alone: nothing in it may name a variable of the
environment or be run.
"""

import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MOST_TEXT_BYTES = (
    64 << 20
)  # The largest JSON or YAML file, in bytes: a law of 20,000 draws has 4 MB.
LONGEST_NAME = 200  # Bytes of a study's name: file systems allow 255, and suffixes are appended.
OF_RUNS = ("forecasts.jsonl", "wandb")  # The runs folder holds these beside studies.
# Settings whose values are run: commands, and functions named by their module.
RUN_CODE = (
    "trainer.command",
    "reward.function",
    "hydra.launcher.setup",
    "hydra.launcher.container",
)
_RUN_CODE = re.compile(rf"(^|\.)({'|'.join(map(re.escape, RUN_CODE))})($|[.\[])")


def check_study(name: str, setting: str = "study") -> str:
    """Return a study's name; ValueError where it cannot be the name of one folder of `runs`."""
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
    """Raise ValueError for a cell's name, from a file, that is no name of one folder of a study."""
    if name in ("", ".", "..") or "/" in name or not name.isprintable():
        raise ValueError(f"{field} holds {name!r}, which is no folder of the study")


def destination(path: str | Path) -> Path:
    """Return the file that a write to `path` replaces; a link is followed.

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


def check_readable(path: str | Path, *, most_bytes: int = MOST_TEXT_BYTES) -> Path:
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


def check_listable(folder: Path) -> Path:
    """Return a folder; PermissionError where its files may not be listed: `glob` hides that."""
    if folder.is_dir() and not os.access(folder, os.R_OK | os.X_OK, effective_ids=True):
        raise PermissionError(errno.EACCES, "permission denied", str(folder))
    return folder


def refuse_code(values: Any, path: str | Path) -> None:
    """Raise ValueError for a value of a plan, record or law that would be resolved or run.

    `${...}` reads the environment and other files; the settings RUN_CODE are commands. The error
    gives the words that a user who wants the value can add to the command.
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


def _leaves(values: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every value that is no mapping and no list, with its dotted key."""
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
