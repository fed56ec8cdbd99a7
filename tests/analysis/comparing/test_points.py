"""Which runs of several arms belong together."""

import numpy as np
import pandas as pd
import pytest

from analysis.comparing.points import common_points, near_codes, paired, places


def table(params, tokens, **columns) -> pd.DataFrame:
    values = {"params": params, "tokens": tokens, "loss": [3.0] * len(params)}
    return pd.DataFrame({k: np.array(v) for k, v in {**values, **columns}.items()})


def test_near_sizes_are_one_and_a_continuum_is_cut():
    assert near_codes(np.array([0.0, 1.0, 0.01, 1.015])).tolist() == [0, 1, 0, 1]
    codes = near_codes(np.arange(100) * 0.015)
    assert np.bincount(codes).max() <= 3


def test_runs_of_one_point_and_seed_are_pairs():
    a = table([1e6, 1e6, 2e6], [1e8, 1e8, 1e8], seed=[0, 1, 0])
    b = table([2e6, 1.005e6, 3e6], [1e8, 1e8, 1e8], seed=[0, 1, 0])
    where = places([a, b])
    rows = paired(where, 0, 1)
    assert sorted(zip(*map(np.ndarray.tolist, rows), strict=True)) == [(1, 1), (2, 0)]
    assert len(common_points(where, (0, 1))) == 2
    assert where.units[0][1] == where.units[1][1]
    assert where.units[0][0] not in where.units[1]


def test_runs_without_a_seed_are_no_pairs_but_share_their_point():
    a, b = (table([1e6, 2e6], [1e8, 1e8]) for _ in range(2))
    where = places([a, b])
    assert len(paired(where, 0, 1)[0]) == 0
    assert where.units[0].tolist() == where.units[1].tolist()


def test_trunks_are_units_and_seeds_apart_pair_by_rank():
    a = table([1e6, 1e6, 2e6], [1e8, 2e8, 1e8], seed=[0, 0, 0], trunk=["x", "x", "y"])
    b = table([2e6, 1e6, 1e6], [1e8, 1e8, 2e8], seed=[7, 7, 7], trunk=["p", "q", "q"])
    where = places([a, b])
    assert where.n_units == 2
    assert where.units[0][0] == where.units[0][1] == where.units[1][1]
    assert where.units[0][2] == where.units[1][0]


@pytest.mark.parametrize("seeds", [["s1", "s2"], [0.5, 1.5]])
def test_seeds_may_be_words(seeds):
    where = places([table([1e6, 1e6], [1e8, 1e8], seed=seeds)])
    assert sorted(where.seeds[0].tolist()) == [0, 1]
