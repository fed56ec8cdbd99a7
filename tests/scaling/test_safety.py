"""Files of somebody else run nothing, write nowhere else and do not take the machine."""

import gzip
import json
import logging
import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from analysis.laws.law import Law
from analysis.runs.cells import sha256_of
from analysis.runs.jsonl import read_jsonl
from scaling.app.application import Printable
from scaling.config import BudgetConfig, CellConfig, FinalConfig, ModelConfig, rung
from scaling.data import jsonl
from scaling.jobs import study_run as launch
from scaling.jobs import submission
from scaling.jobs.slurm import code_snapshot as snapshot
from scaling.jobs.slurm import queries as slurm
from scaling.schema import (
    MOST_RESAMPLES,
    check_readable,
    check_study,
    destination,
    read_curve,
    read_json,
    read_record,
    read_yaml,
    refuse_code,
    write_json,
    write_text,
)
from scaling.stages.plan import load_plan
from scaling.status import printable
from scaling.study import jobs_file as ledger
from scaling.study.failures import tail
from scaling.study.lease import attempts
from scaling.train.memory_check import check_room, host_bytes
from tests.in_process import call

ROOT = Path(__file__).parents[2]
PLAN = "schema: 1\npretrain: {tokens: 1000}\n"


@pytest.mark.parametrize(
    "name",
    [
        *("", " ", ".", "..", "/etc", "../x", "a/b", "a\\b", ".cache", "forecasts.jsonl"),
        *("wandb", " x", "x\n", "x\0y", "ä" * 101, "\ud83d"),
    ],
)
def test_a_study_is_the_name_of_one_folder(name):
    with pytest.raises(ValueError, match="give the name of one folder"):
        check_study(name)
    for config in (CellConfig, FinalConfig):
        with pytest.raises(ValueError, match="give the name of one folder"):
            config(study=name)


@pytest.mark.parametrize("name", ["quick", "quick-confirmation", "größe 2", "a=b,c", "x.y"])
def test_other_names_are_studies(name):
    assert check_study(name) == name


def test_a_plan_cannot_name_a_study_elsewhere(tmp_path):
    (tmp_path / "plan.yaml").write_text(f"study: ../../outside\n{PLAN}")
    with pytest.raises(ValueError, match="is a path"):
        load_plan(tmp_path / "plan.yaml")


def test_a_device_is_not_replaced(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(ValueError, match="no regular file"):
        write_text(pipe, "x")
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    with pytest.raises(ValueError, match="no regular file"):
        write_text("/dev/null", "x")
    with pytest.raises(ValueError, match="is a folder; name a file"):
        write_json(tmp_path, {})


def test_a_link_is_followed(tmp_path):
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "real")
    write_text(link, "x")
    assert link.is_symlink()
    assert (tmp_path / "real").read_text() == "x"
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(ValueError, match="cannot be written"):
        destination(tmp_path / "a")


def test_only_regular_files_of_bounded_size_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="no regular file"):
        read_json(tmp_path / "pipe")
    with pytest.raises(ValueError, match="no regular file"):
        check_readable("/dev/zero")
    with pytest.raises(FileNotFoundError, match="no file"):
        check_readable("x" * 5000)
    with (tmp_path / "large.json").open("wb") as stream:
        stream.truncate(65 << 20)
    with pytest.raises(ValueError, match="MiB; at most 64 are read"):
        read_json(tmp_path / "large.json")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"[" * 100_000, "nested too deep"),
        (b"1" * 5000, "is not JSON"),
        (b"\xff\xfe", "not text in UTF-8"),
        (b"{", "is not JSON"),
    ],
)
def test_json_that_is_none_is_named(text, said, tmp_path):
    (tmp_path / "x.json").write_bytes(text)
    with pytest.raises(ValueError, match=said):
        read_json(tmp_path / "x.json")


def test_json_may_begin_with_a_byte_order_mark(tmp_path):
    (tmp_path / "x.json").write_bytes(b"\xef\xbb\xbf[1]")
    assert read_json(tmp_path / "x.json") == [1]


