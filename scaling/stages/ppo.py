"""PPO against a reward model, held near the fine-tuned model by a KL penalty per token.

Follows Ouyang et al. 2022 (2203.02155) and Ziegler et al. 2019 (1909.08593), with the clipped
ratio and clipped value loss of Schulman et al. 2017 (1707.06347). The critic is a network of its
own that starts as the reward model: a value head begun at zero on a shared trunk mostly explains
less than nothing. `estimator=grpo|rloo` does without one and compares completions of a prompt;
sampling, penalty, clipping and budget are the same. An adaptive coefficient aims below the KL
budget, and the budget stops the run.

Legend: M completion tokens of the episodes in hand; per-token tensors as in
scaling.inference.completions.
"""

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from scaling.config import ModelConfig, PpoPlan
from scaling.data.batches import Batches
from scaling.data.row_text import LeftOut
from scaling.inference.completions import forward_flops, join, log_probs, scatter
from scaling.inference.generate import generate
from scaling.inference.trained import RECORD, settings_of
from scaling.model.transformer import Transformer
from scaling.optim.optimizers import make_optimizer
from scaling.optim.schedule import set_lr
from scaling.schema import Record, initial_kl_coefficient, read_record, write_json
from scaling.stages.loop import Saver, Tally, fine_tuning, open_curve, open_progress
from scaling.stages.preferences import gold_of
from scaling.stages.reward_model import new_reward_model, score_all
from scaling.stages.rollouts import Models, Rollouts, sample_episodes
from scaling.stages.sft import load_pairs
from scaling.stages.stage import Stage, make_room
from scaling.stages.stage_record import write_record
from scaling.study.activity import moved
from scaling.study.curve import finite_values
from scaling.train import checkpoint
from scaling.train.step import Diverged

log = logging.getLogger(__name__)

TARGET_SHARE = 0.8  # of the KL budget, what the adaptive coefficient aims at
HORIZON_SHARE = 0.1  # of the episodes, the controller's horizon
ERROR_CLIP = 0.2  # of the controller, Ziegler et al. 2019, section 2.2
STOP_BATCHES = 4  # the budget stops the run when the mean KL of so many batches exceeds it
WARMUP_STEPS = 3
EVAL_PROMPTS, EVAL_SAMPLES = 128, 2
SHOWN = 12  # samples kept in samples.json
CHANCE_ERRORS = 2.0  # accuracy within so many standard errors of 1/2 is chance


def run_ppo(stage: Stage) -> Record:
    """Train the policy; write its weights, samples before and after, and the record.

    ValueError when the reward model is at chance, unless `force` is set, or there is no gold judge
    to be optimised.
    """
    refuse_chance(stage)
    left, room = LeftOut(), stage.config.ppo.max_new_tokens
    prompts, held_out = load_pairs(stage).prompts(
        context=stage.cell.data.context, max_new_tokens=room, left=left
    )
    why = f"they leave no room for ppo.max_new_tokens={room}; lower it"
    stage.tell_left_out(left, used=f"{len(prompts):,} prompts are", too_long=why)
    held_out = held_out[:EVAL_PROMPTS]
    make_room(stage)
    models = load_models(stage)
    tally = Tally(values={"coefficient": coefficient_at_start(stage), "recent_kl": []})
    before = evaluate_policy(models, stage, held_out)
    if stage.config.ppo.judge == "gold":
        gold = torch.tensor(before["gold"])
        tally.values["gold_scale"] = [float(gold.mean()), float(gold.std())]
    try:
        learn(stage, models, tally, prompts=prompts, held_out=held_out)
        after = evaluate_policy(models, stage, held_out)
        refuse_non_finite(after["summary"], at="the end")
    except Diverged as error:
        return write_record(stage, tally, error=str(error), left=left)
    write_json(stage.folder / "samples.json", compare(stage, before, after))
    checkpoint.save(stage.folder, model=models.policy, name="model", state={"step": tally.step})
    values = tally.values
    metrics = {f"{k}_before": v for k, v in before["summary"].items() if k != "kl"}
    metrics |= {f"{k}_after": v for k, v in after["summary"].items() if k != "kl"}
    metrics |= {
        "kl": after["summary"]["kl"],
        "kl_budget": stage.config.ppo.kl_budget,
        "kl_coefficient": values["coefficient"],
        "episodes": values["episodes"],
        "reward_params": sum(w.numel() for w in models.reward.parameters()),
        "stopped_by_budget": float(values.get("stopped", False)),
        "sampling_tokens_per_second": values["sampled"] / max(values["sampling_seconds"], 1e-9),
    }
    kept = ("entropy", "explained_variance", "clip_fraction")
    metrics |= {k: values["last"][k] for k in kept if k in values["last"]}
    unique = sum(map(len, prompts))
    return write_record(stage, tally, unique_tokens=unique, metrics=metrics, left=left)


