"""One cell trained by two processes: as one process would, through kills and signals."""

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from scaling.config import BudgetConfig, CellConfig, MachineConfig, OptimConfig
from scaling.jobs.cell_states import cancel, read_status
from scaling.jobs.external_ranks import train_on_ranks
from scaling.schema import process_start, read_curve, read_records
from scaling.study.lease import Held, Holder, attempts, last_attempt, take
from scaling.train.forecast_band import ForecastBand
from scaling.train.local_ranks import LocalRanks, RankJob, start_local_ranks
from scaling.train.ranks import World, hold_at_all_ranks, join_launched_ranks, started_ranks

pytestmark = pytest.mark.alone
ROOT = Path(__file__).resolve().parents[3]
RANKS = ["-m", "torch.distributed.run", "--nproc-per-node=2", "-m", "scaling.sweep"]
MODELS = {
    "passes": ["model.norm=rmsnorm"],
    "autograd": ["model.norm=layernorm", "machine.micro_batch=1"],
    "sharded": ["machine.shard=true", "machine.micro_batch=1", "model.n_layer=2"],
    "sharded, recomputed": ["machine.shard=true", "machine.activation_checkpointing=true"],
}


def begin(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *arguments],
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"},
    )


def run(*arguments: str) -> str:
    process = begin(*arguments)
    output = process.communicate(timeout=240)[1]
    assert process.returncode == 0, output
    return output


@pytest.fixture(scope="module")
def tiny(corpus_folder) -> list[str]:
    return [
        "~sweeps", "study=tiny", "data=files", f"data.train=[{corpus_folder}]",
        "data.test_share=0.2", "data.context=32", "tokenizer.vocab_size=300",
        "model.n_layer=1", "model.d_model=16", "model.d_head=8", "optim.batch_tokens=128",
        "eval.test_tokens=512", "eval.curve_tokens=128", "log.wandb=disabled",
        "machine.device=cpu", f"machine.cache={corpus_folder.parent}/cache",
    ]  # fmt: skip


def losses(folder: Path) -> list[float]:
    (record,) = read_records(folder / "tiny")
    rows = read_curve(folder / "tiny" / record.run_id / "metrics.jsonl")
    assert len({r["step"] for r in rows}) == len(rows)
    return [record.test_loss, *(r["train_loss"] for r in rows if "train_loss" in r)]


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_two_ranks_train_as_one_process(tiny, tmp_path, model):
    command = [*tiny, *model, "budget.n_tokens=6400"]
    output = run(*RANKS, *command, f"runs={tmp_path}/two")
    assert "2 ranks" in output
    assert output.count("done, test loss") == 1
    run("-m", "scaling.sweep", *command, f"runs={tmp_path}/one")
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-5)
    (two,), (one,) = (read_status(tmp_path / name / "tiny") for name in ("two", "one"))
    assert (two.run_id, two.state, two.attempt) == (one.run_id, "done", 1)


def children(process: subprocess.Popen[str]) -> list[int]:
    found = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(pid) for pid in found]


def under_way(process: subprocess.Popen[str], folder: Path) -> list[int]:
    """Wait for a checkpoint; return the ranks' processes."""
    for _ in range(2400):
        if list(folder.glob("tiny/**/checkpoint.safetensors")):
            return sorted(children(process))
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    raise AssertionError("no checkpoint was written")


@pytest.fixture(scope="module")
def long(tiny) -> list[str]:
    return [*tiny, "budget.n_tokens=480000", "machine.checkpoint_seconds=0.3"]


