"""Baselines recover what they should, and only that."""

import numpy as np
import pytest

from analysis import load_runs
from analysis.backtesting.baselines import (
    GRID_SIZE,
    HOFFMANN,
    frontier_line,
    grid_starts,
    is_frontier,
    multi_start,
    single_descent,
    surface_of,
)
from analysis.forms import column
from tests.analysis.conftest import LAWS, isoflop_table

BUDGETS = tuple(1e18 * 4.0**i for i in range(6))


def test_the_published_grid_has_4500_different_starts():
    grid = grid_starts(GRID_SIZE)
    assert grid.shape == (4500, 5)
    assert len(np.unique(grid, axis=0)) == 4500
    few = grid_starts(7)
    assert {tuple(row) for row in few} <= {tuple(row) for row in grid}
    assert np.array_equal(few, grid_starts(7))


@pytest.mark.slow
def test_many_starts_come_near_an_exact_law(known_law):
    table = load_runs(isoflop_table(known_law, budgets=BUDGETS)).table
    theta = multi_start(table, 40)
    predicted = surface_of(theta, table)
    assert np.abs(predicted / column(table, "loss") - 1).max() < 1e-2  # scipy stops early
    worse = surface_of(single_descent(table, HOFFMANN), table)
    assert (
        np.abs(worse / column(table, "loss") - 1).max()
        > np.abs(predicted / column(table, "loss") - 1).max()
    )


def test_the_surface_is_that_of_its_parameters(refit_law):
    table = load_runs(isoflop_table(refit_law, budgets=BUDGETS)).table
    logs = [np.log(refit_law[k]) for k in ("A", "B", "E")]
    theta = np.array([*logs, refit_law["alpha"], refit_law["beta"]])
    assert surface_of(theta, table) == pytest.approx(column(table, "loss"))


def test_the_frontier_s_line_extends_a_power_law_exactly():
    table = isoflop_table(LAWS["besiroglu"], budgets=BUDGETS)
    best = table.groupby("flops")["loss"].transform("min")
    table["loss"] = 50 * table["flops"] ** -0.07 * table["loss"] / best
    runs = load_runs(table).table
    assert is_frontier(runs).sum() == len(BUDGETS)
    assert frontier_line(runs, [1e24]) == pytest.approx(50 * 1e24**-0.07, rel=1e-3)
    with pytest.raises(ValueError, match="1 runs on the frontier"):
        frontier_line(runs.loc[runs["flops"] == BUDGETS[0]], [1e24])
