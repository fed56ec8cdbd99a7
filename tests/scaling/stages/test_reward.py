"""The reward model: Bradley-Terry loss, pairs, standard scores."""

import json
import math
import re

import pytest
import torch
from torch.nn.functional import logsigmoid

from scaling.config import ModelConfig
from scaling.data.tokenizer import END
from scaling.inference.completions import join
from scaling.model.transformer import Transformer
from scaling.stages import reward
from scaling.stages.loop import Tally
from scaling.stages.preferences import Group, file_groups, first_groups, load_groups
from scaling.stages.reward import judge_reward_model, pair_indices, preference_loss, run_reward
from scaling.stages.reward_model import RewardModel, score_all
from scaling.stages.sft import run_sft
from scaling.stages.stage import finished_record

GROUPS = [
    Group(prompt=[5, 6, 2], completions=[[7, 0], [8, 9, 0], [4]], labels=[0.2, 0.9, 0.2]),
    Group(prompt=[5, 2], completions=[[7, 0], [3, 3, 3]], labels=[1.0, 0.0]),
]


def build(**shape) -> RewardModel:
    torch.manual_seed(0)
    config = ModelConfig(n_layer=1, d_model=16, d_head=8, **shape)
    return RewardModel(config, vocab_size=40, context=32)


def test_the_loss_begins_near_log_2():
    loss, tokens, _ = preference_loss(build(), GROUPS)
    assert float(loss.detach()) == pytest.approx(math.log(2), abs=0.1)
    assert tokens == 5 + 6 + 4 + 4 + 5


def test_pairs_are_ordered_by_label_and_ties_dropped():
    assert pair_indices(GROUPS) == ([1, 1, 3], [0, 2, 4])


def test_the_loss_of_k_completions_is_that_of_all_their_pairs():
    model = build()
    group = Group(
        prompt=[5, 2], completions=[[7, 0], [8, 0], [9, 0], [4, 4, 0]], labels=[1, 3, 2, 0]
    )
    scores = model.scores(join([[5, 2]] * 4, group.completions))
    order = [1, 2, 0, 3]  # best to worst
    pairs = [scores[a] - scores[b] for i, a in enumerate(order) for b in order[i + 1 :]]
    assert len(pairs) == math.comb(4, 2)
    loss, tokens, _ = preference_loss(model, [group])
    torch.testing.assert_close(loss, -logsigmoid(torch.stack(pairs)).mean())
    assert tokens == 4 * 2 + 9  # every completion goes through the model once


def test_router_losses_are_added():
    plain = build(n_experts=4, balance_loss=0, router_z_loss=0)
    mixed = build(n_experts=4, balance_loss=0.1, router_z_loss=0.1)
    losses = [preference_loss(model, GROUPS)[0] for model in (plain, mixed)]
    assert float(mixed.router_loss().detach()) > 0.1  # balance is at least 1
    torch.testing.assert_close(losses[1], losses[0] + mixed.router_loss())


def test_known_pairs_leave_others_unsaid():
    group = Group.of_order([5], [[6], [7], [8], [9]], [(3, 0), (3, 2)])
    assert group.completions == [[6], [8], [9]]
    assert group.pairs() == [(2, 0), (2, 1)]
    assert group.labels == [0, 0, 1]


def test_rows_of_a_prompt_in_a_file_are_one_group(final_config, pretrained, tmp_path):
    run_sft(pretrained("sft"))
    path = tmp_path / "ranked.jsonl"
    rows = [
        {
            "prompt": f"say {i}",
            "completions": ["yes", "no", "well", "x" * 500],
            "scores": [3, 2, 1, 0],
        }
        for i in range(60)
    ]
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    final_config.reward.data, final_config.reward.pairs = str(path), 90
    train, test = file_groups(pretrained("reward"))
    assert len(train) == 30
    assert {len(g.pairs()) for g in [*train, *test]} == {3}  # the longest exceeds the context
    record = run_reward(pretrained("reward"))
    assert record.metrics["pairs"] == 90
    assert record.metrics["accuracy"] > 0.9


