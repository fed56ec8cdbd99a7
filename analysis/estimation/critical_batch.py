"""The critical batch against tokens seen, B_crit = k T^p, from branches of a trunk (LAWS 4.7).

From one checkpoint at T tokens, branches train the same further tokens with batches B, 2B, 4B ...
and rates that follow the batch (branched training: Merrill et al. 2025, 2505.23971). The critical
batch is the largest whose loss stays within a tolerance of the least: above it a step of more
tokens wastes tokens. It rises along a run, fast at first, and depends little on N (Merrill; Zhang
et al. 2024, 2410.21676).

Noise makes losses of neighbouring batches change places, so that the rising curve nearest to them
(isotonic regression) is read, between two batches along a line in B, as the excess grows below the
critical batch (McCandlish et al. 2018, 1812.06162). Where no batch is beyond
the tolerance, the critical batch lies above those tried; where the second is already, it lies below
or at them, since no flat part was seen. Such points are censored observations of the line of log
B_crit against log T (Tobin 1958); they are never dropped.

Legend: G points (a trunk at some T), S draws.
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal, cast

import numpy as np
import pandas as pd
from scipy.optimize import isotonic_regression, minimize
from scipy.special import log_ndtr, stdtrit

from analysis.alarms.alarm import Alarm
from analysis.alarms.loss_units import unit_of_law
from analysis.forms import Array, column
from analysis.laws.law import Law
from analysis.runs.table import Runs

FORM = "critical_batch"
NEEDED = ("at_tokens", "batch", "loss")
TOLERANCE = 0.02  # nats; the loss of a branch of sweeps/critical_batch.yaml errs by about .007
FEWEST_BATCHES = 3  # batches of a point: a flat part of two, and one beyond it
FEWEST_POINTS = 3  # points with a critical batch among those tried, for a line and its scatter
LEAST_INSIDE = 0.5  # of the points: with 8 of 12 outside, 90 % intervals held in 83 % (simulated)
LEAST_SCATTER = 0.05  # deviation of log B_crit: batches are a factor of 2 apart, and read between
MOST_LOG = 300.0  # of log k in a draw: few points have draws beyond what float64 holds
DRAWS = 1000
Where = Literal["inside", "above", "below"]


@dataclass(frozen=True, kw_only=True)
class Point:
    """The critical batch of one trunk at one number of tokens.

    trunk: its name
    at_tokens: T, tokens of the trunk before the branches
    batch: the critical batch in tokens; outside the batches tried, the end that it lies beyond
    where: `inside` the batches tried, `above` the largest, or `below` (at most) the second smallest
    batches, excess: the batches tried, and the loss of each less the least, as measured
    """

    trunk: str
    at_tokens: float
    batch: float
    where: Where
    batches: list[float]
    excess: list[float]


@dataclass(frozen=True, kw_only=True)
class Line:
    """log B_crit = a + p (log T - centre), with the covariance of (a, p) and the scatter about it.

    deviation: of log B_crit of a point about the line
    freedom: degrees of freedom of the deviation
    """

    values: Array
    covariance: Array
    centre: float
    deviation: float
    freedom: int

    def at(self, tokens: Array | float) -> Array:
        """Return log B_crit at T tokens."""
        return self.values[0] + self.values[1] * (np.log(tokens) - self.centre)

    def ends(self, tokens: float, level: float) -> tuple[float, float]:
        """Return the ends of the prediction interval of log B_crit of a new point at T tokens."""
        x = np.array([1.0, np.log(tokens) - self.centre])
        spread = float(np.sqrt(x @ self.covariance @ x + self.deviation**2))
        half = float(stdtrit(self.freedom, (1 + level) / 2)) * spread
        middle = float(self.at(tokens))
        return middle - half, middle + half


def critical_batch(
    runs: Runs,
    *,
    tolerance: float = TOLERANCE,
    resamples: int = DRAWS,
    level: float = 0.9,
    seed: int = 0,
) -> Law:
    """Fit B_crit = k T^p to branches with the columns at_tokens (T), batch (tokens) and loss.

    runs: a branch a row; branches of one trunk have one `trunk`, else one `params` and `seed`
    tolerance: loss above the least, in the unit of the losses, that a batch may cost
    resamples: draws of the law, 0 for no intervals
    level: of the intervals
    seed: of the draws

    The law's parameters are k (tokens) and p. Raises ValueError where fewer than `FEWEST_POINTS`
    points, or less than `LEAST_INSIDE` of them, or points at one T alone, have their critical batch
    among the batches tried.
    """
    table = runs.table
    points = points_of(table, tolerance)
    inside = [p for p in points if p.where == "inside"]
    few = len(inside) < max(FEWEST_POINTS, len(points) * LEAST_INSIDE)
    if few or len({p.at_tokens for p in inside}) < 2:
        raise ValueError(refusal(points, tolerance))
    line = fit_line(points)
    draws = draws_of(line, max(resamples, 1), seed)
    tails = [(1 - level) / 2, (1 + level) / 2]
    values = parameters_of(line.values, line.centre)
    names = ("k", "p")
    return Law(
        form=FORM,
        count=runs.count,
        parameters=dict(zip(names, map(float, values), strict=True)),
        objective={"name": FORM, "delta": None, "value": None},
        status="converged",
        alarms=tuple(alarms_of(points)),
        intervals={
            "level": level,
            "method": "censored regression, Student t",
            "resamples": resamples,
            "unit": "point",
            "units": len(points),
            "parameters": {
                n: np.quantile(draws[:, i], tails).tolist() for i, n in enumerate(names)
            },
        }
        if resamples
        else None,
        draws=draws if resamples else None,
        methods={
            FORM: {
                "tolerance": tolerance,
                "points": [asdict(p) for p in points],
                "sd_log": line.deviation,
                "freedom": line.freedom,
                "hindcast": hindcast(points, level),
            }
        },
        n_runs=len(table),
        dropped=runs.dropped,
        ranges={
            name: [float(column(table, name).min()), float(column(table, name).max())]
            for name in (*NEEDED, "params", "tokens", "flops")
            if name in table
        },
        inputs=runs.inputs,
        unit=unit_of_law(runs.inputs),
    )


def points_of(table: pd.DataFrame, tolerance: float) -> list[Point]:
    """Return the critical batch of each trunk at each T, in the order of T; ValueError for none.

    A point with fewer than `FEWEST_BATCHES` batches is refused.
    """
    keys = [c for c in (["trunk"] if "trunk" in table else ["params", "seed"]) if c in table]
    points = []
    for key, rows in table.groupby([*keys, "at_tokens"], sort=False):
        *trunk, at_tokens = cast("tuple[Any, ...]", key)
        name = " ".join(map(str, trunk)) or "all"
        batch_of, loss_of = column(rows, "batch"), column(rows, "loss")
        batches = np.unique(batch_of)
        losses = np.array([loss_of[batch_of == b].mean() for b in batches])
        if len(batches) < FEWEST_BATCHES:
            raise ValueError(
                f"trunk {name} at {float(at_tokens):.4g} tokens has {len(batches)} batches; a"
                f" critical batch needs {FEWEST_BATCHES} or more: add branch.batch_factor, or leave"
                " the point out with where="
            )
        batch, where = crossing(batches, losses, tolerance)
        points.append(
            Point(
                trunk=name,
                at_tokens=float(at_tokens),
                batch=batch,
                where=where,
                batches=batches.tolist(),
                excess=(losses - losses.min()).tolist(),
            )
        )
    return sorted(points, key=lambda p: p.at_tokens)


def crossing(batches: Array, losses: Array, tolerance: float) -> tuple[float, Where]:
    """Return the largest batch within the tolerance, and where it lies among those tried.

    batches: in tokens, rising (B,)
    losses: of each (B,)
    tolerance: in the unit of the losses
    """
    rising = isotonic_regression(losses).x
    excess = rising - rising[0]
    within = int((excess <= tolerance).sum())
    if within == len(batches):
        return float(batches[-1]), "above"
    if within < 2:
        return float(batches[1]), "below"
    share = (tolerance - excess[within - 1]) / (excess[within] - excess[within - 1])
    return float(batches[within - 1] + share * (batches[within] - batches[within - 1])), "inside"


def fit_line(points: list[Point]) -> Line:
    """Fit log B_crit against log T by maximum likelihood with normal scatter, censored points in.

    The deviation has its degrees of freedom back: inside points less two.
    """
    y = np.log([p.batch for p in points])
    where = np.array([p.where for p in points])
    logs = np.log([p.at_tokens for p in points])
    inside = where == "inside"
    centre = float(logs[inside].mean())
    x = np.column_stack([np.ones(len(y)), logs - centre])
    sign = np.select([where == "above", where == "below"], [-1.0, 1.0], 0.0)
    start = np.linalg.lstsq(x[inside], y[inside], rcond=None)[0]
    first = np.log(max(float(np.std(y[inside] - x[inside] @ start)), LEAST_SCATTER))

    def loss(theta: Array) -> tuple[float, Array]:
        return _negative_likelihood(theta, x, y, sign)

    bounds = [(None, None), (None, None), (np.log(LEAST_SCATTER), None)]
    result = minimize(loss, [*start, first], jac=True, method="L-BFGS-B", bounds=bounds)
    beta, deviation = result.x[:2], float(np.exp(result.x[2]))
    freedom = max(int(inside.sum()) - 2, 1)
    deviation *= float(np.sqrt(inside.sum() / freedom))
    weight = np.where(inside, 1.0, _censored_weight((y - x @ beta) / deviation, sign))
    covariance = deviation**2 * np.linalg.inv(x.T @ (weight[:, None] * x))
    return Line(
        values=beta, covariance=covariance, centre=centre, deviation=deviation, freedom=freedom
    )


def _negative_likelihood(theta: Array, x: Array, y: Array, sign: Array) -> tuple[float, Array]:
    """Return the negative log likelihood and its gradient; sign is 0 inside, -1 above, +1 below."""
    deviation = np.exp(theta[2])
    z = (y - x @ theta[:2]) / deviation
    inside = sign == 0
    tail = log_ndtr(sign * z)
    hazard = np.exp(-(z**2) / 2 - np.log(2 * np.pi) / 2 - tail)  # density over probability
    value = np.where(inside, z**2 / 2 + theta[2], -tail).sum()
    by_mean = np.where(inside, z, -sign * hazard) / deviation  # d log likelihood / d mean
    by_scale = np.where(inside, z**2 - 1, -sign * z * hazard)
    return float(value), -np.append(x.T @ by_mean, by_scale.sum())


def _censored_weight(z: Array, sign: Array) -> Array:
    """Return the information on the mean of a censored point over that of a measured one."""
    hazard = np.exp(-(z**2) / 2 - np.log(2 * np.pi) / 2 - log_ndtr(sign * z))
    return hazard * (hazard + sign * z)


def parameters_of(values: Array, centre: float) -> Array:
    """Return (k, p) of (a, p) (..., 2)."""
    log_k = np.clip(values[..., 0] - values[..., 1] * centre, -MOST_LOG, MOST_LOG)
    return np.stack([np.exp(log_k), values[..., 1]], axis=-1)


def draws_of(line: Line, resamples: int, seed: int) -> Array:
    """Return draws of (k, p) (S, 2), with Student's tails."""
    rng = np.random.default_rng(seed)
    scale = np.sqrt(line.freedom / rng.chisquare(line.freedom, resamples))[:, None]
    normal = rng.multivariate_normal(np.zeros(2), line.covariance, resamples)
    return parameters_of(line.values + scale * normal, line.centre)


