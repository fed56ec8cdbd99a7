"""The training loop of fine-tuning and reward models, and what PPO's own loop shares with it.

Shared are the optimiser's settings, the curve, the counts (`Tally`) and checkpoints (`Saver`).
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from scaling.app.progress import Progress
from scaling.config import OptimConfig, ScheduleConfig
from scaling.optim.optimizers import make_optimizer
from scaling.optim.schedule import lr_factor, set_lr
from scaling.stages.stage import Stage
from scaling.study.activity import moved
from scaling.study.curve import RunLog, rows_before
from scaling.study.lease import Stopped
from scaling.train import checkpoint
from scaling.train.step import Diverged

# The learning rate at the end as a share of its peak: Ouyang et al. 2022, appendix C.
FLOOR = 0.1
# The share of the steps in which the learning rate rises to its peak.
WARMUP_SHARE = 0.05
# A curve has about this many rows: enough for a plot, few beside thousands of steps.
CURVE_ROWS = 400
# Rows are sorted by length within this many batches: enough to save padding, and the order of
# training stays random beyond them.
SORTED_BATCHES = 8


@dataclass(kw_only=True)
class Tally:
    """What a stage has done so far; its checkpoint holds it."""

    step: int = 0
    tokens: int = 0
    flops: float = 0.0
    seconds: float = 0.0
    values: dict[str, Any] = field(default_factory=dict)  # what else a stage must remember

    def row(self, **values: Any) -> dict[str, Any]:
        """Return a row of the curve: the counts, then `values`."""
        counts = {k: getattr(self, k) for k in ("step", "tokens", "flops", "seconds")}
        return {**counts, **values}


class Saver:
    """Writes a stage's checkpoint every `machine.checkpoint_seconds`, and when its pulse asks."""

    def __init__(
        self, stage: Stage, tally: Tally, *, model: nn.Module, optimizer: torch.optim.Optimizer
    ) -> None:
        self.stage, self.tally, self.model, self.optimizer = stage, tally, model, optimizer
        self._before, self._began = 0.0, time.monotonic()
        self._saved = self._began

    def resume(self) -> bool:
        """Continue from the checkpoint; return False where there is none or `resume` is off."""
        if not self.stage.config.resume:
            return False
        folder = self.stage.folder
        checkpoint.set_aside_damaged(folder)
        if rows_before(folder / "checkpoint.safetensors", folder / "metrics.jsonl") is None:
            return False
        state = checkpoint.load(folder, model=self.model, optimizer=self.optimizer)
        for name, value in (state or {}).items():
            setattr(self.tally, name, value)
        self._before = self.tally.seconds
        return state is not None

    def row(self, **values: Any) -> dict[str, Any]:
        """Return a row of the curve, with the seconds up to this moment."""
        self.tally.seconds = self._before + time.monotonic() - self._began
        return self.tally.row(**values)

    def tick(self) -> None:
        """Save when it is due; call after each step. Stopped when the pulse asks to stop."""
        pulse, moment = self.stage.pulse, time.monotonic()
        self.tally.seconds = self._before + moment - self._began
        pulse.step = self.tally.step
        moved()
        due = moment - self._saved >= self.stage.config.machine.checkpoint_seconds
        if due or pulse.save or pulse.stop:
            self.save()
            pulse.save = False
        if pulse.stop:
            raise Stopped(pulse.stop)

    def save(self) -> None:
        """Write the checkpoint now; Stopped where another process has taken over the stage."""
        self.stage.pulse.fence()
        state = asdict(self.tally)
        checkpoint.save(self.stage.folder, model=self.model, optimizer=self.optimizer, state=state)
        self._saved = time.monotonic()


def open_curve(stage: Stage, *, resume_step: int) -> RunLog:
    """Open the stage's curve and drop its rows beyond `resume_step`."""
    return RunLog(
        stage.folder,
        stage.config.log,
        name=f"final-{stage.name}",
        group=stage.config.study,
        details=asdict(stage.block),
        resume_step=resume_step,
    )


def open_progress(stage: Stage, *, total: float, done: float) -> Progress:
    """Return the stage's line of progress, in steps."""
    return Progress(
        stage.name,
        total=total,
        every_seconds=stage.config.log.every_seconds,
        done=done,
        unit="steps",
    )


