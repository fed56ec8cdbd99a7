"""Every stage is checked before the first one trains."""

import json
from dataclasses import replace

import pytest

from scaling.final import run_final
from scaling.schema import read_json
from scaling.stages import preflight
from scaling.stages.plan import final_folder


def rows(path, n, **values):
    """Write n rows whose texts differ."""
    lines = [json.dumps({k: f"{v} {i} of many" for k, v in values.items()}) for i in range(n)]
    path.write_text("\n".join(lines))
    return str(path)


@pytest.fixture
def refused(final_config):
    """Return the refusal of a run, after which nothing is trained."""

    def run(**blocks) -> str:
        changed = {k: replace(getattr(final_config, k), **v) for k, v in blocks.items()}
        config = replace(final_config, **changed)
        with pytest.raises(ValueError, match="cannot run") as error:
            run_final(config)
        assert not (final_folder(config) / "pretrain").exists()
        return str(error.value)

    return run


@pytest.mark.slow
def test_text_without_documented_functions_is_refused_before_pretraining(
    refused, final_config, tmp_path
):
    (tmp_path / "books").mkdir()
    for i in range(4):
        (tmp_path / f"books/{i}.txt").write_text(f"It was the {i}th day of a long winter.\n" * 200)
    books = {"source": "files", "train": [f"{tmp_path}/books/[0-2].txt"]}
    books |= {"test": [f"{tmp_path}/books/3.txt"], "context": 96}
    cell = {"tokenizer": {"vocab_size": 300}, "data": books}
    final_config.cell = cell
    message = refused()
    assert "stage sft cannot run" in message
    assert "no documented Python function" in message
    assert "set sft.data=FILE.jsonl" in message


def test_a_file_that_is_not_there_is_refused_before_pretraining(refused):
    assert "sft.data=absent.jsonl is no file" in refused(sft={"data": "absent.jsonl"})


def test_pairs_that_do_not_fit_the_context_are_refused_with_the_shortest(refused, tmp_path):
    path = rows(tmp_path / "long.jsonl", 20, prompt="a word " * 90, completion="an answer")
    message = refused(sft={"data": path})
    assert "fits the context of 96 tokens (the shortest of" in message


def test_gold_pairs_need_functions(refused, tmp_path):
    path = rows(tmp_path / "pairs.jsonl", 20, prompt="ask", completion="say")
    message = refused(sft={"data": path})
    assert "stage reward cannot run: reward.data=gold judges Python functions" in message


def test_too_few_preferences_are_refused(refused, tmp_path):
    pairs = rows(tmp_path / "pairs.jsonl", 40, prompt="ask", completion="say")
    few = rows(tmp_path / "few.jsonl", 5, prompt="ask", chosen="yes", rejected="no")
    message = refused(sft={"data": pairs}, reward={"data": few})
    assert "fewer than 8 pairs" in message


def test_prompts_without_room_for_a_completion_are_refused(refused):
    assert "lower ppo.max_new_tokens" in refused(ppo={"max_new_tokens": 95})


def test_a_stage_that_no_device_holds_is_refused(refused, monkeypatch):
    monkeypatch.setattr("scaling.train.device.device_memory", lambda device: 8e5)
    monkeypatch.setattr("scaling.stages.preflight.resolve_trainable", preflight.resolve)
    message = refused()
    assert "stage ppo cannot run: it takes 0.881 MiB" in message
    assert "on one device" in message


def test_a_full_disk_is_seen_before_pretraining(refused, monkeypatch):
    full = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("shutil.disk_usage", lambda path: full)
    assert "give runs= on a larger disk" in refused()


def test_checks_are_counted_written_and_train_nothing(final_config, tmp_path):
    out = tmp_path / "checks.json"
    assert run_final(replace(final_config, check="all", out=str(out))) == []
    checks = {c["stage"]: c for c in read_json(out)["checks"]}
    assert list(checks) == ["pretrain", "sft", "reward", "ppo"]
    assert "training pairs of sft.data=docstrings are used" in checks["sft"]["found"]
    assert not final_folder(final_config).exists()


def test_few_rows_are_an_alarm_of_those_that_fit(final_config, tmp_path):
    path = tmp_path / "pairs.jsonl"
    rows(path, 60, prompt="a question", completion="an answer")
    with path.open("a") as stream:
        stream.write("\n" + json.dumps({"prompt": "long " * 500, "completion": "an answer"}) + "\n")
    final_config.sft.data = str(path)
    final_config.check, final_config.out = "all", str(tmp_path / "checks.json")
    run_final(replace(final_config, stages="pretrain,sft"))
    (check,) = [c for c in read_json(tmp_path / "checks.json")["checks"] if c["stage"] == "sft"]
    (alarm,) = check["alarms"]
    assert alarm["code"] == "few_rows"
    assert alarm["sentence"].startswith("sft has 60 rows that fit, fewer than 500")
