"""The mixtures of a swarm: around natural shares, the same for one seed, cells of their own."""

import numpy as np
import pytest

from scaling.config import CellConfig, DataConfig, SwarmConfig
from scaling.jobs.swarm import SMALLEST, mixtures, swarm_of

OPTIONS = {"temperature": 1.0, "concentrations": (0.5, 5.0), "seed": 3}


def test_draws_lie_around_the_natural_shares_which_come_first():
    natural = np.array([6.0, 3.0, 1.0])
    rows = mixtures(natural, draws=4000, **OPTIONS)
    np.testing.assert_allclose(rows[0], natural / 10)
    np.testing.assert_allclose(rows.sum(axis=1), 1, atol=3e-4)
    np.testing.assert_allclose(rows.mean(axis=0), natural / 10, atol=0.02)
    assert rows.min() >= SMALLEST / 1.01


def test_a_high_temperature_evens_the_centre_and_more_draws_begin_alike():
    natural = np.array([8.0, 1.0, 1.0])
    hot = mixtures(natural, draws=4000, **{**OPTIONS, "temperature": 100.0})
    np.testing.assert_allclose(hot[1:].mean(axis=0), 1 / 3, atol=0.03)
    few = mixtures(natural, draws=5, **OPTIONS)
    np.testing.assert_array_equal(few, mixtures(natural, draws=9, **OPTIONS)[:5])


def test_each_mixture_is_a_cell_and_the_swarm_is_no_part_of_an_id():
    data = DataConfig(source="files", train=["a.txt", "b.txt"], weights=[3.0, 1.0])
    cell = CellConfig(data=data, swarm=SwarmConfig(draws=6))
    cells = swarm_of(cell)
    assert len({c.run_id() for c in cells}) == 6
    plain = CellConfig(data=DataConfig(source="files", train=data.train, weights=[0.75, 0.25]))
    assert cells[0].run_id() == plain.run_id()
    assert swarm_of(plain) == [plain]


def test_one_source_and_an_empty_range_are_refused():
    with pytest.raises(ValueError, match="name two or more"):
        swarm_of(CellConfig(swarm=SwarmConfig(draws=6)))
    with pytest.raises(ValueError, match="must be at least"):
        SwarmConfig(concentration_min=3.0, concentration_max=1.0)
