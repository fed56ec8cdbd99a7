"""Processes that stop or hang, as the pool sees them."""

import os
import signal
import subprocess
import time
from dataclasses import replace

import pytest

from scaling.jobs.stalls import LONGEST_GAP, PATIENCE, ProcessWatch
from scaling.jobs.tasks import Task
from scaling.schema.process import process_state
from scaling.study.lease import Holder, Lease, Pulse, last_attempt, take, write_attempt
from scaling.study.places import cell_folder

pytestmark = pytest.mark.alone


@pytest.fixture
def sleeper():
    process = subprocess.Popen(["sleep", "100"])
    yield process
    process.kill()
    process.wait()


def watch_of(cell, pid: int) -> ProcessWatch:
    cell.machine.stopped_seconds, cell.machine.hang_seconds = 10.0, 30.0
    return ProcessWatch.of(pid, [Task(cells=[cell])], 0.0)


def holder(pid: int) -> Holder:
    return replace(Holder.here(round="r", job="a"), pid=pid)


def await_state(pid: int, letter: str) -> None:
    while process_state(pid) != letter:
        time.sleep(0.01)


def test_a_stopped_process_is_ended_after_its_time_and_a_woken_one_is_not(make_cell, sleeper):
    watch = watch_of(make_cell(), sleeper.pid)
    os.kill(sleeper.pid, signal.SIGSTOP)
    await_state(sleeper.pid, "T")
    assert not any(watch.look(t) for t in (2.0, 4.0, 6.0, 8.0, 10.0))
    os.kill(sleeper.pid, signal.SIGCONT)
    await_state(sleeper.pid, "S")
    assert not watch.look(12.0)
    os.kill(sleeper.pid, signal.SIGSTOP)
    await_state(sleeper.pid, "T")
    assert not any(watch.look(t) for t in (14.0, 16.0, 18.0, 20.0, 22.0))
    assert "was stopped (SIGSTOP) for 12 s" in watch.look(24.0)


def test_a_pool_that_slept_itself_stalls_nothing(make_cell, sleeper):
    watch = watch_of(make_cell(), sleeper.pid)
    os.kill(sleeper.pid, signal.SIGSTOP)
    await_state(sleeper.pid, "T")
    assert not watch.look(3600.0)  # a suspended job: all of it wakes, one process after another
    assert watch.stopped == LONGEST_GAP


def test_a_process_that_beats_and_does_not_move_is_ended(make_cell):
    cell = make_cell()
    watch, folder = watch_of(cell, os.getpid()), cell_folder(cell)
    with Lease(folder, Holder.here(round="r", job="a"), Pulse()):
        for t in range(2, 62, 2):  # it moves, once in four seconds
            write_attempt(folder, replace(last_attempt(folder), step=t, moves=1 + t // 4))
            assert not watch.look(float(t))
        silent = [watch.look(float(t)) for t in range(62, 160, 2)]
    assert watch.longest == 4.0
    assert watch.deadline == max(30.0, PATIENCE * 4.0)
    why = next(filter(None, silent))
    assert silent.index(why) == 40
    assert "hung at step 60: it moved nothing for 82 s, more than 80 s" in why


def test_what_a_process_takes_to_import_and_compile_is_no_measure_of_its_steps(make_cell):
    cell = make_cell()
    watch, folder = watch_of(cell, os.getpid()), cell_folder(cell)
    assert not any(watch.look(float(t)) for t in range(2, 12, 2))
    take(folder, Holder.here(round="r", job="a"))
    assert not any(watch.look(float(t)) for t in range(12, 30, 2))
    write_attempt(folder, replace(last_attempt(folder), moves=1))
    assert not watch.look(30.0)
    assert (watch.longest, watch.deadline) == (0.0, 30.0)


def test_a_process_that_never_takes_its_work_is_ended_too(make_cell):
    watch = watch_of(make_cell(), os.getpid())
    why = [watch.look(float(t)) for t in range(2, 40, 2)]
    assert "hung before its first step" in why[-1]
