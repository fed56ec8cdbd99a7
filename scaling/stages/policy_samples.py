"""Samples of the policy on held-out prompts: what PPO reports before, during and after.

The draws have a fixed seed, so that two evaluations differ by the policy's weights alone.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from scaling.inference.completions import join, log_probs, scatter
from scaling.inference.generate import Samples, generate
from scaling.stages.preferences import gold_of
from scaling.stages.reward_model import score_all
from scaling.stages.rollouts import Models
from scaling.stages.stage import Stage

EVAL_SAMPLES = 2  # completions of each held-out prompt
KL_ROWS = 128  # rows whose KL is measured at once
SEED_OFFSET = 7  # added to the stage's seed: these draws are not those of training
SHOWN = 12  # samples that samples.json shows


@dataclass(frozen=True, kw_only=True)
class PolicySamples:
    """EVAL_SAMPLES completions of each held-out prompt, with their scores."""

    prompts: list[list[int]]  # each repeated EVAL_SAMPLES times
    samples: Samples
    scores: list[float]  # of the reward model
    gold: list[float]  # of the gold judge; empty where it cannot score these prompts
    summary: dict[str, float]  # means and their errors over prompts


@torch.no_grad()
def evaluate_policy(
    models: Models, stage: Stage, prompts: Sequence[Sequence[int]]
) -> PolicySamples:
    """Sample completions of held-out prompts; return them with their scores and means.

    `kl` is the mean of log pi - log pi_ref in nats per completion.
    """
    ppo = stage.config.ppo
    repeated = [list(p) for p in prompts for _ in range(EVAL_SAMPLES)]
    samples = generate(
        models.policy,
        repeated,
        max_new_tokens=ppo.max_new_tokens,
        temperature=ppo.temperature,
        seed=ppo.seed + SEED_OFFSET,
    )
    scores = score_all(models.reward, repeated, samples.completions)
    gold = gold_of(stage, repeated, samples) if stage.has_gold() else []
    kl = []
    for at in range(0, len(repeated), KL_ROWS):
        part = slice(at, at + KL_ROWS)
        rows = join(repeated[part], samples.completions[part], models.policy.device)
        policy, reference = (
            log_probs(m, rows, temperature=ppo.temperature)[0]
            for m in (models.policy, models.reference)
        )
        kl += scatter(policy - reference, rows.mask).sum(1).tolist()
    n = len(repeated)
    summary = {
        "reward": sum(scores) / n,
        "kl": sum(kl) / n,
        "length": samples.n_tokens / n,
        "ended": sum(samples.ended) / n,
    }
    if gold:
        summary["gold"] = sum(gold) / n
        summary["gold_se"] = error_over_prompts(gold)
    summary["reward_se"] = error_over_prompts(scores)
    return PolicySamples(
        prompts=repeated, samples=samples, scores=scores, gold=gold, summary=summary
    )


def error_over_prompts(values: list[float]) -> float:
    """Return the standard error of the mean; the completions of a prompt count as one value."""
    per_prompt = torch.tensor(values).view(-1, EVAL_SAMPLES).mean(1)
    return float(per_prompt.std()) / math.sqrt(len(per_prompt))


def before_and_after(
    stage: Stage, before: PolicySamples, after: PolicySamples
) -> list[dict[str, Any]]:
    """Return some held-out prompts with a completion before and one after training."""
    decode = stage.corpus.tokenizer.decode
    rows = []
    for i in range(0, len(before.prompts), EVAL_SAMPLES)[:SHOWN]:
        row: dict[str, Any] = {"prompt": decode(before.prompts[i])}
        for name, side in (("before", before), ("after", after)):
            row[name] = decode(side.samples.completions[i])
            row[f"reward_{name}"] = side.scores[i]
            row[f"gold_{name}"] = side.gold[i] if side.gold else None
        rows.append(row)
    return rows
