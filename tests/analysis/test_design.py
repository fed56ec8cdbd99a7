"""Which cells to run next: costs, information, selection, the command, the part of the report."""

import dataclasses
import importlib.util
import itertools
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from analysis import fit
from analysis.design import main
from analysis.designing.batch_file import Batch, append_batch, read_batches
from analysis.designing.candidates import (
    Bill,
    Candidate,
    candidate_of,
    flops_of,
    grid_around,
    of_study,
    reached_by,
)
from analysis.designing.goal import Goal, allowed_sd, half_width, standing
from analysis.designing.information import information_of
from analysis.designing.next_step import Options, fit_if_identified, next_step, table_of
from analysis.designing.proposal import (
    DesignConfig,
    PoolSettings,
    TargetSettings,
    lines_of,
    of_cells,
)
from analysis.designing.selection import select, spread
from analysis.forms import FORMS
from analysis.laws.published import load_law
from analysis.page.contents import read_material
from analysis.page.render import report
from analysis.runs.table import Runs
from scaling.schema import read_records
from tests.analysis.synthetic import write_study

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
LAW = load_law("besiroglu2024")
GOAL = Goal(flops=1e21)


def cells_of(**options) -> list[Candidate]:
    return grid_around(LAW, np.geomspace(1e17, 1e19, 4).tolist(), sizes=5, **options)


def drawn(cells: list[Candidate], *, noise: float = 0.001, seed: int = 0) -> Runs:
    rng = np.random.default_rng(seed)
    table = table_of(cells, [1.0] * len(cells))
    true = FORMS["chinchilla"].predict(
        LAW.parameters, {v: table[v].to_numpy() for v in ("params", "tokens")}
    )
    return Runs(table=table.assign(loss=true * np.exp(noise * rng.standard_normal(len(true)))))


def branch(trunk: str, tokens: float) -> Candidate:
    return Candidate(
        name=f"{trunk}-{tokens}", params=1.0, tokens=tokens, flops_per_token=6.0, trunk=trunk,
        leaves=0.8 * tokens,
    )  # fmt: skip


def test_a_further_branch_costs_its_decay_and_the_extension_of_its_trunk():
    cells = [branch("a", 10), branch("a", 20), branch("b", 10)]
    bill = Bill(cells=cells)
    assert bill.marginal.tolist() == pytest.approx([60, 120, 60])
    bill.add(1)
    assert bill.marginal[[0, 2]].tolist() == pytest.approx([12, 60])  # the decay alone
    bill.add(0)
    bill.add(2)
    assert bill.total == pytest.approx(flops_of(cells)) == pytest.approx(192)
    assert bill.saving(1) == pytest.approx(72)
    kept = Bill(cells=cells, reached={"a": 8.0})
    assert kept.marginal.tolist() == pytest.approx([12, 72, 60])
    assert Bill(cells=cells, reached={"a": 16.0}).marginal[0] == pytest.approx(60)  # from step 0


def test_the_drop_of_each_candidate_is_the_difference_of_two_variances():
    cells = [dataclasses.replace(c, trunk=f"t{i // 3}") for i, c in enumerate(cells_of(seeds=2))]
    information = information_of(LAW, cells[::2], GOAL, table=table_of(cells[1::2], [3.0] * 20))
    chosen = [1, 4]
    now = information.variance(chosen)
    after = [information.variance([*chosen, i]) for i in range(20)]
    np.testing.assert_allclose(information.drops(chosen), now - np.array(after), atol=1e-5 * now)


@pytest.mark.slow
def test_the_information_expects_about_the_bootstraps_deviation():
    """The ratio of many pools; one table's own is within a factor two."""
    runs = drawn(cells_of())
    law = fit(runs, hindcast=False, sensitivity=False, resamples=300)
    now = standing(law, GOAL)
    assert now is not None
    information = information_of(law, cells_of(seeds=2)[1::2], GOAL, table=runs.table)
    assert 0.5 < np.sqrt(information.variance()) / now.sd < 2


