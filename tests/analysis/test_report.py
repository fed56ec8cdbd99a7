import html
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import fit, load_runs
from analysis.alarms.alarm import Alarm
from analysis.estimation.lr_batch import swept_points
from analysis.laws.law import Law
from analysis.page.alarm_list import alarms, length_alarm
from analysis.page.checklist import checklist, counted
from analysis.page.contents import read_material
from analysis.page.first_screen import verdict
from analysis.page.planner import planner_data
from analysis.page.render import report
from analysis.page.run_gallery import tuning_pictures
from analysis.page.sections.task_scores import score_grid, scores_of
from analysis.page.sections.task_tables import read_evaluations
from analysis.page.tables import flops_run, spent
from analysis.planning.basis import counted as with_flops_of
from analysis.planning.budgets import Budget, budget_of
from analysis.planning.constraints import constraints_of
from analysis.planning.make import make_plan
from analysis.planning.settings import PlanConfig
from analysis.planning.split import repeating
from analysis.planning.written.plan_file import write_plan
from analysis.report import ReportConfig, main
from analysis.runs.study import study_of
from scaling.schema import read_record, read_records, write_json

_spec = importlib.util.spec_from_file_location(
    "synthetic", Path(__file__).with_name("synthetic.py")
)
synthetic = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(synthetic)

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
VOID = {"meta", "link", "br", "input", "img", "hr"}


