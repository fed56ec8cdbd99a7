"""The list of jobs of a study, whole and damaged."""

import json

import pytest

from scaling.study.jobs_file import (
    Job,
    append_jobs,
    cancelled_jobs,
    damaged_lines,
    jobs_path,
    read_jobs,
    repair,
    unfinished_submissions,
)


def job(number: str) -> Job:
    return Job(job=number, where="local", round="r", part="all", cells=["a"], log="")


ODD = ["{", "17", "null", '{"job": 3}', '{"submitting": []}', '{"job": "4", "cells": "a"}']


@pytest.mark.parametrize("line", ODD)
def test_a_damaged_line_is_left_out_and_counted_and_mended_by_the_next_sweep(
    tmp_path, caplog, line
):
    append_jobs(tmp_path, [job("1")])
    with jobs_path(tmp_path).open("a") as stream:
        stream.write(line + "\n")
    append_jobs(tmp_path, [job("2")])
    whole = jobs_path(tmp_path).read_bytes()
    assert [j.job for j in read_jobs(tmp_path)] == ["1", "2"]
    assert (cancelled_jobs(tmp_path), unfinished_submissions(tmp_path)) == (set(), [])
    assert damaged_lines(tmp_path) == 1
    repair(tmp_path)
    assert damaged_lines(tmp_path) == 0
    assert [j.job for j in read_jobs(tmp_path)] == ["1", "2"]
    assert (tmp_path / "jobs.damaged-1.jsonl").read_bytes() == whole
    assert len(caplog.messages) == 1


def test_bytes_that_are_no_text_are_a_damaged_line(tmp_path):
    jobs_path(tmp_path).write_bytes(b"\xff\xfe\x00\n")
    append_jobs(tmp_path, [job("1")])
    assert [j.job for j in read_jobs(tmp_path)] == ["1"]
    assert damaged_lines(tmp_path) == 1


def test_the_torn_last_line_of_a_killed_sweep_is_no_damage(tmp_path):
    append_jobs(tmp_path, [job("1")])
    with jobs_path(tmp_path).open("a") as stream:
        stream.write('{"job": "2", "whe')
    repair(tmp_path)
    assert not list(tmp_path.glob("*damaged*"))
    assert [j.job for j in read_jobs(tmp_path)] == ["1"]


def test_a_field_of_a_later_version_is_no_damage(tmp_path):
    append_jobs(tmp_path, [job("1")])
    line = json.loads(jobs_path(tmp_path).read_text())
    jobs_path(tmp_path).write_text(json.dumps(line | {"a_later_field": 1}) + "\n")
    assert damaged_lines(tmp_path) == 0
