"""The plan's blocks after pretraining: fine-tuning, reward model, PPO.

A law of a stage (`analysis.planning.later_stages.choices`) sets the values that it speaks of. Any
other value follows a published rule or a setting; the reason of each value says which of the three.
KL is in nats per sequence, summed over tokens. The score of the reward model is normalised to mean
0 and deviation 1 on samples of the fine-tuned model.
"""

from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any, TypeVar

from analysis.planning.later_stages.choices import Choice
from analysis.planning.plan import PpoBlock, RewardBlock, SftBlock
from scaling.schema import (
    LORA_FACTOR,
    OneOf,
    Range,
    SftColumns,
    checked,
    initial_kl_coefficient,
    tuning_lr,
)

INSTRUCTGPT = "Ouyang et al. 2022 (2203.02155)"
GAO = "Gao et al. 2022 (2210.10760)"
FEWEST_PAIRS = 2000  # a reward model of fewer pairs is near chance (Gao et al. 2022)

S = TypeVar("S", "SftSettings", "RewardSettings", "PpoSettings")
B = TypeVar("B", SftBlock, RewardBlock, PpoBlock)

FORECAST_REASONS = {
    "forecast_loss": "of the law that set the block, nats a token of completions or a pair",
    "forecast_gain": "of the law that set the block, gold reward over the fine-tuned model's",
    "forecast_interval": "prediction interval of one run",
    "forecast_level": "of that interval",
}


@dataclass(kw_only=True)
@checked("sft")
class SftSettings:
    """Fine-tuning."""

    law: Any = ""
    """Fitted law of fine-tuning (law.json), or a list with one for each method, which then sets
    method, examples and epochs; empty keeps the values below."""
    flat_nats: Annotated[float, Range(0, 1e6)] = 0.01
    """Loss in nats per token within which the law's choices count as equal; the cheapest is
    taken."""
    method: Annotated[str, OneOf("full", "lora", "qlora")] = "full"
    """What is tuned: all weights, adapters, or adapters on a base of 4 bits."""
    data: str = "docstrings"
    """Pairs: a JSONL file, a hub set hub:NAME[:CONFIG[:SPLIT]], or docstrings of the corpus with
    the functions that they describe."""
    test: str = ""
    """Held-out pairs, named as data is; empty holds out a share of the prompts of data."""
    examples: Annotated[int, Range(0, 1e12)] | None = None
    """Training pairs, or with a law the pairs at hand; 0, with a law alone, takes the most that
    the law's cells had; null follows the model's size, as do the other nulls
    (analysis.planning.later_stages.sizes)."""
    epochs: Annotated[int, Range(1, 1e6)] | None = None
    """Passes over the pairs; null follows the model's size (Ouyang et al. 2022 took 2)."""
    batch_examples: Annotated[int, Range(1, 1e9)] | None = None
    """Pairs of a step; null follows the model's size. Ouyang et al. 2022, appendix C, took 32."""
    lr_fraction: Annotated[float, Range(0, 1e3, above=True)] | None = None
    """Peak learning rate as a share of pretraining's; adapters take ten times that; null follows
    the model's size."""
    lora_rank: Annotated[int, Range(1, 131_072)] | None = None
    """Rank of the adapters (method=lora, qlora); null follows the model's size."""
    packing: bool = False
    """Put several examples into a row of the context; rows of similar length are as fast on a
    CPU."""
    template: Annotated[str, OneOf("", "chat")] = ""
    """Put prompts that are no dialogues into one; empty leaves them as they are."""
    columns: SftColumns = field(default_factory=SftColumns)
    truncate: Annotated[str, OneOf("", "prompt", "completion")] = ""
    """What is cut of a pair of data that is longer than the context: the first tokens of its
    prompt, or the last tokens of its completion; empty leaves the pair out."""

    def __post_init__(self) -> None:
        """Refuse no examples where no law says how many."""
        if self.examples is not None and self.examples < (0 if self.law else 1):
            raise ValueError(f"sft.examples={self.examples} must be positive; 0 needs an sft.law")


