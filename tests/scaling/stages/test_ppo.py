"""PPO: advantages, the KL and its control, resumption."""

import json
from dataclasses import replace

import pytest
import torch

from scaling.config import ModelConfig, PpoPlan
from scaling.inference.completions import join, log_probs, scatter
from scaling.model.transformer import Transformer
from scaling.schema import read_curve
from scaling.stages.loop import Tally
from scaling.stages.ppo import (
    PretrainMix,
    batch_prompts,
    load_models,
    new_optimizer,
    ppo_loss,
    refuse_chance,
    run_ppo,
    train_policy,
    update_coefficient,
    update_policy,
)
from scaling.stages.reward import run_reward
from scaling.stages.reward_model import RewardModel
from scaling.stages.rollouts import (
    Models,
    Rollouts,
    gae,
    group_advantages,
    sample_episodes,
    token_rewards,
    whiten,
)
from scaling.stages.sft import load_pairs, run_sft
from scaling.stages.stage import finished_record
from scaling.train import checkpoint


@pytest.fixture
def ready(pretrained):
    """Stages with a fine-tuned model and a reward model behind them."""
    run_sft(pretrained("sft"))
    run_reward(pretrained("reward"))
    return pretrained


@pytest.fixture
def sampled(ready):
    stage = ready("ppo")
    models = load_models(stage)
    tally = Tally(values={"coefficient": 0.1, "recent_kl": []})
    prompts = [e.prompt for e in load_pairs(stage).train[:8]]
    return stage, models, sample_episodes(stage, models, tally, prompts)


def test_gae_equals_a_direct_recursion():
    torch.manual_seed(0)
    rewards, values = torch.randn(2, 6), torch.randn(2, 6)
    mask = torch.tensor([[0, 1, 1, 1, 1, 0], [0, 0, 0, 1, 1, 1]], dtype=torch.bool)
    rewards, values = rewards * mask, values * mask
    advantages, returns = gae(rewards, values, mask, discount=0.9, decay=0.8)
    for row in range(2):
        at = mask[row].nonzero()[:, 0].tolist()
        expected = 0.0
        for i in reversed(range(len(at))):
            follow = values[row, at[i + 1]] if i + 1 < len(at) else 0.0
            expected = (
                rewards[row, at[i]] + 0.9 * follow - values[row, at[i]] + 0.9 * 0.8 * expected
            )
            assert float(advantages[row, at[i]]) == pytest.approx(float(expected), abs=1e-6)
    assert (advantages * ~mask == 0).all()
    torch.testing.assert_close(returns, advantages + values)


def test_without_decay_the_return_is_the_sum_of_rewards():
    rewards = torch.tensor([[0.0, 1.0, 2.0, 3.0]])
    mask = rewards > 0
    _, returns = gae(rewards, torch.tensor([[0.0, 0.3, -0.2, 0.7]]), mask, discount=1.0, decay=1.0)
    torch.testing.assert_close(returns[mask], torch.tensor([6.0, 5.0, 3.0]))


def test_the_score_arrives_at_the_last_token():
    rows = join([[5, 6, 2], [7, 2]], [[8, 0], [9]])
    rewards = token_rewards(rows, torch.ones(2, 4) * rows.mask, torch.tensor([10.0, 20.0]), 0.5)
    assert rewards.tolist() == [[0, 0, -0.5, 9.5], [0, 19.5, 0, 0]]


def test_completions_of_a_prompt_are_compared():
    rewards = torch.tensor([[1.0, 3.0], [5.0, 5.0]])
    assert group_advantages(rewards, standard=False).tolist() == [[-2, 2], [0, 0]]
    assert group_advantages(rewards, standard=True).tolist() == [[-1, 1], [0, 0]]
    many = torch.randn(3, 5)
    torch.testing.assert_close(
        group_advantages(many, standard=False), (many - many.mean(1, keepdim=True)) * 5 / 4
    )


