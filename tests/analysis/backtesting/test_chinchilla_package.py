"""The optional package is called as its API wants, and its absence is said."""

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from analysis import load_runs
from analysis.backtesting import chinchilla_package as package
from analysis.backtesting.scores import PACKAGE, Settings
from tests.analysis.conftest import LAWS, isoflop_table

LAW = LAWS["besiroglu"]


class Chinchilla:
    """Stands in for the package's class: the same calls, a law that is known."""

    made: list["Chinchilla"] = []  # noqa: RUF012

    def __init__(self, folder, *, param_grid, seed_ranges, log_level):
        self.grid, self.ranges, self.rows, self.level = param_grid, seed_ranges, [], log_level
        self.visualizer, self.database = SimpleNamespace(), SimpleNamespace(filepath=folder)
        self.made.append(self)

    def append(self, **row):
        assert self.database.filepath is None
        self.rows.append(row)

    def fit(self, *, parallel):
        self.visualizer.optim(1, 2, simulation=parallel)

    def get_params(self):
        return LAW


@pytest.fixture
def installed(monkeypatch):
    module = ModuleType("chinchilla")
    module.Chinchilla = Chinchilla
    module.__spec__ = SimpleNamespace(name="chinchilla")
    monkeypatch.setitem(sys.modules, "chinchilla", module)


def test_the_package_is_given_every_run_and_its_law_comes_back(installed):
    table = load_runs(isoflop_table(LAW)).table
    theta = package.fitted_by_package(table)
    made = Chinchilla.made[-1]
    assert [row["loss"] for row in made.rows] == table["loss"].tolist()
    assert set(made.rows[0]) == {"N", "D", "loss"}
    assert made.grid["alpha"].tolist() == pytest.approx([0.1, 0.4, 0.7])
    assert made.ranges["C"][0] < made.ranges["C"][1]
    logs = [np.log(LAW[k]) for k in ("A", "B", "E")]
    assert theta == pytest.approx([*logs, LAW["alpha"], LAW["beta"]])
    settings = Settings(forms=("chinchilla",), starts=1, level=0.9, seed=0)
    assert PACKAGE in settings.methods


def test_without_the_package_a_sentence_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(package, "PACKAGE", "no_such_package_of_python")
    assert not package.is_installed()
    with pytest.raises(ValueError, match="not installed: pip install chinchilla"):
        package.fitted_by_package(load_runs(isoflop_table(LAW)).table)
