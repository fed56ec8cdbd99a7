"""The forecast of a cell's end while it trains: from the pulse to the attempt and the status."""

import pytest

from scaling.jobs.cell_states import read_status
from scaling.schema import EndForecast, read_curve
from scaling.study.end_forecast import EndedCells, forecast_end
from scaling.study.lease import Holder, Lease, Pulse, last_attempt
from scaling.study.places import cell_folder, study_folder
from scaling.train.trunk import train_trunk


@pytest.mark.slow
def test_ended_branches_are_read_once_and_a_longer_cell_is_forecast(make_cell):
    cells = [make_cell(n_tokens=64 * n) for n in (40, 120)]
    (record, _) = train_trunk(cells)
    longer = make_cell(n_tokens=64 * 200)
    ended = EndedCells(study_folder(longer))
    curves = ended.near(longer)
    assert [c.n_steps for c in curves] == [40, 120] or [c.n_steps for c in curves] == [120, 40]
    assert all(c.same_trunk and c.end_on_windows for c in curves)
    assert ended.near(longer)[0] is curves[0]
    rows = read_curve(cell_folder(cells[1]) / "metrics.jsonl")
    forecast = forecast_end(rows[:-4], longer, unique_tokens=1e9)
    if forecast is not None:
        assert forecast.low < forecast.loss < forecast.high
    assert forecast_end(rows[:2], longer, unique_tokens=1e9) is None
    tests = sum("test_loss" in r for r in read_curve(cell_folder(cells[0]) / "metrics.jsonl"))
    # 4 windows of 32 tokens, a third of a training step's FLOPs a token
    per_token = record.flops / record.tokens
    assert record.metrics["curve_test_flops"] == pytest.approx(tests * 4 * 32 * per_token / 3)
    assert record.metrics["curve_test_loss"] == pytest.approx(record.test_loss, rel=0.1)


def test_the_status_of_a_running_cell_shows_its_forecast(tmp_path):
    folder, pulse = tmp_path / "0123456789", Pulse()
    folder.mkdir()
    with Lease(folder, Holder.here(round="r", job="local-1"), pulse) as lease:
        pulse.step = 7
        pulse.at_end = EndForecast(loss=3.0, low=2.9, high=3.1, level=0.9, step=6)
        lease._write()
        (status,) = read_status(tmp_path)
        assert status.state == "running"
        assert str(status.at_end) == "at the end 3.00 [2.90, 3.10]"
    attempt = last_attempt(folder)
    assert attempt
    assert attempt.at_end == pulse.at_end
    assert read_status(tmp_path)[0].at_end is None  # it runs no longer


def test_the_final_run_is_listed_while_it_trains(tmp_path):
    folder = tmp_path / "final" / "pretrain"
    folder.mkdir(parents=True)
    with Lease(folder, Holder.here(round="r", job="local-1"), Pulse()):
        assert [c.run_id for c in read_status(tmp_path)] == ["final/pretrain"]
    assert read_status(tmp_path) == []
