"""Fit a law to a study or to any table of runs: prints it and writes law.json.

    python -m analysis.fit runs=runs/quick
    python -m analysis.fit runs=table.csv where="group == 'x'" columns.params=N out=law.json
    python -m analysis.fit runs=table.csv objective.name=lad_log intervals.resamples=4000

The function is `analysis.estimate.fit`; this is its application.
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path

from analysis.estimate import check_options, fit
from analysis.forms import form_named
from analysis.objective import Objective
from analysis.records import Columns, load_runs
from conf.app import start, store


@dataclass(kw_only=True)
class ObjectiveConfig:
    """Which residual is made small: huber_log, lad_log, ls_log or ls; delta is Huber's."""

    name: str = "huber_log"
    delta: float = 1e-3


@dataclass(kw_only=True)
class IntervalsConfig:
    """Bootstrap: how many resamples (0 turns it off), the level, the seed of the generator."""

    resamples: int = 1000
    level: float = 0.9
    seed: int = 0


@dataclass(kw_only=True)
class FitConfig:
    """Options of the fit; `out` defaults to law.json beside the study, or here for a table."""

    runs: str = ""
    form: str = "chinchilla"
    count: str = "total"
    where: str | None = None
    out: str | None = None
    backtest: bool = True
    columns: Columns = field(default_factory=Columns)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    intervals: IntervalsConfig = field(default_factory=IntervalsConfig)

    def __post_init__(self) -> None:
        """Refuse options that no table could make right, before anything is read."""
        if not self.runs:
            raise ValueError("runs is not set; give a study or a table, as runs=runs/quick")
        form_named(self.form)
        Objective(name=self.objective.name, delta=self.objective.delta)
        check_options(self.intervals.resamples, self.intervals.level)


def main(config: FitConfig) -> None:
    """Read, fit, write law.json, then print the law."""
    source = Path(config.runs)
    runs = load_runs(source, count=config.count, where=config.where, columns=config.columns)
    law = fit(
        runs,
        config.form,
        objective=Objective(name=config.objective.name, delta=config.objective.delta),
        resamples=config.intervals.resamples,
        level=config.intervals.level,
        seed=config.intervals.seed,
        hindcast=config.backtest,
    )
    default = source / "law.json" if source.is_dir() else Path("law.json")
    path = law.write(config.out or default)
    sys.stdout.write(f"{law.summary()}\n\nwrote {path}\n")


store("fit", FitConfig)

if __name__ == "__main__":
    start(main, config_name="fit", schema=FitConfig)
