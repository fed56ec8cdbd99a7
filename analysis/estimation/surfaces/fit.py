"""Fit `form=surface`: the loss over size, data, learning rate, batch and weight decay.

    law = fit(load_runs("table.csv", context=2048), "surface")
    law.settings(1e9, 2e10)                          the best rate and batch, with intervals

All settings of a sweep enter, not the best of each (N, D) alone
(`analysis.estimation.surfaces.grid`). The valley is fitted first, each point with a level of its
own (`analysis.estimation.surfaces.valley`). The levels are the losses at the optima, and
L*(N, D) = E + A N^-alpha + B D^-beta is fitted to them with a prior over published laws
(`analysis.estimation.prior_fit`), since sweeps of settings seldom span enough sizes for five
parameters. Draws of both parts are joined. Points of the largest C are withheld, and what the
settings of the others would lose there stands beside the law.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.alarms.alarm import Alarm
from analysis.alarms.loss_units import loss_unit_alarm, unit_of_law
from analysis.estimation.fit_blocks import ranges_of
from analysis.estimation.prior import FAMILIES
from analysis.estimation.prior_fit import OBJECTIVE, PriorFit, fit_with_prior
from analysis.estimation.surfaces.grid import (
    AXES,
    FEWEST_POINTS,
    Grid,
    at_edges,
    edge_alarm,
    grid_of,
    refuse_edges,
)
from analysis.estimation.surfaces.valley import Valley, draw_valleys, external, fit_valley
from analysis.forms import FORMS, Array, column
from analysis.forms.settings.surface import best, excess
from analysis.laws.form_error import PRIOR_GROWTH
from analysis.laws.law import Law
from analysis.laws.law_file import LawStatus
from analysis.runs.table import Runs
from analysis.solve.objective import Objective, problem_of
from analysis.solve.residual_spread import scatter

NEEDED = ("params", "tokens", "loss", "lr", "batch")
NEAR = 0.03  # Q of rows that tell how runs scatter about the law at the settings it chooses
FEWEST_DRAWS = 50  # that say whether the optimum is determined
WIDEST = np.log(2.0)  # deviation of log lr* or log batch* amid the points: a factor of two
WITHHELD = (0.25, 0.5)  # shares of the points, those of largest C, that are withheld
EDGE_SHARE = 0.5  # of draws that must converge


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """The two parts of a surface: the valley with its draws, and L*(N, D)."""

    grid: Grid
    valley: Valley
    levels: PriorFit

    @property
    def parameters(self) -> dict[str, float]:
        """The parameters of the form by name."""
        names, rows = self.grid.rows.names, self.grid.rows
        values = external(rows, self.valley.theta)[0].tolist()
        return {**self.levels.estimate.parameters, **dict(zip(names, values, strict=True))}


def surface(runs: Runs, *, resamples: int, level: float, seed: int) -> Law:
    """Return the surface of a table of runs.

    runs: with params, tokens, loss, lr and batch (tokens), and optionally weight_decay, which
        enters where it varies within points
    resamples: draws of the law, 0 for a law without intervals
    level: of the intervals
    seed: of the draws

    `methods["surface"]` of the law holds the points, the rows that were left out and what the
    settings of smaller points lose at withheld ones. Raises ValueError in one sentence for a grid
    that holds no optimum (`analysis.estimation.surfaces.grid`).
    """
    fitted = fit_grid(grid_of(runs.table), resamples=resamples, level=level, seed=seed)
    grid, levels = fitted.grid, fitted.levels
    points = _points(fitted)
    refuse_edges(points)
    draws = draw_valleys(grid.rows, fitted.valley, max(resamples, FEWEST_DRAWS), seed)
    status, status_alarm = _status(fitted, draws)
    every = _joined(fitted, draws) if resamples and status != "not_identified" else None
    withheld = hindcasts(grid, seed=seed)
    unit_alarm = loss_unit_alarm(runs.inputs)
    prior_alarm = _prior_alarm(levels.block["weight"], len(points))
    alarms = [status_alarm, unit_alarm, *grid.alarms, edge_alarm(points), prior_alarm]
    parameters = fitted.parameters
    return Law(
        form="surface",
        count=runs.count,
        parameters=parameters,
        objective={
            "name": "soft_l1_log",
            "delta": fitted.valley.scale,
            "value": float(fitted.valley.value[0]),
        },
        status=status,
        alarms=tuple(alarm for alarm in alarms if alarm),
        intervals=_intervals(every, list(parameters), resamples, level, grid),
        draws=every,
        allocation=levels.estimate.allocation,
        n_runs=len(grid.table),
        dropped=runs.dropped,
        ranges=_ranges(grid),
        noise=_noise(fitted),
        error_growth=max(PRIOR_GROWTH, *(row["loss_growth"] for row in withheld), 0.0),
        methods={
            "surface": {
                "points": points,
                "hindcasts": withheld,
                "left_out": grid.left_out,
                "n_rows": len(grid.everything),
            }
        },
        prior=levels.block,
        token_flops=runs.token_flops.as_block() if runs.token_flops else None,
        inputs=runs.inputs,
        unit=unit_of_law(runs.inputs),
    )


def fit_grid(grid: Grid, *, resamples: int = 0, level: float = 0.9, seed: int = 0) -> Fitted:
    """Return the valley of a grid, and L*(N, D) of its points.

    grid: the rows by points
    resamples, level, seed: of the draws of L*
    """
    valley = fit_valley(grid.rows)
    first = grid.rows.starts
    points = pd.DataFrame(
        {
            "params": column(grid.table, "params")[first],
            "tokens": np.exp(grid.rows.means(grid.rows.log_d, np.ones(len(grid.table)))),
            "loss": np.exp(valley.offsets[0]),
        }
    )
    points["flops"] = 6 * points["params"] * points["tokens"]
    problem = problem_of(points, FORMS["chinchilla"], Objective(name=OBJECTIVE))
    drawing = {"draws": resamples, "level": level, "seed": seed}
    return Fitted(
        grid=grid, valley=valley, levels=fit_with_prior(problem, points, FAMILIES, **drawing)
    )


def hindcasts(grid: Grid, *, seed: int = 0) -> list[dict[str, Any]]:
    """Withhold the points of largest C, and say what the settings of the others lose there.

    grid: the rows by points
    seed: of L*

    The loss of a setting is that of the row nearest to it, in log lr and log batch, over the best
    row of its point. A row of the result: `n_points` and `n_withheld`, `reach` (the largest C
    withheld over the largest fitted), `mean` and `worst` loss of the settings, `loss_error` (root
    mean square of log L* over the best loss) and `loss_growth`, that error by each e-fold of C
    beyond the fitted points, and at least one.
    """
    flops = np.array([6 * p["params"] * p["tokens"] for p in grid.points])
    order, rows = np.argsort(flops, kind="stable"), []
    for share in WITHHELD:
        count = round(share * len(flops))
        kept, held = order[: len(order) - count], order[len(order) - count :]
        table = grid.everything.loc[grid.everything["point"].isin(kept.tolist())].reset_index(
            drop=True
        )
        if not count or len(kept) < FEWEST_POINTS:
            continue
        try:
            fitted = fit_grid(grid_of(table), seed=seed)
        except ValueError:
            continue  # the smaller points carry no surface of their own
        tests = [_tested(fitted, grid.everything, grid.points[i], int(i)) for i in held]
        lost = np.array([test["lost"] for test in tests])
        errors = np.array([test["error"] for test in tests])
        distance = np.log(flops[held] / flops[kept].max())
        rows.append(
            {
                "n_points": len(kept),
                "n_withheld": count,
                "reach": float(flops[held].max() / flops[kept].max()),
                "mean": float(lost.mean()),
                "worst": float(lost.max()),
                "loss_error": float(np.sqrt((errors**2).mean())),
                "loss_growth": float(np.sqrt((errors**2).mean() / max((distance**2).mean(), 1))),
            }
        )
    return rows


def nearest_row(rows: pd.DataFrame, lr: float, batch: float) -> int:
    """Return the position of the row whose settings are nearest in log lr and log batch."""
    away = np.log(column(rows, "lr") / lr) ** 2 + np.log(column(rows, "batch") / batch) ** 2
    return int(away.argmin())


def _tested(
    fitted: Fitted, everything: pd.DataFrame, point: dict[str, Any], code: int
) -> dict[str, float]:
    p = fitted.parameters
    rows = everything.loc[everything["point"] == code]
    lr, batch = best(p, point["params"], point["tokens"])
    place = {"params": point["params"], "tokens": point["tokens"]}
    least, predicted = point["best"]["loss"], float(FORMS["surface"].predict(p, place))
    chosen = float(column(rows, "loss")[nearest_row(rows, lr, batch)])
    return {"lost": chosen / least - 1, "error": float(np.log(predicted / least))}


def _points(fitted: Fitted) -> list[dict[str, Any]]:
    """Return the points of the grid with the law's settings and level."""
    points = []
    for point, level in zip(fitted.grid.points, fitted.valley.offsets[0], strict=True):
        lr, batch = best(fitted.parameters, point["params"], point["tokens"])
        edges = at_edges(point, lr, batch)
        settings = {"lr": float(lr), "batch": float(batch), "loss": float(np.exp(level))}
        points.append({**point, **settings, "edges": edges})
    return points


