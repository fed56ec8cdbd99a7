"""Settings of optimiser, schedule, budget and evaluation."""

import dataclasses
from dataclasses import dataclass
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
    one_of,
)
from scaling.schema import (
    COUNTS,
    MOST_FLOPS,
    MOST_PARAMS,
    Range,
    Recipe,
    check_ranges,
)


@dataclass(kw_only=True)
class OptimConfig:
    """The optimiser and the rule for its rate and batch; `sweeps/LOG.md` says how they were tuned.

    `peak_lr` and `batch_tokens` of 0 follow the rule (scaling.schema.Recipe). `muon` takes hidden
    matrices, at AdamW's rates (scaling.optim.muon); AdamW keeps the rest. `lr_base_width` and
    `lr_width_exponent` are the rule of model.parametrization=layerwise.

    A step whose loss or gradient is not finite is skipped, and with a `spike_factor` one whose
    gradient norm is that many times the running mean (as PaLM skipped batches, Chowdhery et al.
    2022, section 5.1); after more than `max_skipped` of them the cell has diverged.
    """

    name: str = "adamw"
    peak_lr: Annotated[float, Range(0, MOST_RATE, note="0 follows the rule")] = 0.0
    batch_tokens: Annotated[int, Range(0, MOST_BATCH, note="0 follows the rule")] = 0
    lr_base: Annotated[float, Range(0, MOST_RATE, above=True)] = 0.006
    lr_base_width: Annotated[int, Range(1, WIDEST)] = 32
    lr_width_exponent: Annotated[float, Range(-4, 4)] = 1.0
    lr_embedding: Annotated[float, RATE] = 0.02
    batch_base: Annotated[int, Range(1, MOST_BATCH)] = 256
    batch_base_params: Annotated[float, Range(0, MOST_PARAMS, above=True)] = 200_000.0
    batch_exponent: Annotated[float, Range(-4, 4)] = 0.5
    beta1: Annotated[float, SHARE_BELOW_1] = 0.9
    beta2: Annotated[float, SHARE_BELOW_1] = 0.95
    eps: Annotated[float, Range(0, 1, above=True)] = 1e-8
    weight_decay: Annotated[float, Range(0, 1e4)] = 0.1
    clip: Annotated[float, Range(0, 1e9, note="0 clips nothing")] = 1.0
    momentum: Annotated[float, SHARE_BELOW_1] = 0.95
    spike_factor: Annotated[float, SPIKE] = 0.0
    max_skipped: Annotated[int, COUNT] = 20

    def __post_init__(self) -> None:
        """Check the optimiser's name and numbers."""
        check_ranges(self, "optim")
        one_of("optim.name", self.name, ("adamw", "muon"))

    def recipe(self, model: ModelConfig) -> Recipe:
        """Return the constants of the rule for a model's parametrisation."""
        return Recipe.from_config(dataclasses.asdict(self), dataclasses.asdict(model))


@dataclass(kw_only=True)
class ScheduleConfig:
    """`wsd`: warm-up, constant, then decay over the last `decay` of each budget (a branch).

    `cosine` decays to `floor` times the peak at the budget's end and trains each cell alone.
    The decay of wsd is 1 - sqrt (Hägele et al. 2024, 2405.18392) or linear.
    """

    name: str = "wsd"
    warmup_steps: Annotated[int, COUNT] = 10
    decay: Annotated[float, Range(0, 1, above=True)] = 0.2
    decay_shape: str = "sqrt"
    floor: Annotated[float, SHARE] = 0.0

    def __post_init__(self) -> None:
        """Check names and numbers."""
        check_ranges(self, "schedule")
        one_of("schedule.name", self.name, ("wsd", "cosine"))
        one_of("schedule.decay_shape", self.decay_shape, ("sqrt", "linear"))


@dataclass(kw_only=True)
class BudgetConfig:
    """How much a cell trains: exactly one of FLOPs, tokens, tokens per parameter (of `count`)."""

    flops: Annotated[float, Range(0, MOST_FLOPS, above=True)] | None = None
    n_tokens: Annotated[float, Range(0, MOST_TEXT, above=True)] | None = None
    tokens_per_param: Annotated[float, Range(0, 1e9, above=True)] | None = None
    count: str = "with_head"

    def __post_init__(self) -> None:
        """Check the count and that what is set is positive."""
        check_ranges(self, "budget")
        one_of("budget.count", self.count, COUNTS)

    def chosen(self) -> tuple[str, float]:
        """Return the one budget that is set; ValueError when none or several are."""
        found = {
            n: getattr(self, n)
            for n in ("flops", "n_tokens", "tokens_per_param")
            if getattr(self, n) is not None
        }
        if len(found) != 1:
            text = " and ".join(f"{k}={v:g}" for k, v in found.items()) or "nothing"
            raise ValueError(
                f"budget sets {text}; set exactly one of flops, n_tokens, tokens_per_param "
                f"(got {len(found)})"
            )
        return next(iter(found.items()))


@dataclass(kw_only=True)
class EvalConfig:
    """The fixed held-out tokens, the same for every cell, and how many a curve's row takes.

    `curve_points` was never read, but is part of every cell's identity: it stays as a constant.
    """

    test_tokens: Annotated[int, Range(1, MOST_TEXT)] = 65_536
    curve_points: Annotated[int, Range(24, 24, note="nothing reads it; leave it out")] = 24
    curve_tokens: Annotated[int, Range(1, MOST_TEXT)] = 8_192

    def __post_init__(self) -> None:
        """Check the numbers."""
        check_ranges(self, "eval")
