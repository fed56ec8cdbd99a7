"""One training step, and all that it needs: model, optimiser, batches, device, ranks.

A step whose loss or gradient is not finite, or whose gradient spikes, is skipped and counted. A
step that runs out of memory raises an error that names the largest micro-batch that fits.
"""

import logging
import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from scaling.budget import Resolved, resolve
from scaling.config import CellConfig, ModelConfig, OptimConfig
from scaling.cpu.compiler import has_numba
from scaling.data.batches import Batches
from scaling.data.tokens import Corpus, open_corpus
from scaling.model.transformer import Transformer
from scaling.optim.optimizers import make_optimizer
from scaling.schema import now
from scaling.study.lease import Pulse
from scaling.study.precision import settled
from scaling.train.device import autocast, check_fits, count_memory_anew, pick_device, to_device
from scaling.train.forecast_band import ForecastBand
from scaling.train.heldout import TestSet, make_test_set
from scaling.train.memory import advice, divisors, is_out_of_memory, largest_that_fits
from scaling.train.ranks import ALONE, World, whole
from scaling.train.rolling import TextSet, named_sets

if TYPE_CHECKING:
    from scaling.cpu.passes import Passes

log = logging.getLogger(__name__)
Report = Callable[[float], None]  # Called with the FLOPs done so far.
REMEDY = "lower optim.peak_lr or raise schedule.warmup_steps"
# The longest row, in tokens, for scaling.cpu.passes. Attention's scores of longer rows leave the
# cache, and torch's flash attention is faster.
LONGEST = 512
# The decay of the running mean of gradient norms that a spike is compared with: about 50 steps.
NORM_MEMORY = 0.98


class Diverged(Exception):
    """The loss stopped being finite, or too many steps had to be skipped."""


@dataclass
class Run:
    """A model in training: what changes from step to step.

    The gradient comes from `passes` or, where they are None, from autograd of the `objective`.
    """

    model: Transformer
    optimizer: torch.optim.Optimizer
    objective: nn.Module
    passes: "Passes | None" = None
    step: int = 0
    loss_sum: float = 0.0
    loss_steps: int = 0
    seconds: float = 0.0
    skipped: int = 0
    typical_norm: float = 0.0
    rows: list[dict[str, Any]] = field(default_factory=list)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps beside the tensors."""
        names = ("step", "loss_sum", "loss_steps", "seconds", "skipped", "typical_norm")
        return {k: getattr(self, k) for k in names}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What stays the same along a trunk."""

    cell: CellConfig
    device: torch.device
    batches: Batches
    test: TestSet
    corpus: Corpus
    report: Report
    pulse: Pulse
    started: str
    resolved: Resolved
    band: ForecastBand
    sets: dict[str, TextSet] = field(default_factory=dict)
    world: World = ALONE
    clock: Callable[[], float] = time.monotonic  # seconds that are counted for this trunk
    stacked: bool = False  # whether its steps are computed together with those of other trunks

    @property
    def is_sharded(self) -> bool:
        """Whether each rank holds only a part of the weights."""
        return self.cell.machine.shard and self.world.size > 1

    def for_cell(self, cell: CellConfig, pulse: Pulse) -> "Setting":
        """Return the setting of another cell's trunk on the same corpus and test set."""
        resolved = resolve(cell)
        return replace(
            self,
            cell=cell,
            resolved=resolved,
            batches=Batches.of(self.corpus, cell.data, rows=resolved.rows, seed=cell.seed),
            pulse=pulse,
            started=now(),
        )

    def for_branch(self, cell: CellConfig) -> "Setting":
        """Return the setting of a branch's own steps: its batches, as the trunk's rows go on.

        The rows of a larger batch pass in parts of the trunk's size.
        """
        own = resolve(cell)
        if not cell.branch.is_set:
            return self
        batches = replace(
            self.batches,
            rows=own.batch_tokens // own.shape.context,
            first_step=own.leaves,
            first_window=own.leaves * own.rows,
        )
        return replace(self, batches=batches)


