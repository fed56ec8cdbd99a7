"""Train a trunk and its branches: warm-up, constant rate, and a decay to every token budget.

One trunk per model (and seed, and everything else but the budget); each branch leaves it at the
start of its own decay and is a cell with its own record (Hägele et al. 2024, 2405.18392). A cosine
cell is a trunk of one branch that leaves at step 0. Batches depend on seed and step alone, so a
killed run that resumes gives the record of an unbroken one, bit for bit on CPU.

What computes is asked for (scaling.train.requests), so that several trunks can be trained in turns.
"""

import logging
import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

from torch import Tensor

from scaling.budget import Resolved, resolve
from scaling.config import CellConfig
from scaling.model.moe import summary
from scaling.optim.schedule import lr_factor, set_lr
from scaling.schema import (
    Record,
    find_record,
)
from scaling.study.activity import moved
from scaling.study.curve import RunLog, finite_values
from scaling.study.lease import Held, Hold, Pulse, Stopped
from scaling.study.places import cell_folder, trunk_folder
from scaling.train.forecast_band import Corridor
from scaling.train.health import copy_matrices
from scaling.train.ranks import ALONE, World, in_common
from scaling.train.requests import HealthRequest, ScoreRequest, StepRequest, Work, alone
from scaling.train.step import (
    REMEDY,
    Diverged,
    Report,
    Run,
    Setting,
    prepare,
)
from scaling.train.trunk_record import finish
from scaling.train.trunk_state import (
    CURVE_STEPS,
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
CHECK_STEPS = 20  # a loss that is not finite is noticed after at most this many steps
TEST_EVERY = 3  # of those rows, every third has a test loss too


def train_trunk(
    cells: list[CellConfig],
    *,
    folders: list[Path] | None = None,
    report: Report = lambda flops: None,
    pulse: Pulse | None = None,
    hold: Hold = lambda cell, folder: nullcontext(),
    part: str = "all",
    world: World = ALONE,
    corridor: Corridor | None = None,
) -> list[Record]:
    """Train the branches of one trunk and write each one's record; return the records.

    `folders` (default: runs/<study>/<run_id>) holds a place per cell. A cell whose record is done
    is left alone. `report` is called with the FLOPs done, from the trunk's start. `pulse` is how
    the outside stops the work (Stopped is raised, after a checkpoint) and sees how far it is;
    `hold` wraps the training of each cell and may raise Held for one that another process trains,
    which is then left out. `part` is `trunk` for the shared part alone, kept for every branch,
    `branch` for branches that start from it, or `all`. Several ranks of a `world` train each cell
    together; those beside the first have `folders` of their own, which nobody reads. The caller
    starts them (scaling.train.local_ranks does for `machine.ranks`). A `corridor` is watched on the
    way, and may stop the run. Raises ValueError for cells of different trunks or an impossible
    setting, before anything is trained.
    """
    places = dict(
        zip((c.run_id() for c in cells), folders or [cell_folder(c) for c in cells], strict=True)
    )
    trunk = folders[0] / ".trunk" if folders else trunk_folder(cells[0])
    setting = prepare(longest(cells), report, pulse, world, corridor=corridor)
    held = in_common(world, hold)
    alone(trunk_work(cells, setting, trunk=trunk, places=places, hold=held, part=part))
    order = sorted(cells, key=lambda c: resolve(c).n_steps)
    found = [find_record(places[c.run_id()] / "record.json") for c in order]
    return [r for r in found if r is not None]


def longest(cells: list[CellConfig]) -> CellConfig:
    """Return the cell of a trunk with the most steps; ValueError for cells of several trunks."""
    if len({c.trunk_id() for c in cells}) != 1:
        raise ValueError("the cells are of different trunks; group them by trunk_id first")
    return max(cells, key=lambda c: resolve(c).n_steps)


def trunk_work(
    cells: list[CellConfig],
    setting: Setting,
    *,
    trunk: Path,
    places: dict[str, Path],
    hold: Hold,
    part: str,
    kept: Callable[[CellConfig], None] = lambda cell: None,
) -> Work[None]:
    """Train the branches of one trunk that are not done, asking for each step (`train_trunk`).

    With the part `lead` the longest alone is trained here, and held from the start; `kept` is told
    each other cell as soon as its branch can start from a point of the trunk that is kept. So it is
    told all cells where the part is the `trunk`.
    """
    order = sorted(cells, key=lambda c: resolve(c).n_steps)
    undone = {c.run_id() for c in order if not is_done(places[c.run_id()] / "record.json")}
    undone = setting.world.share(undone)
    pending = [c for c in order if c.run_id() in undone]
    run = start_run(setting, trunk, pending, places, part=part)
    if part == "lead" and pending:
        yield from lead(run, setting, pending, trunk=trunk, places=places, hold=hold, kept=kept)
        return
    for cell in pending:
        folder = places[cell.run_id()]
        try:
            if part == "trunk":
                yield from grow(run, setting, cell, trunk)
                kept(cell)
            else:
                with hold(cell, folder):
                    if part == "branch":
                        load_run(run, setting, trunk, name=branch_name(cell), must=True)
                    last = part == "branch" or cell is pending[-1]
                    yield from train_cell(run, setting, cell, folder, trunk=trunk, last=last)
        except Held:
            log.info("cell %s is trained elsewhere", cell.run_id())
        except Diverged as error:  # the trunk itself: each branch of it that is left ends so
            with hold(cell, folder):
                finish(run, setting, cell, folder, score=None, error=str(error))


def lead(
    run: Run,
    setting: Setting,
    pending: list[CellConfig],
    *,
    trunk: Path,
    places: dict[str, Path],
    hold: Hold,
    kept: Callable[[CellConfig], None],
) -> Work[None]:
    """Train the last of the pending cells, handing on the others where they leave the trunk."""
    *others, last = pending
    folder = places[last.run_id()]

    def shared() -> Work[str]:
        try:
            while others:
                yield from grow(run, setting, others[0], trunk)
                kept(others.pop(0))
        except Diverged as error:
            return str(error)
        return ""

    try:
        with hold(last, folder):
            ended = yield from shared()
            if ended:
                finish(run, setting, last, folder, score=None, error=ended)
            else:
                yield from train_cell(run, setting, last, folder, trunk=trunk, last=True)
    except Held:
        log.info("cell %s is trained elsewhere", last.run_id())
        ended = yield from shared()
    for cell in others:  # of a trunk that diverged
        place = places[cell.run_id()]
        with hold(cell, place):
            finish(run, setting, cell, place, score=None, error=ended)


def train_cell(
    run: Run, setting: Setting, cell: CellConfig, folder: Path, *, trunk: Path, last: bool
) -> Work[None]:
    """Bring the trunk to where the cell leaves it, then train the cell's own part.

    Nothing goes on from there where the cell is the `last` that is trained on this run.
    """
    try:
        yield from advance(run, setting, cell, folder=trunk, until=resolve(cell).decay_start)
        save_run(run, setting, trunk)
        yield from train_branch(run, setting, cell, folder, last=last)
    except Diverged as error:
        finish(run, setting, cell, folder, score=None, error=str(error))


def grow(run: Run, setting: Setting, cell: CellConfig, trunk: Path) -> Work[None]:
    """Bring the trunk to where the cell leaves it and keep that point for the cell's own job."""
    yield from advance(run, setting, cell, folder=trunk, until=resolve(cell).decay_start)
    if run.step == resolve(cell).decay_start:  # beyond it the point was kept before
        save_run(run, setting, trunk)
        save_run(run, setting, trunk, name=branch_name(cell))


def train_branch(
    run: Run, setting: Setting, cell: CellConfig, folder: Path, *, last: bool
) -> Work[None]:
    """Decay to the cell's budget, score it, write its record.

    The trunk is then as it was, unless this is its `last` branch, which needs no copy of it.
    """
    trunk = None if last else copy_trunk(run, setting)
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
            record = finish(run, setting, cell, folder, score=score)
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
) -> Work[None]:
    """Train from `run.step` to step `until` on the cell's schedule, writing curve and checkpoints.

    Raises Diverged when too many steps are skipped, and Stopped, after a checkpoint, when asked to.
    """
    resolved, pulse = resolve(cell), setting.pulse
    every, clip = cell.machine.checkpoint_seconds, cell.optim.clip
    saved, began = time.monotonic(), setting.clock() - run.seconds
    total, gradient = run.loss_sum, 0.0
    logged = _CURVE | setting.corridor.steps | {resolved.n_steps}
    run.model.train()
    while run.step < until:
        due = run.step + 1 in logged
        set_lr(
            run.optimizer,
            lr_factor(
                run.step,
                schedule=cell.schedule,
                n_steps=resolved.n_steps,
                decay_start=resolved.decay_start,
            ),
        )
        before = copy_matrices(run.model) if due and cell.log.health else None
        skipped = run.skipped
        loss, norm = yield StepRequest(run=run, setting=setting, clip=clip)
        if run.skipped == skipped:
            total, gradient, run.loss_steps = total + loss, norm, run.loss_steps + 1
        run.step += 1
        if due or run.step % CHECK_STEPS == 0:
            run.loss_sum, run.seconds = total, setting.clock() - began
            if not math.isfinite(run.loss_sum):
                raise Diverged(f"the loss stopped being finite before step {run.step}; {REMEDY}")
            setting.report(resolved.shape.flops_per_token * resolved.batch_tokens * run.step)
        if due and run.loss_steps:  # a row of skipped steps alone would have no loss
            yield from write_row(run, setting, resolved, gradient, curve, before)
            total = 0.0
        pulse.step = run.step
        moved()
        wanted = pulse.save or time.monotonic() - saved > every
        stop, wanted = setting.world.gravest(pulse.stop, wanted, setting.device)
        if stop == "superseded":  # what is here belongs to another now: nothing is written
            raise Stopped(stop)
        if stop or wanted:
            run.loss_sum, run.seconds = total, setting.clock() - began
            if curve is None:
                save_run(run, setting, folder)
            else:
                save_state(run, setting, folder)
            saved, pulse.save = time.monotonic(), False
        if stop:
            raise Stopped(stop)
    run.loss_sum = total


