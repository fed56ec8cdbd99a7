"""Train a trunk and its branches: warm-up, constant rate, and a decay to every token budget.

There is one trunk per model (and seed, and everything else but the budget). Each branch leaves the
trunk at the start of its own decay and is a cell with its own record (Hägele et al. 2024,
2405.18392). A cosine cell is a trunk of one branch that leaves at step 0. Batches depend on seed
and step alone, so a killed run that resumes gives the record of an unbroken one, bit for bit on a
CPU.

The training loop (`advance`) asks for each step, score and probe instead of computing it
(scaling.train.requests), so that several trunks can be trained in turns.
"""

import logging
import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from scaling.budget import Resolved, resolve
from scaling.config import CellConfig
from scaling.model.moe import summary
from scaling.optim.schedule import lr_factor, set_lr
from scaling.schema import Record, find_record
from scaling.study.activity import moved
from scaling.study.curve import RunLog, finite_values
from scaling.study.curve_steps import RowSteps, curve_windows
from scaling.study.end_forecast import forecast_end
from scaling.study.lease import Held, Hold, Pulse, Stopped
from scaling.study.places import cell_folder, trunk_folder
from scaling.study.precision import settled
from scaling.train.forecast_band import ForecastBand
from scaling.train.health import copy_matrices
from scaling.train.ranks import ALONE, World, hold_at_all_ranks
from scaling.train.requests import (
    HealthRequest,
    ScoreRequest,
    SetsRequest,
    StepRequest,
    StepRequests,
    answer_each,
)
from scaling.train.step import REMEDY, Diverged, Report, Run, Setting, prepare
from scaling.train.trunk_record import finish
from scaling.train.trunk_state import (
    branch_name,
    copy_trunk,
    is_done,
    load_run,
    restore_trunk,
    save_run,
    save_state,
    start_run,
)

log = logging.getLogger(__name__)
CHECK_STEPS = 20  # A loss that is not finite is noticed after at most this many steps.


def train_trunk(
    cells: list[CellConfig],
    *,
    folders: list[Path] | None = None,
    report: Report = lambda flops: None,
    pulse: Pulse | None = None,
    hold: Hold = lambda cell, folder: nullcontext(),
    part: str = "all",
    world: World = ALONE,
    band: ForecastBand | None = None,
) -> list[Record]:
    """Train the branches of one trunk and write each one's record; return the records.

    A cell whose record is done is not trained again. Several ranks of a `world` train each cell
    together; the caller starts them (scaling.train.local_ranks does so for `machine.ranks`).

    cells: the branches, all of one trunk
    folders: a folder per cell; default runs/<study>/<run_id>. Ranks after the first have folders
        of their own, which nobody reads
    report: called with the FLOPs done since the trunk's start
    pulse: how the outside stops the work, and what it sees of the progress
    hold: wraps the training of each cell; Held says that another process trains the cell, which is
        then left out
    part: `trunk` for the shared part alone, with a checkpoint where each branch leaves it; `branch`
        for branches that start from such a checkpoint; `all` for both
    world: the ranks that train together; one process by default
    band: the forecast band that the run is compared with, and which may stop it

    Raises ValueError for cells of different trunks or an impossible setting, before anything is
    trained, and Stopped after a checkpoint where `pulse` asks to stop.
    """
    cells = [settled(c) for c in cells]
    places = dict(
        zip((c.run_id() for c in cells), folders or [cell_folder(c) for c in cells], strict=True)
    )
    trunk = folders[0] / ".trunk" if folders else trunk_folder(cells[0])
    setting = prepare(longest(cells), report, pulse, world, band=band)
    hold = hold_at_all_ranks(world, hold)
    answer_each(trunk_requests(cells, setting, trunk=trunk, places=places, hold=hold, part=part))
    order = in_order(cells)
    records = [find_record(places[c.run_id()] / "record.json") for c in order]
    return [r for r in records if r is not None]


def longest(cells: list[CellConfig]) -> CellConfig:
    """Return the cell of a trunk with the most steps; ValueError for cells of several trunks."""
    if len({c.trunk_id() for c in cells}) != 1:
        raise ValueError("the cells are of different trunks; group them by trunk_id first")
    return max(cells, key=lambda c: resolve(c).n_steps)


