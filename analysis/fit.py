"""Fit a law to a study or to any table of runs: prints it and writes law.json.

    python -m analysis.fit runs=runs/quick
    python -m analysis.fit runs=table.csv where="group == 'x'" columns.params=N out=law.json
    python -m analysis.fit runs=table.csv objective.name=lad_log intervals.resamples=4000
    python -m analysis.fit runs=table.csv form=all             ranks the forms that apply
    python -m analysis.fit runs=table.csv form=data_constrained +fixed.alpha=0.35 +fixed.beta=0.35
    python -m analysis.fit runs=table.csv within=0.1           only runs near the frontier
    python -m analysis.fit runs=table.csv plot=true            also writes law_<figure>.svg

The function is `analysis.estimation.fit.fit`; this is its application.
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from analysis.estimation.fit import check_options, fit, needed_columns, stage_of
from analysis.runs.table import FORM_OF, Columns, load_runs
from analysis.solve.objective import Objective
from analysis.solve.progress import shown
from analysis.validate.near_frontier import check_within
from scaling.app.application import start, store
from scaling.app.choices import check_choice_of, wrote
from scaling.schema import LEVEL, MOST, MOST_RESAMPLES, Range, Seed, check_ranges


@dataclass(kw_only=True)
class ObjectiveConfig:
    """Which residual is made small: huber_log, lad_log, ls_log or ls; delta is Huber's.

    Without a name it is the form's own. `weighting`: column (`weight`), seed_noise, or none.
    """

    name: str | None = None
    delta: Annotated[float, Range(0, 1e6, above=True)] = 1e-3
    weighting: str = "column"

    def __post_init__(self) -> None:
        """Check the numbers."""
        check_ranges(self, "objective")

    def chosen(self) -> Objective | None:
        """Return the objective, or None for the form's own."""
        if self.name is None and self.delta == ObjectiveConfig.delta:
            return None
        return Objective(name=self.name or "huber_log", delta=self.delta)


@dataclass(kw_only=True)
class IntervalsConfig:
    """Bootstrap: how many resamples (0 turns it off), the level, the seed of the generator."""

    resamples: Annotated[int, Range(0, MOST_RESAMPLES, note="0 turns intervals off")] = 1000
    level: Annotated[float, LEVEL] = 0.9
    seed: Seed = 0

    def __post_init__(self) -> None:
        """Check the numbers."""
        check_ranges(self, "intervals")


@dataclass(kw_only=True)
class FitConfig:
    """Options of the fit; `out` defaults to law.json beside the study, or here for a table.

    `stage` says which cells of a study are meant, where they are not the form's own; `points` of
    `updates` takes the course of PPO runs, a row each time that held-out prompts were scored.
    """

    runs: str = ""
    form: str = "chinchilla"
    count: str = "total"
    where: str | None = None
    stage: str = ""
    points: str = "records"
    within: Annotated[float, Range(0, MOST, above=True)] | None = None
    out: str | None = None
    plot: bool = False
    backtest: bool = True
    sensitivity: bool = True
    fixed: dict[str, Annotated[float, Range(-MOST, MOST)]] = field(default_factory=dict)
    columns: Columns = field(default_factory=Columns)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    intervals: IntervalsConfig = field(default_factory=IntervalsConfig)

    def __post_init__(self) -> None:
        """Refuse options that no table could make right, before anything is read."""
        check_ranges(self)
        if not self.runs:
            raise ValueError("runs is not set; give a study or a table, as runs=runs/quick")
        needed_columns(self.form)
        if self.stage:
            check_choice_of("stage", self.stage, FORM_OF)
        self.objective.chosen()
        check_within(self.within)
        intervals = self.intervals
        check_options(
            intervals.resamples, intervals.level, self.objective.weighting, seed=intervals.seed
        )


def main(config: FitConfig) -> None:
    """Read, fit, write law.json (and figures beside it), then print the law."""
    source = Path(config.runs)
    runs = load_runs(
        source,
        count=config.count,
        where=config.where,
        columns=config.columns,
        needed=needed_columns(config.form),
        stage=config.stage or stage_of(config.form),
        points=config.points,
    )
    law = fit(
        runs,
        config.form,
        objective=config.objective.chosen(),
        weighting=config.objective.weighting,
        fixed=config.fixed,
        within=config.within,
        resamples=config.intervals.resamples,
        level=config.intervals.level,
        seed=config.intervals.seed,
        hindcast=config.backtest,
        sensitivity=config.sensitivity,
        tell=shown(),
    )
    default = source / "law.json" if source.is_dir() else Path("law.json")
    written = [law.write(config.out or default)]
    if config.plot:
        from analysis.page.figure_files import (
            write_law_figures,  # matplotlib, only where it is asked for
        )

        written += write_law_figures(law, runs.table, written[0])
    ends = wrote(written, here=not config.out and not source.is_dir())
    sys.stdout.write(f"{law.summary()}\n\n{ends}\n")


store("fit", FitConfig)

if __name__ == "__main__":
    start(main, config_name="fit", schema=FitConfig)
