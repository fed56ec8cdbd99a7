"""Files of earlier versions are read by every command; those of later ones in one sentence."""

import json
import logging
import shutil
import sys
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from analysis.designing.batch_file import read_batches
from analysis.laws.law import Law
from analysis.planning.written.plan_file import read_plan
from scaling.app.application import start
from scaling.config import CellConfig, ModelConfig
from scaling.data.tokenizer import train_tokenizer
from scaling.final import run_final
from scaling.jobs.cell_states import read_status
from scaling.model.transformer import Transformer
from scaling.schema import (
    Record,
    read_as,
    read_evaluation,
    read_forecasts,
    read_json,
    read_record,
    reading,
    sha256_file,
)
from scaling.stages.plan import load_plan, planned_cell
from scaling.study.jobs_file import read_jobs
from scaling.study.lease import attempts
from scaling.train import checkpoint
from tests.in_process import command_module

OLD = Path(__file__).with_name("old")
VERSIONS = sorted(p.name for p in OLD.iterdir() if p.is_dir())
WIDTHS = (8, 16, 24, 32)
TOKENS = (1024, 2048, 4096)


@pytest.fixture(params=VERSIONS)
def old(request) -> Path:
    """One version's folder."""
    return OLD / request.param


@pytest.fixture
def study(old, tmp_path) -> Path:
    """A study in the files of that version: its record at twelve sizes, and what lies beside."""
    folder = tmp_path / "runs" / "tiny"
    like = json.loads((old / "record.json").read_text())
    for width in WIDTHS:
        for tokens in TOKENS:
            values = resized(like, width, tokens)
            (folder / values["run_id"]).mkdir(parents=True)
            (folder / values["run_id"] / "record.json").write_text(json.dumps(values))
    cell = folder / "324096"
    for name in ("law.json", "plan.yaml", "jobs.jsonl", "design.jsonl"):
        if (old / name).is_file():
            shutil.copy(old / name, folder)
    if (old / "attempt.json").is_file():
        (cell / "attempts").mkdir()
        shutil.copy(old / "attempt.json", cell / "attempts" / "0001.json")
    if (old / "forecasts.jsonl").is_file():
        shutil.copy(old / "forecasts.jsonl", folder.parent)
    (folder / "final").mkdir()
    for name in ("forecast.json", "curve.json"):
        if (old / name).is_file():
            shutil.copy(old / name, folder / "final")
    if (old / "evaluation.json").is_file():
        shutil.copy(old / "evaluation.json", cell)
    return folder


