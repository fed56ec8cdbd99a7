"""The code blocks of README and docs: read, run in order in one folder a page, compared.

    ```console
    $ scaling fit runs=example form=all
    43 runs of example, N counted as total
    ...
    ```

A block of `console` holds commands, each followed by what it prints; `...` as a line stands for any
lines, inside a line for any text. Lines are compared in order and may be left out only where `...`
says so. Numbers are equal within `TOLERANCE` (another processor rounds otherwise); ids, times and
sizes of memory are not compared. A block of `python` is a script that must end without an error;
what it prints is compared with a block of `text` right below it, where there is one.

A comment `<!-- test: WORD -->` above a block, or on the first line of a page for the whole page,
says `long` (minutes), `slurm` (needs one) or `no` (installs, or needs what a test cannot have).
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TOLERANCE = 0.02
DIRECTIVE = re.compile(r"<!--\s*test:\s*(long|slurm|no)\b.*?-->")
FENCE = re.compile(
    r"(?:^[ ]*(?P<above><!--\s*test:[^\n]*-->)\n+)?"
    r"^(?P<indent>[ ]*)```(?P<kind>console|python|text)\n(?P<body>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
NUMBER = re.compile(r"[-+]?(?:\d[\d,]*\.?\d*|\.\d+)(?:e[-+]?\d+)?(?![\w.]*[a-df-zA-Z_])")
# What differs between two runs and matters to nobody: ids, times, memory, speeds, commits.
VOLATILE = (
    (re.compile(r"\b[0-9a-f]{7,40}\b(?<![0-9]{7})"), "ID"),
    (re.compile(r"\b\d+:\d\d(?::\d\d)?\b"), "TIME"),
    (re.compile(r"\b[\d.,]+ ?(?:k|M|G)?i?B\b(?:/s)?"), "SIZE"),
    (re.compile(r"\b[\d.]+ (?:s|min|h|seconds|minutes)\b"), "TIME"),
    (re.compile(r"\d{4}-\d\d-\d\d(?:[T ][\d:.Z]+)?"), "DATE"),
)


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command, what it is said to print, and where it stands."""

    text: str
    expected: list[str] = field(default_factory=list)
    line: int
    python: bool = False


@dataclass(frozen=True, kw_only=True)
class Page:
    """The commands of a page in order, and what the page needs."""

    path: Path
    commands: list[Command]
    needs: str = ""


def pages() -> list[Page]:
    """Return README and the pages of docs that hold commands."""
    paths = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    found = [read_page(path) for path in paths]
    return [page for page in found if page.commands]


def read_page(path: Path) -> Page:
    """Read a page's commands; blocks with `test: no` are left out."""
    text = path.read_text(encoding="utf-8")
    first = DIRECTIVE.match(text.lstrip())
    needs = {first[1]} if first else set()
    commands: list[Command] = []
    end = None  # of the script right above, whose output a block of text may be
    for fence in FENCE.finditer(text) if "no" not in needs else ():
        wanted = DIRECTIVE.search(fence["above"] or "")
        if wanted and wanted[1] == "no":
            continue
        needs |= {wanted[1]} if wanted else set()
        line = text.count("\n", 0, fence.start("body")) + 1
        lines = [row.removeprefix(fence["indent"]) for row in fence["body"].splitlines()]
        if fence["kind"] == "console":
            commands += _of_console(lines, line)
        elif fence["kind"] == "python":
            commands.append(Command(text="\n".join(lines), line=line, python=True))
        elif end is not None and not text[end : fence.start()].strip():
            commands[-1].expected.extend(lines)
        end = fence.end() if fence["kind"] == "python" else None
    need = next((n for n in ("slurm", "long") if n in needs), "")
    return Page(path=path, commands=commands, needs=need)


def _of_console(lines: list[str], start: int) -> Iterator[Command]:
    command: Command | None = None
    continued = False
    for number, line in enumerate(lines, start):
        if command and continued:
            text = f"{command.text}\n{line}"
            command = Command(text=text, line=command.line)
            continued = line.endswith("\\")
        elif line.startswith("$ "):
            if command:
                yield command
            command = Command(text=line[2:], line=number)
            continued = line.endswith("\\")
        elif command:
            command.expected.append(line)
        else:
            raise ValueError(f"line {number} stands before the first command of its block")
    if command:
        yield command


