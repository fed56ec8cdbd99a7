"""One training step, and all that it needs: model, optimiser, batches, device, ranks.

A step that is not finite, or spikes, is skipped and counted; one that memory cannot hold ends with
the micro-batch that it can.
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
from scaling.data.tokenizer import END
from scaling.data.tokens import Corpus, open_corpus
from scaling.model.transformer import Transformer
from scaling.optim.optimizers import make_optimizer
from scaling.schema import now
from scaling.study.lease import Pulse
from scaling.train.device import autocast, check_fits, count_memory_anew, pick_device, to_device
from scaling.train.forecast_band import Corridor
from scaling.train.heldout import TestSet, make_test_set
from scaling.train.memory import advice, divisors, is_out_of_memory, largest_that_fits
from scaling.train.ranks import ALONE, World, whole

if TYPE_CHECKING:
    from scaling.cpu.passes import Passes

log = logging.getLogger(__name__)
Report = Callable[[float], None]  # called with the FLOPs done so far
REMEDY = "lower optim.peak_lr or raise schedule.warmup_steps"
LONGEST = 512  # tokens of a row; beyond it scores no longer fit the cache and flash attention wins
NORM_MEMORY = 0.98  # of the running mean that a spike is measured against: about 50 steps


class Diverged(Exception):
    """The loss stopped being finite, or too many steps had to be skipped."""


@dataclass
class Run:
    """A model in training: what changes from step to step.

    `passes` give the gradient where they can, autograd of the `objective` where there are none.
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
    corridor: Corridor
    world: World = ALONE
    clock: Callable[[], float] = time.monotonic  # seconds that count as this trunk's
    stacked: bool = False  # its steps are computed together with others'

    @property
    def shared_out(self) -> bool:
        """Whether each rank holds a part of the weights."""
        return self.cell.machine.shard and self.world.size > 1

    def beside(self, cell: CellConfig, pulse: Pulse) -> "Setting":
        """Return the setting of another trunk on the same corpus and test set."""
        resolved = resolve(cell)
        return replace(
            self,
            cell=cell,
            resolved=resolved,
            batches=Batches.of(self.corpus, cell.data, rows=resolved.rows, seed=cell.seed),
            pulse=pulse,
            started=now(),
        )


class Objective(nn.Module):
    """What is minimised: the loss, and for experts the router's losses."""

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
    corridor: Corridor | None = None,
) -> Setting:
    """Open corpus and device, and work out what the branches share."""
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
        report=report,
        pulse=pulse or Pulse(),
        started=now(),
        resolved=resolved,
        corridor=corridor or Corridor(),
        world=world,
    )


def new_run(setting: Setting) -> Run:
    """Initialise model and optimiser from the seed."""
    cell = setting.cell
    torch.manual_seed(cell.seed)
    model = Transformer(cell.model, vocab_size=cell.tokenizer.vocab_size, context=cell.data.context)
    shared_out = setting.shared_out
    if not shared_out:
        model.to(setting.device)
    model.document_end = END if cell.data.mask_documents else None
    model.recompute = cell.machine.activation_checkpointing
    if cell.machine.compile:
        compile_blocks(model, setting)
    if shared_out:
        setting.world.shard(model, model.blocks, setting.device)
    objective: nn.Module = Objective(model, cell.machine.precision)
    passes = None if setting.stacked else make_passes(model, setting)
    if setting.world.size > 1 and not (passes or shared_out):
        # its buckets are the gradients: a copy would be 4 bytes a parameter more than is counted
        objective = DistributedDataParallel(objective, gradient_as_bucket_view=True)
    return Run(
        model=model,
        optimizer=make_optimizer(model, cell.optim, setting.resolved.peak_lr),
        objective=objective,
        passes=passes,
    )


def compile_blocks(model: Transformer, setting: Setting) -> None:
    """Compile the blocks: they are alike, so that it is done once, at the first step.

    torch keeps eight compiled forms of one piece of code and goes on without compiling beyond: what
    was compiled for another shape is forgotten, so that a process can train a grid of shapes.
    """
    global compiled_for
    shape = setting.resolved.shape, setting.cell.machine.precision, micro_rows(setting)
    if compiled_for not in (None, shape):
        torch.compiler.reset()
    compiled_for = shape
    for block in model.blocks:
        block.compile()


compiled_for: tuple[Any, ...] | None = None  # shape, precision, rows


def make_passes(model: Transformer, setting: Setting) -> "Passes | None":
    """Return the faster way to a batch's gradient, None where there is none."""
    context, machine = setting.cell.data.context, setting.cell.machine
    plain = not (machine.compile or machine.activation_checkpointing or setting.shared_out)
    known = plain and has_passes(
        model.config, context=context, device=setting.device, precision=machine.precision
    )
    if not (known and has_numba()):
        return None
    from scaling.cpu.passes import Passes  # its kernels' compiler is of those that train alone

    rows = micro_rows(setting)
    return Passes(model, rows=rows, context=context, precision=machine.precision)