def refuse_non_finite(summary: dict[str, float], *, at: str) -> None:
    """Raise Diverged where the reward or the KL of samples is no number."""
    for name in ("reward", "kl"):
        if not math.isfinite(summary[name]):
            raise Diverged(f"the {name} of stage ppo is not finite at {at}; lower ppo.peak_lr")


def coefficient_at_start(stage: Stage) -> float:
    """Return the plan's KL coefficient, or that at which a standard reward costs the budget."""
    ppo = stage.config.ppo
    given = ppo.kl_coefficient
    return initial_kl_coefficient(ppo.kl_budget) if given is None else given


def refuse_chance(stage: Stage) -> None:
    """Raise ValueError when who judges is no better than chance, or is not there."""
    if stage.config.ppo.judge == "gold":
        if not stage.has_gold():
            raise ValueError("ppo.judge=gold judges Python functions; set sft.data=docstrings")
        return
    found = read_record(stage.weights_of("reward").with_name("record.json")).metrics
    accuracy, error = found["accuracy"], found.get("accuracy_se", 0.0)
    if accuracy - CHANCE_ERRORS * error <= 0.5 and not stage.config.force:
        raise ValueError(
            f"the reward model's held-out accuracy is {accuracy:.3f} +- {error:.3f}, "
            "which is chance; raise reward.pairs "
            "or the size of the model, or set force=true to run PPO on it all the same"
        )


def load_models(stage: Stage) -> Models:
    """Read the fine-tuned model and the reward model, each twice: to learn, and to stay."""
    policy, reference = stage.new_model(), stage.new_model()
    folder = stage.weights_of("reward").parent
    shape = settings_of(read_record(folder / RECORD), folder, "model", ModelConfig)
    judging = replace(stage, cell=replace(stage.cell, model=shape))
    critic, reward = new_reward_model(judging), new_reward_model(judging)
    for model in (policy, reference):
        checkpoint.load_weights(stage.weights_of("sft"), model)
    for model in (critic, reward):
        checkpoint.load_weights(stage.weights_of("reward"), model)
    for frozen in (reference, reward):
        frozen.requires_grad_(False).eval()
    return Models(policy=policy, critic=critic, reference=reference, reward=reward)


def new_optimizer(models: Models, stage: Stage) -> torch.optim.Optimizer:
    """Return one optimiser of the policy's groups, and the critic's if there is one to learn."""
    optim, peak_lr = fine_tuning(stage.cell.optim), stage.config.ppo.peak_lr
    optimizer = make_optimizer(models.policy, optim, peak_lr)
    if stage.config.ppo.estimator != "gae":
        return optimizer
    for group in make_optimizer(models.critic, optim, peak_lr).param_groups:
        optimizer.add_param_group(group)
    return optimizer


