"""A local sweep that is killed, left, crowded and starved: what a user sees and what is left."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scaling.schema import read_curve, read_records
from scaling.study.jobs_file import read_jobs
from scaling.study.lease import attempts

from .test_commands import ROOT, TINY, run, sweep

pytestmark = pytest.mark.alone
WIDTHS, OFTEN = "model.d_model=8,16", "machine.checkpoint_seconds=0.5"
TIMES = {
    "seconds", "device_seconds", "tokens_per_second", "mfu", "started", "ended",
    "peak_memory_bytes", "config", "git_sha",
}  # fmt: skip


def science(study: Path) -> list[dict]:
    return [
        {k: v for k, v in vars(r).items() if k not in TIMES}
        | {"steps": [row["step"] for row in read_curve(study / r.run_id / "metrics.jsonl")]}
        for r in read_records(study)
    ]


def begin(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "scaling.sweep", "-m", *arguments],
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        preexec_fn=hear_ctrl_c,
    )


def hear_ctrl_c() -> None:
    """Undo what a shell does to what it starts in the background, these tests perhaps."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def running(study: Path) -> list:
    found = [a for p in study.glob("*/attempts") for a in attempts(p.parent)]
    return [a for a in found if a.ended is None and not a.gone()]


def await_(what, seconds: float = 240.0):
    for _ in range(int(seconds / 0.05)):
        if found := what():
            return found
        time.sleep(0.05)
    raise AssertionError(f"did not happen in {seconds} s")


def long_one(study: Path):
    """An attempt that is well into a budget which takes seconds."""
    return [a for a in running(study) if a.step > 0]


@pytest.fixture(scope="module")
def tiny(corpus_folder) -> list[str]:
    return [*TINY, f"data.train=[{corpus_folder}]", f"machine.cache={corpus_folder.parent}/cache"]


@pytest.fixture(scope="module")
def long(long_tokens) -> list[str]:
    return [WIDTHS, f"budget.n_tokens=2048,{long_tokens}", OFTEN]


@pytest.fixture(scope="module")
def quiet(tiny, long, tmp_path_factory) -> list[dict]:
    """The same cells, trained undisturbed."""
    folder = tmp_path_factory.mktemp("quiet")
    done = sweep(*tiny, *long, f"runs={folder}")
    assert done.returncode == 0, done.stderr
    return science(folder / "tiny")


@pytest.mark.long
@pytest.mark.slow
def test_a_killed_cell_is_shown_and_the_next_command_ends_as_if_nothing_had_been(
    tiny, long, tmp_path, quiet
):
    study = tmp_path / "runs/tiny"
    first = begin(*tiny, *long, f"runs={tmp_path}/runs")
    os.kill(await_(lambda: long_one(study))[0].pid, signal.SIGKILL)
    said = first.communicate(timeout=200)[1]
    assert first.returncode == 1
    assert "ended by SIGKILL" in said.splitlines()[-1]
    assert sum(r.status == "done" for r in read_records(study)) == 3
    shown = run("scaling.status", str(study))
    assert shown.returncode == 1
    assert "3 done, 1 failed" in shown.stdout
    assert "memory" in shown.stdout
    again = sweep(*tiny, *long, f"runs={tmp_path}/runs")
    assert "3 done already, 1 to train" in again.stderr
    assert science(study) == quiet


@pytest.mark.long
@pytest.mark.slow
def test_ctrl_c_detaches_the_same_command_attaches_and_nothing_is_trained_twice(
    tiny, long, tmp_path, quiet
):
    study = tmp_path / "runs/tiny"
    command = [*tiny, *long, f"runs={tmp_path}/runs"]
    first = begin(*command)
    await_(lambda: long_one(study))
    first.send_signal(signal.SIGINT)
    said = first.communicate(timeout=60)[1]
    assert first.returncode == 130
    assert "detached by Ctrl-C" in said
    assert "scaling status" in said
    assert running(study)
    second, third = begin(*command), begin(*command)
    both = [p.communicate(timeout=200)[1] for p in (second, third)]
    assert any("attached to" in text for text in both)
    assert all("attached to" in text or "submits to this study now" in text for text in both)
    assert (second.returncode, third.returncode) == (0, 0)
    assert science(study) == quiet
    assert all(
        sum(a.outcome == "done" for a in attempts(study / r.run_id)) == 1
        for r in read_records(study)
    )


