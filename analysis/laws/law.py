"""A fitted or published law: what it says, how sure it is, and how it is read and written.

    law = Law.read("law.json")            or  analysis.load_law("besiroglu2024" | "law.json")
    law.parameters                        {"E": .., "A": .., "B": .., "alpha": .., "beta": ..}
    law.status, law.usable                usable: converged, or only the offset E is undetermined
    law.alarms                            tuple of Alarm(code, sentence)
    law.predict(N, D, level=0.9)          Prediction(loss, low, high): arrays shaped like N and D;
                                          low and high are None where the law has no draws; repeated
                                          data: unique_tokens=U
    law.predict_table(frame)              the same for a data frame of the form's variables, of any
                                          form: returns it with columns loss (or the form's target),
                                          low and high
    law.optimum(flops, level=0.9)         Optimum(flops, params, tokens, tokens_per_param, loss,
                                          a, b, level, intervals={"params", "tokens", "loss",
                                          "tokens_per_param", "a", "b"} each (low, high), or {}
                                          where there are no draws; loss is None where a law is
                                          an allocation alone)
    law.draws                             (resamples, P) parameter rows in the order of `parameters`
    law.allocation                        the `optimum` block of law.json: a, b, their intervals,
                                          tokens per parameter at stated budgets
    law.methods                           {"parametric" | "isoflop" | "envelope": {"a", "b",
                                          "a_interval", "b_interval", "points": [..], ..}}
    law.power_laws                        list of {variable, offset, parameters, intervals, points}
    law.ranges                            {"params": [lo, hi], "tokens", "flops", "flops_6nd",
                                          "loss"}; empty for a published law
    law.backtest                          {"rows": [..], "tau": [[h, tau], ..]} or None
    law.summary(), law.write(path)

N parameters (under `count`), D tokens, C = 6ND training FLOPs, L nats per token. The closed forms
are those of Hoffmann et al. 2022 eq. 4. A prediction interval joins three things, in squares: the
bootstrap draws (bias-corrected percentiles at Student t's levels of n - p,
`analysis.uncertainty.bootstrap`), the scatter of runs about the law at that loss
(`analysis.solve.residual_spread`), and the growth of hindcast error with distance
(`analysis.validate.hindcast`); `noise=False` leaves the last two out. What they cover is in
`benchmarks/intervals.py`. A law that is not usable says nothing beyond its data unless `force=True`
(or the law itself is `forced`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.special import ndtri, stdtrit

from analysis.forms import FORMS, Array, Form, column
from analysis.forms.optimum import optimal_split, power_optimum
from analysis.laws.law_file import LawFile
from analysis.laws.text import summary
from analysis.solve.residual_spread import deviation
from analysis.uncertainty.percentiles import corrected

BEYOND = 1.05  # of the largest value fitted: farther is extrapolation


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Loss in nats per token at some points, with its interval at `level` (None without draws)."""

    loss: Array
    low: Array | None
    high: Array | None
    level: float


@dataclass(frozen=True, kw_only=True)
class Optimum:
    """The compute-optimal split of `flops` = 6 N D, with intervals {name: (low, high)}."""

    flops: float
    params: float
    tokens: float
    tokens_per_param: float
    loss: float | None
    a: float
    b: float
    level: float
    intervals: dict[str, tuple[float, float]]