@dataclass(kw_only=True)
@checked("reward")
class RewardSettings:
    """Reward model."""

    law: Any = ""
    """Fitted law of the reward model's loss (law.json), which then sets the pairs; empty keeps the
    values below."""
    flat_nats: Annotated[float, Range(0, 1e6)] = 0.005
    """Loss in nats per pair within which the law's choices count as equal; the cheapest is
    taken."""
    data: str = "gold"
    """Who prefers: gold is the programmatic judge of sampled pairs; or a JSONL file or hub set of
    preferences."""
    test: str = ""
    """Held-out preferences, named as data is; empty holds out a share of the prompts of data."""
    pairs: Annotated[int, Range(0, 1e12)] | None = None
    """Training pairs, or with a law the most that may be labelled; below about 2000 a reward model
    is near chance (Gao et al. 2022); null follows the model's size."""
    batch_pairs: Annotated[int, Range(1, 1e9)] | None = None
    """Pairs of a step; null follows the model's size."""
    samples_per_prompt: Annotated[int, Range(1, 100_000)] = 4
    """Completions sampled for each prompt; Ouyang et al. 2022 ranked 4 to 9."""
    lr_fraction: Annotated[float, Range(0, 1e3, above=True)] | None = None
    """Peak learning rate as a share of pretraining's; null follows the model's size."""


@dataclass(kw_only=True)
@checked("ppo")
class PpoSettings:
    """PPO; KL is in nats per sequence."""

    law: Any = ""
    """Fitted law of over-optimisation (law.json), which then sets the KL budget and the episodes;
    empty keeps the values below."""
    estimator: Annotated[str, OneOf("gae", "grpo", "rloo")] = "gae"
    """What an episode is compared with: a critic (gae), or the other completions of its prompt."""
    group: Annotated[int, Range(1, 1e6)] = 4
    """Completions of each prompt under grpo and rloo."""
    kl_budget: Annotated[float, Range(0, 1e6, above=True)] = 6.0
    """KL that may be spent, in nats per sequence; 4 to 10 is usual."""
    adaptive: bool = True
    """Steer the KL coefficient so that the KL ends below the budget."""
    episodes: Annotated[int, Range(1, 1e12)] | None = None
    """Completions to sample and learn from in all; null follows the model's size."""
    batch_episodes: Annotated[int, Range(1, 1e9)] | None = None
    """Episodes that are sampled before the policy is updated; null follows the model's size."""
    minibatch_episodes: Annotated[int, Range(1, 1e9)] | None = None
    """Episodes of one optimiser step; null follows the model's size."""
    inner_epochs: Annotated[int, Range(1, 1e6)] | None = None
    """Passes over each batch of episodes; null follows the model's size."""
    lr_fraction: Annotated[float, Range(0, 1e3, above=True)] | None = None
    """Peak learning rate as a share of pretraining's; null follows the model's size."""
    missing_end_penalty: Annotated[float, Range(0, 1e6)] = 1.0
    """Reward that a completion loses if it does not end within max_new_tokens."""
    max_new_tokens: Annotated[int, Range(1, 2**24)] | None = None
    """Most tokens of a completion; prompt and completion must fit the context; null follows the
    model's size and context."""
    eval_updates: Annotated[int, Range(0, 1e12)] = 0
    """Updates between scores of held-out prompts; 0 scores them before and after alone."""
    judge: Annotated[str, OneOf("reward", "gold")] = "reward"
    """Who scores: the reward model, or the programmatic judge itself as the control of
    over-optimisation."""


def sft_block(
    settings: SftSettings,
    *,
    pretrain_lr: float,
    seed: int,
    by_law: Choice | None = None,
    by_rule: dict[str, str] | None = None,
) -> SftBlock:
    """Return the fine-tuning block; LoRA takes ten times the full learning rate.

    settings: sizes and rates that were asked for
    pretrain_lr: peak learning rate of the planned pretraining
    seed: that of the study
    by_law: what a law of the stage chose, None without a law
    by_rule: reasons of the values that follow the model's size
    """
    settings = with_choice(settings, by_law)
    assert settings.lr_fraction is not None  # `sized` has filled what was left open
    rate = tuning_lr(settings.lr_fraction, pretrain_lr=pretrain_lr, method=settings.method)
    values = {**settings_of(settings), "peak_lr": rounded(rate), "seed": seed}
    reason = _fraction(settings.lr_fraction, "sft", by_law)
    if settings.method != "full":
        reason += (
            f"; LoRA takes {LORA_FACTOR:g} x the full rate (Schulman et al. 2025, LoRA Without"
            " Regret)"
        )
    reasons = {
        "method": _setting("sft.method"),
        "data": _setting("sft.data"),
        "test": f"{_setting('sft.test')}; empty: a share of the prompts of data is held out",
        "examples": (
            f"{_setting('sft.examples')}; all that is at hand is best until an sft law says where"
            " its return ends (Zhang et al. 2024, 2402.17193)"
        ),
        "epochs": (
            f"{_setting('sft.epochs')}; 2 as the initialisation of PPO in {INSTRUCTGPT}, appendix C"
        ),
        "batch_examples": f"{_setting('sft.batch_examples')}; 32 in {INSTRUCTGPT}, appendix C",
        "peak_lr": reason,
        "lora_rank": f"{_setting('sft.lora_rank')}; used by method=lora and qlora",
        "lr_fraction": _setting("sft.lr_fraction"),
        "packing": f"{_setting('sft.packing')}; rows of like length are as fast on a CPU",
        "template": f"{_setting('sft.template')}; chat makes each prompt a dialogue's turn",
        "columns": "settings sft.columns.prompt, completion and context; empty: by their names",
        "truncate": f"{_setting('sft.truncate')}; empty: a pair that is too long is left out",
        "seed": "the study's",
    }
    return block_of(SftBlock, values, reasons | _of_size(by_rule, by_law), by_law)


