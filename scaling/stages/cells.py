"""Cells of a sweep that are stages after pretraining: fine-tuning, reward models, PPO.

A cell with `stage` names a whole way: the model to pretrain, how to fine-tune it, how to learn its
reward model, how to optimise against that. What comes before a stage is a cell too and is looked
for in every study of `runs`, so that a sweep of fine-tunings starts from the models of the sweep
before it; what nobody has is trained first, in this study. The losses of reward models compare only
where all learn from the same pairs: `reward.policy` says who samples them.
"""

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from scaling.budget import planned
from scaling.config import CellConfig
from scaling.data.tokens import cache_folder, open_corpus
from scaling.inference.trained import WEIGHTS, trained_folders
from scaling.schema import Record, find_record, read_record, sha256_file
from scaling.stages.examples.pairs import rows_file
from scaling.stages.stage import finished, open_stage
from scaling.study.failures import last_line
from scaling.study.lease import Held, Pulse, last_attempt
from scaling.study.places import cell_folder, record_path, status_of, trained_at
from scaling.train.device import pick_device
from scaling.train.local_ranks import train_by_ranks

log = logging.getLogger(__name__)
Hold = Callable[[CellConfig, Path], AbstractContextManager[Any]]


def train_stages(cells: Sequence[CellConfig], *, pulse: Pulse, hold: Hold) -> list[Record]:
    """Train stage cells of one body and what they start from; return their records.

    `pulse` and `hold` are those of `train_trunk`. RuntimeError where what a cell starts from could
    not be trained; ValueError for settings that no stage has.
    """
    for cell in cells:
        if status_of(cell) == "done":
            continue
        try:
            sources = sources_of(cell, pulse=pulse, hold=hold)
            with hold(cell, cell_folder(cell)):
                run_stage(cell, sources, pulse=pulse)
        except Held:
            log.info("cell %s is trained elsewhere", cell.run_id())
    return [r for r in map(find_record, map(record_path, cells)) if r is not None]


def sources_of(cell: CellConfig, *, pulse: Pulse, hold: Hold) -> dict[str, Path]:
    """Return the folders of the stages that a cell starts from, trained where they are missing."""
    before = cell.before()
    if before is None:
        return {}
    sources = sources_of(before, pulse=pulse, hold=hold)
    folder = trained_at(before)
    if folder is None:
        folder = cell_folder(before)
        try:
            if before.stage == "pretrain":
                train_by_ranks([before], pulse=pulse, hold=hold)
            else:
                with hold(before, folder):
                    run_stage(before, sources, pulse=pulse)
        except (ValueError, RuntimeError, OSError) as error:
            raise RuntimeError(failed_before(before, last_line(str(error)))) from error
        status, other = status_of(before), last_attempt(folder)
        if status == "missing" and other:  # as train_trunk said
            raise Held(other)
        if status != "done":
            why = last_line(read_record(folder / "record.json").error or "")
            raise RuntimeError(failed_before(before, f"{status}: {why}"))
    found = {**sources, before.stage: folder}
    if before.model != cell.model:  # a reward model of another shape: the policy is fine-tuned too
        found |= sources_of(replace(cell, stage=before.stage), pulse=pulse, hold=hold)
    return found


def failed_before(cell: CellConfig, why: str) -> str:
    """Say that what a cell starts from is not there."""
    return f"the {cell.stage} it starts from, {cell.run_id()}, failed: {why}"


def run_stage(cell: CellConfig, sources: dict[str, Path], *, pulse: Pulse) -> Record:
    """Run a cell's stage in the cell's folder; its rate is a fraction of pretraining's peak."""
    stage = open_stage(
        planned(cell),
        cell.body(),
        name=cell.stage,
        corpus=open_corpus(cell),
        device=pick_device(cell.machine),
        sources=sources,
        folder=cell_folder(cell),
        run_id=cell.run_id(),
        pulse=pulse,
    )
    found = finished(stage)
    run: Callable[..., Record] = getattr(
        import_module(f"scaling.stages.{cell.stage}"), f"run_{cell.stage}"
    )
    return found or run(stage)


def resolve_policies(cells: Sequence[CellConfig]) -> None:
    """Put the weights of the policy that samples pairs into every cell that names one.

    Of a study it is the fine-tuned model of the lowest test loss. FileNotFoundError without one.
    """
    known: dict[str, Path] = {}
    for cell in cells:
        named = cell.reward.policy
        if cell.stage not in ("reward", "ppo") or not named:
            continue
        if named not in known:
            known[named] = best_policy(named)
            log.info("pairs are sampled from %s", known[named])
        weights = known[named] / WEIGHTS
        cell.reward = replace(
            cell.reward, policy=str(known[named]), policy_sha256=sha256_file(weights)
        )


def refuse_changed_files(cells: Sequence[CellConfig]) -> None:
    """Raise ValueError for a file of rows that was changed after a cell learned from it.

    A cell is known by the file's name: with other rows in it the cell would be taken for done.
    """
    now: dict[str, str] = {}
    chain: dict[str, CellConfig] = {}
    for cell in cells:
        while cell.stage != "pretrain" and cell.run_id() not in chain:
            chain[cell.run_id()] = cell
            cell = cell.before() or cell.body()
    for run_id, cell in chain.items():
        folder = trained_at(cell)
        known = read_record(folder / "record.json").inputs if folder else {}
        for key in ("data", "test"):
            name = getattr(getattr(cell, cell.stage), key, "")
            if key not in known or not name:
                continue
            what = f"{cell.stage}.{key}"
            if name not in now:
                now[name] = sha256_file(rows_file(name, cache_folder(cell), what=what))
            if now[name] != known[key]:
                raise ValueError(
                    f"{what}={name} was changed after cell {run_id} learned from it (sha256 "
                    f"{known[key][:12]}, now {now[name][:12]}), and a cell is known by the file's "
                    "name; give the changed file another name, or put the former one back"
                )


def best_policy(path: str) -> Path:
    """Return the fine-tuned model at a path: that folder, or a study's of the lowest test loss."""
    try:
        found = [f for f in trained_folders(path) if read_record(f / "record.json").stage == "sft"]
    except FileNotFoundError:
        found = []
    if not found:
        raise FileNotFoundError(
            f"reward.policy={path} holds no fine-tuned model; sweep stage=sft first, or name the "
            "folder of one"
        )
    return min(found, key=lambda f: read_record(f / "record.json").test_loss or float("inf"))
