"""Curves of a study's cells: what branches of a trunk share counts once."""

import json

import numpy as np
import pytest

from analysis.runs.study_curves import study_curves
from tests.analysis.runs.test_table import record

SCHEDULE = {"name": "wsd", "warmup_steps": 10, "decay": 0.2, "decay_shape": "sqrt", "floor": 0.0}
ON_THE_WAY = (10, 40, 60, 90, 130, 190, 280)


def write_branch(folder, name, steps, *, schedule=SCHEDULE):
    values = record(name, loss=3.0 - steps / 1e4)
    values |= {"steps": steps, "config": {"schedule": schedule}}
    (folder / name).mkdir(parents=True)
    (folder / name / "record.json").write_text(json.dumps(values))
    rows = [
        {"step": s, "tokens": s, "flops": s, "train_loss": 4.0, "test_loss": 3 + 20 / s}
        for s in ON_THE_WAY
        if s < steps
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / name / "metrics.jsonl").write_text(text)


@pytest.fixture
def study(tmp_path):
    write_branch(tmp_path, "long", 400)
    write_branch(tmp_path, "short", 200)
    return tmp_path


def test_rows_of_the_trunk_count_once_and_rows_of_the_warmup_never(study):
    long, short = study_curves(study).sizes[0].curves
    assert long.name == "long"
    assert long.step[long.measured].tolist() == [40, 60, 90, 130, 190, 280, 400]
    assert short.step[short.measured].tolist() == [190, 200]  # 160 is where it leaves the trunk


def test_the_last_row_is_the_record_and_the_rate_ends_its_decay(study):
    long, short = study_curves(study).sizes[0].curves
    assert long.loss[-1] == pytest.approx(2.96)
    assert short.lr[-1] < 0.05 * short.peak_lr
    assert np.all(long.lr[long.step < 320] == long.peak_lr)


def test_a_study_without_enough_rows_is_refused(tmp_path):
    write_branch(tmp_path, "a", 50)
    with pytest.raises(ValueError, match="has no size with 6 test losses"):
        study_curves(tmp_path)


def test_a_record_without_a_schedule_is_left_out_and_said(study):
    write_branch(study, "old", 300, schedule={})
    assert {"run": "old", "why": "its record has no schedule"} in study_curves(study).dropped
