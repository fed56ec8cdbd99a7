"""The rows of a decay; its best share is tested with the law that states it."""

import numpy as np
import pytest

from scaling.curves import decay_rows


def test_a_decay_starts_at_its_share_and_ends_near_zero():
    steps, factors = decay_rows(1000, 0.2, warmup_steps=50)
    assert steps[0] == 50
    assert factors[0] == 1
    assert steps[-1] == 1000
    assert factors[-1] == pytest.approx(1 / 201)
    assert np.all(np.diff(factors) <= 0)
    assert steps[np.argmax(factors < 1)] == pytest.approx(801, abs=3)