def fine_tuning_optim(optim: OptimConfig) -> OptimConfig:
    """Return the optimiser's settings for a stage that starts from trained weights.

    It is AdamW without weight decay, also where pretraining used Muon: adapters and value heads
    have no matrix to orthogonalise.
    """
    return replace(optim, name="adamw", weight_decay=0.0)


def fit(
    stage: Stage,
    model: nn.Module,
    tally: Tally,
    *,
    n_steps: int,
    peak_lr: float,
    loss_of: Callable[[int], tuple[Tensor, int, float]],
) -> None:
    """Minimise a loss, from the stage's checkpoint where it has one.

    The learning rate rises over WARMUP_SHARE of the steps, then falls as a cosine to FLOOR.

    stage: whose settings, folder and pulse are used
    model: what is trained
    tally: where steps, tokens, FLOPs and seconds are counted
    n_steps: steps in all, those before a resumption included
    peak_lr: the highest learning rate
    loss_of: takes the step; returns the loss, the tokens passed and the FLOPs

    Diverged when the loss is not finite, Stopped when the pulse asks to stop.
    """
    optimizer = make_optimizer(model, fine_tuning_optim(stage.cell.optim), peak_lr)
    saver = Saver(stage, tally, model=model, optimizer=optimizer)
    saver.resume()
    schedule = ScheduleConfig(
        name="cosine", floor=FLOOR, warmup_steps=max(1, round(WARMUP_SHARE * n_steps))
    )
    every = max(1, n_steps // CURVE_ROWS)
    progress = open_progress(stage, total=n_steps, done=tally.step)
    model.train()
    with open_curve(stage, resume_step=tally.step) as curve:
        while tally.step < n_steps:
            set_lr(
                optimizer,
                lr_factor(tally.step, schedule=schedule, n_steps=n_steps, decay_start=n_steps),
            )
            loss, tokens, flops = loss_of(tally.step)
            loss.backward()
            norm = nn.utils.clip_grad_norm_(model.parameters(), stage.cell.optim.clip or math.inf)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            value = float(loss.detach())
            if not math.isfinite(value):
                raise Diverged(
                    f"the loss of stage {stage.name} stopped being finite "
                    f"at step {tally.step}; lower {stage.name}.peak_lr"
                )
            tally.step += 1
            tally.tokens += tokens
            tally.flops += flops
            tally.values["train_loss"] = value
            if tally.step % every == 0 or tally.step == n_steps:
                curve.log(
                    saver.row(
                        train_loss=value, grad_norm=float(norm), lr=optimizer.param_groups[0]["lr"]
                    )
                )
            saver.tick()
            progress.update(tally.step, f"loss {value:.3f}")
        progress.close()
    model.eval()


def shuffled_batches(
    n: int, *, batch: int, epochs: int, seed: int, lengths: list[int] | None = None
) -> list[list[int]]:
    """Return the batches of all epochs, each a list of indices; equal arguments, equal batches.

    n: rows of the data
    batch: rows of a batch; the last batch of an epoch may be smaller
    epochs: passes over the data
    seed: of the random order, another one in each epoch
    lengths: tokens of each row; batches then hold rows of like length, which needs less padding:
        SORTED_BATCHES at a time of the random order are sorted and cut, and the batches are mixed
    """
    batches: list[list[int]] = []
    for epoch in range(epochs):
        generator = torch.Generator().manual_seed(seed * 1_000 + epoch)
        order = torch.randperm(n, generator=generator).tolist()
        epoch_batches = list(_cut(order, batch, lengths))
        mixed = torch.randperm(len(epoch_batches), generator=generator).tolist()
        batches += [epoch_batches[i] for i in mixed]
    return batches


def _cut(order: list[int], batch: int, lengths: list[int] | None) -> Iterator[list[int]]:
    size = SORTED_BATCHES * batch
    for at in range(0, len(order), size):
        pool = order[at : at + size]
        if lengths is not None:
            pool = sorted(pool, key=lengths.__getitem__)
        for start in range(0, len(pool), batch):
            yield pool[start : start + batch]
