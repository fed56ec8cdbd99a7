"""The package `chinchilla` of PyPI (github.com/kyo-takano/chinchilla) as a baseline.

It is no dependency: where it is not installed, a backtest says so. It fits L = E + A N^-alpha +
B D^-beta by quasi-Newton descents from a grid of starts, by default under its own objective, an
absolute error that counts tenfold above the data. The grid spans that of its README with fewer
values an axis. The package rounds N and D to whole numbers.
"""

import importlib.util
import tempfile
import warnings
from typing import Any

import numpy as np
import pandas as pd

from analysis.forms import Array, column

PACKAGE = "chinchilla"
MISSING = "not installed: pip install chinchilla"
AXES = {
    "E": (1.0, 2.0),
    "a": (1.0, 10.0),
    "b": (1.0, 10.0),
    "alpha": (0.1, 0.7),
    "beta": (0.1, 0.7),
}
VALUES = 3  # an axis, which makes 243 starts; the README has 5, which makes 3125
SILENT = 50  # log level that shows errors alone


def is_installed() -> bool:
    """Say whether the package can be imported."""
    return importlib.util.find_spec(PACKAGE) is not None


def fitted_by_package(table: pd.DataFrame) -> Array:
    """Return theta (5,), as `analysis.backtesting.baselines` orders it, that the package fits.

    Raises ValueError where it is not installed or finds no minimum.
    """
    if not is_installed():
        raise ValueError(f"the package {PACKAGE} is {MISSING}")
    package: Any = importlib.import_module(PACKAGE)
    n, d, loss = (column(table, c) for c in ("params", "tokens", "loss"))
    grid = {name: np.linspace(*ends, VALUES) for name, ends in AXES.items()}
    ranges = {
        "C": _range(6 * n * d),
        "N_to_D": _range(d / n),
    }  # of its own seeds, which we do not use
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        law = package.Chinchilla(folder, param_grid=grid, seed_ranges=ranges, log_level=SILENT)
        law.visualizer.optim = law.visualizer.LBFGS = lambda *_, **__: None  # draws a figure a fit
        law.database.filepath = None  # keeps the runs in memory: it writes a file a run
        for row in zip(n, d, loss, strict=True):
            law.append(**dict(zip(("N", "D", "loss"), map(float, row), strict=True)))
        law.fit(parallel=False)
        values = law.get_params()
    with np.errstate(invalid="ignore", divide="ignore"):
        theta = [np.log(values[k]) for k in ("A", "B", "E")] + [values["alpha"], values["beta"]]
    return np.array(theta, dtype=float)


def _range(values: Array) -> tuple[float, float]:
    return float(values.min()), float(values.max())
