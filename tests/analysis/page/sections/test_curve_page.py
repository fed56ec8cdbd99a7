"""The page of a table of loss curves."""

import pytest

from analysis.estimation.schedule import fit_schedule
from analysis.page.sections.curve_page import curve_page
from tests.analysis.laws.test_curve_law import table

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    here = tmp_path_factory.mktemp("curves")
    table("constant", "decay", "cosine").to_csv(here / "t.csv", index=False)
    fit_schedule(table("constant", "decay"), law="annealing").write(here / "law.json")
    return here


def test_the_page_shows_forecasts_of_curves_that_were_not_fitted_first(folder):
    curve_page(folder / "t.csv", out=folder / "t.html", law=str(folder / "law.json"))
    page = (folder / "t.html").read_text(encoding="utf-8")
    assert page.count("<figure") == 4  # three curves and the decay
    assert page.index("cosine (not fitted: this is a forecast)") < page.index("constant (fitted)")
    assert "Best decay of 1,980 steps, linear" in page
    assert "http" not in page.split("<style>")[1].split("</style>")[1].split("<svg")[0]


def test_a_law_of_n_and_d_is_refused(folder, tmp_path):
    other = folder / "law.json"
    text = other.read_text().replace('"schedule"', '"isoflop"')
    (tmp_path / "law.json").write_text(text.replace('"curves"', '"curves_"'))
    with pytest.raises(ValueError, match=r"law\.json"):
        curve_page(folder / "t.csv", out=tmp_path / "t.html", law=str(tmp_path / "law.json"))