def hindcast(points: list[Point], level: float) -> dict[str, Any] | None:
    """Return the forecast of the points at the largest T from those below it, and what they gave.

    None where the points below carry no line.
    """
    largest = points[-1].at_tokens
    below = [p for p in points if p.at_tokens < largest]
    inside = [p for p in below if p.where == "inside"]
    measured = [p.batch for p in points if p.at_tokens == largest and p.where == "inside"]
    few = len(inside) < FEWEST_POINTS or len({p.at_tokens for p in inside}) < 2
    if few or not measured:
        return None
    line = fit_line(below)
    low, high = np.exp(line.ends(largest, level))
    return {
        "at_tokens": largest,
        "reach": largest / below[-1].at_tokens,
        "forecast": float(np.exp(line.at(largest))),
        "interval": [float(low), float(high)],
        "measured": measured,
        "inside": int(sum(low <= m <= high for m in measured)),
    }


def batch_at(law: Law, tokens: float, level: float = 0.9) -> tuple[float, float, float]:
    """Return (value, low, high) of the critical batch in tokens at T tokens seen.

    law: of form critical_batch
    tokens: T
    level: of the prediction interval, which holds the scatter of a point about the law

    The ends are the value for a law without draws. Raises ValueError for another form.
    """
    if law.form != FORM:
        raise ValueError(f"a law of form {law.form} gives no critical batch; fit form={FORM}")
    value = law.parameters["k"] * tokens ** law.parameters["p"]
    if law.draws is None:
        return value, value, value
    block = law.methods[FORM]
    rng = np.random.default_rng(0)
    k, p = law.draws.T
    scale = np.sqrt(block["freedom"] / rng.chisquare(block["freedom"], len(k)))
    scatter = block["sd_log"] * scale * rng.standard_normal(len(k))
    logs = np.log(k) + p * np.log(tokens) + scatter
    low, high = np.exp(np.quantile(logs, [(1 - level) / 2, (1 + level) / 2]))
    return value, float(low), float(high)


