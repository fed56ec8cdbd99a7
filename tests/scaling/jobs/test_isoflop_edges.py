from pathlib import Path

import pytest

from scaling.config import BudgetConfig
from scaling.jobs.isoflop_edges import edge_warnings
from scaling.jobs.pricing import price
from scaling.schema import write_json

WIDTHS = (16, 32, 64, 128)


def grid(make_cell, flops: float, widths=WIDTHS):
    cells = [make_cell(model={"d_model": width}) for width in widths]
    for cell in cells:
        cell.budget = BudgetConfig(flops=flops)
    return cells


@pytest.mark.parametrize(
    ("flops", "side"), [(1e8, "smaller than the smallest"), (1e14, "larger than the largest")]
)
def test_a_budget_whose_minimum_lies_outside_its_sizes_is_named(flops, side, make_cell):
    (sentence,) = edge_warnings(grid(make_cell, flops))
    assert side in sentence
    assert "a guess" in sentence
    assert f"C = {flops:.3g}" in sentence


def test_a_budget_around_its_minimum_is_not(make_cell):
    assert edge_warnings(grid(make_cell, 1e11)) == []


def test_the_studys_law_goes_before_the_guess(make_cell, tmp_path):
    cells = grid(make_cell, 1e11)
    optima = [{"flops": 1e11, "params": 5e8}]
    law = {"count": "total", "optimum": {"a": 0.5, "tokens_per_param": optima}}
    folder = Path(cells[0].runs) / cells[0].study
    folder.mkdir(parents=True)
    write_json(folder / "law.json", law)
    (sentence,) = edge_warnings(cells)
    assert "N = 5e+08 by the study's law, larger than the largest" in sentence


def test_the_price_shows_model_and_seed(make_cell, capsys):
    price(grid(make_cell, 1e14))
    out = capsys.readouterr().out
    assert "model seed" in out
    assert "1x128    0" in out
    assert "warning: the IsoFLOP minimum" in out
