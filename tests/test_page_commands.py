"""Every `scaling ...` command that a page of docs/ shows names a command and keys that exist."""

import re
import shlex
from functools import cache
from pathlib import Path

import pytest

from scaling.__main__ import COMMANDS
from scaling.app import help
from scaling.app.overrides import leaves
from scaling.config import LauncherOptions
from tests.scaling.app.test_help import COMMANDS as WITH_CONFIG
from tests.scaling.app.test_help import schema_of

DOCS = Path(__file__).resolve().parents[1] / "docs"
IN_TEXT = re.compile(r"`(scaling [a-z_]+[^`\n]*)`")
BLOCK = re.compile(r"^```(?:text|console|bash|sh)\n(.*?)^```", re.MULTILINE | re.DOTALL)
IN_BLOCK = re.compile(r"^(?:\$ )?(scaling [a-z_]+[^\n#]*)", re.MULTILINE)
WITHOUT_CONFIG = set(COMMANDS) - set(WITH_CONFIG)  # their options are no keys


def commands_of(text: str) -> list[str]:
    blocks = [block.replace("\\\n", " ") for block in BLOCK.findall(text)]
    return IN_TEXT.findall(text) + [c for block in blocks for c in IN_BLOCK.findall(block)]


@cache
def keys_of(command: str) -> set[str]:
    """Return the keys of a command, those of blocks and of groups of conf/ included."""
    keys = set(leaves(schema_of(command)))
    if command == "sweep":
        keys |= {f"hydra.launcher.{key}" for key in leaves(LauncherOptions)}
    blocks = {
        ".".join(parts[:i]) for parts in (k.split(".") for k in keys) for i in range(len(parts))
    }
    return keys | blocks | set(help.chosen_groups(command))


def unknown(command: str) -> list[str]:
    """Return the words of a command that it does not have."""
    _, name, *words = (word.strip("[]") for word in shlex.split(command))  # [..]: optional
    if name not in COMMANDS:
        return [name]
    if name in WITHOUT_CONFIG:
        return []
    words = [w for w in words if w != "key=value"]  # any setting
    given = [w.partition("=")[0] for w in words if "=" in w and not w.startswith(("+", "-"))]
    return [key for key in given if key not in keys_of(name) and not key.startswith("cell.")]


@pytest.mark.slow
def test_every_command_of_a_page_has_the_keys_that_it_names():
    commands = [
        (page.relative_to(DOCS).as_posix(), command)
        for page in sorted(DOCS.rglob("*.md"))
        for command in commands_of(page.read_text(encoding="utf-8"))
    ]
    assert len(commands) > 100
    assert [(page, c, unknown(c)) for page, c in commands if unknown(c)] == []


def test_a_key_and_a_command_that_do_not_exist_are_seen():
    page = "`scaling fit runs=A forms=all`\n```text\nscaling fitt runs=A   # no such command\n```\n"
    assert [unknown(c) for c in commands_of(page)] == [["forms"], ["fitt"]]
