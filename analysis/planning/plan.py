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
    """What may be spent, and how fast."""

    flops: float
    """C, the FLOPs that may be spent."""
    device: str = ""
    """Name of the device, as h200; empty where none was given."""
    flops_per_second: float = 0.0
    """Speed of one device, in FLOP/s; 0 where it is not known."""
    seconds: float = 0.0
    """Time that the pretraining takes, in seconds; 0 where the speed is not known."""
    reasons: Reasons = field(default_factory=dict)
    """Why each value is what it is, by the field's name."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """A line of the derivation."""

    what: str
    """Quantity of this line, as N* or learning rate."""
    value: float
    """Its value."""
    rule: str
    """Law or rule that gave it."""
    interval: Interval = ()
    """Interval before rounding; empty without one."""
    rounding: str = ""
    """How the value was rounded, and by how much."""


@dataclass(frozen=True, kw_only=True)
class LawRow:
    """What one law says at the budget."""

    law: str
    """Name of the law."""
    form: str
    """Its form."""
    count: str
    """How it counts N."""
    params: float
    """Its N* at the budget, in parameters."""
    tokens: float
    """Its D* at the budget, in tokens."""
    tokens_per_param: float
    """D* / N*."""
    interval: Interval
    """Interval of N*; empty without draws."""
    loss: float | None
    """Its loss at the optimum, in its own unit; null for a law of N and D alone."""
    regret: float | None
    """What it says that the plan's N costs against its own optimum, in `unit`; null without a
    loss."""
    level: float
    """Share that the interval holds."""
    unit: str = NATS_PER_TOKEN
    """Unit of loss and regret."""


@dataclass(frozen=True, kw_only=True)
class MixtureRow:
    """The plan with one number of experts."""

    experts: int
    """Number of experts; 1 is a dense model."""
    params: int
    """Parameters that one token passes through."""
    params_total: int
    """All parameters, every expert included."""
    tokens: int
    """Training tokens."""
    test_loss: float
    """Forecast test loss, in nats per token."""
    interval: Interval
    """Prediction interval of the loss."""
    memory_gib: float
    """Memory of one device while training, in GiB."""
    chosen: bool
    """Whether the plan takes this number of experts."""


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """The test loss expected at a share of the tokens."""

    share: float
    """Share of the tokens, between 0 and 1."""
    tokens: float
    """Tokens at that share."""
    curves: int = 0
    """Number of the study's cells whose curves the point rests on."""
    test_loss: float
    """Expected test loss there, in nats per token."""
    interval: Interval
    """Its interval."""


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """The test loss of the planned run."""

    test_loss: float | None = None
    """Forecast test loss of the planned run, in `unit`; null for a law of N and D alone."""
    interval: Interval = ()
    """Prediction interval of one run, in `unit`."""
    parts: dict[str, float] = field(default_factory=dict)
    """Half-width of the interval that each cause alone would give, in percent of the loss, by
    cause; the causes are joined in squares, before the width that scored forecasts teach. Empty
    without an interval."""
    level: float
    """Share of outcomes that the interval should hold."""
    target: str = ""
    """Test set of eval.sets that is forecast; empty for the test part."""
    unit: str = "nats_per_token"
    """nats_per_token or bits_per_byte."""
    bits_per_byte: float | None = None
    """The forecast in bits per byte; null where bytes per token are not known."""
    bits_per_byte_interval: Interval | None = None
    """The interval in bits per byte."""
    curve: tuple[CurvePoint, ...] | None = None
    """Expected test loss at shares of the tokens, by which the run is watched."""
    reasons: Reasons = field(default_factory=dict)
    """Why each value is what it is, by the field's name."""

    def to_dict(self) -> dict[str, Any]:
        """Return what the file holds: without a loss the level and the reason alone."""
        if self.test_loss is None:
            return {"level": self.level, "reasons": self.reasons}
        return values_of(self)


