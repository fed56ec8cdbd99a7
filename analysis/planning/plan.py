"""The plan of a final run: one frozen dataclass a block of plan.yaml, its fields in that order.

`Plan.to_dict` returns what plan.yaml holds. A None is written as null and says "not known"; a field
with the metadata `UNWRITTEN` is left out of the file while it is None. Both kinds of default
also stand for the fields that plan.yaml of an earlier version lacks.

N parameters in the law's count, D tokens, C FLOPs, losses in nats per token. `reasons` are
sentences, each by the name of the field that it explains.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any

from analysis.alarms.alarm import Alarm
from scaling.schema import NATS_PER_TOKEN

SCHEMA = 1
LATER_STAGES = ("sft", "reward", "ppo")

Interval = tuple[float, ...]  # (low, high), or () where there is none
Reasons = dict[str, str]
# metadata of a field that is left out of the file while it is None
UNWRITTEN = {"unwritten": True}


@dataclass(frozen=True, kw_only=True)
class BudgetBlock:
    """C that may be spent, the speed of one device in FLOP/s (0: not known), seconds it takes."""

    flops: float
    device: str = ""
    flops_per_second: float = 0.0
    seconds: float = 0.0
    reasons: Reasons = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Step:
    """A line of the derivation: value, law or rule, interval before rounding, rounding."""

    what: str
    value: float
    rule: str
    interval: Interval = ()
    rounding: str = ""


@dataclass(frozen=True, kw_only=True)
class LawRow:
    """What one law says at the budget; `regret` is what it says the plan's N costs.

    `unit` is that of loss and regret.
    """

    law: str
    form: str
    count: str
    params: float
    tokens: float
    tokens_per_param: float
    interval: Interval
    loss: float | None
    regret: float | None
    level: float
    unit: str = NATS_PER_TOKEN


@dataclass(frozen=True, kw_only=True)
class MixtureRow:
    """The plan with one number of experts; `params` are those that a token passes."""

    experts: int
    params: int
    params_total: int
    tokens: int
    test_loss: float
    interval: Interval
    memory_gib: float
    chosen: bool


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """The test loss expected at a share of the tokens; `curves` is how many cells it rests on."""

    share: float
    tokens: float
    curves: int = 0
    test_loss: float
    interval: Interval


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """The test loss of the planned run; a law that gives N and D alone leaves it None."""

    test_loss: float | None = None
    interval: Interval = ()
    level: float
    target: str = ""
    unit: str = "nats_per_token"
    bits_per_byte: float | None = None
    bits_per_byte_interval: Interval | None = None
    curve: tuple[CurvePoint, ...] | None = None
    reasons: Reasons = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return what the file holds: without a loss the level and the reason alone."""
        if self.test_loss is None:
            return {"level": self.level, "reasons": self.reasons}
        return values_of(self)


@dataclass(frozen=True, kw_only=True)
class Confirmation:
    """The smaller run that comes first: C, and its D/N in units of the optimum's."""

    needed: bool
    study: str | None = field(default=None, metadata=UNWRITTEN)
    flops: float | None = None
    overtraining: float | None = field(default=None, metadata=UNWRITTEN)
    reasons: Reasons = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class PretrainBlock:
    """Pretraining; `params_target` is the law's N, `params` that of the shape, `decay` a share.

    `model` holds the settings of `scaling.config.ModelConfig`.
    """

    params_target: float
    params: int
    count: str
    tokens: int
    flops: float
    seconds: float
    model: dict[str, Any]
    context: int
    peak_lr: float
    batch_tokens: int
    warmup_steps: int
    weight_decay: float
    schedule: str
    decay: float
    seed: int
    reasons: Reasons = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class CostBlock:
    """What the run costs; None where nothing is known of it.

    `share_of_budget` and `deadweight` are shares of C, `money` is in the units of the price.
    """

    flops: float
    serving_flops: float | None = None
    share_of_budget: float
    device_hours: float | None = None
    wall_hours: float | None = None
    params_total: int | None = None
    memory_per_device_gib: float
    stage_hours: dict[str, float] | None = field(default=None, metadata=UNWRITTEN)
    money: float | None = None
    deadweight: float | None = None
    reasons: Reasons = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class SftBlock:
    """Fine-tuning; what is forecast of it is there where a law set the block."""

    method: str
    data: str
    test: str | None = None
    examples: int
    epochs: int
    batch_examples: int
    lr_fraction: float | None = None
    lora_rank: int
    packing: bool | None = None
    template: str | None = None
    columns: dict[str, str] | None = None
    truncate: str | None = None
    peak_lr: float
    seed: int
    forecast_loss: float | None = field(default=None, metadata=UNWRITTEN)
    forecast_interval: Interval | None = field(default=None, metadata=UNWRITTEN)
    forecast_level: float | None = field(default=None, metadata=UNWRITTEN)
    reasons: Reasons = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class RewardBlock:
    """The reward model; what is forecast of it is there where a law set the block."""

    data: str
    test: str | None = None
    pairs: int
    batch_pairs: int
    samples_per_prompt: int
    lr_fraction: float | None = None
    epochs: int
    peak_lr: float
    seed: int
    forecast_loss: float | None = field(default=None, metadata=UNWRITTEN)
    forecast_interval: Interval | None = field(default=None, metadata=UNWRITTEN)
    forecast_level: float | None = field(default=None, metadata=UNWRITTEN)
    reasons: Reasons = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class PpoBlock:
    """PPO, KL in nats per sequence; the forecast gain is there where a law set the block."""

    estimator: str | None = None
    group: int | None = None
    kl_budget: float
    adaptive: bool
    episodes: int
    batch_episodes: int
    minibatch_episodes: int
    inner_epochs: int
    lr_fraction: float | None = None
    missing_end_penalty: float
    max_new_tokens: int
    eval_updates: int | None = None
    judge: str | None = None
    kl_coefficient: float
    clip: float
    gae_lambda: float
    discount: float
    value_coefficient: float
    entropy_coefficient: float
    pretrain_mix: float | None = None
    temperature: float
    peak_lr: float
    seed: int
    forecast_gain: float | None = field(default=None, metadata=UNWRITTEN)
    forecast_interval: Interval | None = field(default=None, metadata=UNWRITTEN)
    forecast_level: float | None = field(default=None, metadata=UNWRITTEN)
    reasons: Reasons = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class MachineBlock:
    """How the run is computed; the reasons stand in `Plan.reasons`."""

    precision: str
    compile: bool
    activation_checkpointing: bool
    ranks: int
    shard: bool
    micro_batch: int | None = field(default=None, metadata=UNWRITTEN)


