"""Settings of `python -m analysis.mixture`."""

from dataclasses import dataclass, field
from typing import Annotated

from analysis.mixing.laws import LAWS
from analysis.mixing.repetition import R_D
from scaling.app.choices import check_choice_of
from scaling.schema import LEVEL, MOST_RESAMPLES, Range, Seed, checked

SHARE = Range(0, 1)
CAP = Range(0, 1, above=True)
MOST = 1e18  # of tokens and of weights, far above any corpus


@dataclass(kw_only=True)
@checked("intervals")
class DrawsConfig:
    """The bootstrap that the intervals come from."""

    resamples: Annotated[int, Range(20, MOST_RESAMPLES)] = 100
    """Number of draws; each reweights the rows, fits all laws and finds the best shares again."""
    level: Annotated[float, LEVEL] = 0.9
    """Share of cases that an interval should cover."""
    seed: Seed = 0
    """Seed of the draws and of the folds of the cross-validation."""


@dataclass(kw_only=True)
@checked()
class MixtureConfig:
    """The trained mixtures, what their best mixture is for, and what is written."""

    runs: str = ""
    """Table of runs with a column for each share and each loss (CSV, JSONL or Parquet), or a
    study whose cells differ in data.weights, as runs/mixture."""
    shares: str = "share_*"
    """Columns of a table that hold shares; * stands for the source's name."""
    losses: str = "loss_*"
    """Columns of a table that hold losses in nats per token; * stands for the domain's name."""
    where: str | None = None
    """Condition over the table's columns that a run must meet, as "params == 1e6"; null takes every
    run."""
    form: str = "effective_data"
    """Form of the law of each domain: effective_data, or the baselines exponential and linear."""
    target: dict[str, Annotated[float, Range(0, MOST)]] = field(default_factory=dict)
    """Weights of the domains whose mean loss is minimised, as {pile_cc: 1}; they are divided by
    their sum, and an empty map weighs all domains alike."""
    natural: dict[str, Annotated[float, SHARE]] = field(default_factory=dict)
    """Shares that the proposal is compared with, as {web: 0.8, books: 0.2}; an empty map takes the
    mean of the table's shares."""
    tokens: Annotated[float, Range(0, MOST)] = 0.0
    """Training tokens of the run that the mixture is for, as 1e11; needed with unique."""
    unique: dict[str, Annotated[float, Range(0, MOST, above=True)]] = field(default_factory=dict)
    """Distinct tokens that a source has, as {github: 2e10}; others are taken as never repeated."""
    epochs: Annotated[float, Range(0, 1e6, note="0 is no limit")] = 0.0
    """Most times that a source with unique tokens is seen."""
    caps: dict[str, Annotated[float, CAP]] = field(default_factory=dict)
    """Most share that a source may have, as {github: 0.2}."""
    repeat_decay: Annotated[float, Range(0, 1e6, above=True)] = R_D
    """R_D of the repetition law, the repeats after which a further one is worth 1/e of fresh text;
    Muennighoff et al. 2023 measured 15.39."""
    predict: str = ""
    """Table of shares whose losses are predicted, written beside out as OUT_predicted.csv."""
    out: str = ""
    """File to write; empty is mixture.json beside the study, or here for a table."""
    intervals: DrawsConfig = field(default_factory=DrawsConfig)

    def __post_init__(self) -> None:
        """Refuse what needs no reading to be wrong."""
        if not self.runs:
            raise ValueError(
                "runs is not set; give a table with shares and losses, or a study of mixtures, as"
                " runs=runs/mixture"
            )
        check_choice_of("form", self.form, LAWS)
        for key, name in (("shares", "share_*"), ("losses", "loss_*")):
            pattern = getattr(self, key)
            if pattern.count("*") != 1:
                raise ValueError(f"{key}={pattern} needs one * for the name, as {key}={name}")
        if (self.unique or self.epochs) and not self.tokens:
            raise ValueError(
                "unique and epochs count repeats of a run of some tokens; set tokens, as"
                " tokens=1e11"
            )
        if self.epochs and not self.unique:
            raise ValueError(
                "epochs limits sources whose unique tokens are known; set them, as"
                " unique='{github: 2e10}'"
            )
        if self.target and not sum(self.target.values()):
            raise ValueError(
                f"target={self.target} weighs every domain 0; give one a positive weight"
            )
