"""Optimal learning rate and batch against N and D: lr* = k N^p D^q, batch* = k D^q (LAWS F2).

Every (N, D) of a table is one cell, swept in learning rate, batch or both. Near its best run the
loss is a parabola (or a quadratic surface) in their logs, and the least point is the optimum of the
cell. An optimum at the edge of the settings is not used, since the true one lies beyond. Losses are
flat at the optimum (in the runs of Step Law, 2503.04715, a factor of 2 costs .25 %), so the width
of the set within .25 % of the best loss is the optimum's uncertainty. The batch is a law in D
alone: it hardly depends on N at fixed D (Zhang et al. 2024, 2410.21676). The batch is in tokens.
Both laws belong to one optimiser, schedule and parametrisation. For intervals, cells are drawn with
replacement and each optimum is moved within its width.

Legend: S resamples, n cells.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.alarms.alarm import Alarm
from analysis.forms import Array, column
from analysis.laws.law import Law
from analysis.runs.table import Runs

NEEDED = ("params", "tokens", "loss", "lr", "batch")
AXES = ("lr", "batch")
FLAT = 0.0025  # relative loss within which settings count as equally good
NEAR = 0.02  # relative loss up to which a quadratic describes the valley
FEWEST_SETTINGS = 4  # settings on an axis; three points fit any parabola
FEWEST_ROWS = 8  # rows of a quadratic surface, which has six coefficients
FEWEST_CELLS = 3  # cells with an optimum that a law needs
COLLINEAR = 0.98  # correlation of log N and log D beyond which only D is used
DRAWS = 1000  # of cells and optima


@dataclass(frozen=True, kw_only=True)
class Optimum:
    """A cell's best setting on one axis: log value and its deviation, or why it has none."""

    axis: str
    log_value: float
    deviation: float
    flat: list[float]
    why: str | None = None


def lr_batch(runs: Runs, *, resamples: int = DRAWS, level: float = 0.9, seed: int = 0) -> Law:
    """Fit both laws to runs with columns lr and batch (tokens).

    runs: the runs
    resamples: draws of the cells, 0 for no intervals
    level: of the intervals
    seed: of the draws

    The law's parameters are k_lr, p_lr (of N), q_lr (of D), k_batch and q_batch, without those of
    an axis that too few cells determine; `settings` evaluates them. Raises ValueError where neither
    axis has enough cells with an optimum.
    """
    table = runs.table
    points = [_cell(rows) for _, rows in table.groupby(["params", "tokens"], sort=True)]
    parameters: dict[str, float] = {}
    draws, alarms = [], []
    for axis in AXES:
        usable = [p for p in points if p["optima"].get(axis) and not p["optima"][axis].why]
        if len(usable) < FEWEST_CELLS:
            alarms += _refusals(axis, points, len(usable))
            continue
        names, values, axis_draws = _power_law(axis, usable, max(resamples, 1), seed)
        parameters |= dict(zip(names, values, strict=True))
        draws.append(axis_draws)
        alarms += _refusals(axis, points, len(usable))
    if not parameters:
        raise ValueError(_no_optimum(points))
    all_draws = np.concatenate(draws, axis=1)
    tails = [(1 - level) / 2, (1 + level) / 2]
    ends = {n: np.quantile(all_draws[:, i], tails).tolist() for i, n in enumerate(parameters)}
    return Law(
        form="lr_batch",
        count=runs.count,
        parameters=parameters,
        objective={"name": "lr_batch", "delta": None, "value": None},
        status="converged",
        alarms=tuple(alarms),
        intervals={
            "level": level,
            "method": "cells drawn, optima moved",
            "resamples": resamples,
            "unit": "cell",
            "units": len(points),
            "parameters": ends,
        }
        if resamples
        else None,
        draws=all_draws if resamples else None,
        methods={"lr_batch": {"points": [_as_json(p) for p in points], "flat": FLAT}},
        n_runs=len(table),
        dropped=runs.dropped,
        ranges={
            name: [float(column(table, name).min()), float(column(table, name).max())]
            for name in NEEDED
        },
        inputs=runs.inputs,
    )


