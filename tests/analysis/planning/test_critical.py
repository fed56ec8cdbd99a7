"""The planned batch beside the critical batch: below, above, far from what was measured."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from analysis.laws.law import Law
from analysis.planning.critical import beside_critical, critical_alarms, sentence


def law(k=1000.0, p=0.25, *, reach=1e8) -> Law:
    return Law(
        form="critical_batch",
        count="total",
        parameters={"k": k, "p": p},
        objective={"name": "critical_batch"},
        status="converged",
        draws=np.column_stack([np.geomspace(0.9 * k, 1.1 * k, 200), np.full(200, p)]),
        methods={"critical_batch": {"sd_log": 0.1, "freedom": 10}},
        ranges={"at_tokens": [1e6, reach]},
    )


def block(batch: int, tokens: int = 10**8) -> SimpleNamespace:
    return SimpleNamespace(batch_tokens=batch, tokens=tokens, reasons={"batch_tokens": "rule"})


def test_a_batch_below_says_how_far_with_an_interval_and_until_when_it_is_above():
    said = sentence(block(25_000), law(), 0.9)  # 1000 x 1e8^.25 = 100,000
    assert said.startswith("batch 25000 is 4 times below the critical batch at 1e8 tokens, 1e5")
    assert "(90% [3" in said
    assert "above the critical batch for the first 0.0039 of the run" in said  # (1/4)^4
    assert list(critical_alarms(block(25_000), law(), 0.9)) == []


def test_a_batch_above_is_an_alarm():
    assert "batch 400000 is 4 times above" in sentence(block(400_000), law(), 0.9)
    (alarm,) = critical_alarms(block(400_000), law(), 0.9)
    assert alarm.code == "batch_above_critical"
    assert "4 times the critical batch" in alarm.sentence


def test_a_run_far_beyond_the_trunk_is_an_alarm():
    (alarm,) = critical_alarms(block(25_000), law(reach=1e6), 0.9)
    assert alarm.code == "critical_batch_far"


def test_without_a_law_nothing_is_said():
    assert beside_critical(block(1), None, 0.9).reasons == {"batch_tokens": "rule"}
    assert list(critical_alarms(block(1), None, 0.9)) == []


def test_another_law_is_refused():
    with pytest.raises(ValueError, match="fit form=critical_batch"):
        sentence(block(1), replace(law(), form="chinchilla"), 0.9)
