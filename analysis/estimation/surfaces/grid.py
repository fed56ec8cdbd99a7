"""The rows of a sweep of settings: which enter a surface, and what is wrong with its grid.

An (N, D) of a table is a point. All its settings enter, except those that lose more than `BOUND` to
the best of their point, diverged runs among them: no polynomial describes them, and they spoil the
valley (`benchmarks/surface.py` compares bounds). An optimum at the end of what was tried lies
beyond it, so that a grid is refused where that holds for most points.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.alarms.alarm import Alarm, named_rows
from analysis.estimation.surfaces.valley import ValleyRows
from analysis.forms import Array, column
from analysis.runs.replicates import SAME_TOKENS, points_of
from analysis.runs.setting_columns import PREFIX

MOST_STEPS = 3e6  # of the shortest run: a batch that makes more is not in tokens
BOUND = 0.15  # share by which a row may lose to the best of its point
AXES = ("lr", "batch")
DECAYS = ("weight_decay", f"{PREFIX}optim.weight_decay")  # columns of a table and of a study
FEWEST_POINTS = 3  # points of N and D: fewer tell nothing of how the optimum moves
FEWEST_SETTINGS = 6  # a point's settings in the median: five determine no valley in two directions
COARSE = 16  # settings of a point below which an alarm is raised, a grid of 4 by 4
MOST_EDGES = 0.5  # share of the points whose best setting may stand at the end of an axis
ROUND = 6  # digits of a log to which settings are the same
VARIED = 0.3  # range of log weight decay within points from which it is fitted


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A sweep of settings by points.

    table: the rows that enter, in the order of their points
    rows: their logs
    everything: all rows, with their `point`
    points: of each point N, D, number of rows, of those that enter and of settings, the best row's
        loss, rate and batch, and the axes at whose end that row stands
    alarms: what to know of the grid
    """

    table: pd.DataFrame
    rows: ValleyRows
    everything: pd.DataFrame
    points: list[dict[str, Any]]
    alarms: list[Alarm]

    @property
    def left_out(self) -> list[int]:
        """The rows that were left out, numbered as in the input file."""
        names = self.everything["row"] if "row" in self.everything else self.everything.index + 1
        return [int(n) for n in np.asarray(names)[~self.everything["enters"].to_numpy()]]


def grid_of(table: pd.DataFrame) -> Grid:
    """Return the grid of a table with params, tokens, loss, lr, batch and maybe weight decay.

    Raises ValueError in one sentence for a table of too few points, sizes or settings, and for one
    whose best settings stand at the end of what was tried.
    """
    steps = column(table, "tokens") / column(table, "batch")
    if steps.min() > MOST_STEPS:
        raise ValueError(
            f"the batches would make {steps.min():.2g} steps and more of every run; batch is in"
            " tokens: name a column of sequences, as columns.batch_sequences=batch context=2048"
        )
    decay = decay_of(table)
    codes = _in_order(points_of(table, SAME_TOKENS), table)
    loss = column(table, "loss")
    least = np.full(codes.max() + 1, np.inf)
    np.minimum.at(least, codes, loss)
    enters = loss <= least[codes] * (1 + BOUND)
    no_decay = np.zeros(len(table), dtype=bool) if decay is None else ~(decay > 0)
    values = table.assign(point=codes, enters=enters & ~no_decay)
    if decay is not None:
        values["weight_decay"] = decay
    near = values.loc[values["enters"]].sort_values("point", kind="stable").reset_index(drop=True)
    points = [_point(rows) for _, rows in values.groupby("point", sort=True)]
    _check(points)
    first = np.unique(near["point"], return_index=True)[1]
    rows = ValleyRows(
        log_n=np.log(column(near, "params")),
        log_d=np.log(column(near, "tokens")),
        log_lr=np.log(column(near, "lr")),
        log_batch=np.log(column(near, "batch")),
        log_decay=None if decay is None else np.log(column(near, "weight_decay")),
        log_loss=np.log(column(near, "loss")),
        starts=first,
        point=np.repeat(np.arange(len(first)), np.diff([*first, len(near)])),
    )
    if len(near) < len(rows.names) + len(first) + 2:
        raise ValueError(
            f"form=surface has {len(near)} rows within {BOUND:.0%} of the best of their (N, D), and"
            f" {len(rows.names)} parameters beside the {len(first)} points; add settings near the"
            " best ones"
        )
    alarms = [_far_alarm(values, enters), _no_decay_alarm(values, no_decay), _coarse_alarm(points)]
    return Grid(
        table=near,
        rows=rows,
        everything=values,
        points=points,
        alarms=[alarm for alarm in alarms if alarm],
    )


def _in_order(codes: Array, table: pd.DataFrame) -> Array:
    """Return the points' codes (n,) renumbered by N, then D."""
    first = np.unique(codes, return_index=True)[1]
    size, tokens = column(table, "params")[first], column(table, "tokens")[first]
    rank = np.empty(len(first), dtype=int)
    rank[np.lexsort((tokens, size))] = np.arange(len(first))
    return rank[codes]


def decay_of(table: pd.DataFrame) -> Array | None:
    """Return the weight decay of each row (n,); None where it does not vary within points.

    Raises ValueError for values that are no numbers or negative.
    """
    name = next((n for n in DECAYS if n in table and bool(table[n].notna().any())), None)
    if name is None:
        return None
    values = np.asarray(pd.to_numeric(table[name], errors="coerce"), dtype=float)
    bad = ~(np.isfinite(values) & (values >= 0))
    if bad.any():
        raise ValueError(
            f"column {name.removeprefix(PREFIX)!r} holds no weight decay, a number of 0 or more, in"
            f" {bad.sum()} of {len(values)} rows ({named_rows(table, bad)}); repair or drop them"
            " with where="
        )
    logs, codes = np.log(np.where(values > 0, values, np.nan)), points_of(table, SAME_TOKENS)
    of_points = [logs[(codes == code) & (values > 0)] for code in np.unique(codes)]
    spans = [np.ptp(of_point) if len(of_point) else 0.0 for of_point in of_points]
    return values if np.median(spans) > VARIED else None


