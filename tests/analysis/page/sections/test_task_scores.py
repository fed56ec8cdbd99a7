"""Laws of task scores: from compute to accuracy in two steps, chance said, forecasts made."""

import numpy as np
import pytest

from analysis.page.sections.task_scores import (
    alarms_of,
    expected,
    is_above_chance,
    rises,
    score_grid,
    score_pictures,
    scores_of,
)

SIZES = (1e4, 2e4, 4e4, 8e4)
BUDGETS = (1e10, 3e10, 9e10, 2.7e11, 8.1e11, 2.4e12)


def bits_at(flops: float) -> float:
    return 1.5 + 40.0 * flops**-0.15


def accuracy_at(bits: float) -> float:
    return 1 - 0.5 / (1 + np.exp(-4.0 * (bits - 2.1)))


def model(params: float, flops: float, *, seed: int = 0, final: bool = False, **tasks) -> dict:
    """A model off the frontier by how far its size is from the budget's best."""
    apart = np.log(params / (2e4 * (flops / 1e10) ** 0.4)) ** 2
    bits = bits_at(flops) * (1 + 0.02 * apart)
    n = 4000
    score = {
        "n": n, "acc": accuracy_at(bits), "bits_per_byte": bits, "chance": 0.5,
        "acc_se": float(np.sqrt(0.24 / n)),
    }  # fmt: skip
    at_chance = score | {"acc": 0.5 + 0.01 * np.sin(flops / 1e10 + params), "acc_se": 0.008}
    return {
        "run_id": f"{params:.0f}-{flops:.0f}-{seed}", "stage": "pretrain", "final": final,
        "params": {"with_head": int(params)}, "tokens": int(flops / 6 / params), "flops": flops,
        "test_loss": 3.0, "trunk": f"{params:.0f}", "texts": {},
        "tasks": {"blimp": score, "piqa": at_chance} | tasks,
    }  # fmt: skip


def study() -> list[dict]:
    found = [model(n, c) for c in BUDGETS for n in SIZES]
    found += [model(2e4 * (c / 1e10) ** 0.4, c) for c in BUDGETS]
    return found


@pytest.fixture(scope="module")
def scored():
    return {s.task: s for s in scores_of(study())}


def test_both_steps_are_recovered_and_carried_to_the_planned_run(scored):
    blimp = scored["blimp"]
    assert not blimp.without
    assert blimp.accuracy_law.parameters == pytest.approx(
        {"chance": 0.5, "g": 4.0, "L_half": 2.1}, rel=0.01
    )
    said = expected(blimp, 1e13)
    assert said.bits == pytest.approx(bits_at(1e13), rel=0.02)
    assert said.bits_interval[0] <= said.bits <= said.bits_interval[1]
    assert said.accuracy == pytest.approx(accuracy_at(said.bits), abs=0.01)
    low, high = said.accuracy_interval
    assert 0 <= low < accuracy_at(bits_at(1e13)) < high <= 1


def test_the_accuracy_interval_holds_what_the_loss_does_not_know(scored):
    said = expected(scored["blimp"], 1e15)
    ends = [accuracy_at(b) for b in said.bits_interval]
    assert said.accuracy_interval[0] <= min(ends) + 0.01
    assert said.accuracy_interval[1] >= max(ends) - 0.01


def test_a_task_at_chance_has_a_law_of_its_loss_alone_and_says_so(scored):
    piqa = scored["piqa"]
    assert piqa.without == "at_chance"
    assert piqa.accuracy_law is None
    said = expected(piqa, 1e13)
    assert said.accuracy is None
    assert said.bits < 2.1
    (alarm,) = alarms_of(list(scored.values()))
    assert alarm["code"] == "at_chance"
    assert "accuracy of piqa is at chance over the 30 models" in alarm["sentence"]
    assert alarms_of([scored["blimp"]]) == []


def test_one_of_many_models_by_luck_is_no_evidence(scored):
    points = scored["piqa"].points.assign(error_se=0.01, error=0.5)
    assert not is_above_chance(points.assign(error=[0.475, *[0.5] * 29]), 0.5)  # 2.5 deviations
    assert is_above_chance(points.assign(error=[0.46, *[0.5] * 29]), 0.5)


def test_right_answers_that_do_not_come_with_less_loss_make_no_law():
    cells = study()
    for i, cell in enumerate(cells):
        cell["tasks"]["blimp"] |= {"acc": 0.55 + 0.02 * (i % 2)}
    blimp = next(s for s in scores_of(cells) if s.task == "blimp")
    assert is_above_chance(blimp.points, 0.5)
    assert not rises(blimp.points)
    assert (blimp.without, blimp.accuracy_law) == ("no_trend", None)
    assert {a["code"] for a in alarms_of([blimp])} == {"no_trend"}


def test_the_table_holds_expected_and_reached(scored):
    final = model(8e4, 1e13, final=True)
    blimp, piqa = score_grid(list(scored.values()), 1e13, final).rows
    assert blimp[1] == "30"
    assert "C^-" in blimp[2]
    assert blimp[3].startswith("from 0.50, halfway at 2.1")
    assert blimp[5] == f"{final['tasks']['blimp']['bits_per_byte']:.4g}"
    assert blimp[7].startswith(f"{final['tasks']['blimp']['acc']:.3f} ±")
    assert piqa[3] == "is at chance (chance 0.50): no law"
    assert piqa[6] == "–"
    assert score_grid(list(scored.values()), None, None).rows[0][4:8] == ("–",) * 4
    assert score_grid([], None, None).rows == []


def test_figures_show_every_task_and_lines_only_of_laws(scored):
    loss, accuracy = score_pictures(list(scored.values()), 1e13)
    for picture in (loss, accuracy):
        assert "blimp" in picture.svg
        assert "piqa" in picture.svg
    assert ("LineCollection" in loss.svg, "LineCollection" in accuracy.svg) == (False, True)  # bars
    assert score_pictures([], None) == []


def test_few_models_and_the_final_run_itself_make_no_law():
    few = [model(1e4, 1e10), model(2e4, 4e10), model(8e4, 1e13, final=True)]
    blimp = scores_of(few)[0]
    assert len(blimp.points) == 2
    assert (blimp.loss_law, blimp.accuracy_law) == (None, None)
    assert expected(blimp, 1e12) is None
    assert score_grid([blimp], 1e12, None).rows[0][2].startswith("no law: too few models")
    assert score_pictures([blimp], 1e12)