def learn(
    stage: Stage,
    models: Models,
    tally: Tally,
    *,
    prompts: Sequence[Sequence[int]],
    held_out: Sequence[Sequence[int]] = (),
) -> None:
    """Run PPO until the episodes or the KL budget are spent; resumes from the checkpoint.

    Every `ppo.eval_updates` updates the policy is scored on the `held_out` prompts too.
    """
    ppo, values = stage.config.ppo, tally.values
    optimizer = new_optimizer(models, stage)
    saver = Saver(stage, tally, model=models.learning(), optimizer=optimizer)
    saver.resume()
    values = tally.values
    n_steps, mix = math.ceil(ppo.episodes / ppo.batch_episodes), PretrainMix.of(stage)
    progress = open_progress(stage, total=n_steps, done=tally.step)
    with open_curve(stage, resume_step=tally.step) as curve:
        while tally.step < n_steps and not values.get("stopped"):
            began = time.monotonic()
            set_lr(optimizer, min(1.0, (tally.step + 1) / WARMUP_STEPS))
            chosen = batch_prompts(prompts, ppo, tally.step)
            rollouts = sample_episodes(stage, models, tally, chosen)
            refuse_non_finite(rollouts.summary, at=f"step {tally.step}")
            update = improve(
                models,
                optimizer,
                rollouts,
                ppo,
                clip=stage.cell.optim.clip,
                step=tally.step,
                mix=mix,
            )
            control(values, ppo, kl=rollouts.summary["kl"], episodes=len(chosen))
            count(tally, models, rollouts, ppo, episodes=len(chosen), mix=mix)
            values["last"] = finite_values({**rollouts.summary, **update})
            row = {
                "episodes": values["episodes"],
                **values["last"],
                "step_seconds": time.monotonic() - began,
            }
            if ppo.eval_updates and tally.step % ppo.eval_updates == 0:
                found = evaluate_policy(models, stage, held_out)["summary"]
                row |= {f"held_out_{k}": v for k, v in found.items()}
            curve.log(saver.row(**row))
            saver.tick()
            progress.update(tally.step, f"reward {row['reward']:.2f}  KL {row['kl']:.2f}")
        progress.close()


