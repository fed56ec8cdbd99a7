"""The report's page of one study or table as HTML.

`context` says which part of the page shows what; tables, figures and sentences come from the other
modules of this room. A part whose files do not exist yet gets a sentence that says what to run. The
templates escape all text; only SVG of our own figures, the style and planner.js are markup.
"""

from dataclasses import asdict
from typing import Any

import pandas as pd
from markupsafe import Markup

from analysis.designing.batch_file import read_batches
from analysis.estimation.lr_batch import swept_points
from analysis.figures.canvas import TEST_LOSS, loss_label
from analysis.forms import FORMS
from analysis.laws.law import Law
from analysis.number_text import number, power
from analysis.page import gallery, run_gallery, tables
from analysis.page.alarm_list import alarms
from analysis.page.checklist import checklist, counted
from analysis.page.contents import Material
from analysis.page.figure_files import backtest_pictures, law_figures
from analysis.page.first_screen import (
    DEFAULT_LEVEL,
    cards,
    fit_note,
    formula,
    interval_level,
    kl_budget,
    parameter_ends,
    question,
    verdict,
)
from analysis.page.gallery import Picture
from analysis.page.overoptimisation import judges_grid, of_ppo, read_best_of_n
from analysis.page.parts import parts_of
from analysis.page.planner import planner_data
from analysis.page.rebuild import commands, next_step
from analysis.page.sections.cell_table import cell_table
from analysis.page.sections.curve_forecasts import curve_pictures, error_grid, parameter_grid
from analysis.page.sections.mixture import mixture_context, mixture_pictures
from analysis.page.sections.plan_tables import derivation_grids, plan_groups
from analysis.page.sections.running_cells import running_grid
from analysis.page.sections.settings import runs_with_settings, settings_part
from analysis.page.sections.stage_laws import forecast_grid, stage_laws
from analysis.page.sections.stage_laws import law_grid as stage_law_grid
from analysis.page.sections.stage_laws import law_pictures as stage_law_pictures
from analysis.page.sections.stage_tables import NAMES as STAGE_NAMES
from analysis.page.sections.stage_tables import stage_grids, stages_missing
from analysis.page.sections.task_scores import alarms_of, score_grid, score_pictures, scores_of
from analysis.page.sections.task_tables import read_evaluations, task_grid, text_grid
from analysis.page.template import inline, page_script, render
from analysis.page.typeset import law_mathml, name_mathml
from analysis.runs.study import study_of
from analysis.runs.study_curves import study_curves
from analysis.solve.progress import OnProgress, no_progress

MOST_SAMPLES = 12  # of PPO, shown before and after
MOST_ALARMS = 6  # in sight; the others are folded
STEPS = 6  # of the progress: scores, checklist, figures of the law, fit, curves, stages
FIRST_FIGURES = ("loss", "optimum_params", "forecast")  # of these the first two are on top


def report(material: Material, on_progress: OnProgress = no_progress) -> str:
    """Return the page of one study; `on_progress` takes (stage, done, total) on the way."""
    measure = material.measure
    label = measure.words if not measure.is_default else TEST_LOSS
    with loss_label(label):
        return render("report.html.j2", **context(material, on_progress))


def loss_words(material: Material) -> str:
    """Say what L is on this page."""
    measure = material.measure
    return "Loss L in nats per token" if measure.is_default else f"L is the {measure.words}"


