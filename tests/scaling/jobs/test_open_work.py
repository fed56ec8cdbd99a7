"""Cells that any worker may take: what is free, what is refused, and workers that are killed."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from scaling.config import BudgetConfig
from scaling.jobs.cell_states import CellStates, cancel
from scaling.jobs.open_work import is_held, read_open_jobs, work
from scaling.jobs.submission import write_open_job
from scaling.schema import read_json, read_records, write_json
from scaling.study.lease import Holder, Lease, Pulse, attempts
from scaling.study.places import cell_folder, study_folder, trunk_folder

from ...in_process import call
from ...test_commands import ROOT, TINY, sweep
from ...test_survival import await_, begin, long_one

MANIFESTS = ROOT / "examples/workers"


@pytest.fixture
def study(post_cell, tmp_path):
    """A study with one cell that waits for a worker."""
    budget = BudgetConfig(n_tokens=4096)
    cell = replace(post_cell, runs=str(tmp_path / "runs"), budget=budget)
    folder = study_folder(cell)
    folder.mkdir(parents=True)
    write_open_job([cell], folder, round="r", options={})
    return cell, folder


def state_of(folder: Path) -> str:
    states = CellStates(folder)
    states.refresh()
    (cell,) = states.cells()
    return f"{cell.state}: {cell.error}"


def test_cells_wait_for_a_worker_until_they_are_cancelled(study):
    cell, folder = study
    assert state_of(folder) == f"queued: waits for a worker: scaling work {folder}"
    (tasks,) = read_open_jobs(folder).values()
    assert [c.run_id() for t in tasks.tasks for c in t.cells] == [cell.run_id()]
    assert cancel(folder) == 1
    assert "was cancelled" in state_of(folder)
    assert state_of(folder).startswith("cancelled")
    assert read_open_jobs(folder) == {}
    assert work(folder) is None


@pytest.mark.parametrize("place", [cell_folder, trunk_folder])
def test_what_a_live_process_holds_is_left_to_it(study, place):
    cell, folder = study
    (tasks,) = read_open_jobs(folder).values()
    assert not is_held(tasks.tasks[0])
    with Lease(place(cell), Holder.here(round="r", job="worker-1"), Pulse()):
        assert is_held(tasks.tasks[0])
        assert work(folder, leave=True) is None  # and does not wait
    assert not is_held(tasks.tasks[0])


def test_another_version_and_another_name_are_refused(study):
    _, folder = study
    path = next((folder / ".jobs").glob("open-*.json"))
    written = read_json(path)
    write_json(path, {**written, "code": {"version": "0.0.9", "git_sha": None}})
    with pytest.raises(ValueError, match=r"submitted by version 0\.0\.9, and this is version"):
        read_open_jobs(folder)
    write_json(path, written)
    other = folder.rename(folder.with_name("other"))
    with pytest.raises(ValueError, match="give the folder its name back"):
        read_open_jobs(other)
    path = next((other / ".jobs").glob("open-*.json"))
    path.write_text("{")
    with pytest.raises(ValueError, match="is no list of cells"):
        read_open_jobs(other)


def test_a_study_without_open_cells_and_wrong_usage_are_one_sentence(tmp_path):
    for words, sentence in [
        ([str(tmp_path)], "hydra/launcher=none"),
        ([str(tmp_path / "none")], "no study folder"),
        ([str(tmp_path), "--workers=-1"], "below 0"),
        ([], "scaling work runs/NAME"),
    ]:
        done = call("scaling.work", *words)
        assert done.returncode in (1, 2)
        assert sentence in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_the_manifests_start_this_command():
    job = yaml.safe_load((MANIFESTS / "kubernetes.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
    assert job["spec"]["completionMode"] == "Indexed"
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["command"] == ["scaling", "work", "/runs/mine"]
    volumes = {v["name"] for v in pod["volumes"]}
    assert {m["name"] for m in container["volumeMounts"]} <= volumes
    task = yaml.safe_load((MANIFESTS / "skypilot.yaml").read_text())
    assert task["run"].startswith("scaling work /runs/")
    assert set(task) <= {"name", "num_nodes", "resources", "file_mounts", "setup", "run"}
    script = MANIFESTS / "pbs.sh"
    subprocess.run(["bash", "-n", script], check=True)
    assert "exec scaling work runs/mine" in script.read_text()


@pytest.mark.long
@pytest.mark.slow
def test_workers_that_are_killed_lose_and_double_nothing(corpus_folder, long_tokens, tmp_path):
    tiny = [*TINY, f"data.train=[{corpus_folder}]", f"machine.cache={corpus_folder.parent}/cache"]
    grid = [*tiny, "model.d_model=8,16", f"budget.n_tokens=2048,{long_tokens / 4}"]
    often = "machine.checkpoint_seconds=0.5"
    quiet = sweep(*grid, often, f"runs={tmp_path}/quiet")
    assert quiet.returncode == 0, quiet.stderr
    watching = begin(*grid, often, f"runs={tmp_path}/runs", "hydra/launcher=none")
    study = tmp_path / "runs/tiny"
    await_(lambda: (study / "jobs.jsonl").is_file())
    command = [sys.executable, "-m", "scaling.work", str(study), "--workers", "1"]
    workers = [subprocess.Popen(command, cwd=ROOT, start_new_session=True) for _ in "12"]
    held = await_(lambda: long_one(study))[0]
    os.kill(int(held.job.removeprefix("worker-")), signal.SIGKILL)  # its process ends by itself
    ends = sorted(worker.wait(timeout=300) for worker in workers)
    assert ends == [-signal.SIGKILL, 0]
    assert "4 done" in watching.communicate(timeout=60)[1]
    assert watching.returncode == 0
    losses = {r.run_id: r.test_loss for r in read_records(study)}
    assert losses == {r.run_id: r.test_loss for r in read_records(tmp_path / "quiet/tiny")}
    for name in losses:
        assert sum(a.outcome == "done" for a in attempts(study / name)) == 1
    shown = call("scaling.status", str(study), "--json")
    assert {c["state"] for c in json.loads(shown.stdout)} == {"done"}
