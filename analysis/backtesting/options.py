"""Settings of `scaling backtest`."""

from dataclasses import dataclass, field
from typing import Annotated

from analysis.backtesting.baselines import GRID_SIZE
from analysis.estimation.options import ObjectiveConfig
from analysis.estimation.withheld import refuse_untestable
from analysis.forms import current_form
from analysis.runs.columns import Columns
from analysis.runs.importers.options import LogsConfig
from scaling.schema import COUNTS, LEVEL, MOST, OneOf, Range, Seed, checked


@dataclass(kw_only=True)
@checked()
class BacktestConfig:
    """The runs, the form that is tested on them, and what is written."""

    runs: str = ""
    """Folder of a study, a table of runs (CSV, JSONL or Parquet), or a folder of tables."""
    form: str = "chinchilla"
    """Form of the law; all ranks the forms first and tests their average."""
    count: Annotated[str, OneOf(*COUNTS)] = "total"
    """Which parameters N counts; tables from outside have one count."""
    where: str | None = None
    """Condition over the table's columns that a run must meet, as "group == 'x'"; null takes every
    run."""
    within: Annotated[float, Range(0, MOST, above=True)] | None = None
    """Keep runs whose loss is within this share of the frontier's, as 0.1; null keeps all."""
    out: str | None = None
    """File to write; null is backtest.json beside the study, or here for a table. Of a folder of
    tables it is the page, backtest.html here, with a file of that name and .json beside it."""
    plot: bool = False
    """Write a figure beside it too."""
    level: Annotated[float, LEVEL] = 0.9
    """Level of the intervals that withheld runs are compared with."""
    seed: Seed = 0
    """Seed of the resamples."""
    fixed: dict[str, Annotated[float, Range(-MOST, MOST)]] = field(default_factory=dict)
    """Parameters that are held at a value instead of fitted, as +fixed.alpha=0.35."""
    forms: list[str] = field(default_factory=lambda: ["chinchilla", "all"])
    """Forms of our law that are compared over a folder of tables; form= is for one table."""
    cutoffs: Annotated[int, Range(1, 5)] = 3
    """Cutoffs in C of each experiment of a folder, from the nearest to the farthest."""
    starts: Annotated[int, Range(1, GRID_SIZE)] = 100
    """Points of the published grid that L-BFGS descends from, those of least objective first."""
    processes: Annotated[int, Range(0, 4096, note="0 is one a core")] = 0
    """Processes that backtest a folder at the same time; 0 is one a core."""
    columns: Columns = field(default_factory=Columns)
    logs: LogsConfig = field(default_factory=LogsConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)

    def __post_init__(self) -> None:
        """Refuse options that no table could make right, before anything is read."""
        if not self.runs:
            raise ValueError("runs is not set; give a study or a table, as runs=runs/quick")
        self.form, self.forms = current_form(self.form), [current_form(f) for f in self.forms]
        for form in (self.form, *self.forms):
            refuse_untestable(form)
        if not self.forms:
            raise ValueError("forms=[] names no form; give some, as forms=[chinchilla,all]")