def context(material: Material, on_progress: OnProgress = no_progress) -> dict[str, Any]:
    """Return everything the template shows, as text, tables and figures."""
    law, plan, cells = material.law, material.plan, material.cells()
    level = (law.intervals or {}).get("level", DEFAULT_LEVEL) if law else DEFAULT_LEVEL
    on_progress("report", 0, STEPS)
    evaluation, score_alarms = _evaluation(material)
    on_progress("report", 1, STEPS)
    checked = checklist(material, counted(material))
    on_progress("report", 2, STEPS)
    final = run_gallery.final_pictures(material)
    leading = _leading(material, level)
    is_surface = {"params", "tokens", "loss"} <= set(cells)
    on_top = [p for n in FIRST_FIGURES for p in (*leading, *final) if p.name == n][:2]
    on_top = on_top or leading[:1]
    on_progress("report", 3, STEPS)
    fitted = gallery.fit_pictures(law, cells) if is_surface else []
    on_progress("report", 4, STEPS)
    curves = run_gallery.curve_pictures(material)
    on_progress("report", 5, STEPS)
    of_final = _final(material, [p for p in final if p not in on_top])
    on_progress("report", STEPS, STEPS)
    return {
        "study": material.name,
        "lede": lede(material),
        "parts": parts_of(material, checked),
        "has_records": material.table is None,
        "alarms": [*alarms(material), *score_alarms],
        "most_alarms": MOST_ALARMS,
        "question": question(plan, material.mixture),
        "cards": [asdict(c) for c in cards(material)],
        "mathml": Markup(law_mathml(law)),
        "formula": formula(law),
        "parameter_ends": [(Markup(name_mathml(k)), text) for k, text in parameter_ends(law)],
        "interval_level": interval_level(law),
        "fit_note": fit_note(law),
        "answer_figures": inline(on_top),
        "next": next_step(material),
        "law_missing": (
            ""
            if law
            else "No law has been fitted yet: run scaling fit, then write the report again."
        ),
        "law_table": tables.law_grid(law),
        "law_figures": inline([p for p in leading if p not in on_top]),
        "methods_table": tables.methods_grid(law),
        "fit_figures": inline(fitted),
        "power_table": tables.power_grid(law),
        "comparison_table": tables.comparison_grid(law),
        "backtest_table": tables.backtest_grid(law),
        "backtest_figures": inline(_backtest(law, cells)),
        "sensitivity_figures": inline(gallery.sensitivity_pictures(law)),
        **_tuning(material),
        **settings_part(material),
        **mixture_context(material.mixture),
        "mixture_figures": inline(mixture_pictures(material.mixture)),
        "plan_missing": (
            "" if plan else "There is no plan yet: run scaling plan, then write the report again."
        ),
        "plan_groups": plan_groups(plan),
        "derivation": derivation_grids(plan),
        "planner": _planner(material),
        **of_final,
        **evaluation,
        "cost_table": tables.cost_grid(material),
        **_design(material),
        **_schedules(material),
        "curves_missing": material.why_no_curves,
        "curve_figures": inline(curves),
        "running_table": running_grid(material.running),
        "cells": cell_table(material),
        "dropped": law.dropped if law else [],
        "checklist_table": checked,
        "provenance_table": tables.provenance_grid(material),
        "commands": commands(material),
        "script": page_script(),
        "footer": (
            "Made by scaling report from the files named above; the page holds all it shows and"
            " asks nothing of any network."
        ),
    }


def _leading(material: Material, level: float) -> list[Picture]:
    """Draw loss and optimum, or the target of a law that is not of N and D."""
    law, cells = material.law, material.cells()
    if material.table is not None and not {"params", "tokens", "loss"} <= set(cells):
        return law_figures(law, cells) if law else []
    return [
        *gallery.law_pictures(material, level=level),
        *gallery.allocation_pictures(law, cells, material.plan, level=level),
    ]


def lede(material: Material) -> str:
    """Say what the page is of, how much of it is done, and what the letters are."""
    count = material.count.replace("_", "-")
    letters = f"{loss_words(material)}, N parameters ({count}), D training tokens, C training FLOPs"
    if material.table is not None:
        letters = letters.replace(f" ({count})", "")
        hidden = f", {material.unread_rows} more not drawn" if material.unread_rows else ""
        return f"{len(material.table)} runs of a table{hidden}. {letters}."
    done = sum(r.status == "done" for r in material.records)
    ended = max(r.ended for r in material.records)[:16].replace("T", " ")
    return f"{done} of {len(material.records)} cells done, the last on {ended}. {letters}."


def _planner(material: Material) -> dict[str, Any] | None:
    """Return what the planner computes with; None where the law does not allow it."""
    done = [r for r in material.records if r.status == "done" and r.stage == "pretrain"]
    read = material.as_read
    study = study_of(material.folder, count=material.count, read=read) if done else None
    data = planner_data(material.law, material.plan, study)
    if data is None:
        return None
    return {**data, "law": Markup(data["law"]), "script": Markup(data["script"])}


def _final(material: Material, pictures: list[Picture]) -> dict[str, Any]:
    """Return the parts on the final run: forecast, outcome, stages, samples."""
    stages = list(material.final.stages)
    budget = kl_budget(material.plan)
    pretrained = "pretrain" in material.final.stages
    laws = stage_laws(material.plan.stage_laws if material.plan else {})
    return {
        "final_missing": (
            ""
            if pretrained
            else material.final.other_plan
            or "The final run has not ended yet: run scaling final, then write the report again."
        ),
        "verdict": verdict(material),
        "confirmation_table": tables.confirmation_grid(material),
        "final_figures": inline(pictures),
        "stages_missing": stages_missing(stages, material.final.other_plan),
        "stage_laws_missing": "" if laws else "No laws of these stages were fitted for the plan.",
        "stage_forecasts_table": forecast_grid(material.plan, material.final.stages),
        "stage_laws_table": stage_law_grid(laws),
        "stage_laws_figures": inline(stage_law_pictures(laws)),
        "stages": [
            {
                "name": STAGE_NAMES[s],
                "table": table,
                "figures": inline(
                    run_gallery.stage_pictures(
                        s, material.final.curves.get(s, pd.DataFrame()), kl_budget=budget
                    )
                ),
            }
            for s, table in zip(stages, stage_grids(material), strict=True)
        ],
        **_overoptimised(material),
        "samples_missing": (
            ""
            if material.final.samples
            else "There are no samples yet: they are kept by the ppo stage."
        ),
        "samples": [
            _sample(i, s) for i, s in enumerate(material.final.samples[:MOST_SAMPLES], start=1)
        ],
    }