BOMB = "a0: &a0 [x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BOMB, "stands for more than"),
        ("[" * 100, "nested|not YAML"),
        ("[" * 100 + "]" * 100, "nested more than"),
        ("[" * 20_000 + "]" * 20_000, "nested"),
        ("a: &a [*a]\n", "nested|not YAML"),
        ("a: 1\na: 2\n", "names the key 'a' twice"),
        ("a: !!python/object/apply:os.system ['touch made']\n", "not YAML"),
        ("a: !!python/object/apply:pathlib.Path ['x']\n", "not YAML"),
        ("a: ${oc.env:HOME}\n", "holds an interpolation"),
        ("a: [{b: '${oc.decode:x}'}]\n", "holds an interpolation"),
        ("${oc.env:HOME}: 1\n", "holds an interpolation"),
        ("trainer: {command: 'rm -rf x'}\n", "add trainer.command=... to the command"),
        ("cell: {reward: {function: 'os:system'}}\n", "add cell.reward.function=..."),
        ("hydra: {launcher: {setup: ['touch x']}}\n", "whose value is run"),
        ("a: b: c\n", "not YAML"),
    ],
)
def test_yaml_of_somebody_else_is_values_alone(text, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plan.yaml").write_text(text)
    with pytest.raises(ValueError, match=said) as raised:
        read_yaml(tmp_path / "plan.yaml")
    assert "\n" not in str(raised.value)
    assert [p.name for p in tmp_path.iterdir()] == ["plan.yaml"]


def test_yaml_numbers_are_those_of_hydra(tmp_path):
    text = "{a: 1e-3, b: 1.5e+06, c: 2, d: .5, e: 2026-11-30, f: yes, g: 1_000, h: null, i: 1.}"
    (tmp_path / "x.yaml").write_text(text)
    values = read_yaml(tmp_path / "x.yaml")
    assert values == {
        "a": 0.001, "b": 1.5e6, "c": 2, "d": 0.5, "e": "2026-11-30", "f": True, "g": 1000,
        "h": None, "i": 1.0,
    }  # fmt: skip


def test_aliases_of_plans_that_we_wrote_are_read(tmp_path):
    (tmp_path / "x.yaml").write_text("a: &id001 [1, 2]\nb: *id001\n")
    assert read_yaml(tmp_path / "x.yaml") == {"a": [1, 2], "b": [1, 2]}


def test_an_empty_setting_that_could_run_code_is_no_offence():
    values: dict = {"trainer": {"command": ""}, "reward": {"function": None}}
    refuse_code(values, "plan.yaml")
    values["trainer"]["command"] = "rm"
    with pytest.raises(ValueError, match=r"trainer\.command"):
        refuse_code(values, "plan.yaml")


def test_a_plan_does_not_read_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET", "s3cret")
    path = tmp_path / "plan.yaml"
    path.write_text(PLAN + "sft: {data: '${oc.env:SECRET}'}\n")
    with pytest.raises(ValueError, match="interpolation") as raised:
        load_plan(path)
    assert "s3cret" not in str(raised.value)


@pytest.mark.parametrize("setting", ["runs", "machine.cache"])
def test_a_plan_writes_near_itself_or_where_the_command_says(setting, tmp_path, monkeypatch):
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    here.mkdir()
    monkeypatch.chdir(here)
    path = here / "plan.yaml"

    def plan(place: object) -> Path:
        group, _, name = setting.rpartition(".")
        line = f"{name}: {place}"
        path.write_text(PLAN + (f"{group}: {{{line}}}\n" if group else f"{line}\n"))
        return path

    with pytest.raises(ValueError, match="to the command"):
        load_plan(plan(elsewhere))
    with pytest.raises(ValueError, match="to the command"):
        load_plan(plan("../elsewhere"))
    assert load_plan(plan(elsewhere), [f"{setting}={elsewhere}"])
    assert load_plan(plan(here / "runs"))
    assert load_plan(plan("runs"))


def test_a_plan_in_its_study_names_the_folder_above(tmp_path, monkeypatch):
    place = tmp_path / "runs" / "quick"
    place.mkdir(parents=True)
    monkeypatch.chdir(place)
    (place / "plan.yaml").write_text(f"runs: {tmp_path / 'runs'}\nstudy: quick\n{PLAN}")
    assert load_plan(place / "plan.yaml").study == "quick"


def test_a_rung_is_one_of_ours(tmp_path):
    (tmp_path / "x.yaml").write_text("n_layer: 1\nd_model: 8\n")
    with pytest.raises(ValueError, match="is no rung"):
        rung(f"../../../../../../..{tmp_path}/x", ModelConfig(n_layer=1, d_model=16))


def law(**values: object) -> Law:
    names = ("E", "A", "B", "alpha", "beta")
    common = {"form": "chinchilla", "count": "total", "status": "converged", "objective": {}}
    return Law(**common, parameters=dict.fromkeys(names, 0.5), **values)  # type: ignore[arg-type]


def test_a_law_holds_no_more_draws_than_a_page_can(tmp_path):
    path = law(draws=np.ones((3, 5))).write(tmp_path / "law.json")
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values | {"draws": [[1.0] * 5] * (MOST_RESAMPLES + 1)}))
    with pytest.raises(ValueError, match="at most 20,000 are read"):
        Law.read(path)
    for wrong in ([[1.0] * 4], [[10**400] * 5]):
        path.write_text(json.dumps(values | {"draws": wrong}))
        with pytest.raises(ValueError, match="draws are no rows of 5 numbers"):
            Law.read(path)
    large = values["parameters"] | {"A": 10**30}  # more than numpy's whole numbers hold
    path.write_text(json.dumps(values | {"parameters": large}))
    assert Law.read(path).parameters["A"] == 1e30
    path.write_text(json.dumps(values | {"draws": [[1.0] * 4]}))
    with pytest.raises(ValueError, match="draws are no rows of 5 numbers"):
        Law.read(path)