_CURVE = frozenset(CURVE_STEPS)


def write_row(
    run: Run,
    setting: Setting,
    resolved: Resolved,
    gradient: float,
    curve: RunLog | None,
    before: list[Tensor] | None,
) -> Work[None]:
    """Add a row to the curve: the mean training loss since the last one, at times a test loss.

    `before` are the matrices before the last step, for the row's health; None leaves it out.
    """
    tokens = run.step * resolved.batch_tokens
    row = {
        "step": run.step,
        "tokens": tokens,
        "flops": resolved.shape.flops_per_token * tokens,
        "train_loss": run.loss_sum / run.loss_steps,
        "lr": run.optimizer.param_groups[0]["lr"],
        "grad_norm": gradient,
        "seconds": run.seconds,
        "tokens_per_second": tokens / max(run.seconds, 1e-9),
        **summary(run.model.routings()),
    }
    if run.skipped:
        row["skipped_steps"] = run.skipped
    if before is not None:
        row |= yield HealthRequest(run=run, setting=setting, before=before)
    watched = run.step in setting.corridor.steps
    if watched or (run.step in _CURVE and CURVE_STEPS.index(run.step) % TEST_EVERY == 0):
        windows = max(1, setting.cell.eval.curve_tokens // resolved.shape.context)
        score = yield ScoreRequest(run=run, setting=setting, windows=windows)
        row["test_loss"] = score.loss
        setting.pulse.test_loss = score.loss if math.isfinite(score.loss) else None
    row, whole = finite_values(row), len(row)
    if len(row) < whole:
        log.warning("step %d: some of what is measured is not finite, and left out", run.step)
    run.rows.append(row)
    run.loss_sum, run.loss_steps = 0.0, 0
    if watched and "test_loss" not in row:
        raise Diverged(f"the test loss at step {run.step} is not finite; {REMEDY}")
    if watched:
        setting.pulse.stop = setting.corridor.seen(run.rows) or setting.pulse.stop
    if curve is not None:
        curve.log(row)