def test_as_many_prompts_as_stated_are_held_out_of_those_that_fit(
    final_config, pretrained, tmp_path, caplog
):
    run_sft(pretrained("sft"))
    path = tmp_path / "long.jsonl"
    long = "a" * 300
    rows = [
        {"prompt": f"say {i}", "chosen": long if i % 2 else "yes", "rejected": "b"}
        for i in range(240)
    ]
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    final_config.reward.data = str(path)
    with caplog.at_level("INFO"):
        _, test = file_groups(pretrained("reward"))
    assert len(test) == 50
    assert "50 of 120 prompts are held out" in caplog.text


def test_completions_beyond_the_context_are_named(final_config, pretrained, tmp_path):
    run_sft(pretrained("sft"))
    path = tmp_path / "long.jsonl"
    rows = [{"prompt": f"say {i}", "chosen": "a" * 300, "rejected": "b"} for i in range(20)]
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    final_config.reward.data = str(path)
    with pytest.raises(ValueError, match=r"no pair of reward\.data=.* fits the context of 96"):
        file_groups(pretrained("reward"))


def test_scores_do_not_see_padding():
    model = build()
    alone = model.scores(join([[5, 2]], [[7, 0]]))
    beside = model.scores(join([[5, 2], [5, 6, 7, 2]], [[7, 0], [8, 9, 4, 0]]))
    torch.testing.assert_close(alone, beside[:1])


def test_values_end_in_the_score_of_the_state_before():
    model = build()
    rows = join([[5, 2]], [[7, 0]])
    before = model.scores(join([[5]], [[2]]))
    torch.testing.assert_close(model.values(rows)[:1], before)


def test_the_body_is_the_fine_tuned_models():
    torch.manual_seed(3)
    tuned = Transformer(ModelConfig(n_layer=1, d_model=16, d_head=8), vocab_size=40, context=32)
    model = build().start_from(tuned)
    tokens = torch.arange(8)[None]
    torch.testing.assert_close(model.hidden(tokens), tuned.hidden(tokens))


def test_one_pair_is_learned():
    model = build()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(30):
        loss, _, _ = preference_loss(model, GROUPS)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.1


def test_limited_stops_at_the_wanted_pairs_and_drops_groups_of_ties():
    tie = Group(prompt=[1], completions=[[2], [3]], labels=[0.5, 0.5])
    assert first_groups([tie, *GROUPS, *GROUPS], 3) == GROUPS


def test_the_stage_trains_and_standardises(pretrained):
    run_sft(pretrained("sft"))
    stage = pretrained("reward")
    assert finished_record(stage) is None
    record = run_reward(stage)
    assert record.status == "done"
    assert {
        "accuracy",
        "test_loss",
        "gold_correlation",
        "length_correlation",
        "pairs",
    } <= record.metrics.keys()
    model = RewardModel(stage.cell.model, vocab_size=320, context=96)
    from scaling.train import checkpoint

    checkpoint.load_weights(stage.folder / "model.safetensors", model)
    train, _ = load_groups(stage, stage.new_model(), Tally())  # kept, not sampled again
    sampled = [(g.prompt, c) for g in train for c in g.completions if c != [END]]
    scores = torch.tensor(score_all(model, *map(list, zip(*sampled, strict=True))))
    assert float(scores.mean()) == pytest.approx(0, abs=1e-4)
    assert float(scores.std()) == pytest.approx(1, abs=1e-4)
    assert any(c == [END] for g in train for c in g.completions)  # the empty body was shown
    assert finished_record(pretrained("reward")) == record


