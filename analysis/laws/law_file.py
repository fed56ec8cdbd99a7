"""law.json: its fields, how it is written, and how it is read, of this version or an earlier one.

`LawFile` is the base of `Law`, apart from it so that what prints a law needs no predictions.
"""

import math
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from analysis.alarms.alarm import Alarm
from analysis.forms import Array
from scaling.schema import COUNTS, MOST_RESAMPLES, code_version, read_as, read_json, write_json

SCHEMA = 1
STATUSES = ("converged", "offset_not_identified", "bound_hit", "not_identified", "max_iter")
USABLE = ("converged", "offset_not_identified")


@dataclass(frozen=True, kw_only=True)
class LawFile:
    """The fields of law.json: one law with everything that a plan or a report needs."""

    form: str
    count: str
    parameters: dict[str, float]
    objective: dict[str, Any]
    status: str
    alarms: tuple[Alarm, ...] = ()
    intervals: dict[str, Any] | None = None
    draws: Array | None = field(default=None, repr=False)
    allocation: dict[str, Any] = field(default_factory=dict)
    n_runs: int = 0
    dropped: list[dict[str, str]] = field(default_factory=list, repr=False)
    ranges: dict[str, list[float]] = field(default_factory=dict)
    noise: dict[str, float] = field(default_factory=dict)
    backtest: dict[str, Any] | None = field(default=None, repr=False)
    methods: dict[str, Any] = field(default_factory=dict, repr=False)
    power_laws: list[dict[str, Any]] = field(default_factory=list, repr=False)
    sensitivity: list[dict[str, Any]] = field(default_factory=list, repr=False)
    comparison: list[dict[str, Any]] = field(default_factory=list, repr=False)
    fixed: dict[str, float] = field(default_factory=dict)
    forced: bool = False
    inputs: dict[str, Any] = field(default_factory=dict)
    unit: str = "nats_per_token"  # of the loss, or bits_per_byte
    source: str = "fitted"
    code: dict[str, Any] = field(default_factory=code_version, repr=False)
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        """Refuse an unknown status or count, parameters that are not finite."""
        if self.status not in STATUSES:
            raise ValueError(f"law status is {self.status!r}; legal are {', '.join(STATUSES)}")
        if self.count not in COUNTS:
            raise ValueError(
                f"the law counts N as {self.count!r}, by which no model is counted; refit with"
                f" count= one of {', '.join(COUNTS)}"
            )
        bad = [k for k, v in self.parameters.items() if not math.isfinite(v)]
        if bad:
            raise ValueError(
                f"law parameters {bad} are not finite; the fit failed: check the table"
            )

    @property
    def usable(self) -> bool:
        """Tell whether a plan may use the law without being forced."""
        return self.status in USABLE

    @property
    def residual_sd(self) -> float:
        """Standard deviation of one run about the law: in log loss, or in the target's own unit."""
        return float(self.noise.get("sd_log", self.noise.get("sd", 0.0)))

    def write(self, path: str | Path) -> Path:
        """Write law.json atomically, parameters unrounded."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        values["alarms"] = [{"code": a.code, "sentence": a.sentence} for a in self.alarms]
        values["draws"] = None if self.draws is None else self.draws.tolist()
        values["optimum"] = values.pop("allocation")
        return write_json(path, {"schema": values.pop("schema"), **values})

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read law.json of this version or an earlier one (`scaling.schema.reading`).

        ValueError for a file that is no law or holds draws that are none.
        """
        values = read_json(path)
        if not isinstance(values, dict) or "optimum" not in values:
            raise ValueError(f"{path} is not a law (no key `optimum`); make one with analysis.fit")
        values["allocation"] = values.pop("optimum")
        law = read_as(
            cls, values, source=path, noun="law", fix="refit it with analysis.fit", schema=SCHEMA
        )
        floats = {name: float(value) for name, value in law.parameters.items()}
        draws = None if law.draws is None else _draws(law, path)
        return replace(law, parameters=floats, draws=draws)


def _draws(law: LawFile, path: str | Path) -> Array:
    """Return the draws of a law that was read: a row of numbers a resample, in parameter order."""
    if len(law.draws or ()) > MOST_RESAMPLES:  # a list as yet
        raise ValueError(
            f"{path} has {len(law.draws or ()):,} draws; at most {MOST_RESAMPLES:,} are read: refit"
            " it with fewer intervals.resamples"
        )
    try:
        draws = np.array(law.draws, dtype=float)
    except (TypeError, ValueError, OverflowError):
        draws = np.empty((0, 0))
    if draws.ndim != 2 or draws.shape[1] != len(law.parameters) or not np.isfinite(draws).all():
        raise ValueError(
            f"{path}: draws are no rows of {len(law.parameters)} numbers; refit it with"
            " analysis.fit"
        )
    return draws
