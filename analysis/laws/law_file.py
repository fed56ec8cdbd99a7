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
from analysis.forms import FORMS, Array, current_form
from analysis.forms.average import FittedRange
from analysis.forms.token_flops import TokenFlops
from analysis.laws.curve_law import check_curves
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
    """The fields of law.json: one law with everything that a plan or a report needs."""

    form: str
    """Name of the form, as chinchilla, or of a regression: isoflop, isoflop_akima, envelope,
    lr_batch, critical_batch, schedule."""
    count: str
    """How N is counted: total, non_embedding, with_head, active, multiplying or active_body."""
    parameters: dict[str, float]
    """The fitted parameters by name, unrounded; N in parameters, D in tokens, losses in `unit`."""
    objective: dict[str, Any]
    """What was minimised: `name`, `delta`, and `value`, the sum over the runs."""
    status: LawStatus
    """What kind of answer the parameters are; a plan uses `converged`, and `offset_not_identified`
    with an alarm."""
    alarms: tuple[Alarm, ...] = ()
    """What to know first, each a code and a sentence."""
    intervals: dict[str, Any] | None = None
    """Intervals of the parameters, with `level`, `method`, `resamples` and the `unit` that was
    resampled; null without."""
    draws: Array | None = field(default=None, repr=False)
    """Parameters of the resamples, a row each (S, P), in the order of `parameters`; null
    without."""
    allocation: dict[str, Any] = field(default_factory=dict)
    """Written as the key `optimum`: the exponents a and b with intervals, N* (parameters) and D*
    (tokens) at stated budgets (FLOPs); or the `peak` of a reward."""
    n_runs: int = 0
    """Number of runs that were fitted."""
    dropped: list[dict[str, str]] = field(default_factory=list, repr=False)
    """Cells that were left out, each with `run` and `why`."""
    ranges: dict[str, list[float]] = field(default_factory=dict)
    """Smallest and largest value of each column among the fitted runs: params, tokens, flops,
    flops_6nd, loss."""
    noise: dict[str, float] = field(default_factory=dict)
    """How runs scatter about the law: `sd_log`, a deviation of log loss, and how it changes with
    the loss."""
    backtest: dict[str, Any] | None = field(default=None, repr=False)
    """Forecasts of withheld larger runs: `rows`, and `tau`, pairs of a distance in log C and the
    relative error there; null without."""
    methods: dict[str, Any] = field(default_factory=dict, repr=False)
    """The exponents a and b by each way to read them: parametric, isoflop, envelope, with
    intervals."""
    power_laws: list[dict[str, Any]] = field(default_factory=list, repr=False)
    """Power laws in one variable along the frontier, one a row, with intervals."""
    sensitivity: list[dict[str, Any]] = field(default_factory=list, repr=False)
    """The same fit by other objectives and on parts of the runs, one a row."""
    comparison: list[dict[str, Any]] = field(default_factory=list, repr=False)
    """The forms that were compared, best first, where the form was chosen among all."""
    fixed: dict[str, float] = field(default_factory=dict)
    """Parameters that the caller fixed, by name."""
    forecast: dict[str, Any] | None = field(default=None, repr=False)
    """With form=all, what `predict` and `optimum` average over: the `rule`, and `forms`, each with
    `form`, `parameters`, `draws` of the same resamples (null at weight 0), `weight`,
    `spread_weight` (its weight in the spread about the average), `status`, `score`; and `fitted`,
    the N and D/N of the runs, beyond which no form may differ from the median by more than `held`
    in log loss; null otherwise."""
    region: dict[str, Any] | None = None
    """Shapes for which a law of form=all near the frontier holds: `within`, `flops`, `params`, `a`,
    `low`, `high`, `growth` (below, above), and `withheld` errors of `all` and `near` rows where
    form=all chose the rows itself; null for other laws."""
    scatter: dict[str, Any] = field(default_factory=dict)
    """Deviation of log loss of one run: `value` of all rows, `robust` without those that are
    `left_out`, which are rows of the input file, counted from 1."""
    error_growth: float = 0.0
    """Least relative error of a forecast for each e-fold of C beyond the data."""
    prior: dict[str, Any] | None = None
    """Of a fit with a prior over published laws: `name`, `families`, `weight`, and `pull`, for each
    parameter the prior, what the runs alone give (null where they leave it open), the posterior and
    the prior's share of its precision; null without."""
    forced: bool = False
    """Whether a plan may extrapolate a law that is not usable (force=true)."""
    replicates: dict[str, int] | None = None
    """Where the best row of each point was fitted: `rows` that were read and (N, D) `points` that
    they are; null otherwise."""
    token_flops: dict[str, Any] | None = field(default=None, repr=False)
    """Training FLOPs per token as a function of N, as knots of c / 6N evenly spaced in log N; null
    where C = 6ND."""
    curves: dict[str, Any] | None = field(default=None, repr=False)
    """Of form=schedule: `sizes`, each with `params` (N, null for a table) and `fit` of its loss
    curves, `best_decay`, and the `level` of its intervals; null for other laws."""
    inputs: dict[str, Any] = field(default_factory=dict)
    """Source, its sha256, and how it was read."""
    unit: str = "nats_per_token"
    """Unit of the loss: nats_per_token or bits_per_byte."""
    source: str = "fitted"
    """Paper of a published law; `fitted` otherwise."""
    code: dict[str, Any] = field(default_factory=code_version, repr=False)
    """Version and commit of the code that wrote the file."""
    schema: int = SCHEMA
    """Version of this layout."""

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
            raise ValueError(f"{path} is not a law (no key `optimum`); make one with scaling fit")
        values["allocation"] = values.pop("optimum")
        if isinstance(values.get("form"), str):
            values["form"] = current_form(values["form"])
        law = read_as(
            cls, values, source=path, noun="law", fix="refit it with scaling fit", schema=SCHEMA
        )
        floats = {name: float(value) for name, value in law.parameters.items()}
        draws = _draws(law.draws, len(floats), path)
        _check_token_flops(law.token_flops, path)
        check_region(law.region, path)
        check_curves(law.curves, path)
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
        raise ValueError(f"{path}: {error}; refit it with scaling fit") from error


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
        raise ValueError(f"{path}: draws are no rows of {size} numbers; refit it with scaling fit")
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
            f" ({error}); refit it with scaling fit form=all"
        ) from error
    FittedRange.read(block.get("fitted"), path)
    return {**block, "forms": forms}


def _member(one: Mapping[str, Any], path: str | Path) -> dict[str, Any]:
    """Return one form of a forecast; KeyError or TypeError for one that is none."""
    one = {**one, "form": current_form(one["form"])}
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
