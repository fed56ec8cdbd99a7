"""Which ranks are there: roll call, beats, the rank that hangs."""

import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from scaling.config import MachineConfig
from scaling.train.presence import Beat, FolderBoard, LastBeat, Presence, roll_call
from scaling.train.ranks import own_gpu, refuse_shared_gpus

pytestmark = pytest.mark.alone
ROOT = Path(__file__).resolve().parents[3]
RANK = """
import logging, os, sys, time
from scaling.train import rank_exit
from scaling.config import MachineConfig
from scaling.train.ranks import launched_ranks
logging.basicConfig(level=logging.INFO, format="%(message)s")

def main():
    with launched_ranks(MachineConfig(device="cpu", hang_seconds=4, meet_seconds=9)) as world:
        world.share("met")
        {inside}

def start():
    try:
        main()
    except (RuntimeError, ValueError) as error:
        sys.exit(f"error: {error}")

rank_exit.run_to_end(start)
"""


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Ranks:
    """Processes that do something together."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.started = folder, []

    def __call__(self, inside: str = "pass", ranks: tuple[int, ...] = (0, 1)) -> list:
        script, port = self.folder / "rank.py", free_port()
        script.write_text(RANK.replace("{inside}", inside))
        known = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        known |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        for r in ranks:
            said = self.folder / f"{r}.txt"
            with said.open("w") as stream:
                process = subprocess.Popen(
                    [sys.executable, script],
                    env=os.environ | known | {"RANK": str(r), "LOCAL_RANK": str(r)},
                    stderr=stream,
                )
            self.started.append((process, said))
        return [process for process, _ in self.started]

    def ends(self) -> list[tuple[int, str]]:
        return [(process.wait(120), said.read_text()) for process, said in self.started]


@pytest.fixture
def start(tmp_path):
    """Start ranks; end those that are left."""
    found = Ranks(tmp_path)
    yield found
    for process, _ in found.started:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_ranks_that_nobody_joins_say_whom_they_wait_for_and_end(start):
    start(ranks=(0,))
    ((code, said),) = start.ends()
    assert code == 1
    waits, error = said.splitlines()
    assert "rank 0 of 2 waits for rank 1 at 127.0.0.1:" in waits
    assert "9 s at the most (machine.meet_seconds)" in waits
    assert error.startswith("error: rank 0 of 2 waited 9 s for rank 1 at 127.0.0.1:")


@pytest.mark.slow
def test_a_rank_whose_store_is_not_there_names_rank_0(start):
    start(ranks=(1,))
    ((code, said),) = start.ends()
    assert code == 1
    assert "rank 1 of 2 waits for rank 0 at 127.0.0.1:" in said
    assert "error: rank 1 of 2 waited 9 s for rank 0" in said.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize("hung", [0, 1])
def test_a_rank_that_sleeps_is_named_by_the_other(start, hung):
    inside = f"time.sleep(1000) if world.rank == {hung} else world.all_of(1)"
    start(inside)
    found = start.ends()
    assert found[hung][0] == -signal.SIGKILL
    code, said = found[1 - hung]
    assert code == 1
    assert f"error: rank {hung} of 2 (process " in said
    assert "hangs: the others have waited for it for" in said
    assert "the same command goes on from the last checkpoint" in said


@pytest.mark.slow
@pytest.mark.parametrize("hung", [0, 1])
def test_a_rank_that_is_stopped_is_named_by_the_other(start, tmp_path, hung):
    mark = tmp_path / "here"
    inside = (
        f"open({str(mark)!r}, 'a').close(); [world.all_of(time.sleep(0.01)) for _ in iter(int, 1)]"
    )
    processes = start(inside)
    while not mark.exists():
        time.sleep(0.1)
    time.sleep(2)  # a few beats: before the first one nobody knows its process
    os.kill(processes[hung].pid, signal.SIGSTOP)
    found = start.ends()
    code, said = found[1 - hung]
    assert (found[hung][0], code) == (-signal.SIGKILL, 1)
    assert f"error: rank {hung} of 2 (process {processes[hung].pid} on " in said
    assert "hangs" in said


@pytest.mark.slow
def test_a_rank_that_works_alone_is_waited_for(start):
    inside = (
        "world.first and [c.__enter__() for c in [world.busy('reads')]] and time.sleep(12);"
        " world.presence.__setattr__('doing', ''); print(world.all_of(1))"
    )
    start(inside)
    assert [code for code, _ in start.ends()] == [0, 0]


def presence(tmp_path: Path, *, entered: int, beat: Beat, moved: float) -> Presence:
    found = Presence(FolderBoard(tmp_path), 0, 2, 10.0, entered=entered)
    found.last_beats = {1: LastBeat(beat, 100.0, moved)}
    found._board_answered_at, found._entered_at = 100.0, 90.0
    return found


def test_only_a_rank_that_is_behind_the_others_is_named(tmp_path):
    beat = Beat.here(1)
    behind = presence(tmp_path, entered=5, beat=replace(beat, entered=4), moved=80.0)
    assert behind.hung(105.0)[0] == 1
    assert behind.hung(99.0) == (None, "")  # not yet
    busy = replace(beat, entered=4, doing="reads the corpus")
    assert presence(tmp_path, entered=5, beat=busy, moved=80.0).hung(105.0) == (None, "")
    ahead = presence(tmp_path, entered=4, beat=replace(beat, entered=5), moved=80.0)
    assert ahead.hung(105.0) == (None, "")  # this rank is the one that is waited for
    gone = presence(tmp_path, entered=5, beat=replace(beat, entered=4, left=True), moved=80.0)
    assert gone.hung(109.0) == (None, "")
    silent = presence(tmp_path, entered=0, beat=beat, moved=80.0)
    silent._board_answered_at = 111.0
    assert "no sign of life for 11 s" in silent.hung(111.0)[1]


def test_ranks_that_all_stand_still_are_ended_later(tmp_path):
    same = presence(tmp_path, entered=5, beat=replace(Beat.here(1), entered=5), moved=80.0)
    assert same.hung(105.0) == (None, "")
    same.last_beats[1].at = same._board_answered_at = 111.0
    assert same.hung(111.0) == (None, "no rank has gone any further for 21 s")


def test_a_roll_call_returns_what_each_rank_said(tmp_path):
    board = FolderBoard(tmp_path)
    board.write("here-1", "b gpu1")
    there = roll_call(board, rank=0, size=2, where="here", seconds=5, description="a gpu0")
    assert there == ["a gpu0", "b gpu1"]


def test_two_ranks_on_one_gpu_are_refused():
    refuse_shared_gpus(["a 1", "b 1", "a 2", "a ", "a "])
    with pytest.raises(ValueError, match=r"ranks 0 and 2 have one GPU of a together"):
        refuse_shared_gpus(["a 1", "b 1", "a 1"])


@pytest.fixture
def gpus(monkeypatch):
    for name in ("RANK", "SLURM_STEP_ID", "SLURM_GPUS_PER_TASK", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)

    def make(count: int, **environment: str) -> None:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)

    return make


def test_srun_shows_each_rank_its_own_gpu(gpus):
    gpus(1, SLURM_STEP_ID="0", CUDA_VISIBLE_DEVICES="3")
    assert own_gpu(3, 3) == 0
    gpus(2, SLURM_GPUS_PER_TASK="2", CUDA_VISIBLE_DEVICES="2,3")
    assert own_gpu(1, 1) == 0


def test_srun_shows_all_ranks_the_gpus_of_their_node(gpus):
    gpus(2, SLURM_STEP_ID="0", CUDA_VISIBLE_DEVICES="0,1")
    assert [own_gpu(r, r) for r in (0, 1)] == [0, 1]
    with pytest.raises(ValueError, match="rank 2 has no GPU of its own"):
        own_gpu(2, 2)


def test_torchrun_shows_all_ranks_the_gpus_of_their_node(gpus):
    gpus(1, RANK="1", CUDA_VISIBLE_DEVICES="0")
    with pytest.raises(ValueError, match="rank 1 has no GPU of its own"):
        own_gpu(1, 1)


def test_time_limits_of_ranks_are_seconds():
    with pytest.raises(ValueError, match=r"machine\.meet_seconds=0 is out of range"):
        MachineConfig(meet_seconds=0)
    with pytest.raises(ValueError, match=r"machine\.hang_seconds=-1 is out of range"):
        MachineConfig(hang_seconds=-1)
