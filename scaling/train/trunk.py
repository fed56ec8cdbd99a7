"""Train a trunk and its branches: warm-up, constant rate, and a decay to every token budget.

One trunk per model (and seed, and everything else but the budget); each branch leaves it at the
start of its own decay and is a cell with its own record (Hägele et al. 2024, 2405.18392). A cosine
cell is a trunk of one branch that leaves at step 0. Batches depend on seed and step alone, so a
killed run that resumes gives the record of an unbroken one, bit for bit on CPU.

What computes is asked for (scaling.train.requests), so that several trunks can be trained in turns.
"""

import logging
import math
import platform
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path

import numpy
import torch
from torch import Tensor

from scaling.budget import Resolved, resolve
from scaling.config import CellConfig
from scaling.model.moe import summary
from scaling.optim.optimizers import lr_factor, set_lr, undercooled
from scaling.schema import (
    Record,
    code_version,
    find_record,
    now,
    sha256_file,
    write_text,
)
from scaling.study.activity import moved
from scaling.study.curve import RunLog, as_written, details, line, rows_before
from scaling.study.failures import cell_folder, trunk_folder
from scaling.study.lease import Held, Pulse, Stopped
from scaling.train import checkpoint
from scaling.train.device import device_name, peak_flops, peak_memory
from scaling.train.forecast_band import FLAG, Corridor, out_of
from scaling.train.health import copy_matrices
from scaling.train.heldout import Score
from scaling.train.local_ranks import Hold, companions, in_common
from scaling.train.ranks import ALONE, World
from scaling.train.requests import HealthRequest, ScoreRequest, StepRequest, Work, alone
from scaling.train.step import (
    REMEDY,
    Diverged,
    Report,
    Run,
    Setting,
    new_run,
    prepare,
)

log = logging.getLogger(__name__)
CHECK_STEPS = 20  # a loss that is not finite is noticed after at most this many steps
CURVE_STEPS = sorted(
    {round(10 * 1.22**k) for k in range(80)}
)  # rows of the curve, the same for every cell
TEST_EVERY = 3  # of those rows, every third has a test loss too


def train_trunk(
    cells: list[CellConfig],
    *,
    folders: list[Path] | None = None,
    report: Report = lambda flops: None,
    pulse: Pulse | None = None,
    hold: Hold = lambda cell, folder: nullcontext(),
    part: str = "all",
    world: World | None = None,
    corridor: Corridor | None = None,
) -> list[Record]:
    """Train the branches of one trunk and write each one's record; return the records.

    `folders` (default: runs/<study>/<run_id>) holds a place per cell. A cell whose record is done
    is left alone. `report` is called with the FLOPs done, from the trunk's start. `pulse` is how
    the outside stops the work (Stopped is raised, after a checkpoint) and sees how far it is;
    `hold` wraps the training of each cell and may raise Held for one that another process trains,
    which is then left out. `part` is `trunk` for the shared part alone, kept for every branch,
    `branch` for branches that start from it, or `all`. Several ranks of a `world` train each cell
    together; those beside the first have `folders` of their own, which nobody reads. Without one,
    `machine.ranks` are started here. A `corridor` is watched on the way, and may stop the run.
    Raises ValueError for cells of different trunks or an impossible setting, before anything is
    trained.
    """
    places = dict(
        zip((c.run_id() for c in cells), folders or [cell_folder(c) for c in cells], strict=True)
    )
    trunk = folders[0] / ".trunk" if folders else trunk_folder(cells[0])
    started = nullcontext(world) if world else companions(cells, part=part, corridor=corridor)
    with started as ranks:
        setting = prepare(longest(cells), report, pulse, ranks, corridor=corridor)
        held = in_common(ranks, hold)
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


def branch_name(cell: CellConfig) -> str:
    """Name the checkpoint at which a cell leaves its trunk."""
    return f"step-{resolve(cell).decay_start}"


def is_done(path: Path) -> bool:
    """Say whether a record is there and done; one that is damaged is not."""
    record = find_record(path)
    return record is not None and record.status == "done"


