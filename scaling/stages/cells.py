"""Cells of a sweep that are stages after pretraining: fine-tuning, reward models, PPO.

Such a cell holds the settings of its stage and of all stages before it. Each stage before it is a
cell as well. It is looked for in every study of `runs`, so that a sweep of fine-tunings starts from
the models of an earlier sweep; where no study has it, it is trained first, in this study. Losses of
reward models compare only where all learn from the same pairs: `reward.policy` names the model that
samples them.
"""

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

from scaling.budget import planned
from scaling.config import CellConfig
from scaling.data.tokens import cache_folder, open_corpus
from scaling.inference.trained import WEIGHTS, trained_folders
from scaling.schema import Record, find_record, read_record, sha256_file
from scaling.stages.examples.pairs import rows_file
from scaling.stages.plan import StageName
from scaling.stages.run import run_or_keep
from scaling.stages.stage import open_stage
from scaling.study.failures import last_line
from scaling.study.lease import Held, Pulse, last_attempt
from scaling.study.places import cell_folder, record_path, status_of, trained_at
from scaling.train.device import pick_device
from scaling.train.local_ranks import train_by_ranks

log = logging.getLogger(__name__)
Hold = Callable[[CellConfig, Path], AbstractContextManager[Any]]


def train_stages(cells: Sequence[CellConfig], *, pulse: Pulse, hold: Hold) -> list[Record]:
    """Train cells of one pretrained model, and the cells that they start from; return the records.

    cells: cells of a stage after pretraining
    pulse: requests to save or stop, and the leases; as for `train_trunk`
    hold: holds a cell while it is trained; raises Held while another process has it

    RuntimeError where a cell that one starts from could not be trained; ValueError for settings
    that no stage has.
    """
    for cell in cells:
        if status_of(cell) == "done":
            continue
        try:
            sources = sources_of(cell, pulse=pulse, hold=hold)
            with hold(cell, cell_folder(cell)):
                run_stage(cell, sources, pulse=pulse)
        except Held:
            log.info("cell %s is trained by another process", cell.run_id())
    return [r for r in map(find_record, map(record_path, cells)) if r is not None]


def sources_of(cell: CellConfig, *, pulse: Pulse, hold: Hold) -> dict[StageName, Path]:
    """Return the folders that a cell starts from, by stage; train the cells that are missing.

    Held where another process trains one of them.
    """
    before = cell.before()
    if before is None:
        return {}
    sources = sources_of(before, pulse=pulse, hold=hold)
    folder = trained_at(before)
    if folder is None:
        folder = cell_folder(before)
        try:
            if before.stage == StageName.PRETRAIN:
                train_by_ranks([before], pulse=pulse, hold=hold)
            else:
                with hold(before, folder):
                    run_stage(before, sources, pulse=pulse)
        except (ValueError, RuntimeError, OSError) as error:
            raise RuntimeError(failed_before(before, last_line(str(error)))) from error
        status, attempt = status_of(before), last_attempt(folder)
        if status == "missing" and attempt:  # train_trunk skips a cell that another process holds
            raise Held(attempt)
        if status != "done":
            why = last_line(read_record(folder / "record.json").error or "")
            raise RuntimeError(failed_before(before, f"{status}: {why}"))
    sources = {**sources, StageName(before.stage): folder}
    if before.model != cell.model:
        # The reward model has another shape: the policy needs a fine-tuned model of its own.
        sources |= sources_of(replace(cell, stage=before.stage), pulse=pulse, hold=hold)
    return sources


def failed_before(cell: CellConfig, why: str) -> str:
    """Say that a cell cannot be trained because `cell`, which it starts from, failed."""
    return f"the {cell.stage} it starts from, {cell.run_id()}, failed: {why}"


def run_stage(cell: CellConfig, sources: dict[StageName, Path], *, pulse: Pulse) -> Record:
    """Run a cell's stage in the cell's folder, or keep it where it is done; return its record."""
    stage = open_stage(
        planned(cell),
        cell.body(),
        name=StageName(cell.stage),
        corpus=open_corpus(cell),
        device=pick_device(cell.machine),
        sources=sources,
        folder=cell_folder(cell),
        run_id=cell.run_id(),
        pulse=pulse,
    )
    return run_or_keep(stage)


def resolve_policies(cells: Sequence[CellConfig]) -> None:
    """Replace `reward.policy` of each cell by the model's folder, and add the hash of its weights.

    Where the setting names a study, its fine-tuned model of the lowest test loss samples the pairs.
    FileNotFoundError where there is none.
    """
    folders: dict[str, Path] = {}
    for cell in cells:
        policy = cell.reward.policy
        if cell.stage not in (StageName.REWARD, StageName.PPO) or not policy:
            continue
        if policy not in folders:
            folders[policy] = best_policy(policy)
            log.info("pairs are sampled from %s", folders[policy])
        folder = folders[policy]
        cell.reward = replace(
            cell.reward, policy=str(folder), policy_sha256=sha256_file(folder / WEIGHTS)
        )


def refuse_changed_files(cells: Sequence[CellConfig]) -> None:
    """Raise ValueError for a data file that was changed after a cell learned from it.

    A cell's id holds the name of the file, not its rows: after a change the finished cell would be
    taken for one of the new rows.
    """
    hashes: dict[str, str] = {}  # of the files as they are now, by name
    stages: dict[str, CellConfig] = {}  # the cells and those that they start from, by id
    for cell in cells:
        while cell.stage != StageName.PRETRAIN and cell.run_id() not in stages:
            stages[cell.run_id()] = cell
            cell = cell.before() or cell.body()
    for run_id, cell in stages.items():
        folder = trained_at(cell)
        inputs = read_record(folder / "record.json").inputs if folder else {}
        for key in ("data", "test"):
            name = getattr(getattr(cell, cell.stage), key, "")
            if key not in inputs or not name:
                continue
            what = f"{cell.stage}.{key}"
            if name not in hashes:
                hashes[name] = sha256_file(rows_file(name, cache_folder(cell), what=what))
            if hashes[name] != inputs[key]:
                raise ValueError(
                    f"{what}={name} was changed after cell {run_id} learned from it (sha256 "
                    f"{inputs[key][:12]}, now {hashes[name][:12]}), and a cell's id holds the"
                    " file's name alone; give the changed file another name, or put the former one"
                    " back"
                )


def best_policy(path: str) -> Path:
    """Return the folder of the fine-tuned model at a path.

    A path to a study gives its fine-tuned model of the lowest test loss. FileNotFoundError where
    there is none.
    """
    try:
        folders = trained_folders(path)
    except FileNotFoundError:
        folders = []
    records = {folder: read_record(folder / "record.json") for folder in folders}
    tuned = {f: record for f, record in records.items() if record.stage == StageName.SFT}
    if not tuned:
        raise FileNotFoundError(
            f"reward.policy={path} holds no fine-tuned model; sweep stage=sft first, or name the "
            "folder of one"
        )
    return min(tuned, key=lambda folder: tuned[folder].test_loss or float("inf"))
