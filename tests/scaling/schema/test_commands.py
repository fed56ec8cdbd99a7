"""The commands that made a folder, kept as arguments."""

import json

import pytest

from scaling.schema import Command, read_commands, remember_command


def test_a_command_is_kept_once_and_read_as_a_line_to_paste(tmp_path):
    command = Command.typed("scaling.sweep", ["-m", "data.train=[a b]", "detach=true"])
    for _ in range(2):
        remember_command(tmp_path, command)
    remember_command(tmp_path, Command.typed("scaling.sweep", ["-m", "seed=1"]))
    lines = [c.line() for c in read_commands(tmp_path)]
    assert lines == [
        "python -m scaling.sweep -m 'data.train=[a b]'",
        "python -m scaling.sweep -m seed=1",
    ]


@pytest.mark.parametrize(
    "row",
    [
        {"module": "os", "arguments": []},
        {"module": "scaling.sweep", "arguments": ["a\nrm -rf x"]},
        {"module": "scaling.sweep", "arguments": [3]},
        "torn",
    ],
)
def test_lines_of_a_damaged_or_foreign_file_are_left_out(row, tmp_path):
    (tmp_path / "commands.jsonl").write_text(json.dumps(row) + "\n{")
    assert read_commands(tmp_path) == []


def test_what_a_shell_would_run_is_quoted():
    assert Command(module="scaling.final", arguments=["; rm x"]).line().endswith("'; rm x'")
