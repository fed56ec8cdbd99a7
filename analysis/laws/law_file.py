"""law.json: its fields, how it is written, and how this or an earlier version's file is read.

`LawFile` is the base of `Law`. It is a class of its own so that modules which print a law need no
predictions.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, Self, get_args

import numpy as np

from analysis.alarms.alarm import Alarm
from analysis.forms import FORMS, Array
from analysis.forms.token_flops import TokenFlops
from analysis.laws.region import check_region
from scaling.schema import (
    COUNTS,
    MOST_RESAMPLES,
    Measure,
    code_version,
    read_as,
    read_json,
    write_json,
)

SCHEMA = 1
LawStatus = Literal["converged", "offset_not_identified", "bound_hit", "not_identified", "max_iter"]
STATUSES: tuple[LawStatus, ...] = get_args(LawStatus)
USABLE: tuple[LawStatus, ...] = ("converged", "offset_not_identified")


@dataclass(frozen=True, kw_only=True)
class LawFile:
    """The fields of law.json: one law with everything that a plan or a report needs.

    form: a name of `analysis.forms.FORMS`, or a regression (`isoflop`, `envelope`, `lr_batch`, ..)
    count: how N is counted (`scaling.schema.COUNTS`)
    parameters: {"E": .., "A": .., ..}, N in parameters, D in tokens
    objective: {"name", "delta", "value"}, the value being the sum over runs
    status: what kind of answer the parameters are; `usable` for converged ones, and for those whose
        offset E alone is undetermined
    alarms: what a reader should know first, each a code and a sentence
    intervals: of the parameters, with level, method, resamples and unit; None without
    draws: parameters of the resamples (S, P), in the order of `parameters`
    allocation: the key `optimum` of law.json: a, b, their intervals, N and D at stated budgets; or
        the `peak` of a reward
    n_runs: number of runs that were fitted
    dropped: [{"run", "why"}] of cells that were left out
    ranges: {"params": [smallest, largest], "tokens", "flops", "flops_6nd", "loss", ..} of the runs
    noise: how runs scatter about the law (`analysis.solve.residual_spread`)
    backtest: {"rows": hindcasts, "tau": [[log-distance, tau], ..]}, None without
    methods: {"parametric" | "isoflop" | "envelope": {"a", "b", "a_interval", "b_interval",
        "points", ..}}
    power_laws: [{"variable", "offset", "parameters", "intervals", "points", ..}]
    sensitivity: a fit a row, by other objectives and to subsets of the runs
    comparison: a form a row, best first, where the form was chosen among all
    fixed: values that the caller fixed
    forecast: what `predict` and `optimum` average over where the form was chosen among all:
        {"rule", "forms": [{"form", "parameters", "draws", "weight", "spread_weight", "status",
        "score"}]}; the draws of all forms are of the same resamples, and None where the weight is
        0; `spread_weight` is the form's weight in the spread about the average
    region: where a law of form=all that is fitted near the frontier holds (`analysis.laws.region`):
        {"within", "flops", "params", "a", "low", "high", "growth": [below, above]}, with
        "withheld": {"all", "near"} where form=all chose these rows itself; None else
    scatter: {"value", "robust", "left_out"}: the deviation of log loss of one run about the law, of
        all rows and without the rows that are left out of it, which are named as in the input file
    error_growth: the least error of the form's forecasts by each e-fold of C beyond the data
    prior: {"name", "families": {family: laws}, "weight", "pull": {parameter: {"prior", "runs",
        "posterior", "weight"}}} of a fit with a prior (`analysis.estimation.prior_fit`), None
        without; `runs` is what the runs alone give, None where they leave it open; a weight is the
        share of the posterior's precision that the prior has
    forced: whether a plan may extrapolate a law that is not usable
    replicates: {"rows": rows that were read, "points": (N, D) points that they are}, where the best
        row of each point was fitted; None where every row was
    token_flops: c(N), the FLOPs per token of the study's shapes, as knots
        (`analysis.forms.token_flops`); None where no shapes are known, and then C = 6ND
    inputs: the source, its sha256, and how it was read
    unit: of the loss, nats_per_token or bits_per_byte
    source: the paper of a published law, else `fitted`
    """

    form: str
    count: str
    parameters: dict[str, float]
    objective: dict[str, Any]
    status: LawStatus
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
    forecast: dict[str, Any] | None = field(default=None, repr=False)
    region: dict[str, Any] | None = None
    scatter: dict[str, Any] = field(default_factory=dict)
    error_growth: float = 0.0
    prior: dict[str, Any] | None = None
    forced: bool = False
    replicates: dict[str, int] | None = None
    token_flops: dict[str, Any] | None = field(default=None, repr=False)
    inputs: dict[str, Any] = field(default_factory=dict)
    unit: str = "nats_per_token"
    source: str = "fitted"
    code: dict[str, Any] = field(default_factory=code_version, repr=False)
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        """Refuse an unknown status or count, and parameters that are not finite."""
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
        """Whether a plan may use the law without force."""
        return self.status in USABLE

    @property
    def extrapolates(self) -> bool:
        """Whether the law answers beyond its data: a usable or forced one, or an average."""
        return self.usable or self.forced or bool(self.forecast)

    @property
    def measure(self) -> Measure:
        """Which loss of records the law is of."""
        return Measure(target=self.inputs.get("target", ""), unit=self.unit)

    @property
    def residual_sd(self) -> float:
        """Standard deviation of one run about the law, in logs or in the target's own unit."""
        return float(self.noise.get("sd_log", self.noise.get("sd", 0.0)))

    def write(self, path: str | Path) -> Path:
        """Write law.json atomically, parameters unrounded."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        values["alarms"] = [{"code": a.code, "sentence": a.sentence} for a in self.alarms]
        values["draws"] = _listed(self.draws)
        if self.forecast:
            forms = [{**one, "draws": _listed(one["draws"])} for one in self.forecast["forms"]]
            values["forecast"] = {**self.forecast, "forms": forms}
        values["optimum"] = values.pop("allocation")
        return write_json(path, {"schema": values.pop("schema"), **values})

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read law.json of this version or an earlier one (`scaling.schema.reading`).

        Raises ValueError for a file that is no law, or whose draws are not rows of numbers.
        """
        values = read_json(path)
        if not isinstance(values, dict) or "optimum" not in values:
            raise ValueError(f"{path} is not a law (no key `optimum`); make one with analysis.fit")
        values["allocation"] = values.pop("optimum")
        law = read_as(
            cls, values, source=path, noun="law", fix="refit it with analysis.fit", schema=SCHEMA
        )
        floats = {name: float(value) for name, value in law.parameters.items()}
        draws = _draws(law.draws, len(floats), path)
        _check_token_flops(law.token_flops, path)
        check_region(law.region, path)
        return replace(law, parameters=floats, draws=draws, forecast=_forecast(law.forecast, path))


