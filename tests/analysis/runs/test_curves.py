"""Curves read from tables."""

import numpy as np
import pandas as pd
import pytest

from analysis.runs.columns import Columns
from analysis.runs.curves import CurveOptions, table_curves


def table(*, first: int = 100, warm: bool = False) -> pd.DataFrame:
    step = np.arange(20 if warm else first, 1000, 20)
    lr = np.minimum(step / 100, 1.0) * 1e-3
    one = pd.DataFrame({"schedule": "a", "step": step, "lr": lr, "loss": 3 + 10 / step})
    late = one[one.step >= 160].assign(schedule="b")
    return pd.concat([one, late])


def test_the_warmup_is_read_from_the_first_rows_of_the_earliest_curve():
    a, b = table_curves(table()).sizes[0].curves
    assert a.warmup_steps == b.warmup_steps == 100
    assert a.peak_lr == pytest.approx(1e-3)


def test_rows_of_the_warmup_are_left_out_and_said():
    runs = table_curves(table(warm=True))
    assert runs.sizes[0].curves[0].step[0] == 100
    assert runs.dropped == [{"run": "a", "why": "4 rows of its warm-up are left out"}]


def test_options_and_columns_go_before_what_the_rows_say():
    renamed = table().rename(columns={"lr": "rate", "step": "iteration"})
    options = CurveOptions(warmup_steps=50, peak_lr=2e-3)
    runs = table_curves(renamed, columns=Columns(lr="rate", step="iteration"), options=options)
    assert runs.sizes[0].curves[0].warmup_steps == 50
    assert runs.sizes[0].curves[0].peak_lr == 2e-3


def test_where_chooses_schedules():
    assert len(table_curves(table(), where="schedule == 'b'").sizes[0].curves) == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"loss": -1.0}, "not a finite number above 0"),
        ({"lr": -1.0}, "of at least 0"),
        ({"step": 100}, "keep one row a step"),
        ({"schedule": None}, "name the schedule"),
    ],
)
def test_values_that_are_no_curve_are_refused(change, words):
    with pytest.raises(ValueError, match=words):
        table_curves(table().assign(**change))


def test_an_absent_column_names_the_setting():
    with pytest.raises(ValueError, match=r"set columns\.lr=learning_rate"):
        table_curves(table().rename(columns={"lr": "learning_rate"}))
