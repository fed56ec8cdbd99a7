"""The stages after pretraining together: sizes by rule, then by law, then the blocks."""

from typing import Any, Protocol

from analysis.planning.later_stages.blocks import (
    PpoSettings,
    RewardSettings,
    SftSettings,
    ppo_block,
    reward_block,
    sft_block,
)
from analysis.planning.later_stages.choices import (
    KL_FORMS,
    REWARD_FORMS,
    SFT_FORMS,
    choose_kl,
    choose_reward,
    choose_sft,
    laws_of,
)
from analysis.planning.later_stages.sizes import sized
from analysis.planning.plan import PretrainBlock
from scaling.schema import Shape


class LaterSettings(Protocol):
    """The settings of the stages after pretraining; those of `scaling plan` have them."""

    sft: SftSettings
    reward: RewardSettings
    ppo: PpoSettings


def later_blocks(
    settings: LaterSettings, shape: Shape, pretrain: PretrainBlock, *, seed: int, level: float
) -> dict[str, Any]:
    """Return the blocks of fine-tuning, reward model and PPO, and the laws that set them.

    settings: of the three stages
    shape: the planned model
    pretrain: its pretraining
    seed: that of the study
    level: share that the intervals of the forecasts hold
    """
    size = {
        "params": shape.params.total,
        "context": shape.context,
        "pretrain_lr": pretrain.peak_lr,
    }
    sft, sft_rules = sized(settings.sft, "sft", **size)
    reward, reward_rules = sized(settings.reward, "reward", **size)
    ppo, ppo_rules = sized(settings.ppo, "ppo", **size)
    assert sft.examples is not None  # so that the checker knows: `sized` has filled all
    assert reward.pairs is not None
    assert ppo.episodes is not None
    laws = {
        "sft": laws_of(sft.law, forms=SFT_FORMS, key="sft.law"),
        "reward": laws_of(reward.law, forms=REWARD_FORMS, key="reward.law"),
        "ppo": laws_of(ppo.law, forms=KL_FORMS, key="ppo.law"),
    }
    by_sft_law = choose_sft(
        laws["sft"], shape, examples=sft.examples, flat_nats=sft.flat_nats, level=level
    )
    by_reward_law = choose_reward(
        laws["reward"], shape, pairs=reward.pairs, flat_nats=reward.flat_nats, level=level
    )
    by_kl_law = choose_kl(
        laws["ppo"],
        shape,
        pairs=by_reward_law.values["pairs"] if by_reward_law else reward.pairs,
        kl_budget=ppo.kl_budget,
        episodes=ppo.episodes,
        level=level,
    )
    post = {"pretrain_lr": pretrain.peak_lr, "seed": seed}
    return {
        "stage_laws": {stage: list(named) for stage, named in laws.items() if named},
        "sft": sft_block(sft, **post, by_law=by_sft_law, by_rule=sft_rules),
        "reward": reward_block(reward, **post, by_law=by_reward_law, by_rule=reward_rules),
        "ppo": ppo_block(ppo, **post, by_law=by_kl_law, by_rule=ppo_rules),
    }
