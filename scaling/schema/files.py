"""Write small files so that they are whole or absent, and say what they were made from."""

import functools
import hashlib
import json
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from scaling import __version__
from scaling.schema.atomic import replacing
from scaling.schema.safety import readable

SNAPSHOT = "snapshot.json"  # beside the packages of a code snapshot


def write_text(path: str | Path, text: str) -> Path:
    """Write `text` to a temporary name, flush it to the disk, then rename: whole or not at all.

    A link is followed. Raises ValueError where `path` is a folder, a device or a pipe, OSError
    where it cannot be written.
    """
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return Path(path)


def write_json(path: str | Path, value: Any) -> Path:
    """Write `value` as JSON, atomically; a NaN or infinity raises ValueError."""
    return write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def now() -> str:
    """Return the time in UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def read_json(path: str | Path) -> Any:
    """Return the value of one JSON file.

    Raises FileNotFoundError for a missing file, ValueError for one that is torn, no text, nested
    too deep, too large or no regular file; each names the file.
    """
    file = readable(path)
    try:
        return json.loads(file.read_text(encoding="utf-8-sig"), parse_constant=_no_number)
    except PermissionError:
        raise
    except OSError as error:
        raise OSError(f"cannot read {path}: {error.strerror}; check the path") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8; write it again") from error
    except RecursionError as error:
        raise ValueError(f"{path} is nested too deep to be read; write it again") from error
    except ValueError as error:  # no JSON, or an integer of more digits than Python reads
        why = "empty" if not file.stat().st_size else str(error)
        raise ValueError(f"{path} is not JSON ({why}); write it again") from error


def parse_json(text: str | bytes) -> Any:
    """Return the value of a JSON text; ValueError where it is none, or nested too deep."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deep to be read") from error


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no number of JSON")


def sha256_file(path: str | Path) -> str:
    """Hash a file's bytes (64 hex digits)."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_json(value: Any) -> str:
    """Hash a value by its canonical JSON text (64 hex digits)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


@functools.cache
def code_version() -> dict[str, str | None]:
    """Return the package version and, from a checkout, the commit (with `+` when edited).

    A snapshot of the code, which a queued job runs, says what it was taken from.
    """
    here = Path(__file__).resolve().parent
    taken_from = here.parents[1] / SNAPSHOT
    if taken_from.is_file():
        return read_json(taken_from)
    if not (here.parents[1] / "pyproject.toml").is_file():  # installed, maybe inside a repository
        return {"version": __version__, "git_sha": None}
    command = [
        "git",
        "-C",
        str(here),
        "describe",
        "--always",
        "--dirty=+",
        "--abbrev=12",
        "--exclude=*",
    ]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
        sha = found.stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        sha = None
    return {"version": __version__, "git_sha": sha}
