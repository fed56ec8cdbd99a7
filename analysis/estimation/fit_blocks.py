"""What one fit of a form says: parameters, intervals, optima, scatter, as blocks of law.json."""

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import pandas as pd

from analysis.forms import Array, Form, column
from analysis.forms.optimum import edge_of, optimal_split, split_intervals
from analysis.forms.token_flops import COUNTED, TokenFlops
from analysis.laws.law import Law
from analysis.laws.law_file import flops_range
from analysis.solve.objective import Problem, residuals
from analysis.solve.residual_spread import far_rows, scatter
from analysis.solve.solver import Solution
from analysis.uncertainty.bootstrap import Bootstrap
from analysis.uncertainty.intervals import other_intervals
from analysis.validate.epoch_ranking import passes_of

REACHES = (1.0, 10.0, 100.0)  # budgets of stated optima, in units of the largest C fitted
RANGES_OF = (  # columns whose smallest and largest values stand in law.json
    *("params", "tokens", "flops", "loss", "unique_tokens", "experts"),
    *("kl", "pairs", "examples", "epochs"),
)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The numbers of one fit.

    parameters: the form's parameters at the best minimum
    residuals: log Lhat - log L of each row (n,), or Lhat - L for an objective without logs
    ranges: {column: [smallest, largest]} of the rows
    noise: how runs scatter about the law (`analysis.solve.residual_spread`)
    draws: parameters of the resamples (S, P); None where fewer than half of them have a minimum
    intervals: the `intervals` block of law.json, None without draws
    allocation: the `optimum` block of law.json; empty for a form without an optimum
    """

    parameters: dict[str, float]
    residuals: Array
    ranges: dict[str, list[float]]
    noise: dict[str, float]
    draws: Array | None
    intervals: dict[str, Any] | None
    allocation: dict[str, Any]

    @property
    def far(self) -> Array:
        """Which rows (n,) have residuals too far from the others' to tell the scatter."""
        return far_rows(self.residuals, len(self.parameters))

    @property
    def residual_sd(self) -> float:
        """Standard deviation of one run about the law, in logs or in the target's own unit."""
        return self.noise.get("sd_log", self.noise.get("sd", 0.0))

    def without_intervals(self) -> Self:
        """Return the estimate of a law that is not identified.

        It has no draws, no intervals and no optima beyond the data, which would all mislead.
        """
        optima = self.allocation.get("tokens_per_param", [])[:1]
        allocation = {}
        if optima:
            without = {"a_interval": None, "b_interval": None}
            nearest = {"tokens_per_param": [{**o, "interval": None} for o in optima]}
            allocation = {**self.allocation, **without, **nearest}
        return replace(self, draws=None, intervals=None, allocation=allocation)


def estimate_of(
    problem: Problem,
    solution: Solution,
    boot: Bootstrap | None,
    table: pd.DataFrame,
    level: float,
    *,
    token_flops: TokenFlops | None = None,
) -> Estimate:
    """Return what a fit says.

    problem: the problem that was solved
    solution: its end points, best first
    boot: its resamples, None where the caller wants no intervals
    table: the runs
    level: of the intervals
    token_flops: FLOPs per token of the runs' shapes, None for C = 6ND
    """
    form = problem.design.form
    values = problem.design.external(solution.theta[0])
    parameters = dict(zip(form.parameters, values.tolist(), strict=True))
    ranges = ranges_of(table) | _ranges_of_repetition(table, form)
    draws, intervals = None, None
    if boot is not None and len(boot.draws) > max(1, boot.resamples / 2):
        draws = boot.draws
        flops = ranges["flops_6nd"][1] if form.is_surface else None  # these count C = 6ND
        others = other_intervals(problem, solution, boot, level, flops)
        intervals = _intervals(boot, form, level) | others
    allocation: dict[str, Any] = {}
    if form.is_surface:
        allocation = allocation_block(form, parameters, draws, ranges, level, token_flops)
    if form.peak:
        allocation = {"peak": peak_block(form, parameters, draws, level)}
    errors = residuals(solution.theta[:1], problem)[0]
    return Estimate(
        parameters=parameters,
        residuals=errors,
        ranges=ranges,
        noise=_noise(errors, problem, len(values)),
        draws=draws,
        intervals=intervals,
        allocation=allocation,
    )


def scatter_block(residuals: Array, n_parameters: int, table: pd.DataFrame) -> dict[str, Any]:
    """Return the `scatter` block of law.json.

    residuals: log Lhat - log L of the rows (n,), or in the target's own unit
    n_parameters: number of fitted parameters
    table: the rows, whose `row` is their number in the input file
    """
    far = far_rows(residuals, n_parameters)
    freedom = len(residuals) - n_parameters
    names = table["row"] if "row" in table else pd.Series(np.arange(1, len(table) + 1))

    def deviation(rows: Array) -> float:
        return float(np.sqrt((residuals[rows] ** 2).sum() / max(freedom - (~rows).sum(), 1)))

    return {
        "value": deviation(np.ones_like(far)),
        "robust": deviation(~far),
        "left_out": [int(n) for n in names.to_numpy()[far]],
    }