@pytest.fixture(scope="module")
def quiet(long, tmp_path_factory) -> list[float]:
    """The losses of two ranks that nobody disturbs."""
    folder = tmp_path_factory.mktemp("quiet")
    run(*RANKS, *long, f"runs={folder}")
    return losses(folder)


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs /proc to find the ranks")
@pytest.mark.parametrize(
    ("number", "words"),
    [
        (signal.SIGKILL, "Signal 9"),
        (signal.SIGUSR2, "preempted at step"),
        (signal.SIGSTOP, "hangs: it has given no sign of life for "),
    ],
    ids=["killed", "preempted", "stopped"],
)
def test_a_rank_that_is_lost_or_told_to_stop_ends_both_and_the_cell_resumes(
    long, quiet, tmp_path, number, words
):
    process = begin(*RANKS, *long, "machine.hang_seconds=5", f"runs={tmp_path}")
    os.kill(under_way(process, tmp_path)[1], number)
    output = process.communicate(timeout=120)[1]
    assert process.returncode != 0
    assert words in output
    assert not list(tmp_path.glob("tiny/*/record.json"))
    run(*RANKS, *long, f"runs={tmp_path}")
    assert losses(tmp_path) == quiet
    (status,) = read_status(tmp_path / "tiny")
    assert (status.state, status.attempt) == ("done", 2)


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs /proc to find the ranks")
def test_ranks_hold_their_cell_and_are_cancelled_like_any_job(long, quiet, tmp_path):
    process = begin(*RANKS, *long, f"runs={tmp_path}")
    under_way(process, tmp_path)
    (status,) = read_status(tmp_path / "tiny")
    assert status.state == "running"
    refused = begin(*RANKS, *long, f"runs={tmp_path}")
    assert "is held by job local-" in refused.communicate(timeout=120)[1]
    assert refused.returncode != 0
    assert cancel(tmp_path / "tiny") == 1
    assert "stopped at step" in process.communicate(timeout=120)[1]
    (status,) = read_status(tmp_path / "tiny")
    assert (status.state, status.step > 0) == ("stopped", True)
    run("-m", "scaling.sweep", *long, f"runs={tmp_path}")
    found, rows = losses(tmp_path), read_curve(next(tmp_path.glob("tiny/*/metrics.jsonl")))
    kept = sum(r["step"] <= status.step for r in rows)
    assert kept
    assert found[1 : 1 + kept] == quiet[1 : 1 + kept]  # of the two ranks, to the bit
    assert found == pytest.approx(quiet, rel=5e-2)  # of one process after: rounding grows


def ranks(n: int) -> list[str]:
    return [part.replace("=2", f"={n}") for part in RANKS]


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs /proc to find the ranks")
def test_a_sharded_cell_that_was_killed_resumes_on_any_number_of_ranks(tiny, tmp_path):
    sharded = [
        *tiny,
        "machine.shard=true",
        "budget.n_tokens=51200",
        "machine.checkpoint_seconds=.2",
    ]
    run(*RANKS, *sharded, f"runs={tmp_path}/quiet")
    quiet = losses(tmp_path / "quiet")
    process = begin(*RANKS, *sharded, f"runs={tmp_path}/two")
    os.kill(under_way(process, tmp_path / "two")[1], signal.SIGKILL)
    process.communicate(timeout=120)
    shards = (tmp_path / "two").glob("tiny/**/checkpoint.shards-*/*.safetensors")
    assert len(list(shards)) >= 2
    for name, start in (("again", RANKS), ("four", ranks(4)), ("one", ["-m", "scaling.sweep"])):
        shutil.copytree(tmp_path / "two", tmp_path / name)
        run(*start, *sharded, f"runs={tmp_path}/{name}")
        wanted = quiet if name == "again" else pytest.approx(quiet, rel=1e-4)
        assert losses(tmp_path / name) == wanted
        (record,) = read_records(tmp_path / name / "tiny")
        found = tmp_path / name / "tiny" / record.run_id / "model.safetensors"
        with safe_open(found, framework="pt") as weights:
            assert weights.get_tensor("model.embedding.weight").shape == (300, 16)


def all_losses(study: Path) -> dict[str, list[float]]:
    """Return test loss and curve of each cell of a study."""
    found = {}
    for record in read_records(study):
        assert record.status == "done", record.error
        rows = read_curve(study / record.run_id / "metrics.jsonl")
        found[record.run_id] = [
            record.test_loss,
            *(r["train_loss"] for r in rows if "train_loss" in r),
        ]
    return found


