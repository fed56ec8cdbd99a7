"""Fine-tuning: what the loss sees, full and LoRA, resumption, errors."""

import json
import re
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from scaling.config import ModelConfig, described
from scaling.data.row_text import LeftOut
from scaling.schema import Record, read_curve, read_json, read_record
from scaling.stages.examples.pairs import Example
from scaling.stages.loop import shuffled_batches
from scaling.stages.sft import SftData, draw_examples, load_pairs, run_sft, sft_loss
from scaling.stages.stage import finished_record
from scaling.train import checkpoint


def test_the_loss_sees_completions_alone(pretrained):
    model = pretrained("sft").new_model()
    examples = [Example([5, 6, 7, 2], [8, 9, 0]), Example([5, 2], [4, 0])]
    loss, tokens, _ = sft_loss(model, examples)
    targets = torch.full((2, 6), -100)
    targets[0, 3:6], targets[1, 1:3] = torch.tensor([8, 9, 0]), torch.tensor([4, 0])
    rows = torch.tensor([[5, 6, 7, 2, 8, 9, 0], [5, 2, 4, 0, 1, 1, 1]])
    expected = F.cross_entropy(
        model(rows[:, :-1]).flatten(0, 1), targets.flatten(), ignore_index=-100
    )
    torch.testing.assert_close(loss, expected)
    assert tokens == 11


@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
def test_fine_tuning_lowers_the_held_out_loss(final_config, pretrained, method):
    final_config.sft.method = method
    final_config.sft.examples, final_config.sft.epochs = 64, 4
    final_config.sft.peak_lr *= 1 if method == "full" else 3
    record = run_sft(pretrained("sft"))
    assert record.status == "done"
    assert (
        record.test_loss == record.metrics["test_loss"] < record.metrics["test_loss_before"] - 0.1
    )
    assert record.flops > 0
    stage = pretrained("reward")
    checkpoint.load_weights(stage.weights_of("sft"), stage.new_model())  # of the plain shape


@pytest.mark.slow
def test_a_killed_stage_resumes_to_the_same_weights(final_config, pretrained, monkeypatch):
    final_config.machine.checkpoint_seconds = 0.0
    unbroken = run_sft(pretrained("sft"))
    weights = (pretrained("sft").folder / "model.safetensors").read_bytes()
    curve = read_curve(pretrained("sft").folder / "metrics.jsonl")
    for path in pretrained("sft").folder.iterdir():
        path.unlink()
    stage = pretrained("sft")
    assert finished_record(stage) is None

    def killed(model, examples, **options):
        if (stage.folder / "checkpoint.safetensors").is_file() and len(
            read_curve(stage.folder / "metrics.jsonl")
        ) == 2:
            raise KeyboardInterrupt
        return sft_loss(model, examples, **options)

    with monkeypatch.context() as patch:
        patch.setattr("scaling.stages.sft.sft_loss", killed)
        with pytest.raises(KeyboardInterrupt):
            run_sft(stage)
    assert finished_record(stage) is None
    resumed = run_sft(stage)
    assert (stage.folder / "model.safetensors").read_bytes() == weights
    assert resumed.metrics == unbroken.metrics
    assert (resumed.tokens, resumed.flops, resumed.steps) == (
        unbroken.tokens,
        unbroken.flops,
        unbroken.steps,
    )
    again = read_curve(stage.folder / "metrics.jsonl")
    assert [r["train_loss"] for r in again] == [r["train_loss"] for r in curve]


def test_a_done_stage_is_kept_until_another_can_start(final_config, pretrained, tmp_path):
    stage = pretrained("sft")
    assert finished_record(stage) is None
    record = run_sft(stage)
    assert finished_record(pretrained("sft")) == record
    final_config.sft.reasons = {"examples": "another reason is no other plan"}
    assert finished_record(pretrained("sft")) == record
    final_config.sft.data = str(tmp_path / "pairs.jsonl")
    (tmp_path / "pairs.jsonl").write_text("")
    other = pretrained("sft")
    assert finished_record(other) is None
    with pytest.raises(ValueError, match="none of the 0 rows"):
        run_sft(other)
    assert (stage.folder / "model.safetensors").exists()
    final_config.sft.data = "docstrings"
    assert finished_record(pretrained("sft")) == record
    final_config.sft.examples = 16
    assert run_sft(pretrained("sft")).tokens < record.tokens


def test_a_file_is_the_same_interface(final_config, pretrained, tmp_path, caplog):
    path = tmp_path / "pairs.jsonl"
    rows = [{"question": f"count {i}", "answer": f"the count is {i}"} for i in range(40)]
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    final_config.sft.data = str(path)
    stage = pretrained("sft")
    with caplog.at_level("INFO"):
        record = run_sft(stage)
    assert record.status == "done"
    assert "data" in record.inputs
    assert not stage.has_gold()
    assert record.tokenizer == stage.corpus.vocabulary.sha256
    assert "20 of 40 pairs are held out (10%, at least 50, at most 500 and half)" in caplog.text
    (alarm,) = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    error = f"has a standard error of {record.test_loss_se:.3f} nats per token on 20 held-out ones"
    assert "alarm few_rows: 40 pairs in all, fewer than 500" in alarm
    assert error in alarm