def has_passes(config: ModelConfig, *, context: int, device: torch.device, precision: str) -> bool:
    """Say whether Passes computes this model; autograd does where it does not."""
    known = config.plain and config.d_head % 2 == 0 and context <= LONGEST
    return known and device.type == "cpu" and precision in ("fp32", "bf16")


def micro_rows(setting: Setting) -> int:
    """Return the rows of a forward pass; ValueError where they do not divide a rank's."""
    rows = setting.world.rows(setting.resolved.rows)
    wanted = setting.cell.machine.micro_batch
    if wanted and rows % wanted:
        raise ValueError(
            f"machine.micro_batch={wanted} does not divide the {rows} rows of a rank's step; "
            f"choose one of {', '.join(map(str, divisors(rows)[::-1]))}"
        )
    return wanted or rows


def step_or_advise(run: Run, setting: Setting, clip: float) -> tuple[float, float]:
    """Take one step; a RuntimeError that names what fits where memory runs out."""
    try:
        return train_step(run, setting, clip)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    rows = micro_rows(setting)
    if setting.shared_out:  # the other ranks wait for this one: nothing can be tried
        raise RuntimeError(
            f"out of memory with {rows} rows a rank at once; lower machine.micro_batch or set "
            "machine.activation_checkpointing=true"
        )
    run.passes = None  # with its buffers
    run.optimizer.zero_grad(set_to_none=True)
    raise RuntimeError(advice(rows, largest_that_fits(rows, lambda n: trial(run, setting, n))))


def trial(run: Run, setting: Setting, rows: int) -> None:
    """Compute the gradient of some rows as a step would, to see whether they fit.

    Beside the moments, for which the first step makes room only after its gradient.
    """
    room = [] if run.optimizer.state else [torch.empty_like(w) for w in moments_of(run)]
    cell = replace(setting.cell, machine=replace(setting.cell.machine, micro_batch=rows))
    alone = replace(setting, cell=cell, world=ALONE)
    x, y = (to_device(part[:rows], setting.device) for part in setting.batches(run.step))
    objective = Objective(run.model, cell.machine.precision)
    gradient(replace(run, passes=make_passes(run.model, alone), objective=objective), alone, x, y)
    del room


def moments_of(run: Run) -> list[Tensor]:
    """Return each weight as often as AdamW keeps a moment of it."""
    return [w for group in run.optimizer.param_groups for w in group["params"] for _ in range(2)]


def train_step(run: Run, setting: Setting, clip: float) -> tuple[float, float]:
    """Take one step; return the loss (nats/token) and the gradient norm before clipping.

    A GPU is waited for once, when both are known.
    """
    x, y = (
        to_device(setting.world.part(part), setting.device) for part in setting.batches(run.step)
    )
    mean = gradient(run, setting, x, y)  # of (B, T) each
    if run.passes:
        size = run.passes.clip(clip)
    else:
        most = clip if clip > 0 else math.inf
        size = whole(nn.utils.clip_grad_norm_(run.model.parameters(), most))
    loss, norm = torch.stack([mean, size]).tolist()
    if accept(run, setting.cell.optim, loss, norm):
        run.optimizer.step()
    return loss, norm


def gradient(run: Run, setting: Setting, x: Tensor, y: Tensor) -> Tensor:
    """Compute a batch's gradient, in parts of `machine.micro_batch` rows; return the loss."""
    parts, world = (
        list(zip(*(t.split(micro_rows(setting)) for t in (x, y)), strict=True)),
        setting.world,
    )
    if run.passes:
        loss = run.passes(parts)
        world.mean_(run.passes.gradient)
        return world.mean_(loss)
    run.optimizer.zero_grad(set_to_none=True)
    total = torch.zeros((), device=setting.device)
    for number, (inputs, targets) in enumerate(parts, start=1):
        last = number == len(parts) or world.size == 1
        if setting.shared_out:
            run.model.set_requires_gradient_sync(last)  # type: ignore[operator]
        with nullcontext() if last or setting.shared_out else run.objective.no_sync():  # type: ignore[operator]
            loss, objective = run.objective(inputs, targets)
            (objective / len(parts)).backward()
        total += loss / len(parts)
    return world.mean_(total)


def accept(run: Run, config: OptimConfig, loss: float, norm: float) -> bool:
    """Say whether a step is taken; count and log one that is not. Raises Diverged past the bound.

    A skipped step leaves weights and moments as they were; its batch is not seen again.
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