def test_a_packed_line_that_never_ends_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(jsonl, "LONGEST_LINE", 1000)
    monkeypatch.setattr(jsonl, "LARGEST_TEXT", 1000)
    with gzip.open(tmp_path / "x.jsonl.gz", "wt") as stream:
        stream.write('{"text": "a"}\n{"text": "' + "a" * 2000 + '"}\n')
    rows = jsonl.read_rows(tmp_path / "x.jsonl.gz")
    assert next(rows) == (1, {"text": "a"})
    with pytest.raises(ValueError, match="line 2 has more than 1,000 characters"):
        next(rows)
    with pytest.raises(ValueError, match="unpacks to more than"):
        jsonl.read_text(tmp_path / "x.jsonl.gz")


def test_deep_json_lines_are_named(tmp_path):
    (tmp_path / "x.jsonl").write_text("[" * 100_000 + "\n")
    with pytest.raises(ValueError, match="line 1 is not JSON"):
        list(jsonl.read_rows(tmp_path / "x.jsonl"))


def test_a_snapshot_under_our_name_holds_our_code(tmp_path):
    """A job would run what a study of somebody else holds in its place."""
    place = snapshot.take_snapshot(tmp_path)
    compiled = place / "scaling" / "__pycache__"
    compiled.mkdir()
    (compiled / "sweep.cpython-311.pyc").write_bytes(b"theirs")
    assert snapshot.take_snapshot(tmp_path) == place
    assert not compiled.exists()
    for change in (
        lambda: (place / "sitecustomize.py").write_text("import os"),
        lambda: (place / "scaling" / "sweep.py").write_text("import os"),
        lambda: (place / "torch").symlink_to(tmp_path),
    ):
        change()
        with pytest.raises(ValueError, match="holds something else"):
            snapshot.take_snapshot(tmp_path)
        for path in (place / "sitecustomize.py", place / "torch"):
            path.unlink(missing_ok=True)


def test_only_a_job_of_the_studys_own_name_is_cancelled(monkeypatch):
    calls = []
    monkeypatch.setattr(slurm, "call", lambda *command: calls.append(command))
    slurm.cancel({"12_3": "ours", "--user=root": "ours", "7": "ours", "-u": "", "": "", "8": ""})
    assert calls == [
        ("scancel", "--quiet", "8"),
        ("scancel", "--quiet", "--name=ours", "12_3", "7"),
    ]


def test_an_error_that_steers_the_terminal_is_printed_as_text():
    assert printable("\033[2Jcell\r\nx") == "?[2Jcell??x"


def test_a_model_larger_than_the_machine_is_refused_before_it_is_made():
    model = ModelConfig(n_layer=1000, d_model=65536)
    cell = CellConfig(model=model, budget=BudgetConfig(n_tokens=1e9))
    with pytest.raises(ValueError, match="GiB to train, and this machine has"):
        check_room(cell, host_bytes(), machine="this machine")
    check_room(CellConfig(model=ModelConfig(n_layer=1, d_model=16)), host_bytes(), machine="x")


def test_a_sweep_of_a_huge_model_starts_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(launch, "resolve_corpus", lambda cells: cells)
    monkeypatch.setattr(
        submission, "submit_local", lambda *a, **k: pytest.fail("a job was started")
    )
    model = ModelConfig(n_layer=1000, d_model=65536)
    cell = CellConfig(model=model, budget=BudgetConfig(n_tokens=1e9), runs=str(tmp_path))
    with pytest.raises(ValueError, match="takes at least"):
        launch.run_cells([cell])