@pytest.mark.slow
@pytest.mark.parametrize("estimator", ["grpo", "rloo"])
def test_without_a_critic_the_policy_alone_learns(ready, estimator):
    stage = ready("ppo")
    stage.config.ppo = PpoPlan(**{**vars(stage.config.ppo), "estimator": estimator, "group": 4})
    models = load_models(stage)
    before = [p.clone() for p in models.critic.parameters()]
    tally = Tally(values={"coefficient": 0.1, "recent_kl": []})
    prompts = batch_prompts([[5], [6], [7]], stage.config.ppo, 0)
    assert [len(set(map(tuple, prompts[i : i + 4]))) for i in (0, 4)] == [1, 1]
    prompts = [p for e in load_pairs(stage).train[:2] for p in [e.prompt] * 4]
    rollouts = sample_episodes(stage, models, tally, prompts)
    assert len({tuple(t) for t in rollouts.rows.tokens.tolist()}) > 2
    assert "explained_variance" not in rollouts.summary
    sums = (rollouts.advantages.sum(1) / rollouts.rows.mask.sum(1)).view(2, 4).sum(1)
    torch.testing.assert_close(sums, torch.zeros(2), atol=1e-5, rtol=0)
    assert updated(stage, models, rollouts) > 0
    assert all(torch.equal(a, b) for a, b in zip(before, models.critic.parameters(), strict=True))
    record = run_ppo(stage)
    assert record.status == "done"
    assert record.metrics["episodes"] == 24


@pytest.mark.slow
def test_a_pretraining_loss_is_mixed_in(sampled):
    stage, models, rollouts = sampled
    ppo = PpoPlan(**{**vars(stage.config.ppo), "pretrain_mix": 0.5})
    stage.config.ppo = ppo
    mix = PretrainMix.of(stage)
    assert mix.n_tokens == 2 * 96
    inputs, targets = map(torch.from_numpy, mix.batches(3))
    expected = torch.autograd.grad(
        0.5 * models.policy.loss(inputs, targets), models.policy.head.weight
    )
    value = mix.add(models.policy, 3)
    torch.testing.assert_close(models.policy.head.weight.grad, expected[0])
    assert float(value) == pytest.approx(models.policy.loss(inputs, targets).item())
    models.policy.zero_grad()
    quiet = replace(rollouts, advantages=torch.zeros_like(rollouts.advantages))
    calm = PpoPlan(**{**vars(ppo), "value_coefficient": 0.0})
    options = {"clip": 1.0, "step": 0}
    before = models.policy.loss(inputs, targets).item()
    averages = update_policy(models, new_optimizer(models, stage), quiet, calm, mix=mix, **options)
    assert averages["pretrain_loss"] > 0
    assert models.policy.loss(inputs, targets).item() < before
    stage.config.ppo = PpoPlan(**{**vars(ppo), "pretrain_mix": 0.0})
    assert PretrainMix.of(stage) is None


@pytest.mark.parametrize("estimator", ["gae", "rloo"])
def test_router_losses_of_what_learns_are_added(estimator):
    rows = join([[5, 6, 2], [7, 2]], [[8, 0], [9, 3, 0]])
    zero = torch.zeros(2, 4)
    empty = dict.fromkeys(
        ("old_log_probs", "log_ratio", "old_values", "advantages", "returns"), zero
    )
    rollouts = Rollouts(rows=rows, summary={}, **empty)
    losses = []
    for weight in (0.0, 0.1):
        torch.manual_seed(0)
        shape = ModelConfig(n_layer=1, d_model=16, d_head=8, n_experts=4, balance_loss=weight)
        policy = Transformer(shape, vocab_size=40, context=16)
        critic = RewardModel(shape, vocab_size=40, context=16)
        models = Models(policy=policy, critic=critic, reference=policy, reward=critic)
        loss, _ = ppo_loss(models, rollouts, torch.arange(2), PpoPlan(estimator=estimator))
        losses.append(loss)
    learning = [policy, critic] if estimator == "gae" else [policy]
    added = sum(0.1 * r.balance for model in learning for r in model.routings())
    assert float(added.detach()) > 0.09 * len(learning)
    torch.testing.assert_close(losses[1], losses[0] + added)


def test_groups_that_do_not_divide_the_batch_are_refused():
    with pytest.raises(ValueError, match=r"ppo.group=3 must be 2 or more and divide ppo.batch"):
        PpoPlan(estimator="rloo", group=3, batch_episodes=64)


def test_whitened_values_ignore_padding():
    values = torch.tensor([[1.0, 2.0, 99.0], [3.0, 99.0, 99.0]])
    mask = values < 50
    whitened = whiten(values, mask)
    assert float(whitened[mask].mean()) == pytest.approx(0, abs=1e-6)
    assert (whitened[~mask] == 0).all()


