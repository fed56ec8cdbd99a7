"""Two studies side by side: the multiplier of effective compute, its limits, its page."""

import importlib.util
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from analysis.laws.law import Law
from analysis.page.contents import read_material
from analysis.page.two_studies import check_comparable, common_range, ends_of, multiplier, sentence
from analysis.report import ReportConfig, main
from scaling.schema import read_json, write_json

_spec = importlib.util.spec_from_file_location(
    "synthetic", Path(__file__).parents[1] / "synthetic.py"
)
synthetic = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(synthetic)

TRUTH = {
    "E": synthetic.E,
    "A": synthetic.A,
    "B": synthetic.B,
    "alpha": synthetic.ALPHA,
    "beta": synthetic.BETA,
}


def law(factor: float = 1.0, *, spread: float = 0.0, seed: int = 0, **changed) -> Law:
    """A law whose parameters and tokens are worth 1/factor of the truth's."""
    parameters = TRUTH | {
        "A": TRUTH["A"] * factor ** TRUTH["alpha"],
        "B": TRUTH["B"] * factor ** TRUTH["beta"],
    }
    rng = np.random.default_rng(seed)
    draws = np.array([*parameters.values()]) * np.exp(spread * rng.standard_normal((400, 5)))
    values = {
        "form": "chinchilla",
        "count": "with_head",
        "parameters": parameters,
        "objective": {"name": "exact"},
        "status": "converged",
        "draws": draws if spread else None,
        "n_runs": 30,
        "ranges": {"flops": [1e11, 1e13], "flops_6nd": [1e11, 1e13]},
    }
    return Law(**values | changed)


@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_a_recipe_whose_units_are_worth_less_needs_that_much_more(factor):
    found = multiplier(law(), law(factor), 1e12, level=0.9)
    assert found.k == pytest.approx(factor**2, rel=1e-6)
    assert math.isnan(found.low)
    assert multiplier(law(factor), law(), 1e12, level=0.9).k == pytest.approx(factor**-2, rel=1e-6)


def test_the_interval_holds_the_truth_and_grows_with_the_laws_own():
    a, b = law(spread=0.002, seed=1), law(2.0, spread=0.002, seed=2)
    narrow = multiplier(a, b, 1e12, level=0.9)
    assert narrow.low < 4 < narrow.high
    wide = multiplier(law(spread=0.01, seed=1), law(2.0, spread=0.01, seed=2), 1e12, level=0.9)
    assert wide.high / wide.low > 1.5 * narrow.high / narrow.low
    assert "is worth 4 times the compute of B [" in sentence(narrow, ("A", "B"), level=0.9)


def test_a_loss_below_the_other_ones_floor_is_out_of_reach():
    a, b = law(), law()
    b = replace(b, parameters=b.parameters | {"E": 2 * TRUTH["E"] + 3})
    found = multiplier(a, b, 1e12, level=0.9)
    assert math.isinf(found.k)
    assert "reaches at no compute" in sentence(found, ("A", "B"), level=0.9)
    assert ends_of(replace(found, k=2.0, low=1.0, high=math.inf)) == "[1, ∞]"


def test_studies_without_common_compute_are_refused():
    far = law(ranges={"flops_6nd": [1e15, 1e16]})
    with pytest.raises(ValueError, match="no compute in common"):
        common_range(law(), far)


@pytest.fixture
def folders(tmp_path) -> list[Path]:
    found = [synthetic.write_study(tmp_path / name) for name in ("new", "old")]
    for folder, factor in zip(found, (1.0, 2.0), strict=True):
        law(factor, spread=0.005, seed=int(factor)).write(folder / "law.json")
    return found


@pytest.mark.slow
def test_the_page_states_the_multiplier(folders, capsys):
    main(ReportConfig(compare=[str(f) for f in folders]))
    said = capsys.readouterr().out
    k = float(re.search(r"is worth ([\d.]+) times the compute of old", said).group(1))
    assert k == pytest.approx(4, rel=0.01)
    page = (folders[0].parent / "new-against-old.html").read_text()
    assert page.count("<svg") == 2
    assert "http" not in re.sub(r"http-equiv|xmlns[^ ]*|http://www.w3.org/[^\"]*", "", page)
    for name in ("alpha", "N*", "least loss"):
        assert name in page


def test_what_was_not_measured_alike_is_said(folders):
    a, b = (read_material(f) for f in folders)
    assert not [x for x in check_comparable(a, b) if x["code"].startswith("other")]
    for path in folders[1].glob("*/record.json"):
        record = read_json(path)
        record["config"]["tokenizer"]["vocab_size"] = 77
        write_json(path, record)
    found = check_comparable(a, read_material(folders[1]))
    assert "other_vocab_size" in {x["code"] for x in found}
    law(count="total").write(folders[1] / "law.json")
    with pytest.raises(ValueError, match="counts N as with_head, the other as total"):
        check_comparable(a, read_material(folders[1]))
    (folders[1] / "law.json").unlink()
    with pytest.raises(ValueError, match=r"has no law.json; run scaling fit"):
        check_comparable(a, read_material(folders[1]))


@pytest.mark.parametrize("given", [["a"], ["a", "b", "c"]])
def test_two_studies_are_asked_for(given):
    with pytest.raises(ValueError, match="must name two studies"):
        main(ReportConfig(compare=given))
