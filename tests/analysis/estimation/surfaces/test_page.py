"""A surface on the page, in a plan, and before the commands that cannot take it."""

import pytest

from analysis import fit, load_law
from analysis.backtesting.options import BacktestConfig
from analysis.comparing.options import CompareConfig
from analysis.designing.goal import check_law
from analysis.forms import FORMS
from analysis.planning.budgets import budget_of
from analysis.planning.make import make_plan
from analysis.planning.settings import PlanConfig
from analysis.report import ReportConfig, main
from analysis.runs.study import default_study
from tests.analysis.estimation.surfaces.test_fit import sweep


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a table of settings and its law."""
    here = tmp_path_factory.mktemp("settings")
    table = sweep().rename(columns={"batch": "batch_sequences"})
    table["batch_sequences"] /= 2048
    table.to_csv(here / "runs.csv", index=False)
    fit(here / "runs.csv", "surface", context=2048, resamples=60).write(here / "law.json")
    return here


@pytest.mark.slow
def test_the_page_draws_the_valley_at_the_point_that_is_asked(folder):
    config = {"runs": f"{folder}/runs.csv", "law": f"{folder}/law.json", "context": 2048}
    main(ReportConfig(**config, params=5e8, tokens=2e10))
    text = (folder / "runs.html").read_text()
    assert "<title>What settings lose, over learning rate and batch</title>" in text
    assert "The best settings at N = 500M, D = 20B (asked)." in text
    assert 'data-h="of twice it"' in text
    assert "what the nearest tried setting loses to the best one" in text
    main(ReportConfig(**config))
    assert "D = 50B (the largest point)." in (folder / "runs.html").read_text()


def test_half_a_point_is_refused():
    with pytest.raises(ValueError, match="set together, as params=1e9 tokens=2e10"):
        ReportConfig(runs="runs.csv", params=1e9)


@pytest.mark.slow
def test_a_plan_takes_its_settings_from_a_surface(folder):
    law = load_law(folder / "law.json")
    settings, study = PlanConfig(law="law.json", flops=1e21), default_study()
    plan = make_plan(law, budget_of(settings, law, study), study, settings)
    block = plan.pretrain
    at = law.settings(block.params, block.tokens, batch=block.batch_tokens)
    assert block.peak_lr == pytest.approx(at.lr, rel=0.02)
    free = law.settings(block.params, block.tokens).batch
    assert 0.7 < block.batch_tokens / free < 1.5  # the nearest power of two
    assert block.reasons["peak_lr"].startswith("best rate at this batch (90% [")
    other = PlanConfig(law="besiroglu2024", flops=1e21, lr_batch=f"{folder}/law.json")
    law = load_law("besiroglu2024")
    plan = make_plan(law, budget_of(other, law, study), study, other)
    assert "surface of 150 runs" in plan.pretrain.reasons["batch_tokens"]


def test_commands_about_size_and_data_refuse_it_in_one_sentence(folder):
    with pytest.raises(ValueError, match="withholds its largest points itself"):
        BacktestConfig(runs="runs.csv", form="surface")
    with pytest.raises(ValueError, match="form='surface' is unknown; choose one of chinchilla"):
        CompareConfig(runs="runs.csv", by="x", form="surface")
    with pytest.raises(ValueError, match="a design chooses N and D"):
        check_law(load_law(folder / "law.json"))


def test_the_average_over_forms_takes_no_surface():
    assert FORMS["surface"].own_method
    assert [name for name, form in FORMS.items() if form.own_method] == ["surface"]
