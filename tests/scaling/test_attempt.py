import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace

import pytest

from scaling import attempt
from scaling.attempt import (
    Held,
    Holder,
    Lease,
    Pulse,
    Stopped,
    attempt_path,
    attempts,
    failures,
    last_attempt,
    process_started,
    settled,
    take,
)


def holder(job="a", **changes) -> Holder:
    """A holder on another machine, which only its heartbeat tells about."""
    return replace(Holder.here(round="r", job=job), machine="elsewhere", **changes)


def age(folder, seconds):
    path = attempt_path(folder, last_attempt(folder).attempt)
    then = time.time() - seconds
    os.utime(path, (then, then))


def test_of_many_that_take_the_same_work_exactly_one_gets_it(tmp_path):
    def one(i):
        try:
            return take(tmp_path, holder(f"job{i}"))
        except Held:
            return None

    with ThreadPoolExecutor(16) as pool:
        found = [a for a in pool.map(one, range(64)) if a]
    assert len(found) == 1
    assert attempts(tmp_path) == found


def test_processes_that_race_for_a_stale_lease_make_one_new_attempt(tmp_path):
    take(tmp_path, holder())
    age(tmp_path, attempt.STALE_SECONDS + 10)
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom scaling.attempt import *\n"
        "me = Holder.here(round='r', job=sys.argv[2])\n"
        "try: take(Path(sys.argv[1]), me)\nexcept Held: sys.exit(3)\ntime.sleep(3)"
    )
    racers = [subprocess.Popen([sys.executable, "-c", code, tmp_path, f"b{i}"]) for i in range(4)]
    assert sorted(r.wait() for r in racers) == [0, 3, 3, 3]
    old, new = attempts(tmp_path)
    assert (old.outcome, new.outcome) == ("failed", None)


def test_a_silent_holder_is_taken_over_and_a_beating_one_is_not(tmp_path):
    take(tmp_path, holder())
    with pytest.raises(Held, match="held by job a"):
        take(tmp_path, holder("b"))
    age(tmp_path, attempt.STALE_SECONDS + 10)
    assert take(tmp_path, holder("b")).attempt == 2


def test_a_holder_seen_to_be_gone_is_taken_over_at_once(tmp_path):
    here = Holder.here(round="r", job="a")
    take(tmp_path, replace(here, pid_started=here.pid_started - 1))
    assert take(tmp_path, here).attempt == 2
    assert "ended without a word" in attempts(tmp_path)[0].error


def test_a_requeued_job_takes_its_own_work_back_and_that_is_no_failure(tmp_path):
    take(tmp_path, holder("7_0", pid=1))
    take(tmp_path, holder("7_0", pid=2))
    assert [a.outcome for a in attempts(tmp_path)] == ["preempted", None]
    assert failures(attempts(tmp_path), "r") == 0


def test_a_holder_that_was_taken_over_is_told_to_stop(tmp_path, monkeypatch):
    monkeypatch.setattr(attempt, "BEAT_SECONDS", 0.02)
    pulse = Pulse()
    with suppress(Stopped), Lease(tmp_path, holder("7_0", pid=1), pulse):
        take(tmp_path, holder("7_0", pid=2))
        while not pulse.stop:
            time.sleep(0.01)
        raise Stopped(pulse.stop)
    assert next(a.outcome for a in attempts(tmp_path)) == "superseded"


def test_a_lease_beats_with_the_step_and_says_how_it_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(attempt, "BEAT_SECONDS", 0.02)
    with Lease(tmp_path, holder(), Pulse()) as lease:
        lease.pulse.step, lease.pulse.test_loss = 12, 3.5
        while last_attempt(tmp_path).step != 12:
            time.sleep(0.01)
    last = last_attempt(tmp_path)
    assert (last.outcome, last.test_loss, last.final) == ("done", 3.5, True)
    assert settled(tmp_path, "r")
    assert not settled(tmp_path, "another round")


def test_failures_count_and_preemptions_do_not(tmp_path):
    for error in (ValueError("bad"), Stopped("preempted"), Stopped("timeout"), ValueError("bad")):
        with pytest.raises(type(error)), Lease(tmp_path, holder(), Pulse()):
            raise error
    found = attempts(tmp_path)
    assert [a.outcome for a in found] == ["failed", "preempted", "timeout", "failed"]
    assert failures(found, "r") == 2
    assert found[0].error == "ValueError: bad"


def test_the_end_is_written_in_place_when_the_disk_is_full(tmp_path, monkeypatch):
    def full(path, value):
        raise OSError(28, "No space left on device")

    with suppress(RuntimeError), Lease(tmp_path, holder(), Pulse()):
        size = attempt_path(tmp_path, 1).stat().st_size
        monkeypatch.setattr(attempt, "write_json", full)
        raise RuntimeError("it happened")
    last = last_attempt(tmp_path)
    assert (last.outcome, last.error) == ("failed", "RuntimeError: it happened")
    assert attempt_path(tmp_path, 1).stat().st_size <= size


def test_a_torn_or_foreign_file_is_not_taken_for_an_attempt(tmp_path):
    take(tmp_path, holder())
    (tmp_path / "attempts/.x.tmp").write_text("{")
    values = json.loads(attempt_path(tmp_path, 1).read_text())
    attempt_path(tmp_path, 1).write_text(json.dumps(values | {"a_later_field": 1}))
    assert last_attempt(tmp_path).job == "a"


def test_processes_are_told_from_later_ones_of_the_same_number():
    assert process_started(os.getpid()) == process_started(os.getpid()) > 0
    done = subprocess.Popen(["true"])
    done.wait()
    assert process_started(done.pid) is None
