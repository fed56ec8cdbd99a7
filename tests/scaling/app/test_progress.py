import io
import logging

import pytest

from scaling.app import progress
from scaling.app.progress import BAR, Progress, bar, rate


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_has_a_bar_with_rate_and_time_left(monkeypatch):
    monkeypatch.setattr(progress.sys, "stderr", Terminal())
    line = Progress("sampling", total=100, unit="prompts").line(25, 10.0, "reward 0.5")
    assert line.startswith("sampling  [" + "=" * round(BAR / 4) + ">")
    assert line.endswith(" 25%  2.5 prompts/s  0:10 gone, 0:30 left  reward 0.5")


def test_a_line_is_no_wider_than_the_terminal(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(progress.sys, "stderr", terminal)
    monkeypatch.setattr(progress, "REDRAWN_SECONDS", 0.0)
    monkeypatch.setenv("COLUMNS", "40")
    Progress("sampling", total=100, unit="prompts").update(25, "a long text that does not fit")
    assert len(terminal.getvalue().removeprefix("\r\033[K")) == 39


def test_a_log_has_plain_lines(monkeypatch, caplog):
    monkeypatch.setattr(progress.sys, "stderr", io.StringIO())
    line = Progress("sampling", total=200, done=100, every_seconds=0.0, unit="prompts")
    assert line.line(150, 10.0) == "sampling:  75%  5 prompts/s  0:10 gone, 0:10 left"
    with caplog.at_level(logging.INFO):
        line.update(150)
    assert "[" not in caplog.messages[0]


@pytest.mark.parametrize(
    ("per_second", "text"),
    [(312.4, "312 steps/s"), (1.23e6, "1.23M steps/s"), (0.05, "3 steps/min"), (0.0, "0 steps/s")],
)
def test_rates_are_for_people(per_second, text):
    assert rate(per_second, "steps") == text


@pytest.mark.parametrize("share", [-1.0, 0.0, 0.5, 0.999, 1.0, 2.0])
def test_a_bar_always_has_the_same_width(share):
    assert len(bar(share)) == BAR + 2