def in_order(cells: list[CellConfig]) -> list[CellConfig]:
    """Return the branches of a trunk in the order in which they leave it."""
    return sorted(cells, key=lambda c: (resolve(c).leaves, resolve(c).n_steps))


def trunk_requests(
    cells: list[CellConfig],
    setting: Setting,
    *,
    trunk: Path,
    places: dict[str, Path],
    hold: Hold,
    part: str,
    on_branch_point: Callable[[CellConfig], None] = lambda cell: None,
) -> StepRequests[None]:
    """Train the branches of one trunk that are not done, asking for each step (`train_trunk`).

    cells: the branches, all of one trunk
    setting: of the longest cell
    trunk: the folder of the trunk's checkpoints
    places: the folder of each cell, by run_id
    hold: wraps the training of each cell, at every rank (`hold_at_all_ranks`)
    part: as in `train_trunk`, or `lead`: the longest cell alone is trained here, and held from the
        start
    on_branch_point: called with a cell as soon as the checkpoint where it leaves the trunk is
        written: with all cells for the part `trunk`, with all but the longest for `lead`
    """
    order = in_order(cells)
    undone = {c.run_id() for c in order if not is_done(places[c.run_id()] / "record.json")}
    undone = setting.world.share(undone)
    pending = [c for c in order if c.run_id() in undone]
    run = start_run(setting, trunk, pending, places, part=part)
    if part == "lead" and pending:
        yield from train_longest(
            run,
            setting,
            pending,
            trunk=trunk,
            places=places,
            hold=hold,
            on_branch_point=on_branch_point,
        )
        return
    for cell in pending:
        folder = places[cell.run_id()]
        try:
            if part == "trunk":
                yield from grow(run, setting, cell, trunk)
                on_branch_point(cell)
            else:
                with hold(cell, folder):
                    if part == "branch":
                        load_run(run, setting, trunk, name=branch_name(cell), must=True)
                    last = part == "branch" or cell is pending[-1]
                    yield from train_cell(run, setting, cell, folder, trunk=trunk, last=last)
        except Held:
            log.info("cell %s is trained elsewhere", cell.run_id())
        except Diverged as error:  # of the trunk itself: each later branch of it ends like this
            with hold(cell, folder):
                finish(run, setting, cell, folder, score=None, error=str(error))


def train_longest(
    run: Run,
    setting: Setting,
    pending: list[CellConfig],
    *,
    trunk: Path,
    places: dict[str, Path],
    hold: Hold,
    on_branch_point: Callable[[CellConfig], None],
) -> StepRequests[None]:
    """Train the longest cell; pass each other one to `on_branch_point` where it leaves the trunk.

    run: the trunk at its last checkpoint
    setting: of the longest cell
    pending: the cells that are not done, the longest last
    trunk, places, hold, on_branch_point: as in `trunk_requests`
    """
    *others, last = pending
    folder = places[last.run_id()]

    def grow_trunk() -> StepRequests[str]:
        """Grow the trunk to where the last of the others leaves it; return why it diverged."""
        try:
            while others:
                yield from grow(run, setting, others[0], trunk)
                on_branch_point(others.pop(0))
        except Diverged as error:
            return str(error)
        return ""

    try:
        with hold(last, folder):
            diverged = yield from grow_trunk()
            if diverged:
                finish(run, setting, last, folder, score=None, error=diverged)
            else:
                yield from train_cell(run, setting, last, folder, trunk=trunk, last=True)
    except Held:
        log.info("cell %s is trained elsewhere", last.run_id())
        diverged = yield from grow_trunk()
    for cell in others:  # of a trunk that diverged
        place = places[cell.run_id()]
        with hold(cell, place):
            finish(run, setting, cell, place, score=None, error=diverged)


def train_cell(
    run: Run, setting: Setting, cell: CellConfig, folder: Path, *, trunk: Path, last: bool
) -> StepRequests[None]:
    """Bring the trunk to where the cell leaves it, then train the cell's own part.

    run: the trunk, at or before the step where the cell leaves it
    setting: of the trunk
    cell: the branch
    folder: the cell's own
    trunk: the folder of the trunk's checkpoints
    last: whether no other cell goes on from this trunk, which then needs no copy
    """
    try:
        yield from advance(run, setting, cell, folder=trunk, until=resolve(cell).leaves)
        save_run(run, setting, trunk)
        yield from train_branch(run, setting, cell, folder, last=last)
    except Diverged as error:
        finish(run, setting, cell, folder, score=None, error=str(error))


