"""Fit a law to a study or to any table of runs; print it and write law.json.

    scaling fit runs=runs/quick
    scaling fit runs=table.csv where="group == 'x'" columns.params=N out=law.json
    scaling fit runs=table.csv objective.name=lad_log intervals.resamples=4000
    scaling fit runs=table.csv form=all             average the forms that apply
    scaling fit runs=table.csv form=data_constrained +fixed.alpha=0.35 +fixed.beta=0.35
    scaling fit runs=table.csv within=0.1           only runs near the frontier
    scaling fit runs=table.csv prior=published      with a prior over published laws
    scaling fit runs=table.csv form=surface context=2048   rate and batch at any N and D
    scaling fit runs=runs/own target=web unit=bits_per_byte   a named test set
    scaling fit runs=wandb:ENTITY/PROJECT columns.loss=eval/loss   logs of another tool
    scaling fit runs=curves.csv form=schedule where="schedule in ['cosine', 'constant']"
    scaling fit runs=runs/own annealed=true         with what decays from the trunks would reach
    scaling fit runs=table.csv plot=true            also write law_<figure>.svg

The command calls `analysis.estimation.fit.fit`.
"""

import sys
from dataclasses import replace
from pathlib import Path

from analysis.estimation.checks import SCHEDULE, needed_columns, stage_of
from analysis.estimation.fit import fit
from analysis.estimation.options import FitConfig, check_curve_options
from analysis.estimation.points import best_of_points
from analysis.estimation.schedule import fit_schedule
from analysis.forms import FORMS
from analysis.laws.law import Law
from analysis.runs.annealed import sentence_of, with_annealed
from analysis.runs.importers.sources import is_study
from analysis.runs.table import load_runs
from analysis.solve.progress import progress_on_stderr
from scaling.app.application import start, store, typed_arguments
from scaling.app.choices import wrote
from scaling.app.next_command import next_command
from scaling.schema import Command, Measure

BEYOND = 3.0  # times the largest compute that was fitted: a budget that most laws can forecast


def main(config: FitConfig) -> None:
    """Read, fit, write law.json (and figures beside it), then print the law."""
    source, measure = Path(config.runs), Measure(target=config.target, unit=config.unit)
    if config.form == SCHEDULE:
        fit_curves_of(config)
        return
    runs = load_runs(
        source,
        count=config.count,
        where=config.where,
        columns=config.columns,
        needed=needed_columns(config.form),
        stage=config.stage or stage_of(config.form),
        points=config.points,
        measure=measure,
        context=config.context,
        logs=config.logs,
    )
    if config.annealed:
        runs = with_annealed(runs, source)
    runs = best_of_points(runs, config.form)
    law = fit(
        runs,
        config.form,
        objective=config.objective.chosen(),
        weighting=config.objective.weighting,
        fixed=config.fixed,
        within=config.within,
        prior=config.prior,
        resamples=config.intervals.resamples,
        level=config.intervals.level,
        seed=config.intervals.seed,
        hindcast=config.backtest,
        sensitivity=config.sensitivity,
        tolerance=config.tolerance,
        on_progress=progress_on_stderr(),
    )
    if typed := typed_arguments():
        command = Command.typed("analysis.fit", typed)
        law = replace(law, inputs={**law.inputs, "arguments": command.arguments})
    of_study = is_study(source)
    default = source / measure.file("law.json") if of_study else Path("law.json")
    paths = [law.write(config.out or default)]
    if config.plot:
        from analysis.page.figure_files import (
            write_law_figures,  # matplotlib, only where it is asked for
        )

        paths += write_law_figures(law, runs.table, paths[0])
    ends = wrote(paths, here=not config.out and not of_study)
    following = [sentence_of(runs.inputs), planning(law, paths[0], of_study=of_study)]
    sys.stdout.write("\n".join([law.summary(), "", ends, *filter(None, following)]) + "\n")


def fit_curves_of(config: FitConfig) -> None:
    """Fit the law of loss curves (form=schedule), write it, and print it."""
    check_curve_options(config)
    source = Path(config.runs)
    law = fit_schedule(
        source,
        count=config.count,
        where=config.where,
        columns=config.columns,
        options=config.curve,
        logs=config.logs,
        level=config.intervals.level,
        on_progress=progress_on_stderr(),
    )
    of_study = is_study(source)
    default = source / f"law.{SCHEDULE}.json" if of_study else Path("law.json")
    path = law.write(config.out or default)
    ends = wrote([path], here=not config.out and not of_study)
    sys.stdout.write(f"{law.summary()}\n\n{ends}\n")


def planning(law: Law, path: Path, *, of_study: bool) -> str:
    """Return the closing line that plans from a law; empty where a plan cannot rest on it.

    law: the fitted law
    path: its file
    of_study: whether it was fitted on a study, whose largest cell a plan can multiply
    """
    largest = law.ranges.get("flops") or law.ranges.get("flops_6nd")
    surface = law.form in FORMS and FORMS[law.form].is_surface  # in N and D
    if not (surface and law.usable and law.extrapolates and largest):
        return ""
    if of_study:
        return next_command("plan", law=path, flops_multiple=BEYOND)
    return next_command("plan", law=path, flops=BEYOND * largest[1])


store("fit", FitConfig)

if __name__ == "__main__":
    start(main, config_name="fit", schema=FitConfig)
