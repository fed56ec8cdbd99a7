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
    one_of,
)
from scaling.schema import (
    Range,
    Seed,
    check_ranges,
)


@dataclass(kw_only=True)
class SftPlan:
    """Supervised fine-tuning on prompt/completion pairs, loss on the completion alone.

    `data` is a JSONL file, a hub set `hub:NAME[:CONFIG[:SPLIT]]` or `docstrings` of the corpus;
    held-out pairs are those of `test`, else a share of the prompts of `data`. The `template` chat
    puts prompts that are no dialogues into one (scaling.data.chat_template), for all later stages
    too. `peak_lr` of 0 is `lr_fraction` of pretraining's peak (scaling.schema.tuning_lr).

    `packing` draws batches at random and puts several examples into a row of the context, each
    attending to itself alone; without it a batch's rows are of like length, one example each.
    """

    method: str = "full"
    data: str = "docstrings"
    test: str = ""
    examples: Annotated[int, Range(1, 1e12)] = 2048
    epochs: Annotated[int, Range(1, 1e6)] = 2
    batch_examples: Annotated[int, Range(1, 1e9)] = 32
    peak_lr: Annotated[float, Range(0, MOST_RATE, note="0 follows lr_fraction")] = 0.0
    lr_fraction: Annotated[float, Range(0, 1e3, above=True)] = 0.2
    lora_rank: Annotated[int, Range(1, WIDEST)] = 8
    packing: bool = False
    template: str = ""
    forecast_loss: Annotated[float, FORECAST] = 0.0
    forecast_interval: list[Annotated[float, Range(-1e9, 1e9)]] = field(default_factory=list)
    forecast_level: Annotated[float, SHARE_BELOW_1] = 0.0
    seed: Seed = 0
    reasons: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the numbers."""
        check_ranges(self, "sft")


@dataclass(kw_only=True)
class RewardPlan:
    """Reward model: Bradley-Terry on pairs sampled from the fine-tuned model.

    `data` may be a JSONL file or hub set of preferences instead, with held-out ones in `test`.
    `policy` is a fine-tuned model's folder, or a study whose best one it is, that samples the pairs
    instead, so that reward models of several sizes learn from the same; `policy_sha256` are its
    weights, filled in when they are read. `peak_lr` as for SftPlan.
    """

    data: str = "gold"
    test: str = ""
    policy: str = ""
    policy_sha256: str = ""
    pairs: Annotated[int, Range(1, 1e12)] = 2048
    epochs: Annotated[int, Range(1, 1e6)] = 1
    batch_pairs: Annotated[int, Range(1, 1e9)] = 32
    samples_per_prompt: Annotated[int, Range(1, 100_000)] = 4
    peak_lr: Annotated[float, Range(0, MOST_RATE, note="0 follows lr_fraction")] = 0.0
    lr_fraction: Annotated[float, Range(0, 1e3, above=True)] = 0.5
    forecast_loss: Annotated[float, FORECAST] = 0.0
    forecast_interval: list[Annotated[float, Range(-1e9, 1e9)]] = field(default_factory=list)
    forecast_level: Annotated[float, SHARE_BELOW_1] = 0.0
    seed: Seed = 0
    reasons: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the numbers."""
        check_ranges(self, "reward")


@dataclass(kw_only=True)
class PpoPlan:
    """PPO with a per-token KL penalty to the fine-tuned model; KL in nats per sequence.

    `kl_coefficient` is the first one where it is `adaptive`, by default that of the budget
    (scaling.schema.initial_kl_coefficient); `peak_lr` as for SftPlan.

    `estimator` says what an episode is compared with: the critic (`gae`, Schulman et al. 2016), or
    the other completions of its prompt, `group` in all, by their mean and deviation (`grpo`, Shao
    et al. 2024, 2402.03300) or the mean of the others (`rloo`, Ahmadian et al. 2024, 2402.14740).
    `pretrain_mix` weighs the loss (nats/token) of pretraining windows mixed in, the gamma of
    PPO-ptx (Ouyang et al. 2022, eq. 2) where rewards are averaged over tokens. Every `eval_updates`
    updates held-out prompts are sampled and scored too (0: before and after alone). In a sweep
    `reward_model` names a rung of conf/model whose reward model it is, trained like the policy's
    (empty: of the policy's shape). `judge=gold` optimises the programmatic judge itself, made
    standard on the fine-tuned model: the control of over-optimisation.
    """

    estimator: str = "gae"
    group: Annotated[int, Range(1, 1e6)] = 4
    kl_budget: Annotated[float, Range(0, 1e6, above=True)] = 6.0
    kl_coefficient: Annotated[float, Range(0, 1e9)] | None = None
    adaptive: bool = True
    episodes: Annotated[int, Range(1, 1e12)] = 2048
    batch_episodes: Annotated[int, Range(1, 1e9)] = 64
    minibatch_episodes: Annotated[int, Range(1, 1e9)] = 64
    inner_epochs: Annotated[int, Range(1, 1e6)] = 2
    clip: Annotated[float, Range(0, 1e3, above=True)] = 0.2
    peak_lr: Annotated[float, Range(0, MOST_RATE, note="0 follows lr_fraction")] = 0.0
    lr_fraction: Annotated[float, Range(0, 1e3, above=True)] = 0.1
    gae_lambda: Annotated[float, SHARE] = 0.95
    discount: Annotated[float, SHARE] = 1.0
    value_coefficient: Annotated[float, WEIGHT] = 0.5
    entropy_coefficient: Annotated[float, WEIGHT] = 0.0
    pretrain_mix: Annotated[float, WEIGHT] = 0.0
    missing_end_penalty: Annotated[float, WEIGHT] = 1.0
    temperature: Annotated[float, Range(0, 1e3, above=True)] = 1.0
    max_new_tokens: Annotated[int, Range(1, MOST_TOKENS)] = 64
    eval_updates: Annotated[int, COUNT] = 0
    reward_model: str = ""
    judge: str = "reward"
    forecast_gain: Annotated[float, FORECAST] = 0.0
    forecast_interval: list[Annotated[float, Range(-1e9, 1e9)]] = field(default_factory=list)
    forecast_level: Annotated[float, SHARE_BELOW_1] = 0.0
    seed: Seed = 0
    reasons: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the estimator, its groups and the numbers."""
        check_ranges(self, "ppo")
        one_of("ppo.estimator", self.estimator, ("gae", "grpo", "rloo"))
        one_of("ppo.judge", self.judge, ("reward", "gold"))
        check(
            "ppo.group",
            self.group,
            self.estimator == "gae" or (self.group > 1 and self.batch_episodes % self.group == 0),
            f"must be 2 or more and divide ppo.batch_episodes={self.batch_episodes}",
        )

    @property
    def samples(self) -> int:
        """Completions that a step samples of each of its prompts."""
        return 1 if self.estimator == "gae" else self.group


SAMPLING = ("max_new_tokens", "temperature")
OPTIONAL = ("packing", "template")  # of a stage's settings, younger than its records


def described(block: Any) -> dict[str, Any]:
    """Return a stage's settings, without the reasons and forecasts that a plan adds to them.

    Those that change nothing where they are off are left out there.
    """
    values = dataclasses.asdict(block).items()
    kept = {k: v for k, v in values if k != "reasons" and not k.startswith("forecast_")}
    return {k: v for k, v in kept.items() if v or k not in OPTIONAL}