class Checker(HTMLParser):
    """Collects ids, outward references, and tags that do not nest."""

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.references, self.wrong = [], [], [], []

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.ids += [values["id"]] if "id" in values else []
        self.references += [
            values[k] for k in ("src", "href", "xlink:href", "action", "data") if values.get(k)
        ]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A whole study: cells, law with draws, plan, final run."""
    folder = synthetic.write_study(tmp_path_factory.mktemp("runs") / "small")
    parameters = {
        "E": synthetic.E,
        "A": synthetic.A,
        "B": synthetic.B,
        "alpha": synthetic.ALPHA,
        "beta": synthetic.BETA,
    }
    point = np.array(list(parameters.values()))
    draws = point * np.exp(0.01 * np.random.default_rng(0).normal(size=(100, 5)))
    points = [{"flops": c, "params": 1e5, "tokens": 1e6, "loss": 3.0} for c in (1e11, 1e12, 1e13)]
    regression = {
        "a": 0.5,
        "b": 0.5,
        "k_params": 0.1,
        "k_tokens": 1.6,
        "a_interval": [0.45, 0.55],
        "b_interval": [0.45, 0.55],
    }
    law = Law(
        form="chinchilla",
        count="with_head",
        parameters=parameters,
        objective={"name": "exact"},
        status="converged",
        draws=draws,
        n_runs=23,
        ranges={"flops": [1e11, 1e13], "flops_6nd": [1e11, 1e13]},
        intervals={
            "level": 0.9,
            "parameters": {k: [0.9 * v, 1.1 * v] for k, v in parameters.items()},
        },
        methods={"envelope": {**regression, "points": points}},
    )
    law.write(folder / "law.json")
    plan = make_plan(law, Budget(flops=3e13), study_of(folder, count="with_head"))
    write_plan(folder / "plan.yaml", plan)
    synthetic.write_final(folder, plan=plan, loss=plan.forecast.test_loss + 0.001)
    return folder


@pytest.fixture(scope="module")
def material(folder):
    return read_material(folder)


@pytest.fixture(scope="module")
def page(material) -> str:
    return report(material)


@pytest.fixture(scope="module")
def bare(tmp_path_factory) -> str:
    """The report of a study that has no law, plan or final run yet."""
    folder = synthetic.write_study(tmp_path_factory.mktemp("runs") / "bare")
    return report(read_material(folder))


@pytest.mark.slow
def test_page_asks_nothing_of_any_network(page):
    checked = Checker()
    checked.feed(page)
    assert not re.search(r"https?:|//[a-z]", page.replace("</", ""))
    assert all(r.startswith(("#", "data:")) for r in checked.references)
    assert "@import" not in page
    assert len(page) < 3_000_000


@pytest.mark.slow
def test_page_is_well_formed(page):
    checked = Checker()
    checked.feed(page)
    assert not checked.wrong
    assert not checked.open
    assert len(checked.ids) == len(set(checked.ids))
    assert {r[1:] for r in checked.references if r.startswith("#")} <= set(checked.ids)


def test_samples_and_errors_are_escaped(page):
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page


def test_first_screen_answers(page):
    head = page[: page.index('id="law"')]
    assert "Asked:" in head
    assert "C = 3e13 training FLOPs" in head
    for card in (
        "model size N",
        "training tokens D",
        "forecast test loss",
        "outcome of the final run",
    ):
        assert card in head
    assert re.search(r"90% intervals: <span.*?<mi>E</mi></math> \[", head)
    assert "<mfrac>" in head
    assert "python -m analysis.plan law=" in head  # the command that follows


def test_every_part_is_there(page):
    for anchor in (
        "law",
        "plan",
        "final",
        "stages",
        "evaluation",
        "samples",
        "cost",
        "cells",
        "provenance",
    ):
        assert f'id="{anchor}"' in page
    for words in (
        "KL (nats/sequence)",
        "budget 6",
        "Residuals against tokens",
        "optimal training tokens D",
    ):
        assert words in page


@pytest.mark.slow
def test_every_line_of_the_checklist_is_answered_or_said_to_be_missing(material, folder):
    rows = {row[0]: row[1:] for row in checklist(material).rows}
    assert rows["seeds"][0] == "given"
    assert "0, 1" in rows["seeds"][1]
    assert rows["form"][1].endswith("5 parameters")
    assert "not swept here" in rows["learning rate, batch and how they were set"][1]
    assert rows["hold-out"][0] == "missing"  # this law has no backtest
    nothing = replace(material, law=None, plan=None)
    missing = {row[0] for row in checklist(nothing).rows if row[1] == "missing"}
    assert {"form", "hold-out", "intervals", "extrapolation used"} <= missing
    told = checklist(material, counted(material)).rows
    assert any("a by count of N: total" in row[2] for row in told)


@pytest.mark.slow
def test_a_fitted_study_shows_its_backtest_and_sensitivity(folder, tmp_path):
    copy = Path(shutil.copytree(folder, tmp_path / "small"))
    fit(copy, count="with_head", resamples=40).write(copy / "law.json")
    page = report(read_material(copy))
    for title in ("Relative error of withheld runs", "Sensitivity to objective", "fitted surface"):
        assert f"<title>{title}" in page or title in page
    rows = {row[0]: row[1] for row in checklist(read_material(copy)).rows}
    assert rows["hold-out"] == rows["sensitivity to objective and rows"] == "given"


@pytest.mark.long
@pytest.mark.slow
def test_forms_that_were_compared_are_shown_and_compared_again(folder, material):
    law = fit(load_runs(folder), "all", resamples=0, sensitivity=False)
    page = report(replace(material, law=law))
    table = page[page.index("<h3>Forms compared") : page.index("<h3>Held-out forecasts")]
    names = re.findall(r'<th scope="row">(\w+)</th>', table)
    assert names == [row["form"] for row in law.comparison]
    assert law.form in names
    assert "form=all" in page
    assert "Forms compared" not in report(material)


@pytest.mark.slow
def test_the_outcome_is_held_to_the_sealed_forecast_and_the_curve(folder, tmp_path):
    copy = Path(shutil.copytree(folder, tmp_path / "small"))
    before = read_material(copy)
    reached = before.final.stages["pretrain"].test_loss
    sealed = {"test_loss": 2 * reached, "interval": [1.9 * reached, 2.1 * reached], "level": 0.9}
    point = {"share": 0.1, "tokens": 2e5, "test_loss": 3.0, "interval": [2.9, 3.1], "curves": 5}
    write_json(copy / "final/forecast.json", {**sealed, "curve": [point]})
    seen = {"tokens": 2e5, "test_loss": 3.5, "share": 0.1}
    write_json(copy / "final/curve.json", {"rows": [seen], "left": [0.1, 0.25]})
    after = read_material(copy)
    assert (verdict(before)["tone"], verdict(after)["tone"]) == ("good", "bad")
    assert "left_forecast" in [a["code"] for a in alarms(after)]
    assert "<title>Forecast curve" in report(after)


def test_swept_rates_are_drawn_with_their_optimum():
    lr = np.geomspace(1e-3, 1.6e-2, 5)
    cells = pd.DataFrame({"params": 1e6, "tokens": 1e7, "lr": lr, "batch": 512.0})
    cells["loss"] = 3 + 0.05 * np.log(lr / 4e-3) ** 2
    (point,) = swept_points(cells)
    assert point["optima"]["lr"]["value"] == pytest.approx(4e-3, rel=1e-3)
    (picture,) = tuning_pictures([point], cells)
    assert "Loss against peak learning rate" in picture.svg
    assert tuning_pictures(swept_points(cells.iloc[:3]), cells) == []


def test_every_cell_leads_to_its_curve(page, material):
    for record in material.records:
        assert f'href="#curves-run-{record.run_id}"' in page
        assert f'id="curves-run-{record.run_id}"' in page


@pytest.mark.slow
def test_scores_of_the_cells_are_laws_with_what_they_expect_of_the_plan(folder, tmp_path):
    copied = tmp_path / "small"
    shutil.copytree(folder, copied)
    paths = [*copied.glob("*/record.json"), copied / "final/pretrain/record.json"]
    for record in map(read_record, paths):
        score = {"n": 100, "acc": 0.5, "acc_se": 0.05, "chance": 0.5}
        score |= {"bits_per_byte": 0.4 * record.test_loss}
        values = {
            "schema": 1, "run_id": record.run_id, "stage": "pretrain", "texts": {},
            "params": asdict(record.params), "tokens": record.tokens,
            "flops": record.flops, "test_loss": record.test_loss, "tasks": {"blimp": score},
        }  # fmt: skip
        is_final = record.run_id == read_record(paths[-1]).run_id
        at = copied / ("final/pretrain" if is_final else record.run_id)
        (at / "evaluation.json").write_text(json.dumps(values))
    page = report(read_material(copied))
    assert "Laws of task scores, and what they expect of the planned run" in page
    assert "(evaluation): The accuracy of blimp is at chance over the" in page
    assert "is at chance (chance 0.50): no law" in page
    assert "bits per byte of right answers" in page
    checked = Checker()
    checked.feed(page)
    assert len(checked.ids) == len(set(checked.ids))
    ((task, _, _, _, bits, reached, accuracy, *_),) = score_grid(
        scores_of(read_evaluations(copied)), 3e13, None
    ).rows
    assert (task, reached, accuracy) == ("blimp", "–", "–")
    optimum = min(synthetic.true_loss(n, 3e13 / 6 / n) for n in np.geomspace(1e4, 1e8, 200))
    assert float(bits.split()[0]) == pytest.approx(0.4 * optimum, rel=0.05)


def test_missing_parts_are_said(bare):
    for sentence in (
        "No law has been fitted yet",
        "There is no plan yet",
        "No model has been scored on tasks or texts yet",
        "The final run has not ended yet",
        "There are no samples yet",
    ):
        assert sentence in bare


def test_verdict_compares_with_the_interval(material):
    told = verdict(material)
    assert told["tone"] == "good"
    assert told["head"].startswith("Inside the 90% interval")


@pytest.mark.slow
def test_alarms_come_before_the_answer_and_once(folder, tmp_path):
    copy = Path(shutil.copytree(folder, tmp_path / "small"))
    values = Law.read(copy / "law.json")
    law = replace(
        values,
        status="not_identified",
        alarms=(Alarm(code="single_ray", sentence="One ray only."),),
    )
    law.write(copy / "law.json")
    page = report(read_material(copy))
    assert page.index("not identified") < page.index("Asked:")
    assert page.count("One ray only.") == 1
    codes = [a["code"] for a in alarms(read_material(copy))]
    assert codes[0] == "not_identified"
    assert "stale_plan" in codes


@pytest.mark.slow
def test_failed_cells_are_shown_with_their_reason(folder, tmp_path):
    copy = Path(shutil.copytree(folder, tmp_path / "small"))
    path = next(copy.glob("*/record.json"))
    record = replace(
        read_record(path), status="diverged", test_loss=None, error="loss was <nan> at step 7"
    )
    record.write(path)
    page = report(read_material(copy))
    assert "loss was &lt;nan&gt; at step 7" in page


def report_command(*arguments):
    command = [sys.executable, "-m", "analysis.report", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, cwd=Path(__file__).parents[2]
    )


@pytest.mark.slow
def test_command_writes_the_page_beside_the_study(folder):
    done = report_command(f"runs={folder}")
    assert done.returncode == 0, done.stderr
    assert (folder / "report.html").exists()
    assert "report.html" in done.stdout


def test_cost_counts_a_trunk_once(material):
    long = max(material.records, key=lambda r: r.flops)
    short = replace(
        long,
        run_id="x",
        flops=long.flops / 4,
        seconds=long.seconds / 4,
        device_seconds=long.device_seconds / 4,
    )
    for what in ("flops", "seconds", "device_seconds"):
        once = getattr(long, what) * (1 + 0.2 / 4)
        assert spent([long, short], what) == pytest.approx(once)
    assert flops_run([long, short]) == spent([long, short], "flops")


def test_missing_study_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no study folder .*nothing"):
        main(ReportConfig(runs=f"{tmp_path}/nothing"))


SORT = """<script>
addEventListener("load", () => {
  const table = document.getElementById("celltable"), head = table.tHead.rows[0].cells[8];
  const read = () => [...table.tBodies[0].rows].map(r => +r.cells[8].dataset.v);
  head.querySelector("button").click(); const up = read();
  head.querySelector("button").click(); const down = read();
  const rises = list => list.every((v, i) => !i || v >= list[i - 1]);
  const ordered = rises(up) && rises(down.reverse());
  const wide = document.documentElement.scrollWidth > document.documentElement.clientWidth;
  const aria = head.getAttribute("aria-sort");
  document.title = `sorted=${ordered} aria=${aria} rows=${up.length} overflow=${wide}`;
});
</script>"""


def browsed(page: str, script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Load a page with a script added in Chromium; stdout is its document afterwards."""
    (folder / "page.html").write_text(page.replace("</body>", script + "</body>"))
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--enable-logging=stderr",
        "--dump-dom",
        "--window-size=800,900",
    ]
    command = [
        CHROMIUM,
        *flags,
        f"--user-data-dir={folder}/profile",
        f"file://{folder}/page.html",
    ]
    environment = {**os.environ, "HOME": str(folder)}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium")
