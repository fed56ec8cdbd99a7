"""The loss at the end of a run in training, from its own curve so far and the schedule ahead.

    forecast = loss_at_end(rows, n_steps=3833, end_rate=0.0, finished=curves)
    str(forecast)    at the end 4.19 [4.15, 4.23]

The log loss of a curve is a parabola in log step u, less a drop in proportion to how far the rate
has fallen from its peak:

    log L = a + b u + c u^2 + (d0 + d1 log(n / 1000)) (1 - lr / peak)

with n the steps of the run. It is a local description, not a law: it has no irreducible loss and
is not meant for more than a few times the steps so far. All terms are linear, so that a Gaussian
prior and the rows give the forecast and its interval in closed form, in milliseconds.
The drops of cells that have ended, those of the same trunk first, narrow the prior of d0 and d1.
Training losses enter beside the test losses, with an offset of their own: they are denser.

The prior was set on two studies and checked on others (benchmarks/running.py). Nothing is forecast
where too little is known: few test losses, a curve unlike the form, or an interval that says
nothing.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scaling.schema import EndForecast, Record

Floats = NDArray[Any]
Row = dict[str, Any]

LEVEL = 0.9  # Share of final losses that the interval should hold.
FIRST_STEP = 15  # Rows before this step, or twice the warm-up, do not follow the form.
# Share of the steps below which nothing is forecast: cells at 5 to 10 % of their steps ended below
# their intervals.
LEAST_SHARE = 0.15
FEWEST_TESTS = 3  # Test losses below which nothing is forecast: one more than the slope needs.
WIDEST = 0.12  # The largest half width in log loss that still says something.
CONSTANT = 0.999  # A rate above this share of the peak is the peak.
WORST_RESIDUAL = 3.0  # Root mean square of the residuals, in their errors, of another form's curve.

# Prior means and standard deviations of the terms, in log loss.
LEVEL_SD = 3.0  # a, around the last test loss: no information
SLOPE = (-0.12, 0.06)  # b, a factor e of steps
CURVATURE = (0.010, 0.006)  # c
DROP = (-0.045, 0.02)  # d0: a full decay of a run of 1000 steps; 3 to 8 % were measured
DROP_GROWTH = (
    -0.005,
    0.009,
)  # d1: 2 to 3 % at 24,000 steps of 100M parameters, 7 % at 3000 of 100k
TRAINING_OFFSET = (0.0, 0.06)  # of training losses against test losses
TRAINING_DRIFT = (0.0, 0.015)  # of that offset, a factor e of steps
WHOLE_SET = (0.0, 0.008)  # of the whole test set against the windows that curves are scored on

# Standard deviations of what is measured, in log loss.
TEST_NOISE = 0.005  # a test loss at the peak rate, around the smooth curve
MISFIT = 0.009  # the form's error, a factor e of steps away from the last row
TRAINING_NOISE = 0.004  # a mean training loss, in addition to its batches
TOKEN_NOISE = 2.4  # one token's loss over the mean, neighbours being correlated; / sqrt(tokens)
DECAY_NOISE = 0.03  # a training loss in a decay is the mean over rates that differ
DROP_NOISE = 0.008  # the drop of another cell of the same trunk against this one's
DROP_NOISE_OTHERS = 0.02  # and of a cell of another trunk
SET_NOISE = 0.006  # the ratio of the two test sets from cell to cell


@dataclass(frozen=True, kw_only=True)
class EndedCurve:
    """The curve of a cell that has ended.

    rows: its rows: step, tokens, lr, train_loss and test_loss where there are
    n_steps: its steps
    test_loss: on the whole test set, in nats per token
    end_on_windows: at the end, on the windows that curves are scored on; None where not measured
    same_trunk: whether it left the trunk of the run that is forecast
    """

    rows: Sequence[Row]
    n_steps: int
    test_loss: float
    end_on_windows: float | None = None
    same_trunk: bool = False

    @classmethod
    def of(cls, record: Record, rows: Sequence[Row], *, same_trunk: bool) -> "EndedCurve":
        """Return the curve of a done record; ValueError for a record without a test loss."""
        if record.test_loss is None:
            raise ValueError(f"cell {record.run_id} has no test loss; leave it out")
        return cls(
            rows=usable(rows),
            n_steps=record.steps,
            test_loss=record.test_loss,
            end_on_windows=record.metrics.get("curve_test_loss"),
            same_trunk=same_trunk,
        )


def loss_at_end(
    rows: Sequence[Row],
    *,
    n_steps: int,
    end_rate: float = 0.0,
    warmup_steps: int = 0,
    unique_tokens: float = math.inf,
    finished: Sequence[EndedCurve] = (),
) -> EndForecast | None:
    """Forecast the final test loss of a run; None where too little is known.

    rows: of its curve so far, with step, tokens, lr, train_loss and test_loss where there are
    n_steps: of the whole run
    end_rate: the rate at its end over the peak
    warmup_steps: of its schedule
    unique_tokens: training losses beyond so many tokens repeat text, and are left out
    finished: curves of cells of the study that have ended
    """
    first = max(FIRST_STEP, 2 * warmup_steps)
    data = _data(usable(rows), n_steps=n_steps, first=first, unique_tokens=unique_tokens)
    if data is None or data.n_tests < FEWEST_TESTS or data.last >= n_steps:
        return None
    if data.last < LEAST_SHARE * n_steps:
        return None
    mean, covariance = _drops(finished, first=first)
    fit = _posterior(data, mean, covariance)
    if fit is None:
        return None
    end = data.terms_at(n_steps, fallen=1 - end_rate, whole_set=True)
    log_loss, sd = float(end @ fit.mean), math.sqrt(end @ fit.covariance @ end) * fit.inflation
    half = NormalDist().inv_cdf((1 + LEVEL) / 2) * sd
    if not math.isfinite(half) or half > WIDEST:
        return None
    low, middle, high = (math.exp(log_loss + k * half) for k in (-1, 0, 1))
    return EndForecast(loss=middle, low=low, high=high, level=LEVEL, step=data.last)


def loss_after_decay(
    rows: Sequence[Row],
    *,
    start: int,
    n_steps: int,
    warmup_steps: int = 0,
    unique_tokens: float = math.inf,
    finished: Sequence[EndedCurve] = (),
) -> tuple[float, float] | None:
    """Return the loss that a full decay from a trunk's checkpoint would reach, and its error.

    The loss is on the whole test set, in nats per token; the error is a standard deviation in log
    loss, of the form and of the drops together. None where the trunk has too few test losses.

    rows: of the trunk's curve, before and after the checkpoint; those of a decay are left out
    start: step of the checkpoint
    n_steps: steps at the end of the decay
    warmup_steps, unique_tokens, finished: as in `loss_at_end`
    """
    first = max(FIRST_STEP, 2 * warmup_steps)
    keys = {"n_steps": n_steps, "first": first, "unique_tokens": unique_tokens}
    data = _data(_at_peak(usable(rows)), centre=start, **keys)
    if data is None or data.n_tests < FEWEST_TESTS or data.last < start:
        return None
    fit = _posterior(data, *_drops(finished, first=first))
    if fit is None:
        return None
    end = data.terms_at(n_steps, fallen=1.0, whole_set=True)
    sd = math.sqrt(end @ fit.covariance @ end) * fit.inflation
    return math.exp(float(end @ fit.mean)), sd


def usable(rows: Sequence[Row]) -> list[Row]:
    """Return the rows that a forecast can read: with step, tokens and rate, and losses above 0.

    Trainers of the user's own may write others, and a file may be damaged.
    """

    def is_positive(value: Any) -> bool:
        return isinstance(value, int | float) and 0 < value < math.inf

    readable = []
    for row in rows:
        if all(is_positive(row.get(name)) for name in ("step", "tokens", "lr")):
            losses = [n for n in ("test_loss", "train_loss") if n in row]
            wrong = [n for n in losses if not is_positive(row[n])]
            readable.append({k: v for k, v in row.items() if k not in wrong})
    return readable


def _at_peak(rows: Sequence[Row]) -> list[Row]:
    """Return the rows of a curve at its highest rate."""
    peak = max((r["lr"] for r in rows), default=0.0)
    return [r for r in rows if r["lr"] >= CONSTANT * peak]


@dataclass(frozen=True, kw_only=True)
class _Data:
    """The rows of a curve as a linear problem in a, b, c, d0, d1, whole set, offset, drift."""

    terms: Floats  # (rows, 8)
    values: Floats  # (rows,), log losses
    noise: Floats  # (rows,), standard deviations
    log_centre: float
    log_size: float  # log(n / 1000)
    last: int
    n_tests: int

    def terms_at(self, step: float, *, fallen: float, whole_set: bool = False) -> Floats:
        """Return the terms of a test loss after a step; `fallen` is 1 - lr / peak."""
        u = math.log(step) - self.log_centre
        return _terms(u, fallen, self.log_size, whole_set=whole_set)


@dataclass(frozen=True, kw_only=True)
class _Posterior:
    """Mean and covariance of the terms; `inflation` of errors whose residuals are too large."""

    mean: Floats
    covariance: Floats
    inflation: float


def _data(
    rows: Sequence[Row],
    *,
    n_steps: int,
    first: int,
    unique_tokens: float,
    centre: int | None = None,
) -> _Data | None:
    """Return the problem of a curve's rows; None where none can be used.

    The form is exact at the step `centre`, the last by default, and errs more away from it.
    """
    if not any("test_loss" in r and r["step"] >= first for r in rows):
        return None
    peak, last = max(r["lr"] for r in rows), max(int(r["step"]) for r in rows)
    log_centre, log_size = math.log(centre or last), math.log(n_steps / 1000)
    statements: list[tuple[Floats, float, float]] = []
    n_tests, before = 0, (0, 0.0)
    for row in rows:
        fallen = 1 - row["lr"] / peak if peak > 0 else 0.0
        if "test_loss" in row and row["step"] >= first:
            at = _terms(math.log(row["step"]) - log_centre, fallen, log_size)
            noise = TEST_NOISE + MISFIT * abs(at[1])
            statements.append((at, math.log(row["test_loss"]), noise))
            n_tests += 1
        if "train_loss" not in row:
            continue
        (start, start_tokens), before = before, (row["step"], row["tokens"])
        if start >= first and row["tokens"] <= 1.001 * unique_tokens:
            u = math.log(start * row["step"]) / 2 - log_centre
            batches = TOKEN_NOISE / math.sqrt(row["tokens"] - start_tokens)
            noise = math.hypot(TRAINING_NOISE + MISFIT * abs(u), batches) + DECAY_NOISE * fallen
            at = _terms(u, fallen, log_size, training=True)
            statements.append((at, math.log(row["train_loss"]), noise))
    terms, values, noises = zip(*statements, strict=True)
    return _Data(
        terms=np.array(terms),
        values=np.array(values),
        noise=np.array(noises),
        log_centre=log_centre,
        log_size=log_size,
        last=last,
        n_tests=n_tests,
    )


def _terms(
    u: float, fallen: float, log_size: float, *, whole_set: bool = False, training: bool = False
) -> Floats:
    """Return the terms of a loss at the log step `u`; `fallen` is 1 - lr / peak."""
    drop = (fallen, fallen * log_size, float(whole_set))
    return np.array([1.0, u, u * u, *drop, float(training), u * training])


def _posterior(data: _Data, drops: Floats, drops_covariance: Floats) -> _Posterior | None:
    """Return the terms given a curve; None where the curve is unlike the form.

    drops: prior mean of d0, d1 and the whole set's offset (3,)
    drops_covariance: of these (3, 3)
    """
    others = (SLOPE, CURVATURE, TRAINING_OFFSET, TRAINING_DRIFT)
    (b, c, offset, drift), sds = zip(*others, strict=True)
    level = float(data.values[np.argmin(np.abs(data.terms[:, 1]))])
    prior = np.array([level, b, c, *drops, offset, drift])
    covariance = np.diag([LEVEL_SD**2, *(sd**2 for sd in (*sds[:2], 1, 1, 1, *sds[2:]))])
    covariance[3:6, 3:6] = drops_covariance
    precision = np.linalg.inv(covariance)
    weights = 1 / data.noise**2
    normal = data.terms.T @ (data.terms * weights[:, None]) + precision
    posterior = np.linalg.inv(normal)
    mean = posterior @ (data.terms.T @ (weights * data.values) + precision @ prior)
    residuals = (data.values - data.terms @ mean) / data.noise
    spread = math.sqrt(float(np.mean(residuals**2)))
    if not spread < WORST_RESIDUAL:
        return None
    return _Posterior(mean=mean, covariance=posterior, inflation=max(1.0, spread))


def _drops(finished: Sequence[EndedCurve], *, first: int) -> tuple[Floats, Floats]:
    """Return mean and covariance of d0, d1 and the whole set's offset, given ended cells."""
    means, sds = zip(DROP, DROP_GROWTH, WHOLE_SET, strict=True)
    precision = np.diag([1 / sd**2 for sd in sds])
    total = precision @ np.array(means)
    for curve in finished:
        for terms, value, variance in _drop_of(curve, first=first):
            precision = precision + np.outer(terms, terms) / variance
            total = total + terms * value / variance
    covariance = np.linalg.inv(precision)
    return covariance @ total, covariance


