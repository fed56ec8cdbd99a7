"""Every module has the test file of its name, or a line here that says which file tests it.

`scaling/train/step.py` belongs to `tests/scaling/train/test_step.py`. A module that is tested
through another one, or several that one file tests together, stand in COVERED_BY; a test file of
no single module stands in WHOLE.
"""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
ROOT = TESTS.parent
WHOLE = {  # test files of no single module: what they hold
    "analysis/estimation/surfaces/test_page.py": "a surface before the other commands",
    "analysis/forms/test_forms.py": "every form of a law, by one set of tests",
    "analysis/test_bad_input.py": "hostile input to every command of the analysis",
    "analysis/test_known_plans.py": "plans of published models",
    "scaling/test_damage.py": "files that a crash damaged",
    "scaling/test_forecasts.py": "a forecast from its seal to its score",
    "scaling/test_golden.py": "losses of seeded cells",
    "scaling/test_lm_eval.py": "the lm-eval harness on an exported model",
    "scaling/test_safety.py": "files of somebody else",
    "scaling/test_settings.py": "every setting is read, every setting of science is hashed",
    "test_alarm_page.py": "the pages of alarms and of forms",
    "analysis/page/test_page_in_a_browser.py": "the page as a reader meets it",
    "analysis/page/test_tables_and_index.py": "pages of tables, and of a folder of studies",
    "test_commands.py": "a study from the command line",
    "test_contributing.py": "the small changes of CONTRIBUTING.md",
    "test_docs.py": "README and docs: blocks run, the site builds",
    "test_gpu_benchmark.py": "benchmarks/gpu.py",
    "test_installed.py": "an installed copy, in a folder of somebody else",
    "test_layout.py": "who imports whom; every config composes",
    "test_mirror.py": "this file",
    "test_mistakes.py": "each kind of mistake over all commands",
    "test_old_files.py": "files of earlier versions",
    "test_page_commands.py": "commands that the pages of docs/ show",
    "test_ranges.py": "the range of every number",
    "test_rebuild.py": "the commands that a report prints",
    "test_retrieval.py": "an exported model in langchain",
    "test_slurm.py": "sweeps on a real SLURM",
    "test_survival.py": "sweeps that are killed, left, crowded and starved",
    "test_worker_groups.py": "tests that share a worker",
}
COVERED_BY = {  # module: the test file that covers it, below tests/
    "scaling.work": "scaling/jobs/test_open_work.py",
    "scaling.curves.block": "analysis/laws/test_curve_law.py",
    "scaling.curves.curve": "scaling/curves/test_fit.py",
    "scaling.curves.law_fit": "scaling/curves/test_fit.py",
    "analysis.figures.batch_charts": "analysis/estimation/test_critical_batch.py",
    "analysis.figures.arm_charts": "analysis/page/test_compared_studies.py",
    "analysis.laws.critical_batch_text": "analysis/estimation/test_critical_batch.py",
    "scaling.schema.memory": "scaling/stages/test_preflight.py",
    "scaling.schema.sft_columns": "scaling/stages/test_sft.py",
    "scaling.stages.plan_that_ran": "scaling/test_final.py",
    "analysis.alarms.alarm": "analysis/alarms/test_of_table.py",
    "analysis.alarms.of_fit": "analysis/alarms/test_of_table.py",
    "analysis.alarms.of_logs": "analysis/test_table.py",
    "analysis.alarms.outliers": "analysis/alarms/test_of_table.py",
    "analysis.alarms.units": "analysis/alarms/test_of_table.py",
    "analysis.backtesting.experiments": "analysis/backtesting/test_folder.py",
    "analysis.backtesting.scores": "analysis/backtesting/test_folder.py",
    "analysis.backtesting.splits": "analysis/backtesting/test_folder.py",
    "analysis.backtesting.summary": "analysis/backtesting/test_folder.py",
    "analysis.backtesting.options": "analysis/backtesting/test_folder.py",
    "analysis.designing.batch_file": "analysis/test_design.py",
    "analysis.designing.candidates": "analysis/test_design.py",
    "analysis.designing.goal": "analysis/test_design.py",
    "analysis.designing.information": "analysis/test_design.py",
    "analysis.designing.next_step": "analysis/test_design.py",
    "analysis.designing.proposal": "analysis/test_design.py",
    "analysis.designing.selection": "analysis/test_design.py",
    "analysis.designing.simulation": "analysis/test_design.py",
    "analysis.laws.form_error": "analysis/laws/test_law.py",
    "analysis.downloads.sources": "analysis/downloads/test_transfer.py",
    "analysis.estimation.allocation_laws": "analysis/test_bad_input.py",
    "analysis.estimation.checks": "analysis/test_fit.py",
    "analysis.estimation.fit": "analysis/test_fit.py",
    "analysis.estimation.fitted_form": "analysis/estimation/test_form_average.py",
    "analysis.estimation.fit_alarms": "analysis/alarms/test_of_table.py",
    "analysis.estimation.fit_blocks": "analysis/test_fit.py",
    "analysis.estimation.isoflops.akima": "analysis/estimation/isoflops/test_isoflop.py",
    "analysis.estimation.options": "analysis/test_bad_input.py",
    "analysis.estimation.points": "analysis/runs/test_replicates.py",
    "analysis.estimation.schedule": "analysis/laws/test_curve_law.py",
    "analysis.estimation.power_laws": "analysis/test_report.py",
    "analysis.forms.settings.surface": "analysis/estimation/surfaces/test_fit.py",
    "analysis.estimation.surfaces.grid": "analysis/estimation/surfaces/test_fit.py",
    "analysis.estimation.surfaces.valley": "analysis/estimation/surfaces/test_fit.py",
    "analysis.estimation.withheld": "analysis/test_backtest.py",
    "analysis.comparing.arms": "analysis/comparing/test_comparability.py",
    "analysis.comparing.draws": "analysis/comparing/test_comparison.py",
    "analysis.comparing.matching": "analysis/comparing/test_comparison.py",
    "analysis.comparing.multiplier": "analysis/comparing/test_comparison.py",
    "analysis.comparing.options": "analysis/test_compare.py",
    "analysis.comparing.pairs": "analysis/comparing/test_comparison.py",
    "analysis.comparing.rankings": "analysis/comparing/test_comparison.py",
    "analysis.comparing.text": "analysis/test_compare.py",
    "analysis.mixing.alarms": "analysis/mixing/test_result.py",
    "analysis.mixing.draws": "analysis/mixing/test_result.py",
    "analysis.mixing.options": "analysis/test_mixture.py",
    "analysis.mixing.text": "analysis/test_mixture.py",
    "analysis.figures.mixture_charts": "analysis/page/sections/test_mixture.py",
    "analysis.mixing.validation": "analysis/mixing/test_result.py",
    "analysis.figures.backtest_charts": "analysis/backtesting/test_folder.py",
    "analysis.figures.bands": "analysis/figures/test_canvas.py",
    "analysis.figures.charts": "analysis/figures/test_canvas.py",
    "analysis.forms.accuracy": "analysis/forms/test_forms.py",
    "analysis.forms.bnsl": "analysis/forms/test_forms.py",
    "analysis.forms.chinchilla": "analysis/forms/test_forms.py",
    "analysis.forms.coupled": "analysis/forms/test_forms.py",
    "analysis.forms.data_constrained": "analysis/forms/test_forms.py",
    "analysis.forms.farseer": "analysis/forms/test_forms.py",
    "analysis.forms.finetuning": "analysis/forms/test_forms.py",
    "analysis.forms.form": "analysis/forms/test_forms.py",
    "analysis.forms.frontier": "analysis/forms/test_forms.py",
    "analysis.forms.grid": "analysis/forms/test_forms.py",
    "analysis.forms.jets": "analysis/forms/test_forms.py",
    "analysis.forms.kaplan": "analysis/forms/test_forms.py",
    "analysis.forms.experts": "analysis/forms/test_forms.py",
    "analysis.forms.optimum": "analysis/laws/test_law.py",
    "analysis.forms.overoptimisation": "analysis/forms/test_forms.py",
    "analysis.forms.overtraining": "analysis/forms/test_forms.py",
    "analysis.forms.power": "analysis/forms/test_forms.py",
    "analysis.forms.reward_model": "analysis/forms/test_forms.py",
    "analysis.forms.rl_sigmoid": "analysis/forms/test_forms.py",
    "analysis.laws.isoflop_text": "analysis/estimation/isoflops/test_answers.py",
    "analysis.laws.law_file": "analysis/laws/test_law.py",
    "analysis.laws.answers": "analysis/laws/test_law.py",
    "analysis.laws.surface_law": "analysis/estimation/surfaces/test_fit.py",
    "analysis.laws.surface_text": "analysis/estimation/surfaces/test_fit.py",
    "analysis.laws.text": "analysis/laws/test_published.py",
    "analysis.page.backtest_page": "analysis/backtesting/test_folder.py",
    "analysis.figures.check_charts": "analysis/figures/test_canvas.py",
    "analysis.figures.run_charts": "analysis/figures/test_canvas.py",
    "analysis.figures.schedule_charts": "analysis/page/sections/test_curve_page.py",
    "analysis.page.sections.curve_forecasts": "analysis/page/sections/test_curve_page.py",
    "analysis.page.alarm_list": "analysis/test_report.py",
    "analysis.page.sections.cell_table": "analysis/test_report.py",
    "analysis.page.index_page": "analysis/page/test_tables_and_index.py",
    "analysis.page.table_material": "analysis/page/test_tables_and_index.py",
    "analysis.page.parts": "analysis/test_report.py",
    "analysis.page.sections.plan_tables": "analysis/test_report.py",
    "analysis.page.rebuild": "test_rebuild.py",
    "analysis.page.run_gallery": "analysis/test_report.py",
    "analysis.page.template": "analysis/test_report.py",
    "analysis.page.checklist": "analysis/test_report.py",
    "analysis.page.contents": "analysis/test_report.py",
    "analysis.page.figure_files": "analysis/test_backtest.py",
    "analysis.page.first_screen": "analysis/test_report.py",
    "analysis.page.gallery": "analysis/test_report.py",
    "analysis.page.planner": "analysis/test_report.py",
    "analysis.page.render": "analysis/test_report.py",
    "analysis.figures.valley_charts": "analysis/estimation/surfaces/test_page.py",
    "analysis.page.sections.options": "analysis/estimation/surfaces/test_page.py",
    "analysis.page.sections.settings": "analysis/estimation/surfaces/test_page.py",
    "analysis.page.sections.stage_laws": "analysis/planning/later_stages/test_choices.py",
    "analysis.page.tables": "analysis/test_report.py",
    "analysis.page.wandb_artifact": "analysis/test_report.py",
    "analysis.planning.basis": "analysis/test_plan.py",
    "analysis.planning.budgets": "analysis/test_plan.py",
    "analysis.planning.command": "analysis/test_plan.py",
    "analysis.planning.cost": "analysis/planning/test_constraints.py",
    "analysis.planning.later_stages.all_blocks": "analysis/test_plan.py",
    "analysis.planning.later_stages.sizes": "analysis/planning/test_real_size.py",
    "analysis.planning.later_stages.blocks": "analysis/planning/later_stages/test_choices.py",
    "analysis.planning.laws_compared": "analysis/planning/test_constraints.py",
    "analysis.planning.machine_block": "analysis/test_plan.py",
    "analysis.planning.make": "analysis/test_plan.py",
    "analysis.planning.plan": "analysis/test_plan.py",
    "analysis.planning.pretrain_block": "analysis/test_plan.py",
    "analysis.planning.settings": "analysis/test_plan.py",
    "analysis.planning.shapes.family": "analysis/planning/test_constraints.py",
    "analysis.planning.split": "analysis/planning/test_constraints.py",
    "analysis.planning.written.derivation": "analysis/test_plan.py",
    "analysis.planning.written.plan_alarms": "analysis/test_plan.py",
    "analysis.planning.written.plan_file": "analysis/test_plan.py",
    "analysis.planning.written.steps": "analysis/test_plan.py",
    "analysis.published_tables": "analysis/downloads/test_transfer.py",
    "analysis.runs.cells": "scaling/test_safety.py",
    "analysis.runs.columns": "analysis/alarms/test_of_table.py",
    "analysis.runs.files": "analysis/runs/test_table.py",
    "analysis.runs.importers.beside": "analysis/runs/importers/test_sources.py",
    "analysis.runs.importers.complete": "analysis/runs/importers/test_sources.py",
    "analysis.runs.importers.files": "analysis/runs/importers/test_sources.py",
    "analysis.runs.importers.lm_eval_results": "analysis/runs/importers/test_sources.py",
    "analysis.runs.importers.logged_run": "analysis/runs/importers/test_sources.py",
    "analysis.runs.importers.mlflow_store": "analysis/runs/importers/test_sources.py",
    "analysis.runs.importers.names": "analysis/runs/importers/test_sources.py",
    "analysis.runs.importers.nanochat": "analysis/runs/importers/test_sources.py",
    "analysis.runs.importers.olmo": "analysis/runs/importers/test_sources.py",
    "analysis.runs.importers.options": "analysis/runs/importers/test_sources.py",
    "analysis.runs.importers.rows": "analysis/runs/importers/test_sources.py",
    "analysis.runs.importers.run_values": "analysis/runs/importers/test_sources.py",
    "analysis.runs.importers.tensorboard_events": "analysis/runs/importers/test_sources.py",
    "analysis.runs.importers.text_log": "analysis/runs/importers/test_sources.py",
    "analysis.runs.importers.torchtitan": "analysis/runs/importers/test_sources.py",
    "analysis.runs.importers.transformers_state": "analysis/runs/importers/test_sources.py",
    "analysis.runs.importers.wandb_offline": "analysis/runs/importers/test_sources.py",
    "analysis.runs.importers.written": "analysis/test_table.py",
    "analysis.runs.jsonl": "scaling/test_safety.py",
    "analysis.runs.study": "analysis/test_plan.py",
    "analysis.solve.function_predictions": "analysis/forms/test_forms.py",
    "analysis.solve.objective": "analysis/test_fit.py",
    "analysis.solve.predictions": "analysis/forms/test_forms.py",
    "analysis.solve.progress": "analysis/test_fit.py",
    "analysis.solve.residual_spread": "analysis/uncertainty/test_bootstrap.py",
    "analysis.solve.row_sums": "analysis/forms/test_forms.py",
    "analysis.solve.seed_noise": "analysis/test_design.py",
    "analysis.solve.solver": "analysis/test_fit.py",
    "analysis.solve.term_predictions": "analysis/forms/test_forms.py",
    "analysis.uncertainty.percentiles": "analysis/uncertainty/test_bootstrap.py",
    "analysis.uncertainty.reparametrise": "analysis/uncertainty/test_profile_likelihood.py",
    "analysis.validate.sensitivity": "analysis/test_report.py",
    "scaling.__main__": "test_installed.py",
    "scaling.app.application": "test_mistakes.py",
    "scaling.app.choices": "analysis/test_bad_input.py",
    "scaling.app.conf_folder": "test_layout.py",
    "scaling.app.errors": "scaling/test_damage.py",
    "scaling.app.positional": "analysis/downloads/test_transfer.py",
    "scaling.app.quoting": "analysis/test_bad_input.py",
    "scaling.app.values": "test_mistakes.py",
    "scaling.config.cell": "scaling/test_settings.py",
    "scaling.config.data": "scaling/data/test_tokens.py",
    "scaling.config.final": "scaling/test_final.py",
    "scaling.config.machine": "scaling/train/test_device.py",
    "scaling.config.model": "scaling/model/test_transformer.py",
    "scaling.config.ranges": "test_ranges.py",
    "scaling.config.stages": "scaling/stages/test_cells.py",
    "scaling.config.training": "scaling/optim/test_optimizers.py",
    "scaling.corpus": "scaling/data/test_tokens.py",
    "scaling.cpu.compiler": "scaling/cpu/test_jit.py",
    "scaling.cpu.decode": "scaling/inference/test_generate.py",
    "scaling.data.batches": "scaling/data/test_tokens.py",
    "scaling.data.chat_template": "scaling/test_export.py",
    "scaling.data.chunks": "scaling/data/test_tokens.py",
    "scaling.data.division": "scaling/data/test_tokens.py",
    "scaling.data.documents": "scaling/data/test_tokens.py",
    "scaling.data.token_corpus": "scaling/data/test_shards.py",
    "scaling.data.vocabulary_files": "scaling/data/test_vocabulary.py",
    "scaling.data.file_hashes": "scaling/test_damage.py",
    "scaling.data.encoded": "scaling/data/test_tokens.py",
    "scaling.train.test_files": "scaling/train/test_rolling.py",
    "scaling.schema.record_parts": "scaling/train/test_rolling.py",
    "scaling.inference.evaluation": "scaling/test_evaluate.py",
    "scaling.inference.hf_export": "scaling/test_export.py",
    "scaling.inference.likelihood": "scaling/test_evaluate.py",
    "scaling.inference.peft_export": "scaling/test_export.py",
    "scaling.inference.tasks": "scaling/test_evaluate.py",
    "scaling.inference.trained": "scaling/test_evaluate.py",
    "scaling.jobs.cell_states": "scaling/test_status.py",
    "scaling.jobs.cells": "scaling/test_status.py",
    "scaling.jobs.external_ranks": "scaling/train/test_ranks.py",
    "scaling.jobs.gc_freeze": "scaling/jobs/test_pool.py",
    "scaling.jobs.grid": "test_commands.py",
    "scaling.jobs.live_table": "test_survival.py",
    "scaling.jobs.pricing": "test_commands.py",
    "scaling.jobs.slurm.code_snapshot": "test_slurm.py",
    "scaling.jobs.slurm.queries": "test_slurm.py",
    "scaling.jobs.slurm.submit": "test_slurm.py",
    "scaling.jobs.study_run": "test_commands.py",
    "scaling.jobs.submission": "test_survival.py",
    "scaling.jobs.tasks": "scaling/stacked/test_passes.py",
    "scaling.jobs.worker": "scaling/jobs/test_pool.py",
    "scaling.model.loss": "scaling/model/test_transformer.py",
    "scaling.model.mlp": "scaling/model/test_transformer.py",
    "scaling.model.parametrization": "scaling/optim/test_optimizers.py",
    "scaling.optim.groups": "scaling/optim/test_optimizers.py",
    "scaling.optim.muon": "scaling/optim/test_optimizers.py",
    "scaling.optim.schedule": "scaling/train/test_trunk.py",
    "scaling.schema.atomic": "scaling/test_damage.py",
    "scaling.schema.damage": "scaling/study/test_lease.py",
    "scaling.schema.evaluation": "test_old_files.py",
    "scaling.schema.files": "scaling/test_safety.py",
    "scaling.schema.forecasts": "scaling/test_forecasts.py",
    "scaling.schema.process": "scaling/study/test_lease.py",
    "scaling.schema.ranges": "test_ranges.py",
    "scaling.schema.reading": "test_old_files.py",
    "scaling.schema.recipe": "analysis/test_plan.py",
    "scaling.schema.safety": "scaling/test_safety.py",
    "scaling.schema.shape": "scaling/test_budget.py",
    "scaling.schema.trunk": "scaling/test_budget.py",
    "scaling.schema.yaml_file": "scaling/test_safety.py",
    "scaling.stacked.runs": "scaling/stacked/test_passes.py",
    "scaling.stacked.turns": "scaling/stacked/test_passes.py",
    "scaling.stages.best_of_n": "scaling/test_best_of_n.py",
    "scaling.stages.final_run": "scaling/test_final.py",
    "scaling.stages.loop": "scaling/stages/test_sft.py",
    "scaling.stages.outcome": "scaling/test_final.py",
    "scaling.stages.plan": "scaling/test_final.py",
    "scaling.stages.preferences": "scaling/stages/test_reward.py",
    "scaling.stages.reward_model": "scaling/stages/test_reward.py",
    "scaling.stages.rollouts": "scaling/stages/test_ppo.py",
    "scaling.stages.sealed_forecast": "scaling/test_forecasts.py",
    "scaling.stages.stage": "scaling/stages/test_sft.py",
    "scaling.stages.stage_record": "scaling/stages/test_sft.py",
    "scaling.study.activity": "test_survival.py",
    "scaling.study.curve": "scaling/train/test_trunk.py",
    "scaling.study.failures": "scaling/test_status.py",
    "scaling.study.places": "scaling/stages/test_cells.py",
    "scaling.study.wandb_mirror": "scaling/train/test_trunk.py",
    "scaling.sweep": "test_commands.py",
    "scaling.train.coordinate_check": "scaling/test_coordinates.py",
    "scaling.train.heldout": "scaling/data/test_tokens.py",
    "scaling.train.local_ranks": "scaling/train/test_ranks.py",
    "scaling.train.memory_check": "scaling/test_safety.py",
    "scaling.train.rank_exit": "scaling/train/test_presence.py",
    "scaling.train.requests": "scaling/train/test_trunk.py",
    "scaling.train.step": "scaling/train/test_trunk.py",
    "scaling.train.tensor_files": "scaling/test_damage.py",
    "scaling.train.trunk_record": "scaling/train/test_trunk.py",
    "scaling.train.trunk_state": "scaling/train/test_trunk.py",
}