def _status(fitted: Fitted, draws: Valley) -> tuple[LawStatus, Alarm | None]:
    """Return whether both parts are minima and the draws agree on the optimum amid the points."""
    names = fitted.grid.rows.names
    if not fitted.valley.converged[0] or draws.converged.mean() < EDGE_SHARE:
        return "max_iter", Alarm(
            code="max_iter",
            sentence="The fit of the surface has not settled; add settings about the best ones.",
        )
    for axis in AXES:
        spread = float(draws.theta[draws.converged, names.index(f"k_{axis}")].std())
        if spread > WIDEST:
            return "not_identified", Alarm(
                code="not_identified",
                sentence=f"The optimal {axis} amid the points is known to a factor of"
                f" {np.exp(spread):.2g} only: add values of {axis} about the best ones.",
            )
    return fitted.levels.status, None


def _prior_alarm(weight: float, n_points: int) -> Alarm:
    return Alarm(
        code="prior_used",
        sentence=f"{weight:.0%} of the precision of L*(N, D) comes from {len(FAMILIES)} families of"
        f" published laws and the rest from {n_points} points of N and D: add sizes before a costly"
        " run.",
    )


def _joined(fitted: Fitted, draws: Valley) -> Array:
    """Return draws of all parameters (S, P): of L*, and of the valleys that converged."""
    of_levels = fitted.levels.estimate.draws
    assert of_levels is not None
    of_valley = external(fitted.grid.rows, draws.theta[draws.converged])
    of_valley = of_valley[np.arange(len(of_levels)) % len(of_valley)]
    order = np.random.default_rng(0).permutation(len(of_levels))  # a walk's neighbours are alike
    return np.hstack([of_levels[order], of_valley])