def resized(like: dict, width: int, tokens: int) -> dict:
    """Return a record's values at another size, its loss on a Chinchilla law."""
    body, total = 12 * width**2, 12 * width**2 + 300 * width
    model = {**like["config"]["model"], "d_model": width, "n_head": width // 8, "d_ff": 3 * width}
    model["n_kv_head"] = model["n_head"]
    counts = dict.fromkeys(like["params"], total) | {"non_embedding": body}
    return {
        **like,
        "run_id": f"{width:02}{tokens}",
        "trunk": str(width),
        "params": counts,
        "tokens": tokens,
        "flops": 6.0 * total * tokens,
        "flops_6nd": 6.0 * total * tokens,
        "test_loss": 1.5 + 300 / total**0.7 + 60 / tokens**0.6,
        "config": {**like["config"], "model": model},
    }


def command(name: str, *arguments: str, monkeypatch) -> None:
    """Run a command in this process, as `python -m` does."""
    module = command_module(name)
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    monkeypatch.setattr(logging.root, "handlers", [])
    schema = next(
        v for k, v in vars(module).items() if k.lower() == f"{name.rpartition('.')[2]}config"
    )
    start(module.main, config_name=name.rpartition(".")[2], schema=schema)


def test_there_is_a_folder_of_several_versions():
    assert len(VERSIONS) >= 6
    assert all({"record.json", "law.json", "plan.yaml"} <= files(OLD / v) for v in VERSIONS)


def files(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir()}


def test_every_file_of_an_old_version_is_read(old, study):
    record = read_record(old / "record.json")
    assert (record.status, record.schema) == ("done", 1)
    law = Law.read(old / "law.json")
    assert law.draws is None or law.draws.shape[1] == len(law.parameters)
    assert np.isfinite(law.optimum(1e9, force=True).params)
    assert read_plan(old / "plan.yaml").pretrain.tokens > 0
    assert planned_cell(load_plan(old / "plan.yaml")).model.d_head == 8
    cells = {c.run_id: c.state for c in read_status(study)}
    assert set(cells.values()) <= {"done", "stopped", "missing"}
    assert len(read_jobs(study)) == (old / "jobs.jsonl").is_file()
    assert len(attempts(study / "324096")) == (old / "attempt.json").is_file()
    assert (
        len(read_forecasts(study.parent / "forecasts.jsonl")) == (old / "forecasts.jsonl").is_file()
    )
    assert bool(read_batches(study)) == (old / "design.jsonl").is_file()
    if (old / "evaluation.json").is_file():
        assert read_evaluation(old / "evaluation.json").texts


def test_what_is_read_is_written_whole(old, tmp_path):
    read_record(old / "record.json").write(tmp_path / "record.json")
    assert set(read_json(tmp_path / "record.json")) == set(Record.__dataclass_fields__)
    Law.read(old / "law.json").write(tmp_path / "law.json")
    names = set(Law.__dataclass_fields__) - {"allocation"} | {"optimum"}
    assert set(read_json(tmp_path / "law.json")) == names


@pytest.mark.slow
@pytest.mark.many(3)
def test_the_analysis_reads_an_old_study(old, study, monkeypatch, capsys):
    law = study / "law.json"
    resamples = "intervals.resamples=10"
    command("analysis.report", f"runs={study}", f"out={study}/old.html", monkeypatch=monkeypatch)
    assert "<svg" in (study / "old.html").read_text()
    command(
        "analysis.plan", f"law={law}", f"runs={study}", "flops_multiple=2", "force=true",
        "sft.examples=16", "reward.pairs=32", "ppo.episodes=128", "ppo.max_new_tokens=8",
        f"out={study}/new.yaml", monkeypatch=monkeypatch,
    )  # fmt: skip
    assert read_plan(study / "new.yaml").study
    command(
        "analysis.fit", f"runs={study}", resamples, f"out={study}/new.json", monkeypatch=monkeypatch
    )
    assert Law.read(study / "new.json").n_runs == 12


@pytest.mark.slow
def test_backtest_and_design_read_an_old_study(old, study, monkeypatch, capsys):
    command("analysis.backtest", f"runs={study}", monkeypatch=monkeypatch)
    assert "12 runs of" in capsys.readouterr().out
    command("analysis.design", f"runs={study}", "target.flops=1e10", monkeypatch=monkeypatch)
    assert "cells" in capsys.readouterr().out


@pytest.mark.slow
def test_an_old_cell_is_sampled_scored_and_exported(old, study, tmp_path, monkeypatch, capsys):
    text = tmp_path / "words.txt"
    text.write_text("the number 12 is the product of 3 and 4\n" * 20)
    path = tmp_path / "tokenizer.json"
    train_tokenizer([text.read_text()], vocab_size=300).save(str(path))
    cell = study / "324096"
    values = read_json(cell / "record.json")
    values["inputs"]["tokenizer"] = sha256_file(path)
    (cell / "record.json").write_text(json.dumps(values))
    model = Transformer(ModelConfig(**values["config"]["model"]), vocab_size=300, context=32)
    checkpoint.save(cell, model=model, name="model", state={})
    given = (f"checkpoint={cell}", f"tokenizer={path}")
    command("scaling.sample", *given, "prompt=the", "max_new_tokens=4", monkeypatch=monkeypatch)
    command("scaling.evaluate", *given, f"texts=[{text}]", monkeypatch=monkeypatch)
    assert len(read_evaluation(cell / "evaluation.json").texts) >= 1
    command("scaling.export", *given, f"out={tmp_path}/out", monkeypatch=monkeypatch)
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_an_old_plan_is_executed(old, study, corpus_folder, tmp_path):
    shutil.rmtree(study / "final")
    config = load_plan(study / "plan.yaml")
    config.cell["data"].update(train=[str(corpus_folder)], sha256="")
    config.cell["eval"]["test_tokens"] = 512
    config.pretrain.tokens = 1024
    config.machine.device = "cpu"
    config.machine.cache = str(corpus_folder.parent / "cache")
    config.log.wandb = "disabled"
    (record,) = run_final(replace(config, runs=str(study.parent), stages="pretrain", force=True))
    assert record.status == "done"
    (again,) = run_final(replace(config, runs=str(study.parent), stages="pretrain", force=True))
    assert again == record


# --- what a later version, a hand or a crash wrote ----------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Small:
    """A file of two versions: `new` is younger."""

    name: str
    size: int
    parts: list[float] = field(default_factory=list)
    new: str | None = None
    schema: int = 1


def small(values, **how) -> Small:
    return read_as(Small, values, source="small.json", noun="small", fix="mend it", **how)


def test_a_new_field_is_optional_and_a_later_one_left_out():
    assert small({"name": "a", "size": 1}) == Small(name="a", size=1)
    assert small({"name": "a", "size": 1, "later": 3}) == Small(name="a", size=1)


def test_a_setting_that_is_not_known_is_refused():
    with pytest.raises(ValueError, match=r"small has later, which this version does not know"):
        small({"name": "a", "size": 1, "later": 3}, settings=True)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([], "is no small"),
        (None, "is no small"),
        ({"name": "a"}, "has no size; mend it"),
        ({"name": 3, "size": 1}, "name is 3, no text"),
        ({"name": "a", "size": "1"}, "size is '1', no whole number"),
        ({"name": "a", "size": True}, "size is true, no whole number"),
        ({"name": "a", "size": 1.5}, "no whole number"),
        ({"name": "a", "size": 1, "parts": 3}, "parts is 3, no list"),
        ({"name": "a", "size": 1, "parts": [1, None]}, "parts is null, no finite number"),
        ({"name": "a", "size": 1, "parts": [10**400]}, "no finite number"),
        ({"name": "a", "size": 1, "schema": 2}, "a later version wrote it.*upgrade with git pull"),
        ({"name": "a", "size": 1, "schema": "x"}, "is no schema number"),
        ({"name": "a", "size": 1, "schema": 0}, "is no schema number"),
    ],
)
def test_what_does_not_fit_is_named(values, words):
    with pytest.raises(ValueError, match=f"small.json.*{words}"):
        small(values)