def reward_block(
    settings: RewardSettings,
    *,
    pretrain_lr: float,
    seed: int,
    by_law: Choice | None = None,
    by_rule: dict[str, str] | None = None,
) -> RewardBlock:
    """Return the reward-model block: one epoch, and at least 2000 pairs where they can be had.

    settings: sizes and rates that were asked for
    pretrain_lr: peak learning rate of the planned pretraining
    seed: that of the study
    by_law: what a law of the stage chose, None without a law
    by_rule: reasons of the values that follow the model's size
    """
    settings = with_choice(settings, by_law)
    assert settings.lr_fraction is not None  # `sized` has filled what was left open
    rate = tuning_lr(settings.lr_fraction, pretrain_lr=pretrain_lr)
    values = {**settings_of(settings), "epochs": 1, "peak_lr": rounded(rate), "seed": seed}
    enough = "at least" if (settings.pairs or 0) >= FEWEST_PAIRS else "FEWER than"
    reasons = {
        "data": _setting("reward.data"),
        "test": f"{_setting('reward.test')}; empty: a share of the prompts of data is held out",
        "pairs": (
            f"{_setting('reward.pairs')}; {enough} the {FEWEST_PAIRS} below which a reward model"
            f" is near chance ({GAO})"
        ),
        "epochs": f"1: repeating pairs is far worse than new ones ({GAO}); 1 in {INSTRUCTGPT}",
        "samples_per_prompt": (
            f"{_setting('reward.samples_per_prompt')}; {INSTRUCTGPT} ranked 4 to 9 answers a prompt"
        ),
        "batch_pairs": f"{_setting('reward.batch_pairs')}; {INSTRUCTGPT} used 64 prompts",
        "lr_fraction": _setting("reward.lr_fraction"),
        "peak_lr": _fraction(settings.lr_fraction, "reward", by_law),
        "seed": "the study's",
    }
    return block_of(RewardBlock, values, reasons | _of_size(by_rule, by_law), by_law)


