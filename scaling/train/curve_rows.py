"""The rows of a curve: after which steps, what they hold, and which have a test loss.

A row of CURVE_STEPS holds the mean training loss since the row before it; every third has had a
test loss since the first version. Further test losses, on the same windows of the test part, are
added where the curve's test losses have cost at most MOST_SHARE of the FLOPs so far: after the
other rows of CURVE_STEPS and at DECAY_TESTS steps of a decay. A long trunk has about 40, a short one
fewer. The steps depend on the step, the batch and the cell's own decay alone, so that a branch has
the rows of its trunk, whichever its other branches are.
"""

import logging
import math
from typing import Any

from torch import Tensor

from scaling.budget import Resolved, resolve
from scaling.config import CellConfig
from scaling.model.moe import summary
from scaling.study.curve import RunLog, finite_values
from scaling.train.requests import HealthRequest, ScoreRequest, StepRequests
from scaling.train.step import REMEDY, Diverged, Run, Setting

log = logging.getLogger(__name__)
# The steps that have a row in the curve: about 12 a decade from step 10 on, the same in every cell.
CURVE_STEPS = sorted({round(10 * 1.22**k) for k in range(80)})
TEST_EVERY = 3  # Every third of the curve's rows has a test loss, whatever that costs.
MOST_SHARE = 0.05  # The most that test losses may cost, of the FLOPs of training, to be added.
DECAY_TESTS = 8  # Test losses in a decay, evenly spaced: a schedule law needs its shape.
FORWARD_SHARE = 1 / 3  # FLOPs of a forward pass over those of a training step on the same tokens.


def curve_windows(resolved: Resolved, curve_tokens: int) -> int:
    """Return how many windows of the test set a row of the curve is scored on."""
    return max(1, curve_tokens // resolved.shape.context)


def all_test_steps(setting: Setting, cell: CellConfig) -> frozenset[int]:
    """Return the steps of a cell after which the curve gets a test loss, its band's included."""
    return setting.band.steps | test_steps(resolve(cell), curve_tokens=cell.eval.curve_tokens)


def test_steps(resolved: Resolved, *, curve_tokens: int) -> frozenset[int]:
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


test_steps.__test__ = False  # type: ignore[attr-defined]  pytest: no test


def flops_of_tests(rows: list[dict[str, Any]], resolved: Resolved, *, curve_tokens: int) -> float:
    """Return the FLOPs that the test losses of a curve's rows cost."""
    tokens = curve_windows(resolved, curve_tokens) * resolved.shape.context
    n_tests = sum("test_loss" in row for row in rows)
    return FORWARD_SHARE * n_tests * tokens * resolved.shape.flops_per_token


def row_of(
    run: Run, resolved: Resolved, grad_norm: float, *, train_loss: float | None = None
) -> dict[str, Any]:
    """Return a row of the curve without its test loss.

    run: the model in training
    resolved: the cell's step count, batch and shape
    grad_norm: of the last step that was not skipped
    train_loss: mean since the last row that had one; None in a row that is for a test loss alone
    """
    tokens = run.step * resolved.batch_tokens
    row = {
        "step": run.step,
        "tokens": tokens,
        "flops": resolved.shape.flops_per_token * tokens,
        **({} if train_loss is None else {"train_loss": train_loss}),
        "lr": run.optimizer.param_groups[0]["lr"],
        "grad_norm": grad_norm,
        "seconds": run.seconds,
        "tokens_per_second": tokens / max(run.seconds, 1e-9),
    }
    if train_loss is not None:
        row |= summary(run.model.routings())
    return row | ({"skipped_steps": run.skipped} if run.skipped else {})


def write_row(
    run: Run,
    setting: Setting,
    row: dict[str, Any],
    curve: RunLog | None,
    *,
    scored: bool,
    before: list[Tensor] | None = None,
) -> StepRequests[None]:
    """Add a row to the curve, with what is measured for it.

    run: the model in training; its `rows` get the new one
    setting: what stays the same along the trunk
    row: what is known without a measurement (`row_of`)
    curve: the cell's curve; None on the trunk
    scored: whether the row gets a test loss
    before: the matrices before the last step, for the row's health; None leaves the health out

    Raises Diverged for a test loss of the forecast band that is not finite.
    """
    if before is not None:
        row |= yield HealthRequest(run=run, setting=setting, before=before)
    if scored:
        windows = curve_windows(setting.resolved, setting.cell.eval.curve_tokens)
        score = yield ScoreRequest(run=run, setting=setting, windows=windows)
        row["test_loss"] = score.loss
        setting.pulse.test_loss = score.loss if math.isfinite(score.loss) else None
    row, n_values = finite_values(row), len(row)
    if len(row) < n_values:
        log.warning("step %d: some of what is measured is not finite, and left out", run.step)
    in_band = run.step in setting.band.steps
    if "train_loss" in row or "test_loss" in row:
        run.rows.append(row)
    if in_band and "test_loss" not in row:
        raise Diverged(f"the test loss at step {run.step} is not finite; {REMEDY}")
    if in_band:
        setting.pulse.stop = setting.band.compare(run.rows) or setting.pulse.stop
    if curve is not None and run.rows and run.rows[-1] is row:
        curve.log(row)