@pytest.mark.slow
@pytest.mark.many(3)
@pytest.mark.parametrize("old", VERSIONS[-1:], indirect=True)
def test_a_field_of_a_later_version_stops_no_reader(study, monkeypatch, capsys):
    reading._log_unknown.cache_clear()
    for path in [*study.glob("*/record.json"), study / "law.json"]:
        path.write_text(json.dumps(read_json(path) | {"colour": {"red": 1}}))
    command("analysis.report", f"runs={study}", monkeypatch=monkeypatch)
    said = "a later version's record: colour is not known here and left out"
    assert capsys.readouterr().err.count(said) == 1


@pytest.mark.parametrize("name", ["record.json", "law.json", "plan.yaml"])
def test_a_file_with_a_higher_schema_says_to_upgrade(name, tmp_path):
    text = (OLD / VERSIONS[-1] / name).read_text()
    values = yaml.safe_load(text) | {"schema": 2}
    path = tmp_path / name
    path.write_text(json.dumps(values))
    readers = {
        "record.json": (read_record,),
        "law.json": (Law.read,),
        "plan.yaml": (read_plan, load_plan),
    }
    for read in readers[name]:
        with pytest.raises(ValueError, match=f"{name} has schema 2: a later version wrote it"):
            read(path)


def test_a_cell_is_what_it_was_written_as(make_cell):
    cell = make_cell(n_tokens=2048)
    again = CellConfig.from_dict(json.loads(json.dumps(asdict(cell))))
    assert again == cell
    assert again.run_id() == cell.run_id()
    older = {k: v for k, v in asdict(cell).items() if k not in ("target", "branches")}
    assert CellConfig.from_dict(older).run_id() == cell.run_id()
    later = asdict(cell)
    later["model"]["gate"] = "sigmoid"
    with pytest.raises(ValueError, match="cell's model has gate, which this version does not know"):
        CellConfig.from_dict(later)