def swept_points(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return each (N, D) at which an axis was swept, with its optimum; no law is fitted."""
    points = [_cell(rows) for _, rows in table.groupby(["params", "tokens"], sort=True)]
    return [_as_json(p) for p in points if p["optima"]]


def settings(law: Law, params: float, tokens: float, level: float = 0.9) -> dict[str, list[float]]:
    """Return {"lr" | "batch": [value, low, high]} of an lr_batch law.

    law: a law of form lr_batch
    params, tokens: N and D of the run
    level: of the interval, whose ends are the value for a law without draws

    Raises ValueError for another form.
    """
    if law.form != "lr_batch":
        raise ValueError(
            f"a law of form {law.form} gives no learning rate or batch; fit form=lr_batch"
        )
    by_axis = {}
    names = list(law.parameters)
    for axis in AXES:
        if f"k_{axis}" not in law.parameters:
            continue
        value = _value(law.parameters, axis, params, tokens)
        low = high = value
        if law.draws is not None:
            by_name = {name: law.draws[:, i] for i, name in enumerate(names)}
            tails = [(1 - level) / 2, (1 + level) / 2]
            low, high = np.quantile(_value(by_name, axis, params, tokens), tails)
        by_axis[axis] = [float(value), float(low), float(high)]
    return by_axis


def _value(parameters: Any, axis: str, params: float, tokens: float) -> Any:
    p, q = (parameters.get(f"{letter}_{axis}", 0.0) for letter in "pq")
    return parameters[f"k_{axis}"] * params**p * tokens**q


def _cell(rows: pd.DataFrame) -> dict[str, Any]:
    """Return N, D, the number of runs and the optimum on each axis that was varied."""
    logs = {axis: np.log(column(rows, axis)) for axis in AXES}
    varied = [a for a in AXES if len(np.unique(np.round(logs[a], 6))) >= FEWEST_SETTINGS]
    loss = column(rows, "loss")
    optima = {axis: _optimum(axis, logs, loss, varied) for axis in varied}
    first = {name: float(rows[name].iloc[0]) for name in ("params", "tokens")}
    return {**first, "n_runs": len(rows), "loss": float(loss.min()), "optima": optima}


def _optimum(axis: str, logs: dict[str, Array], loss: Array, varied: list[str]) -> Optimum:
    x = logs[axis]
    tried = np.unique(np.round(x, 6))
    good = x[loss <= loss.min() * (1 + FLAT)]
    flat = np.exp([good.min(), good.max()])
    step = float(np.median(np.diff(tried)))
    shared = {"axis": axis, "flat": flat.tolist()}
    deviation = max(float(np.ptp(np.log(flat))), step) / np.sqrt(12)
    best = x[loss.argmin()]
    if best <= tried[0] + 1e-6 or best >= tried[-1] - 1e-6:
        side = "smallest" if best <= tried[0] + 1e-6 else "largest"
        why = f"the best {axis} is the {side} tried"
        return Optimum(log_value=float(best), deviation=deviation, why=why, **shared)
    at = _vertex(axis, logs, loss, varied)
    if at is None or not tried[0] < at < tried[-1]:
        at = float(best)  # no parabola: the best run itself, within its flat set
    return Optimum(log_value=at, deviation=deviation, **shared)


def _vertex(axis: str, logs: dict[str, Array], loss: Array, varied: list[str]) -> float | None:
    """Return the least point of the quadratic through the runs near the best; None without one."""
    order = np.argsort(loss)
    fewest = FEWEST_ROWS if len(varied) == 2 else FEWEST_SETTINGS
    nearest = order[: max(fewest, int((loss <= loss.min() * (1 + NEAR)).sum()))]
    centre = {a: logs[a][nearest].mean() for a in varied}
    x = {a: logs[a][nearest] - centre[a] for a in varied}
    columns = [np.ones(len(nearest)), *x.values(), *(v * v for v in x.values())]
    if len(varied) == 2:
        columns.append(x["lr"] * x["batch"])
    design = np.stack(columns, axis=1)
    if len(nearest) <= design.shape[1] or np.linalg.matrix_rank(design) < design.shape[1]:
        return None
    fit = np.linalg.lstsq(design, loss[nearest], rcond=None)[0]
    size = len(varied)
    slope, square = fit[1 : 1 + size], np.diag(2 * fit[1 + size : 1 + 2 * size])
    if size == 2:
        square[0, 1] = square[1, 0] = fit[-1]
    if np.linalg.eigvalsh(square).min() <= 0:
        return None
    return float(centre[axis] - np.linalg.solve(square, slope)[varied.index(axis)])


def _power_law(
    axis: str, points: list[dict[str, Any]], resamples: int, seed: int
) -> tuple[list[str], list[float], Array]:
    """Return names, values and draws (S, parameters) of one axis's law."""
    n, d = (np.log([p[name] for p in points]) for name in ("params", "tokens"))
    optima = [p["optima"][axis] for p in points]
    y, sd = np.array([o.log_value for o in optima]), np.array([o.deviation for o in optima])
    features, names = [np.ones(len(points))], [f"k_{axis}"]
    varies = {"p": axis == "lr" and np.ptp(n) > 0, "q": np.ptp(d) > 0}
    if all(varies.values()) and abs(np.corrcoef(n, d)[0, 1]) > COLLINEAR:
        varies["p"] = False
    for letter, values in (("p", n), ("q", d)):
        if varies[letter]:
            features.append(values)
            names.append(f"{letter}_{axis}")
    design = np.stack(features, axis=1)
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(len(y), np.full(len(y), 1 / len(y)), resamples) / sd**2
    perturbed = y + sd * rng.standard_normal((resamples, len(y)))
    every = np.vstack([1 / sd**2, weights])
    solutions = _weighted_lines(design, np.vstack([y, perturbed]), every)
    finite = solutions[1:][np.isfinite(solutions[1:]).all(axis=1)]
    finite = np.resize(finite, (resamples, design.shape[1])) if len(finite) else solutions[:1]
    for values in (solutions, finite):
        values[:, 0] = np.exp(values[:, 0])
    return names, solutions[0].tolist(), finite


def _weighted_lines(design: Array, y: Array, weights: Array) -> Array:
    """Solve weighted least squares for many targets (S, n); NaN rows where singular."""
    normal = np.einsum("sn,ni,nj->sij", weights, design, design)
    moments = np.einsum("sn,ni,sn->si", weights, design, y)
    singular = np.linalg.matrix_rank(normal, hermitian=True) < design.shape[1]
    normal[singular] = np.eye(design.shape[1])
    lines = np.linalg.solve(normal, moments[..., None])[..., 0]
    lines[singular] = np.nan
    return lines


def _refusals(axis: str, points: list[dict[str, Any]], usable: int) -> list[Alarm]:
    optima = [p["optima"][axis] for p in points if axis in p["optima"]]
    reasons = [o.why for o in optima if o.why]
    alarms = []
    if reasons:
        alarms.append(
            Alarm(
                code="edge_optimum",
                sentence=f"{len(reasons)} of {len(points)} cells are not in the law of {axis}: "
                f"{max(set(reasons), key=reasons.count)}; widen the sweep of {axis} there.",
            )
        )
    if usable < FEWEST_CELLS:
        alarms.append(
            Alarm(
                code=f"no_{axis}_law",
                sentence=f"Only {usable} cells have an optimal {axis} inside at least "
                f"{FEWEST_SETTINGS} values tried, and a law needs {FEWEST_CELLS}: sweep {axis}.",
            )
        )
    return alarms


def _no_optimum(points: list[dict[str, Any]]) -> str:
    edges = sum(bool(o.why) for p in points for o in p["optima"].values())
    return (
        f"form=lr_batch finds fewer than {FEWEST_CELLS} of {len(points)} cells (one N and D each) "
        f"with an optimum inside at least {FEWEST_SETTINGS} learning rates or batches "
        f"({edges} lie at the edge of what was tried): widen the sweep"
    )


def _as_json(point: dict[str, Any]) -> dict[str, Any]:
    optima = {
        axis: {
            "value": float(np.exp(o.log_value)),
            "deviation_log": o.deviation,
            "flat": o.flat,
            "why": o.why,
        }
        for axis, o in point["optima"].items()
    }
    return {**point, "optima": optima}