def test_what_length_alone_would_say_stands_beside_the_model(monkeypatch):
    test = [
        Group(prompt=[1], completions=[[2] * k for k in lengths], labels=[0.9, 0.1])
        for lengths in ((1, 4), (2, 5), (3, 3), (6, 2))
    ]
    scores = [1.0, -1.0, 0.5, 0.0, 2.0, 2.0, 3.0, -3.0]
    monkeypatch.setattr(reward, "score_all", lambda model, prompts, completions: scores)
    metrics = judge_reward_model(build(), test)
    assert metrics["accuracy"] == pytest.approx(3.5 / 4)
    assert metrics["length_accuracy"] == pytest.approx(2.5 / 4)  # the shorter is the better guess
    assert metrics["over_length"] == pytest.approx(1 / 4)
    margins = torch.tensor([2.0, 0.5, 0.0, 6.0])
    assert metrics["test_loss"] == pytest.approx(float(-logsigmoid(margins).mean()))
    assert 0 < metrics["ece"] < 0.5


def test_a_file_of_preferences_is_the_same_interface(final_config, pretrained, tmp_path):
    run_sft(pretrained("sft"))
    path = tmp_path / "prefs.jsonl"
    rows = [{"prompt": f"say {i}", "chosen": "yes", "rejected": "no, never"} for i in range(200)]
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    final_config.reward.data, final_config.reward.pairs = str(path), 150
    record = run_reward(pretrained("reward"))
    assert record.metrics["pairs"] == 150
    assert record.metrics["accuracy"] > 0.9


def test_gold_labels_need_functions(final_config, pretrained):
    run_sft(pretrained("sft"))
    stage = pretrained("reward")
    final_config.sft.data = "some.jsonl"
    with pytest.raises(ValueError, match=r"set reward\.data"):
        run_reward(stage)


def test_too_few_pairs_are_refused(final_config, pretrained, tmp_path):
    run_sft(pretrained("sft"))
    path = tmp_path / "prefs.jsonl"
    rows = [{"prompt": f"say {i}", "chosen": "yes", "rejected": "no"} for i in range(10)]
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    final_config.reward.data = str(path)
    with pytest.raises(ValueError, match="fewer than 8 pairs; give more prompts"):
        run_reward(pretrained("reward"))
    rows = [{"prompt": f"say {i}", "chosen": "yes", "rejected": "no"} for i in range(300)]
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    final_config.reward.pairs = 4
    with pytest.raises(ValueError, match=r"fewer than 8 pairs; set reward\.pairs=8 or more"):
        run_reward(pretrained("reward"))


def test_completions_without_a_score_teach_nothing_and_are_counted(
    final_config, pretrained, tmp_path, caplog
):
    run_sft(pretrained("sft"))
    path = tmp_path / "ranked.jsonl"
    unscored = {"completions": ["good", "bad", "?"], "scores": [5, 1, math.nan]}
    rows = [{"prompt": f"say {i}", **unscored} for i in range(150)]
    rows += [{"prompt": "long", "chosen": "yes " * 200, "rejected": "no"}]
    rows += [{"prompt": "tie", "chosen": "yes", "rejected": "yes"}]
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    final_config.reward.data = str(path)
    with caplog.at_level("INFO"):
        record = run_reward(pretrained("reward"))
    assert record.left_out == {"too_long": 1, "tied": 1, "unscored": 150}
    assert record.metrics["pairs"] == 48
    (line,) = [m for m in caplog.messages if "left out" in m]
    assert "150 without a score" in line
    (drawn,) = [m for m in caplog.messages if "are drawn" in m]
    assert re.search(r"48 pairs of \d+ are drawn; reward\.pairs=\d+ takes all", drawn)
    train, test = file_groups(pretrained("reward"))
    assert {len(g.completions) for g in [*train, *test]} == {2}


@pytest.mark.slow
def test_sampled_pairs_that_are_ties_are_counted_with_what_makes_more(
    final_config, pretrained, caplog
):
    run_sft(pretrained("sft"))
    final_config.reward.pairs = 5000
    with caplog.at_level("INFO"):
        record = run_reward(pretrained("reward"))
    assert record.left_out["tied"] > 0
    assert "reward.samples_per_prompt=6 samples more" in caplog.text
    assert re.search(r"5000 pairs planned, but all \d+ prompts give only \d+", caplog.text)