def modules() -> set[str]:
    """Return the dotted names of all modules; a package's own file only collects names."""
    paths = [p for room in ("scaling", "analysis") for p in (ROOT / room).rglob("*.py")]
    return {
        ".".join(p.relative_to(ROOT).with_suffix("").parts)
        for p in paths
        if p.name != "__init__.py"
    }


def mirror(module: str) -> str:
    """Return the test file that has the module's name, below tests/."""
    *folders, name = module.split(".")
    return "/".join([*folders, f"test_{name}.py"])


def test_every_module_has_a_test_file_or_a_line_that_says_which():
    missing = {m for m in modules() if m not in COVERED_BY and not (TESTS / mirror(m)).is_file()}
    assert missing == set(), "write the test file, or add the module to COVERED_BY"


def test_no_line_is_stale():
    assert set(COVERED_BY) - modules() == set(), "these modules are gone"
    assert {t for t in COVERED_BY.values() if not (TESTS / t).is_file()} == set()
    assert {m for m in COVERED_BY if (TESTS / mirror(m)).is_file()} == set(), "they have their own"


def test_no_test_file_is_of_a_module_that_is_not_there():
    files = {p.relative_to(TESTS).as_posix() for p in TESTS.rglob("test_*.py")}
    assert files - {mirror(m) for m in modules()} == set(WHOLE)