@dataclass(frozen=True, kw_only=True)
class Law(LawFile):
    """A law that predicts losses and splits budgets."""

    def predict(
        self,
        params: ArrayLike,
        tokens: ArrayLike,
        level: float = 0.9,
        *,
        unique_tokens: ArrayLike | None = None,
        noise: bool = True,
        force: bool = False,
    ) -> Prediction:
        """Return the loss of runs of N parameters on D tokens; `noise` for a single new run.

        Raises ValueError for a law without a loss in N and D, and beyond the data of a law that
        is not usable, unless `force`.
        """
        if not self._form().is_surface:
            raise ValueError(
                f"a law of form {self.form} does not give the loss of N and D; use predict_table "
                f"with columns {', '.join(self._form().variables)}"
            )
        n, d = np.broadcast_arrays(np.asarray(params, float), np.asarray(tokens, float))
        values = {"params": n, "tokens": d, "flops": 6 * n * d}
        if unique_tokens is not None:
            values["unique_tokens"] = np.broadcast_to(np.asarray(unique_tokens, float), n.shape)
        if not (self.usable or self.forced or force):
            self._refuse_beyond(6 * n * d)
        return self._predicted(values, level, noise)

    def predict_table(
        self, table: pd.DataFrame, level: float = 0.9, *, noise: bool = True, force: bool = False
    ) -> pd.DataFrame:
        """Return the table with the predicted target and, with draws, `low` and `high`."""
        form = self._form()
        missing = [v for v in form.variables if v not in table and v not in form.optional]
        if missing:
            raise ValueError(f"form={form.name} predicts from {', '.join(missing)}: add the column")
        values = {v: column(table, v) for v in form.variables if v in table}
        if {"params", "tokens"} <= set(table):
            values["flops"] = 6 * column(table, "params") * column(table, "tokens")
            if not (self.usable or self.forced or force):
                self._refuse_beyond(values["flops"])
        found = self._predicted(values, level, noise)
        ends = {} if found.low is None else {"low": found.low, "high": found.high}
        return table.assign(**{form.target: found.loss, **ends})

    def optimum(
        self,
        flops: float,
        level: float = 0.9,
        *,
        unique_tokens: float | None = None,
        force: bool = False,
    ) -> Optimum:
        """Return the N and D of least loss with 6 N D = flops, with their intervals."""
        if not flops > 0:
            raise ValueError(f"flops={flops} must be positive; give the budget in FLOPs, as 1e21")
        if not (self.usable or self.forced or force):
            self._refuse_beyond(np.asarray(flops))
        given = {} if unique_tokens is None else {"unique_tokens": unique_tokens}
        point = self._split(self.parameters, flops, given)
        values = {k: float(v) for k, v in point.items()}
        n, d = values["params"], values["tokens"]
        predicted = None
        if self.form in FORMS and FORMS[self.form].is_surface:
            predicted = self.predict(n, d, level, unique_tokens=unique_tokens, force=True)
        intervals: dict[str, tuple[float, float]] = {}
        if self.draws is not None and self.form in FORMS:
            named = {name: self.draws[:, i] for i, name in enumerate(self.parameters)}
            tails = [(1 - level) / 2, (1 + level) / 2]
            for name, drawn in self._split(named, flops, given).items():
                low, high = np.nanquantile(drawn, tails)
                intervals[name] = (float(low), float(high))
        if predicted is not None and predicted.low is not None and predicted.high is not None:
            intervals["loss"] = (float(predicted.low), float(predicted.high))
        loss = None if predicted is None else float(predicted.loss)
        return Optimum(flops=float(flops), loss=loss, level=level, intervals=intervals, **values)

    def summary(self) -> str:
        """Return the law as text of at most 100 columns."""
        return summary(self)

    def __rich_repr__(self) -> Any:
        """Yield what rich shows: form, status, parameters with intervals, alarms."""
        yield "form", self.form
        yield "status", self.status
        shown = (self.intervals or {}).get("parameters", {})
        for name, value in self.parameters.items():
            low, high = shown.get(name, (None, None))
            yield name, f"{value:.5g}" + ("" if low is None else f" [{low:.4g}, {high:.4g}]")
        yield "alarms", [alarm.code for alarm in self.alarms], []

    def _repr_html_(self) -> str:
        from html import escape

        return f"<pre>{escape(self.summary())}</pre>"

    def _form(self) -> Form:
        """Return the form; ValueError for regressions, which predict nothing."""
        if self.form in FORMS:
            return FORMS[self.form]
        what = (
            "settings: see analysis.estimation.lr_batch.settings"
            if self.form == "lr_batch"
            else "N and D"
        )
        raise ValueError(f"a law of form {self.form} gives {what}; there is no loss to predict")

    def _predicted(self, values: Mapping[str, Array], level: float, noise: bool) -> Prediction:
        """Return the target at values of the variables, relative spread for a loss."""
        form = FORMS[self.form]
        point = np.asarray(form.predict(self.parameters, values))
        if self.draws is None:
            return Prediction(loss=point, low=None, high=None, level=level)
        draws = self.draws.reshape(len(self.draws), -1, *(1,) * point.ndim)
        named = {name: draws[:, i] for i, name in enumerate(self.parameters)}
        drawn = form.predict(named, values)
        relative = form.target == "loss"
        drawn = np.log(drawn / point) if relative else drawn - point
        freedom = max(self.n_runs - len(self.parameters), 1)
        ends = corrected(drawn, np.zeros_like(point), level, z=stdtrit(freedom, (1 + level) / 2))
        below, above = np.maximum(-ends[0], 0.0), np.maximum(ends[1], 0.0)
        spread = ndtri((1 + level) / 2) * self._scatter(values, point) if noise else 0.0
        below, above = np.hypot(below, spread), np.hypot(above, spread)
        low, high = (
            (point * np.exp(-below), point * np.exp(above))
            if relative
            else (point - below, point + above)
        )
        return Prediction(loss=point, low=np.asarray(low), high=np.asarray(high), level=level)

    def _split(
        self, parameters: Mapping[str, Any], flops: float, given: Mapping[str, float]
    ) -> dict[str, Any]:
        if self.form in FORMS and FORMS[self.form].is_surface:
            return optimal_split(FORMS[self.form], parameters, flops, given)
        if "k_params" not in self.allocation:
            raise ValueError(
                f"a law of form {self.form} has no compute optimum; give a law of N and D, as one "
                "fitted by form=chinchilla or besiroglu2024"
            )
        return power_optimum(self.allocation, flops)

    def _refuse_beyond(self, flops: Array) -> None:
        reach = self.ranges.get("flops_6nd", [0.0, np.inf])[1]
        if np.max(flops) > BEYOND * reach:
            raise ValueError(
                f"this law is {self.status} and says nothing beyond its data (C = {reach:.3g}); "
                "act on its alarms and refit, or pass force=True to extrapolate all the same"
            )

    def _scatter(self, values: Mapping[str, Array], point: Array) -> Array:
        """Standard deviation of one run at predictions: runs about the law, and hindcast error."""
        single = self._deviation(point)
        reach = self.ranges.get("flops_6nd", self.ranges.get("flops", [0.0, np.inf]))[1]
        if "flops" not in values or not reach > 0:
            return single
        distance = np.maximum(np.log(values["flops"] / reach), 0.0)
        knots = (self.backtest or {}).get("tau", [])
        return np.hypot(single, tau_at(knots, distance))

    def _deviation(self, point: Array) -> Array:
        """Standard deviation of runs about predictions: of a loss in logs, else in its own unit."""
        if "growth" in self.noise:
            return deviation(self.noise, point)
        if "sd" in self.noise and FORMS[self.form].target == "loss":
            return self.residual_sd / point
        return np.full(point.shape, self.residual_sd)


def tau_at(knots: list[list[float]], distance: Array) -> Array:
    """Return tau at log-distances: linear between the knots, from 0 at 0, as the square beyond.

    The square because a form that follows level and slope at the edge errs first by curvature.
    """
    if not knots:
        return np.zeros_like(distance)
    h, tau = np.array([[0.0, 0.0], *knots]).T
    beyond = tau[-1] * (distance / h[-1]) ** 2
    return np.where(distance > h[-1], beyond, np.interp(distance, h, tau))
