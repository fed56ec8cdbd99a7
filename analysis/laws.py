"""A fitted or published law: what it says, how sure it is, and how it is read and written.

    law = Law.read("law.json")            or  analysis.load_law("besiroglu2024" | "law.json")
    law.parameters                        {"E": .., "A": .., "B": .., "alpha": .., "beta": ..}
    law.status, law.usable                usable: converged, or only the offset E is undetermined
    law.alarms                            tuple of Alarm(code, sentence)
    law.predict(N, D, level=0.9)          Prediction(loss, low, high): arrays shaped like N and D;
                                          low and high are None where the law has no draws
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
are those of Hoffmann et al. 2022 eq. 4. A prediction interval joins three things: the
bootstrap draws, the scatter of runs about the law, and the growth of hindcast error with
distance; `noise=False` leaves the last two out.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtri

from analysis.alarms import Alarm
from analysis.forms import FORMS, Array
from scaling.schema import code_version, read_json, write_json

SCHEMA = 1
STATUSES = ("converged", "offset_not_identified", "bound_hit", "not_identified", "max_iter")
USABLE = ("converged", "offset_not_identified")
FAR = 300.0  # a log N this far is no model; it keeps hopeless fits within floating point
CHINCHILLA: tuple[str, ...] = ("E", "A", "B", "alpha", "beta")


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
class Law:
    """One law with everything a plan or a report needs; the fields of law.json."""

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
    inputs: dict[str, Any] = field(default_factory=dict)
    source: str = "fitted"
    code: dict[str, Any] = field(default_factory=code_version, repr=False)
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        """Refuse another schema, an unknown status and parameters that are not finite."""
        if self.schema != SCHEMA:
            raise ValueError(
                f"law.json has schema {self.schema}; this version reads {SCHEMA}: refit"
            )
        if self.status not in STATUSES:
            raise ValueError(f"law status is {self.status!r}; legal are {', '.join(STATUSES)}")
        bad = [k for k, v in self.parameters.items() if not np.isfinite(v)]
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
        """Standard deviation of one run about the law, in log loss."""
        return float(self.noise.get("sd_log", 0.0))

    def predict(
        self, params: ArrayLike, tokens: ArrayLike, level: float = 0.9, *, noise: bool = True
    ) -> Prediction:
        """Return the loss of runs of N parameters on D tokens; `noise` for a single new run."""
        n, d = np.broadcast_arrays(np.asarray(params, float), np.asarray(tokens, float))
        loss = np.asarray(self._loss(self.parameters, n, d))
        if self.draws is None:
            return Prediction(loss=loss, low=None, high=None, level=level)
        draws = self.draws.reshape(len(self.draws), -1, *(1,) * n.ndim)
        named = {name: draws[:, i] for i, name in enumerate(self.parameters)}
        logs = np.log(self._loss(named, n, d))
        tails = [(1 - level) / 2, (1 + level) / 2]
        below, above = np.abs(np.quantile(logs, tails, axis=0) - np.log(loss))
        spread = ndtri(tails[1]) * self._scatter(n, d) if noise else 0.0
        low = np.asarray(loss * np.exp(-np.hypot(below, spread)))
        high = np.asarray(loss * np.exp(np.hypot(above, spread)))
        return Prediction(loss=loss, low=low, high=high, level=level)

    def optimum(self, flops: float, level: float = 0.9) -> Optimum:
        """Return the N and D of least loss with 6 N D = flops, with their intervals."""
        if not flops > 0:
            raise ValueError(f"flops={flops} must be positive; give the budget in FLOPs, as 1e21")
        point = self._split(self.parameters, flops)
        values = {k: float(v) for k, v in point.items()}
        n, d = values["params"], values["tokens"]
        predicted = self.predict(n, d, level) if self.form != "allocation" else None
        intervals: dict[str, tuple[float, float]] = {}
        if self.draws is not None and self.form in FORMS:
            named = {name: self.draws[:, i] for i, name in enumerate(self.parameters)}
            tails = [(1 - level) / 2, (1 + level) / 2]
            split = self._split(named, flops)
            for name, values_drawn in split.items():
                low, high = np.nanquantile(values_drawn, tails)
                intervals[name] = (float(low), float(high))
        if predicted is not None and predicted.low is not None and predicted.high is not None:
            intervals["loss"] = (float(predicted.low), float(predicted.high))
        loss = None if predicted is None else float(predicted.loss)
        return Optimum(flops=float(flops), loss=loss, level=level, intervals=intervals, **values)

    def summary(self) -> str:
        """Return the law as text of at most 100 columns."""
        from analysis.summary import summary

        return summary(self)

    def write(self, path: str | Path) -> Path:
        """Write law.json atomically, parameters unrounded."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        values["alarms"] = [{"code": a.code, "sentence": a.sentence} for a in self.alarms]
        values["draws"] = None if self.draws is None else self.draws.tolist()
        values["optimum"] = values.pop("allocation")
        return write_json(path, {"schema": values.pop("schema"), **values})

    @classmethod
    def read(cls, path: str | Path) -> "Law":
        """Read law.json; unknown and missing keys are refused by name."""
        values = read_json(path)
        if not isinstance(values, dict) or "optimum" not in values:
            raise ValueError(f"{path} is not a law (no key `optimum`); make one with analysis.fit")
        values["allocation"] = values.pop("optimum")
        known = {f.name for f in fields(cls)}
        needed = {"form", "count", "parameters", "objective", "status"}
        unknown, missing = sorted(set(values) - known), sorted(needed - set(values))
        if unknown or missing:
            raise ValueError(f"{path}: unknown keys {unknown}, missing keys {missing}; refit it")
        values["alarms"] = tuple(Alarm(**alarm) for alarm in values.get("alarms", ()))
        if values.get("draws") is not None:
            values["draws"] = np.array(values["draws"], dtype=float)
        return cls(**values)

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

    def _loss(self, parameters: Mapping[str, Any], n: Array, d: Array) -> Array:
        if self.form == "kaplan":
            return kaplan_loss(parameters, n, d)
        if self.form not in FORMS:
            raise ValueError(f"a law of form {self.form} gives N and D only; no loss to predict")
        return FORMS[self.form].predict(parameters, {"params": n, "tokens": d, "flops": 6 * n * d})

    def _split(self, parameters: Mapping[str, Any], flops: float) -> dict[str, Any]:
        if self.form == "chinchilla":
            return chinchilla_optimum(parameters, flops)
        if "k_params" not in self.allocation:
            raise ValueError(
                f"a law of form {self.form} has no compute optimum; fit form=chinchilla"
            )
        return power_optimum(self.allocation, flops)

    def _scatter(self, n: Array, d: Array) -> Array:
        """Standard deviation of log L at a point: runs about the law, and hindcast error."""
        reach = self.ranges.get("flops_6nd", [0.0, np.inf])[1]
        distance = np.maximum(np.log(6 * n * d / reach), 0.0)
        knots = (self.backtest or {}).get("tau", [])
        return np.hypot(self.residual_sd, tau_at(knots, distance))