def test_a_loss_that_is_not_finite_ends_as_diverged(final_config, pretrained):
    final_config.sft.peak_lr = 1e30
    record = run_sft(pretrained("sft"))
    assert record.status == "diverged"
    assert "lower sft.peak_lr" in record.error
    assert record.test_loss is None


def test_packing_is_another_order_of_the_same_examples(final_config, pretrained):
    assert finished_record(pretrained("sft")) is None
    apart = run_sft(pretrained("sft"))
    inputs = pretrained("sft").inputs
    assert "packing" not in described(final_config.sft)  # off, it is no part of what a stage is
    final_config.sft.packing = True
    stage = pretrained("sft")
    assert stage.inputs["plan"] != inputs["plan"]
    assert finished_record(stage) is None
    record = run_sft(stage)
    assert record.status == "done"
    assert (record.tokens, record.steps) == (apart.tokens, apart.steps)
    assert record.flops == pytest.approx(apart.flops, rel=1e-12)
    assert record.test_loss == pytest.approx(apart.test_loss, abs=0.1)


def test_mistakes_are_named(final_config, pretrained):
    with pytest.raises(ValueError, match="choose one of full, lora, qlora"):
        replace(final_config.sft, method="prefix")
    final_config.sft.data = "absent.jsonl"
    with pytest.raises(FileNotFoundError, match="absent"):
        pretrained("sft")
    with pytest.raises(FileNotFoundError, match="run stages=sft,reward"):
        pretrained("reward")


def test_more_examples_begin_with_the_fewer():
    examples = [Example([i], [0]) for i in range(50)]
    assert draw_examples(examples, 30, seed=1)[:10] == draw_examples(examples, 10, seed=1)


def test_every_example_is_seen_once_an_epoch():
    batches = shuffled_batches(23, batch=4, epochs=2, seed=0, lengths=list(range(23)))
    assert sorted(i for b in batches for i in b) == sorted([*range(23), *range(23)])


def test_adapters_of_stacked_experts_are_refused_and_full_tuning_is_not(final_config, pretrained):
    stage = pretrained("sft")
    model = ModelConfig(d_model=16, d_head=8, n_layer=1, n_experts=4)
    mixture = replace(stage, cell=replace(stage.cell, model=model))
    final_config.sft.method = "lora"
    with pytest.raises(ValueError, match=r"n_experts=4; set sft\.method=full"):
        run_sft(mixture)
    loss, _, flops = sft_loss(mixture.new_model(), [Example([5, 6, 2], [8, 9, 0])])
    loss.backward()
    assert flops > 0


def test_what_is_left_out_is_said_in_one_line_and_stands_in_the_record(
    final_config, pretrained, tmp_path, caplog
):
    rows = [{"prompt": f"count {i}", "completion": f"it is {i}"} for i in range(40)]
    rows += [{"prompt": f"p {i}", "completion": None} for i in range(20)]
    rows += [{"prompt": "long", "completion": "words and more " * 90}] * 3 + [{"prompt": "a"}]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    final_config.sft.data = str(path)
    with caplog.at_level("INFO"):
        record = run_sft(pretrained("sft"))
    expected = {"null": 21, "too_long": 3}
    assert record.left_out == expected
    path = pretrained("sft").folder / "record.json"
    assert read_record(path).left_out == expected
    older = read_json(path)
    del older["left_out"]  # which records of earlier versions do not have
    assert Record.from_dict(older).left_out == {}
    (line,) = [m for m in caplog.messages if "left out" in m]
    assert "40 pairs of sft.data=" in line
    assert "21 without text (null or missing), 3 too long (the context has 96 tokens" in line
    hint = re.search(r"data\.context=(\d+) in the sweep, before its law", line)
    assert hint
    stage = pretrained("sft")
    wide = replace(stage.cell, data=replace(stage.cell.data, context=int(hint[1])))
    assert load_pairs(replace(stage, cell=wide)).left_out.as_dict() == {"null": 21}
    elsewhere = replace(stage, folder=tmp_path / "cell")
    assert elsewhere.longer_context(96) == "data.context=96 and a new pretraining"  # of a sweep
    assert "sft.truncate=prompt would cut them" in line


def test_a_tenth_and_at_least_50_of_the_rows_that_fit_are_held_out(
    final_config, pretrained, tmp_path, caplog
):
    rows = [{"prompt": f"p{i}", "completion": "word " * (200 if i % 3 else 1)} for i in range(330)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    final_config.sft.data = str(path)
    with caplog.at_level("INFO"):
        data = load_pairs(pretrained("sft"))
    assert (len(data.train), len(data.test)) == (60, 50)
    assert data.left_out.as_dict() == {"too_long": 220}
    assert "50 of 110 pairs are held out" in caplog.text


def test_drawing_some_examples_of_many_is_said(caplog):
    with caplog.at_level("INFO"):
        draw_examples([Example([i], [0]) for i in range(50)], 30, seed=1)
    assert "30 examples of 50 are drawn; sft.examples=50 takes all" in caplog.text


def test_prompts_that_leave_no_room_are_counted():
    data = SftData(train=[Example([5] * n, [0]) for n in (3, 9, 9, 10)], test=[Example([5], [0])])
    left_out = LeftOut()
    prompts = data.prompts(context=12, max_new_tokens=4, left_out=left_out)
    assert [len(p) for part in prompts for p in part] == [3, 1]
    assert left_out.as_dict() == {"too_long": 2}  # different ones