def ppo_block(
    settings: PpoSettings,
    *,
    pretrain_lr: float,
    seed: int,
    by_law: Choice | None = None,
    by_rule: dict[str, str] | None = None,
) -> PpoBlock:
    """Return the PPO block; the first KL coefficient is s_r / sqrt(2 KL) with s_r = 1.

    settings: sizes and rates that were asked for
    pretrain_lr: peak learning rate of the planned pretraining
    seed: that of the study
    by_law: what a law of the stage chose, None without a law
    by_rule: reasons of the values that follow the model's size
    """
    settings = with_choice(settings, by_law)
    assert settings.lr_fraction is not None  # `sized` has filled what was left open
    values = {
        **settings_of(settings),
        "kl_coefficient": rounded(initial_kl_coefficient(settings.kl_budget), 4),
        "clip": 0.2,
        "gae_lambda": 0.95,
        "discount": 1.0,
        "value_coefficient": 0.5,
        "entropy_coefficient": 0.0,
        "pretrain_mix": 0.0,
        "temperature": 1.0,
        "peak_lr": rounded(tuning_lr(settings.lr_fraction, pretrain_lr=pretrain_lr)),
        "seed": seed,
    }
    reasons = {
        "kl_budget": (
            f"{_setting('ppo.kl_budget')} (nats/sequence); a start value, no over-optimisation law"
            f" ({GAO}) is fitted yet"
        ),
        "kl_coefficient": (
            f"s_r / sqrt(2 KL) = 1 / sqrt(2 x {settings.kl_budget:g}): an exponentially tilted"
            " policy of a reward with deviation s_r = 1 sits at that KL (Gaussian)"
        ),
        "estimator": (
            f"{_setting('ppo.estimator')}; gae: a critic that starts as the reward model; grpo and"
            " rloo compare completions of a prompt"
        ),
        "group": f"{_setting('ppo.group')}; used by estimator=grpo and rloo alone",
        "adaptive": (
            f"{_setting('ppo.adaptive')}; the coefficient follows the measured KL (Ziegler et al."
            " 2019, 1909.08593)"
        ),
        "episodes": _setting("ppo.episodes"),
        "batch_episodes": f"{_setting('ppo.batch_episodes')}; {INSTRUCTGPT} used 512",
        "minibatch_episodes": f"{_setting('ppo.minibatch_episodes')}; 64 in {INSTRUCTGPT}",
        "inner_epochs": f"{_setting('ppo.inner_epochs')}; {INSTRUCTGPT} used 1",
        "clip": f"0.2: {INSTRUCTGPT}; Schulman et al. 2017 (1707.06347)",
        "gae_lambda": "0.95: Schulman et al. 2017 (1707.06347)",
        "discount": f"1, no discount: {INSTRUCTGPT}",
        "value_coefficient": "0.5: a usual value where policy and critic share one step",
        "entropy_coefficient": "0: the KL penalty already holds the entropy up",
        "pretrain_mix": f"0: no pretraining loss; {INSTRUCTGPT} mixed some in against forgetting",
        "temperature": f"1: {INSTRUCTGPT}; the ratio needs samples of the policy itself",
        "missing_end_penalty": (
            f"{_setting('ppo.missing_end_penalty')}; in deviations of the reward, for a sample that"
            " does not end (Huang et al. 2024, 2403.17031)"
        ),
        "max_new_tokens": _setting("ppo.max_new_tokens"),
        "eval_updates": (
            f"{_setting('ppo.eval_updates')}; 0: held-out prompts are scored before and after alone"
        ),
        "judge": f"{_setting('ppo.judge')}; reward: the reward model, gold: the control",
        "lr_fraction": _setting("ppo.lr_fraction"),
        "peak_lr": _fraction(settings.lr_fraction, "ppo", by_law),
        "seed": "the study's",
    }
    return block_of(PpoBlock, values, reasons | _of_size(by_rule, by_law), by_law)


def with_choice(settings: S, by_law: Choice | None) -> S:
    """Return the settings with the values that a law chose."""
    return replace(settings, **by_law.values) if by_law else settings


def settings_of(settings: Any) -> dict[str, Any]:
    """Return the settings that a block holds: all but the law and its tolerance."""
    return {k: v for k, v in asdict(settings).items() if k not in ("law", "flat_nats")}


def block_of(
    kind: type[B], values: dict[str, Any], reasons: dict[str, str], by_law: Choice | None
) -> B:
    """Return a block with its values, its forecast, and reasons: the law's where a law chose.

    kind: the dataclass of the block
    values: {field: value}
    reasons: {field: sentence} where no law chose
    by_law: what a law of the stage chose, None without a law
    """
    if by_law is None:
        return kind(**values, reasons=reasons)
    of_forecast = {k: FORECAST_REASONS[k] for k in by_law.forecast}
    return kind(**values, **by_law.forecast, reasons={**reasons, **by_law.reasons, **of_forecast})


def _of_size(by_rule: dict[str, str] | None, by_law: Choice | None) -> dict[str, str]:
    """Return the reasons of values that follow the model's size, without those that a law chose."""
    from_law = set(by_law.values) if by_law else set()
    if "lr_fraction" in from_law:
        from_law.add("peak_lr")
    return {k: v for k, v in (by_rule or {}).items() if k not in from_law}


def rounded(value: float, digits: int = 3) -> float:
    """Round to a number of significant digits."""
    return float(f"{value:.{digits}g}")


def _setting(key: str) -> str:
    return f"{key}= sets it"


def _fraction(fraction: float, block: str, by_law: Choice | None) -> str:
    """Say where the fraction of the pretraining peak comes from."""
    if by_law and "lr_fraction" in by_law.values:
        return f"{fraction:g} x the pretraining peak, at which the cells of the law were trained"
    text = f"{fraction:g} x the pretraining peak, {_setting(f'{block}.lr_fraction')}"
    return f"{text}; {INSTRUCTGPT} fine-tuned at 0.05 to 0.08 of GPT-3's peak"
