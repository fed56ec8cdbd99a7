"""Train the pilot of a study in fp32 and in bf16, and decide for all its cells."""

import logging
import math
import time
from dataclasses import replace
from pathlib import Path

import torch

from scaling.budget import resolve
from scaling.config import CellConfig
from scaling.optim.schedule import lr_factor, set_lr
from scaling.study.activity import moved
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
from scaling.train.heldout import evaluate
from scaling.train.step import new_run, prepare, train_step

log = logging.getLogger(__name__)
MOST_DIFFERENCE = 0.002  # nats per token between the pilot's losses with which bf16 is taken
MOST_TIME = 0.95  # bf16's seconds over fp32's up to which bf16 is faster beyond noise
WARM_STEPS = 2  # Steps in each precision before the clock starts: kernels are compiled then.
TEST_WINDOWS = 128  # of the test set, the same for both precisions
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
        log.info("a pilot of %s trains in fp32 and bf16, to choose the precision", folder)
        fp32, bf16 = (_measured(cell, name) for name in ("fp32", "bf16"))
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


def _measured(cell: CellConfig, precision: str) -> tuple[float | None, float]:
    """Train a pilot in one precision; write nothing.

    Return the loss on the first TEST_WINDOWS windows of the test set (nats per token; None where it
    diverged) and the seconds of its steps: of the processor on a CPU, where others may compute at
    the same time.
    """
    no_sets = replace(cell.eval, sets={}, sets_sha256={})
    cell = replace(with_precision(cell, precision), eval=no_sets)
    setting = prepare(cell, lambda flops: None)
    run, resolved = new_run(setting), setting.resolved
    clock = time.process_time if setting.device.type == "cpu" else time.monotonic
    began, total = clock(), 0.0
    for step in range(resolved.n_steps):
        if step == WARM_STEPS:
            began = clock()
        steps = {"n_steps": resolved.n_steps, "decay_start": resolved.decay_start}
        set_lr(run.optimizer, lr_factor(step, schedule=cell.schedule, **steps))
        loss, _ = train_step(run, setting, cell.optim.clip)
        run.step, total = run.step + 1, total + loss
        moved()
    seconds = clock() - began
    score = evaluate(run.model, setting.test, windows=TEST_WINDOWS)
    return (score.loss if math.isfinite(total + score.loss) else None), seconds
