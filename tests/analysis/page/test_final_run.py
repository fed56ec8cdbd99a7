"""A page holds the outcome of a final run to the plan that ran, and to no other plan."""

import math
from dataclasses import replace

import pytest

from analysis.laws.law import Law
from analysis.page.alarm_list import alarms
from analysis.page.checklist import checklist
from analysis.page.contents import read_material
from analysis.page.final_run import FinalRun, read_final
from analysis.page.first_screen import verdict
from analysis.page.rebuild import commands
from analysis.page.sections.stage_tables import stage_grids
from analysis.planning.make import Budget, make_plan
from analysis.planning.written.plan_file import write_plan
from analysis.runs.study import study_of
from scaling.schema import Measure, TestSetScore, write_json
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


def test_a_page_of_a_set_prints_the_commands_of_that_set(study):
    folder, plan = study
    runs = folder.as_posix()
    of_set = replace(read_material(folder), measure=Measure(target="web"), law=None)
    synthetic.write_rows(
        folder / "final/commands.jsonl",
        [
            {"module": "scaling.final", "arguments": [f"plan=runs/small/{name}"], "at": "t"}
            for name in ("plan.yaml", "plan.web.yaml")
        ],
    )
    of_set = replace(of_set, plan_path=folder / "plan.web.yaml", plan=replace(plan, command=None))
    assert commands(of_set).splitlines()[1:] == [
        f"python -m analysis.fit runs={runs} target=web",
        f"python -m analysis.plan law={runs}/law.web.json runs={runs} target=web"
        f" flops={plan.budget.flops!r}",
        "python -m scaling.final plan=runs/small/plan.web.yaml",
        f"python -m analysis.report runs={runs} target=web",
    ]


def test_losses_on_named_sets_are_lines_of_the_stage_table(study):
    material = read_material(study[0])
    score = TestSetScore(loss=6.1585, loss_se=0.046, bits_per_byte=4.2901, bytes=6736, tokens=32)
    record = replace(material.final.stages["pretrain"], test_sets={"peps": score})
    final = replace(material.final, stages={"pretrain": record})
    (table,) = stage_grids(replace(material, final=final))
    row = next(row for row in table.rows if row[0] == "Loss on peps")
    assert row[1].startswith("6.159")
    assert "4.29 bits per byte of 6,736 bytes" in row[2]


def test_the_checklist_says_how_the_law_counts(study):
    material = read_material(study[0])
    assert material.law is not None
    (line,) = (row[2] for row in checklist(material).rows if row[0].startswith("what N"))
    assert line.endswith(material.law.convention)
    counted = replace(material.law, token_flops={"any": 1})
    (line,) = (
        row[2]
        for row in checklist(replace(material, law=counted)).rows
        if row[0].startswith("what N")
    )
    assert line.endswith("FLOPs per token of the study's shapes")


def test_a_plan_in_bits_per_byte_says_so(study):
    folder, _ = study
    bits = Measure(unit="bits_per_byte")
    law = replace(Law.read(folder / "law.json"), unit=bits.unit)
    of_bits = study_of(folder, count="with_head", measure=bits)
    assert of_bits.bytes_per_token == pytest.approx(synthetic.BYTES_PER_TOKEN)
    plan = make_plan(law, Budget(flops=3e13), of_bits)
    assert plan.forecast.bits_per_byte == plan.forecast.test_loss
    texts = [*plan.forecast.reasons.values(), *plan.pretrain.reasons.values()]
    texts += [step.rule for step in plan.steps]
    assert not [text for text in texts if " nats" in text and not text.startswith("curves have")]
    flat = f"{0.002 / math.log(2) / synthetic.BYTES_PER_TOKEN:.3g} bits per byte"
    assert sum(flat in text for text in texts) == 2