@pytest.mark.long
@pytest.mark.slow
def test_a_detached_sweep_is_cancelled_at_a_step_and_resumed(tiny, long, tmp_path, quiet):
    study = tmp_path / "runs/tiny"
    command = [*tiny, *long, f"runs={tmp_path}/runs"]
    left = sweep(*command, "detach=true")
    assert left.returncode == 0, left.stderr
    assert "the same command attaches" in left.stderr
    assert len(read_jobs(study)) == 1
    await_(lambda: long_one(study))
    cancelled = run("scaling.status", str(study), "--cancel")
    assert cancelled.returncode == 0
    await_(lambda: not running(study))
    stopped = json.loads(run("scaling.status", str(study), "--json").stdout)
    assert any(c["state"] == "cancelled" and c["step"] > 0 for c in stopped)
    assert sweep(*command).returncode == 0
    assert science(study) == quiet


@pytest.mark.long
@pytest.mark.slow
def test_branches_as_jobs_of_their_own_give_the_same_records(tiny, long, tmp_path, quiet):
    done = sweep(*tiny, *long, f"runs={tmp_path}/runs", "branches=jobs")
    assert done.returncode == 0, done.stderr
    assert science(tmp_path / "runs/tiny") == quiet


@pytest.mark.slow
def test_a_failing_cell_is_tried_as_often_as_asked(tiny, tmp_path):
    bad = [a for a in tiny if not a.startswith(("data.context", "optim.batch"))]
    grid = ["model.d_model=8", "budget.n_tokens=40000", "data.context=20000"]
    done = sweep(*bad, *grid, f"runs={tmp_path}/runs", "retry=2")
    assert done.returncode == 1
    assert done.stderr.count("it is tried again") == 2
    (record,) = read_records(tmp_path / "runs/tiny")
    found = attempts(tmp_path / "runs/tiny" / record.run_id)
    assert [(a.outcome, a.final) for a in found] == [("failed", i == 2) for i in range(3)]


@pytest.mark.long
@pytest.mark.slow
def test_a_full_disk_fails_the_cell_with_a_clear_message_and_spares_earlier_records(
    tiny, long, tmp_path, quiet
):
    if os.geteuid():
        pytest.skip("only root can mount a small disk")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", disk], check=True)
    try:
        command = [*tiny, *long, f"runs={disk}"]
        small = sweep(*tiny, WIDTHS, OFTEN, "budget.n_tokens=2048", f"runs={disk}")
        assert small.returncode == 0, small.stderr
        whole = {p: p.read_bytes() for p in disk.glob("tiny/*/record.json")}
        first = begin(*command)
        await_(lambda: long_one(disk / "tiny"))
        fill(disk / "filler")
        said = first.communicate(timeout=200)[1]
        assert first.returncode == 1
        assert "No space left on device" in said.splitlines()[-1]
        shown = run("scaling.status", str(disk / "tiny"))
        assert shown.returncode == 1
        assert "No space left on device" in shown.stdout
        assert {p: p.read_bytes() for p in whole} == whole
        (disk / "filler").unlink()
        again = sweep(*command)
        assert again.returncode == 0, again.stderr
        assert science(disk / "tiny") == quiet
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as stream:
        for size in (65536, 4096, 512):
            try:
                while True:
                    stream.write(b"0" * size)
            except OSError:
                continue


@pytest.mark.long
@pytest.mark.slow
def test_a_stopped_worker_is_ended_and_its_cell_goes_on_from_its_checkpoint(
    tiny, long, tmp_path, quiet
):
    study = tmp_path / "runs/tiny"
    first = begin(*tiny, *long, f"runs={tmp_path}/runs", "machine.stopped_seconds=3")
    pid = await_(lambda: long_one(study))[0].pid
    os.kill(pid, signal.SIGSTOP)
    said = first.communicate(timeout=200)[1]
    assert first.returncode == 0, said
    assert "its process was stopped (SIGSTOP) for" in said
    assert not Path(f"/proc/{pid}").exists()
    assert science(study) == quiet
    found = [a for r in read_records(study) for a in attempts(study / r.run_id)]
    assert {a.outcome for a in found} == {"done", "stalled"}


