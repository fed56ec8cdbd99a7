"""What a pool does with processes that ended, without starting any."""

import os
from dataclasses import replace
from types import SimpleNamespace

import pytest

from scaling.jobs.pool import FRUITLESS, Pool, Running
from scaling.jobs.stalls import ProcessWatch
from scaling.jobs.tasks import ExitCode, JobTasks, Task
from scaling.schema import read_record
from scaling.study import failures as failure
from scaling.study.lease import Holder, Lease, Pulse, Stopped, attempts, last_attempt, take
from scaling.study.lease import write_attempt as written
from scaling.study.places import cell_folder, record_path, status_of


@pytest.fixture
def cell(make_cell):
    return make_cell()


def pool(*cells, retry=0) -> Pool:
    return Pool(
        job_tasks=JobTasks(round="r", tasks=[Task(cells=list(cells))], retry=retry), job="local-1"
    )


def ended(the_pool: Pool, cells, code: int, *, stalled: str = "", before: int = 0) -> None:
    """Let a process of this number end with a code."""
    process, task = SimpleNamespace(pid=os.getpid(), exitcode=code), Task(cells=list(cells))
    running = Running(process, [task], 0, [before], ProcessWatch.of(os.getpid(), [task], 0.0))
    running.stalled.extend([stalled] if stalled else [])
    the_pool.waiting.clear()
    the_pool.handle_end(running)


def begin(cell, step: int = 0) -> None:
    folder = cell_folder(cell)
    take(folder, Holder.here(round="r", job="local-1"))
    written(folder, replace(last_attempt(folder), step=step))


@pytest.mark.parametrize("code", [0, 1, ExitCode.STOPPED, -9, 70])
def test_an_attempt_that_a_process_left_open_is_its_failure_whatever_its_exit_code(cell, code):
    the_pool = pool(cell)
    begin(cell)
    ended(the_pool, [cell], code)
    (attempt,) = attempts(cell_folder(cell))
    assert (attempt.outcome, attempt.final) == ("failed", True)
    assert not the_pool.waiting
    assert read_record(record_path(cell)).status == "failed"


def test_a_stalled_process_costs_no_retry_and_its_cell_is_taken_again(cell):
    the_pool = pool(cell)
    begin(cell, step=10)
    ended(the_pool, [cell], -9, stalled="its process hung")
    (attempt,) = attempts(cell_folder(cell))
    assert (attempt.outcome, attempt.error, attempt.final) == ("stalled", "its process hung", False)
    assert [t.cells for t in the_pool.waiting] == [[cell]]


def test_attempts_that_stall_at_the_same_step_are_capped_with_the_reason(cell):
    the_pool = pool(cell, retry=5)
    for n in range(FRUITLESS):
        assert status_of(cell) == "missing"
        begin(cell, step=10 - n)
        ended(the_pool, [cell], -9, stalled="its process hung at step 10")
    assert not the_pool.waiting
    record = read_record(record_path(cell))
    assert record.status == "failed"
    assert "3 attempts ended without a result and without one more step than 10" in record.error
    assert "its process hung at step 10" in record.error


def test_attempts_that_stall_further_on_each_time_are_not_capped(cell):
    the_pool = pool(cell)
    for n in range(2 * FRUITLESS):
        begin(cell, step=10 * n)
        ended(the_pool, [cell], -9, stalled="its process was stopped")
    assert len(the_pool.waiting) == 1


def test_a_cell_that_somebody_stops_is_taken_again_as_often_as_that(cell):
    the_pool = pool(cell)
    for _ in range(2 * FRUITLESS):
        with pytest.raises(Stopped), Lease(cell_folder(cell), holder(), Pulse()):
            raise Stopped("stopped")
        ended(the_pool, [cell], ExitCode.STOPPED)
        assert len(the_pool.waiting) == 1


def holder() -> Holder:
    return Holder.here(round="r", job="local-1")


def test_a_failure_that_cannot_be_written_ends_the_cell_and_not_the_pool(cell, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    the_pool = pool(cell, retry=3)
    begin(cell)
    monkeypatch.setattr(failure, "write_attempt", full)
    monkeypatch.setattr("scaling.study.lease.write_attempt", full)
    ended(the_pool, [cell], -9)
    assert not the_pool.remaining(Task(cells=[cell]))