@pytest.mark.slow
def test_the_kl_is_zero_before_the_first_update(sampled):
    _, _, rollouts = sampled
    assert (rollouts.log_ratio == 0).all()  # rounding left out (scaling.stages.rollouts.ROUNDING)
    assert rollouts.summary["kl"] == rollouts.summary["kl_k3"] == 0


@pytest.mark.slow
def test_before_the_first_update_the_ratio_is_one(sampled):
    stage, models, rollouts = sampled
    _, measured = ppo_loss(models, rollouts, torch.arange(8), stage.config.ppo)
    assert float(measured["ratio_max"]) == pytest.approx(1, abs=1e-4)
    assert float(measured["clip_fraction"]) == 0


@pytest.mark.slow
def test_minibatches_add_up_to_the_batch(sampled):
    stage, models, rollouts = sampled
    whole = [ppo_loss(models, rollouts, torch.arange(8), stage.config.ppo)[1]["entropy"]]
    flat = log_probs(models.policy, rollouts.rows)[1]
    torch.testing.assert_close(whole[0], flat.mean().detach())


def updated(stage, models, rollouts, **changes) -> float:
    """Return how far the policy moves in one improvement, in mean absolute log-probability."""
    ppo = PpoPlan(**{**vars(stage.config.ppo), **changes})
    update_policy(models, new_optimizer(models, stage), rollouts, ppo, clip=1.0, step=0)
    new = scatter(log_probs(models.policy, rollouts.rows)[0].detach(), rollouts.rows.mask)
    return float((new - rollouts.old_log_probs)[rollouts.rows.mask].abs().mean())


def test_without_advantage_the_policy_stays(sampled):
    stage, models, rollouts = sampled
    rollouts.advantages.zero_()
    before = [p.clone() for p in models.policy.parameters()]
    updated(stage, models, rollouts)
    moved = [
        float((a - b).detach().abs().max())
        for a, b in zip(before, models.policy.parameters(), strict=True)
    ]
    assert max(moved) < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("coefficient", [0.0, 0.1])
def test_with_reward_zero_nothing_drifts(final_config, ready, coefficient):
    """A reward model that says 0 of everything, no missing ends: the stage moves no weight."""
    stage = ready("ppo")
    final_config.ppo.missing_end_penalty, final_config.ppo.episodes = 0.0, 64
    moved = []
    for silent in (True, False):
        models = load_models(stage)
        if silent:
            for model in (models.reward, models.critic):
                model.score.weight.data.zero_(), model.score.bias.data.zero_()
                model.mean.zero_()
        before = [p.detach().clone() for p in models.policy.parameters()]
        tally = Tally(values={"coefficient": coefficient, "recent_kl": []})
        train_policy(stage, models, tally, prompts=[e.prompt for e in load_pairs(stage).train])
        (stage.folder / "checkpoint.safetensors").unlink(missing_ok=True)
        pairs = zip(before, models.policy.parameters(), strict=True)
        moved.append(max(float((a - b).detach().abs().max()) for a, b in pairs))
        assert tally.step == 8
    assert moved[0] == 0
    assert moved[1] > 1e-3


@pytest.mark.slow
def test_with_a_huge_coefficient_the_policy_stays_near(final_config, ready):
    final_config.ppo.kl_coefficient, final_config.ppo.adaptive = 1e4, False
    final_config.ppo.episodes, final_config.ppo.missing_end_penalty = 200, 0.0
    kl = run_ppo(ready("ppo")).metrics["kl"]
    final_config.ppo.kl_coefficient = 0.0
    free_stage = ready("ppo")
    assert finished_record(free_stage) is None
    assert abs(kl) < 0.3 * run_ppo(free_stage).metrics["kl"]


def test_the_coefficient_moves_toward_the_target():
    ppo = PpoPlan(kl_budget=5.0, episodes=100)
    values = {"coefficient": 1.0, "recent_kl": []}
    update_coefficient(values, ppo, kl=0.0, episodes=10)
    assert values["coefficient"] == pytest.approx(0.8)
    update_coefficient(values, ppo, kl=40.0, episodes=10)
    assert values["coefficient"] == pytest.approx(0.96)
    update_coefficient(values, ppo, kl=4.0, episodes=10)
    assert values["coefficient"] == pytest.approx(0.96)
    assert "stopped" not in values