def edge_alarm(points: list[dict[str, Any]]) -> Alarm | None:
    """Return the alarm of points whose best setting, or the law's, is at the end of an axis."""
    at_end = {axis: [p for p in points if axis in p["edges"]] for axis in AXES}
    said = [
        f"at {len(ends)} of {len(points)} points the optimal {axis} is at the end of what was tried"
        for axis, ends in at_end.items()
        if ends
    ]
    if not said:
        return None
    sentence = f"{' and '.join(said)}: widen the sweep there."
    return Alarm(code="edge_optimum", sentence=sentence[0].upper() + sentence[1:])


def refuse_edges(points: list[dict[str, Any]]) -> None:
    """Refuse a law whose optimum stands at the end of an axis, or beyond it, at most points.

    points: those of a grid, each with the `edges` of its best row and of the law
    """
    for axis in AXES:
        ends = [p for p in points if axis in p["edges"]]
        if len(ends) > MOST_EDGES * len(points):
            side = "largest" if sum(p["edges"][axis] for p in ends) > 0 else "smallest"
            raise ValueError(
                f"form=surface: at {len(ends)} of {len(points)} (N, D) the optimal {axis} is the"
                f" {side} tried or lies beyond it, so that the sweep does not hold it; sweep"
                f" {'larger' if side == 'largest' else 'smaller'} values of {axis}"
            )


def _point(rows: pd.DataFrame) -> dict[str, Any]:
    near = rows.loc[rows["enters"]]
    best = near.loc[column(near, "loss").argmin() == np.arange(len(near))].iloc[0]
    logs = {axis: np.round(np.log(column(rows, axis)), ROUND) for axis in AXES}
    tried = {axis: [float(f(column(rows, axis))) for f in (np.min, np.max)] for axis in AXES}
    return {
        "params": float(rows["params"].iloc[0]),
        "tokens": float(np.exp(np.log(column(rows, "tokens")).mean())),
        "n_runs": len(rows),
        "n_near": len(near),
        "n_settings": len(np.unique(np.stack(list(logs.values())), axis=1).T),
        "n_values": {axis: len(np.unique(values)) for axis, values in logs.items()},
        "best": {name: float(best[name]) for name in ("loss", *AXES)},
        "tried": tried,
        "edges": {axis: side for axis in AXES if (side := _side(float(best[axis]), tried[axis]))},
    }


def _side(value: float, tried: list[float]) -> int:
    """Return 1 at the largest value tried or beyond it, -1 at the smallest, 0 between."""
    low, high = tried
    return int(value >= high * (1 - 1e-6)) - int(value <= low * (1 + 1e-6))


def at_edges(point: dict[str, Any], lr: float, batch: float) -> dict[str, int]:
    """Return the axes on which a point's best row stands at an end, or the law's optimum beyond."""
    values = {"lr": lr, "batch": batch}
    of_law = {axis: side for axis in AXES if (side := _side(values[axis], point["tried"][axis]))}
    return of_law | point["edges"]


def _check(points: list[dict[str, Any]]) -> None:
    sizes, tokens = ({round(np.log(p[n]), 2) for p in points} for n in ("params", "tokens"))
    if len(points) < FEWEST_POINTS or min(len(sizes), len(tokens)) < 2:
        raise ValueError(
            f"form=surface needs at least {FEWEST_POINTS} points of N and D with two sizes and two"
            f" numbers of tokens, and the table has {len(points)} with {len(sizes)} and"
            f" {len(tokens)}: add sizes or budgets"
        )
    for axis in AXES:
        if np.median([p["n_values"][axis] for p in points]) < 3:
            raise ValueError(
                f"form=surface needs at least 3 values of {axis} at an (N, D), and most points have"
                f" fewer: sweep {axis}, or fit form=lr_batch, which takes one axis alone"
            )
    if np.median([p["n_settings"] for p in points]) < FEWEST_SETTINGS:
        raise ValueError(
            f"form=surface needs at least {FEWEST_SETTINGS} settings of lr and batch at an (N, D),"
            f" and the median point has {np.median([p['n_settings'] for p in points]):g}: add"
            " settings"
        )


def _far_alarm(table: pd.DataFrame, enters: Array) -> Alarm | None:
    if enters.all():
        return None
    return Alarm(
        code="rows_far_from_best",
        sentence=f"{(~enters).sum()} of {len(table)} rows lose more than {BOUND:.0%} to the best of"
        f" their (N, D) and are left out ({named_rows(table, ~enters)}): no valley describes them.",
    )


def _no_decay_alarm(table: pd.DataFrame, no_decay: Array) -> Alarm | None:
    if not no_decay.any():
        return None
    return Alarm(
        code="rows_without_decay",
        sentence=f"{no_decay.sum()} of {len(table)} rows have weight decay 0 and are left out"
        f" ({named_rows(table, no_decay)}): a law in its log has no place for them.",
    )


def _coarse_alarm(points: list[dict[str, Any]]) -> Alarm | None:
    typical = float(np.median([p["n_settings"] for p in points]))
    if typical >= COARSE:
        return None
    return Alarm(
        code="coarse_grid",
        sentence=f"The median (N, D) has {typical:g} settings of lr and batch; 4 give no usable law"
        f" and about 256 do (Lourie 2026): add settings, at least {COARSE} at a point.",
    )
