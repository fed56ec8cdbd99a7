"""Settings of optimiser, schedule, budget and evaluation."""

import dataclasses
import re
from dataclasses import dataclass, field
from typing import Annotated

from scaling.config.model import ModelConfig
from scaling.config.ranges import (
    COUNT,
    MOST_BATCH,
    MOST_RATE,
    MOST_TEXT,
    RATE,
    SHARE,
    SHARE_BELOW_1,
    SPIKE,
    WIDEST,
    check,
)
from scaling.schema import (
    COUNTS,
    MOST_FLOPS,
    MOST_PARAMS,
    OneOf,
    Range,
    Recipe,
    checked,
)


@dataclass(kw_only=True)
@checked("optim")
class OptimConfig:
    """The optimiser, and the rule for its learning rate and batch (tuned in sweeps/LOG.md)."""

    name: Annotated[str, OneOf("adamw", "muon")] = "adamw"
    """Optimiser; muon takes the hidden matrices, at AdamW's rates, and AdamW the rest."""
    peak_lr: Annotated[float, Range(0, MOST_RATE, note="0 follows the rule")] = 0.0
    """Peak learning rate of the hidden matrices; 0 follows the rule: lr_base times
    (lr_base_width / d_model)^lr_width_exponent."""
    batch_tokens: Annotated[int, Range(0, MOST_BATCH, note="0 follows the rule")] = 0
    """Tokens of a step; 0 follows the rule: batch_base up to batch_base_params, beyond that it
    grows as a power of the parameters."""
    lr_base: Annotated[float, Range(0, MOST_RATE, above=True)] = 0.006
    """Peak learning rate at the base width, and that of vectors at any width."""
    lr_base_width: Annotated[int, Range(1, WIDEST)] = 32
    """Width at which lr_base holds under parametrization=layerwise; mup and completep take
    model.base_width."""
    lr_width_exponent: Annotated[float, Range(-4, 4)] = 1.0
    """How the learning rate falls with width under parametrization=layerwise; the others have
    exponents of their own."""
    lr_embedding: Annotated[float, RATE] = 0.02
    """Peak learning rate of the embedding."""
    batch_base: Annotated[int, Range(1, MOST_BATCH)] = 256
    """Tokens of a step for models up to batch_base_params."""
    batch_base_params: Annotated[float, Range(0, MOST_PARAMS, above=True)] = 200_000.0
    """Non-embedding (active) parameters up to which the batch stays at batch_base."""
    batch_exponent: Annotated[float, Range(-4, 4)] = 0.5
    """Power of the parameters with which the batch grows beyond batch_base_params."""
    beta1: Annotated[float, SHARE_BELOW_1] = 0.9
    """AdamW's decay of the mean gradient."""
    beta2: Annotated[float, SHARE_BELOW_1] = 0.95
    """AdamW's decay of the mean squared gradient."""
    eps: Annotated[float, Range(0, 1, above=True)] = 1e-8
    """AdamW's term that keeps the division finite."""
    weight_decay: Annotated[float, Range(0, 1e4)] = 0.1
    """Weight decay of matrices, multiplied by the learning rate at each step."""
    clip: Annotated[float, Range(0, 1e9, note="0 clips nothing")] = 1.0
    """Norm that a step's gradient is clipped to; 0 clips nothing."""
    momentum: Annotated[float, SHARE_BELOW_1] = 0.95
    """Momentum of muon."""
    spike_factor: Annotated[float, SPIKE] = 0.0
    """Skip a step whose gradient norm is more than this many times the running mean (as PaLM
    skipped batches, Chowdhery et al. 2022, section 5.1); 10 is usual, 0 skips only steps whose
    loss or gradient is not finite."""
    max_skipped: Annotated[int, COUNT] = 20
    """Skipped steps after which the cell has diverged."""

    def recipe(self, model: ModelConfig) -> Recipe:
        """Return the constants of the rule for a model's parametrisation."""
        return Recipe.from_config(dataclasses.asdict(self), dataclasses.asdict(model))


@dataclass(kw_only=True)
@checked("schedule")
class ScheduleConfig:
    """The learning rate over a run."""

    name: Annotated[str, OneOf("wsd", "cosine")] = "wsd"
    """Schedule: wsd warms up, stays at the peak and decays at the end of each budget, so that all
    budgets of a model share one trunk; cosine trains each cell alone."""
    warmup_steps: Annotated[int, COUNT] = 10
    """Steps of linear warm-up; cosine takes at most a quarter of the run."""
    decay: Annotated[float, Range(0, 1, above=True)] = 0.2
    """Share of the budget over which wsd decays."""
    decay_shape: Annotated[str, OneOf("sqrt", "linear")] = "sqrt"
    """How wsd decays: by 1 - sqrt (Hägele et al. 2024, 2405.18392) or linearly."""
    floor: Annotated[float, SHARE] = 0.0
    """Learning rate at the end, as a share of the peak."""


