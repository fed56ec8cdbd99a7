"""The sweep on a real SLURM; what needs one is skipped where none runs, and says how to start."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scaling.jobs import cell_states
from scaling.jobs.slurm import queries as slurm
from scaling.jobs.slurm.submit import slurm_parameters
from scaling.schema import read_records
from scaling.study.jobs_file import append, append_jobs, read_jobs
from scaling.study.lease import attempts

from .test_commands import ROOT, TINY, run, sweep
from .test_survival import await_, begin, long_one, science

HOW = "no SLURM answers sinfo; start one (../shared/slurm/cluster start, as root)"
CLUSTER = Path(os.environ.get("SCALING_SHARED", ROOT.parent / "shared")) / "slurm/cluster"
STATE = Path(os.environ.get("SLURM_LOCAL_ROOT", "/var/lib/scaling-slurm"))


def slurm_is_up() -> bool:
    if not shutil.which("sinfo"):
        return False
    found = subprocess.run(["sinfo", "-h"], capture_output=True, check=False, timeout=30)
    return found.returncode == 0 and bool(found.stdout.strip())


@pytest.fixture
def cluster(tmp_path):
    if not slurm_is_up():
        pytest.skip(HOW)
    yield
    if (tmp_path / "runs/tiny").is_dir():
        cell_states.cancel(tmp_path / "runs/tiny")


@pytest.fixture
def tiny(corpus_folder, tmp_path) -> list[str]:
    return [
        *TINY,
        f"data.train=[{corpus_folder}]",
        f"machine.cache={corpus_folder.parent}/cache",
        f"runs={tmp_path}/runs",
    ]


@pytest.fixture
def on_slurm(tiny) -> list[str]:
    return [
        *tiny,
        "hydra/launcher=slurm",
        "hydra.launcher.partition=main",
        "hydra.launcher.mem_gb=0.5",
        "hydra.launcher.timeout_min=10",
        "hydra.launcher.poll_seconds=1",
    ]


@pytest.fixture
def long(long_tokens) -> list[str]:
    return [
        "model.d_model=8,16",
        f"budget.n_tokens=2048,{long_tokens}",
        "machine.checkpoint_seconds=600",
    ]


def hasten() -> None:
    """Let requeued jobs start now instead of two minutes later."""
    queue = subprocess.run(
        ["squeue", "-h", "-r", "-t", "PENDING", "-o", "%i %r"], capture_output=True, text=True
    )
    for line in queue.stdout.splitlines():
        if line.endswith("BeginTime"):
            update = ["scontrol", "update", f"jobid={line.split()[0]}", "starttime=now"]
            subprocess.run(update, check=False, capture_output=True)


def outcomes(study: Path) -> list[str]:
    return [a.outcome for r in read_records(study) for a in attempts(study / r.run_id)]


@pytest.mark.slurm
@pytest.mark.slow
def test_a_sweep_runs_as_jobs_that_share_cells_and_resumes(cluster, on_slurm, tmp_path):
    study = [*on_slurm, "model.d_model=8,16,24", "cells_per_job=2"]
    first = sweep(*study, "budget.n_tokens=1024")
    assert first.returncode == 0, first.stderr
    assert "submitted 2 jobs" in first.stderr
    assert sorted(len(j.cells) for j in read_jobs(tmp_path / "runs/tiny")) == [1, 2]
    again = sweep(*study, "budget.n_tokens=1024,2048")
    assert again.returncode == 0, again.stderr
    assert "3 done already, 3 to train" in again.stderr
    assert [r.status for r in read_records(tmp_path / "runs/tiny")] == ["done"] * 6


@pytest.mark.long
@pytest.mark.slurm
@pytest.mark.slow
def test_preempted_and_signalled_cells_end_as_unbroken_ones(
    cluster, on_slurm, tiny, long, tmp_path
):
    study = tmp_path / "runs/tiny"
    left = sweep(*on_slurm, *long, "detach=true")
    assert left.returncode == 0, left.stderr
    await_(lambda: long_one(study))
    urgent = ["sbatch", "-p", "urgent", "-N2", "--exclusive", "-t1", "-o", "/dev/null"]
    subprocess.run([*urgent, "--wrap=sleep 3"], check=True, capture_output=True)
    await_(lambda: "preempted" in cut_short(study))
    shown = json.loads(run("scaling.status", str(study), "--json").stdout)
    assert any(c["state"] == "queued" and c["step"] > 0 for c in shown)
    attached = begin(*on_slurm, *long)
    signalled = False
    while attached.poll() is None:
        hasten()
        for _ in range(10):
            again = [a for a in long_one(study) if a.attempt > 1]
            if again and not signalled:  # what SLURM sends before the end of the time limit
                subprocess.run(["scancel", "--signal=USR2", again[0].job], check=True)
                signalled = True
            time.sleep(0.1)
    said = attached.communicate()[1]
    assert attached.returncode == 0, said
    assert signalled
    assert "failed" not in outcomes(study)
    assert outcomes(study).count("preempted") >= 2
    alone = [a.replace("/runs", "/alone") for a in tiny]
    assert sweep(*alone, *long).returncode == 0
    assert science(study) == science(tmp_path / "alone/tiny")


def cut_short(study: Path) -> list[str | None]:
    return [a.outcome for p in study.glob("*/attempts") for a in attempts(p.parent)]


@pytest.mark.long
@pytest.mark.slurm
@pytest.mark.slow
def test_branches_as_dependent_jobs_start_from_the_trunks_checkpoint(
    cluster, on_slurm, tiny, tmp_path
):
    grid = ["model.d_model=16", "budget.n_tokens=2048,4096"]
    done = sweep(*on_slurm, *grid, "branches=jobs")
    assert done.returncode == 0, done.stderr
    jobs = read_jobs(tmp_path / "runs/tiny")
    assert [j.part for j in jobs] == ["trunk", "branch", "branch"]
    assert [j.after for j in jobs] == [None, jobs[0].job, jobs[0].job]
    alone = [a.replace("/runs", "/alone") for a in tiny]
    assert sweep(*alone, *grid).returncode == 0
    assert science(tmp_path / "runs/tiny") == science(tmp_path / "alone/tiny")


@pytest.mark.long
@pytest.mark.slurm
@pytest.mark.slow
def test_a_killed_job_is_seen_and_retried(cluster, on_slurm, long_tokens, tmp_path):
    study = tmp_path / "runs/tiny"
    command = [*on_slurm, "model.d_model=16", f"budget.n_tokens={long_tokens}", "retry=1"]
    sweep_ = begin(*command)
    cell = await_(lambda: long_one(study))[0]
    os.kill(first_process(study), signal.SIGKILL)
    os.kill(cell.pid, signal.SIGKILL)  # a cluster that tracks by cgroup ends it with its job
    said = sweep_.communicate(timeout=200)[1]
    assert sweep_.returncode == 0, said
    assert "it is tried again" in said
    assert outcomes(study) == ["failed", "done"]


def first_process(study: Path) -> int:
    """Find the process of a study's job that is above its cells."""
    mark = f"submitit.core._submit\0{study}/.jobs".encode()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            text = path.read_bytes()
            if mark in text and b"python" in text.split(b"\0")[0]:
                return int(path.parent.name)
    raise AssertionError("the job has no process")