@dataclass(frozen=True, kw_only=True)
class Confirmation:
    """The smaller run that comes first."""

    needed: bool
    """Whether scaling final waits for a smaller run first."""
    study: str | None = field(default=None, metadata=UNWRITTEN)
    """Folder below runs/ in which the confirmation run is kept."""
    flops: float | None = None
    """Compute of the confirmation run, in FLOPs; null where none is needed."""
    overtraining: float | None = field(default=None, metadata=UNWRITTEN)
    """Its tokens per parameter, in units of the optimum's."""
    reasons: Reasons = field(default_factory=dict)
    """Why each value is what it is, by the field's name."""


@dataclass(frozen=True, kw_only=True)
class PretrainBlock:
    """Pretraining."""

    params_target: float
    """N that the law gives, before the shape is rounded, in parameters."""
    params: int
    """N of the chosen shape, in parameters, counted as `count` says."""
    count: str
    """How N is counted."""
    tokens: int
    """D, a whole number of steps, in tokens."""
    flops: float
    """Exact training FLOPs of these tokens."""
    seconds: float
    """Time of training at the budget's speed, in seconds; 0 where the speed is not known."""
    model: dict[str, Any]
    """Settings of the model: layers, widths, heads and so on."""
    context: int
    """Length of a row, in tokens."""
    peak_lr: float
    """Largest learning rate."""
    batch_tokens: int
    """Tokens of one optimiser step."""
    warmup_steps: int
    """Steps over which the learning rate rises."""
    weight_decay: float
    """Weight decay of the optimiser."""
    schedule: str
    """Name of the learning-rate schedule."""
    decay: float
    """Share of the steps in which the learning rate falls to its end."""
    seed: int
    """Seed of the run."""
    reasons: Reasons = field(default_factory=dict)
    """Why each value is what it is, by the field's name."""


@dataclass(frozen=True, kw_only=True)
class CostBlock:
    """What the run costs; None where nothing is known of it."""

    flops: float
    """FLOPs of pretraining."""
    serving_flops: float | None = None
    """FLOPs of the tokens that the model will serve; null without inference_tokens."""
    share_of_budget: float
    """Share of the budget that training and serving spend."""
    device_hours: float | None = None
    """Hours of one device for pretraining; null where the speed is not known."""
    wall_hours: float | None = None
    """Hours on the clock, on all devices; null where the speed is not known."""
    params_total: int | None = None
    """All parameters, embeddings and every expert included."""
    memory_per_device_gib: float
    """Memory of one device while training, in GiB."""
    stage_hours: dict[str, float] | None = field(default=None, metadata=UNWRITTEN)
    """Hours of one device for each later stage, at most."""
    money: float | None = None
    """Cost of the device hours, in the units of price_per_hour; null without a price."""
    deadweight: float | None = None
    """Share of C that the law's optimum would not need for the same loss: what constraints and
    rounding cost."""
    reasons: Reasons = field(default_factory=dict)
    """Why each value is what it is, by the field's name."""


@dataclass(frozen=True, kw_only=True)
class SftBlock:
    """Fine-tuning; what is forecast of it is there where a law set the block."""

    method: str
    """full, lora or qlora."""
    data: str
    """Where the examples come from: a JSONL file, a hub data set, or docstrings of the corpus."""
    test: str | None = None
    """File of held-out examples; null where they are split off."""
    examples: int
    """Number of fine-tuning examples."""
    epochs: int
    """Passes over them."""
    batch_examples: int
    """Examples of one step."""
    lr_fraction: float | None = None
    """Learning rate as a share of the pretraining's peak; null where it is set itself."""
    lora_rank: int
    """Rank of the adapters of lora and qlora."""
    packing: bool | None = None
    """Whether several examples share a row."""
    template: str | None = None
    """chat puts prompts into a dialogue; empty leaves them as they are."""
    columns: dict[str, str] | None = None
    """Names of the columns of prompt and completion, where the user named them."""
    truncate: str | None = None
    """What is cut of an example that is too long: prompt or completion; empty leaves the example
    out."""
    peak_lr: float
    """Largest learning rate."""
    seed: int
    """Seed of the stage."""
    forecast_loss: float | None = field(default=None, metadata=UNWRITTEN)
    """Forecast loss on held-out completions, in nats per token; left out without a law."""
    forecast_interval: Interval | None = field(default=None, metadata=UNWRITTEN)
    """Prediction interval of that loss."""
    forecast_level: float | None = field(default=None, metadata=UNWRITTEN)
    """Share that the interval should hold."""
    reasons: Reasons = field(default_factory=dict)
    """Why each value is what it is, by the field's name."""


