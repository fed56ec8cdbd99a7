"""The precision of a study: decided once, kept in runs/NAME/precision.json, never mixed.

Losses in float32 and in bfloat16 differ by rounding, so that a law fitted to both would hold a step
between them. `machine.precision=auto` is therefore one choice for all cells of a study. The sweep
decides for fp32 where bf16 has nothing to gain; else the first process that trains a cell measures
both on a pilot (scaling.train.pilot).
"""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from scaling.budget import resolve
from scaling.config import BudgetConfig, CellConfig
from scaling.schema import find_record, read_as, read_json, write_json
from scaling.study.places import study_folder

log = logging.getLogger(__name__)
FILE = "precision.json"
# Weights in matrices, head included, from which on bf16 may be worth it: on an EPYC that multiplies
# bfloat16 it is 1.6 times as fast at 230 k and 3.1 times at 2.7 M (benchmarks/RESULTS.md).
BF16_PARAMS = 200_000
# bf16 is tried where models of that size take at least this share of the study's FLOPs.
LEAST_SHARE = 0.5
PILOT_SHARE = 0.025  # of the study's FLOPs that the pilot takes at most in each precision
PILOT_STEPS, MOST_PILOT_STEPS = 50, 300  # of a pilot; fewer tell no loss from another


@dataclass(frozen=True, kw_only=True)
class StudyPrecision:
    """What precision.json holds."""

    precision: str = ""
    """fp32 or bf16, for all cells of the study; empty while the pilot is not trained."""
    why: str = ""
    """The reason, as a clause."""
    pilot: dict[str, Any] = field(default_factory=dict)
    """Settings of the cell that is trained in both precisions; empty without a pilot."""
    measured: dict[str, dict[str, float | None]] = field(default_factory=dict)
    """By precision, the pilot's test loss (nats per token; null where it diverged) and its time in
    seconds."""
    schema: int = 1
    """Version of this layout."""


def read_precision(folder: Path) -> StudyPrecision | None:
    """Return the choice of a study; None where there is none yet.

    Raises ValueError for a file that cannot be read.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    fix = "delete it, and give the sweep's command again"
    return read_as(StudyPrecision, read_json(path), source=str(path), noun="file", fix=fix)


def write_precision(folder: Path, choice: StudyPrecision) -> None:
    """Write the choice of a study and log it."""
    write_json(folder / FILE, asdict(choice))
    if choice.precision:
        log.info("%s: precision %s, %s", folder, choice.precision, choice.why)


def choose_precision(cells: Sequence[CellConfig]) -> list[CellConfig]:
    """Return the cells of a sweep with the precision of their study.

    It stays `auto` where a pilot is still to be trained. Raises ValueError for a precision that is
    not the one in which the study was trained before.
    """
    folder, precision = study_folder(cells[0]), cells[0].machine.precision
    choice = read_precision(folder) or _of_records(folder)
    if choice is None or not (choice.precision or precision == "auto"):
        choice = _first_choice(cells) if precision == "auto" else _as_asked(precision)
        write_precision(folder, choice)
    if precision not in ("auto", choice.precision):
        raise ValueError(
            f"machine.precision={precision}, but the cells of {folder} are in {choice.precision} "
            f"({choice.why}), and one law needs one precision; set "
            f"machine.precision={choice.precision} or auto, or another study=NAME"
        )
    return [with_precision(c, choice.precision or "auto") for c in cells]


def settled(cell: CellConfig) -> CellConfig:
    """Return a cell whose precision is fp32 or bf16: `auto` is the study's, or else fp32."""
    if cell.machine.precision != "auto":
        return cell
    choice = read_precision(study_folder(cell))
    return with_precision(cell, (choice and choice.precision) or "fp32")


def with_precision(cell: CellConfig, precision: str) -> CellConfig:
    """Return a cell with another `machine.precision`."""
    return replace(cell, machine=replace(cell.machine, precision=precision))


def _as_asked(precision: str) -> StudyPrecision:
    return StudyPrecision(precision=precision, why=f"as machine.precision={precision} asks")


def _of_records(folder: Path) -> StudyPrecision | None:
    """Return the precision of cells that were trained before the study had a choice."""
    for path in sorted(folder.glob("*/record.json")):
        record = find_record(path)
        machine = record.config.get("machine", {}) if record else {}
        if precision := machine.get("precision", ""):
            choice = StudyPrecision(precision=precision, why="as the cells that it has")
            write_precision(folder, choice)
            return choice
    return None


def _first_choice(cells: Sequence[CellConfig]) -> StudyPrecision:
    """Return fp32 where bf16 has nothing to gain; else a pilot without a choice yet."""
    sizes = [(resolve(c), c) for c in cells if c.stage == "pretrain"]
    large = [(r, c) for r, c in sizes if r.shape.params.with_head >= BF16_PARAMS]
    total, in_large = (sum(r.flops for r, _ in part) for part in (sizes, large))
    if in_large < LEAST_SHARE * total or not large:
        share = in_large / total if total else 0.0
        why = f"models from {BF16_PARAMS:,} parameters, where bf16 is faster, take {share:.0%} of"
        return StudyPrecision(precision="fp32", why=f"{why} the FLOPs")
    if large[0][1].machine.ranks > 1:
        why = "a pilot is trained by one process, and these cells by several ranks"
        return StudyPrecision(precision="fp32", why=why)
    # The largest model that the share pays for: most of the compute is near it.
    for resolved, cell in sorted(large, key=lambda one: -one[0].shape.flops_per_token):
        steps = PILOT_SHARE * total / resolved.shape.flops_per_token / resolved.batch_tokens
        steps = int(min(resolved.n_steps, steps, MOST_PILOT_STEPS))
        if steps >= PILOT_STEPS:
            tokens = steps * resolved.batch_tokens
            pilot = replace(cell, budget=BudgetConfig(n_tokens=tokens))
            return StudyPrecision(pilot=asdict(pilot))
    why = f"a pilot of {PILOT_STEPS} steps would cost more than {2 * PILOT_SHARE:.0%} of the study"
    return StudyPrecision(precision="fp32", why=why)