class Objective(nn.Module):
    """What training minimises: the loss and, for experts, the router's losses."""

    def __init__(self, model: Transformer, precision: str) -> None:
        super().__init__()
        self.model, self.precision = model, precision

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return loss in nats/token, detached, and objective of (B, T) tokens and targets."""
        with autocast(x.device, self.precision):
            loss = self.model.loss(x, y)
        return loss.detach(), loss + self.model.router_loss()


def prepare(
    cell: CellConfig,
    report: Report,
    pulse: Pulse | None = None,
    world: World = ALONE,
    *,
    band: ForecastBand | None = None,
) -> Setting:
    """Open corpus and device; return what stays the same along a trunk.

    cell: the longest of the trunk
    report: called with the FLOPs done so far
    pulse: how the outside stops the work and sees how far it is
    world: the ranks that train together
    band: the forecast band that the run is compared with; None for an empty one
    """
    cell = settled(cell)
    device = pick_device(cell.machine)
    check_fits(cell, device)
    count_memory_anew(device)
    corpus = open_corpus(cell)
    resolved = resolve(cell)
    context = cell.data.context
    return Setting(
        cell=cell,
        device=device,
        batches=Batches.of(corpus, cell.data, rows=resolved.rows, seed=cell.seed),
        test=make_test_set(corpus, context=context, n_tokens=cell.eval.test_tokens),
        corpus=corpus,
        sets=named_sets(cell, corpus),
        report=report,
        pulse=pulse or Pulse(),
        started=now(),
        resolved=resolved,
        band=band or ForecastBand(),
        world=world,
    )


def new_run(setting: Setting) -> Run:
    """Initialise model and optimiser from the seed."""
    cell = setting.cell
    torch.manual_seed(cell.seed)
    model = Transformer(cell.model, vocab_size=cell.tokenizer.vocab_size, context=cell.data.context)
    is_sharded = setting.is_sharded
    if not is_sharded:
        model.to(setting.device)
    model.document_end = setting.corpus.special.end if cell.data.mask_documents else None
    model.recompute = cell.machine.activation_checkpointing
    if cell.machine.compile:
        compile_blocks(model, setting)
    if is_sharded:
        setting.world.shard(model, model.blocks, setting.device)
    objective: nn.Module = Objective(model, cell.machine.precision)
    passes = None if setting.stacked else make_passes(model, setting)
    if setting.world.size > 1 and not (passes or is_sharded):
        # Gradients are views of its buckets: copies would take 4 bytes per parameter more.
        objective = DistributedDataParallel(objective, gradient_as_bucket_view=True)
    return Run(
        model=model,
        optimizer=make_optimizer(model, cell.optim, setting.resolved.trunk_lr),
        objective=objective,
        passes=passes,
    )


def compile_blocks(model: Transformer, setting: Setting) -> None:
    """Compile the blocks, at the first step and once, because they are alike.

    torch keeps eight compiled forms of one piece of code and runs further ones uncompiled. Forms
    for another shape are therefore dropped, so that a process can train a grid of shapes.
    """
    global compiled_for
    shape = setting.resolved.shape, setting.cell.machine.precision, micro_rows(setting)
    if compiled_for not in (None, shape):
        torch.compiler.reset()
    compiled_for = shape
    for block in model.blocks:
        block.compile()


compiled_for: tuple[Any, ...] | None = None  # Shape, precision, rows of the last compilation.


def make_passes(model: Transformer, setting: Setting) -> "Passes | None":
    """Return the passes written out for CPUs; None where they do not compute this model."""
    context, machine = setting.cell.data.context, setting.cell.machine
    plain = not (machine.compile or machine.activation_checkpointing or setting.is_sharded)
    supported = plain and has_passes(
        model.config, context=context, device=setting.device, precision=machine.precision
    )
    if not (supported and has_numba()):
        return None
    from scaling.cpu.passes import Passes  # imports numba, which only this way needs

    rows = micro_rows(setting)
    return Passes(model, rows=rows, context=context, precision=machine.precision)


def has_passes(config: ModelConfig, *, context: int, device: torch.device, precision: str) -> bool:
    """Say whether scaling.cpu.passes computes this model; autograd does where it does not.

    config: of the model
    context: tokens of a row
    device: where the model is trained
    precision: machine.precision
    """
    supported = config.plain and config.d_head % 2 == 0 and context <= LONGEST
    return supported and device.type == "cpu" and precision in ("fp32", "bf16")


def micro_rows(setting: Setting) -> int:
    """Return the rows of a forward pass; ValueError where they do not divide a rank's rows."""
    rows = setting.world.rows(setting.resolved.rows)
    micro_batch = setting.cell.machine.micro_batch
    if micro_batch and rows % micro_batch:
        raise ValueError(
            f"machine.micro_batch={micro_batch} does not divide the {rows} rows of a rank's step; "
            f"choose one of {', '.join(map(str, divisors(rows)[::-1]))}"
        )
    return micro_batch or rows


