"""Fit loss curves and forecast the loss under any other schedule of the learning rate.

    fit = fit_curve(step, lr, loss, warmup_steps=2160, peak_lr=3e-4)
    loss, low, high = fit.predict(other_step, other_lr, level=0.9)

Two published laws are fitted (scaling.curves.laws). Each errs in its own way on a schedule that it
has not seen, so `law="auto"` averages them, each weighted by its errors on withheld curves.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtrit

from scaling.curves.curve import Curve, make_curve
from scaling.curves.law_fit import MODEL_ERROR, LawFit, fit_law
from scaling.curves.laws import ANNEALING, LAWS, MULTI_POWER, CurveLaw, Unit
from scaling.curves.path import Floats, path

AT_PEAK = 0.99  # Of the peak rate: a first row above has ended its warm-up.
FEWEST_ROWS = 6  # Three parameters of a constant rate and as many rows to check them.
ROWS_OF_MULTI_POWER = (
    40  # Below, its seven parameters are mostly their priors (LAWS: dense curves).
)
DROP_NEEDED = (
    0.5  # A rate must fall below this share of the peak before the fit says what falls do.
)
ROWS_AFTER_DROP = 3  # Rows at such a rate, in all curves.
CHOICES = ("auto", *LAWS)

CONVERGED = "converged"
NO_DROP = "drop_not_identified"
OFFSET = "offset_not_identified"
NOT_IDENTIFIED = "not_identified"


class CurveForecast(NamedTuple):
    """Losses at the rows of a schedule, with the interval that a measured loss falls in.

    loss: forecast in nats per token (n,)
    low: lower end (n,)
    high: upper end (n,)
    """

    loss: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True, kw_only=True)
class CurveFit:
    """What the curves of one model size say of other schedules.

    status: converged; drop_not_identified: no curve lowers its rate by half, so only schedules that
        do not either are forecast; offset_not_identified: L0 is at 0, long runs are forecast badly;
        not_identified: too few rows, nothing is forecast
    why: a sentence where the status is not converged
    laws: the laws that were fitted
    weights: of the laws in the forecast, adding up to 1
    error: standard deviation of the log loss of a new curve around the forecast, from withheld
        curves or rows
    degrees: how many withheld errors it is from
    warmup_steps: of the first curve, for schedules to come
    peak_lr: of the first curve
    largest_sum: the largest sum of rates in the curves
    last_step: the last step of the longest curve
    names: of the curves
    n_rows: rows in the fit
    withheld_errors: mean absolute relative error of each curve that was withheld in turn
    """

    status: str
    why: str
    laws: tuple[LawFit, ...]
    weights: tuple[float, ...]
    error: float
    degrees: int
    warmup_steps: float
    peak_lr: float
    largest_sum: float
    last_step: float
    names: tuple[str, ...]
    n_rows: int
    withheld_errors: dict[str, float] = field(default_factory=dict)

    def predict(
        self,
        step: ArrayLike,
        lr: ArrayLike,
        level: float = 0.9,
        *,
        warmup_steps: float | None = None,
        peak_lr: float | None = None,
    ) -> CurveForecast:
        """Return the losses of a schedule at its rows.

        step: of the rows, increasing, none before the end of the warm-up (n,)
        lr: the rate from this step until the next row (n,)
        level: of the interval
        warmup_steps: of the schedule; None is that of the first curve
        peak_lr: of the schedule; None is that of the first curve

        Raises ValueError where the fit cannot say: too few rows, or a rate that falls while that of
        no curve did.
        """
        if not 0 < level < 1:
            raise ValueError(f"the level of an interval is {level:g}; give one between 0 and 1")
        if self.status == NOT_IDENTIFIED:
            raise ValueError(f"the schedule law forecasts nothing: {self.why}")
        peak = self.peak_lr if peak_lr is None else peak_lr
        warmup = self._warmup(step, lr) if warmup_steps is None else warmup_steps
        along = path(step, lr, warmup_steps=warmup, peak_lr=peak)
        lowest = float(np.min(lr)) / peak
        if self.status == NO_DROP and lowest < DROP_NEEDED:
            raise ValueError(
                f"the schedule lowers the rate to {lowest:.2g} of its peak and the law cannot say"
                f" what that does: {self.why}"
            )
        parts = [law.log_loss(along) for law in self.laws]
        weights = np.array(self.weights)[:, None]
        logs = np.stack([log for log, _ in parts])
        mean = (weights * logs).sum(0)
        spread = (weights * (logs - mean) ** 2).sum(0)
        variance = (weights * np.stack([own for _, own in parts])).sum(0) + spread
        variance = variance + self.error**2 + self.noise**2
        half = float(stdtrit(self.degrees, (1 + level) / 2)) * np.sqrt(variance)
        return CurveForecast(np.exp(mean), np.exp(mean - half), np.exp(mean + half))

    def end(
        self, schedule_step: ArrayLike, schedule_lr: ArrayLike, level: float = 0.9
    ) -> tuple[float, float, float]:
        """Return loss, low and high at the last row of a schedule; arguments as of `predict`."""
        loss, low, high = self.predict(schedule_step, schedule_lr, level)
        return float(loss[-1]), float(low[-1]), float(high[-1])

    def change(
        self,
        before: tuple[ArrayLike, ArrayLike],
        after: tuple[ArrayLike, ArrayLike],
        level: float = 0.9,
    ) -> tuple[float, float]:
        """Return log(loss at the end of `after` / of `before`), and the half-width of its interval.

        before, after: steps and rates of two schedules (n,)
        level: of the interval
        """
        for rows in (before, after):
            self.predict(*rows)  # refuses what the curves do not say
        paths = [
            path(step, lr, warmup_steps=self._warmup(step, lr), peak_lr=self.peak_lr)
            for step, lr in (before, after)
        ]
        parts = [law.log_change(*paths) for law in self.laws]
        weights = np.array(self.weights)
        changes = np.array([change for change, _ in parts])
        mean = float(weights @ changes)
        variance = float(weights @ ((changes - mean) ** 2 + [own for _, own in parts]))
        half = stdtrit(self.degrees, (1 + level) / 2) * np.sqrt(variance + self.error**2)
        return mean, float(half)

    def last(self, schedule_step: ArrayLike, schedule_lr: ArrayLike) -> float:
        """Return the loss at the last row alone, without an interval: fast, for a search."""
        warmup = self._warmup(schedule_step, schedule_lr)
        along = path(schedule_step, schedule_lr, warmup_steps=warmup, peak_lr=self.peak_lr).last()
        logs = [fit.log_loss(along)[0][0] for fit in self.laws]
        return float(np.exp(np.dot(self.weights, logs)))

    def _warmup(self, step: ArrayLike, lr: ArrayLike) -> float:
        """Return the steps of the warm-up; a schedule at the peak before its end has a shorter one.

        The end is often known only as the first row of a table.
        """
        steps, rates = np.ravel(step), np.ravel(lr)
        if len(steps) and len(rates) and rates[0] >= AT_PEAK * self.peak_lr:
            return min(self.warmup_steps, float(steps[0]))
        return self.warmup_steps

    @property
    def noise(self) -> float:
        """Standard deviation of one measured log loss around the smooth curve."""
        return max((law.noise for law in self.laws), default=0.0)

    @property
    def parameters(self) -> dict[str, dict[str, float]]:
        """Parameters by law, in the units of the papers."""
        return {fit.law.name: fit.parameters() for fit in self.laws}


def fit_curve(
    step: ArrayLike,
    lr: ArrayLike,
    loss: ArrayLike,
    *,
    warmup_steps: float,
    peak_lr: float,
    law: str = "auto",
) -> CurveFit:
    """Fit the schedule laws to one curve; see `fit_curves`.

    step: of every row, increasing; rows before the end of the warm-up are left out (n,)
    lr: the rate from this step on (n,)
    loss: in nats per token (n,)
    warmup_steps: over which the rate rose linearly from 0 to the peak
    peak_lr: the rate at the end of the warm-up
    law: auto, multi_power or annealing

    Returns a fit whose status says what can be forecast. Raises ValueError for rows that are no
    curve.
    """
    curve = make_curve(step, lr, loss, warmup_steps=warmup_steps, peak_lr=peak_lr)
    return fit_curves([curve], law=law)


def fit_curves(curves: list[Curve], *, law: str = "auto", withhold: bool = True) -> CurveFit:
    """Fit the schedule laws to several curves of one model size at once.

    curves: made by `make_curve`, of one model, batch and corpus
    law: auto averages the two laws by their errors on withheld curves; multi_power or annealing is
        that one alone. Few rows are fitted by the annealing law.
    withhold: whether to fit without each curve in turn, which takes most of the time; without,
        the interval knows the residuals alone

    Returns a fit whose status says what can be forecast. Raises ValueError for an unknown law.
    """
    if law not in CHOICES:
        raise ValueError(f"the schedule law is {law!r}; choose one of {', '.join(CHOICES)}")
    if not curves:
        raise ValueError("there is no curve to fit; give at least one")
    rows = sum(int(curve.measured.sum()) for curve in curves)
    if rows < FEWEST_ROWS:
        return _unidentified(curves, rows)
    unit = _unit(curves)
    drop = _lowered(curves)
    forms = _choose(law, rows, drop)
    fits = [fit_law(curves, form, unit=unit, drop=drop) for form in forms]
    withheld = _withheld(curves, fits) if withhold else {}
    weights = _weights(list(withheld.values()), len(fits))
    joint = {name: np.tensordot(weights, errors, 1) for name, errors in withheld.items()}
    error = max(fit.spread for fit in fits)  # where nothing could be withheld
    if joint:
        error = float(np.sqrt(np.mean([np.mean(e**2) for e in joint.values()])))
    status, why = _status(fits, drop)
    return CurveFit(
        status=status,
        why=why,
        laws=tuple(fits),
        weights=tuple(float(weight) for weight in weights),
        error=max(error, MODEL_ERROR),
        degrees=max(len(joint), 3),
        warmup_steps=curves[0].warmup_steps,
        peak_lr=curves[0].peak_lr,
        largest_sum=max(float(curve.path.sums[-1]) for curve in curves),
        last_step=max(float(curve.step[-1]) for curve in curves),
        names=tuple(curve.name for curve in curves),
        n_rows=rows,
        withheld_errors={n: float(np.mean(np.abs(np.expm1(e)))) for n, e in joint.items()},
    )


def _unit(curves: list[Curve]) -> Unit:
    return Unit(
        rate=max(curve.peak_lr for curve in curves),
        sum=max(float(curve.path.sums[-1]) for curve in curves) / 10,
    )


def _lowered(curves: list[Curve]) -> bool:
    """Say whether enough rows come after a fall of the rate."""
    low = [((curve.lr < DROP_NEEDED * curve.peak_lr) & curve.measured).sum() for curve in curves]
    return int(sum(low)) >= ROWS_AFTER_DROP


def _choose(law: str, rows: int, drop: bool) -> list[CurveLaw]:
    """Return the laws to fit; without a fall of the rate both are the same."""
    if law != "auto":
        return [LAWS[law]]
    return [MULTI_POWER, ANNEALING] if drop and rows >= ROWS_OF_MULTI_POWER else [ANNEALING]


def _withheld(curves: list[Curve], fits: list[LawFit]) -> dict[str, Floats]:
    """Return the errors in log loss (laws, rows) of curves that were withheld in turn.

    A single curve withholds its last third. A curve is withheld only if the others still say what a
    fall of the rate does, or if it has none itself.
    """
    errors = {}
    if len(curves) == 1:
        n = len(curves[0].step)
        parts = [(curves[0].name, [curves[0].without(slice(n - n // 3, None))], curves[0])]
        tested = slice(n - n // 3, None)
    else:
        parts = [
            (curve.name, [other for other in curves if other is not curve], curve)
            for curve in curves
        ]
        tested = slice(None)
    for name, others, curve in parts:
        rows = sum(int(other.measured.sum()) for other in others)
        use = curve.measured[tested]
        drop = _lowered(others)
        if rows < FEWEST_ROWS or not use.any() or (fits[0].drop and not drop):
            continue
        chosen = np.zeros(len(curve.step), bool)
        chosen[tested] = use
        along, measured = curve.path.at(chosen), np.log(curve.loss[chosen])
        logs = [
            fit_law(others, fit.law, unit=fit.unit, drop=fit.drop).log_loss(along)[0]
            for fit in fits
        ]
        errors[name] = np.stack([log - measured for log in logs])
    return errors


def _weights(withheld: list[Floats], laws: int) -> Floats:
    """Return weights in proportion to 1 / mean square error on what was withheld."""
    if not withheld:
        return np.full(laws, 1 / laws)
    squares = np.mean([np.mean(errors**2, axis=1) for errors in withheld], axis=0)
    inverse = 1 / np.maximum(squares, MODEL_ERROR**2 / 100)
    return inverse / inverse.sum()


def _status(fits: list[LawFit], drop: bool) -> tuple[str, str]:
    if not drop:
        return NO_DROP, (
            "fewer than three rows have a rate below half of the peak; add a curve that decays, or "
            "later rows of this one"
        )
    if all(fit.theta[0] < 1e-3 for fit in fits):
        return OFFSET, "L0 is at 0: the curves do not bend enough to say where they end"
    return CONVERGED, ""


def _unidentified(curves: list[Curve], rows: int) -> CurveFit:
    return CurveFit(
        status=NOT_IDENTIFIED,
        why=f"{rows} rows after the warm-up; give at least {FEWEST_ROWS}",
        laws=(),
        weights=(),
        error=float("nan"),
        degrees=1,
        warmup_steps=curves[0].warmup_steps,
        peak_lr=curves[0].peak_lr,
        largest_sum=max(float(curve.path.sums[-1]) for curve in curves),
        last_step=max(float(curve.step[-1]) for curve in curves),
        names=tuple(curve.name for curve in curves),
        n_rows=rows,
    )