@dataclass(kw_only=True)
@checked("budget")
class BudgetConfig:
    """How much a cell trains; set exactly one of flops, n_tokens and tokens_per_param."""

    flops: Annotated[float, Range(0, MOST_FLOPS, above=True)] | None = None
    """Training FLOPs."""
    n_tokens: Annotated[float, Range(0, MOST_TEXT, above=True)] | None = None
    """Training tokens."""
    tokens_per_param: Annotated[float, Range(0, 1e9, above=True)] | None = None
    """Training tokens for each parameter, counted as budget.count says."""
    count: Annotated[str, OneOf(*COUNTS)] = "with_head"
    """Which parameters tokens_per_param counts."""

    def chosen(self) -> tuple[str, float]:
        """Return the one budget that is set; ValueError when none or several are."""
        budgets = self._budgets()
        if len(budgets) != 1:
            raise ValueError(
                f"budget sets {self.given() or 'nothing'}; set exactly one of flops, n_tokens,"
                f" tokens_per_param (got {len(budgets)})"
            )
        return next(iter(budgets.items()))

    def given(self) -> str:
        """Return the budgets that are set, as `flops=1e12`; empty where none is."""
        return " and ".join(f"{k}={v:g}" for k, v in self._budgets().items())

    def _budgets(self) -> dict[str, float]:
        names = ("flops", "n_tokens", "tokens_per_param")
        return {n: value for n in names if (value := getattr(self, n)) is not None}


LR_POWERS = {"sqrt": 0.5, "linear": 1.0, "none": 0.0}  # of the batch, by which the rate grows


@dataclass(kw_only=True)
@checked("branch")
class BranchConfig:
    """A branch with another batch than its trunk, to measure the critical batch.

    It leaves the trunk after at_tokens and trains so many more tokens (branched training: Merrill
    et al. 2025, 2505.23971); its rate decays over the last schedule.decay of its own steps.
    """

    at_tokens: Annotated[float, Range(0, MOST_TEXT, note="0 is a branch of the usual kind")] = 0.0
    """Tokens of the trunk after which the branch leaves it; 0 is a branch of the usual kind, which
    leaves where the decay of its budget begins."""
    tokens: Annotated[float, Range(0, MOST_TEXT)] = 0.0
    """Tokens that the branch trains of its own; they stand in for the budget."""
    batch_factor: Annotated[int, Range(1, 65_536)] = 1
    """Batch of the branch over that of the trunk."""
    lr_rule: Annotated[str, OneOf(*LR_POWERS)] = "sqrt"
    """How the branch's learning rate follows its batch: sqrt multiplies the trunk's rate by the
    root of batch_factor, as AdamW needs it (Malladi et al. 2022, 2205.10287), linear by
    batch_factor, none keeps it."""

    @property
    def is_set(self) -> bool:
        """Whether the cell is such a branch."""
        return self.at_tokens > 0

    def __post_init__(self) -> None:
        """Refuse a branch without tokens, and settings of a branch without its point."""
        if self.is_set and not self.tokens:
            raise ValueError(
                f"branch.at_tokens={self.at_tokens:g} needs branch.tokens, which the branch trains"
                " after it; set branch.tokens as well"
            )
        if not self.is_set and (self.tokens or self.batch_factor != 1):
            raise ValueError(
                f"branch.tokens={self.tokens:g} and branch.batch_factor={self.batch_factor} are of"
                " a branch with another batch; set branch.at_tokens, the tokens after which it"
                " leaves its trunk"
            )


@dataclass(kw_only=True)
@checked("eval")
class EvalConfig:
    """The held-out tokens that a cell is scored on, the same for every cell."""

    test_tokens: Annotated[int, Range(1, MOST_TEXT)] = 65_536
    """Held-out tokens that the final test loss is measured on."""
    sets: dict[str, list[str]] = field(default_factory=dict)
    """Named test sets beside that, as {web: [a.jsonl], code: [b.jsonl]}: the folders, globs or
    files of each, read as data.train is. Every cell is scored on all their tokens, and its record
    holds the losses in nats per token and bits per byte."""
    sets_sha256: dict[str, str] = field(default_factory=dict)
    """Hashes of the files of each set: filled in when a sweep starts. They, and not the paths, are
    part of the cell's id; files that changed since are refused."""
    curve_points: Annotated[int, Range(24, 24, note="nothing reads it; leave it out")] = 24
    """Unused: nothing reads it, but every cell's id contains it. Leave it out."""
    curve_tokens: Annotated[int, Range(1, MOST_TEXT)] = 8_192
    """Held-out tokens that a row of the training curve is scored on."""

    def __post_init__(self) -> None:
        """Check the names of the sets, which are keys of records and words of commands."""
        for name, files in self.sets.items():
            legal = re.fullmatch(r"[A-Za-z][\w.-]*", name) is not None
            other = re.sub(r"[^\w.-]+", "_", name)
            other = other if re.match("[A-Za-z]", other) else f"set_{other}"
            check(
                "eval.sets",
                name,
                legal,
                "is no name of a test set: it must start with a letter and hold letters, digits,"
                f" _ - . alone; write {other}",
            )
            check(f"eval.sets.{name}", files, bool(files), "is empty; name its files")