def flops_range(ranges: Mapping[str, list[float]], *, counted: bool) -> list[float]:
    """Return [smallest, largest] C of the runs, [0, inf] where it is unknown.

    ranges: those of law.json
    counted: whether C is counted by the shapes, else C = 6ND
    """
    names = ("flops", "flops_6nd") if counted else ("flops_6nd",)
    return next((ranges[name] for name in names if name in ranges), [0.0, math.inf])


def _check_token_flops(block: dict[str, Any] | None, path: str | Path) -> None:
    """Refuse knots of c(N) that are damaged."""
    try:
        TokenFlops.of(block)
    except ValueError as error:
        raise ValueError(f"{path}: {error}; refit it with analysis.fit") from error


def _listed(draws: Array | None) -> list[Any] | None:
    return None if draws is None else draws.tolist()


def _draws(draws: Any, size: int, path: str | Path) -> Array | None:
    """Return the draws of a file as an array (S, P), in the order of the parameters."""
    if draws is None:
        return None
    if len(draws or ()) > MOST_RESAMPLES:
        raise ValueError(
            f"{path} has {len(draws or ()):,} draws; at most {MOST_RESAMPLES:,} are read: refit"
            " it with fewer intervals.resamples"
        )
    try:
        array = np.array(draws, dtype=float)
    except (TypeError, ValueError, OverflowError):
        array = np.empty((0, 0))
    if array.ndim != 2 or array.shape[1] != size or not np.isfinite(array).all():
        raise ValueError(f"{path}: draws are no rows of {size} numbers; refit it with analysis.fit")
    return array


def _forecast(block: Any, path: str | Path) -> dict[str, Any] | None:
    """Return the forecast of a file with its draws as arrays; ValueError for one that is odd."""
    if block is None:
        return None
    try:
        forms = [_member(one, path) for one in block["forms"]]
        counts = {len(one["draws"]) for one in forms if one["draws"] is not None}
        whole = sum(one["weight"] for one in forms)
        if len(counts) > 1 or not abs(whole - 1) < 1e-6:
            raise KeyError("weights, draws")
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(
            f"{path}: the forecast is not that of forms with weights, parameters and draws"
            f" ({error}); refit it with analysis.fit form=all"
        ) from error
    return {**block, "forms": forms}


def _member(one: Mapping[str, Any], path: str | Path) -> dict[str, Any]:
    """Return one form of a forecast; KeyError or TypeError for one that is none."""
    form = FORMS[one["form"]]
    parameters = {name: float(one["parameters"][name]) for name in form.parameters}
    weight = float(one["weight"])
    if not (0 <= weight <= 1 and all(map(math.isfinite, parameters.values()))):
        raise KeyError("weight, parameters")
    draws = _draws(one["draws"], len(parameters), path)
    apart = float(one.get("spread_weight", weight))
    if not 0 <= apart <= 1:
        raise KeyError("spread_weight")
    values = {"parameters": parameters, "weight": weight, "spread_weight": apart, "draws": draws}
    return {**one, **values}
