"""PPO against a reward model, held near the fine-tuned model by a KL penalty per token.

The method is that of Ouyang et al. 2022 (2203.02155) and Ziegler et al. 2019 (1909.08593), with
the clipped ratio and the clipped value loss of Schulman et al. 2017 (1707.06347). The critic is a
network of its own that starts as the reward model: a value head that starts at zero on the policy's
trunk mostly has a negative explained variance. `ppo.estimator=grpo` or `rloo` has no critic and
compares the completions of a prompt; sampling, penalty, clipping and budget are the same. The
penalty's coefficient adapts so that the KL stays below its budget; a KL above the budget stops the
run. rollouts.py samples the episodes, policy_samples.py evaluates the policy.

Legend: M completion tokens of a minibatch; tensors per token as in scaling.inference.completions.
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
from scaling.inference.completions import forward_flops, log_probs
from scaling.inference.trained import RECORD, settings_of
from scaling.model.transformer import Transformer
from scaling.optim.optimizers import make_optimizer
from scaling.optim.schedule import set_lr
from scaling.schema import Record, initial_kl_coefficient, read_record, write_json
from scaling.stages.loop import Saver, Tally, fine_tuning_optim, open_curve, open_progress
from scaling.stages.plan import StageName
from scaling.stages.policy_samples import before_and_after, evaluate_policy
from scaling.stages.reward_model import new_reward_model
from scaling.stages.rollouts import Models, Rollouts, sample_episodes
from scaling.stages.sft import load_pairs
from scaling.stages.stage import Stage, discard_other_inputs
from scaling.stages.stage_record import write_record
from scaling.study.activity import moved
from scaling.study.curve import finite_values
from scaling.train import checkpoint
from scaling.train.step import Diverged

log = logging.getLogger(__name__)

# The adaptive coefficient aims at this share of the KL budget.
TARGET_SHARE = 0.8
# The coefficient's controller has a horizon of this share of the episodes.
HORIZON_SHARE = 0.1
# The controller's relative error is clipped to this: Ziegler et al. 2019, section 2.2.
ERROR_CLIP = 0.2
# The run stops when the mean KL of this many batches exceeds the budget.
STOP_BATCHES = 4
# The learning rate rises to its peak in this many steps, then stays.
WARMUP_STEPS = 3
# At most this many held-out prompts are sampled to evaluate the policy.
EVAL_PROMPTS = 128
# An accuracy within this many standard errors of 1/2 is chance.
CHANCE_ERRORS = 2.0


def run_ppo(stage: Stage) -> Record:
    """Train the policy; write its weights, samples before and after, and the record.

    ValueError when the reward model's accuracy is chance and `force` is not set, and when
    `ppo.judge=gold` cannot score the prompts.
    """
    refuse_chance(stage)
    left_out, room = LeftOut(), stage.config.ppo.max_new_tokens
    prompts, held_out = load_pairs(stage).prompts(
        context=stage.cell.data.context, max_new_tokens=room, left_out=left_out
    )
    why = f"they leave no room for ppo.max_new_tokens={room}; lower it"
    stage.log_left_out(left_out, used=f"{len(prompts):,} prompts are", too_long=why)
    held_out = held_out[:EVAL_PROMPTS]
    discard_other_inputs(stage)
    models = load_models(stage)
    tally = Tally(values={"coefficient": coefficient_at_start(stage), "recent_kl": []})
    before = evaluate_policy(models, stage, held_out)
    if stage.config.ppo.judge == "gold":
        gold = torch.tensor(before.gold)
        tally.values["gold_scale"] = [float(gold.mean()), float(gold.std())]
    try:
        train_policy(stage, models, tally, prompts=prompts, held_out=held_out)
        after = evaluate_policy(models, stage, held_out)
        refuse_non_finite(after.summary, at="the end")
    except Diverged as error:
        return write_record(stage, tally, error=str(error), left_out=left_out)
    write_json(stage.folder / "samples.json", before_and_after(stage, before, after))
    checkpoint.save(stage.folder, model=models.policy, name="model", state={"step": tally.step})
    values = tally.values
    metrics = {f"{k}_before": v for k, v in before.summary.items() if k != "kl"}
    metrics |= {f"{k}_after": v for k, v in after.summary.items() if k != "kl"}
    metrics |= {
        "kl": after.summary["kl"],
        "kl_budget": stage.config.ppo.kl_budget,
        "kl_coefficient": values["coefficient"],
        "episodes": values["episodes"],
        "reward_params": sum(w.numel() for w in models.reward.parameters()),
        "stopped_by_budget": float(values.get("stopped", False)),
        "sampling_tokens_per_second": values["sampled"] / max(values["sampling_seconds"], 1e-9),
    }
    last_names = ("entropy", "explained_variance", "clip_fraction")
    metrics |= {k: values["last"][k] for k in last_names if k in values["last"]}
    unique = sum(map(len, prompts))
    return write_record(stage, tally, unique_tokens=unique, metrics=metrics, left_out=left_out)


def refuse_non_finite(summary: dict[str, float], *, at: str) -> None:
    """Raise Diverged where the mean reward or the mean KL of samples is not finite."""
    for name in ("reward", "kl"):
        if not math.isfinite(summary[name]):
            raise Diverged(f"the {name} of stage ppo is not finite at {at}; lower ppo.peak_lr")


def coefficient_at_start(stage: Stage) -> float:
    """Return `ppo.kl_coefficient`; where it is not set, the one that belongs to the KL budget."""
    ppo = stage.config.ppo
    if ppo.kl_coefficient is None:
        return initial_kl_coefficient(ppo.kl_budget)
    return ppo.kl_coefficient


def refuse_chance(stage: Stage) -> None:
    """Raise ValueError for a reward model at chance, and for a gold judge that cannot score."""
    refuse_no_judge(stage)
    if stage.config.ppo.judge == "gold":
        return
    metrics = read_record(stage.weights_of(StageName.REWARD).with_name("record.json")).metrics
    accuracy, error = metrics["accuracy"], metrics.get("accuracy_se", 0.0)
    if accuracy - CHANCE_ERRORS * error <= 0.5 and not stage.config.force:
        raise ValueError(
            f"the reward model's held-out accuracy is {accuracy:.3f} +- {error:.3f}, "
            "which is chance; raise reward.pairs "
            "or the size of the model, or set force=true to run PPO on it all the same"
        )


def refuse_no_judge(stage: Stage) -> None:
    """Raise ValueError for `ppo.judge=gold` on prompts that the gold judge cannot score."""
    if stage.config.ppo.judge == "gold" and not stage.has_gold():
        raise ValueError("ppo.judge=gold judges Python functions; set sft.data=docstrings")


def load_models(stage: Stage) -> Models:
    """Read the fine-tuned model and the reward model, each twice: to learn and frozen."""
    policy, reference = stage.new_model(), stage.new_model()
    folder = stage.weights_of(StageName.REWARD).parent
    shape = settings_of(read_record(folder / RECORD), folder, "model", ModelConfig)
    judging = replace(stage, cell=replace(stage.cell, model=shape))
    critic, reward = new_reward_model(judging), new_reward_model(judging)
    for model in (policy, reference):
        checkpoint.load_weights(stage.weights_of(StageName.SFT), model)
    for model in (critic, reward):
        checkpoint.load_weights(stage.weights_of(StageName.REWARD), model)
    for frozen in (reference, reward):
        frozen.requires_grad_(False).eval()
    return Models(policy=policy, critic=critic, reference=reference, reward=reward)


def new_optimizer(models: Models, stage: Stage) -> torch.optim.Optimizer:
    """Return one optimiser for the policy's weights, and the critic's if there is one."""
    optim, peak_lr = fine_tuning_optim(stage.cell.optim), stage.config.ppo.peak_lr
    optimizer = make_optimizer(models.policy, optim, peak_lr)
    if stage.config.ppo.estimator != "gae":
        return optimizer
    for group in make_optimizer(models.critic, optim, peak_lr).param_groups:
        optimizer.add_param_group(group)
    return optimizer


def train_policy(
    stage: Stage,
    models: Models,
    tally: Tally,
    *,
    prompts: Sequence[Sequence[int]],
    held_out: Sequence[Sequence[int]] = (),
) -> None:
    """Run PPO until the episodes or the KL budget are spent, from the checkpoint if there is one.

    stage: the PPO stage
    models: the four networks; policy and critic are trained in place
    tally: where steps, tokens, FLOPs and the controller's state are counted
    prompts: the training prompts, as token ids
    held_out: prompts on which the policy is evaluated every `ppo.eval_updates` updates

    Diverged when a loss, a reward or a KL is not finite; Stopped when the pulse asks to stop.
    """
    ppo = stage.config.ppo
    optimizer = new_optimizer(models, stage)
    saver = Saver(stage, tally, model=models.learning(), optimizer=optimizer)
    saver.resume()
    values = tally.values  # after `resume`, which replaces them
    n_steps, mix = math.ceil(ppo.episodes / ppo.batch_episodes), PretrainMix.of(stage)
    progress = open_progress(stage, total=n_steps, done=tally.step)
    with open_curve(stage, resume_step=tally.step) as curve:
        while tally.step < n_steps and not values.get("stopped"):
            began = time.monotonic()
            set_lr(optimizer, min(1.0, (tally.step + 1) / WARMUP_STEPS))
            batch = batch_prompts(prompts, ppo, tally.step)
            rollouts = sample_episodes(stage, models, tally, batch)
            refuse_non_finite(rollouts.summary, at=f"step {tally.step}")
            update = update_policy(
                models,
                optimizer,
                rollouts,
                ppo,
                clip=stage.cell.optim.clip,
                step=tally.step,
                mix=mix,
            )
            update_coefficient(values, ppo, kl=rollouts.summary["kl"], episodes=len(batch))
            count_step(tally, models, rollouts, ppo, episodes=len(batch), mix=mix)
            values["last"] = finite_values({**rollouts.summary, **update})
            row = {
                "episodes": values["episodes"],
                **values["last"],
                "step_seconds": time.monotonic() - began,
            }
            if ppo.eval_updates and tally.step % ppo.eval_updates == 0:
                summary = evaluate_policy(models, stage, held_out).summary
                row |= {f"held_out_{k}": v for k, v in summary.items()}
            curve.log(saver.row(**row))
            saver.tick()
            progress.update(tally.step, f"reward {row['reward']:.2f}  KL {row['kl']:.2f}")
        progress.close()


def batch_prompts(prompts: Sequence[Sequence[int]], ppo: PpoPlan, step: int) -> list[list[int]]:
    """Return the prompts of a step: the next ones of a random order of all prompts.

    Each pass over the prompts has an order of its own. A prompt is repeated once for each of its
    samples (PpoPlan.samples).
    """
    repeated = []
    n, last = ppo.samples, min(ppo.episodes, (step + 1) * ppo.batch_episodes)
    for i in range(step * ppo.batch_episodes // n, last // n):
        epoch, at = divmod(i, len(prompts))
        prompt = list(prompts[order_of(len(prompts), ppo.seed, epoch)[at]])
        repeated += [prompt] * n
    return repeated


def order_of(n: int, seed: int, epoch: int) -> list[int]:
    """Return a random permutation of `n` numbers; equal arguments, equal permutation."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed * 1_000 + epoch)).tolist()


