"""Approach 1 on curves and on end points."""

import json

import numpy as np
import pandas as pd
import pytest

from analysis.estimation.envelope import curves_of, envelope, lower_hull
from tests.analysis.conftest import isoflop_table, loss_of


def rectangle(law, *, n=25):
    """Return sizes that each were trained to many horizons around the optimum."""
    rows = [
        (params, ratio * params, f"t{i}")
        for i, params in enumerate(np.geomspace(1e7, 1e9, n))
        for ratio in np.geomspace(2, 400, 12)
    ]
    table = pd.DataFrame(rows, columns=["params", "tokens", "trunk"])
    return table.assign(
        flops=6 * table["params"] * table["tokens"],
        loss=loss_of(law, table["params"], table["tokens"]),
    )


def test_a_dense_grid_gives_the_exponents(known_law):
    result = envelope(rectangle(known_law), resamples=0)
    a = known_law["beta"] / (known_law["alpha"] + known_law["beta"])
    assert result.a == pytest.approx(a, abs=0.03)
    assert result.a + result.b == pytest.approx(1.0, abs=0.02)


def test_the_hull_drops_points_before_the_decay():
    flops = np.geomspace(1e18, 1e20, 9)
    loss = 2 + (flops / 1e18) ** -0.2
    bumped = np.where(np.arange(9) % 4, loss + 0.05, loss)
    hull = lower_hull(np.stack([flops, flops, bumped], axis=1))
    assert hull[:, 0] == pytest.approx(flops[::4])


def test_curves_are_read_from_metrics(tmp_path, refit_law):
    table = rectangle(refit_law, n=9).groupby("trunk").nth(8).reset_index(drop=True)
    paths = []
    for i, row in table.iterrows():
        path = tmp_path / f"{i}.jsonl"
        tokens = row["tokens"] * np.geomspace(0.06, 1, 20)
        losses = loss_of(refit_law, row["params"], tokens)
        lines = [
            {"tokens": t, "flops": 6 * row["params"] * t, "train_loss": 1.0, "test_loss": v}
            for t, v in zip(tokens, losses, strict=True)
        ]
        path.write_text("\n".join(map(json.dumps, lines)) + '\n{"torn')
        paths.append(str(path))
    curves, source = curves_of(table.assign(curve=paths))
    assert source == "training curves"
    assert all(len(c.log_flops) == 20 for c in curves)
    assert envelope(table.assign(curve=paths), resamples=0) is not None


def test_two_sizes_have_no_envelope(refit_law):
    table = isoflop_table(refit_law)
    assert envelope(table[table["params"].isin(table["params"].unique()[:2])]) is None


def test_the_interval_holds_the_exponent(refit_law):
    table = rectangle(refit_law, n=12)
    result = envelope(table, resamples=200, level=0.95)
    a = refit_law["beta"] / (refit_law["alpha"] + refit_law["beta"])
    assert result.a_interval[0] < a < result.a_interval[1]
