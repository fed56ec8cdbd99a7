"""Train the pilot of a study in fp32 and in bf16, and decide for all its cells."""

import logging
import shutil
import time
from dataclasses import replace
from pathlib import Path

import torch

from scaling.budget import resolve
from scaling.config import BudgetConfig, CellConfig
from scaling.study.lease import Held, Holder, Lease, Pulse
from scaling.study.places import study_folder
from scaling.study.precision import (
    StudyPrecision,
    read_precision,
    settled,
    with_precision,
    write_precision,
)
from scaling.train.device import device_name, has_bf16, multiplies_bf16, pick_device
from scaling.train.trunk import train_trunk

log = logging.getLogger(__name__)
MOST_DIFFERENCE = 0.002  # nats per token between the pilot's losses with which bf16 is taken
MOST_TIME = 0.95  # bf16's seconds over fp32's up to which bf16 is faster beyond noise
WARM_STEPS = 2  # Steps in each precision before the clock starts: kernels are compiled then.
POLL_SECONDS = 0.5  # between two looks at a pilot that another process trains


def decided(cells: list[CellConfig], *, holder: Holder) -> list[CellConfig]:
    """Return cells of one study with its precision; train its pilot first where it has none yet.

    cells: of one study; the process trains them next
    holder: this process, as its lease of the pilot names it

    One process trains the pilot, others wait for it.
    """
    folder = study_folder(cells[0])
    while _waits(cells[0], folder):
        try:
            with Lease(folder / ".pilot", holder, Pulse()):
                if _waits(cells[0], folder):
                    write_precision(folder, _choice(folder))
        except Held:
            time.sleep(POLL_SECONDS)
    return [settled(c) for c in cells]


def _waits(cell: CellConfig, folder: Path) -> bool:
    """Say whether a cell's precision waits for a pilot."""
    choice = read_precision(folder) if cell.machine.precision == "auto" else None
    return choice is not None and not choice.precision


def _choice(folder: Path) -> StudyPrecision:
    """Train the pilot in both precisions; return the choice."""
    choice = read_precision(folder) or StudyPrecision()
    cell = CellConfig.from_dict(choice.pilot)
    device = pick_device(with_precision(cell, "fp32").machine)
    if not (has_bf16() if device.type == "cuda" else multiplies_bf16()):
        why = f"{device_name(device)} has no bfloat16 products"
        return replace(choice, precision="fp32", why=why)
    try:
        fp32, bf16 = (_measured(cell, name, folder / ".pilot") for name in ("fp32", "bf16"))
    except (ValueError, RuntimeError, torch.OutOfMemoryError) as error:
        log.warning("the pilot of precisions ended: %s", error)
        return replace(choice, precision="fp32", why=f"its pilot failed ({error})")
    measured = {
        name: {"test_loss": loss, "seconds": seconds}
        for name, (loss, seconds) in {"fp32": fp32, "bf16": bf16}.items()
    }
    ratio = bf16[1] / fp32[1]
    params = resolve(cell).shape.params.with_head
    why = f"bf16 took {ratio:.2f} of fp32's time on a pilot of {params:,} parameters"
    if fp32[0] is None or bf16[0] is None:
        return replace(choice, precision="fp32", why=f"{why} and one diverged", measured=measured)
    difference = bf16[0] - fp32[0]
    why += f" and ended {difference:+.4f} nats from it (at most {MOST_DIFFERENCE:g} is allowed)"
    takes_bf16 = abs(difference) <= MOST_DIFFERENCE and ratio <= MOST_TIME
    precision = "bf16" if takes_bf16 else "fp32"
    return replace(choice, precision=precision, why=why, measured=measured)


def _measured(cell: CellConfig, precision: str, place: Path) -> tuple[float | None, float]:
    """Train a pilot in one precision, after a few steps that are not counted.

    Return its test loss (nats per token; None where it diverged) and seconds: of the processor on a
    CPU, where others may compute at the same time.
    """
    clock = time.process_time if pick_device(cell.machine).type == "cpu" else time.monotonic
    quiet = replace(cell.log, wandb="disabled", health=False)
    cell = replace(with_precision(cell, precision), log=quiet)
    warm = WARM_STEPS * resolve(cell).batch_tokens
    for one in (replace(cell, budget=BudgetConfig(n_tokens=warm)), cell):
        folder = place / precision
        shutil.rmtree(folder, ignore_errors=True)
        began = clock()
        (record,) = train_trunk([one], folders=[folder])
    shutil.rmtree(folder)
    return record.test_loss, clock() - began
