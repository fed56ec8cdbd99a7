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
    COUNTS,
    FLOPS,
    LOSS_UNITS,
    MOST_FLOPS,
    MOST_PARAMS,
    NATS_PER_TOKEN,
    OneOf,
    Range,
    Seed,
    check_study,
    checked,
)


@dataclass(kw_only=True)
@checked("pretrain")
class PretrainPlan:
    """The planned pretraining."""

    params_target: Annotated[float, Range(0, MOST_PARAMS)] = 0.0
    """Parameters that the law asks for, before the shape is rounded."""
    params: Annotated[int, Range(0, MOST_PARAMS)] = 0
    """Parameters of the rounded shape, counted as pretrain.count says."""
    count: Annotated[str, OneOf(*COUNTS)] = "with_head"
    """Which parameters the law's N counts."""
    tokens: Annotated[int, Range(0, MOST_TEXT)] = 0
    """Training tokens."""
    flops: Annotated[float, FLOPS] = 0.0
    """Training FLOPs, counted exactly for the shape."""
    seconds: Annotated[float, Range(0, MOST_FLOPS)] = 0.0
    """Planned seconds of training; 0 where no speed is known."""
    model: ModelConfig = field(default_factory=underived)
    context: Annotated[int, Range(2, MOST_TOKENS)] = 128
    """Tokens of a training window."""
    peak_lr: Annotated[float, RATE] = 0.0
    """Peak learning rate of the hidden matrices; 0 follows the study's rule."""
    batch_tokens: Annotated[int, Range(0, MOST_BATCH)] = 0
    """Tokens of a step; 0 follows the study's rule."""
    warmup_steps: Annotated[int, COUNT] = 30
    """Steps of linear warm-up."""
    weight_decay: Annotated[float, Range(0, 1e4)] = 0.1
    """Weight decay of matrices."""
    schedule: Annotated[str, OneOf("wsd", "cosine")] = "wsd"
    """Learning-rate schedule."""
    decay: Annotated[float, Range(0, 1, above=True)] = 0.2
    """Share of the budget over which wsd decays."""
    seed: Seed = 0
    """Seed of initial weights and of the order of the text."""
    reasons: dict[str, str] = field(default_factory=dict)
    """The plan's reason for each value of this block; the run does not read them."""


@dataclass(kw_only=True)
@checked("budget")
class PlanBudget:
    """What the plan may spend."""

    flops: Annotated[float, FLOPS] = 0.0
    """Training FLOPs."""
    device: str = ""
    """Device that the plan was made for; empty where none was named."""
    flops_per_second: Annotated[float, FLOPS] = 0.0
    """FLOPs that one device does in a second; 0 where no speed is known."""
    seconds: Annotated[float, Range(0, MOST_FLOPS)] = 0.0
    """Seconds that the budget lasts at that speed; 0 where no speed is known."""
    reasons: dict[str, str] = field(default_factory=dict)
    """The plan's reason for each value of this block; the run does not read them."""


@dataclass(kw_only=True)
@checked("forecast")
class Forecast:
    """The planned run's test loss, sealed before the run starts."""

    test_loss: Annotated[float, FORECAST] = 0.0
    """Forecast test loss, in nats per token where unit says no other."""
    interval: list[Annotated[float, Range(-1e9, 1e9)]] = field(default_factory=list)
    """Prediction interval of the test loss."""
    parts: dict[str, Annotated[float, FORECAST]] = field(default_factory=dict)
    """Half-width that each cause of the interval alone would give, in percent; not read by the
    run."""
    level: Annotated[float, SHARE_BELOW_1] = 0.95
    """Level of the intervals."""
    target: str = ""
    """Named test set (eval.sets) whose loss test_loss is; empty is the test part."""
    unit: Annotated[str, OneOf(*LOSS_UNITS)] = NATS_PER_TOKEN
    """Unit of test_loss."""
    bits_per_byte: Annotated[float, FORECAST] | None = None
    """Forecast loss in bits per byte; null where the bytes of a token are not known."""
    bits_per_byte_interval: list[Annotated[float, Range(-1e9, 1e9)]] = field(default_factory=list)
    """Prediction interval of the bits per byte."""
    curve: list[Any] = field(default_factory=list)
    """Forecast losses with intervals at shares of the run's tokens: the forecast band."""
    reasons: dict[str, str] = field(default_factory=dict)
    """The plan's reason for each value of this block; the run does not read them."""


