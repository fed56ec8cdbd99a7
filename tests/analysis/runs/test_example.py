"""The table that comes with the package."""

import pandas as pd

from analysis import load_runs
from analysis.alarms.units import unit_alarms
from analysis.runs.example import example_or, example_path


def test_example_is_the_default_study_and_raises_no_alarm_of_units():
    runs = load_runs("example")
    assert len(runs) == 43
    assert runs.inputs["source"] == "example"
    assert not unit_alarms(runs.table, {})


def test_the_users_own_example_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert example_or("example").name == "example.csv"
    (tmp_path / "example").mkdir()
    assert example_or("example") == "example"
    frame = pd.DataFrame()
    assert example_or(frame) is frame


def test_swapped_columns_of_the_example_are_still_said():
    whole = load_runs("example").table.drop(columns="trunk")
    assert "swapped_columns" in {a.code for a in unit_alarms(whole, {})}


def test_a_path_is_left_as_it_is_unless_it_is_the_example(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert example_path("table.csv") == "table.csv"
    assert example_path("example").name == "example.csv"
