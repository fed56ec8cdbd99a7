"""Episodes of PPO: sampled, scored, with rewards per token, advantages and returns.

The reward of a token is -coefficient * (log pi - log pi_ref), and the last one gets the reward
model's score too; scores have deviation 1 on fine-tuned samples, so rewards need no whitening.
KL is in nats per sequence, summed over tokens; the KL that is logged is the KL trained on. Log
ratios that rounding alone makes are zero: Adam steps as far for a gradient of 1e-7 as for one of 1,
and a policy without any reward would drift.

Legend: B episodes, L row length; per-token tensors are (B, L-1) with a mask
(scaling.inference.completions).
"""

import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scaling.inference.completions import Rows, join, log_probs, padded, scatter
from scaling.inference.generate import generate
from scaling.model.transformer import Transformer
from scaling.stages.loop import Tally
from scaling.stages.preferences import gold_of
from scaling.stages.reward_model import RewardModel
from scaling.stages.stage import Stage

ROUNDING = 2e-5  # nats, what sampling and scoring in float32 differ by at most in a token
NOISE = 0.1  # advantages of a smaller deviation are not scaled up to 1


@dataclass(kw_only=True)
class Models:
    """The four networks; `policy` and `critic` learn, `reference` and `reward` stay."""

    policy: Transformer
    critic: RewardModel
    reference: Transformer
    reward: RewardModel

    def learning(self) -> nn.ModuleDict:
        """Return what a checkpoint keeps."""
        return nn.ModuleDict({"policy": self.policy, "critic": self.critic})


@dataclass(frozen=True, kw_only=True)
class Rollouts:
    """Episodes with all that the update needs; numbers per token are zero outside `rows.mask`."""

    rows: Rows
    old_log_probs: Tensor  # (B, L-1) of the sampling policy
    log_ratio: Tensor  # (B, L-1) log pi - log pi_ref
    old_values: Tensor  # (B, L-1)
    advantages: Tensor  # (B, L-1) whitened where there is a critic
    returns: Tensor  # (B, L-1)
    summary: dict[str, float]


@torch.no_grad()
def sample_episodes(
    stage: Stage, models: Models, tally: Tally, prompts: list[list[int]]
) -> Rollouts:
    """Sample a completion a prompt, score it, and work out rewards, advantages and returns.

    Without a critic the completions of a prompt stand together in `prompts` and are compared.
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
    old = padded(samples.log_probs, rows.mask)  # (B, L-1)
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
    if ppo.estimator == "gae":
        old_values = scatter(models.critic.values(rows), rows.mask)
        advantages, returns = gae(
            rewards, old_values, rows.mask, discount=ppo.discount, decay=ppo.gae_lambda
        )
        explained = {"explained_variance": explained_variance(old_values, returns, rows.mask)}
        advantages = whiten(advantages, rows.mask)
    else:
        old_values, returns, explained = torch.zeros_like(rewards), torch.zeros_like(rewards), {}
        compared = among(rewards.sum(1).view(-1, ppo.group), standard=ppo.estimator == "grpo")
        advantages = compared.view(-1, 1) * rows.mask
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


def token_rewards(rows: Rows, log_ratio: Tensor, score: Tensor, coefficient: float) -> Tensor:
    """Return each token's reward, (B, L-1): the KL penalty, and `score` (B,) at the last one."""
    rewards = -coefficient * log_ratio
    return rewards.scatter_add(1, (rows.last - 1)[:, None], score[:, None].to(rewards.dtype))


def gae(
    rewards: Tensor, values: Tensor, mask: Tensor, *, discount: float, decay: float
) -> tuple[Tensor, Tensor]:
    """Return advantages and returns, (B, L-1), by Schulman et al. 2016 (1506.02438), eq. 16.

    A_t = delta_t + discount * decay * A_(t+1), delta_t = r_t + discount * V_(t+1) - V_t; the value
    after the last token is zero. `values` and `rewards` are zero outside the mask.
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


def among(rewards: Tensor, *, standard: bool) -> Tensor:
    """Return the advantage of each of G completions over those of its prompt, (P, G).

    With `standard` over the mean of all, in deviations of the group (Shao et al. 2024, eq. 3), else
    over the mean of the others (Ahmadian et al. 2024, eq. 8).
    """
    if standard:
        spread = rewards.std(1, keepdim=True, correction=0).clamp(min=NOISE)
        return (rewards - rewards.mean(1, keepdim=True)) / spread
    others = (rewards.sum(1, keepdim=True) - rewards) / (rewards.shape[1] - 1)
    return rewards - others


def whiten(values: Tensor, mask: Tensor) -> Tensor:
    """Shift and scale to mean 0 and deviation 1 over the mask; zero elsewhere.

    Values that hardly differ are not blown up: the scale is at least NOISE, a tenth of the
    deviation of the reward model's scores.
    """
    kept = values[mask]
    return (values - kept.mean()) / kept.std(correction=0).clamp(min=NOISE) * mask


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> float:
    """Return 1 - Var(returns - values) / Var(returns) over the mask."""
    left, total = (returns - values)[mask].var(correction=0), returns[mask].var(correction=0)
    return float(1 - left / total.clamp(min=1e-8))
