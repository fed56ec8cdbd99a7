"""Settings of the stages after pretraining."""

import dataclasses
from dataclasses import dataclass, field
from typing import Annotated, Any

from scaling.config.ranges import (
    COUNT,
    FORECAST,
    MOST_RATE,
    MOST_TOKENS,
    SHARE,
    SHARE_BELOW_1,
    WEIGHT,
    WIDEST,
    check,
)
from scaling.schema import OneOf, Range, Seed, SftColumns, checked


@dataclass(kw_only=True)
@checked("sft")
class SftPlan:
    """Supervised fine-tuning on prompt/completion pairs, with the loss on the completion alone."""

    method: Annotated[str, OneOf("full", "lora", "qlora")] = "full"
    """What is tuned: all weights, adapters, or adapters on a base of 4 bits."""
    data: str = "docstrings"
    """Pairs: a JSONL file, a hub set hub:NAME[:CONFIG[:SPLIT]], or docstrings of the corpus with
    the functions that they describe."""
    test: str = ""
    """Held-out pairs, named as data is; empty holds out a share of the prompts of data."""
    examples: Annotated[int, Range(1, 1e12)] = 2048
    """Training pairs to take at most."""
    epochs: Annotated[int, Range(1, 1e6)] = 2
    """Passes over the pairs."""
    batch_examples: Annotated[int, Range(1, 1e9)] = 32
    """Pairs of a step."""
    peak_lr: Annotated[float, Range(0, MOST_RATE, note="0 follows lr_fraction")] = 0.0
    """Peak learning rate; 0 takes lr_fraction of pretraining's, ten times that for adapters."""
    lr_fraction: Annotated[float, Range(0, 1e3, above=True)] = 0.2
    """Peak learning rate as a share of pretraining's."""
    lora_rank: Annotated[int, Range(1, WIDEST)] = 8
    """Rank of the adapters (method=lora, qlora)."""
    packing: bool = False
    """Draw batches at random and put several examples into a row of the context, each attending to
    itself alone. Otherwise a batch's rows are of similar length, with one example each, which is as
    fast on a CPU."""
    template: Annotated[str, OneOf("", "chat")] = ""
    """Put prompts that are no dialogues into one, for all later stages too
    (scaling.data.chat_template); empty leaves them as they are."""
    columns: SftColumns = field(default_factory=SftColumns)
    truncate: Annotated[str, OneOf("", "prompt", "completion")] = ""
    """What is cut of a pair of data that is longer than the context: the first tokens of its
    prompt, or the last tokens of its completion, its end with them; empty leaves the pair out."""
    forecast_loss: Annotated[float, FORECAST] = 0.0
    """Test loss that the plan forecasts, in nats per token of completions."""
    forecast_interval: list[Annotated[float, Range(-1e9, 1e9)]] = field(default_factory=list)
    """Prediction interval of that loss."""
    forecast_level: Annotated[float, SHARE_BELOW_1] = 0.0
    """Level of that interval; 0 where no law made a forecast."""
    seed: Seed = 0
    """Seed of the order of the pairs and of new weights."""
    reasons: dict[str, str] = field(default_factory=dict)
    """The plan's reason for each value of this block; the run does not read them."""

    def __post_init__(self) -> None:
        """Read the columns of a record; check that what only files have is set for files alone."""
        if isinstance(self.columns, dict):
            self.columns = SftColumns(**self.columns)
        for name, value in (("columns", self.columns.given()), ("truncate", self.truncate)):
            check(
                f"sft.{name}",
                value,
                not value or self.data != "docstrings",
                "is for the rows of a file, and sft.data=docstrings has none; set sft.data=FILE",
            )