def tau_at(knots: list[list[float]], distance: Array) -> Array:
    """Return tau at log-distances: linear between the knots, from 0 at 0, proportional beyond."""
    if not knots:
        return np.zeros_like(distance)
    h, tau = np.array([[0.0, 0.0], *knots]).T
    return np.where(distance > h[-1], tau[-1] * distance / h[-1], np.interp(distance, h, tau))


def chinchilla_optimum(parameters: Mapping[str, Any], flops: float) -> dict[str, Any]:
    """Return params, tokens, tokens_per_param, a, b for C = 6ND (Hoffmann et al. 2022 eq. 4)."""
    alpha, beta = parameters["alpha"], parameters["beta"]
    total = alpha + beta
    log_ratio = np.log(alpha * parameters["A"]) - np.log(beta * parameters["B"])
    a, b = beta / total, alpha / total
    log_params = np.clip(log_ratio / total + a * np.log(flops / 6), -FAR, FAR)
    log_tokens = np.log(flops / 6) - log_params
    return {
        "params": np.exp(log_params),
        "tokens": np.exp(log_tokens),
        "tokens_per_param": np.exp(log_tokens - log_params),
        "a": a,
        "b": b,
    }


def frontier(parameters: Mapping[str, Any], flops: ArrayLike) -> Array:
    """Return L*(C) = E + K (C/6)^-gamma, the least loss of a Chinchilla law."""
    split = [chinchilla_optimum(parameters, c) for c in np.atleast_1d(flops)]
    n, d = np.array([s["params"] for s in split]), np.array([s["tokens"] for s in split])
    return FORMS["chinchilla"].predict(parameters, {"params": n, "tokens": d})


def power_optimum(allocation: Mapping[str, Any], flops: float) -> dict[str, Any]:
    """Return the split of a law N = k_params C^a, D = k_tokens C^b (or C / 6N without k_tokens)."""
    a, b = allocation["a"], allocation["b"]
    params = allocation["k_params"] * flops**a
    tokens = allocation["k_tokens"] * flops**b if "k_tokens" in allocation else flops / 6 / params
    return {"params": params, "tokens": tokens, "tokens_per_param": tokens / params, "a": a, "b": b}


def kaplan_loss(parameters: Mapping[str, Any], n: Array, d: Array) -> Array:
    """Return L(N, D) = [(N_c/N)^(alpha_N/alpha_D) + D_c/D]^alpha_D, N without embeddings.

    Kaplan et al. 2020 eq. 1.5.
    """
    alpha_n, alpha_d = parameters["alpha_N"], parameters["alpha_D"]
    by_size = (parameters["N_c"] / n) ** (alpha_n / alpha_d)
    return (by_size + parameters["D_c"] / d) ** alpha_d
