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
