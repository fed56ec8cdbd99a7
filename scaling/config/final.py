"""The config of a final run: the plan."""

from dataclasses import dataclass, field
from typing import Annotated, Any

from scaling.config.machine import LogConfig, MachineConfig
from scaling.config.model import ModelConfig, underived
from scaling.config.ranges import (
    COUNT,
    FORECAST,
    MOST_BATCH,
    MOST_TEXT,
    MOST_TOKENS,
    RATE,
    SHARE_BELOW_1,
)
from scaling.config.stages import PpoPlan, RewardPlan, SftPlan
from scaling.schema import (
    FLOPS,
    MOST_FLOPS,
    MOST_PARAMS,
    Range,
    Seed,
    check_ranges,
    check_study,
)


@dataclass(kw_only=True)
class PretrainPlan:
    """The planned pretraining; `params_target` is the law's N before the shape is rounded."""

    params_target: Annotated[float, Range(0, MOST_PARAMS)] = 0.0
    params: Annotated[int, Range(0, MOST_PARAMS)] = 0
    count: str = "with_head"
    tokens: Annotated[int, Range(0, MOST_TEXT)] = 0
    flops: Annotated[float, FLOPS] = 0.0
    seconds: Annotated[float, Range(0, MOST_FLOPS)] = 0.0
    model: ModelConfig = field(default_factory=underived)
    context: Annotated[int, Range(2, MOST_TOKENS)] = 128
    peak_lr: Annotated[float, RATE] = 0.0
    batch_tokens: Annotated[int, Range(0, MOST_BATCH)] = 0
    warmup_steps: Annotated[int, COUNT] = 30
    weight_decay: Annotated[float, Range(0, 1e4)] = 0.1
    schedule: str = "wsd"
    decay: Annotated[float, Range(0, 1, above=True)] = 0.2
    seed: Seed = 0
    reasons: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the numbers."""
        check_ranges(self, "pretrain")


@dataclass(kw_only=True)
class PlanBudget:
    """What may be spent, and on what; seconds follow from the measured FLOP/s."""

    flops: Annotated[float, FLOPS] = 0.0
    device: str = ""
    flops_per_second: Annotated[float, FLOPS] = 0.0
    seconds: Annotated[float, Range(0, MOST_FLOPS)] = 0.0
    reasons: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the numbers."""
        check_ranges(self, "budget")


@dataclass(kw_only=True)
class Forecast:
    """Test loss of the planned run in nats/token, with its prediction interval."""

    test_loss: Annotated[float, FORECAST] = 0.0
    interval: list[Annotated[float, Range(-1e9, 1e9)]] = field(default_factory=list)
    level: Annotated[float, SHARE_BELOW_1] = 0.95
    bits_per_byte: Annotated[float, FORECAST] | None = None
    bits_per_byte_interval: list[Annotated[float, Range(-1e9, 1e9)]] = field(default_factory=list)
    curve: list[Any] = field(default_factory=list)
    reasons: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the numbers."""
        check_ranges(self, "forecast")


@dataclass(kw_only=True)
class FinalConfig:
    """plan.yaml, as `scaling.final` reads it; `cell` is the study's config that the plan keeps.

    `reasons` are those of blocks that have no room for their own. `force` lets a run pass without
    its confirmation; `stop_outside` ends one that leaves the band of its forecast curve twice in a
    row, its checkpoint kept.
    """

    schema: Annotated[int, Range(1, 1000)] = 1
    study: str = "quick"
    runs: str = "runs"
    budget: PlanBudget = field(default_factory=PlanBudget)
    forecast: Forecast = field(default_factory=Forecast)
    confirmation: dict[str, Any] = field(default_factory=dict)
    extrapolation: Annotated[float, Range(0, MOST_FLOPS)] = 0.0
    steps: list[Any] = field(default_factory=list)
    laws: list[Any] = field(default_factory=list)
    mixtures: list[Any] = field(default_factory=list)
    stage_laws: dict[str, list[str]] = field(default_factory=dict)
    pretrain: PretrainPlan = field(default_factory=PretrainPlan)
    cost: dict[str, Any] = field(default_factory=dict)
    sft: SftPlan = field(default_factory=SftPlan)
    reward: RewardPlan = field(default_factory=RewardPlan)
    ppo: PpoPlan = field(default_factory=PpoPlan)
    cell: dict[str, Any] = field(default_factory=dict)
    law: dict[str, Any] = field(default_factory=dict)
    alarms: list[dict[str, str]] = field(default_factory=list)
    made_from: dict[str, str] = field(default_factory=dict)
    command: str = ""
    versions: dict[str, Any] = field(default_factory=dict)
    reasons: dict[str, dict[str, str]] = field(default_factory=dict)
    machine: MachineConfig = field(default_factory=MachineConfig)
    log: LogConfig = field(default_factory=LogConfig)
    plan: str = ""
    stages: str = "pretrain,sft,reward,ppo"
    resume: bool = True
    force: bool = False
    stop_outside: bool = False

    def __post_init__(self) -> None:
        """Check the numbers; refuse a study's name that leads out of the runs folder."""
        check_ranges(self)
        check_study(self.study)