@dataclass(frozen=True, kw_only=True)
class RewardBlock:
    """The reward model; what is forecast of it is there where a law set the block."""

    data: str
    """Where the preference pairs come from: a file, a hub data set or the gold judge."""
    test: str | None = None
    """File of held-out pairs; null where they are split off."""
    pairs: int
    """Number of preference pairs."""
    batch_pairs: int
    """Pairs of one step."""
    samples_per_prompt: int
    """Completions that are sampled for each prompt, for pairs of the gold judge."""
    lr_fraction: float | None = None
    """Learning rate as a share of the pretraining's peak; null where it is set itself."""
    epochs: int
    """Passes over the pairs."""
    peak_lr: float
    """Largest learning rate."""
    seed: int
    """Seed of the stage."""
    forecast_loss: float | None = field(default=None, metadata=UNWRITTEN)
    """Forecast loss on held-out pairs, in nats per pair; left out without a law."""
    forecast_interval: Interval | None = field(default=None, metadata=UNWRITTEN)
    """Prediction interval of that loss."""
    forecast_level: float | None = field(default=None, metadata=UNWRITTEN)
    """Share that the interval should hold."""
    reasons: Reasons = field(default_factory=dict)
    """Why each value is what it is, by the field's name."""


@dataclass(frozen=True, kw_only=True)
class PpoBlock:
    """PPO; what is forecast of it is there where a law set the block."""

    estimator: str | None = None
    """How advantages are estimated: gae, grpo or rloo."""
    group: int | None = None
    """Completions of one prompt that grpo and rloo compare."""
    kl_budget: float
    """KL divergence from the fine-tuned model that may be spent, in nats per sequence."""
    adaptive: bool
    """Whether the KL coefficient is steered towards the budget."""
    episodes: int
    """Completions that are sampled in all."""
    batch_episodes: int
    """Completions of one update."""
    minibatch_episodes: int
    """Completions of one optimiser step."""
    inner_epochs: int
    """Passes over the completions of an update."""
    lr_fraction: float | None = None
    """Learning rate as a share of the pretraining's peak; null where it is set itself."""
    missing_end_penalty: float
    """Reward that a completion loses if it does not end within max_new_tokens."""
    max_new_tokens: int
    """Most tokens of a completion."""
    eval_updates: int | None = None
    """Updates between scores of held-out prompts; 0 scores them before and after alone."""
    judge: str | None = None
    """Who scores: the reward model (reward), or the gold judge itself (gold)."""
    kl_coefficient: float
    """Weight of the KL penalty at the start."""
    clip: float
    """PPO's clipping of the probability ratio."""
    gae_lambda: float
    """Lambda of the generalised advantage estimate."""
    discount: float
    """Discount of later rewards."""
    value_coefficient: float
    """Weight of the critic's loss."""
    entropy_coefficient: float
    """Weight of the entropy bonus."""
    pretrain_mix: float | None = None
    """Weight of the loss of pretraining windows that are mixed in; 0 mixes none in."""
    temperature: float
    """Temperature of sampling."""
    peak_lr: float
    """Largest learning rate."""
    seed: int
    """Seed of the stage."""
    forecast_gain: float | None = field(default=None, metadata=UNWRITTEN)
    """Forecast gain in gold reward over the fine-tuned policy; left out without a law."""
    forecast_interval: Interval | None = field(default=None, metadata=UNWRITTEN)
    """Prediction interval of that gain."""
    forecast_level: float | None = field(default=None, metadata=UNWRITTEN)
    """Share that the interval should hold."""
    reasons: Reasons = field(default_factory=dict)
    """Why each value is what it is, by the field's name."""