@pytest.mark.long
@pytest.mark.slurm
@pytest.mark.slow
def test_a_cell_that_meets_the_time_limit_goes_on_in_its_jobs_next_turn(
    cluster, on_slurm, tmp_path
):
    study = tmp_path / "runs/tiny"
    # SLURM counts in minutes and signals up to a minute early: here after 44 to 60 s, when even a
    # loaded machine has the cell in training. The signal's effect on the record is that of the
    # preemption above, so the cell, longer than any minute, is not trained to its end.
    limit = ["hydra.launcher.timeout_min=2", "hydra.launcher.signal_seconds=60"]
    cell = ["model.d_model=16", "budget.n_tokens=1e8", "detach=true"]
    left = sweep(*on_slurm, *limit, *cell)
    assert left.returncode == 0, left.stderr
    await_(lambda: "timeout" in cut_short(study))

    def further() -> bool:
        hasten()
        tries = attempts(next(study.glob("[!.]*/attempts")).parent)
        return len({a.job for a in tries}) == 1 and tries[-1].step > tries[0].step

    await_(further)
    assert "failed" not in cut_short(study)


@pytest.mark.long
@pytest.mark.slurm
@pytest.mark.slow
def test_a_killed_sweep_leaves_its_jobs_which_are_cancelled_and_then_resumed(
    cluster, on_slurm, long_tokens, tmp_path
):
    study = tmp_path / "runs/tiny"
    command = [*on_slurm, "model.d_model=16", f"budget.n_tokens={long_tokens}"]
    front = begin(*command)
    await_(lambda: long_one(study))
    front.kill()
    front.communicate()
    attached = begin(*command)
    assert any("attached to 1 cell " in line for line in attached.stderr)
    cancelled = run("scaling.status", str(study), "--cancel")
    assert "cancelled 1 job\n" in cancelled.stderr
    said = attached.communicate(timeout=120)[1]
    assert attached.returncode == 1, said
    (cell,) = json.loads(run("scaling.status", str(study), "--json").stdout)
    assert cell["state"] == "cancelled"
    again = sweep(*command)
    assert again.returncode == 0, again.stderr
    assert [r.status for r in read_records(study)] == ["done"]
    assert len(read_jobs(study)) == 2


