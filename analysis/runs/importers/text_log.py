"""What the consoles of torchtitan, OLMo and nanochat share: files and numbers."""

import re
from collections.abc import Callable, Iterable
from pathlib import Path

from analysis.runs.importers.files import below, holds, lines_of, name_below
from analysis.runs.importers.logged_run import LoggedRun, read_each

ENDINGS = ("*.log", "*.txt", "*.out", "*.stdout")
DEEPEST = 2  # folders between the source and a log file
NUMBER = r"([-+]?[0-9][0-9.,]*(?:[eE][-+]?[0-9]+)?[KMBTPE]?|[-+]?nan|[-+]?inf)"
_SUFFIXES = {"K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}


def number(text: str) -> float:
    """Return the number of a console: `1,234`, `1.049B`, `nan`."""
    factor = _SUFFIXES.get(text[-1:], 1.0)
    return float(text.rstrip("KMBTPE").replace(",", "")) * factor


def log_files(path: Path, mark: re.Pattern[str]) -> list[Path]:
    """Return the text logs below a folder, or the file, in which a line matches."""
    if path.is_file():
        return [path] if holds(path, mark) else []
    candidates = [p for ending in ENDINGS for p in below(path, ending, deepest=DEEPEST)]
    return [p for p in sorted(candidates) if holds(p, mark)]


def read_logs_of(
    path: Path, mark: re.Pattern[str], read: Callable[[str, Iterable[str], Path], LoggedRun]
) -> tuple[list[LoggedRun], list[dict[str, str]], list[Path]]:
    """Return the runs of the logs that match, those that could not be read, and the files.

    read: takes a run's name, its lines and its file
    """
    files = log_files(path, mark)
    found = [(name_below(p, path) if path.is_dir() else path.name, p) for p in files]
    runs, left_out = read_each(found, lambda name, p: read(name, lines_of(p), p))
    return runs, left_out, files
