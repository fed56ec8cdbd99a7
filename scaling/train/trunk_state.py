"""A trunk's state on disk: checkpoints, branch points, copies."""

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
from scaling.study.lease import Stopped
from scaling.train import checkpoint
from scaling.train.ranks import ALONE
from scaling.train.step import (
    Run,
    Setting,
    new_run,
)

CURVE_STEPS = sorted(
    {round(10 * 1.22**k) for k in range(80)}
)  # rows of the curve, the same for every cell


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
        write_text(curve_path(folder, name), "".join(map(json_line, run.rows)))
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
