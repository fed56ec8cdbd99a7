"""Reading mixtures: names, sums, and refusals by row."""

import numpy as np
import pytest

from analysis.mixing.options import MixtureConfig
from analysis.mixing.table import load_swarm, shares_of
from tests.analysis.mixing.swarm_of import table_of


def test_names_lose_the_prefix_and_rounded_rows_are_divided_by_their_sum(tmp_path):
    table_of().round(3).to_csv(tmp_path / "t.csv", index=False)
    swarm = load_swarm(MixtureConfig(runs=str(tmp_path / "t.csv")))
    assert swarm.sources == ("code", "books", "web")
    assert swarm.domains == ("code", "books")
    assert swarm.columns == ("loss_code", "loss_books")
    np.testing.assert_allclose(swarm.shares.sum(axis=1), 1)


def test_percentages_are_refused_with_the_division():
    table = table_of() * 100
    with pytest.raises(ValueError, match="add to 100, 100, 100 and not to 1; divide them by 100"):
        shares_of(table, list(table.columns[:3]), "t.csv")
