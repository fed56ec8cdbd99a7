import json
import math
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace

import pytest

from scaling.study import lease as lease_module
from scaling.study.lease import (
    Held,
    Holder,
    Lease,
    Pulse,
    Stopped,
    attempt_path,
    attempts,
    count_failures,
    is_dead,
    is_settled,
    last_attempt,
    process_start,
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
        tries = [a for a in pool.map(one, range(64)) if a]
    assert len(tries) == 1
    assert attempts(tmp_path) == tries


@pytest.mark.slow
def test_processes_that_race_for_a_stale_lease_make_one_new_attempt(tmp_path):
    take(tmp_path, holder())
    age(tmp_path, lease_module.STALE_SECONDS + 10)
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom scaling.study.lease import *\n"
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
    age(tmp_path, lease_module.STALE_SECONDS + 10)
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
    assert count_failures(attempts(tmp_path), "r") == 0


def test_a_holder_that_was_taken_over_is_told_to_stop(tmp_path, monkeypatch):
    monkeypatch.setattr(lease_module, "BEAT_SECONDS", 0.02)
    pulse = Pulse()
    with suppress(Stopped), Lease(tmp_path, holder("7_0", pid=1), pulse):
        take(tmp_path, holder("7_0", pid=2))
        while not pulse.stop:
            time.sleep(0.01)
        raise Stopped(pulse.stop)
    assert next(a.outcome for a in attempts(tmp_path)) == "superseded"


def test_a_lease_beats_with_the_step_and_says_how_it_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(lease_module, "BEAT_SECONDS", 0.02)
    with Lease(tmp_path, holder(), Pulse()) as lease:
        lease.pulse.step, lease.pulse.test_loss = 12, 3.5
        while last_attempt(tmp_path).step != 12:
            time.sleep(0.01)
    last = last_attempt(tmp_path)
    assert (last.outcome, last.test_loss, last.final) == ("done", 3.5, True)
    assert is_settled(tmp_path, "r")
    assert not is_settled(tmp_path, "another round")


def test_failures_count_and_preemptions_do_not(tmp_path):
    for error in (ValueError("bad"), Stopped("preempted"), Stopped("timeout"), ValueError("bad")):
        with pytest.raises(type(error)), Lease(tmp_path, holder(), Pulse()):
            raise error
    tries = attempts(tmp_path)
    assert [a.outcome for a in tries] == ["failed", "preempted", "timeout", "failed"]
    assert count_failures(tries, "r") == 2
    assert tries[0].error == "ValueError: bad"


def test_the_end_is_written_in_place_when_the_disk_is_full(tmp_path, monkeypatch):
    def full(path, value):
        raise OSError(28, "No space left on device")

    with suppress(RuntimeError), Lease(tmp_path, holder(), Pulse()):
        size = attempt_path(tmp_path, 1).stat().st_size
        monkeypatch.setattr(lease_module, "write_json", full)
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


def test_a_loss_that_is_no_number_ends_an_attempt_like_any_other(tmp_path):
    with Lease(tmp_path, holder(), Pulse()) as lease:
        lease.pulse.step, lease.pulse.test_loss = 7, math.nan
    last = last_attempt(tmp_path)
    assert (last.outcome, last.step, last.test_loss) == ("done", 7, None)


DAMAGES = {
    "empty": lambda text: "",
    "cut": lambda text: text[:60],
    "a list": lambda text: "[1]",
    "fields missing": lambda text: "{}",
    "another type": lambda text: text.replace('"step": 0', '"step": "x"'),
    "no text": lambda text: "\udcff\udcfe",
}


def damage(path, how):
    path.write_text(DAMAGES[how](path.read_text()), errors="surrogateescape")


@pytest.mark.parametrize("how", DAMAGES)
def test_an_attempt_that_cannot_be_read_is_set_aside_and_the_next_one_begins(tmp_path, how, caplog):
    take(tmp_path, holder())
    damage(attempt_path(tmp_path, 1), how)
    assert last_attempt(tmp_path).outcome == "damaged"
    with pytest.raises(Held):  # perhaps it is being written
        take(tmp_path, holder("b"))
    age(tmp_path, lease_module.DAMAGED_SECONDS + 1)
    assert take(tmp_path, holder("b")).attempt == 2
    names = sorted(p.name for p in (tmp_path / "attempts").iterdir())
    assert names == ["0001.damaged-1.json", "0002.json"]
    assert [a.outcome for a in attempts(tmp_path)] == ["damaged", None]
    assert count_failures(attempts(tmp_path), "r") == 0
    assert len(caplog.messages) == 1
    assert "0001.json is damaged and set aside as 0001.damaged-1.json" in caplog.text


def test_a_holder_that_lives_mends_its_own_file(tmp_path, monkeypatch):
    monkeypatch.setattr(lease_module, "BEAT_SECONDS", 0.02)
    with Lease(tmp_path, holder(), Pulse()):
        attempt_path(tmp_path, 1).write_text("")
        while last_attempt(tmp_path).outcome == "damaged":
            time.sleep(0.01)
    assert last_attempt(tmp_path).outcome == "done"


def test_the_attempt_after_9999_is_the_last_one(tmp_path):
    take(tmp_path, holder())
    first = attempt_path(tmp_path, 1)
    for number in (2, 9_999, 10_000):
        attempt_path(tmp_path, number).write_text(first.read_text())
    assert [a.attempt for a in attempts(tmp_path)] == [1, 2, 9_999, 10_000]
    age(tmp_path, lease_module.STALE_SECONDS + 10)
    assert take(tmp_path, holder("b")).attempt == 10_001


def test_an_attempt_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    calls = []
    for name in ("fsync", "link"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, n=name, r=real: (calls.append(n), r(*a)))
    take(tmp_path, holder())
    assert calls == ["fsync", "link", "fsync"]


def test_a_beat_outlives_a_disk_that_refuses_it(tmp_path, monkeypatch):
    monkeypatch.setattr(lease_module, "BEAT_SECONDS", 0.02)

    def refused(*arguments):
        raise OSError(30, "Read-only file system")

    with Lease(tmp_path, holder(), Pulse()) as lease:
        with monkeypatch.context() as patch:
            patch.setattr(lease_module, "write_attempt", refused)
            patch.setattr(os, "utime", refused)
            time.sleep(0.2)
        lease.pulse.step = 9
        until = time.monotonic() + 60
        while last_attempt(tmp_path).step != 9 and time.monotonic() < until:
            time.sleep(0.01)
        assert last_attempt(tmp_path).step == 9


def test_who_was_taken_over_is_stopped_before_the_next_write(tmp_path):
    pulse = Pulse()
    with suppress(Stopped), Lease(tmp_path, holder("7_0", pid=1), pulse):
        pulse.fence()
        take(tmp_path, holder("7_0", pid=2))  # no beat has passed yet
        with pytest.raises(Stopped, match="superseded"):
            pulse.fence()
        raise Stopped("superseded")
    pulse.fence()
    assert last_attempt(tmp_path).pid == 2
    assert not is_dead(tmp_path, last_attempt(tmp_path))


def test_processes_are_told_from_later_ones_of_the_same_number():
    assert process_start(os.getpid()) == process_start(os.getpid()) > 0
    process = subprocess.Popen(["true"])
    process.wait()
    assert process_start(process.pid) is None