def start_run(
    setting: Setting, folder: Path, pending: list[CellConfig], places: dict[str, Path], *, part: str
) -> Run:
    """Return the trunk at its checkpoint, or at step 0 where a pending branch left before it."""
    run = new_run(setting)
    if part == "branch":
        return run
    load_run(run, setting, folder)
    kept = {"trunk": pending, "lead": pending[:-1]}.get(part, [])
    left = setting.world.share([resolve(c).decay_start < run.step for c in pending])
    for cell in [c for c, passed in zip(pending, left, strict=True) if passed]:
        point = branch_point(cell, folder if cell in kept else None, places[cell.run_id()])
        # Read, not only looked for: one that is damaged is set aside by that.
        if not load_run(new_run(setting), setting, point.parent, name=point.stem):
            return new_run(setting)
    return run


def branch_point(cell: CellConfig, kept: Path | None, folder: Path) -> Path:
    """Return the file without which a cell needs the trunk before its decay."""
    return kept / f"{branch_name(cell)}.safetensors" if kept else folder / "checkpoint.safetensors"


def load_run(
    run: Run, setting: Setting, folder: Path, *, name: str = "checkpoint", must: bool = False
) -> bool:
    """Continue from a folder's checkpoint; False where there is none and there need not be one."""
    if setting.world.first:
        checkpoint.set_aside_damaged(folder, name)
    if setting.shared_out:  # every rank reads its part of the same files
        folder = Path(setting.world.share(str(folder)))
        seen = setting.world.all_of(read_run(run, folder, name))
        if len(set(seen)) > 1:
            raise OSError(
                f"not every rank sees {folder}; with machine.shard put `runs` where all do"
            )
        found = seen[0]
    else:
        found = setting.world.share(setting.world.first and read_run(run, folder, name))
    if not found and must:
        raise FileNotFoundError(
            f"no {folder / name}.safetensors, where this branch leaves its trunk; "
            "run the sweep again to train the trunk"
        )
    if found and setting.world.size > 1 and not setting.shared_out:
        values, run.rows = setting.world.share((run.state(), run.rows))
        checkpoint.spread(run.model, run.optimizer, setting.world)
        for key, value in values.items():
            setattr(run, key, value)
    return found


def read_run(run: Run, folder: Path, name: str) -> bool:
    """Read a checkpoint and the curve before it; False where there is none."""
    path = folder / f"{name}.safetensors"
    known = checkpoint.peek(path)
    # Steps that are skipped may leave a row out; else each has its own by then.
    wanted = (
        [s for s in CURVE_STEPS if s <= known.get("step", 0)] if not known.get("skipped") else []
    )
    rows = rows_before(path, curve_path(folder, name), steps=wanted)
    if rows is None:
        return False
    state = checkpoint.load(folder, model=run.model, optimizer=run.optimizer, name=name)
    if state is None:
        return False
    for key, value in state.items():
        setattr(run, key, value)
    run.rows = [r for r in rows if r["step"] <= run.step]
    return True


def curve_path(folder: Path, name: str) -> Path:
    """Return the file of the curve before a checkpoint."""
    return folder / ("metrics.jsonl" if name == "checkpoint" else f"{name}.jsonl")


def save_run(run: Run, setting: Setting, folder: Path, *, name: str = "checkpoint") -> None:
    """Write the trunk's curve and checkpoint."""
    fence(setting)
    if setting.world.first:
        write_text(curve_path(folder, name), "".join(map(line, run.rows)))
    save_state(run, setting, folder, name=name)


def save_state(run: Run, setting: Setting, folder: Path, *, name: str = "checkpoint") -> None:
    """Write what a run continues from: by rank 0, or by all ranks where each has its part."""
    fence(setting)
    world = setting.world if setting.shared_out else ALONE
    if setting.world.first or setting.shared_out:
        checkpoint.save(
            folder,
            model=run.model,
            optimizer=run.optimizer,
            state=run.state(),
            name=name,
            world=world,
        )


def fence(setting: Setting) -> None:
    """Raise Stopped at every rank where somebody else has taken over what rank 0 holds."""
    if setting.world.share(setting.world.first and setting.pulse.superseded):
        raise Stopped("superseded")


