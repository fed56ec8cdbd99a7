"""Settings of `scaling fit`."""

from dataclasses import dataclass, field
from typing import Annotated

from analysis.estimation.checks import WEIGHTINGS, needed_columns, stage_of
from analysis.estimation.critical_batch import TOLERANCE
from analysis.estimation.prior_fit import PRIORS
from analysis.forms import current_form
from analysis.runs.cells import FORM_OF
from analysis.runs.columns import Columns
from analysis.runs.curves import CurveOptions
from analysis.runs.importers.options import LogsConfig
from analysis.runs.table import POINTS
from analysis.solve.objective import OBJECTIVES, OVER_WEIGHT, Objective
from scaling.schema import (
    COUNTS,
    LEVEL,
    LOSS_UNITS,
    MOST,
    MOST_RESAMPLES,
    NATS_PER_TOKEN,
    OneOf,
    Range,
    Seed,
    checked,
)


@dataclass(kw_only=True)
@checked("objective")
class ObjectiveConfig:
    """What the fit makes small: residuals of predicted against measured loss."""

    name: Annotated[str, OneOf(*OBJECTIVES)] | None = None
    """Objective: Huber's function, the absolute value or the square of the residual of log loss, or
    the square of the residual of loss itself (ls); envelope weighs over-prediction more than
    under-prediction, for tables where many runs are badly tuned; null takes the form's own."""
    delta: Annotated[float, Range(0, 1e6, above=True)] = 1e-3
    """Residual from which Huber's function is linear, so that outliers pull less (huber_log,
    envelope)."""
    over_weight: Annotated[float, Range(1, 1e6, above=True)] = OVER_WEIGHT
    """Weight of a run that the law over-predicts beside one that it under-predicts (envelope)."""
    weighting: Annotated[str, OneOf(*WEIGHTINGS)] = "column"
    """Weight of each run: the table's column weight where there is one, the inverse variance of
    seeds, or none."""

    def chosen(self) -> Objective | None:
        """Return the objective, or None for the form's own.

        Raises ValueError for an `over_weight` that the objective does not read.
        """
        if self.over_weight != OVER_WEIGHT and self.name != "envelope":
            raise ValueError(
                f"objective.over_weight={self.over_weight:g} is read by objective.name=envelope "
                f"alone, and objective.name={self.name or 'null'}; set objective.name=envelope"
            )
        if self.name is None and self.delta == ObjectiveConfig.delta:
            return None
        return Objective(
            name=self.name or "huber_log", delta=self.delta, over_weight=self.over_weight
        )


@dataclass(kw_only=True)
@checked("intervals")
class IntervalsConfig:
    """The bootstrap that the intervals come from."""

    resamples: Annotated[int, Range(0, MOST_RESAMPLES, note="0 turns intervals off")] = 1000
    """Number of resamples; 0 turns intervals off, 4000 fix the ends of an interval to two digits.
    """
    level: Annotated[float, LEVEL] = 0.9
    """Share of cases that an interval should cover."""
    seed: Seed = 0
    """Seed of the resamples."""


@dataclass(kw_only=True)
@checked()
class FitConfig:
    """The runs, the form that is fitted to them, and what is written."""

    runs: str = ""
    """Folder of a study, a table of runs (CSV, JSONL or Parquet), or logs of another tool: a
    folder, a file, or wandb:ENTITY/PROJECT."""
    form: str = "chinchilla"
    """Form of the law, or a method as isoflop; all averages the forms that apply to the table, by
    how well each predicts larger runs that are withheld."""
    count: Annotated[str, OneOf(*COUNTS)] = "total"
    """Which parameters N counts; tables from outside have one count."""
    where: str | None = None
    """Condition over the table's columns that a run must meet, as "group == 'x'"; null takes every
    run."""
    target: str = ""
    """Named test set of a study (eval.sets) whose loss is fitted; empty is the test part."""
    unit: Annotated[str, OneOf(*LOSS_UNITS)] = NATS_PER_TOKEN
    """Unit of a study's loss; a table has columns.loss_unit."""
    context: Annotated[float, Range(1, MOST)] | None = None
    """Tokens of a sequence, for a table whose column batch_sequences counts the sequences of a
    step; null where the batch is in tokens."""
    stage: Annotated[str, OneOf("", *FORM_OF)] = ""
    """Stage of a study whose cells are fitted; empty takes the form's own stage."""
    points: Annotated[str, OneOf(*POINTS)] = "records"
    """What a row is: a cell's record, or each time that a PPO run scored held-out prompts."""
    annealed: bool = False
    """Add a row for each checkpoint of a study's trunks: the loss that a decay from there would
    reach, forecast from the trunk's curve and the study's decays, with its error."""
    within: Annotated[float, Range(0, MOST, above=True)] | None = None
    """Keep runs whose loss is within this share of the frontier's, as 0.1; null keeps all."""
    prior: Annotated[str, OneOf(*PRIORS)] = "auto"
    """Prior over the Chinchilla form: published laws, which 3 or more runs then correct; auto takes
    it with fewer than 8 points of N and D, none never."""
    out: str | None = None
    """File to write; null is law.json beside the study, or here for a table. A named test set is
    part of the name, as law.web.json."""
    plot: bool = False
    """Write figures beside the law too."""
    backtest: bool = True
    """Withhold the largest budgets, refit and predict them, which widens the law's intervals where
    the form has failed before."""
    sensitivity: bool = True
    """Refit with other objectives and without the rows at the ends, and show how far the law
    moves."""
    tolerance: Annotated[float, Range(0, 100, above=True)] = TOLERANCE
    """Loss above the least, in the unit of the losses, up to which a batch is not above the
    critical one (form=critical_batch)."""
    fixed: dict[str, Annotated[float, Range(-MOST, MOST)]] = field(default_factory=dict)
    """Parameters that are held at a value instead of fitted, as +fixed.alpha=0.35."""
    columns: Columns = field(default_factory=Columns)
    logs: LogsConfig = field(default_factory=LogsConfig)
    curve: CurveOptions = field(default_factory=CurveOptions)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    intervals: IntervalsConfig = field(default_factory=IntervalsConfig)

    def __post_init__(self) -> None:
        """Refuse options that no table could make right, before anything is read."""
        if not self.runs:
            raise ValueError("runs is not set; give a study or a table, as runs=runs/quick")
        self.form = current_form(self.form)
        needed_columns(self.form)
        stage = self.stage or stage_of(self.form)
        if self.annealed and (stage != "pretrain" or self.target or self.unit != NATS_PER_TOKEN):
            raise ValueError(
                "annealed=true reads curves, which hold the test part's loss in nats per token of"
                f" pretraining; here stage={stage} target={self.target or 'none'} unit={self.unit};"
                " leave one of the two out"
            )


def check_curve_options(config: FitConfig) -> None:
    """Refuse options that form=schedule does not read, rather than leave them unread."""
    usual = FitConfig(runs=config.runs)
    unread = (
        "target",
        "unit",
        "stage",
        "points",
        "within",
        "prior",
        "plot",
        "fixed",
        "objective",
        "annealed",
    )
    wrong = [name for name in unread if getattr(config, name) != getattr(usual, name)]
    if wrong:
        raise ValueError(
            f"form=schedule does not read {', '.join(wrong)}; leave {', '.join(wrong)} out"
        )