@pytest.mark.slow
def test_a_refused_sweep_leaves_no_folder(tmp_path):
    command = [sys.executable, "-m", "scaling.sweep", "-m", "study=../outside"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    (tmp_path / "here").mkdir()
    done = subprocess.run(
        command, cwd=tmp_path / "here", env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "study='../outside' is a path" in done.stderr
    assert [p.name for p in tmp_path.rglob("*")] == ["here"]


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, lambda p: p.symlink_to("/dev/zero")])
def test_what_is_no_regular_file_is_not_waited_for(make, tmp_path):
    for name in ("metrics.jsonl", "cell/record.json", "cell/attempts/0001.json", "job.log"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        make(tmp_path / name)
    assert read_curve(tmp_path / "metrics.jsonl") == []
    with pytest.raises(ValueError, match="no regular file"):
        read_curve(tmp_path / "metrics.jsonl", strict=True)
    assert sha256_of(tmp_path) == {}
    [attempt] = attempts(tmp_path / "cell")
    assert attempt.outcome == "damaged"
    assert "no regular file" in str(attempt.error)
    assert tail(tmp_path / "job.log") == ""
    assert tail("a\0b") == ""


def test_a_curve_nested_too_deep_loses_that_line_alone(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("[" * 100_000 + '\n{"step": 1}\n')
    assert read_curve(tmp_path / "metrics.jsonl") == [{"step": 1}]


@pytest.mark.parametrize("cell", ["", "..", "../../x", "/dev", "a\0b", "\ud800", "a\x1b[31m"])
def test_a_job_names_cells_of_its_study_alone(cell, tmp_path):
    job = ledger.local_job(1, round="r", cells=["0bcfa9cb74"], log=tmp_path / "log")
    ledger.append_jobs(tmp_path, [job])
    line = json.loads((tmp_path / "jobs.jsonl").read_text()) | {"cells": [cell]}
    ledger.append(tmp_path, [line])
    assert ledger.read_jobs(tmp_path) == [job]
    assert ledger.damaged_lines(tmp_path) == 1


@pytest.mark.long
@pytest.mark.slow
def test_many_keys_of_which_one_stands_twice_are_refused_at_once(tmp_path):
    keys = [f"k{i}" for i in range(100_000)] + ["k7"]
    row = "{" + ", ".join(f'"{k}": 1' for k in keys) + "}\n"
    (tmp_path / "t.jsonl").write_text(row)
    with pytest.raises(ValueError, match="'k7' stands there twice"):
        read_jsonl(tmp_path / "t.jsonl")
    (tmp_path / "t.yaml").write_text("".join(f"{k}: 1\n" for k in keys))
    with pytest.raises(ValueError, match="'k7' twice"):
        read_yaml(tmp_path / "t.yaml")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"run_id": "../../x"}, "no folder of the study"),
        ({"config": {"model": "m"}}, "config.model holds no settings"),
        ({"config": {"model": {"n_experts": ["a"]}}}, "config.model.n_experts is no number"),
        ({"config": {"cell": {"data": {"context": {}}}}}, "config.data.context is no number"),
        ({"config": {"before": {"sft": 1}}}, "config.sft holds no settings"),
    ],
)
def test_a_record_is_a_cell_of_its_study_with_settings_to_calculate_with(change, said, tmp_path):
    old = next((ROOT / "tests" / "old").glob("*/**/record.json"))
    write_json(tmp_path / "record.json", read_json(old) | change)
    with pytest.raises(ValueError, match=said):
        read_record(tmp_path / "record.json")


def test_an_escape_in_a_file_does_not_reach_the_terminal(tmp_path):
    (tmp_path / "t.csv").write_text("params,tokens,\x1b[31mloss\n1,2,3\n")
    done = call("analysis.fit", "runs=t.csv", "where=nope == 1", cwd=tmp_path)
    assert done.returncode == 1
    assert "columns are params, tokens, ?[31mloss" in done.stderr
    record = logging.LogRecord("x", logging.INFO, "", 0, "a\x1b[2J\nb\t\x9b", (), None)
    assert Printable("%(message)s").format(record) == "a?[2J\nb\t?"


@pytest.mark.slow
@pytest.mark.parametrize("seeds", ["range(1000000000)", "shuffle(range(0,1e9,0.5))"])
def test_a_sweep_without_end_is_refused_before_it_is_listed(seeds, tmp_path):
    done = call("scaling.sweep", "-m", "sweeps=quick", f"seed={seeds}", cwd=tmp_path)
    assert done.returncode == 1
    assert "makes a sweep of more than 100,000 cells" in done.stderr