def grow(run: Run, setting: Setting, cell: CellConfig, trunk: Path) -> StepRequests[None]:
    """Bring the trunk to where the cell leaves it; write a checkpoint there for the cell's job."""
    yield from advance(run, setting, cell, folder=trunk, until=resolve(cell).leaves)
    if run.step == resolve(cell).leaves:  # a trunk beyond it wrote this checkpoint before
        save_run(run, setting, trunk)
        save_run(run, setting, trunk, name=branch_name(cell))


def train_branch(
    run: Run, setting: Setting, cell: CellConfig, folder: Path, *, last: bool
) -> StepRequests[None]:
    """Decay to the cell's budget, score the cell, write its record.

    The trunk is then as it was before, unless this is its `last` branch, which needs no copy of it.

    run: the trunk at the step where the cell leaves it
    setting: of the trunk
    cell: the branch
    folder: the cell's own
    last: whether no other cell goes on from this trunk
    """
    trunk = None if last else copy_trunk(run, setting)
    setting = setting.for_branch(cell)
    load_run(run, setting, folder)
    try:
        with RunLog(
            folder,
            cell.log,
            name=cell.run_id(),
            group=cell.study,
            details=asdict(cell),
            rows=run.rows,
        ) as curve:
            yield from advance(
                run, setting, cell, folder=folder, until=resolve(cell).n_steps, curve=curve
            )
            score = yield ScoreRequest(run=run, setting=setting)
            sets = yield SetsRequest(run=run, setting=setting)
            record = finish(run, setting, cell, folder, score=score, sets=sets)
            curve.summary(
                {
                    "test_loss": record.test_loss,
                    "flops": record.flops,
                    "bits_per_byte": record.bits_per_byte,
                }
            )
    except Diverged as error:
        finish(run, setting, cell, folder, score=None, error=str(error))
    if trunk is not None:
        restore_trunk(run, setting, trunk)


def advance(
    run: Run,
    setting: Setting,
    cell: CellConfig,
    *,
    folder: Path,
    until: int,
    curve: RunLog | None = None,
) -> StepRequests[None]:
    """Train from `run.step` to step `until` on the cell's schedule; write curve and checkpoints.

    This is the training loop.

    run: the model in training, changed in place
    setting: what stays the same along the trunk
    cell: whose schedule, clipping and checkpoint interval are used
    folder: for the checkpoints
    until: the step after which the loop ends
    curve: the cell's curve; None on the trunk, whose rows go into each branch's curve

    Raises Diverged when too many steps are skipped, and Stopped, after a checkpoint, when asked to.
    """
    resolved, pulse = resolve(cell), setting.pulse
    every, clip = cell.machine.checkpoint_seconds, cell.optim.clip
    saved_at, began = time.monotonic(), setting.clock() - run.seconds
    loss_sum, grad_norm = run.loss_sum, 0.0
    steps = RowSteps.of(cell, setting.band.steps)
    run.model.train()
    while run.step < until:
        set_lr(run.optimizer, rate_at(run.step, cell, resolved))
        before = copy_matrices(run.model) if steps.probed(run.step + 1) else None
        skipped = run.skipped

        # Batch, forward, backward, clip and optimiser step: scaling.train.step.train_step.
        loss, norm = yield StepRequest(run=run, setting=setting, clip=clip)
        if run.skipped == skipped:
            loss_sum, grad_norm, run.loss_steps = loss_sum + loss, norm, run.loss_steps + 1
        run.step += 1

        if run.step in steps.rows or run.step % CHECK_STEPS == 0:
            run.loss_sum, run.seconds = loss_sum, setting.clock() - began
            if not math.isfinite(run.loss_sum):
                raise Diverged(f"the loss stopped being finite before step {run.step}; {REMEDY}")
            setting.report(resolved.shape.flops_per_token * resolved.tokens_at(run.step))
        if run.step in steps.rows:
            yield from write_row(run, setting, cell, steps, grad_norm, curve, before)
            loss_sum = run.loss_sum
            forecast(run, setting, cell)
        pulse.step = run.step
        moved()

        save = pulse.save or time.monotonic() - saved_at > every
        stop, save = setting.world.gravest(pulse.stop, save, setting.device)
        if stop == "superseded":  # another process has the work now: nothing may be written
            raise Stopped(stop)
        if stop or save:
            run.loss_sum, run.seconds = loss_sum, setting.clock() - began
            if curve is None:
                save_run(run, setting, folder)
            else:
                save_state(run, setting, folder)
            saved_at, pulse.save = time.monotonic(), False
        if stop:
            raise Stopped(stop)
    run.loss_sum = loss_sum


