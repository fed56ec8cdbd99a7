"""Which steps of a curve have a test loss, and what that costs."""

import pytest

from scaling.budget import resolve
from scaling.config import BudgetConfig, CellConfig, DataConfig, ModelConfig, OptimConfig
from scaling.study.curve_steps import (
    CURVE_STEPS,
    FORWARD_SHARE,
    MOST_SHARE,
    TEST_EVERY,
    RowSteps,
    flops_of_tests,
    steps_with_test,
)


def cell(n_steps: int, batch: int = 512) -> CellConfig:
    return CellConfig(
        model=ModelConfig(n_layer=1, d_model=16, d_head=8),
        data=DataConfig(context=64),
        optim=OptimConfig(batch_tokens=batch),
        budget=BudgetConfig(n_tokens=n_steps * batch),
    )


def steps(n_steps: int, batch: int = 512, curve_tokens: int = 8192) -> frozenset[int]:
    return steps_with_test(resolve(cell(n_steps, batch)), curve_tokens=curve_tokens)


def test_a_long_trunk_has_about_forty_test_losses_within_a_twentieth_of_its_flops():
    tests = steps(10_000, batch=4096)
    share = FORWARD_SHARE * len(tests) * 8192 / (10_000 * 4096)
    assert 30 <= len(tests) <= 50
    assert share < MOST_SHARE


@pytest.mark.parametrize("n_steps", [500, 2000, 4000, 9000])
def test_losses_are_added_only_while_all_of_them_cost_at_most_the_share(n_steps):
    tests, always = steps(n_steps), {s for s in CURVE_STEPS[::TEST_EVERY] if s <= n_steps}
    assert always <= tests
    for step in tests - always:
        before = sum(s <= step for s in tests)
        assert FORWARD_SHARE * before * 8192 <= MOST_SHARE * step * 512


def test_a_branch_has_the_steps_of_its_trunk():
    short, long = resolve(cell(3000)), steps(9000)
    assert {s for s in steps(3000) if s < short.decay_start} == {
        s for s in long if s < short.decay_start
    }


def test_a_decay_has_losses_of_its_own():
    start = resolve(cell(5000, 4096)).decay_start
    assert len([s for s in steps(5000, 4096) if s > start]) >= 7


def test_rows_of_the_band_have_both_losses_and_health_is_that_of_training_rows():
    rows = RowSteps.of(cell(5000), frozenset({1234}))
    assert 1234 in rows.losses & rows.tests
    assert rows.losses | rows.tests == rows.rows
    only_test = min(rows.tests - rows.losses)
    assert not rows.probed(only_test)


def test_the_flops_of_tests_count_forward_passes():
    resolved = resolve(cell(500))
    rows = [{"test_loss": 1.0}, {"train_loss": 1.0}, {"test_loss": 2.0}]
    flops = flops_of_tests(rows, resolved, curve_tokens=1000)  # 15 windows of 64
    assert flops == pytest.approx(2 * 960 * resolved.shape.flops_per_token / 3)
