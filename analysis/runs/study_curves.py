"""Loss curves of a study's cells: the trunk's rows and each branch's own, by model size.

The curve of a cell (metrics.jsonl) starts with its trunk's rows, which its other branches have too:
they count once, in the longest branch. The rates are those of the cell's schedule at every step.
Rows are scored on a part of the test set and the record on all of it: rows are multiplied by the
median ratio between the two, over cells that were scored both ways near their ends.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from analysis.runs.cells import sha256_of
from analysis.runs.curves import CurveRuns, SizeCurves
from scaling.curves import Curve, fit_curves, make_curve
from scaling.curves.rate import rate_factors
from scaling.schema import Record, read_curve, read_records

AFTER_WARMUP = 3.0  # warm-ups; rows before lie where the loss falls as no power of the sum
ROWS = 160  # of a cell's schedule between its scored rows, at which its rate is written
FEWEST_ROWS = 6  # of a size, as of any fit of curves


def study_curves(
    folder: str | Path, *, count: str = "total", ratio: float | None = None
) -> CurveRuns:
    """Read the curves of a study's done pretraining cells.

    folder: of the study
    count: how N is counted
    ratio: of losses on the whole test set to those on a part of it, which rows are multiplied by;
        None measures it

    Raises ValueError for a study without such curves.
    """
    folder = Path(folder)
    records, dropped = [], []
    for record in read_records(folder):
        why = _why_left_out(record)
        if why:
            dropped.append({"run": record.run_id, "why": why})
        else:
            records.append(record)
    by_size: dict[float, list[Record]] = {}
    for record in records:
        by_size.setdefault(float(getattr(record.params, count)), []).append(record)
    sizes = []
    for params, cells in sorted(by_size.items()):
        curves = [c for c in _of_size(folder, cells) if len(c.step)]
        if sum(int(c.measured.sum()) for c in curves) < FEWEST_ROWS:
            why = f"fewer than {FEWEST_ROWS} test losses at N = {params:.4g}"
            dropped += [{"run": cell.run_id, "why": why} for cell in cells]
        else:
            sizes.append(SizeCurves(params=params, curves=tuple(curves)))
    if not sizes:
        raise ValueError(
            f"{folder} has no size with {FEWEST_ROWS} test losses along its curves; train longer"
            " cells, or raise eval.curve_points"
        )
    ratio = _ratio(sizes) if ratio is None else ratio
    sizes = [_scaled(size, ratio) for size in sizes]
    inputs = {"source": folder.as_posix(), "sha256": sha256_of(folder), "curve_ratio": ratio}
    return CurveRuns(sizes=tuple(sizes), dropped=dropped, inputs=inputs)


def _why_left_out(record: Record) -> str:
    if record.stage != "pretrain":
        return f"stage is {record.stage}, not pretrain"
    if record.status != "done" or not record.test_loss:
        return f"status is {record.status}"
    return "" if record.config.get("schedule") else "its record has no schedule"


def _of_size(folder: Path, cells: Sequence[Record]) -> list[Curve]:
    """Return the curves of one size; a row that a longer branch has too gets the weight 0."""
    seen: dict[str, set[int]] = {}
    curves = []
    for cell in sorted(cells, key=lambda c: -c.steps):
        shared = seen.setdefault(cell.trunk or cell.run_id, set())
        curves.append(_of_cell(folder, cell, shared))
    return curves


def _of_cell(folder: Path, cell: Record, shared: set[int]) -> Curve:
    """Return the curve of a cell, whose last row is its record's test loss.

    shared: steps of the trunk that a longer branch has; those of this cell are added
    """
    schedule = cell.config["schedule"]
    leaves = cell.steps - max(1, round(schedule.get("decay", 0.2) * cell.steps))
    warmup = int(schedule.get("warmup_steps", 0))
    if cell.schedule == "cosine":
        warmup, leaves = min(warmup, cell.steps // 4), 0
    scored = {
        int(row["step"]): float(row["test_loss"])
        for row in read_curve(folder / cell.run_id / "metrics.jsonl")
        if row.get("test_loss") and AFTER_WARMUP * warmup <= row["step"] < cell.steps
    }
    first = max(warmup, 1)
    between = np.unique(np.geomspace(first, cell.steps, ROWS).astype(int))
    decay = np.linspace(max(leaves, first), cell.steps, ROWS // 2).astype(int)
    steps = np.unique(np.concatenate([between, decay, list(scored), [cell.steps]])).astype(int)
    rates = cell.peak_lr * rate_factors(
        np.maximum(steps - 1, 0),
        name=cell.schedule,
        warmup_steps=warmup,
        n_steps=cell.steps,
        decay_start=leaves,
        decay_shape=schedule.get("decay_shape", "sqrt"),
        floor=schedule.get("floor", 0.0),
    )
    assert cell.test_loss is not None
    losses = np.array([scored.get(int(step), cell.test_loss) for step in steps])
    own = [step in scored and not (step <= leaves and step in shared) for step in steps.tolist()]
    weights = np.array(own, float)
    weights[-1] = 1.0
    shared.update(step for step in scored if step <= leaves)
    return make_curve(
        steps,
        rates,
        losses,
        warmup_steps=warmup,
        peak_lr=cell.peak_lr,
        name=cell.run_id,
        weight=weights,
    )


def _ratio(sizes: Sequence[SizeCurves]) -> float:
    """Return the median ratio of the losses of records to those of rows.

    A first fit of the rows alone forecasts the ends of the cells.
    """
    logs = []
    for size in sizes:
        rows = [curve.without(slice(-1, None)) for curve in size.curves]
        if sum(int(c.measured.sum()) for c in rows) < FEWEST_ROWS:
            continue
        fit = fit_curves(rows, law="annealing", withhold=False)
        if fit.status != "converged":
            continue
        for curve in size.curves:
            end = fit.predict(
                curve.step, curve.lr, warmup_steps=curve.warmup_steps, peak_lr=curve.peak_lr
            )
            logs.append(float(np.log(curve.loss[-1] / end.loss[-1])))
    return float(np.exp(np.median(logs))) if logs else 1.0


def _scaled(size: SizeCurves, ratio: float) -> SizeCurves:
    """Return the curves with their rows, the last one left out, multiplied by the ratio."""
    curves = []
    for curve in size.curves:
        loss = curve.loss * ratio
        loss[-1] = curve.loss[-1]
        curves.append(replace(curve, loss=loss))
    return replace(size, curves=tuple(curves))