def test_a_study_folder_that_is_not_there_is_answered_with_the_one_meant(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("runs/quick").mkdir(parents=True)
    for missing in ("quick", "runs/quik"):
        with pytest.raises(FileNotFoundError, match=r"did you mean runs/quick\?"):
            read_records(missing)
        with pytest.raises(FileNotFoundError, match=r"did you mean runs/quick\?"):
            load_runs(missing)


@pytest.mark.slow
def test_table_sorts_in_a_browser_without_errors(page, tmp_path):
    done = browsed(page, SORT, tmp_path)
    assert re.search(r"sorted=true aria=descending rows=\d\d overflow=false", done.stdout)
    assert "CONSOLE" not in done.stderr


MOVE = """<script>
addEventListener("load", () => {
  const form = document.getElementById("planner"), table = document.getElementById("planned");
  const found = ASKED.map(asked => {
    form.reset();
    form.elements.device.value = "";
    for (const name in asked) form.elements[name].value = asked[name];
    const led = ["flops", "hours", "money"].find(name => name in asked);
    (led ? form.elements[led] : form).dispatchEvent(new Event("input", { bubbles: true }));
    const slider = form.elements.log_flops.value;
    return { plan: JSON.parse(table.dataset.plan), text: table.textContent, slider };
  });
  const result = document.createElement("pre");
  result.id = "result"; result.textContent = JSON.stringify(found); document.body.append(result);
});
</script>"""
SAME = 5e-5  # relative: four digits


def settings_at_random(law, count: int, *, repeats: bool) -> list[dict[str, str]]:
    """Return settings of the planner: a budget in each unit, data, serving, device and price."""
    rng, asked = np.random.default_rng(5), []
    for i in range(count):
        flops = float(f"{law.largest_flops * 10 ** rng.uniform(-0.8, 3):.4g}")
        one = {"flops": f"{flops:.4g}", "speed": "1e12", "utilisation": "0.5", "price": "3"}
        if i % 5 == 1:
            one["hours"] = f"{flops / 5e11 / 3600:.4g}"
        if i % 5 == 2:
            one["money"] = f"{3 * flops / 5e11 / 3600:.4g}"
        if i % 5 == 3:
            one |= {"device": "measured", "hours": f"{flops / 3e10 / 3600:.4g}"}
        if {"hours", "money"} & set(one):
            del one["flops"]
        best = law.optimum(flops, force=True)
        if i % 3 == 1 and repeats:
            one["unique"] = f"{best.tokens * 10 ** rng.uniform(-0.7, 0.5):.3g}"
        if i % 4 == 1:
            one["inference"] = f"{best.tokens * 10 ** rng.uniform(-1, 0.7):.3g}"
        asked.append(one)
    return asked


def planned_by_page(page, asked, folder):
    done = browsed(page, MOVE.replace("ASKED", json.dumps(asked)), folder)
    assert "CONSOLE" not in done.stderr
    told = re.search(r'<pre id="result">(.*?)</pre>', done.stdout, re.DOTALL).group(1)
    return json.loads(html.unescape(told))


def config_of(asked: dict[str, str]) -> PlanConfig:
    given = {k: float(v) for k, v in asked.items() if k in ("flops", "money")}
    given |= {"gpu_hours": float(asked["hours"])} if "hours" in asked else {}
    given |= {"unique_tokens": float(asked["unique"])} if "unique" in asked else {}
    given |= {"inference_tokens": float(asked["inference"])} if "inference" in asked else {}
    if asked.get("device") != "measured":
        given["flops_per_second"] = 5e11
    return PlanConfig(**given, price_per_hour=3.0)


def check_against_the_plan(law, study, asked, found):
    """Compare page, plan and law in the budget, N*, D*, shape, N, D, forecast and intervals."""
    law, page, config = with_flops_of(law, study), found["plan"], config_of(asked)
    budget = budget_of(config, law, study)
    assert page["budget"] == pytest.approx(budget.flops, rel=SAME)
    plan = make_plan(law, budget, study, config)
    steps = {s.what: s for s in plan.steps}
    constrained = "N" in steps
    n, d = steps["N" if constrained else "N*"], steps["D" if constrained else "D*"]
    best = page["optimum"]
    assert best["params"] == pytest.approx(n.value, rel=SAME)
    assert best["tokens"] == pytest.approx(d.value, rel=SAME)
    assert best["interval"] == pytest.approx(steps["params"].interval, rel=SAME)
    assert best["tokens_interval"] == pytest.approx(steps["tokens"].interval, rel=SAME)
    assert page["params"] == plan.pretrain.params
    assert page["tokens"] == pytest.approx(plan.pretrain.tokens, rel=SAME)
    forecast = (plan.forecast.test_loss, *plan.forecast.interval)
    assert page["loss"] == pytest.approx(forecast, rel=SAME)
    assert page["hours"] == pytest.approx(plan.cost.device_hours, rel=SAME)
    assert page["money"] == pytest.approx(plan.cost.money, rel=SAME)
    if not constrained:
        optimum = law.optimum(budget.flops, plan.forecast.level)
        assert best["params"] == pytest.approx(optimum.params, rel=SAME)
        assert best["tokens"] == pytest.approx(optimum.tokens, rel=SAME)
    options = {"unique_tokens": config.unique_tokens, "force": True}
    optimum_tokens = law.optimum(budget.flops, plan.forecast.level).tokens
    answer = repeating(law, constraints_of(config), tokens=optimum_tokens).predict(
        plan.pretrain.params, plan.pretrain.tokens, plan.forecast.level, **options
    )
    ends = [float(v) for v in (answer.loss, answer.low, answer.high)]
    assert page["loss"] == pytest.approx(ends, rel=SAME)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium")
@pytest.mark.many(4)
@pytest.mark.parametrize("form", ["all", "chinchilla", "coupled", "kaplan", "frontier"])
def test_the_planner_in_the_page_agrees_with_the_plan(form, page, folder, material, tmp_path):
    law = material.law
    if form != "chinchilla":
        law = fit(load_runs(folder), form, resamples=400, sensitivity=False)
        page = report(replace(material, law=law))
        assert ('name="unique"' in page) == (form == "all")  # Chinchilla's form knows repetition
    study = study_of(folder, count=law.count)
    asked = settings_at_random(law, 8, repeats=form in ("all", "chinchilla"))
    for one, found in zip(asked, planned_by_page(page, asked, tmp_path), strict=True):
        check_against_the_plan(law, study, one, found)


@pytest.mark.long
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium")
def test_the_planner_agrees_in_fifty_settings(folder, material, tmp_path):
    law = fit(load_runs(folder), "all", resamples=400, sensitivity=False)
    page, study = report(replace(material, law=law)), study_of(folder, count=law.count)
    asked = settings_at_random(law, 50, repeats=True)
    for one, found in zip(asked, planned_by_page(page, asked, tmp_path), strict=True):
        check_against_the_plan(law, study, one, found)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium")
def test_the_planner_warns_outside_the_runs_and_its_fields_agree(page, tmp_path):
    asked = [{"flops": "5e10"}, {"flops": "5e13"}, {"flops": "3e12"}, {"flops": "2e16"}]
    below, beyond, inside, far = planned_by_page(page, asked, tmp_path)
    assert "below the smallest run fitted" in below["text"]
    assert "5 times beyond the largest run fitted" in beyond["text"]
    assert "warning" not in inside["text"]
    assert "no ladder has been seen to hold" in far["text"]
    assert float(beyond["slider"]) == pytest.approx(np.log10(5e13), rel=1e-6)
    assert "It draws from the law of form chinchilla, fitted on 23 runs" in page
    assert '<option value="h200"' in page


@pytest.mark.slow
def test_without_a_law_of_draws_there_is_no_planner(material):
    assert planner_data(None, None) is None
    assert planner_data(replace(material.law, draws=None), None) is None
    assert "planner-law" not in report(replace(material, law=None))


def test_stages_that_learned_from_few_rows_are_an_alarm_once(material):
    stages = material.final.stages
    few = replace(stages["sft"], metrics={**stages["sft"].metrics, "rows": 60.0})
    found = replace(material, final=replace(material.final, stages={**stages, "sft": few}))
    (row,) = [a for a in alarms(found) if a["code"] == "few_rows"]
    assert row["where"] == "sft"
    assert "60 rows that fit, fewer than 500" in row["sentence"]
    assert not [a for a in alarms(material) if a["code"] == "few_rows"]


def test_a_reward_that_is_no_better_than_length_is_an_alarm(folder):
    record = read_record(folder / "final/reward/record.json")
    assert length_alarm(None) == length_alarm(record) == ""
    known = {"accuracy": 0.66, "length_accuracy": 0.65, "over_length": 0.01, "over_length_se": 0.02}
    assert "not shown to measure more than length" in length_alarm(replace(record, metrics=known))
    assert length_alarm(replace(record, metrics=known | {"over_length": 0.05})) == ""


@pytest.mark.slow
def test_the_report_is_logged_to_wandb_offline(folder, tmp_path):
    study = tmp_path / "small"
    shutil.copytree(folder, study)
    command = [sys.executable, "-m", "analysis.report", f"runs={study}", "wandb=offline"]
    environment = {**os.environ, "WANDB_SILENT": "true"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, env=environment)
    assert done.returncode == 0, done.stderr
    (kept,) = (study / "wandb").glob("offline-run-*/*.wandb")
    written = kept.read_bytes()
    for name in (b"report-small", b"report.html", b"law.json", b"cells"):
        assert name in written
    with pytest.raises(ValueError, match="wandb='sometimes' is unknown; choose one of offline"):
        ReportConfig(wandb="sometimes")
