"""Which function runs a stage, and that a finished stage is kept."""

import pytest

from scaling.config import FinalConfig
from scaling.stages import run
from scaling.stages.final_run import refuse_other_run
from scaling.stages.plan import STAGES, StageName


def test_every_stage_after_pretraining_has_a_function():
    assert set(run.RUN) == set(STAGES) - {StageName.PRETRAIN}
    assert [f.__name__ for f in run.RUN.values()] == [f"run_{name}" for name in run.RUN]


def test_a_finished_stage_is_kept_and_another_runs(pretrained, done_record, monkeypatch, caplog):
    stage = pretrained("sft")
    monkeypatch.setitem(run.RUN, "sft", lambda stage: "trained")
    assert run.run_or_keep(stage) == "trained"
    monkeypatch.setattr(run, "finished_record", lambda stage: done_record)
    with caplog.at_level("INFO"):
        assert run.run_or_keep(stage) == done_record
    assert "sft: done before, kept" in caplog.text


def test_a_finished_run_of_another_plan_is_not_replaced(done_record, tmp_path):
    done_record.write(tmp_path / "record.json")
    with pytest.raises(ValueError, match=r"finished run of another plan .*move the folder final"):
        refuse_other_run(FinalConfig(), tmp_path)
    refuse_other_run(FinalConfig(force=True), tmp_path)
    refuse_other_run(FinalConfig(resume=False), tmp_path)
    refuse_other_run(FinalConfig(), tmp_path / "new")