def batch_prompts(prompts: Sequence[Sequence[int]], ppo: PpoPlan, step: int) -> list[list[int]]:
    """Return the prompts of a step: the next ones of an order made anew each time all were seen.

    Each stands as often as it has samples (PpoPlan.samples).
    """
    found = []
    n, last = ppo.samples, min(ppo.episodes, (step + 1) * ppo.batch_episodes)
    for i in range(step * ppo.batch_episodes // n, last // n):
        epoch, at = divmod(i, len(prompts))
        prompt = list(prompts[order_of(len(prompts), ppo.seed, epoch)[at]])
        found += [prompt] * n
    return found


def order_of(n: int, seed: int, epoch: int) -> list[int]:
    """Return a permutation, a pure function of its arguments."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed * 1_000 + epoch)).tolist()


def improve(
    models: Models,
    optimizer: torch.optim.Optimizer,
    rollouts: Rollouts,
    ppo: PpoPlan,
    *,
    clip: float,
    step: int,
    mix: "PretrainMix | None" = None,
) -> dict[str, float]:
    """Take the inner epochs' steps; return the averages of what they measured."""
    n = len(rollouts.rows.last)
    steps_each = math.ceil(n / ppo.minibatch_episodes)
    parts: list[dict[str, float]] = []
    for epoch in range(ppo.inner_epochs):
        generator = torch.Generator().manual_seed((ppo.seed * 1_000_003 + step) * 64 + epoch)
        order = torch.randperm(n, generator=generator).to(rollouts.rows.last.device)
        for i, index in enumerate(order.split(ppo.minibatch_episodes)):
            loss, measured = ppo_loss(models, rollouts, index, ppo)
            if mix is not None:
                number = (step * ppo.inner_epochs + epoch) * steps_each + i
                measured["pretrain_loss"] = mix.add(models.policy, number)
            loss.backward()
            norms = [
                nn.utils.clip_grad_norm_(m.parameters(), clip or math.inf)
                for m in (models.policy, models.critic)
            ]
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            moved()
            measured["grad_norm"] = norms[0]
            values = torch.stack(list(measured.values())).tolist()  # a GPU is waited for once
            parts.append(dict(zip(measured, values, strict=True)))
            if not math.isfinite(parts[-1]["loss"]):
                raise Diverged(
                    f"the loss of stage ppo stopped being finite at step {step}; lower ppo.peak_lr"
                )
    averages = {k: sum(p[k] for p in parts) / len(parts) for k in parts[0]}
    return averages | {"ratio_max": max(p["ratio_max"] for p in parts)}


@dataclass(frozen=True, kw_only=True)
class PretrainMix:
    """Windows of the pretraining corpus whose loss is mixed in (PPO-ptx, Ouyang et al. 2022)."""

    batches: Batches
    coefficient: float

    @classmethod
    def of(cls, stage: Stage) -> "PretrainMix | None":
        """Return the plan's mix, None without; half a window for each episode of a minibatch."""
        ppo = stage.config.ppo
        if not ppo.pretrain_mix:
            return None
        rows = max(1, ppo.minibatch_episodes // 2)
        batches = Batches.of(stage.corpus, stage.cell.data, rows=rows, seed=ppo.seed)
        return cls(batches=batches, coefficient=ppo.pretrain_mix)

    @property
    def n_tokens(self) -> int:
        """Tokens that a step of the optimiser takes."""
        return self.batches.rows * self.batches.context

    def add(self, model: Transformer, number: int) -> Tensor:
        """Add the weighted gradient of batch `number`; return its loss in nats/token."""
        inputs, targets = (torch.from_numpy(a).to(model.device) for a in self.batches(number))
        loss = model.loss(inputs, targets)
        (self.coefficient * (loss + model.router_loss())).backward()
        return loss.detach()


def ppo_loss(
    models: Models, rollouts: Rollouts, index: Tensor, ppo: PpoPlan
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss of some episodes and what is worth logging; averages run over tokens.

    The router losses of what learns are added, where experts are mixed.
    """
    rows = rollouts.rows.take(index)
    mask, width = rows.mask, rows.mask.shape[1]

    def flat(values: Tensor) -> Tensor:
        return values[index, :width][mask]  # (M,)

    learns = ppo.entropy_coefficient != 0
    logp, entropy = log_probs(
        models.policy, rows, temperature=ppo.temperature, entropy_learns=learns
    )  # (M,)
    change = logp - flat(rollouts.old_log_probs)
    ratio, advantage = change.exp(), flat(rollouts.advantages)
    clipped = ratio.clamp(1 - ppo.clip, 1 + ppo.clip)
    policy_loss = -torch.minimum(ratio * advantage, clipped * advantage).mean()
    routers, value_loss = models.policy.router_loss(), policy_loss.new_zeros(())
    if ppo.estimator == "gae":
        value, old_value = models.critic.values(rows), flat(rollouts.old_values)
        target = flat(rollouts.returns)
        routers = routers + models.critic.router_loss()
        near = old_value + (value - old_value).clamp(-ppo.clip, ppo.clip)
        value_loss = 0.5 * torch.maximum((value - target) ** 2, (near - target) ** 2).mean()
    loss = policy_loss - ppo.entropy_coefficient * entropy.mean()
    loss = loss + ppo.value_coefficient * value_loss + routers
    with torch.no_grad():
        measured = {
            "loss": loss.detach(),
            "policy_loss": policy_loss.detach(),
            "value_loss": value_loss.detach(),
            "entropy": entropy.mean(),
            "clip_fraction": ((ratio - 1).abs() > ppo.clip).float().mean(),
            "approx_kl": (ratio - 1 - change).mean(),
            "ratio_max": ratio.max(),
        }
    return loss, measured


def control(values: dict[str, Any], ppo: PpoPlan, *, kl: float, episodes: int) -> None:
    """Move the coefficient toward the target KL and see whether the budget is spent.

    coefficient *= 1 + episodes / horizon * clip(KL / target - 1), Ziegler et al. 2019, section 2.2.
    """
    if ppo.adaptive:
        error = max(-ERROR_CLIP, min(ERROR_CLIP, kl / (TARGET_SHARE * ppo.kl_budget) - 1))
        values["coefficient"] *= 1 + error * min(1.0, episodes / (HORIZON_SHARE * ppo.episodes))
    values["recent_kl"] = [*values["recent_kl"], kl][-STOP_BATCHES:]
    recent = values["recent_kl"]
    mean = sum(recent) / len(recent)
    if len(recent) == STOP_BATCHES and mean > ppo.kl_budget:
        values["stopped"] = True
        log.warning(
            "ppo: the mean KL of the last %d batches is %.3g nats, past ppo.kl_budget=%g; stopped"
            " there: raise ppo.kl_coefficient, lower ppo.peak_lr, or allow more",
            STOP_BATCHES,
            mean,
            ppo.kl_budget,
        )


def count(
    tally: Tally,
    models: Models,
    rollouts: Rollouts,
    ppo: PpoPlan,
    *,
    episodes: int,
    mix: PretrainMix | None = None,
) -> None:
    """Add a step's tokens and FLOPs: sampling, scorings, and the updates of what learns."""
    policy = models.policy
    language = forward_flops(policy.config, policy.vocab_size, rollouts.rows)
    judge = models.reward
    scoring = forward_flops(judge.config, judge.vocab_size, rollouts.rows, head=False)
    tally.step += 1
    tally.tokens += rollouts.rows.n_tokens
    critic = scoring if ppo.estimator == "gae" else 0.0
    tally.flops += 2 * language + scoring + critic + 3 * ppo.inner_epochs * (language + critic)
    if mix is not None:
        shape = policy.config.shape(vocab_size=policy.vocab_size, context=policy.context)
        steps = ppo.inner_epochs * math.ceil(episodes / ppo.minibatch_episodes)
        tally.flops += steps * mix.n_tokens * shape.flops_per_token
    tally.values["episodes"] = tally.values.get("episodes", 0) + episodes


@torch.no_grad()
def evaluate_policy(
    models: Models, stage: Stage, prompts: Sequence[Sequence[int]]
) -> dict[str, Any]:
    """Sample held-out prompts with a fixed seed; return samples, scores and their means.

    The policy's weights make the only difference between two calls.
    """
    ppo = stage.config.ppo
    repeated = [list(p) for p in prompts for _ in range(EVAL_SAMPLES)]
    samples = generate(
        models.policy,
        repeated,
        max_new_tokens=ppo.max_new_tokens,
        temperature=ppo.temperature,
        seed=ppo.seed + 7,
    )
    scores = score_all(models.reward, repeated, samples.completions)
    gold = gold_of(stage, repeated, samples) if stage.has_gold() else []
    kl = []
    for at in range(0, len(repeated), 128):
        rows = join(
            repeated[at : at + 128], samples.completions[at : at + 128], models.policy.device
        )
        logp = [
            log_probs(m, rows, temperature=ppo.temperature)[0]
            for m in (models.policy, models.reference)
        ]
        kl += scatter(logp[0] - logp[1], rows.mask).sum(1).tolist()
    n = len(repeated)
    summary = {
        "reward": sum(scores) / n,
        "kl": sum(kl) / n,
        "length": samples.n_tokens / n,
        "ended": sum(samples.ended) / n,
    }
    if gold:
        summary["gold"] = sum(gold) / n
        summary["gold_se"] = float(
            torch.tensor(gold).view(-1, EVAL_SAMPLES).mean(1).std()
        ) / math.sqrt(len(prompts))
    per_prompt = torch.tensor(scores).view(-1, EVAL_SAMPLES).mean(1)
    summary["reward_se"] = float(per_prompt.std()) / math.sqrt(len(prompts))
    return {
        "prompts": repeated,
        "samples": samples,
        "scores": scores,
        "gold": gold,
        "summary": summary,
    }


def compare(stage: Stage, before: dict[str, Any], after: dict[str, Any]) -> list[dict[str, Any]]:
    """Return some held-out prompts with what was sampled before and after."""
    tokenizer = stage.corpus.tokenizer
    found = []
    for i in range(0, len(before["prompts"]), EVAL_SAMPLES)[:SHOWN]:
        row: dict[str, Any] = {"prompt": tokenizer.decode(before["prompts"][i])}
        for name, side in (("before", before), ("after", after)):
            row[name] = tokenizer.decode(side["samples"].completions[i])
            row[f"reward_{name}"] = side["scores"][i]
            row[f"gold_{name}"] = side["gold"][i] if side["gold"] else None
        found.append(row)
    return found