def test_the_budget_stops_the_run(caplog):
    ppo = PpoPlan(kl_budget=5.0, adaptive=False)
    values = {"coefficient": 1.0, "recent_kl": []}
    for _ in range(4):
        update_coefficient(values, ppo, kl=5.1, episodes=10)
    assert values["stopped"]
    assert "the last 4 batches is 5.1 nats, above ppo.kl_budget=5" in caplog.text
    assert values["coefficient"] == 1.0


def test_every_prompt_comes_once_before_any_comes_twice():
    prompts = [[i] for i in range(10)]
    ppo = PpoPlan(episodes=25, batch_episodes=5)
    seen = [p[0] for step in range(5) for p in batch_prompts(prompts, ppo, step)]
    assert sorted(seen[:10]) == sorted(seen[10:20]) == list(range(10))
    assert len(seen) == 25


@pytest.mark.slow
def test_the_stage_keeps_samples_and_resumes_to_the_same_record(final_config, ready, monkeypatch):
    final_config.machine.checkpoint_seconds = 0.0
    final_config.ppo.eval_updates = 3
    stage = ready("ppo")
    assert finished_record(stage) is None
    unbroken = run_ppo(stage)
    weights = (stage.folder / "model.safetensors").read_bytes()
    assert unbroken.metrics["episodes"] == 24
    rows = read_curve(stage.folder / "metrics.jsonl")
    assert {"kl_k3", "entropy", "gold_reward", "explained_variance", "tokens_per_second"} <= rows[
        0
    ].keys()
    assert [("held_out_gold" in r) for r in rows] == [False, False, True]
    for name in ("gold", "reward"):  # of the same prompts and draws as those of the record
        assert rows[-1][f"held_out_{name}"] == unbroken.metrics[f"{name}_after"]
    assert rows[-1]["held_out_kl"] == unbroken.metrics["kl"]
    samples = json.loads((stage.folder / "samples.json").read_text())
    assert samples[0].keys() >= {"prompt", "before", "after", "reward_before", "gold_after"}
    for path in stage.folder.iterdir():
        path.unlink()
    assert finished_record(stage) is None

    def killed(*args, **kwargs):
        if len(read_curve(stage.folder / "metrics.jsonl")) == 2:
            raise KeyboardInterrupt
        return update_policy(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr("scaling.stages.ppo.update_policy", killed)
        with pytest.raises(KeyboardInterrupt):
            run_ppo(stage)
    resumed = run_ppo(stage)
    assert (stage.folder / "model.safetensors").read_bytes() == weights
    timed = {"sampling_tokens_per_second"}
    assert {k: v for k, v in resumed.metrics.items() if k not in timed} == {
        k: v for k, v in unbroken.metrics.items() if k not in timed
    }
    assert (resumed.tokens, resumed.flops) == (unbroken.tokens, unbroken.flops)


def test_a_reward_model_at_chance_is_refused_unless_forced(final_config, ready):
    path = ready("ppo").weights_of("reward").with_name("record.json")
    record = json.loads(path.read_text())
    record["metrics"] |= {"accuracy": 0.52, "accuracy_se": 0.02}
    path.write_text(json.dumps(record))
    final_config.force = False
    with pytest.raises(ValueError, match="which is chance"):
        run_ppo(ready("ppo"))


@pytest.mark.slow
def test_the_gold_judge_can_be_optimised_itself(final_config, ready):
    final_config.ppo.judge, final_config.force = "gold", False
    stage = ready("ppo")
    before = run_ppo(stage).metrics["gold_before"]
    rows = read_curve(stage.folder / "metrics.jsonl")
    deviations = [(r["gold_reward"] - before) / r["reward"] for r in rows]
    assert deviations == pytest.approx([deviations[0]] * len(rows), rel=1e-4)
    final_config.sft.data = "pairs.jsonl"
    with pytest.raises(ValueError, match=r"ppo\.judge=gold judges Python functions"):
        refuse_chance(stage)


@pytest.mark.slow
def test_the_critic_starts_as_the_reward_model(ready):
    models = load_models(ready("ppo"))
    own, source = models.critic.state_dict(), models.reward.state_dict()
    assert all(torch.equal(own[k], source[k]) for k in source)
    assert not any(p.requires_grad for p in models.reward.parameters())
    assert checkpoint.weights(models.learning()).keys() >= {
        "policy.embedding.weight",
        "critic.score.weight",
    }