HANG = """import signal, time
signal.signal(signal.SIGUSR1, lambda *_: time.sleep(1e6))  # in the main thread: the beat goes on
"""


@pytest.mark.long
@pytest.mark.slow
def test_a_worker_that_beats_without_a_step_is_ended_and_its_cell_goes_on(
    tiny, long, tmp_path, quiet, monkeypatch
):
    study = tmp_path / "runs/tiny"
    (tmp_path / "sitecustomize.py").write_text(HANG)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    first = begin(*tiny, *long, f"runs={tmp_path}/runs", "machine.hang_seconds=20")
    os.kill(await_(lambda: long_one(study))[0].pid, signal.SIGUSR1)
    said = first.communicate(timeout=200)[1]
    assert first.returncode == 0, said
    assert "it moved nothing for" in said
    assert science(study) == quiet


@pytest.mark.long
@pytest.mark.slow
def test_damaged_files_cost_one_line_each_and_the_same_command_mends_them(
    tiny, long, tmp_path, quiet
):
    study = tmp_path / "runs/tiny"
    command = [*tiny, *long, f"runs={tmp_path}/runs"]
    first = begin(*command)
    os.kill(await_(lambda: long_one(study))[0].pid, signal.SIGKILL)
    first.communicate(timeout=200)
    done = [p.parent for p in study.glob("*/record.json") if '"done"' in p.read_text()]
    (failed,) = {p.parent for p in study.glob("[!.]*/attempts")} - set(done)
    (done[0] / "record.json").write_text('{"run_id": "')
    (done[1] / "record.json").write_text("[]")
    for path in (done[0] / "attempts/0001.json", failed / "attempts/0001.json"):
        path.write_text("")
        os.utime(path, (time.time() - 60,) * 2)
    for path in study.glob(".trunks/*/metrics.jsonl"):
        path.write_text("?\n" + path.read_text())
    with (study / "jobs.jsonl").open("a") as stream:
        stream.write("17\n")
    shown = run("scaling.status", str(study))
    assert (shown.returncode, shown.stderr.count("\n")) == (1, 1)
    assert "2 damaged" in shown.stdout
    again = sweep(*command)
    assert again.returncode == 0, again.stderr
    assert "records that cannot be read, set aside and trained again" in again.stderr
    assert science(study) == quiet
    assert len(list(study.rglob("*.damaged-1.json"))) == 4
    assert run("scaling.status", str(study)).returncode == 0


@pytest.mark.long
@pytest.mark.slow
def test_a_killed_corpus_leaves_no_process_and_goes_on(tmp_path):
    path, cache = tmp_path / "a.jsonl", tmp_path / "cache"
    with path.open("w") as out:
        for i in range(9000):  # 80 MB: beyond what is read in one process
            lines = [f"document {i} has a line {i * 13 + j} that is its own" for j in range(180)]
            out.write(json.dumps({"text": "\n".join(lines)}) + "\n")
    command = [sys.executable, "-m", "scaling.corpus", "data=files", f"data.train=[{path}]"]
    command += ["machine.workers=2", f"machine.cache={cache}", "tokenizer.vocab_size=300"]
    first = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    children = Path(f"/proc/{first.pid}/task/{first.pid}/children")
    await_(lambda: list(cache.glob(".text-*/*.npz")))
    workers = children.read_text().split()
    assert len(workers) >= 2
    first.kill()
    first.communicate()
    kept = {p: p.stat().st_ino for p in cache.glob(".text-*/[0-9]*")}
    await_(lambda: not any(Path(f"/proc/{w}/stat").exists() for w in workers), seconds=20)
    again = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    await_(lambda: len(list(cache.glob(".text-*/*.npz"))) >= len(kept) // 2)
    assert all(p.stat().st_ino == inode for p, inode in kept.items() if p.exists())
    said = again.communicate()[0].decode()
    assert again.returncode == 0
    assert "8," in said.split("documents")[0]
    assert not list(cache.glob(".*"))