@pytest.mark.many(2)
@pytest.mark.slow
@pytest.mark.parametrize("name", ["passes", "sharded"])
def test_a_sweep_starts_the_ranks_of_every_branch_of_a_trunk(tiny, tmp_path, name):
    command = ["-m", "scaling.sweep", "-m", *tiny, *MODELS[name], "budget.n_tokens=3200,6400"]
    run(*command, "machine.ranks=2", f"runs={tmp_path}/two")
    run(*command, f"runs={tmp_path}/one")
    two, one = (all_losses(tmp_path / n / "tiny") for n in ("two", "one"))
    assert two.keys() == one.keys()
    assert len(one) == 2
    for cell, found in one.items():
        assert two[cell] == pytest.approx(found, rel=1e-5)
    assert {r.device_seconds / r.seconds for r in read_records(tmp_path / "two/tiny")} == {2.0}


def rank_0(folder: Path) -> int:
    """Wait for a checkpoint of the sweep in a folder; return the process of rank 0."""
    for _ in range(2400):
        if list(folder.glob("tiny/**/checkpoint.safetensors")):
            (trunk,) = folder.glob("tiny/.trunks/*")
            return last_attempt(trunk).pid
        time.sleep(0.05)
    raise AssertionError("no checkpoint was written")


def of(pid: int) -> list[int]:
    """Return the processes that train beside a rank 0."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(p) for p in found if b"spawn_main" in Path(f"/proc/{p}/cmdline").read_bytes()]


def gone(pid: int) -> bool:
    for _ in range(200):
        if process_start(pid) is None:
            return True
        time.sleep(0.1)
    return False


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs /proc to find the ranks")
@pytest.mark.parametrize("killed", ["first", "second"])
def test_a_sweeps_rank_that_is_lost_ends_both_and_the_cell_resumes(long, quiet, tmp_path, killed):
    command = ["-m", "scaling.sweep", *long, "machine.ranks=2", f"runs={tmp_path}"]
    process = begin(*command)
    first = rank_0(tmp_path)
    (second,) = of(first)
    os.kill(first if killed == "first" else second, signal.SIGKILL)
    output = process.communicate(timeout=120)[1]
    assert process.returncode == 1
    assert gone(second)
    assert "ended by SIGKILL" in output
    if killed == "second":
        assert "rank 1 of 2 was lost: its process was ended by SIGKILL" in output
    run(*command)
    assert losses(tmp_path) == quiet
    (record,) = read_records(tmp_path / "tiny")
    assert [a.outcome for a in attempts(tmp_path / "tiny" / record.run_id)] == ["failed", "done"]


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_every_thread_that_asks_is_told_which_rank_was_lost(tmp_path):
    for _ in range(20):  # the pipe of a killed process is closed before it has an exit status
        context = multiprocessing.get_context("fork")
        process = context.Process(target=time.sleep, args=(60,), daemon=True)
        process.start()
        job = RankJob(
            cells=[CellConfig(machine=MachineConfig(ranks=2), budget=BudgetConfig(n_tokens=1000))],
            part="all",
            band=ForecastBand(),
            folder=tmp_path,
            first_gpu=None,
        )
        ranks = LocalRanks(job, [process])
        with ThreadPoolExecutor(2) as threads:
            told = [threads.submit(ranks.lost, within=5.0) for _ in range(2)]
            os.kill(process.pid, signal.SIGKILL)
        assert all("rank 1 of 2 was lost: its process was ended" in t.result() for t in told)


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs /proc to find the ranks")
def test_a_sweeps_rank_that_hangs_is_named_and_the_cell_is_tried_again(long, quiet, tmp_path):
    command = [*long, "machine.ranks=2", "machine.hang_seconds=15", "retry=1", f"runs={tmp_path}"]
    process = begin("-m", "scaling.sweep", *command)
    (second,) = of(rank_0(tmp_path))
    os.kill(second, signal.SIGSTOP)
    output = process.communicate(timeout=400)[1]
    assert process.returncode == 0, output
    assert gone(second)
    assert f"rank 1 of 2 (process {second} on " in output
    assert "hangs: it has given no sign of life for " in output
    assert losses(tmp_path) == quiet
    (record,) = read_records(tmp_path / "tiny")
    assert [a.outcome for a in attempts(tmp_path / "tiny" / record.run_id)] == ["failed", "done"]


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs /proc to find the ranks")
def test_a_sweeps_ranks_are_cancelled_together_and_go_on(long, quiet, tmp_path):
    command = ["-m", "scaling.sweep", *long, "machine.ranks=2", f"runs={tmp_path}"]
    process = begin(*command)
    (second,) = of(rank_0(tmp_path))
    assert cancel(tmp_path / "tiny") == 1
    process.communicate(timeout=120)
    assert gone(second)
    (status,) = read_status(tmp_path / "tiny")
    assert (status.state, status.step > 0) == ("cancelled", True)
    run(*command)
    assert losses(tmp_path) == quiet


def test_the_other_ranks_hold_a_cell_where_the_first_does(tmp_path):
    cell = CellConfig(budget=BudgetConfig(n_tokens=1000))
    holder = Holder.here(round="r", job="j")

    class Both(World):
        """The second of two ranks, which hears of an attempt."""

        def share(self, value: object) -> object:
            return take(tmp_path, holder)

    def never(cell: CellConfig, folder: Path) -> None:
        raise AssertionError("the first rank's alone")

    with pytest.raises(Held), hold_at_all_ranks(Both(rank=1, size=2), never)(cell, tmp_path):
        pass


def test_ranks_without_a_gpu_each_or_started_twice_are_refused(monkeypatch):
    with pytest.raises(ValueError, match=r"machine\.ranks=0 is out of range; set a number from 1"):
        MachineConfig(ranks=0)
    cell = CellConfig(machine=MachineConfig(ranks=2), budget=BudgetConfig(n_tokens=1000))
    with pytest.raises(ValueError, match="leave it out under torchrun or srun"):
        train_on_ranks(cell)
    for name, value in {"is_available": True, "device_count": 2, "current_device": 1}.items():
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    with (
        pytest.raises(ValueError, match=r"needs a GPU each, from GPU 1 on, and 2 are here"),
        start_local_ranks([cell]),
    ):
        pass


def test_sharded_matrices_are_refused_to_muon():
    with pytest.raises(ValueError, match=r"optim\.name.*machine\.shard=true .*adamw"):
        CellConfig(
            optim=OptimConfig(name="muon"),
            machine=MachineConfig(shard=True),
            budget=BudgetConfig(n_tokens=1000),
        )


def test_rows_that_ranks_cannot_share_are_refused():
    with pytest.raises(ValueError, match=r"8 rows of a step cannot be shared by 3 ranks; set"):
        World(rank=0, size=3).rows(8)
    batch = torch.arange(8)[:, None]
    assert [World(rank=r, size=4).part(batch).flatten().tolist() for r in (0, 3)] == [
        [0, 1],
        [6, 7],
    ]


def test_an_ordinary_process_is_alone(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    assert started_ranks() == 1
    monkeypatch.setenv("SLURM_NTASKS", "4")  # of an allocation, not of ranks that know each other
    assert started_ranks() == 1
    alone = join_launched_ranks("cpu")
    assert (alone.size, alone.first, alone.share("x")) == (1, True, "x")
    assert alone.gravest("preempted", False, torch.device("cpu")) == ("preempted", False)
    value = torch.ones(2)
    assert alone.mean_(value) is value


def test_ranks_are_known_by_torchrun_or_srun(monkeypatch):
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SLURM_NTASKS", "4")
    monkeypatch.delenv("SLURM_STEP_ID", raising=False)
    with pytest.raises(ValueError, match=r"SLURM_NTASKS=4 .* start it with srun --ntasks=4"):
        started_ranks()
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")  # a shell in the job, not one of its ranks
    with pytest.raises(ValueError, match="srun did not start this process"):
        started_ranks()
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    assert started_ranks() == 4
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert started_ranks() == 2


def test_more_ranks_than_gpus_are_refused(monkeypatch):
    for name, value in {
        "RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "localhost",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match=r"rank 1 has no GPU of its own \(1 here\)"):
        join_launched_ranks("cuda")
