import io

from scaling.jobs import watched
from scaling.jobs.cell_states import CellStatus
from scaling.jobs.watched import fitting, headline, watch
from scaling.status import main, rows_of
from scaling.study.states import CellState
from tests.analysis import synthetic


def cell(name: str, state: CellState) -> CellStatus:
    return CellStatus(run_id=name, state=state)


CELLS = [
    cell("a", CellState.DONE),
    cell("b", CellState.QUEUED),
    cell("c", CellState.RUNNING),
    cell("d", CellState.FAILED),
]


def test_the_first_line_has_share_rate_time_left_and_counts():
    line = headline(CELLS, seconds=10.0, gained=1)
    assert line.startswith("[===========>")
    assert " 50%  6 cells/min  0:20 left  1 done" in line
    assert headline(CELLS, seconds=10.0, gained=0, terminal=False).startswith(" 50%  ? left")


def test_what_runs_or_failed_comes_first_and_the_rest_is_counted():
    rows = fitting(CELLS, rows_of, 4)
    assert [row.split()[0] for row in rows[1:-1]] == ["c", "d"]
    assert rows[-1] == "and 1 more"


def test_the_table_is_redrawn_until_the_study_ends(tmp_path, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    states = [CellState.RUNNING, CellState.RUNNING, CellState.DONE]
    looks = iter([[cell("a", CellState.DONE), cell("b", s)] for s in states])
    monkeypatch.setattr(watched.CellStates, "refresh", lambda self: None)
    monkeypatch.setattr(watched.CellStates, "cells", lambda self: next(looks))
    out = Terminal()
    monkeypatch.setattr(watched.sys, "stdout", out)
    ended = watch(tmp_path, rows_of, seconds=0.0)
    assert [c.state for c in ended] == [CellState.DONE, CellState.DONE]
    assert out.getvalue().count("\033[H") == 4  # three tables and the last clearing
    assert "100%" in out.getvalue()


def test_a_study_that_has_ended_is_shown_once(tmp_path, monkeypatch, capsys):
    synthetic.write_cell(tmp_path / "small", 3, 64, 1e12)
    monkeypatch.setattr("sys.argv", ["status", str(tmp_path / "small"), "--watch"])
    assert main() == 0
    assert capsys.readouterr().out.strip().endswith("1 done")
