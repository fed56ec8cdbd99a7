"""A trunk's state on disk and in memory: checkpoints, branch points, copies."""

from dataclasses import replace
from pathlib import Path

from torch import Tensor

from scaling.budget import resolve
from scaling.config import CellConfig
from scaling.schema import (
    find_record,
    write_text,
)
from scaling.study.curve import json_line, rows_before
from scaling.study.curve_steps import CURVE_STEPS
from scaling.study.lease import Stopped
from scaling.train import checkpoint
from scaling.train.ranks import ALONE
from scaling.train.step import Run, Setting, new_run


def branch_name(cell: CellConfig) -> str:
    """Name the checkpoint at which a cell leaves its trunk."""
    return f"step-{resolve(cell).leaves}"


def is_done(path: Path) -> bool:
    """Say whether a record is there and done; a damaged record is not."""
    record = find_record(path)
    return record is not None and record.status == "done"


def start_run(
    setting: Setting, folder: Path, pending: list[CellConfig], places: dict[str, Path], *, part: str
) -> Run:
    """Return the trunk at its checkpoint, or at step 0 where a pending branch cannot start there.

    A pending branch that left the trunk before its checkpoint needs a checkpoint of its own, or the
    trunk's branch point.

    setting: what stays the same along the trunk
    folder: of the trunk's checkpoints
    pending: the cells that are not done, in the order of their steps
    places: the folder of each cell, by run_id
    part: as in `trunk_requests`; a `branch` starts from its branch point and reads no checkpoint
    """
    run = new_run(setting)
    if part == "branch":
        return run
    load_run(run, setting, folder)
    on_trunk = {"trunk": pending, "lead": pending[:-1]}.get(part, [])
    passed_points = setting.world.share([resolve(c).leaves < run.step for c in pending])
    for cell in [c for c, passed in zip(pending, passed_points, strict=True) if passed]:
        point = branch_point(cell, folder if cell in on_trunk else None, places[cell.run_id()])
        # Reading it sets aside a file that is damaged.
        if not load_run(new_run(setting), setting, point.parent, name=point.stem):
            return new_run(setting)
    return run


def branch_point(cell: CellConfig, trunk: Path | None, folder: Path) -> Path:
    """Return the file from which a cell can start where the trunk is beyond its decay's start.

    That is the branch point in the `trunk` folder or, where that is None, the cell's checkpoint.
    """
    return (
        trunk / f"{branch_name(cell)}.safetensors" if trunk else folder / "checkpoint.safetensors"
    )


def load_run(
    run: Run, setting: Setting, folder: Path, *, name: str = "checkpoint", must: bool = False
) -> bool:
    """Continue from a folder's checkpoint; return whether there was one.

    run: filled in place
    setting: what stays the same along the trunk
    folder: where the checkpoint is
    name: of its file, without the ending
    must: raise FileNotFoundError where there is no checkpoint
    """
    if setting.world.first:
        checkpoint.set_aside_damaged(folder, name)
    if setting.is_sharded:  # every rank reads its part of the weights from the same files
        folder = Path(setting.world.share(str(folder)))
        answers = setting.world.all_of(read_run(run, folder, name))
        if len(set(answers)) > 1:
            raise OSError(
                f"not every rank sees {folder}; with machine.shard put `runs` where all do"
            )
        has_checkpoint = answers[0]
    else:
        has_checkpoint = setting.world.share(setting.world.first and read_run(run, folder, name))
    if not has_checkpoint and must:
        raise FileNotFoundError(
            f"no {folder / name}.safetensors, where this branch leaves its trunk; "
            "run the sweep again to train the trunk"
        )
    if has_checkpoint and setting.world.size > 1 and not setting.is_sharded:
        values, run.rows = setting.world.share((run.state(), run.rows))
        checkpoint.spread(run.model, run.optimizer, setting.world)
        for key, value in values.items():
            setattr(run, key, value)
    return has_checkpoint


def read_run(run: Run, folder: Path, name: str) -> bool:
    """Read a checkpoint and the curve before it; return whether there was one."""
    path = folder / f"{name}.safetensors"
    state = checkpoint.peek(path)
    # The curve must have these rows by then. Skipped steps may have left a row out: then any do.
    steps = [] if state.get("skipped") else [s for s in CURVE_STEPS if s <= state.get("step", 0)]
    rows = rows_before(path, curve_path(folder, name), steps=steps)
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
        write_text(curve_path(folder, name), "".join(map(json_line, run.rows)))
    save_state(run, setting, folder, name=name)


def save_state(run: Run, setting: Setting, folder: Path, *, name: str = "checkpoint") -> None:
    """Write a checkpoint: rank 0 alone, or all ranks where each holds a part of the weights."""
    fence(setting)
    world = setting.world if setting.is_sharded else ALONE
    if setting.world.first or setting.is_sharded:
        checkpoint.save(
            folder,
            model=run.model,
            optimizer=run.optimizer,
            state=run.state(),
            name=name,
            world=world,
        )


def fence(setting: Setting) -> None:
    """Raise Stopped at every rank where another process has taken over rank 0's leases."""
    if setting.world.share(setting.world.first and setting.pulse.superseded):
        raise Stopped("superseded")


def copy_trunk(run: Run, setting: Setting) -> tuple[Run, dict[str, Tensor]]:
    """Copy the trunk, its tensors to the CPU: rank 0 copies all, or each rank its part."""
    makes_copy = setting.world.first or setting.is_sharded
    tensors = checkpoint.snapshot(run.model, run.optimizer) if makes_copy else {}
    return replace(run, rows=list(run.rows)), tensors


def restore_trunk(run: Run, setting: Setting, trunk: tuple[Run, dict[str, Tensor]]) -> None:
    """Put the copy of a trunk back in place."""
    values, tensors = trunk
    if tensors:
        checkpoint.restore(run.model, run.optimizer, tensors)
    if setting.world.size > 1 and not setting.is_sharded:
        checkpoint.spread(run.model, run.optimizer, setting.world)
    for name, value in values.state().items():
        setattr(run, name, value)
    run.rows = values.rows