def _drop_of(curve: EndedCurve, *, first: int) -> list[tuple[Floats, float, float]]:
    """Return what an ended cell says of the drops: terms, value and variance of each statement."""
    peak = max((r["lr"] for r in curve.rows), default=0.0)
    data = _data(_at_peak(curve.rows), n_steps=curve.n_steps, first=first, unique_tokens=math.inf)
    if data is None or data.n_tests < FEWEST_TESTS or not peak:
        return []
    fit = _posterior(data, np.zeros(3), 1e-12 * np.eye(3))
    if fit is None:
        return []
    fallen = 1 - curve.rows[-1]["lr"] / peak
    at_peak = data.terms_at(curve.n_steps, fallen=0.0)
    noise = DROP_NOISE if curve.same_trunk else DROP_NOISE_OTHERS
    variance = float(at_peak @ fit.covariance @ at_peak) * fit.inflation**2 + noise**2
    drop = np.array([fallen, fallen * data.log_size, 0.0])
    whole = np.array([0.0, 0.0, 1.0])
    without_drop = float(at_peak @ fit.mean)
    if curve.end_on_windows is None:
        return [(drop + whole, math.log(curve.test_loss) - without_drop, variance)]
    return [
        (drop, math.log(curve.end_on_windows) - without_drop, variance),
        (whole, math.log(curve.test_loss / curve.end_on_windows), SET_NOISE**2),
    ]
