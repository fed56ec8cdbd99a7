"""A page holds the outcome of a final run to the plan that ran, and to no other plan."""

from dataclasses import replace

import pytest

from analysis.laws.law import Law
from analysis.page.contents import read_material
from analysis.page.final_run import FinalRun, read_final
from analysis.page.first_screen import alarms, verdict
from analysis.planning.make import Budget, make_plan
from analysis.planning.written.plan_file import write_plan
from analysis.runs.study import study_of
from scaling.schema import Measure, write_json
from tests.analysis import synthetic


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study with a law and the final run of its plan; the folder and the plan."""
    folder = synthetic.write_study(tmp_path_factory.mktemp("runs") / "small")
    names = {"E": synthetic.E, "A": synthetic.A, "B": synthetic.B}
    parameters = names | {"alpha": synthetic.ALPHA, "beta": synthetic.BETA}
    law = Law(
        form="chinchilla", count="with_head", parameters=parameters, objective={"name": "exact"},
        status="converged", n_runs=23, ranges={"flops": [1e11, 1e13], "flops_6nd": [1e11, 1e13]},
    )  # fmt: skip
    law.write(folder / "law.json")
    plan = make_plan(law, Budget(flops=3e13), study_of(folder, count="with_head"))
    write_plan(folder / "plan.yaml", plan)
    assert plan.forecast.test_loss is not None
    synthetic.write_final(folder, plan=plan, loss=plan.forecast.test_loss + 0.001)
    return folder, plan


def final_of(folder, plan, **pretrain) -> FinalRun:
    """Return the final run as a plan with other pretraining sees it."""
    changed = replace(plan, pretrain=replace(plan.pretrain, **pretrain))
    return read_final(folder / "final", changed, Measure(), plan_sha256="of the file")


def test_the_run_of_the_plan_is_shown_whatever_its_seed(study):
    final = final_of(*study, seed=7)
    assert list(final.stages) == ["pretrain", "sft", "reward", "ppo"]
    assert (final.other_plan, len(final.samples)) == ("", 3)


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [("tokens", 512, "D is "), ("weight_decay", 0.9, "weight_decay is 0.1, the plan's 0.9")],
)
def test_the_run_of_another_plan_is_named_and_not_shown(study, setting, value, said):
    final = final_of(*study, **{setting: value})
    assert said in final.other_plan
    assert (final.stages, final.curves, final.samples, final.band) == ({}, {}, [], {})


def test_the_run_of_another_shape_is_of_another_plan(study):
    folder, plan = study
    final = final_of(folder, plan, model=plan.pretrain.model | {"n_layer": 40})
    assert "the plan's 40): nothing of pretrain, sft, reward, ppo is shown" in final.other_plan


def test_a_forecast_that_another_plan_sealed_is_not_this_plans(study, tmp_path):
    sealed = {"test_loss": 9.0, "interval": [8.0, 10.0], "level": 0.9, "plan_sha256": "other"}
    write_json(tmp_path / "forecast.json", sealed)
    seen = [
        read_final(tmp_path, study[1], Measure(), plan_sha256=sha).sealed for sha in ("a", "other")
    ]
    assert seen[0] is None
    assert seen[1] is not None
    assert seen[1].test_loss == 9.0


@pytest.mark.slow
def test_the_page_has_no_outcome_of_another_plan(study, tmp_path):
    folder, plan = study
    before = read_material(folder)
    assert verdict(before) is not None
    smaller = replace(plan, pretrain=replace(plan.pretrain, tokens=512))
    other = tmp_path / "other.yaml"
    write_plan(other, smaller)
    after = read_material(folder, plan=str(other))
    assert verdict(after) is None
    assert "other_plan" in [a["code"] for a in alarms(after)]


def test_a_plan_of_another_loss_is_refused(study, tmp_path):
    folder, plan = study
    of_set = replace(plan, forecast=replace(plan.forecast, target="web"))
    write_plan(tmp_path / "web.yaml", of_set)
    with pytest.raises(ValueError, match=r"forecasts the loss on web .* the page is of the test"):
        read_material(folder, plan=str(tmp_path / "web.yaml"))
