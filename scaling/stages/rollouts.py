"""Episodes of PPO: sampled and scored, with rewards per token, advantages and returns.

The reward of a token is -coefficient * (log pi - log pi_ref); the last token gets the reward
model's score as well. Scores have deviation 1 on fine-tuned samples, so rewards need no whitening.
KL is in nats per sequence, summed over tokens; the KL that is logged is the KL that is trained on.
A log ratio that rounding alone can explain is set to 0: Adam's step does not shrink with the
gradient, so that a policy without any reward would drift.

Legend: B episodes, L row length, P prompts, G completions of a prompt; tensors per token are
(B, L-1) with a mask (scaling.inference.completions).
"""

import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scaling.config import PpoPlan
from scaling.inference.completions import Rows, join, log_probs, scatter, scatter_lists
from scaling.inference.generate import generate
from scaling.model.transformer import Transformer
from scaling.stages.loop import Tally
from scaling.stages.preferences import gold_of
from scaling.stages.reward_model import RewardModel
from scaling.stages.stage import Stage

# Sampling and scoring in float32 differ by at most this much for a token, in nats.
ROUNDING = 2e-5
# Advantages with a deviation below this, a tenth of that of scores, are not scaled up to 1.
NOISE = 0.1


@dataclass(kw_only=True)
class Models:
    """The four networks of PPO: two learn, two are frozen."""

    policy: Transformer  # learns; starts as the fine-tuned model
    critic: RewardModel  # learns; starts as the reward model
    reference: Transformer  # the fine-tuned model
    reward: RewardModel

    def learning(self) -> nn.ModuleDict:
        """Return the networks that a checkpoint holds: those that learn."""
        return nn.ModuleDict({"policy": self.policy, "critic": self.critic})


@dataclass(frozen=True, kw_only=True)
class Rollouts:
    """Episodes with all that an update needs; numbers per token are 0 outside `rows.mask`."""

    rows: Rows
    old_log_probs: Tensor  # (B, L-1) of the sampling policy
    log_ratio: Tensor  # (B, L-1) log pi - log pi_ref
    old_values: Tensor  # (B, L-1)
    advantages: Tensor  # (B, L-1) whitened where the estimator has a critic
    returns: Tensor  # (B, L-1)
    summary: dict[str, float]


@torch.no_grad()
def sample_episodes(
    stage: Stage, models: Models, tally: Tally, prompts: list[list[int]]
) -> Rollouts:
    """Sample a completion of each prompt; score it; compute rewards, advantages and returns.

    stage: the PPO stage
    models: the four networks
    tally: its step seeds the draws; its values hold the coefficient and count what is sampled
    prompts: one for each episode, as token ids; without a critic, each prompt stands `ppo.group`
        times in a row, and its completions are compared
    """
    ppo, values = stage.config.ppo, tally.values
    began = time.monotonic()
    samples = generate(
        models.policy,
        prompts,
        max_new_tokens=ppo.max_new_tokens,
        temperature=ppo.temperature,
        seed=ppo.seed * 1_000_003 + tally.step,
    )
    seconds = time.monotonic() - began
    values["sampling_seconds"] = values.get("sampling_seconds", 0.0) + seconds
    values["sampled"] = values.get("sampled", 0) + samples.n_tokens
    rows = join(prompts, samples.completions, models.policy.device)
    ended = torch.tensor(samples.ended, device=rows.tokens.device)
    old = scatter_lists(samples.log_probs, rows.mask)  # (B, L-1)
    reference = scatter(
        log_probs(models.reference, rows, temperature=ppo.temperature)[0], rows.mask
    )
    log_ratio = F.hardshrink(old - reference, ROUNDING)
    gold = gold_of(stage, prompts, samples) if stage.has_gold() else []
    score = models.reward.scores(rows)  # (B,)
    if ppo.judge == "gold":
        mean, deviation = values["gold_scale"]
        score = ((torch.tensor(gold) - mean) / max(deviation, 1e-6)).to(score)
    score_of_end = score - ppo.missing_end_penalty * ~ended
    rewards = token_rewards(rows, log_ratio, score_of_end, values["coefficient"])
    old_values, advantages, returns = estimate_advantages(models, rows, rewards, ppo)
    explained = {}
    if ppo.estimator == "gae":
        explained["explained_variance"] = explained_variance(old_values, returns, rows.mask)
    lengths = rows.mask.sum(1).float()
    kl = log_ratio.sum(1)  # (B,) nats per sequence, k1
    summary = {
        "reward": float(score.mean()),
        "reward_deviation": float(score.std(correction=0)),
        "kl": float(kl.mean()),
        "kl_k3": float(((-log_ratio).exp() - 1 + log_ratio).mul(rows.mask).sum(1).mean()),
        "kl_per_token": float(kl.sum() / lengths.sum()),
        "kl_coefficient": values["coefficient"],
        "length": float(lengths.mean()),
        "truncated": float((~ended).float().mean()),
        **explained,
        "tokens_per_second": samples.n_tokens / max(seconds, 1e-9),
    }
    if gold:
        summary["gold_reward"] = sum(gold) / len(gold)
    return Rollouts(
        rows=rows,
        old_log_probs=old,
        log_ratio=log_ratio,
        old_values=old_values,
        advantages=advantages,
        returns=returns,
        summary=summary,
    )


