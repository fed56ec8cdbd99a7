"""Known laws, designs and noise shared by the tests of the analysis."""

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

LAWS = {
    "besiroglu": {"E": 1.8172, "A": 482.01, "B": 2085.43, "alpha": 0.3478, "beta": 0.3658},
    "steep_in_data": {"E": 0.9, "A": 35.0, "B": 9.1e4, "alpha": 0.21, "beta": 0.55},
    "steep_in_size": {"E": 2.6, "A": 2.3e4, "B": 310.0, "alpha": 0.62, "beta": 0.27},
}


def main_of(command: str) -> Callable[[Any], None]:
    """Return what a command runs, of a module that does not hide the function `analysis.fit`."""
    path = Path(__file__).parents[2] / "analysis" / f"{command}.py"
    spec = importlib.util.spec_from_file_location(f"command_{command}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


def loss_of(law: dict[str, float], params, tokens):
    """Return L = E + A N^-alpha + B D^-beta."""
    return law["E"] + law["A"] * params ** -law["alpha"] + law["B"] * tokens ** -law["beta"]


def isoflop_table(law, *, budgets=(1e18, 1e19, 1e20, 1e21), n=7, width=8.0, noise=0.0, seed=0):
    """Return an IsoFLOP grid centred on the law's own optimum, +-width in N."""
    rng = np.random.default_rng(seed)
    total = law["alpha"] + law["beta"]
    g = (law["alpha"] * law["A"] / (law["beta"] * law["B"])) ** (1 / total)
    rows = []
    for flops in budgets:
        centre = g * (flops / 6) ** (law["beta"] / total)
        for params in centre * np.geomspace(1 / width, width, n):
            rows.append((params, flops / 6 / params, flops))
    table = pd.DataFrame(rows, columns=["params", "tokens", "flops"])
    exact = loss_of(law, table["params"], table["tokens"])
    return table.assign(loss=exact * np.exp(noise * rng.standard_normal(len(table))))


def badly_tuned(table, *, excess=0.25, seed=3):
    """Return an IsoFLOP grid whose larger models are badly tuned, each by chance.

    The loss of models beyond 1.6 times the middle size of their budget grows by `excess` for each
    e-fold of N (mean of an exponential distribution).
    """
    rng = np.random.default_rng(seed)
    middle = np.log(table["params"]).groupby(table["flops"]).transform("mean")
    beyond = np.maximum(np.log(table["params"]) - middle - 0.5, 0.0)
    return table.assign(
        loss=table["loss"] * np.exp(excess * beyond * rng.exponential(size=len(table)))
    )


def ray_table(law, *, ratio=20.0, noise=0.0, seed=0):
    """Return runs at one ratio of tokens to parameters."""
    rng = np.random.default_rng(seed)
    params = np.repeat(np.geomspace(1e7, 1e9, 8), 3)
    table = pd.DataFrame({"params": params, "tokens": ratio * params})
    exact = loss_of(law, table["params"], table["tokens"])
    return table.assign(loss=exact * np.exp(noise * rng.standard_normal(len(table))))


@pytest.fixture(params=list(LAWS))
def known_law(request):
    return LAWS[request.param]


@pytest.fixture
def refit_law():
    return LAWS["besiroglu"]


@pytest.fixture(scope="session")
def published_fits() -> Path:
    """Return the folder of published runs, or skip."""
    default = Path(__file__).parents[2].parent / "shared"
    folder = Path(os.environ.get("SCALING_SHARED", default)) / "fits"
    if not folder.is_dir():
        pytest.skip("the published runs are absent; set SCALING_SHARED to the folder holding fits/")
    return folder