@dataclass(kw_only=True)
@checked("reward")
class RewardPlan:
    """Reward model: Bradley-Terry on pairs that are sampled from the fine-tuned model."""

    data: str = "gold"
    """Who prefers: gold is the programmatic judge of sampled pairs; or a JSONL file or hub set of
    preferences."""
    test: str = ""
    """Held-out preferences, named as data is; empty holds out a share of the prompts of data."""
    policy: str = ""
    """Folder of a fine-tuned model, or a study whose best one it is, that samples the pairs
    instead, so that reward models of several sizes learn from the same pairs."""
    policy_sha256: str = ""
    """Hash of that model's weights; filled in when they are read."""
    pairs: Annotated[int, Range(1, 1e12)] = 2048
    """Training pairs; below about 2000 a reward model is near chance (Gao et al. 2022)."""
    epochs: Annotated[int, Range(1, 1e6)] = 1
    """Passes over the pairs; repeating them is far worse than new ones (Gao et al. 2022)."""
    batch_pairs: Annotated[int, Range(1, 1e9)] = 32
    """Pairs of a step."""
    samples_per_prompt: Annotated[int, Range(1, 100_000)] = 4
    """Completions sampled for each prompt, compared in pairs (data=gold needs 2 or more)."""
    peak_lr: Annotated[float, Range(0, MOST_RATE, note="0 follows lr_fraction")] = 0.0
    """Peak learning rate; 0 takes lr_fraction of pretraining's."""
    lr_fraction: Annotated[float, Range(0, 1e3, above=True)] = 0.5
    """Peak learning rate as a share of pretraining's."""
    forecast_loss: Annotated[float, FORECAST] = 0.0
    """Test loss that the plan forecasts, in nats per pair."""
    forecast_interval: list[Annotated[float, Range(-1e9, 1e9)]] = field(default_factory=list)
    """Prediction interval of that loss."""
    forecast_level: Annotated[float, SHARE_BELOW_1] = 0.0
    """Level of that interval; 0 where no law made a forecast."""
    seed: Seed = 0
    """Seed of the sampled pairs and their order."""
    reasons: dict[str, str] = field(default_factory=dict)
    """The plan's reason for each value of this block; the run does not read them."""