def step_or_advise(run: Run, setting: Setting, clip: float) -> tuple[float, float]:
    """Take one step; RuntimeError, with the micro-batch that fits, where memory runs out."""
    try:
        return train_step(run, setting, clip)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    rows = micro_rows(setting)
    if setting.is_sharded:  # the other ranks wait for this one, which cannot try smaller ones alone
        raise RuntimeError(
            f"out of memory with {rows} rows a rank at once; lower machine.micro_batch or set "
            "machine.activation_checkpointing=true"
        )
    run.passes = None  # with its buffers
    run.optimizer.zero_grad(set_to_none=True)
    raise RuntimeError(advice(rows, largest_that_fits(rows, lambda n: trial(run, setting, n))))


def trial(run: Run, setting: Setting, rows: int) -> None:
    """Compute the gradient of some rows as a step would, to see whether they fit in memory.

    The first step allocates its moments only after the gradient: they are allocated here before it.

    run: the model, whose gradient is overwritten
    setting: whose batches are used
    rows: of the forward pass
    """
    moments = [] if run.optimizer.state else [torch.empty_like(w) for w in moments_of(run)]
    cell = replace(setting.cell, machine=replace(setting.cell.machine, micro_batch=rows))
    alone = replace(setting, cell=cell, world=ALONE)
    x, y = (to_device(part[:rows], setting.device) for part in setting.batches(run.step))
    objective = Objective(run.model, cell.machine.precision)
    gradient(replace(run, passes=make_passes(run.model, alone), objective=objective), alone, x, y)
    del moments


def moments_of(run: Run) -> list[Tensor]:
    """Return each weight twice: AdamW keeps two moments of it."""
    return [w for group in run.optimizer.param_groups for w in group["params"] for _ in range(2)]


def train_step(run: Run, setting: Setting, clip: float) -> tuple[float, float]:
    """Take one step; return the loss (nats/token) and the gradient norm before clipping.

    Both are read from the device together, so that the step waits for a GPU once.
    """
    x, y = (
        to_device(setting.world.part(part), setting.device) for part in setting.batches(run.step)
    )
    mean_loss = gradient(run, setting, x, y)  # of (B, T) each
    if run.passes:
        grad_norm = run.passes.clip(clip)
    else:
        most = clip if clip > 0 else math.inf
        grad_norm = whole(nn.utils.clip_grad_norm_(run.model.parameters(), most))
    loss, norm = torch.stack([mean_loss, grad_norm]).tolist()
    if accept(run, setting.cell.optim, loss, norm):
        run.optimizer.step()
    return loss, norm


def gradient(run: Run, setting: Setting, x: Tensor, y: Tensor) -> Tensor:
    """Compute a batch's gradient, in parts of `machine.micro_batch` rows; return the loss.

    run: whose weights get the gradient
    setting: micro-batch, device and ranks
    x, y: tokens and targets of this rank's rows, (B, T) each
    """
    world = setting.world
    parts = list(zip(*(t.split(micro_rows(setting)) for t in (x, y)), strict=True))
    if run.passes:
        loss = run.passes(parts)
        world.mean_(run.passes.gradient)
        return world.mean_(loss)
    run.optimizer.zero_grad(set_to_none=True)
    total = torch.zeros((), device=setting.device)
    for number, (inputs, targets) in enumerate(parts, start=1):
        last = number == len(parts) or world.size == 1
        if setting.is_sharded:
            run.model.set_requires_gradient_sync(last)  # type: ignore[operator]
        with nullcontext() if last or setting.is_sharded else run.objective.no_sync():  # type: ignore[operator]
            loss, objective = run.objective(inputs, targets)
            (objective / len(parts)).backward()
        total += loss / len(parts)
    return world.mean_(total)


def accept(run: Run, config: OptimConfig, loss: float, norm: float) -> bool:
    """Say whether a step is taken; count and log a step that is skipped.

    A skipped step leaves weights and moments as they were; its batch is not seen again.

    run: whose typical gradient norm and count of skipped steps are updated
    config: spike_factor and max_skipped
    loss: of the step (nats/token)
    norm: of its gradient before clipping

    Raises Diverged where more than `config.max_skipped` steps were skipped.
    """
    spike = config.spike_factor * run.typical_norm
    if math.isfinite(loss) and math.isfinite(norm) and not 0 < spike < norm:
        memory = NORM_MEMORY if run.typical_norm else 0.0
        run.typical_norm = memory * run.typical_norm + (1 - memory) * norm
        return True
    run.skipped += 1
    what = f"loss {loss:.4g}, gradient norm {norm:.4g} (typical {run.typical_norm:.4g})"
    log.warning("step %d is skipped: %s", run.step + 1, what)
    if run.skipped > config.max_skipped:
        raise Diverged(
            f"{run.skipped} steps were skipped, more than optim.max_skipped={config.max_skipped}, "
            f"the last at step {run.step + 1}: {what}; {REMEDY}"
        )
    return False