def run_page(page: Page, folder: Path) -> list[str]:
    """Run a page's commands in a folder; return what went wrong, a sentence each."""
    wrong = []
    for command in page.commands:
        where = f"{page.path.relative_to(ROOT)}:{command.line}: {command.text.splitlines()[0]}"
        shell = (
            [sys.executable, "-c", command.text] if command.python else ["bash", "-c", command.text]
        )
        done = subprocess.run(
            shell,
            cwd=folder,
            env=environment(folder),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode:
            return [*wrong, f"{where}\nexit status {done.returncode}\n{done.stdout[-2000:]}"]
        if missing := unlike(command.expected, done.stdout.splitlines()):
            wrong.append(f"{where}\n{missing}\nprinted:\n{done.stdout[-6000:]}")
    return wrong


def environment(folder: Path) -> dict[str, str]:
    """Return the environment of a user who has installed the package: `scaling` and `python`."""
    programs = folder / ".programs"
    if not programs.is_dir():
        programs.mkdir()
        for name, words in (("scaling", "-m scaling"), ("python", "")):
            program = programs / name
            program.write_text(f'#!/bin/sh\nexec "{sys.executable}" {words} "$@"\n')
            program.chmod(0o755)
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "WANDB", "COLUMNS"))}
    path = f"{programs}{os.pathsep}{kept.get('PATH', os.defpath)}"
    return kept | {"PATH": path, "PYTHONPATH": str(ROOT), "COLUMNS": "100"}


def unlike(expected: list[str], printed: list[str]) -> str:
    """Return the first expected line that was not printed in its place, or an empty text."""
    rest = [line for line in printed if line.strip()]
    anywhere = False
    for line in (e for e in expected if e.strip()):
        if line.strip() == "...":
            anywhere = True
            continue
        places = range(len(rest)) if anywhere else range(min(1, len(rest)))
        place = next((i for i in places if same(line, rest[i])), None)
        if place is None:
            return f"not printed{'' if anywhere else ' here'}: {line}"
        rest, anywhere = rest[place + 1 :], False
    return "" if anywhere or not rest or not expected else f"not in the page: {rest[0]}"


def same(expected: str, printed: str) -> bool:
    """Say whether two lines are the same but for rounding and what is never the same."""
    return any(_fits(expected.split("..."), printed))


def _fits(parts: list[str], printed: str) -> Iterator[bool]:
    """Yield whether the parts between dots stand in a line in order; one part is the line."""
    words, numbers = _split(printed)
    pattern = ".*".join(re.escape(" ".join(_split(p)[0].split())) for p in parts)
    text = " ".join(words.split())
    if not re.fullmatch(pattern.replace(r"\#", "#"), text):
        yield False
        return
    if len(parts) > 1:
        wanted = [n for p in parts for n in _split(p)[1]]
        yield _in_order(wanted, numbers)
        return
    wanted = _split(parts[0])[1]
    yield len(wanted) == len(numbers) and all(map(_near, wanted, numbers))


def _split(line: str) -> tuple[str, list[str]]:
    """Return a line with # for each number, and the numbers."""
    for pattern, word in VOLATILE:
        line = pattern.sub(word, line)
    return NUMBER.sub("#", line), NUMBER.findall(line)


def _in_order(wanted: list[str], numbers: list[str]) -> bool:
    rest = iter(numbers)
    return all(any(_near(w, n) for n in rest) for w in wanted)


def _near(wanted: str, printed: str) -> bool:
    """Compare two numbers within the tolerance, or one and a half of the last decimal."""
    a, b = (float(x.replace(",", "")) for x in (wanted, printed))
    mantissa, _, exponent = wanted.lower().partition("e")
    digits = len(mantissa.partition(".")[2])
    last = 10.0 ** (int(exponent or 0) - digits) if digits else 0.0
    return abs(a - b) <= max(TOLERANCE * max(abs(a), abs(b)), 1.5 * last)