@pytest.fixture
def own_cluster(cluster):
    """Return the script of the test cluster when nobody's jobs are on it: it may be restarted."""
    if os.geteuid() or not CLUSTER.is_file() or not STATE.is_dir():
        pytest.skip(f"needs root and the cluster of {CLUSTER}, which it restarts")
    await_(lambda: not subprocess.check_output(["squeue", "-h"]), seconds=60)
    return CLUSTER


@pytest.fixture
def without_accounting(own_cluster):
    """Restart the test cluster without accounting, and with it afterwards."""
    environment = os.environ | {"SLURM_LOCAL_ACCOUNTING": "no"}
    subprocess.run([own_cluster, "restart"], env=environment, check=True, capture_output=True)
    yield
    subprocess.run([own_cluster, "restart"], check=True, capture_output=True)


@pytest.mark.long
@pytest.mark.slurm
@pytest.mark.slow
def test_a_cluster_without_accounting_shows_done_cells_and_dead_jobs(
    without_accounting, on_slurm, long_tokens, tmp_path
):
    study = tmp_path / "runs/tiny"
    assert subprocess.run(["sacct"], capture_output=True, check=False).returncode
    tokens = f"budget.n_tokens=1024,{long_tokens}"
    command = [*on_slurm, "model.d_model=16", tokens, "cells_per_job=0"]
    front = begin(*command)
    cell = await_(lambda: [a for a in long_one(study) if a.step > 100])[0]
    os.kill(first_process(study), signal.SIGKILL)
    os.kill(cell.pid, signal.SIGKILL)
    said = front.communicate(timeout=120)[1]
    assert front.returncode == 1, said
    shown = json.loads(run("scaling.status", str(study), "--json").stdout)
    assert sorted(c["state"] for c in shown) == ["done", "failed"]
    again = sweep(*command)
    assert again.returncode == 0, again.stderr
    assert [r.status for r in read_records(study)] == ["done"] * 2


@pytest.fixture
def strict_accounts(own_cluster):
    """Run the test cluster's controller with accounts that must exist; as it was afterwards."""
    conf = STATE / "slurm.conf"
    os.kill(int((STATE / "started/slurmctld").read_text().split()[0]), signal.SIGTERM)
    await_(lambda: not controller_answers())
    conf.write_text(conf.read_text() + "\nAccountingStorageEnforce=associations\n")
    controller = subprocess.Popen(
        ["slurmctld", "-D"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    await_(controller_answers)
    yield
    controller.terminate()
    controller.wait()
    subprocess.run([own_cluster, "start"], check=True, capture_output=True)


def controller_answers() -> bool:
    return not subprocess.run(["scontrol", "ping"], capture_output=True, check=False).returncode


@pytest.mark.long
@pytest.mark.slurm
@pytest.mark.slow
def test_a_refused_account_is_one_sentence_and_nothing_is_submitted(
    strict_accounts, on_slurm, tmp_path
):
    cells = ["model.d_model=8,16", "budget.n_tokens=1024", "hydra.launcher.account=nobodys"]
    refused_at_once(sweep(*on_slurm, *cells), tmp_path, "set hydra.launcher.account")


@pytest.mark.long
@pytest.mark.slurm
@pytest.mark.slow
def test_a_queued_job_runs_the_code_it_was_submitted_with(cluster, on_slurm, tmp_path):
    copy = tmp_path / "checkout"
    for name in ("scaling", "conf", "hydra_plugins", "sweeps"):
        shutil.copytree(ROOT / name, copy / name)
    command = [sys.executable, "-m", "scaling.sweep", "-m", *on_slurm]
    held = [*command, "model.d_model=16", "budget.n_tokens=1024", "detach=true"]
    held += ["hydra.launcher.additional={hold: true}"]
    left = subprocess.run(held, cwd=copy, capture_output=True, text=True)
    assert left.returncode == 0, left.stderr
    (copy / "scaling/train/trunk.py").write_text("raise ImportError('edited after submission')")
    (job,) = read_jobs(tmp_path / "runs/tiny")
    subprocess.run(["scontrol", "release", job.job], check=True)
    (record,) = await_(lambda: read_records(tmp_path / "runs/tiny"))
    assert record.status == "done"
    assert job.code in os.listdir(tmp_path / "runs/tiny/.jobs")


@pytest.mark.slurm
@pytest.mark.slow
@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("hydra.launcher.partition=nowhere", "one of main, urgent"),
        ("hydra.launcher.array_size=100000", "MaxArraySize="),
        ("hydra.launcher.mem_gb=100000", "SLURM refuses the jobs"),
        ("hydra.launcher.constraint=h100", "SLURM refuses the jobs"),
        ("machine.ranks=2", "set hydra.launcher.cpus_per_task=2"),
    ],
)
def test_what_the_cluster_refuses_is_one_sentence_and_nothing_is_submitted(
    cluster, on_slurm, tmp_path, option, words
):
    done = sweep(*on_slurm, "model.d_model=8,16", "budget.n_tokens=1024", option)
    refused_at_once(done, tmp_path, words)


