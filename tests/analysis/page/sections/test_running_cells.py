"""The report's table of running cells."""

from analysis.page.sections.running_cells import running_gist, running_grid
from scaling.schema import EndForecast, RunningCell

FORECAST = EndForecast(loss=4.191, low=4.151, high=4.231, level=0.9, step=90)
CELLS = [
    RunningCell(run_id="aa", step=100, test_loss=4.4, at_end=FORECAST),
    RunningCell(run_id="bb", step=5, test_loss=None, at_end=None),
]


def test_each_running_cell_has_its_forecast_or_says_that_too_little_is_known():
    grid = running_grid(CELLS)
    assert grid.columns[-1] == "90% interval"
    assert grid.rows == [
        ("aa", "100", "4.4000", "4.19", "[4.15, 4.23]"),
        ("bb", "5", "–", "–", "too little is known yet"),
    ]
    assert running_gist(CELLS) == "2 in training, 1 with a forecast of its end"
