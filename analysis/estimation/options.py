"""Settings of `python -m analysis.fit`."""

from dataclasses import dataclass, field
from typing import Annotated

from analysis.estimation.checks import check_options, needed_columns
from analysis.runs.cells import FORM_OF
from analysis.runs.columns import Columns
from analysis.solve.objective import Objective
from analysis.validate.near_frontier import check_within
from scaling.app.choices import check_choice_of
from scaling.schema import LEVEL, MOST, MOST_RESAMPLES, Range, Seed, check_ranges


@dataclass(kw_only=True)
class ObjectiveConfig:
    """Which residual the fit minimises.

    name: huber_log, lad_log, ls_log or ls; by default the form's own objective
    delta: half-width of Huber's quadratic part, in logs of the loss
    weighting: column (the table's `weight`), seed_noise (measured in the table), or none
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
    """Options of the bootstrap.

    resamples: how many; 0 turns intervals off
    level: of the intervals, between 0 and 1
    seed: of the generator
    """

    resamples: Annotated[int, Range(0, MOST_RESAMPLES, note="0 turns intervals off")] = 1000
    level: Annotated[float, LEVEL] = 0.9
    seed: Seed = 0

    def __post_init__(self) -> None:
        """Check the numbers."""
        check_ranges(self, "intervals")


@dataclass(kw_only=True)
class FitConfig:
    """Options of the fit.

    runs: a study's folder, or a table in CSV, Parquet or JSONL
    form: a name of `analysis.forms`, isoflop, isoflop_akima, envelope, lr_batch, or all
    count: how N is counted in a study
    where: condition that rows must meet
    stage: cells of a study to fit; by default those that the form is a law of
    points: `updates` for a row of PPO at each update at which held-out prompts were scored
    within: fit only runs whose loss is within this share of the best of no more compute
    out: file to write; by default law.json in the study's folder, or here for a table
    plot: whether to write figures beside it
    backtest: whether to withhold the largest budgets and predict them
    sensitivity: whether to fit other objectives and subsets of the rows too
    fixed: values that some parameters keep
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