def update_policy(
    models: Models,
    optimizer: torch.optim.Optimizer,
    rollouts: Rollouts,
    ppo: PpoPlan,
    *,
    clip: float,
    step: int,
    mix: "PretrainMix | None" = None,
) -> dict[str, float]:
    """Take the optimiser's steps of all inner epochs; return the averages of what they measure.

    models: policy and critic are trained in place
    optimizer: of both
    rollouts: the episodes of this step
    ppo: the stage's settings
    clip: the largest gradient norm of each network; 0 does not clip
    step: the number of the step, which seeds the order of the episodes
    mix: pretraining windows to mix in, or None

    Diverged when the loss is not finite.
    """
    n = len(rollouts.rows.last)
    steps_each = math.ceil(n / ppo.minibatch_episodes)
    parts: list[dict[str, float]] = []
    for epoch in range(ppo.inner_epochs):
        generator = torch.Generator().manual_seed((ppo.seed * 1_000_003 + step) * 64 + epoch)
        order = torch.randperm(n, generator=generator).to(rollouts.rows.last.device)
        for i, index in enumerate(order.split(ppo.minibatch_episodes)):
            loss, measurements = ppo_loss(models, rollouts, index, ppo)
            if mix is not None:
                number = (step * ppo.inner_epochs + epoch) * steps_each + i
                measurements["pretrain_loss"] = mix.add(models.policy, number)
            loss.backward()
            norms = [
                nn.utils.clip_grad_norm_(m.parameters(), clip or math.inf)
                for m in (models.policy, models.critic)
            ]
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            moved()
            measurements["grad_norm"] = norms[0]
            # One transfer from a GPU for all numbers.
            values = torch.stack(list(measurements.values())).tolist()
            parts.append(dict(zip(measurements, values, strict=True)))
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
    coefficient: float  # weight of the loss in nats/token

    @classmethod
    def of(cls, stage: Stage) -> "PretrainMix | None":
        """Return the mix that the plan sets, or None: half a window for each minibatch episode."""
        ppo = stage.config.ppo
        if not ppo.pretrain_mix:
            return None
        rows = max(1, ppo.minibatch_episodes // 2)
        batches = Batches.of(stage.corpus, stage.cell.data, rows=rows, seed=ppo.seed)
        return cls(batches=batches, coefficient=ppo.pretrain_mix)

    @property
    def n_tokens(self) -> int:
        """Tokens of the corpus in one step of the optimiser."""
        return self.batches.rows * self.batches.context

    def add(self, model: Transformer, number: int) -> Tensor:
        """Add the weighted gradient of batch `number`; return the loss in nats/token."""
        inputs, targets = (torch.from_numpy(a).to(model.device) for a in self.batches(number))
        loss = model.loss(inputs, targets)
        (self.coefficient * (loss + model.router_loss())).backward()
        return loss.detach()


def ppo_loss(
    models: Models, rollouts: Rollouts, index: Tensor, ppo: PpoPlan
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss of a minibatch and what to log of it; all averages run over tokens.

    With r = pi / pi_old, advantage A, clip c, value V, return R and entropy H:

        policy loss = -mean min(r A, clip(r, 1 - c, 1 + c) A)
        value loss  = mean max((V - R)^2, (clip(V, V_old - c, V_old + c) - R)^2) / 2
        loss = policy loss + value_coefficient * value loss - entropy_coefficient * mean H

    models: policy and critic
    rollouts: the episodes
    index: which episodes are in the minibatch, (B,)
    ppo: the stage's settings

    The router losses of a mixture of experts are added.
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


def update_coefficient(values: dict[str, Any], ppo: PpoPlan, *, kl: float, episodes: int) -> None:
    """Adapt the KL coefficient in `values`, and set `stopped` where the budget is exceeded.

    coefficient *= 1 + episodes / horizon * clip(KL / target - 1), Ziegler et al. 2019, section 2.2.

    values: the controller's state, which the checkpoint holds
    ppo: the stage's settings
    kl: mean KL of this batch in nats per completion
    episodes: episodes of this batch
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
            "ppo: the mean KL of the last %d batches is %.3g nats, above ppo.kl_budget=%g; the run"
            " stops here: raise ppo.kl_coefficient, lower ppo.peak_lr, or raise the budget",
            STOP_BATCHES,
            mean,
            ppo.kl_budget,
        )


def count_step(
    tally: Tally,
    models: Models,
    rollouts: Rollouts,
    ppo: PpoPlan,
    *,
    episodes: int,
    mix: PretrainMix | None = None,
) -> None:
    """Add the tokens and FLOPs of a step to `tally`: sampling, scoring and updates.

    tally: what is added to
    models: their shapes give the FLOPs
    rollouts: the episodes of the step
    ppo: the stage's settings
    episodes: how many episodes there are
    mix: pretraining windows mixed in, or None
    """
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
