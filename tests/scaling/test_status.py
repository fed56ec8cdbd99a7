"""How a study whose files are damaged is shown, read and gone on with."""

import json

import pytest

from analysis.runs.table import load_runs
from scaling.jobs.cell_states import read_status
from scaling.jobs.cells import collect
from scaling.schema import discard_record, find_record, read_records
from scaling.status import main
from scaling.study.jobs_file import jobs_path
from scaling.study.lease import Holder, attempt_path, take
from scaling.study.places import cell_folder, record_path, status_of, trained_at
from scaling.train.trunk import train_trunk

DAMAGES = {
    "empty": "",
    "cut": '{"run_id": "a", "stu',
    "a list": "[]",
    "no fields": "{}",
    "odd status": None,
    "no text": "\udcff\udcfe",
}


@pytest.fixture
def study(make_cell):
    """Two cells that are done."""
    cells = [make_cell(n_tokens=n) for n in (1024, 2048)]
    train_trunk(cells)
    return cells


def spoil(path, how) -> None:
    text = DAMAGES[how] or path.read_text().replace('"status": "done"', '"status": "perhaps"')
    path.write_text("" if how == "empty" else text, errors="surrogateescape")


@pytest.mark.parametrize("how", DAMAGES)
def test_a_record_that_cannot_be_read_is_shown_left_out_and_trained_again(study, how, caplog):
    bad, good = study
    folder, path = record_path(good).parents[1], record_path(bad)
    spoil(path, how)
    damaged = path.read_bytes()
    states = {c.run_id: c for c in read_status(folder)}
    assert (states[bad.run_id()].state, states[good.run_id()].state) == ("damaged", "done")
    assert "sets it aside and trains again" in states[bad.run_id()].error
    assert (status_of(bad), trained_at(bad)) == ("damaged", None)
    assert [r.run_id for r in read_records(folder)] == [good.run_id()]
    runs = load_runs(folder, needed=())
    assert list(runs.table["run"]) == [good.run_id()]
    (dropped,) = runs.dropped
    assert dropped["run"] == bad.run_id()
    assert "cannot be read" in dropped["why"]
    assert path.read_bytes() == damaged  # readers write nothing
    with pytest.raises(RuntimeError, match=f"1 of 2 cells have no result; {bad.run_id()} damaged"):
        collect(study)
    discard_record(path)
    assert path.with_name("record.damaged-1.json").read_bytes() == damaged
    assert [r.status for r in train_trunk(study)] == ["done", "done"]


def test_a_record_of_a_later_version_is_refused_and_never_trained_again(study):
    path = record_path(study[0])
    values = json.loads(path.read_text()) | {"schema": 99}
    path.write_text(json.dumps(values))
    for reader in (find_record, discard_record):
        with pytest.raises(ValueError, match="later version"):
            reader(path)
    assert path.is_file()


def test_a_study_with_damaged_files_of_every_kind_is_shown(study, capsys, monkeypatch):
    bad, _ = study
    folder = cell_folder(bad).parent
    take(cell_folder(bad), Holder.here(round="r", job="a"))
    attempt_path(cell_folder(bad), 1).write_text("")
    record_path(bad).write_text("{")
    jobs_path(folder).write_text('17\n{"job": 3}\n')
    monkeypatch.setattr("sys.argv", ["status", str(folder)])
    assert main() == 1
    shown = capsys.readouterr()
    assert "1 damaged, 1 done" in shown.out
    assert shown.err.startswith("jobs.jsonl: 2 lines cannot be read")


def test_the_last_lines_of_a_sweep_give_each_cell_s_reason_up_to_a_number(make_cell, caplog):
    cells = [make_cell(n_tokens=64 * n) for n in range(10, 30)]
    from scaling.study.failures import record_failure

    for cell in cells:
        record_failure(
            cell, Holder.here(round="r", job="a"), f"no luck with {cell.run_id()}", retry=-1
        )
    with pytest.raises(RuntimeError, match=r"20 of 20 cells have no result; .* failed: no luck"):
        collect(cells)
    assert sum("failed: no luck" in m for m in caplog.messages) == 11
    assert "and 8 more, which scaling status" in caplog.messages[-1]