@pytest.mark.slow
def test_half_width_and_allowed_deviation_are_inverse():
    runs = drawn(cells_of())
    law = fit(runs, hindcast=False, sensitivity=False, resamples=100)
    for quantity in ("loss", "params"):
        goal = dataclasses.replace(GOAL, quantity=quantity)
        now = standing(law, goal)
        assert now is not None
        again = half_width(now.sd, now.floor, value=now.value, goal=goal)
        assert again == pytest.approx(now.half, rel=0.02)
        asked = dataclasses.replace(goal, precision=again)
        assert allowed_sd(asked, now) == pytest.approx(now.sd, rel=1e-6)


@pytest.mark.slow
def test_the_standing_is_the_forecast_interval_of_the_law():
    law = fit(drawn(cells_of()), hindcast=False, sensitivity=False, resamples=100)
    best = law.optimum(GOAL.flops)
    said = law.predict(best.params, best.tokens, 0.9)
    now = standing(law, GOAL)
    assert now is not None
    assert (now.low, now.high) == (float(said.low), float(said.high))


@pytest.mark.slow
@pytest.mark.parametrize("quantity", ["loss", "params"])
def test_the_selection_meets_its_variance_for_less_than_going_forth_alone(quantity):
    goal = dataclasses.replace(GOAL, quantity=quantity)
    first, pool = cells_of()[::2], cells_of(seeds=3)
    information = information_of(LAW, pool, goal, table=table_of(first, [3.0] * len(first)))
    limit = information.variance() / 40
    alone = itertools.takewhile(lambda p: p.before > limit, select(information, pool, reached={}))
    found = select(information, pool, reached={}, limit=limit)
    assert found[-1].variance <= limit * (1 + 1e-9)
    cost = sum(p.flops for p in found)
    assert cost < sum(p.flops for p in alone)
    assert cost == pytest.approx(flops_of([pool[p.index] for p in found]))
    capped = select(information, pool, reached={}, limit=limit, budget=cost / 3)
    assert sum(p.flops for p in capped) <= cost / 3


@pytest.mark.slow
def test_the_first_cells_tell_all_parameters_apart_and_have_trunks_enough():
    pool = [dataclasses.replace(c, trunk=f"{i % 10}") for i, c in enumerate(cells_of(seeds=2))]
    information = information_of(load_law("hoffmann2022"), pool, GOAL, is_prior=True)
    chosen = [pool[p.index] for p in spread(information, pool, reached={}, number=12, trunks=8)]
    assert len({c.trunk for c in chosen}) >= 8
    assert flops_of(chosen) < 0.25 * flops_of(pool)
    cells = [dataclasses.replace(c, trunk=c.name) for c in chosen]
    law = fit(drawn(cells), hindcast=False, sensitivity=False, resamples=100)
    assert law.usable


@pytest.mark.slow
def test_no_interval_is_given_before_a_law_is_identified():
    pool = cells_of(seeds=2)
    few = drawn(pool[:5])
    ray = drawn([c for c in pool if abs(c.tokens / c.params / 20 - 1) < 0.5] * 4)
    for runs, words in ((None, "0 of the 12"), (few, "5 of the 12"), (ray, "")):
        step = next_step(
            runs, pool, GOAL, prior=LAW, spent=0.0, reached={}, options=Options(resamples=50)
        )
        assert step.standing is None
        assert step.halves == []
        assert words in step.why
        assert len(step.planned) == step.batch >= 4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "pool", "words"),
    [
        ({"precision": 1.0}, 4, "the precision is reached"),
        ({"precision": 1e-3, "max_flops": 1e17}, 4, "the budget is"),
        ({"precision": 1e-3}, 0, "the pool is exhausted"),
    ],
)
def test_a_design_says_why_it_ends(changes, pool, words):
    runs = drawn(cells_of())
    goal = dataclasses.replace(GOAL, **changes)
    left = cells_of(seeds=2)[1::2][:pool]
    options = Options(resamples=50, hindcast=False)
    step = next_step(runs, left, goal, prior=LAW, spent=1e17, reached={}, options=options)
    assert words in step.stop
    assert not step.planned