def rate_at(step: int, cell: CellConfig, resolved: Resolved) -> float:
    """Return the learning rate of a step over the trunk's peak; a branch's batch may scale it."""
    rate = lr_factor(
        step,
        schedule=cell.schedule,
        n_steps=resolved.n_steps,
        decay_start=resolved.decay_start,
    )
    return rate * resolved.own_rate if step >= resolved.leaves else rate


def write_row(
    run: Run,
    setting: Setting,
    cell: CellConfig,
    steps: RowSteps,
    grad_norm: float,
    curve: RunLog | None,
    before: list[Tensor] | None,
) -> StepRequests[None]:
    """Add the row that is due after a step to the curve.

    run: the model in training; its `rows` get the new one, and the sum of training losses starts
        anew where the row holds their mean
    setting: what stays the same along the trunk
    cell: whose budget the run is trained for
    steps: of the cell's rows
    grad_norm: of the last step that was not skipped
    curve: the cell's curve; None on the trunk
    before: the matrices before the last step, for the row's health; None leaves the health out

    Raises Diverged for a test loss of the forecast band that is not finite.
    """
    pulse, in_band = setting.pulse, run.step in setting.band.steps
    has_loss = run.step in steps.losses and run.loss_steps > 0  # not where all steps were skipped
    scored = run.step in steps.tests and (has_loss or run.step not in steps.losses)
    if not (has_loss or scored):
        return
    row = row_of(run, resolve(cell), grad_norm, has_loss=has_loss)
    if has_loss and before is not None:
        row |= yield HealthRequest(run=run, setting=setting, before=before)
    if scored:
        windows = curve_windows(setting.resolved, cell.eval.curve_tokens)
        score = yield ScoreRequest(run=run, setting=setting, windows=windows)
        row["test_loss"] = score.loss
        pulse.test_loss = score.loss if math.isfinite(score.loss) else None
    row, n_values = finite_values(row), len(row)
    if len(row) < n_values:
        log.warning("step %d: some of what is measured is not finite, and left out", run.step)
    if not (has_loss or "test_loss" in row):
        return
    run.rows.append(row)
    if has_loss:
        run.loss_sum, run.loss_steps = 0.0, 0
    if in_band and "test_loss" not in row:
        raise Diverged(f"the test loss at step {run.step} is not finite; {REMEDY}")
    if in_band:
        pulse.stop = setting.band.compare(run.rows) or pulse.stop
    if curve is not None:
        curve.log(row)


def forecast(run: Run, setting: Setting, cell: CellConfig) -> None:
    """Put the forecast of the cell's end into the pulse, made anew after a row with a test loss."""
    if setting.world.first and run.rows and "test_loss" in run.rows[-1]:
        unique = setting.batches.unique(resolve(cell).n_tokens)
        setting.pulse.at_end = forecast_end(run.rows, cell, unique_tokens=unique)


def row_of(run: Run, resolved: Resolved, grad_norm: float, *, has_loss: bool) -> dict[str, Any]:
    """Return a row of the curve without its test loss.

    run: the model in training
    resolved: the cell's step count, batch and shape
    grad_norm: of the last step that was not skipped
    has_loss: whether the row has the mean training loss since the last row that had one
    """
    tokens = resolved.tokens_at(run.step)
    row = {
        "step": run.step,
        "tokens": tokens,
        "flops": resolved.shape.flops_per_token * tokens,
        **({"train_loss": run.loss_sum / run.loss_steps} if has_loss else {}),
        "lr": run.optimizer.param_groups[0]["lr"],
        "grad_norm": grad_norm,
        "seconds": run.seconds,
        "tokens_per_second": tokens / max(run.seconds, 1e-9),
        **(summary(run.model.routings()) if has_loss else {}),
    }
    return row | ({"skipped_steps": run.skipped} if run.skipped else {})