def peak_block(
    form: Form, parameters: dict[str, float], draws: Array | None, level: float
) -> dict[str, Any]:
    """Return where the target of a form is largest.

    form: a form with a `peak`
    parameters: its parameters
    draws: parameters of resamples (S, P), None without
    level: of the interval, whose upper end is None where the target only grows
    """
    assert form.peak is not None
    at, value = (float(v) for v in form.peak(parameters))
    block: dict[str, Any] = {"variable": form.variables[0], "at": None, "value": None}
    if np.isfinite(at) and parameters["beta"] > 0:
        block |= {"at": at, "value": value}
    if draws is not None:
        by_name = {name: draws[:, i] for i, name in enumerate(parameters)}
        peaks = np.where(by_name["beta"] > 0, form.peak(by_name)[0], np.inf)
        low, high = np.quantile(peaks, [(1 - level) / 2, (1 + level) / 2], method="nearest")
        block["interval"] = [float(low), float(high) if np.isfinite(high) else None]
    return block


def _noise(errors: Array, problem: Problem, n_parameters: int) -> dict[str, float]:
    """Return how runs scatter about the law, from residuals (n,); for a loss by its size."""
    if problem.objective.in_logs and problem.design.form.target == "loss":
        return scatter(errors, errors + problem.logs, n_parameters)
    near = errors[~far_rows(errors, n_parameters)]
    sd = float(np.sqrt((near**2).sum() / (len(near) - n_parameters)))
    return {"sd_log" if problem.objective.in_logs else "sd": sd}


def _intervals(boot: Bootstrap, form: Form, level: float) -> dict[str, Any]:
    """Return the percentile intervals of the parameters, and what they were made from."""
    parameters = {p: boot.interval(boot.draws[:, i], level) for i, p in enumerate(form.parameters)}
    return {
        "level": level,
        "method": boot.method,
        "resamples": boot.resamples,
        "converged": len(boot.draws),
        "unit": boot.units.name,
        "units": boot.units.count,
        "parameters": parameters,
    }


def allocation_block(
    form: Form,
    parameters: dict[str, float],
    draws: Array | None,
    ranges: dict[str, list[float]],
    level: float,
    token_flops: TokenFlops | None,
) -> dict[str, Any]:
    """Return a and b at the largest C, and the optimum there and at 10 and 100 times it.

    form: a form of N and D
    parameters: its parameters
    draws: parameters of resamples (S, P), None without intervals
    ranges: {column: [smallest, largest]} of the runs
    level: of the intervals
    token_flops: FLOPs per token of the runs' shapes, None for C = 6ND
    """
    optima: list[dict[str, Any]] = []
    largest = flops_range(ranges, counted=token_flops is not None)[1]
    for flops in (largest * r for r in REACHES):
        found = optimal_split(form, parameters, flops, token_flops=token_flops)
        split = {name: float(v) for name, v in found.items()}
        intervals = {}
        if draws is not None:
            intervals = split_intervals(
                form, parameters, draws, flops, level, token_flops=token_flops
            )
        n, d = np.asarray(split["params"]), np.asarray(split["tokens"])
        loss = form.predict(parameters, {"params": n, "tokens": d, "flops": 6 * n * d})
        optima.append({**split, "flops": float(flops), "loss": float(loss), "ends": intervals})
    return _block_of_optima(optima, "C = 6 N D" if token_flops is None else COUNTED)


def allocation_of(law: Law, level: float) -> dict[str, Any]:
    """Return the `optimum` block of a law that averages forms, from its own optima."""
    optima = [law.optimum(law.largest_flops * r, level, force=True) for r in REACHES]
    names = ("flops", "params", "tokens", "tokens_per_param", "loss", "a", "b")
    return _block_of_optima(
        [{**{n: getattr(one, n) for n in names}, "ends": one.intervals} for one in optima],
        "C = 6 N D" if law.token_flops is None else COUNTED,
    )


def _block_of_optima(optima: list[dict[str, Any]], convention: str) -> dict[str, Any]:
    """Return the `optimum` block from optima with their intervals as `ends`."""

    def interval(optimum: dict[str, Any], name: str) -> list[float] | None:
        return list(optimum["ends"][name]) if name in optimum["ends"] else None

    first = optima[0]
    names = ("flops", "params", "tokens", "tokens_per_param")
    return {
        "a": first["a"],
        "b": first["b"],
        "a_interval": interval(first, "a"),
        "b_interval": interval(first, "b"),
        "convention": convention,
        "tokens_per_param": [
            {
                **{name: o[name] for name in names},
                "interval": interval(o, "tokens_per_param"),
                "loss": o["loss"],
                "edge": edge_of(o["tokens_per_param"]),
            }
            for o in optima
        ],
    }


def _ranges_of_repetition(table: pd.DataFrame, form: Form) -> dict[str, list[float]]:
    """Return the range of the passes and of the weight decay, where the form rises with them."""
    if form.compared_by != "repetition":
        return {}
    read = {"passes": passes_of(table)}
    read |= {name: column(table, name) for name in form.chosen}
    return {name: [float(v.min()), float(v.max())] for name, v in read.items()}


def ranges_of(table: pd.DataFrame) -> dict[str, list[float]]:
    """Return {column: [smallest, largest]} of the runs, with 6ND where there are N and D."""
    columns = {name: column(table, name) for name in RANGES_OF if name in table}
    if {"params", "tokens"} <= set(columns):
        columns["flops_6nd"] = 6 * columns["params"] * columns["tokens"]
    return {name: [float(v.min()), float(v.max())] for name, v in columns.items()}