def refused_at_once(done: subprocess.CompletedProcess, folder: Path, words: str) -> None:
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert words in done.stderr.splitlines()[-1]
    assert not read_jobs(folder / "runs/tiny")
    queue = subprocess.run(["squeue", "-h", "-o", "%Z"], capture_output=True, text=True)
    assert str(folder) not in queue.stdout


@pytest.mark.slurm
@pytest.mark.slow
def test_a_folder_that_the_nodes_do_not_see_is_refused(cluster, on_slurm, tmp_path):
    if os.geteuid():
        pytest.skip("only root can hide a folder from the nodes")
    (tmp_path / "runs").mkdir()
    words = [sys.executable, "-m", "scaling.sweep", "-m", *on_slurm, "model.d_model=8"]
    script = f'mount -t tmpfs tmpfs {tmp_path}/runs && exec "$@"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, "sh", *words, "budget.n_tokens=1024"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1
    assert "shared with them" in done.stderr.splitlines()[-1]


@pytest.mark.long
@pytest.mark.slurm
@pytest.mark.slow
def test_random_faults_lose_nothing(cluster):
    if os.geteuid():
        pytest.skip("only root can mount the small disk that is filled")
    words = ["--cells=4", "--events=6"]
    done = subprocess.run(
        [sys.executable, "benchmarks/faults.py", *words], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"lost": 0, "duplicated": 0, "unequal": 0' in done.stdout


# --- without a SLURM: commands that stand for one -----------------------------------------------


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Put commands on the path that print what they are told."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    def make(name: str, output: str = "", error: str = "", code: int = 0) -> None:
        path = folder / name
        path.write_text(f"#!/bin/sh\ncat <<'X'\n{output}\nX\necho '{error}' >&2\nexit {code}\n")
        path.chmod(0o755)

    for name in ("squeue", "sacct", "scontrol", "sbatch", "srun", "sinfo", "scancel"):
        make(name, code=1)
    return make


def test_states_come_from_the_queue_then_from_accounting_then_from_nobody(fake):
    jobs = ["12_0", "12_1", "12_7"]
    assert slurm.states(jobs) is None
    fake("squeue", "12_0|RUNNING|n1|None")
    found = slurm.states(jobs)
    assert (found["12_0"].state, found["12_0"].node) == ("RUNNING", "n1")
    assert "12_1" not in found
    fake("sacct", "12_1|OUT_OF_MEMORY|n2|None\n12_[5-8%2]|CANCELLED by 0|None assigned|")
    found = slurm.states(jobs)
    assert [found[j].state for j in jobs] == ["RUNNING", "OUT_OF_MEMORY", "CANCELLED"]
    assert [found[j].live for j in jobs] == [True, False, False]


@pytest.mark.parametrize(
    ("said", "hint"),
    [
        ("allocation failure: Invalid partition name specified", "one of gpu, long"),
        ("error: Invalid account or account/partition combination specified", "launcher.account"),
        ("error: Batch job submission failed: Requested time limit is invalid", "cluster allows"),
    ],
)
def test_a_refusal_is_one_sentence_with_the_fix(fake, said, hint):
    fake("sbatch", error=f"sbatch: {said}", code=1)
    fake("sinfo", "gpu\nlong\ngpu")
    with pytest.raises(ValueError, match=hint) as error:
        slurm.test_only(["--partition=x"], n_jobs=3)
    assert "\n" not in str(error.value)


def test_an_array_stays_below_the_clusters_limit(fake):
    fake("scontrol", "MaxArraySize            = 1001")
    assert slurm.max_array() == 1000
    assert slurm.max_array(10) == 10
    with pytest.raises(ValueError, match="above this cluster's limit of 1000"):
        slurm.max_array(5000)


@pytest.mark.slow
def test_status_knows_queued_cells_with_slurm_gone_and_counts_a_dead_job_as_failed(fake, tmp_path):
    append(tmp_path, [{"submitting": "name"}])
    common = {"where": "slurm", "round": "r", "part": "all", "log": f"{tmp_path}/log"}
    append_jobs(tmp_path, [slurm_job(job="5_0", cells=["aa"], **common)])
    (tmp_path / "log").write_text("setting up\nmodule: command not found\n")
    gone = run("scaling.status", str(tmp_path), "--json")
    assert gone.returncode == 0
    assert json.loads(gone.stdout)[0]["state"] == "queued"
    fake("squeue", "5_0|FAILED|n1|NonZeroExitCode")
    dead = run("scaling.status", str(tmp_path))
    assert dead.returncode == 1
    assert "module: command not found" in dead.stdout


def slurm_job(**values):
    from scaling.study.jobs_file import Job

    return Job(**values)


@pytest.mark.slow
def test_no_slurm_is_one_sentence(tiny, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    done = sweep(*tiny, "model.d_model=16", "budget.n_tokens=1024", "hydra/launcher=slurm")
    assert done.returncode == 1
    assert "hydra/launcher=local" in done.stderr.splitlines()[-1]


def test_launcher_options_become_those_of_submitit_and_of_sbatch():
    options = slurm_parameters(
        partition="gpu", account="lab", constraint="a100", gpus_per_node=2, timeout_min=30,
        signal_seconds=120, setup=["module load cuda"],
        additional={"reservation": "x", "exclusive": True},
    )  # fmt: skip
    assert options["slurm_signal_delay_s"] == 120
    assert options["slurm_setup"] == ["module load cuda"]
    flags = slurm.flags_of(options)
    for flag in ("--partition=gpu", "--account=lab", "--constraint=a100", "--gpus-per-node=2",
                 "--time=30", "--mem=4096M", "--reservation=x", "--exclusive"):  # fmt: skip
        assert flag in flags


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.slurm
def test_ranks_that_srun_starts_train_one_cell(cluster, tiny, tmp_path):
    command = " ".join(f"'{a}'" for a in (*tiny, "model.d_model=16", "budget.n_tokens=6400"))
    batch = tmp_path / "batch.sh"
    batch.write_text(
        "#!/bin/bash\n"
        "export MASTER_ADDR=127.0.0.1 MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))\n"
        f"srun --ntasks=2 {sys.executable} -m scaling.sweep {command}\n"
    )
    options = ["--wait", "--partition=main", "--nodes=1", "--ntasks=2", "--mem=1G"]
    where = ["--chdir", str(ROOT), "--output", str(tmp_path / "out.txt")]
    done = subprocess.run(["sbatch", *options, *where, batch], timeout=300, check=False)
    said = (tmp_path / "out.txt").read_text()
    assert done.returncode == 0, said
    assert "2 ranks" in said
    (record,) = read_records(tmp_path / "runs/tiny")
    assert (record.status, record.steps) == ("done", 100)


@pytest.mark.long
@pytest.mark.slurm
@pytest.mark.slow
def test_a_job_starts_the_ranks_of_its_cells(cluster, on_slurm, tmp_path):
    done = sweep(
        *on_slurm,
        "model.d_model=16",
        "budget.n_tokens=3200,6400",
        "machine.ranks=2",
        "hydra.launcher.cpus_per_task=2",
    )
    assert done.returncode == 0, done.stderr
    records = read_records(tmp_path / "runs/tiny")
    assert [r.status for r in records] == ["done"] * 2
    assert {r.device_seconds / r.seconds for r in records} == {2.0}


@pytest.mark.long
@pytest.mark.slurm
@pytest.mark.slow
def test_stages_of_a_model_run_as_jobs_like_any_cell(cluster, on_slurm, tmp_path):
    pairs = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"name {i}", "completion": f"value {i % 3}"} for i in range(40)]
    pairs.write_text("".join(f"{json.dumps(r)}\n" for r in rows))
    grid = ["model.d_model=8", "budget.n_tokens=1024", "stage=sft", f"sft.data={pairs}"]
    grid += ["sft.batch_examples=4", "sft.examples=4,8"]
    done = sweep(*on_slurm, *grid)
    assert done.returncode == 0, done.stderr
    study = tmp_path / "runs/tiny"
    assert sorted(r.stage for r in read_records(study)) == ["pretrain", "sft", "sft"]
    assert len(read_jobs(study)) == 1  # the model is trained once, by the job that tunes it
    more = sweep(*on_slurm, *grid, "sft.epochs=3")
    assert more.returncode == 0, more.stderr
    assert [len(j.cells) for j in read_jobs(study)] == [2, 1, 1]


