"""Tables of arms whose compute multipliers are known."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from analysis.forms import FORMS

LAW = {"E": 1.8, "A": 480.0, "B": 2100.0, "alpha": 0.35, "beta": 0.37}
SIZES = np.geomspace(1e7, 3e8, 6)
RATIOS = (5, 10, 20, 40, 80)


def better_by(k: float) -> dict[str, float]:
    """Return the law of an arm that reaches every loss of `LAW` with 1/k of the compute."""
    gain = np.sqrt(k)  # of N and of D alike, so that the frontier is moved by k in C
    return {
        **LAW,
        "A": LAW["A"] * gain ** -LAW["alpha"],
        "B": LAW["B"] * gain ** -LAW["beta"],
    }


def table_of(
    arms: Mapping[str, Mapping[str, float]],
    *,
    noise: float = 0.0,
    shared: float = 0.0,
    seeds: int = 1,
    seed: int = 0,
) -> pd.DataFrame:
    """Return a table with a column `corpus`, a grid of sizes and tokens for each arm.

    noise: deviation of log loss of one run
    shared: share of the variance that runs of one (N, D) and seed have in common
    """
    rng = np.random.default_rng(seed)
    grid = [(n, r * n, s) for n in SIZES for r in RATIOS for s in range(seeds)]
    points = pd.DataFrame(grid, columns=["params", "tokens", "seed"])
    values = {v: points[v].to_numpy() for v in ("params", "tokens")}
    common = np.sqrt(shared) * rng.standard_normal(len(points))
    parts = []
    for name, law in arms.items():
        own = np.sqrt(1 - shared) * rng.standard_normal(len(points))
        loss = FORMS["chinchilla"].predict(law, values) * np.exp(noise * (common + own))
        parts.append(points.assign(corpus=name, loss=loss))
    return pd.concat(parts, ignore_index=True)
