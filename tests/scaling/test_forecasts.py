"""The ledger of forecasts, the scoring of sealed ones, and the gate before a far final run."""

import json
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from scaling.final import run_final
from scaling.schema import (
    CONFIRMING,
    FORECASTS,
    append_forecast,
    forecast_score,
    read_forecasts,
)
from scaling.stages.plan import final_folder
from scaling.stages.sealed_forecast import check_confirmation

SEALED = {
    "test_loss": 3.0,
    "interval": [2.7, 3.3],
    "level": 0.9,
    "made_from": {"law": "aa", "records": "bb"},
    "inputs": {"corpus": "cc"},
    "sealed": "2026-11-23T10:00:00+00:00",
}


def lines(config):
    return read_forecasts(Path(config.runs) / FORECASTS)


def test_a_run_is_scored_once_and_again_after_a_kill(final_config):
    final_config.forecast.test_loss, final_config.forecast.interval = 5.5, [5.0, 6.0]
    (outcome,) = run_final(replace(final_config, stages="pretrain"))
    (line,) = lines(final_config)
    assert (line["run_id"], line["forecast"]) == (outcome.run_id, 5.5)
    assert line["outcome"] == outcome.test_loss
    assert line["error"] == pytest.approx(math.log(outcome.test_loss / 5.5))
    run_final(replace(final_config, stages="pretrain"))
    assert lines(final_config) == [line]
    ledger = final_folder(final_config).parents[1] / FORECASTS
    ledger.write_bytes(ledger.read_bytes()[:40])  # killed between the record and the line
    run_final(replace(final_config, stages="pretrain"))
    assert [n["id"] for n in lines(final_config)] == [line["id"]]


def test_z_is_the_error_in_deviations_of_its_side(done_record):
    line = forecast_score(SEALED, replace(done_record, test_loss=3.3), study="s")
    assert line["z"] == pytest.approx(1.645, abs=1e-3)
    assert line["inside"]
    low = forecast_score(SEALED, replace(done_record, test_loss=2.43), study="s")
    assert low["z"] == pytest.approx(-2 * 1.645, abs=1e-3)
    assert not low["inside"]
    assert (line["law_sha256"], line["records_sha256"], line["corpus_sha256"]) == ("aa", "bb", "cc")


def test_without_interval_or_outcome_there_is_no_z(done_record):
    assert forecast_score({**SEALED, "interval": []}, done_record, study="s")["z"] is None
    assert forecast_score({**SEALED, "test_loss": 0.0}, done_record, study="s") is None
    diverged = replace(done_record, status="diverged", test_loss=None)
    assert forecast_score(SEALED, diverged, study="s") is None


def test_many_writers_leave_one_line_a_forecast(tmp_path):
    path = tmp_path / "runs" / FORECASTS
    with ThreadPoolExecutor(8) as pool:
        written = list(pool.map(lambda i: append_forecast(path, {"id": f"{i % 5}"}), range(40)))
    assert sum(written) == 5
    assert sorted(n["id"] for n in read_forecasts(path)) == list("01234")


def test_a_torn_line_is_dropped_and_spoils_none(tmp_path):
    path = tmp_path / FORECASTS
    append_forecast(path, {"id": "a", "name": "Gr\u00f6\u00dfe"})
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"id": "b", "na')
    append_forecast(path, {"id": "c"})
    assert [n["id"] for n in read_forecasts(path)] == ["a", "c"]
    assert json.loads(path.read_text().splitlines()[-1]) == {"id": "c"}
    assert append_forecast(path, {"id": "b"})
    assert read_forecasts(tmp_path / "absent") == []


def gated(config, **line):
    config = replace(
        config, plan="plan.yaml", extrapolation=40.0, force=False, made_from={"law": "aa"}
    )
    config.confirmation = {"needed": True}
    if line:
        study = f"{config.study}{CONFIRMING}"
        defaults = {
            "id": "x",
            "study": study,
            "law_sha256": "aa",
            "outcome": 3.0,
            "interval": [1, 2],
        }
        append_forecast(Path(config.runs) / FORECASTS, {**defaults, **line})
    return config


def test_a_far_run_waits_for_its_confirmation(final_config):
    config = gated(final_config)
    with pytest.raises(ValueError, match=r"waits for its confirmation.*plan\.confirmation\.yaml"):
        run_final(config)
    assert not (final_folder(config) / "forecast.json").exists()
    check_confirmation(replace(config, force=True))


def test_a_confirmation_of_another_law_opens_nothing(final_config):
    with pytest.raises(ValueError, match="waits"):
        check_confirmation(gated(final_config, inside=True, law_sha256="zz"))


def test_a_confirmation_opens_the_way_and_a_miss_shuts_it(final_config):
    check_confirmation(gated(final_config, inside=True))
    with pytest.raises(
        ValueError, match=r"reached 3\.0000, outside .*scaling fit runs=.*/tiny takes"
    ):
        check_confirmation(gated(final_config, inside=False, id="y"))


def test_the_plan_says_which_study_confirms_it(final_config):
    config = gated(final_config, inside=True)
    config.confirmation["study"] = f"{config.study}{CONFIRMING}-2"
    with pytest.raises(ValueError, match="waits"):
        check_confirmation(config)
    append_forecast(
        Path(config.runs) / FORECASTS,
        {"id": "2", "study": config.confirmation["study"], "law_sha256": "aa", "inside": True},
    )
    check_confirmation(config)


def test_a_refused_run_leaves_an_earlier_one_alone(final_config, done_record):
    config = gated(final_config)
    path = final_folder(config) / "pretrain" / "record.json"
    done_record.write(path)  # of other inputs
    with pytest.raises(ValueError, match="waits"):
        run_final(config)
    assert path.is_file()