@dataclass(kw_only=True)
@checked("ppo")
class PpoPlan:
    """PPO with a KL penalty per token to the fine-tuned model; KL is in nats per sequence."""

    estimator: Annotated[str, OneOf("gae", "grpo", "rloo")] = "gae"
    """What an episode is compared with: a critic (gae, Schulman et al. 2016), or the other
    completions of its prompt, by their mean and deviation (grpo, Shao et al. 2024, 2402.03300) or
    by the mean of the others (rloo, Ahmadian et al. 2024, 2402.14740)."""
    group: Annotated[int, Range(1, 1e6)] = 4
    """Completions of each prompt under grpo and rloo; 2 or more, a divisor of batch_episodes."""
    kl_budget: Annotated[float, Range(0, 1e6, above=True)] = 6.0
    """KL that may be spent, in nats per sequence; the run stops where the last batches exceed it.
    4 to 10 is usual."""
    kl_coefficient: Annotated[float, Range(0, 1e9)] | None = None
    """Weight of the KL penalty, the first one where it is adaptive; null takes 1 / sqrt(2
    kl_budget) (scaling.schema.initial_kl_coefficient)."""
    adaptive: bool = True
    """Steer the KL coefficient so that the KL ends below the budget."""
    episodes: Annotated[int, Range(1, 1e12)] = 2048
    """Completions to sample and learn from in all."""
    batch_episodes: Annotated[int, Range(1, 1e9)] = 64
    """Episodes that are sampled before the policy is updated."""
    minibatch_episodes: Annotated[int, Range(1, 1e9)] = 64
    """Episodes of one optimiser step."""
    inner_epochs: Annotated[int, Range(1, 1e6)] = 2
    """Passes over each batch of episodes."""
    clip: Annotated[float, Range(0, 1e3, above=True)] = 0.2
    """How far the ratio of new to old probability, and the critic's value, may move before they
    are clipped (Schulman et al. 2017)."""
    peak_lr: Annotated[float, Range(0, MOST_RATE, note="0 follows lr_fraction")] = 0.0
    """Peak learning rate; 0 takes lr_fraction of pretraining's."""
    lr_fraction: Annotated[float, Range(0, 1e3, above=True)] = 0.1
    """Peak learning rate as a share of pretraining's."""
    gae_lambda: Annotated[float, SHARE] = 0.95
    """Decay of the advantage estimate over tokens (gae); 1 takes whole returns."""
    discount: Annotated[float, SHARE] = 1.0
    """Discount of later rewards, per token."""
    value_coefficient: Annotated[float, WEIGHT] = 0.5
    """Weight of the critic's loss."""
    entropy_coefficient: Annotated[float, WEIGHT] = 0.0
    """Weight of the policy's entropy, which the loss rewards; 0 leaves it out."""
    pretrain_mix: Annotated[float, WEIGHT] = 0.0
    """Weight of the loss (nats per token) of pretraining windows that are mixed in: the gamma of
    PPO-ptx (Ouyang et al. 2022, eq. 2) with rewards averaged over tokens; 0 mixes none in."""
    missing_end_penalty: Annotated[float, WEIGHT] = 1.0
    """Reward that a completion loses if it does not end within max_new_tokens."""
    temperature: Annotated[float, Range(0, 1e3, above=True)] = 1.0
    """Temperature of sampling."""
    max_new_tokens: Annotated[int, Range(1, MOST_TOKENS)] = 64
    """Most tokens of a completion; prompt and completion must fit the context."""
    eval_updates: Annotated[int, COUNT] = 0
    """Updates between scores of held-out prompts; 0 scores them before and after alone."""
    reward_model: str = ""
    """In a sweep: a rung of conf/model whose reward model judges, trained as the policy's own;
    empty takes one of the policy's shape."""
    judge: Annotated[str, OneOf("reward", "gold")] = "reward"
    """Who scores: the reward model, or the programmatic judge itself, standardised on the
    fine-tuned model, as the control of over-optimisation."""
    forecast_gain: Annotated[float, FORECAST] = 0.0
    """Gain in gold reward over the fine-tuned model that the plan forecasts."""
    forecast_interval: list[Annotated[float, Range(-1e9, 1e9)]] = field(default_factory=list)
    """Prediction interval of that gain."""
    forecast_level: Annotated[float, SHARE_BELOW_1] = 0.0
    """Level of that interval; 0 where no law made a forecast."""
    seed: Seed = 0
    """Seed of prompts and sampling."""
    reasons: dict[str, str] = field(default_factory=dict)
    """The plan's reason for each value of this block; the run does not read them."""

    def __post_init__(self) -> None:
        """Check that the groups fit the batch."""
        check(
            "ppo.group",
            self.group,
            self.estimator == "gae" or (self.group > 1 and self.batch_episodes % self.group == 0),
            f"must be 2 or more and divide ppo.batch_episodes={self.batch_episodes}",
        )

    @property
    def samples(self) -> int:
        """Number of completions that a step samples for each of its prompts."""
        return 1 if self.estimator == "gae" else self.group


SAMPLING = ("max_new_tokens", "temperature")  # settings of PPO that decide a reward model's pairs
OPTIONAL = (
    "packing",
    "template",
    "columns",
    "truncate",
)  # settings that came after the first records of a stage


def described(block: Any) -> dict[str, Any]:
    """Return a stage's settings, without the reasons and forecasts that a plan adds to them.

    An optional setting that is off changes nothing and is left out, so that older ids stay.
    """
    values = dataclasses.asdict(block).items()
    settings = {k: v for k, v in values if k != "reasons" and not k.startswith("forecast_")}
    if isinstance(columns := settings.get("columns"), dict):
        settings["columns"] = {k: v for k, v in columns.items() if v}
    return {k: v for k, v in settings.items() if v or k not in OPTIONAL}
