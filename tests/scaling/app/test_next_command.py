"""The line that names the command that follows."""

import shlex

from hydra.core.override_parser.overrides_parser import OverridesParser

from scaling.app.next_command import next_command


def test_paths_of_all_kinds_are_pasted_as_they_are():
    line = next_command("fit", runs="studies of mine/it's", law="../runs/a/law.json", form="all")
    assert line.startswith("Next: scaling fit ")
    words = shlex.split(line.removeprefix("Next: "))
    parsed = OverridesParser.create().parse_overrides(words[2:])
    assert [o.value() for o in parsed[1:]] == ["../runs/a/law.json", "all"]
    assert str(parsed[0].value()) == "studies of mine/it's"
    assert "law=../runs/a/law.json form=all" in line


def test_numbers_are_rounded_and_unquoted():
    assert next_command("plan", flops=1.23456e21, flops_multiple=3.0) == (
        "Next: scaling plan flops=1.235e21 flops_multiple=3"
    )


def test_words_stand_before_settings():
    assert next_command("status", "runs/a b") == "Next: scaling status 'runs/a b'"