@dataclass(frozen=True, kw_only=True)
class MachineBlock:
    """How the run is computed; the reasons stand in `Plan.reasons`."""

    precision: str
    """fp32 or bf16."""
    compile: bool
    """Whether blocks are compiled."""
    activation_checkpointing: bool
    """Whether activations are computed again in the backward pass, which saves memory."""
    ranks: int
    """Processes that train together, one a device."""
    shard: bool
    """Whether weights, gradients and moments are divided among the ranks."""
    micro_batch: int | None = field(default=None, metadata=UNWRITTEN)
    """Rows that go through the model at once; left out where all of a step do."""


@dataclass(frozen=True, kw_only=True)
class LawBlock:
    """The law that decided."""

    form: str
    """Form of the law."""
    count: str
    """How it counts N."""
    status: str
    """Its status, as converged."""
    parameters: dict[str, float]
    """Its parameters by name, unrounded."""
    source: str
    """Its paper, or `fitted`."""
    n_runs: int
    """Number of runs that it was fitted to; 0 for a published law."""
    name: str | None = field(default=None, metadata=UNWRITTEN)
    """Name that the command gave: a file or a published law."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A plan, block by block."""

    schema: int = SCHEMA
    """Version of this layout."""
    study: str = ""
    """Name of the study whose family and recipe the plan takes; empty without one."""
    runs: str = "runs"
    """Folder of the studies."""
    budget: BudgetBlock
    """What may be spent."""
    steps: tuple[Step, ...] = ()
    """The derivation, one line a quantity."""
    laws: tuple[LawRow, ...] = ()
    """What each law says at this budget, where several were given."""
    mixtures: tuple[MixtureRow, ...] = ()
    """The plan with each number of experts, where several were given."""
    forecast: Forecast
    """Test loss that the run should reach."""
    confirmation: Confirmation | None = None
    """The smaller run that comes first, or why none is needed."""
    extrapolation: float = 0.0
    """C over the largest C that the law was fitted to; 0 where it is not known."""
    pretrain: PretrainBlock
    """Pretraining."""
    cost: CostBlock | None = None
    """What the run costs."""
    stage_laws: dict[str, list[str]] = field(default_factory=dict)
    """Files of the laws that set the later stages, by stage."""
    sft: SftBlock | None = field(default=None, metadata=UNWRITTEN)
    """Fine-tuning; absent where it is not planned."""
    reward: RewardBlock | None = field(default=None, metadata=UNWRITTEN)
    """The reward model; absent where it is not planned."""
    ppo: PpoBlock | None = field(default=None, metadata=UNWRITTEN)
    """PPO; absent where it is not planned."""
    machine: MachineBlock | None = None
    """How the run is computed."""
    reasons: dict[str, Reasons] = field(default_factory=dict)
    """Reasons of the blocks without room for their own, by block."""
    cell: dict[str, Any] = field(default_factory=dict)
    """Config of a cell of the study, which the final run keeps where the plan says nothing else."""
    law: LawBlock | None = None
    """The law that decided."""
    alarms: tuple[Alarm, ...] = ()
    """What to read first: those of the plan, then those of the law."""
    stages: str = ",".join(("pretrain", *LATER_STAGES))
    """Stages that are planned, separated by commas."""
    checks: tuple[dict[str, Any], ...] = ()
    """What was found of each stage's data."""
    made_from: dict[str, str] = field(default_factory=dict)
    """sha256 by what the plan was made from: law, records, corpus."""
    versions: dict[str, Any] = field(default_factory=dict)
    """Version and commit of the code that wrote the plan."""
    command: str | None = field(default=None, metadata=UNWRITTEN)
    """Command that asks for this plan again."""

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
