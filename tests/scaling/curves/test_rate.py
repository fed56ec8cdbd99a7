"""The rate at a step of a schedule."""

from typing import Any

import pytest

from scaling.curves.rate import rate_factors

RUN: dict[str, Any] = {"warmup_steps": 10, "n_steps": 100, "decay_start": 80}


def test_wsd_warms_up_stays_and_decays():
    rates = rate_factors([0, 9, 50, 79, 99], name="wsd", decay_shape="linear", **RUN)
    assert rates == pytest.approx([0.1, 1, 1, 1, 1 / 21])


def test_cosine_ends_at_its_floor():
    assert rate_factors([99], name="cosine", floor=0.1, **RUN)[0] == pytest.approx(0.1, abs=1e-3)
