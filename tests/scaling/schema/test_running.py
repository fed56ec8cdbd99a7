"""Running cells, read from the files of their attempts."""

import json
import os

from scaling.schema import running_cells


def write(folder, name, number=1, **values):
    place = folder / name / "attempts"
    place.mkdir(parents=True, exist_ok=True)
    path = place / f"{number:04}.json"
    path.write_text(json.dumps({"ended": None, "step": 10, "test_loss": 4.0} | values))
    return path


def test_only_cells_whose_last_attempt_is_alive_run(tmp_path):
    forecast = {"loss": 3.0, "low": 2.9, "high": 3.1, "level": 0.9, "step": 20}
    write(tmp_path, "aa", step=20, at_end=forecast)
    write(tmp_path, "bb", ended="2026-01-01")
    write(tmp_path, "cc", 1)
    write(tmp_path, "cc", 2, ended="2026-01-01")
    os.utime(write(tmp_path, "dd"), (0, 0))  # silent for long
    write(tmp_path, "ee").write_text("{")
    write(tmp_path / "final", "pretrain", step=5)
    cells = running_cells(tmp_path)
    assert [c.run_id for c in cells] == ["aa", "final/pretrain"]
    assert str(cells[0].at_end) == "at the end 3.00 [2.90, 3.10]"
    assert cells[1].at_end is None


def test_a_folder_without_attempts_has_none(tmp_path):
    assert running_cells(tmp_path) == []
