"""What all records have in common, however a cell ended."""

from dataclasses import asdict, replace

import pytest
import torch

from scaling.schema import Cost, Params, Record, Status, read_record

PARAMS = Params(total=1000, non_embedding=700, with_head=900, active=800)


def record(cost: Cost, **changes) -> Record:
    values = {
        "run_id": "a",
        "study": "s",
        "stage": "sft",
        "status": Status.DONE,
        "seed": 0,
        "params": PARAMS,
        "tokens": 640,
        "batch_tokens": 64,
        "peak_lr": 0.1,
        "schedule": "cosine",
        "trunk": "t",
        "config": {},
        "started": "2026-01-01T00:00:00+00:00",
    }
    return Record.of_cell(cost, **values | changes)


def test_speed_and_6nd_follow_from_the_cost():
    cost = Cost(device="d", steps=10, tokens=640, flops=8e6, seconds=4.0, ranks=2, peak_flops=1e7)
    ours = record(cost)
    assert ours.tokens_per_second == 160
    assert ours.mfu == pytest.approx(0.2)
    assert ours.device_seconds == 8
    assert ours.flops_6nd == 6 * 700 * 640  # what multiplies for one token: head in, idle out
    assert ours.versions["torch"] == torch.__version__


def test_a_cell_that_never_ran_has_no_speed_and_cost_nothing():
    ours = record(Cost(device="d"), status=Status.FAILED, tokens=0, versions={}, error="it broke")
    assert (ours.seconds, ours.device_seconds, ours.tokens_per_second) == (0, 0, 0)
    assert (ours.steps, ours.mfu, ours.test_loss, ours.metrics) == (0, None, None, {})


def test_a_status_is_a_plain_word_in_the_file_and_a_member_when_it_is_read(tmp_path):
    path = record(Cost(device="d"), status=Status.DIVERGED).write(tmp_path / "record.json")
    assert '\n "status": "diverged",\n' in path.read_text()
    assert read_record(path).status is Status.DIVERGED


@pytest.mark.parametrize(("field", "value"), [("status", "over"), ("stage", "later")])
def test_a_word_that_no_reader_knows_is_refused(field, value):
    with pytest.raises(ValueError, match=f"record {field} is '{value}'; legal values are"):
        replace(record(Cost(device="d")), **{field: value})


def test_a_record_of_plain_words_equals_one_of_members():
    ours = record(Cost(device="d"))
    assert Record.from_dict(asdict(ours) | {"status": "done"}) == ours