@pytest.mark.slow
def test_a_study_offers_what_is_not_there_and_knows_how_far_its_trunks_are(tmp_path):
    study = write_study(tmp_path / "study")
    records = read_records(study)
    law = fit(study, hindcast=False, sensitivity=False, resamples=0)
    pool = of_study(records, law, [1e11, 2e11, 3e11], seeds=2)
    there = {(r.params.total, r.seed, round(r.tokens, -3)) for r in records}
    assert pool
    assert not {(c.params, c.seed, round(c.tokens, -3)) for c in pool} & there
    reached = reached_by(records)
    assert {c.trunk for c in pool} & set(reached)
    largest = max(records, key=lambda r: r.flops)
    assert reached[largest.trunk] == pytest.approx(0.8 * largest.tokens)
    assert candidate_of(largest, "total").flops == largest.flops


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    spec = importlib.util.spec_from_file_location("design_bench", BENCHMARKS / "design.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    monkeypatch.setattr(module.estimate, "power_laws", module.estimate.power_laws)
    yield module
    del sys.modules[spec.name], sys.modules["intervals"]


@pytest.mark.long
def test_a_design_costs_less_than_half_of_the_grid_of_the_same_interval(bench):
    """The grids' median half-width is .0078 (benchmarks/design.py)."""
    job = {"law": "asymmetric", "reach": 100.0, "seed": 1, "resamples": 100}
    grid = bench.one(bench.Job(contestant="grid", **job))
    found = bench.one(bench.Job(contestant="design", precision=0.0078, **job))
    assert found["half"] <= 0.0078
    assert found["flops"] < 0.5 * grid["flops"]
    shown = bench.report(bench.pd.DataFrame([grid, found]))
    assert max(map(len, shown.splitlines())) <= 100


def config(tmp_path, **changes) -> DesignConfig:
    values = {
        "law": "besiroglu2024",
        "out": str(tmp_path / "design.json"),
        "simulate": 0,
        "target": TargetSettings(flops=1e21, precision=0.05),
        "pool": PoolSettings(flops=[1e17, 1e19]),
    }
    return DesignConfig(**(values | changes))


@pytest.mark.long
def test_before_any_cell_the_interval_is_shown_against_the_cost(tmp_path, capsys):
    main(config(tmp_path, plot=True, simulate=2))
    found = json.loads((tmp_path / "design.json").read_text())
    halves = [row["half"] for row in found["cells"] if row["half"] is not None]
    assert halves == sorted(halves, reverse=True)
    assert halves[-1] <= 0.05 < halves[0]
    assert found["simulated"][-1]["half"] == pytest.approx(halves[-1], rel=0.6)
    assert (tmp_path / "design.svg").read_text().startswith("<svg")
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines()[:-2])) <= 100
    assert "then +-" in shown


@pytest.mark.slow
def test_a_study_gets_its_next_cells(tmp_path, capsys):
    study = write_study(tmp_path / "study")
    asked = {"law": "", "runs": str(study), "resamples": 100, "cells": 5, "pool": PoolSettings()}
    main(config(tmp_path, **asked, target=TargetSettings(flops=1e15)))
    found = json.loads((tmp_path / "design.json").read_text())
    assert len(found["cells"]) == 5
    assert found["standing"]["half"] > found["cells"][-1]["half"]
    assert found["spent"] < sum(r.flops for r in read_records(study))  # trunks once
    assert "half-width" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"law": ""}, "neither runs nor law"),
        ({"law": "nobody2020"}, "no law nobody2020"),
        ({"law": "steplaw2025"}, "no loss in N and D"),
        ({"target": TargetSettings()}, "target.flops is not set"),
        ({"target": TargetSettings(flops=1e18)}, "inside the range"),
        ({"target": TargetSettings(flops=1e21, precision=1e-4)}, "scatter of one run"),
        ({"target": TargetSettings(flops=1e21, max_flops=1e17)}, "too few"),
    ],
)
def test_a_mistake_is_one_sentence(tmp_path, changes, words):
    with pytest.raises(ValueError, match=words):
        main(config(tmp_path, **changes))
    assert not (tmp_path / "design.json").exists()