@dataclass(frozen=True, kw_only=True)
class LawBlock:
    """The law that decided; `name` is the one that the command gave."""

    form: str
    count: str
    status: str
    parameters: dict[str, float]
    source: str
    n_runs: int
    name: str | None = field(default=None, metadata=UNWRITTEN)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A plan, block by block.

    `laws` and `mixtures` hold what the plan was compared with, `extrapolation` is C over the
    largest C fitted (0: not known), `cell` the config of a cell of the study, `reasons` those of
    blocks without room for their own, `made_from` sha256 by file, `command` the one that asks for
    this plan again.
    """

    schema: int = SCHEMA
    study: str = ""
    runs: str = "runs"
    budget: BudgetBlock
    steps: tuple[Step, ...] = ()
    laws: tuple[LawRow, ...] = ()
    mixtures: tuple[MixtureRow, ...] = ()
    forecast: Forecast
    confirmation: Confirmation | None = None
    extrapolation: float = 0.0
    pretrain: PretrainBlock
    cost: CostBlock | None = None
    stage_laws: dict[str, list[str]] = field(default_factory=dict)
    sft: SftBlock | None = field(default=None, metadata=UNWRITTEN)
    reward: RewardBlock | None = field(default=None, metadata=UNWRITTEN)
    ppo: PpoBlock | None = field(default=None, metadata=UNWRITTEN)
    machine: MachineBlock | None = None
    reasons: dict[str, Reasons] = field(default_factory=dict)
    cell: dict[str, Any] = field(default_factory=dict)
    law: LawBlock | None = None
    alarms: tuple[Alarm, ...] = ()
    stages: str = ",".join(("pretrain", *LATER_STAGES))
    checks: tuple[dict[str, Any], ...] = ()
    made_from: dict[str, str] = field(default_factory=dict)
    versions: dict[str, Any] = field(default_factory=dict)
    command: str | None = field(default=None, metadata=UNWRITTEN)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, the keys of plan.yaml.

        A block that is None is an empty one; that of a stage that is not planned is left out.
        """
        return {k: {} if v is None else v for k, v in values_of(self).items()}

    def of_stages(self, stages: Sequence[str]) -> "Plan":
        """Return the plan of these stages alone: without blocks, laws and hours of the others."""
        left_out = [stage for stage in LATER_STAGES if stage not in stages]
        cost = self.cost
        if cost is not None:
            hours = {k: v for k, v in (cost.stage_hours or {}).items() if k in stages}
            reasons = {k: v for k, v in cost.reasons.items() if hours or k != "stage_hours"}
            cost = replace(cost, stage_hours=hours or None, reasons=reasons)
        return replace(
            self,
            stages=",".join(stages),
            stage_laws={k: v for k, v in self.stage_laws.items() if k in stages},
            cost=cost,
            **dict.fromkeys(left_out),  # type: ignore[arg-type]  None for each
        )


def values_of(block: Any) -> dict[str, Any]:
    """Return a block's fields as plain values, what is unwritten left out."""
    return {
        f.name: _plain(value)
        for f in fields(block)
        if (value := getattr(block, f.name)) is not None or "unwritten" not in f.metadata
    }


def _plain(value: Any) -> Any:
    """Return dicts and lists in place of dataclasses and tuples."""
    if is_dataclass(value):
        return value.to_dict() if isinstance(value, Forecast) else values_of(value)
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value
