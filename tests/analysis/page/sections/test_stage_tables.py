from dataclasses import replace

import pytest

from analysis.page.contents import read_material
from analysis.page.sections.stage_tables import MEANINGS, stage_grids
from tests.analysis import synthetic


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "small"
    synthetic.write_cell(folder, 3, 64, 1e12)
    return read_material(folder)


def grid_of(material, stage, **metrics):
    record = replace(material.records[0], stage=stage, metrics=metrics)
    (grid,) = stage_grids(replace(material, final=replace(material.final, stages={stage: record})))
    return grid


def test_before_and_after_share_a_row_with_their_errors(material):
    metrics = {"reward_before": -0.0895, "reward_se_before": 0.056, "reward_after": 0.255}
    grid = grid_of(material, "ppo", **metrics, reward_se_after=0.066, kl=2.91)
    rows = {row[0]: row[1:] for row in grid.rows}
    assert rows["Reward"][:2] == ("-0.089 ± 0.056", "0.255 ± 0.066")
    assert rows["KL"][:2] == ("", "2.91")
    assert "nats per completion" in rows["KL"][2]


def test_no_row_is_there_twice_and_none_is_a_key(material):
    metrics = {
        "test_loss": 5.1,
        "test_loss_before": 5.6,
        "test_loss_before_se": 0.05,
        "examples": 9.0,
    }
    names = [row[0] for row in grid_of(material, "sft", **metrics).rows]
    assert len(names) == len(set(names))
    assert not any("_" in name for name in names)


def test_an_unknown_measurement_is_shown_by_its_key(material):
    rows = {r[0]: r[1] for r in grid_of(material, "reward", new_figure=0.25).rows}
    assert rows["new figure"] == "0.25"
    assert "new_figure" not in MEANINGS