# --- inside an allocation, and time limits that come too early -----------------------------------


@pytest.mark.long
@pytest.mark.slurm
@pytest.mark.slow
@pytest.mark.parametrize(
    "start",
    [
        ["salloc", "--quiet", "--ntasks=2", "--mem-per-cpu=200M"],
        ["srun", "--ntasks=1", "--mem-per-cpu=300M"],
    ],
    ids=["salloc", "srun"],
)
def test_a_sweep_from_inside_an_allocation_submits_jobs_that_train(
    cluster, on_slurm, tmp_path, start
):
    words = [sys.executable, "-m", "scaling.sweep", "-m", *on_slurm, "model.d_model=8,16"]
    done = subprocess.run(
        [*start, "--partition=main", "--time=5", *words, "budget.n_tokens=1024"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [r.status for r in read_records(tmp_path / "runs/tiny")] == ["done"] * 2


@pytest.fixture
def slow_imports(tmp_path, monkeypatch):
    """Let every job wait in its imports until a file is there; return it."""
    folder, go = tmp_path / "slow", tmp_path / "go"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(
        "import os, sys, time\n"
        f"while 'submitit.core._submit' in sys.orig_argv and not os.path.exists({str(go)!r}):\n"
        f"    open({str(folder / 'here')!r}, 'a').close()\n"
        "    time.sleep(0.1)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return go


@pytest.mark.long
@pytest.mark.slurm
@pytest.mark.slow
def test_a_time_limit_that_is_signalled_during_imports_is_heard_after_them(
    cluster, on_slurm, tmp_path, slow_imports
):
    study = tmp_path / "runs/tiny"
    short = ["hydra.launcher.timeout_min=1", "hydra.launcher.signal_seconds=60"]
    front = begin(*on_slurm, *short, "model.d_model=16", "budget.n_tokens=1024")
    await_(lambda: (tmp_path / "slow/here").exists())
    (job,) = read_jobs(study)
    subprocess.run(["scancel", "--signal=USR2", job.job], check=True)
    time.sleep(1)
    slow_imports.touch()
    while front.poll() is None:
        hasten()
        time.sleep(1)
    said = front.communicate()[1]
    assert front.returncode == 0, said
    assert outcomes(study) == ["timeout", "done"]
    assert len(read_jobs(study)) == 1


@pytest.mark.long
@pytest.mark.slurm
@pytest.mark.slow
def test_a_job_that_its_time_limit_ends_during_imports_is_submitted_again_without_a_retry(
    cluster, on_slurm, tmp_path, slow_imports
):
    study = tmp_path / "runs/tiny"
    # SLURM counts in minutes and looks twice a minute: the job lives a minute or two.
    short = ["hydra.launcher.timeout_min=1", "retry=0"]
    front = begin(*on_slurm, *short, "model.d_model=16", "budget.n_tokens=1024")
    await_(lambda: read_jobs(study))
    (first,) = read_jobs(study)
    await_(lambda: not (slurm.states([first.job]) or {})[first.job].live)
    slow_imports.touch()
    said = front.communicate(timeout=120)[1]
    assert front.returncode == 0, said
    assert "ended as TIMEOUT" in said
    assert "before the cell began; it is submitted again" in said
    assert outcomes(study) == ["done"]
    assert len(read_jobs(study)) == 2