def alarms_of(points: list[Point]) -> list[Alarm]:
    """Return what to know of the points: those outside the batches tried, few values of T."""
    alarms = []
    if outside := [p for p in points if p.where != "inside"]:
        alarms.append(
            Alarm(
                code="critical_batch_outside",
                sentence=f"At {len(outside)} of {len(points)} points the critical batch lies"
                f" outside the batches tried ({_outside(outside)}); they enter as bounds:"
                f" {_remedy(outside)}.",
            )
        )
    if (n := len({p.at_tokens for p in points if p.where == "inside"})) < FEWEST_POINTS:
        alarms.append(
            Alarm(
                code="few_branch_points",
                sentence=f"The critical batch was measured at {n} numbers of tokens, which no power"
                f" law can be tested on: branch at {FEWEST_POINTS} or more (branch.at_tokens).",
            )
        )
    return alarms


def _outside(points: list[Point]) -> str:
    parts = [
        f"{sum(p.where == where for p in points)} {words}"
        for where, words in (
            ("above", "above the largest"),
            ("below", "at or below the second smallest"),
        )
        if any(p.where == where for p in points)
    ]
    return ", ".join(parts)


def _remedy(points: list[Point]) -> str:
    above = any(p.where == "above" for p in points)
    below = any(p.where == "below" for p in points)
    remedies = ["add larger branch.batch_factor"] if above else []
    remedies += ["lower optim.batch_tokens of the trunk"] if below else []
    return " and ".join(remedies)


def refusal(points: list[Point], tolerance: float) -> str:
    """Return why the points carry no law."""
    outside = [p for p in points if p.where != "inside"]
    inside = len(points) - len(outside)
    start = (
        f"form={FORM} finds the critical batch (tolerance={tolerance:g}) among the batches tried at"
        f" {inside} of {len(points)} points"
    )
    if not outside:
        ats = {p.at_tokens for p in points}
        return (
            f"{start}, at {len(ats)} number{'s' if len(ats) > 1 else ''} of tokens; a law needs"
            f" {FEWEST_POINTS} points at two or more: add branch.at_tokens or seeds"
        )
    return (
        f"{start}, and a law needs half of them, {FEWEST_POINTS} or more at two or more numbers of"
        f" tokens; it lies"
        f" {_outside(outside)} at the others: {_remedy(outside)}"
    )