def estimate_advantages(
    models: Models, rows: Rows, rewards: Tensor, ppo: PpoPlan
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the critic's values, the advantages and the returns of the tokens, (B, L-1) each.

    models: whose critic is used where `ppo.estimator=gae`
    rows: the episodes
    rewards: of each token, (B, L-1)
    ppo: the stage's settings

    Without a critic, values and returns are 0, and all tokens of a completion have its advantage
    over the other completions of the prompt.
    """
    if ppo.estimator == "gae":
        values = scatter(models.critic.values(rows), rows.mask)
        advantages, returns = gae(
            rewards, values, rows.mask, discount=ppo.discount, decay=ppo.gae_lambda
        )
        return values, whiten(advantages, rows.mask), returns
    per_completion = group_advantages(
        rewards.sum(1).view(-1, ppo.group), standard=ppo.estimator == "grpo"
    )
    zeros = torch.zeros_like(rewards)
    return zeros, per_completion.view(-1, 1) * rows.mask, zeros.clone()


def token_rewards(rows: Rows, log_ratio: Tensor, score: Tensor, coefficient: float) -> Tensor:
    """Return each token's reward, (B, L-1): the KL penalty, plus `score` (B,) at the last token.

    rows: the episodes
    log_ratio: log pi - log pi_ref of each token, (B, L-1)
    score: of each completion, (B,)
    coefficient: of the penalty, in score per nat
    """
    rewards = -coefficient * log_ratio
    return rewards.scatter_add(1, (rows.last - 1)[:, None], score[:, None].to(rewards.dtype))


def gae(
    rewards: Tensor, values: Tensor, mask: Tensor, *, discount: float, decay: float
) -> tuple[Tensor, Tensor]:
    """Return advantages and returns, (B, L-1), by Schulman et al. 2016 (1506.02438), eq. 16.

        A_t = delta_t + discount * decay * A_(t+1)
        delta_t = r_t + discount * V_(t+1) - V_t

    rewards: r of each token, (B, L-1), 0 outside the mask
    values: V before each token, (B, L-1), 0 outside the mask; it is 0 after the last token
    mask: where completion tokens are, (B, L-1)
    discount: gamma
    decay: lambda
    """
    advantages = torch.zeros_like(rewards)
    following = torch.zeros_like(rewards[:, 0])
    next_value = torch.zeros_like(rewards[:, 0])
    for t in range(rewards.shape[1] - 1, -1, -1):
        here = mask[:, t]
        delta = rewards[:, t] + discount * next_value - values[:, t]
        following = torch.where(here, delta + discount * decay * following, following)
        advantages[:, t] = torch.where(here, following, 0.0)
        next_value = torch.where(here, values[:, t], next_value)
    return advantages, advantages + values


def group_advantages(rewards: Tensor, *, standard: bool) -> Tensor:
    """Return the advantage of each completion over the completions of its prompt, (P, G).

    `standard` subtracts the mean of all G and divides by their deviation (Shao et al. 2024, eq. 3);
    otherwise the mean of the other G - 1 is subtracted (Ahmadian et al. 2024, eq. 8).
    """
    if standard:
        spread = rewards.std(1, keepdim=True, correction=0).clamp(min=NOISE)
        return (rewards - rewards.mean(1, keepdim=True)) / spread
    others = (rewards.sum(1, keepdim=True) - rewards) / (rewards.shape[1] - 1)
    return rewards - others


def whiten(values: Tensor, mask: Tensor) -> Tensor:
    """Shift and scale values to mean 0 and deviation 1 over the mask; set the others to 0.

    Values are divided by NOISE where their deviation is smaller: values that hardly differ are
    noise, and scaling them up to deviation 1 would train on it.
    """
    inside = values[mask]
    return (values - inside.mean()) / inside.std(correction=0).clamp(min=NOISE) * mask


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> float:
    """Return 1 - Var(returns - values) / Var(returns) over the mask."""
    residual, total = (returns - values)[mask].var(correction=0), returns[mask].var(correction=0)
    return float(1 - residual / total.clamp(min=1e-8))
