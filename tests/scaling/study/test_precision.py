"""A study has one precision: chosen once, kept in its folder, never mixed."""

from dataclasses import replace

import pytest

from scaling.budget import resolve
from scaling.config import BudgetConfig, CellConfig
from scaling.schema import read_json
from scaling.study import precision
from scaling.study.places import study_folder
from scaling.study.precision import choose_precision, settled, with_precision


@pytest.fixture
def cells(make_cell, monkeypatch) -> list[CellConfig]:
    """Return two cells that count as large, of 400 and 800 steps."""
    monkeypatch.setattr(precision, "BF16_PARAMS", 1)
    cell = with_precision(make_cell(), "auto")
    step = resolve(cell).batch_tokens
    return [replace(cell, budget=BudgetConfig(n_tokens=n * step)) for n in (4000, 8000)]


def test_small_models_are_in_fp32_without_a_pilot(make_cell):
    (cell,) = choose_precision([with_precision(make_cell(), "auto")])
    choice = read_json(study_folder(cell) / "precision.json")
    assert cell.machine.precision == choice["precision"] == "fp32"
    assert "200,000 parameters" in choice["why"]
    assert not choice["pilot"]


def test_large_models_wait_for_a_pilot_of_a_small_share(cells):
    (first, second) = choose_precision(cells)
    assert first.machine.precision == second.machine.precision == "auto"
    pilot = CellConfig.from_dict(read_json(study_folder(first) / "precision.json")["pilot"])
    share = resolve(pilot).flops / sum(resolve(c).flops for c in cells)
    assert 0.02 < share <= precision.PILOT_SHARE
    assert settled(first).machine.precision == "fp32"  # until there is a choice


def test_a_pilot_too_dear_leaves_fp32(cells):
    one = replace(cells[0], budget=BudgetConfig(n_tokens=60 * resolve(cells[0]).batch_tokens))
    assert choose_precision([one])[0].machine.precision == "fp32"
    assert "5%" in read_json(study_folder(one) / "precision.json")["why"]


def test_what_is_asked_for_is_kept_and_another_is_refused(cells):
    asked = [with_precision(c, "bf16") for c in cells]
    assert choose_precision(asked)[0].machine.precision == "bf16"
    assert choose_precision(cells)[0].machine.precision == "bf16"  # auto follows
    with pytest.raises(ValueError, match=r"are in bf16 .*set machine\.precision=bf16 or auto"):
        choose_precision([with_precision(c, "fp32") for c in cells])


def test_cells_of_before_decide_for_their_study(cells, monkeypatch):
    from scaling.train.trunk import train_trunk

    small = replace(cells[0], budget=BudgetConfig(n_tokens=4 * resolve(cells[0]).batch_tokens))
    train_trunk([with_precision(small, "fp32")])
    assert choose_precision(cells)[0].machine.precision == "fp32"
    assert "cells that it has" in read_json(study_folder(small) / "precision.json")["why"]


def test_a_choice_that_cannot_be_read_is_one_sentence(cells):
    folder = study_folder(cells[0])
    folder.mkdir(parents=True)
    (folder / "precision.json").write_text('{"precision": 7, "schema": 1}')
    with pytest.raises(ValueError, match=r"precision\.json"):
        choose_precision(cells)
