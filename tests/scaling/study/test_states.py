"""The words for states: plain in files, members where they are read."""

import json
from dataclasses import asdict, replace

import pytest

from scaling.schema import read_as
from scaling.study.jobs_file import Job, append_jobs, read_jobs
from scaling.study.lease import Attempt, Holder, last_attempt, take, write_attempt
from scaling.study.states import CellState, Outcome, Part, Where


@pytest.mark.parametrize("kind", [CellState, Outcome, Part, Where])
def test_a_member_is_written_and_shown_as_its_plain_word(kind):
    for member in kind:
        assert json.dumps({member: member}) == f'{{"{member.value}": "{member.value}"}}'
        assert f"{member:>10}".strip() == str(member) == member == member.value
        assert {member.value: 1}[member] == 1


def test_an_attempt_s_outcome_is_a_member_again_when_it_is_read(tmp_path):
    take(tmp_path, Holder.here(round="r", job="j"))
    attempt = last_attempt(tmp_path)
    assert attempt.outcome is None
    write_attempt(tmp_path, replace(attempt, ended="now", outcome=Outcome.TIMEOUT))
    assert last_attempt(tmp_path).outcome is Outcome.TIMEOUT


def test_a_job_s_part_and_place_are_members_again_when_they_are_read(tmp_path):
    job = Job(job="1", where=Where.SLURM, round="r", part=Part.TRUNK, cells=["a"], log="")
    append_jobs(tmp_path, [job])
    (again,) = read_jobs(tmp_path)
    assert (again.where, again.part, again) == (Where.SLURM, Part.TRUNK, job)
    assert type(again.part) is Part


def test_a_word_of_a_later_version_stays_text(tmp_path):
    take(tmp_path, Holder.here(round="r", job="j"))
    values = asdict(last_attempt(tmp_path)) | {"outcome": "a_later_word"}
    attempt = read_as(Attempt, values, source="x", noun="attempt", fix="")
    assert attempt.outcome == "a_later_word"
    with pytest.raises(ValueError, match="outcome is 5, no text"):
        read_as(Attempt, values | {"outcome": 5}, source="x", noun="attempt", fix="")
