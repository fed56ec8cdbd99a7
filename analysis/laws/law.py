"""A fitted or published law: the loss that it predicts and how it splits a budget.

    law = Law.read("law.json")            or  analysis.load_law("besiroglu2024")
    law.predict(1e9, 2e10, level=0.9)     loss with its interval
    law.optimum(1e21)                     N and D of least loss, with their intervals
    law.settings(1e9, 2e10)               of form=surface: learning rate, batch, weight decay
    law.summary(), law.write(path)

The fields are those of law.json (`analysis.laws.law_file`). N parameters (under `count`), D tokens,
C training FLOPs, L nats per token. C = c(N) D with the FLOPs per token of the study's shapes
(`token_flops`), C = 6ND for a law that knows no shapes. A law that is not usable refuses to say
anything beyond its data unless `force=True`, or unless the law itself is `forced`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.special import ndtri, stdtrit

from analysis.forms import FORMS, Array, Form, column
from analysis.forms.average import FittedRange, Member, Surface, average, spread
from analysis.forms.optimum import optimal_split, power_optimum, split_intervals
from analysis.forms.token_flops import COUNTED, TokenFlops, per_token
from analysis.laws.answers import Optimum, Prediction
from analysis.laws.curve_law import decay_of, losses_along
from analysis.laws.form_error import tau_at
from analysis.laws.law_file import LawFile, flops_range
from analysis.laws.region import error_beyond
from analysis.laws.surface_law import BestSettings, best_settings
from analysis.laws.text import summary
from analysis.solve.residual_spread import deviation
from analysis.uncertainty.percentiles import bias_corrected_percentiles
from scaling.curves import BestDecay

BEYOND = 1.05  # multiple of the largest C fitted from which a prediction is an extrapolation


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
        lr: ArrayLike | None = None,
        batch: ArrayLike | None = None,
        weight_decay: ArrayLike | None = None,
        noise: bool = True,
        force: bool = False,
    ) -> Prediction:
        """Return the loss of runs of N parameters on D tokens, shaped like N and D.

        params: N, counted as `count` says; any shape that broadcasts with `tokens`
        tokens: D
        level: of the interval, between 0 and 1
        unique_tokens: distinct tokens of the data, for a form of repeated data; by default every
            token is distinct
        lr, batch, weight_decay: settings of a law of form surface, the batch in tokens; one that is
            not given has its best value
        noise: whether the interval is that of a single new run, or of the mean loss of such runs
        force: whether to extrapolate a law that is not usable

        The interval is None for a law without draws. Otherwise it joins in squares the bootstrap
        draws (bias-corrected percentiles at Student t's level of n - p degrees of freedom; of a law
        with a prior the percentiles of its posterior as they are), the disagreement of the forms
        that a law of `form=all` averages and, with `noise`, the scatter of runs about the law
        (`analysis.solve.residual_spread`) and the growth of its error with distance
        (`analysis.validate.hindcast`). `benchmarks/intervals.py` and `benchmarks/averaging.py`
        measure what it covers. Raises ValueError for a law that gives no loss of N and D, for
        settings that the law does not know, and beyond the data of a law that is not usable and
        averages no forms.
        """
        if not self._form().is_surface:
            raise ValueError(
                f"a law of form {self.form} does not give the loss of N and D; use predict_table "
                f"with columns {', '.join(self._form().variables)}"
            )
        others = {
            "unique_tokens": unique_tokens, "lr": lr, "batch": batch, "weight_decay": weight_decay,
        }  # fmt: skip
        given = {name: np.asarray(v, float) for name, v in others.items() if v is not None}
        self._refuse_settings(given)
        n, d, *rest = np.broadcast_arrays(
            np.asarray(params, float), np.asarray(tokens, float), *given.values()
        )
        values = {"params": n, "tokens": d, "flops": 6 * n * d}
        values |= dict(zip(given, rest, strict=True))
        if not (self.extrapolates or force):
            self._refuse_beyond(6 * n * d, self.ranges.get("flops_6nd", [0.0, np.inf])[1])
        return self._predict(values, level, noise)

    def predict_table(
        self, table: pd.DataFrame, level: float = 0.9, *, noise: bool = True, force: bool = False
    ) -> pd.DataFrame:
        """Return the table with the predicted target and, for a law with draws, `low` and `high`.

        table: columns of the form's variables, for any form
        level: of the interval
        noise: whether the interval is that of a single new run
        force: whether to extrapolate a law that is not usable

        Raises ValueError for a missing column and as `predict` does.
        """
        form = self._form()
        missing = [
            v for v in form.variables if v not in table and v not in (*form.optional, *form.chosen)
        ]
        if missing:
            raise ValueError(f"form={form.name} predicts from {', '.join(missing)}: add the column")
        values = {v: column(table, v) for v in form.variables if v in table}
        if {"params", "tokens"} <= set(table):
            values["flops"] = 6 * column(table, "params") * column(table, "tokens")
            if not (self.extrapolates or force):
                reach = self.ranges.get("flops_6nd", [0.0, np.inf])[1]
                self._refuse_beyond(values["flops"], reach)
        prediction = self._predict(values, level, noise)
        ends = {} if prediction.low is None else {"low": prediction.low, "high": prediction.high}
        return table.assign(**{form.target: prediction.loss, **ends})

    def optimum(
        self,
        flops: float,
        level: float = 0.9,
        *,
        unique_tokens: float | None = None,
        force: bool = False,
    ) -> Optimum:
        """Return the N and D of least loss with c(N) D = flops, or 6 N D = flops without shapes.

        flops: the budget C in FLOPs, above 0, counted as `flops_per_token` does
        level: of the intervals, which are percentiles of the draws; a law without draws has none
        unique_tokens: distinct tokens of the data, for a form of repeated data
        force: whether to extrapolate a law that is not usable

        Raises ValueError for a budget that is not positive, for a law without an optimum, and
        beyond the data of a law that is not usable. A search along the budget, and Hoffmann et al.
        2022 (2203.15556) eq. 4 where C = 6ND (`analysis.forms.optimum`).
        """
        if not flops > 0:
            raise ValueError(f"flops={flops} must be positive; give the budget in FLOPs, as 1e21")
        if not (self.extrapolates or force):
            self._refuse_beyond(np.asarray(flops), self.largest_flops)
        if self.form not in FORMS or not FORMS[self.form].is_surface:
            if self.form == "schedule":
                self._form()
            if "k_params" not in self.allocation:
                raise ValueError(
                    f"a law of form {self.form} has no compute optimum; give a law of N and D, as"
                    " one fitted by form=chinchilla or besiroglu2024"
                )
            split = {k: float(v) for k, v in power_optimum(self.allocation, flops).items()}
            return Optimum(flops=float(flops), loss=None, level=level, intervals={}, **split)
        surface = self.surface
        variables = {} if unique_tokens is None else {"unique_tokens": unique_tokens}
        count = self.flop_count
        split = optimal_split(surface.form, surface.parameters, flops, variables, count)
        values = {k: float(v) for k, v in split.items()}
        prediction = self.predict(
            values["params"], values["tokens"], level, unique_tokens=unique_tokens, force=True
        )
        intervals: dict[str, tuple[float, float]] = {}
        if surface.draws is not None:
            intervals = split_intervals(
                surface.form, surface.parameters, surface.draws, flops, level, variables, count
            )
            intervals = self._widened_by_forms(intervals, split, flops, level, variables)
        if prediction.low is not None and prediction.high is not None:
            intervals["loss"] = (float(prediction.low), float(prediction.high))
        loss = float(prediction.loss)
        return Optimum(flops=float(flops), loss=loss, level=level, intervals=intervals, **values)

    def settings(
        self, params: float, tokens: float, level: float = 0.9, *, batch: float | None = None
    ) -> BestSettings:
        """Return the best learning rate, batch and weight decay of a law of form surface.

        params: N, counted as `count` says
        tokens: D
        level: of the intervals
        batch: in tokens, at which the best rate is asked; None takes the best batch

        Raises ValueError for another form, and for N, D or a batch that is not positive.
        """
        return best_settings(self, params, tokens, level, batch)

    def predict_curve(
        self,
        step: ArrayLike,
        lr: ArrayLike,
        level: float = 0.9,
        *,
        params: float | None = None,
        warmup_steps: float | None = None,
        peak_lr: float | None = None,
    ) -> Prediction:
        """Return the losses at the rows of a schedule, of a law of form=schedule.

        step: of the rows, increasing, from after the warm-up (n,)
        lr: the rate from this step to the next row's (n,)
        level: of the intervals, which hold for one measured loss
        params: N, for a law of several sizes; None is the largest
        warmup_steps, peak_lr: of the schedule; None is those of the curves that were fitted

        Raises ValueError for a law of another form, rows that are no schedule, and what the curves
        cannot say, as a decay where no curve lowered its rate.
        """
        loss, low, high = losses_along(
            self.curves, step, lr, level, form=self.form, params=params,
            warmup_steps=warmup_steps, peak_lr=peak_lr,
        )  # fmt: skip
        return Prediction(loss=loss, low=low, high=high, level=level)

    def best_decay(
        self,
        steps: int,
        *,
        shape: str = "linear",
        floor: float = 0.0,
        level: float = 0.9,
        params: float | None = None,
    ) -> BestDecay:
        """Return the share of the steps at which a decay from the peak ends lowest.

        steps: of the run, its warm-up included
        shape: linear or sqrt
        floor: rate at the end over the peak
        level: of the intervals
        params: N, for a law of several sizes; None is the largest

        Raises ValueError for a law that cannot say what a decay does.
        """
        asked = {"shape": shape, "floor": floor, "level": level, "params": params}
        return decay_of(self.curves, steps, form=self.form, **asked)

    def flops_per_token(self, params: ArrayLike) -> Array:
        """Return training FLOPs per token at N: of the study's shapes, 6N for a law without."""
        return per_token(params, self.flop_count)

    @cached_property
    def flop_count(self) -> TokenFlops | None:
        """The FLOPs per token as a function of N; None counts 6N."""
        return TokenFlops.of(self.token_flops)

    @property
    def convention(self) -> str:
        """How the law counts C, in a few words."""
        return "C = 6ND" if self.token_flops is None else COUNTED

    @property
    def largest_flops(self) -> float:
        """The largest C of the runs, counted as `flops_per_token` does; inf where it is unknown."""
        return flops_range(self.ranges, counted=self.token_flops is not None)[1]

    def summary(self) -> str:
        """Return the law as text of at most 100 columns."""
        return summary(self)

    def __rich_repr__(self) -> Any:
        """Yield what rich shows: form, status, parameters with intervals, alarms."""
        yield "form", self.form
        yield "status", self.status
        intervals = (self.intervals or {}).get("parameters", {})
        for name, value in self.parameters.items():
            low, high = intervals.get(name, (None, None))
            yield name, f"{value:.5g}" + ("" if low is None else f" [{low:.4g}, {high:.4g}]")
        yield "alarms", [alarm.code for alarm in self.alarms], []

    def _repr_html_(self) -> str:
        from html import escape

        return f"<pre>{escape(self.summary())}</pre>"

    @property
    def members(self) -> tuple[Member, ...]:
        """The forms that the law averages, those of weight 0 left out; its own form alone else."""
        return tuple(one for one in self.forms if one.weight > 0)

    @cached_property
    def forms(self) -> tuple[Member, ...]:
        """The forms that the law averages or compares with the average; its own alone else."""
        if not self.forecast:
            if self.form not in FORMS:
                return ()
            form = FORMS[self.form]
            return (Member(form=form, parameters=self.parameters, draws=self.draws, weight=1.0),)
        return tuple(
            Member(
                form=FORMS[one["form"]],
                parameters=one["parameters"],
                draws=one["draws"],
                weight=one["weight"],
                spread_weight=one["spread_weight"],
            )
            for one in self.forecast["forms"]
            if one["weight"] > 0 or one["spread_weight"] > 0
        )

    @cached_property
    def surface(self) -> Surface:
        """The form, parameters and draws that the law predicts with: of its average, or its own."""
        if self.forecast:
            fitted = FittedRange.read(self.forecast.get("fitted"), "law.json")
            return average(self.members, fitted)
        (one,) = self.members
        return Surface(form=one.form, parameters=one.parameters, draws=one.draws)

    def of_form(self, name: str) -> "Law":
        """Return the law of one form of the average alone, which no other form widens."""
        (member,) = (m for m in self.members if m.form.name == name)
        return replace(
            self, form=name, parameters=dict(member.parameters), draws=member.draws, forecast=None
        )

    def _form(self) -> Form:
        """Return the form; ValueError for regressions, which predict no loss."""
        if self.form in FORMS:
            return FORMS[self.form]
        if self.form == "schedule":
            raise ValueError(
                "a law of form schedule gives the loss along a schedule of one model, not of N and"
                " D; use predict_curve(step, lr), or a law of N and D"
            )
        what = {
            "lr_batch": "settings: see analysis.estimation.lr_batch.settings",
            "critical_batch": "a batch: see analysis.estimation.critical_batch.batch_at",
        }.get(self.form, "N and D")
        raise ValueError(f"a law of form {self.form} gives {what}; there is no loss to predict")

    def _predict(self, values: Mapping[str, Array], level: float, noise: bool) -> Prediction:
        """Return the target at values of the variables; the spread of a loss is relative."""
        surface = self.surface
        point = np.asarray(surface.form.predict(surface.parameters, values))
        if surface.draws is None:
            return Prediction(loss=point, low=None, high=None, level=level)
        relative = surface.form.target == "loss"
        predictions = surface.form.predict(surface.named_draws(point.ndim), values)
        errors = np.log(predictions / point) if relative else predictions - point
        freedom = max(self.n_runs - len(self.parameters), 1)
        z, normal = stdtrit(freedom, (1 + level) / 2), ndtri((1 + level) / 2)
        if self.prior is not None:  # draws of a posterior need no correction for bias or few rows
            ends = np.quantile(errors, [(1 - level) / 2, (1 + level) / 2], axis=0)
        else:
            ends = bias_corrected_percentiles(errors, np.zeros_like(point), level, z=z)
        below, above = np.maximum(-ends[0], 0.0), np.maximum(ends[1], 0.0)
        none = np.zeros_like(point)
        parts = {
            "parameters": np.asarray((below + above) / 2),
            "forms": np.asarray(normal * self._apart(values, point)) if self.forecast else none,
            "scatter": np.asarray(normal * self._deviation(point)) if noise else none,
            "hindcast": np.asarray(normal * self._form_error(values, point)) if noise else none,
        }
        if self.region is not None and {"params", "tokens"} <= set(values):
            away = error_beyond(self.region, values["params"], values["tokens"])
            parts["region"] = np.asarray(normal * away)
        others = np.sqrt(sum(v**2 for name, v in parts.items() if name != "parameters"))
        below, above = np.hypot(below, others), np.hypot(above, others)
        low, high = (
            (point * np.exp(-below), point * np.exp(above))
            if relative
            else (point - below, point + above)
        )
        ends = (np.asarray(low), np.asarray(high))
        return Prediction(loss=point, low=ends[0], high=ends[1], level=level, parts=parts)

    def _widened_by_forms(
        self,
        intervals: dict[str, tuple[float, float]],
        split: Mapping[str, Any],
        flops: float,
        level: float,
        variables: Mapping[str, Any],
    ) -> dict[str, tuple[float, float]]:
        """Join the intervals of a split with the disagreement of the forms about it."""
        if not self.forecast:
            return intervals
        splits = {
            m.form.name: optimal_split(m.form, m.parameters, flops, variables, self.flop_count)
            for m in self.forms
        }
        z, widened = float(ndtri((1 + level) / 2)), {}
        for name, (low, high) in intervals.items():
            to, back = (np.asarray, float) if name in ("a", "b") else (np.log, np.exp)
            middle = np.asarray(to(split[name]))
            values = {form: to(one[name]) for form, one in splits.items()}
            half = z * spread(self.forms, middle, lambda m, v=values: v[m.form.name])
            ends = (
                middle - np.hypot(middle - to(low), half),
                middle + np.hypot(to(high) - middle, half),
            )
            widened[name] = (float(back(ends[0])), float(back(ends[1])))
        return widened

    def _refuse_settings(self, given: Mapping[str, Array]) -> None:
        """Refuse settings that the law does not know, or that are not positive."""
        known = self.surface.form.variables
        odd = [n for n in given if n != "unique_tokens" and n not in known]
        if odd:
            raise ValueError(
                f"a law of form {self.form} does not know {', '.join(odd)}; fit form=surface"
            )
        if "weight_decay" in given and "q_t" not in self.parameters:
            raise ValueError(
                "this surface is of runs with one weight decay; leave weight_decay out, or sweep it"
            )
        bad = [name for name, values in given.items() if not np.all(values > 0)]
        if bad:
            raise ValueError(f"{', '.join(bad)} must be positive numbers")

    def _refuse_beyond(self, flops: Array, reach: float) -> None:
        if np.max(flops) > BEYOND * reach:
            raise ValueError(
                f"this law is {self.status} and says nothing beyond its data (C = {reach:.3g}); "
                "act on its alarms and refit, or pass force=True to extrapolate all the same"
            )

    def _apart(self, values: Mapping[str, Array], point: Array) -> Array:
        """Return the spread of log loss between the forms about their average.

        A law of one form of an average knows repeated tokens and the others may not, so that they
        are compared as if no token were repeated.
        """
        if len(self.members) == 1 and "unique_tokens" in values:
            values = {name: value for name, value in values.items() if name != "unique_tokens"}
            point = np.asarray(self.surface.form.predict(self.surface.parameters, values))
        return spread(self.forms, np.log(point), lambda member: member.log_loss(values))

    def _form_error(self, values: Mapping[str, Array], point: Array) -> Array:
        """Return the error of the law by its distance from the data: hindcasts, and the least."""
        reach = self.ranges.get("flops_6nd", self.ranges.get("flops", [0.0, np.inf]))[1]
        if "flops" not in values or not reach > 0:
            return np.zeros_like(point)
        distance = np.maximum(np.log(values["flops"] / reach), 0.0)
        knots = (self.backtest or {}).get("tau", [])
        return np.maximum(tau_at(knots, distance), self.error_growth * distance)

    def _deviation(self, point: Array) -> Array:
        """Return the deviation of runs about the law: of a loss in logs, else in its own unit."""
        if "growth" in self.noise:
            return deviation(self.noise, point)
        if "sd" in self.noise and FORMS[self.form].target == "loss":
            return self.residual_sd / point
        return np.full(point.shape, self.residual_sd)