@cache
def names_in(path: Path) -> frozenset[str]:
    """Return all dotted names that a file imports or says in a text, as `analysis.fit`."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{a.name}" for a in node.names)}
            if node.level:  # `from .test_commands import run`
                names.add(f"tests.{node.module}")
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names |= set(
                re.findall(r"\b(?:scaling|analysis|hydra_plugins)\.[a-z_.]*[a-z]", node.value)
            )
    return frozenset(names)


@cache
def file_of(name: str) -> Path | None:
    """Return the file of a module, a package or a test file; None for another name."""
    path = ROOT.joinpath(*name.split("."))
    return next((p for p in (path.with_suffix(".py"), path / "__init__.py") if p.is_file()), None)


def reached_from(path: Path) -> set[Path]:
    """Return the files that a file comes to by imports and by the commands that it names."""
    reached, ahead = set(), {path}
    while ahead:
        file = ahead.pop()
        reached.add(file)
        ahead |= {f for f in map(file_of, names_in(file)) if f} - reached
    return reached


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(COVERED_BY.values())))
def test_a_file_comes_to_the_modules_that_it_covers(name):
    reached = reached_from(TESTS / name)
    covered = {m for m, test in COVERED_BY.items() if test == name}
    assert {m for m in covered if file_of(m) not in reached} == set()
