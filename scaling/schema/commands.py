"""The commands that made a folder: `commands.jsonl`, one line a command, in the order of their use.

    {"module": "scaling.sweep", "arguments": ["-m", "study=books", "data=files"], "at": "2026-..."}

A command that was given before is not appended again. The arguments are kept one by one, never as
a line for a shell: whoever prints them quotes them, so that a stranger's file cannot smuggle a
second command into what a reader pastes.
"""

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from scaling.schema.files import now, parse_json
from scaling.schema.reading import read_as

COMMANDS = "commands.jsonl"
MODULES = ("scaling.sweep", "scaling.final", "analysis.fit", "analysis.plan")
# Settings that say how a command is watched, not what it makes.
UNKEPT = ("detach=", "dry_run=", "check=", "resume=")


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command as it was typed: its module and its arguments."""

    module: str
    """Module that was run, as scaling.sweep."""
    arguments: list[str] = field(default_factory=list)
    """Its arguments, one by one."""
    at: str = field(default_factory=now)
    """When it was given, ISO 8601 in UTC."""

    def __post_init__(self) -> None:
        """Refuse a module that is none of ours, and arguments that are no single lines of text."""
        bad = [a for a in self.arguments if not isinstance(a, str) or not a.isprintable()]
        if self.module not in MODULES or bad:
            raise ValueError(f"{self.module!r} with {bad or 'its arguments'} is no command of ours")

    @classmethod
    def typed(cls, module: str, arguments: Sequence[str]) -> "Command":
        """Return a command without the settings that do not change what it makes."""
        return cls(module=module, arguments=[a for a in arguments if not a.startswith(UNKEPT)])

    def line(self) -> str:
        """Return the command as a line for a shell."""
        return shlex.join(["python", "-m", self.module, *self.arguments])


def remember_command(folder: str | Path, command: Command) -> None:
    """Append a command to a folder's list, unless it stands there."""
    path = Path(folder) / COMMANDS
    if command.line() in map(Command.line, read_commands(folder)):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    row = {"module": command.module, "arguments": command.arguments, "at": command.at}
    with path.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(row) + "\n")


def read_commands(folder: str | Path) -> list[Command]:
    """Return the commands of a folder in order; lines that cannot be read are left out."""
    path = Path(folder) / COMMANDS
    if not path.is_file():
        return []
    commands = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            values = parse_json(text)
            commands.append(read_as(Command, values, source=path, noun="command", fix="remove it"))
        except (ValueError, TypeError):
            continue
    return commands
