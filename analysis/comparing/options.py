"""Settings of `python -m analysis.compare`."""

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Annotated

from analysis.forms import current_form, forms_of_size_and_data
from analysis.runs.columns import Columns
from analysis.runs.importers.options import LogsConfig
from scaling.app.choices import check_choice_of
from scaling.schema import (
    COUNTS,
    FLOPS,
    LEVEL,
    LOSS_UNITS,
    MOST_RESAMPLES,
    NATS_PER_TOKEN,
    OneOf,
    Range,
    Seed,
    checked,
)


@dataclass(kw_only=True)
@checked("target")
class TargetConfig:
    """The run that the decision is for, and the loss that counts."""

    flops: Annotated[float, FLOPS] = 0.0
    """Training FLOPs at which the arms are compared, as 1e20; 0 takes the largest compute that
    every arm has runs of."""
    test_set: str = ""
    """Named test set (eval.sets) whose loss counts; empty is the test part of the studies."""


@dataclass(kw_only=True)
@checked("intervals")
class DrawsConfig:
    """The draws that intervals and probabilities come from."""

    resamples: Annotated[int, Range(100, MOST_RESAMPLES)] = 1000
    """Number of draws."""
    level: Annotated[float, LEVEL] = 0.9
    """Share of cases that an interval should cover."""
    seed: Seed = 0
    """Seed of the draws."""


@dataclass(kw_only=True)
@checked()
class CompareConfig:
    """The studies, or the groups of one table, that are compared, and at which compute."""

    # target=web, as a fit has it. Without an annotation, so that it is no setting.
    SHORT = MappingProxyType({"target": "target.test_set"})

    studies: list[str] = field(default_factory=list)
    """Folders of two or more studies, as [runs/A,runs/B]."""
    runs: str = ""
    """Table of runs (CSV, JSONL, Parquet, or logs of another tool) whose groups are compared,
    instead of studies."""
    by: str = ""
    """Column of the table that names the arm of each run, as corpus."""
    reference: str = ""
    """Arm that the others are compared with, by the last part of its folder or its value of by;
    empty is the first."""
    target: TargetConfig = field(default_factory=TargetConfig)
    unit: Annotated[str, OneOf(*LOSS_UNITS)] = NATS_PER_TOKEN
    """Unit of the losses of studies; bits_per_byte for studies with different vocabularies."""
    form: str = "chinchilla"
    """Form of the law of each arm, a law of the loss in N and D."""
    count: Annotated[str, OneOf(*COUNTS)] = "total"
    """Which parameters N counts; a table from outside has one count."""
    where: str | None = None
    """Condition over the table's columns that a run must meet, as "params > 1e7"; null takes every
    run."""
    difference: Annotated[float, Range(0, 100, above=True)] = 0.01
    """Difference in loss that matters, in the unit of the losses; seeds_needed is for it."""
    rate: Annotated[float, LEVEL] = 0.05
    """Share of false promotions that is accepted (Benjamini-Hochberg over the arms)."""
    out: str = ""
    """File to write; empty is compare.json here."""
    columns: Columns = field(default_factory=Columns)
    logs: LogsConfig = field(default_factory=LogsConfig)
    intervals: DrawsConfig = field(default_factory=DrawsConfig)

    def __post_init__(self) -> None:
        """Refuse what needs no reading to be wrong."""
        if bool(self.studies) == bool(self.runs):
            raise ValueError(
                "set either studies, as studies=[runs/A,runs/B], or runs with by, as runs=table.csv"
                " by=corpus"
            )
        if self.studies and self.by:
            raise ValueError(f"by={self.by} is for a table; studies are arms already: leave it out")
        if self.runs and not self.by:
            raise ValueError(
                "by is not set; name the column of the table that tells arms apart, as by=corpus"
            )
        if len(self.studies) == 1:
            raise ValueError(
                f"studies={self.studies} names one study; a comparison needs two or more, as"
                " studies=[runs/A,runs/B]"
            )
        self.form = current_form(self.form)
        check_choice_of("form", self.form, forms_of_size_and_data())