def _intervals(
    draws: Array | None, names: list[str], resamples: int, level: float, grid: Grid
) -> dict[str, Any] | None:
    if draws is None:
        return None
    ends = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0).T.tolist()
    return {
        "level": level,
        "method": "bootstrap and posterior",
        "resamples": resamples,
        "unit": "point",
        "units": len(grid.points),
        "parameters": dict(zip(names, ends, strict=True)),
    }


def _noise(fitted: Fitted) -> dict[str, float]:
    """Return how runs scatter about the law, from the rows near their optimum."""
    table = fitted.grid.table
    names = [n for n in ("params", "tokens", "lr", "batch", "weight_decay") if n in table]
    values = {name: column(table, name) for name in names}
    cost = np.asarray(excess(fitted.parameters, values))
    near = cost < max(NEAR, float(np.median(cost)))
    residuals = fitted.valley.residuals[0][near]
    return scatter(-residuals, fitted.grid.rows.log_loss[near] - residuals, 0)


def _ranges(grid: Grid) -> dict[str, list[float]]:
    """Return the ranges of the rows that enter; those of the settings are of all rows."""
    settings = [n for n in (*AXES, "weight_decay") if n in grid.everything]
    tried = {n: column(grid.everything, n) for n in settings}
    return ranges_of(grid.table) | {n: [float(v.min()), float(v.max())] for n, v in tried.items()}