@dataclass(kw_only=True)
@checked()
class FinalConfig:
    """plan.yaml as scaling final reads it, and how the run is made."""

    schema: Annotated[int, Range(1, 1000)] = 1
    """Version of the plan's format."""
    study: str = "quick"
    """Name of the study that the plan belongs to: its folder in runs."""
    runs: str = "runs"
    """Folder of all studies."""
    budget: PlanBudget = field(default_factory=PlanBudget)
    forecast: Forecast = field(default_factory=Forecast)
    confirmation: dict[str, Any] = field(default_factory=dict)
    """The smaller run that must first confirm a plan far beyond what was fitted."""
    extrapolation: Annotated[float, Range(0, MOST_FLOPS)] = 0.0
    """Planned FLOPs over the largest that were fitted; 0 where these are not known."""
    steps: list[Any] = field(default_factory=list)
    """Steps of the derivation, as the plan records them; the run does not read them."""
    laws: list[Any] = field(default_factory=list)
    """What each of several laws says of the budget; the run does not read them."""
    mixtures: list[Any] = field(default_factory=list)
    """Numbers of experts that the law chose among; the run does not read them."""
    stage_laws: dict[str, list[str]] = field(default_factory=dict)
    """Laws that set the later stages, by stage; the run does not read them."""
    pretrain: PretrainPlan = field(default_factory=PretrainPlan)
    cost: dict[str, Any] = field(default_factory=dict)
    """Planned hours, memory, money and waste; the run does not read them."""
    sft: SftPlan = field(default_factory=SftPlan)
    reward: RewardPlan = field(default_factory=RewardPlan)
    ppo: PpoPlan = field(default_factory=PpoPlan)
    cell: dict[str, Any] = field(default_factory=dict)
    """The study's config, which sets all that the plan does not."""
    law: dict[str, Any] = field(default_factory=dict)
    """The law that decided, as the plan records it."""
    alarms: list[dict[str, str]] = field(default_factory=list)
    """Alarms of the plan, each with its code and a sentence."""
    made_from: dict[str, str] = field(default_factory=dict)
    """Hashes of the law and the records that the plan was made from."""
    command: str = ""
    """The scaling plan command that made the plan; the run does not read it."""
    versions: dict[str, Any] = field(default_factory=dict)
    """Versions of the code that made the plan; the run does not read them."""
    reasons: dict[str, dict[str, str]] = field(default_factory=dict)
    """Reasons of the blocks that have no key reasons of their own; the run does not read them."""
    checks: list[Any] = field(default_factory=list)
    """What was found of each stage when the plan was made; the run checks again."""
    overrides: list[str] = field(default_factory=list)
    """Settings that the command put in place of the plan's, as the plan that ran records them."""
    machine: MachineConfig = field(default_factory=MachineConfig)
    log: LogConfig = field(default_factory=LogConfig)
    plan: str = ""
    """The plan's file, as runs/NAME/plan.yaml; it is merged in before what is typed."""
    check: Annotated[str, OneOf("", "all", "data")] = ""
    """Check every stage, say what was found, and train nothing: all checks data, lengths, memory
    and disk, data leaves out what depends on this machine; empty checks all, then trains."""
    out: str = ""
    """JSON file of what was checked, to write before anything is trained; empty writes none."""
    stages: str = "pretrain,sft,reward,ppo"
    """Stages to run, separated by commas."""
    resume: bool = True
    """Continue a killed stage from its checkpoint, and skip a stage that is done with the same
    inputs; false starts each stage afresh."""
    force: bool = False
    """Run without the confirmation that the plan asks for, PPO on a reward model at chance, and
    pretraining where a finished run of another plan is replaced by it."""
    stop_outside: bool = False
    """End pretraining, with its checkpoint kept, once it leaves its forecast band twice in a
    row."""

    def __post_init__(self) -> None:
        """Refuse a study's name that leads out of the runs folder."""
        check_study(self.study)