def copy_trunk(run: Run, setting: Setting) -> tuple[Run, dict[str, Tensor]]:
    """Copy the trunk, its tensors to the CPU: by rank 0 for all, or by each rank its part."""
    keeps = setting.world.first or setting.shared_out
    held = checkpoint.snapshot(run.model, run.optimizer) if keeps else {}
    return replace(run, rows=list(run.rows)), held


def restore_trunk(run: Run, setting: Setting, trunk: tuple[Run, dict[str, Tensor]]) -> None:
    """Put the copy of a trunk back."""
    kept, held = trunk
    if held:
        checkpoint.restore(run.model, run.optimizer, held)
    if setting.world.size > 1 and not setting.shared_out:
        checkpoint.spread(run.model, run.optimizer, setting.world)
    for name, value in kept.state().items():
        setattr(run, name, value)
    run.rows = kept.rows


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
            details=details(cell),
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
    row, whole = as_written(row), len(row)
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


def finish(
    run: Run,
    setting: Setting,
    cell: CellConfig,
    folder: Path,
    *,
    score: Score | None,
    error: str | None = None,
) -> Record:
    """Write the cell's weights and, last of all, its record."""
    fence(setting)
    resolved = resolve(cell)
    if score is not None and not math.isfinite(score.loss + score.standard_error):
        score, error = None, "the test loss is not finite; lower optim.peak_lr"
    if score is not None:
        path, state = folder / "model.safetensors", {"step": run.step}
        checkpoint.save_whole(path, run.model, setting.world, state=state)
    train_loss = run.rows[-1].get("train_loss") if run.rows else None
    seconds = max(run.seconds, 1e-9)
    done_tokens = run.step * resolved.batch_tokens
    speed = done_tokens / seconds
    peak = peak_flops(setting.device, torch.get_num_threads(), setting.cell.machine.precision)
    peak = peak and peak * setting.world.size
    versions = {
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "python": platform.python_version(),
    }
    record = Record(
        run_id=cell.run_id(),
        study=cell.study,
        status="done" if score else "diverged",
        seed=cell.seed,
        params=resolved.shape.params,
        tokens=resolved.n_tokens,
        unique_tokens=setting.batches.unique(resolved.n_tokens),
        flops=resolved.flops,
        flops_6nd=resolved.flops_6nd,
        test_loss=score.loss if score else None,
        test_loss_se=score.standard_error if score else None,
        bits_per_byte=score.bits_per_byte if score else None,
        train_loss=train_loss,
        steps=run.step,
        batch_tokens=resolved.batch_tokens,
        peak_lr=resolved.peak_lr,
        schedule=cell.schedule.name,
        trunk=cell.trunk_id(),
        seconds=run.seconds,
        device=device_name(setting.device),
        device_seconds=run.seconds * setting.world.size,
        peak_memory_bytes=peak_memory(setting.device),
        tokens_per_second=speed,
        mfu=speed * resolved.shape.flops_per_token / peak if peak else None,
        config=asdict(cell),
        versions={**versions, "scaling": code_version()["version"] or ""},
        git_sha=code_version()["git_sha"],
        started=setting.started,
        ended=now(),
        error=error,
        metrics=known(setting),
        inputs={
            "corpus": setting.corpus.sha256,
            "tokenizer": sha256_file(setting.corpus.tokenizer_path),
        },
        flags=flags(run, cell, setting),
        left_out=setting.corpus.meta.get("left_out", {}),
    )
    record.write(folder / "record.json")
    return record


def known(setting: Setting) -> dict[str, float]:
    """Return what is known of the corpus, tokens and least loss, and of how it was trained."""
    found = {"corpus_tokens": float(setting.batches.windows * setting.batches.context)}
    if setting.test.bayes_loss is not None:
        found["bayes_loss"] = setting.test.bayes_loss
    if setting.stacked:
        found["stacked"] = 1.0
    return found


def flags(run: Run, cell: CellConfig, setting: Setting) -> list[str]:
    """Return what a reader of the cell's loss should know (Record.flags)."""
    resolved, left = resolve(cell), out_of(setting.corridor.readings(run.rows))
    hot = undercooled(cell.schedule, n_steps=resolved.n_steps, decay_start=resolved.decay_start)
    found = {"undercooled": hot, "skipped_steps": run.skipped > 0, FLAG: bool(left)}
    return [name for name, holds in found.items() if holds]