def _backtest(law: Law | None, cells: pd.DataFrame) -> list[Picture]:
    """Draw the hindcasts' errors, where the cells are the runs that the law was fitted to."""
    if law is None or not law.backtest or len(cells) != law.n_runs or law.form not in FORMS:
        return []
    return backtest_pictures(cells, FORMS[law.form], law.backtest)


def _schedules(material: Material) -> dict[str, Any]:
    """Return tables and figures of the law of the study's curves, empty where there is none."""
    law = material.curve_law
    if law is None:
        return {"schedule_tables": [], "schedule_figures": []}
    ratio = law.inputs.get("curve_ratio")
    sizes = study_curves(material.folder, count=law.count, ratio=ratio).sizes
    return {
        "schedule_tables": [error_grid(law, sizes), parameter_grid(law)],
        "schedule_figures": inline(curve_pictures(law, sizes)),
    }


def _tuning(material: Material) -> dict[str, Any]:
    """Return the figures of learning rate and batch where the study swept them."""
    law = material.law
    level = (law.intervals or {}).get("level", DEFAULT_LEVEL) if law else DEFAULT_LEVEL
    pictures = run_gallery.critical_batch_pictures(law, level=level)
    if material.table is not None:
        return {"tuning_missing": "", "tuning_figures": inline(pictures)}
    rows = runs_with_settings(material)
    pictures = pictures or run_gallery.tuning_pictures(swept_points(rows), rows)
    missing = (
        "Neither was swept at four values or more at any (N, D) of this study, which takes them"
        " from the rule of its optim settings; sweeps=lr_batch sweeps both."
    )
    return {
        "tuning_missing": "" if pictures else missing,
        "tuning_figures": inline(pictures),
    }


def _overoptimised(material: Material) -> dict[str, Any]:
    """Return table and figures of over-optimisation, by best-of-n and by PPO."""
    judges = read_best_of_n(material.folder)
    before = (
        material.final.stages["ppo"].metrics.get("gold_before")
        if "ppo" in material.final.stages
        else None
    )
    ppo = of_ppo(material.final.curves.get("ppo", pd.DataFrame()), before)
    return {
        "overoptimised_missing": ""
        if judges
        else "Best of n is not measured yet: run scaling.best_of_n.",
        "overoptimised_table": judges_grid([*judges, *([ppo] if ppo else [])]),
        "overoptimised_figures": inline(
            [
                *run_gallery.overoptimised("best-of-n", judges),
                *run_gallery.overoptimised("ppo", [ppo]),
            ]
        ),
    }


def _design(material: Material) -> dict[str, Any]:
    """Return the batches of the design sweeper, nothing where the study had none."""
    batches = read_batches(material.folder)
    last = batches[-1] if batches else None
    halves = [(b.spent, b.half) for b in batches]
    pictures = (
        gallery.design_pictures([], halves, quantity=last.quantity, wanted=last.wanted)
        if last
        else []
    )
    return {
        "design_note": (
            f"The sweep chose its cells for the {'loss' if last.quantity == 'loss' else 'N*'} at"
            f" {power(last.target_flops)} FLOPs, batch by batch; it has"
            f" {'ended: ' + last.stop if last.stop else 'not ended'}."
            if last
            else ""
        ),
        "design_table": tables.design_grid(batches),
        "design_figures": inline(pictures),
    }


def _evaluation(material: Material) -> tuple[dict[str, Any], list[dict[str, str]]]:
    """Return what the page shows of scores on tasks and texts, and the alarms of their laws."""
    evaluations = read_evaluations(material.folder) if material.table is None else []
    scores, flops = scores_of(evaluations), material.plan.pretrain.flops if material.plan else None
    final = [
        v
        for v in evaluations
        if v["final"] and v["stage"] == "pretrain" and "pretrain" not in material.final.others
    ]
    part = {
        "evaluation_missing": (
            ""
            if evaluations
            else "No model has been scored on tasks or texts yet: run scaling.evaluate."
        ),
        "score_table": score_grid(scores, flops, final[0] if final else None),
        "score_figures": inline(score_pictures(scores, flops)),
        "task_table": task_grid(evaluations),
        "text_table": text_grid(evaluations),
    }
    return part, alarms_of(scores)


def _sample(index: int, sample: dict[str, Any]) -> dict[str, str]:
    """Return a sample of PPO with its scores before and after."""
    pairs = [(k, sample.get(f"{k}_before"), sample.get(f"{k}_after")) for k in ("reward", "gold")]
    scores = [
        f"{k} {number(before, 3)} → {number(after, 3)}"
        for k, before, after in pairs
        if before is not None or after is not None
    ]
    texts = {k: str(sample.get(k, "")) for k in ("prompt", "before", "after")}
    return {"title": f"Sample {index}", "scores": ", ".join(scores), **texts}
