"""The rows of a curve: after which steps, what they hold, and which have a test loss.

A row of CURVE_STEPS holds the mean training loss since the row before it; every third has had a
test loss since the first version. Further test losses, on the same windows of the test part, are
added where the curve's test losses have cost at most MOST_SHARE of the FLOPs so far: after the
other rows of CURVE_STEPS, and at DECAY_TESTS - 1 steps within a decay. A long trunk has about 40,
a short one fewer. Which steps have a test loss depends on the step, the batch and the cell's own
decay alone, so that a branch has the rows of its trunk whichever its other branches are.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from scaling.budget import Resolved, resolve
from scaling.config import CellConfig

# The steps that have a row in the curve: about 12 a decade from step 10 on, the same in every cell.
CURVE_STEPS = sorted({round(10 * 1.22**k) for k in range(80)})
TEST_EVERY = 3  # Every third of the curve's rows has a test loss, whatever that costs.
MOST_SHARE = 0.05  # The most that test losses may cost, of the FLOPs of training, to be added.
DECAY_TESTS = 8  # Test losses in a decay, evenly spaced: a schedule law needs its shape.
FORWARD_SHARE = 1 / 3  # FLOPs of a forward pass over those of a training step on the same tokens.


def curve_windows(resolved: Resolved, curve_tokens: int) -> int:
    """Return how many windows of the test set a row of the curve is scored on."""
    return max(1, curve_tokens // resolved.shape.context)


def steps_with_test(resolved: Resolved, *, curve_tokens: int) -> frozenset[int]:
    """Return the steps of a cell after which its curve gets a test loss.

    resolved: the cell's steps, batch and decay
    curve_tokens: test tokens that a row is scored on (eval.curve_tokens)
    """
    n_steps, start = resolved.n_steps, resolved.decay_start
    always = frozenset(CURVE_STEPS[::TEST_EVERY])
    spacing = (n_steps - start) / DECAY_TESTS
    decay = {round(start + spacing * k) for k in range(1, DECAY_TESTS)}
    scored_tokens = curve_windows(resolved, curve_tokens) * resolved.shape.context
    tests_a_step = MOST_SHARE * resolved.batch_tokens / (FORWARD_SHARE * scored_tokens)
    steps: list[int] = []
    for step in sorted(decay | {s for s in CURVE_STEPS if s <= n_steps}):
        if step in always or len(steps) + 1 <= tests_a_step * step:
            steps.append(step)
    return frozenset(steps) - {0}


def flops_of_tests(rows: list[dict[str, Any]], resolved: Resolved, *, curve_tokens: int) -> float:
    """Return the FLOPs that the test losses of a curve's rows cost."""
    tokens = curve_windows(resolved, curve_tokens) * resolved.shape.context
    n_tests = sum("test_loss" in row for row in rows)
    return FORWARD_SHARE * n_tests * tokens * resolved.shape.flops_per_token


@dataclass(frozen=True, kw_only=True)
class RowSteps:
    """The steps of a cell after which its curve gets a row.

    losses: rows with the mean training loss
    tests: rows with a test loss
    health: whether rows with a training loss have the health of the model too
    """

    losses: frozenset[int]
    tests: frozenset[int]
    health: bool

    @classmethod
    def of(cls, cell: CellConfig, band: frozenset[int]) -> "RowSteps":
        """Return the steps of a cell; those of its forecast band, `band`, have both losses."""
        resolved = resolve(cell)
        tests = steps_with_test(resolved, curve_tokens=cell.eval.curve_tokens)
        losses = band | frozenset(CURVE_STEPS) | {resolved.n_steps}
        return cls(losses=losses, tests=tests | band, health=cell.log.health)

    @cached_property
    def rows(self) -> frozenset[int]:
        """Steps with a row of either kind."""
        return self.losses | self.tests

    def probed(self, step: int) -> bool:
        """Say whether the health is measured after a step."""
        return self.health and step in self.losses