@pytest.mark.slow
def test_a_pool_that_is_run_already_is_said_to_be(tmp_path):
    study = write_study(tmp_path / "study")
    asked = config(
        tmp_path, law="", runs=str(study), resamples=100, target=TargetSettings(flops=1e15),
        pool=PoolSettings(flops=[1e9, 2e9], budgets=2, seeds=1),
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"widen pool\.flops"):
        main(asked)


def batch(number: int, **changes) -> Batch:
    values = {
        "number": number, "spent": 1e12 * number, "n_runs": 12, "status": "converged", "value": 2.5,
        "interval": [2.4, 2.6], "half": 0.1 / number, "wanted": 0.03, "quantity": "loss",
        "target_flops": 1e15, "level": 0.9, "cost": 1e12, "cells": [{"run": "abc"}], "planned": 1,
        "planned_cost": 1e12, "why": "drop", "stop": "",
    }  # fmt: skip
    return Batch(**(values | changes))


@pytest.mark.slow
def test_the_report_shows_the_course_of_a_design(tmp_path):
    study = write_study(tmp_path / "study")
    assert "Cells chosen for a target" not in report(read_material(study))
    first = batch(1, half=None, value=None, interval=[], status="")
    for line in (first, batch(2), batch(3), batch(4, cells=[], stop="the precision is reached")):
        append_batch(study, line)
    assert [b.number for b in read_batches(study)] == [1, 2, 3, 4]
    assert read_batches(study)[1].run_ids == ["abc"]
    page = report(read_material(study))
    assert "Cells chosen for a target" in page
    assert "the precision is reached" in page
    assert "half-width of the interval of loss" in page


def test_a_line_of_another_schema_is_refused(tmp_path):
    append_batch(tmp_path, batch(1, schema=7))
    with pytest.raises(ValueError, match="schema 7"):
        read_batches(tmp_path)


def test_a_fit_of_few_trunks_is_not_used():
    cells = [dataclasses.replace(c, trunk=f"t{i % 5}") for i, c in enumerate(cells_of())]
    law, why = fit_if_identified(drawn(cells), GOAL, Options())
    assert law is None
    assert "5 independent trunks" in why


def test_an_unknown_quantity_is_refused_with_the_choices():
    with pytest.raises(ValueError, match="choose one of loss, params"):
        TargetSettings(flops=1e21, quantity="size")


@pytest.mark.slow
def test_a_design_starts_from_the_studys_own_law_and_no_cell_does_harm(tmp_path):
    folder = write_study(tmp_path / "runs" / "small")
    law = fit(str(folder), "all", count="with_head", resamples=100, sensitivity=False)
    law.write(folder / "law.json")
    config = DesignConfig(
        runs=str(folder), count="with_head", cells=20, target=TargetSettings(flops=1e14)
    )
    proposal = of_cells(config, config.target.goal())
    assert proposal["law"]["weights"] == {m.form.name: m.weight for m in law.members}
    assert proposal["law"]["form"] == "all"
    assert f"law: {folder}/law.json" in "".join(lines_of(proposal)).replace("\n", "")
    assert all(row["per_flop"] > 0 for row in proposal["cells"])
    stale = dataclasses.replace(law, inputs={**law.inputs, "sha256": {}})
    stale.write(folder / "law.json")
    assert "fitted again" in of_cells(config, config.target.goal())["note"]
