"""Rows for the checkpoints of a study's trunks: the loss that a decay from each would reach.

A trunk at a constant rate passes every budget below its own, and a decay branch at each costs only
the branch. `scaling fit runs=runs/NAME annealed=true` writes those branches down without training
them: the trunk's curve, less the drop that the study's decays had (scaling.curves.at_end). The rows
are named `<trunk> annealed at step <s>`, belong to their trunk in the bootstrap, weigh less than
trained cells, and have an error that every resample draws anew (`law_errors`), part of it common to
the study, part to a trunk. Reuse of a trunk: MiniCPM (Hu et al. 2024, 2404.06395) and Hägele et al.
2024 (2405.18392).
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.runs.table import Runs
from scaling.curves.at_end import EndedCurve, loss_after_decay, usable
from scaling.schema import Record, read_curve, read_records

ERROR = "annealed_error"  # Column: standard deviation in log loss, 0 for a cell that was trained.
MOST_OTHERS = 12  # Ended cells of other trunks whose drops are read, the nearest in FLOPs.
NEAREST = 0.15  # A row nearer than this, in log steps, to a trained branch says nothing new.
WORST_ERROR = 0.04  # Rows with a larger error are left out.
CELL_ERROR = 0.01  # Scatter of trained cells in log loss: an equal error halves a row's weight.


def with_annealed(runs: Runs, source: str | Path) -> Runs:
    """Return a study's runs with a row for each checkpoint of its trunks.

    runs: the done pretraining cells, read from `source`
    source: the study's folder

    Raises ValueError for a table, for a study without a trunk at a constant rate, and where no row
    can be added.
    """
    folder = Path(source)
    if not folder.is_dir():
        raise ValueError(
            f"annealed=true is for a study, whose trunks have curves, and {source} is a table; give"
            " the study's folder, as runs=runs/NAME, or leave annealed out"
        )
    table = runs.table
    names = set(table["run"])
    records = {r.run_id: r for r in read_records(folder) if r.run_id in names}
    curves = {name: usable(read_curve(folder / name / "metrics.jsonl")) for name in records}
    rows = [
        row
        for trunk in dict.fromkeys(
            r.trunk for r in records.values() if r.schedule == "wsd" and r.trunk
        )
        for row in _rows_of_trunk(trunk, table, records, curves)
    ]
    if not rows:
        raise ValueError(
            f"no trunk of {folder} has checkpoints that a decay could leave from: annealed=true"
            " needs schedule=wsd, cells that are done, and at least three test losses in the curve"
            " of a trunk (eval.curve_tokens); leave it out"
        )
    annealed = pd.DataFrame(rows)
    table = table.assign(**{ERROR: 0.0})
    if "weight" not in table:
        table, annealed = (
            table.assign(weight=1.0),
            annealed.assign(weight=1 / (1 + (annealed[ERROR] / CELL_ERROR) ** 2)),
        )
    whole = pd.concat([table, annealed], ignore_index=True)
    block = {
        "rows": len(rows),
        "trunks": len({row["trunk"] for row in rows}),
        "median_error": float(np.median([row[ERROR] for row in rows])),
    }
    return replace(runs, table=whole, inputs={**runs.inputs, "annealed": block})


def sentence_of(inputs: dict[str, Any]) -> str:
    """Say how many rows of a law are annealed; empty where none is."""
    block = inputs.get("annealed")
    if not block:
        return ""
    return (
        f"{block['rows']} rows are annealed: checkpoints of {block['trunks']} trunks, their losses"
        f" forecast with a median error of {block['median_error']:.1%}, which the intervals hold"
    )


def law_errors(
    table: pd.DataFrame, rng: np.random.Generator, count: int
) -> NDArray[np.float64] | None:
    """Draw errors of the annealed rows' log losses (count, rows); None where no row is annealed.

    A third of the variance is common to the study (its drops), a third to the trunk, a third the
    row's own.
    """
    errors = table[ERROR].to_numpy(float) if ERROR in table else np.zeros(0)
    if not errors.any():
        return None
    codes, trunks = pd.factorize(table["trunk"])
    common = rng.standard_normal((count, 1))
    of_trunk = rng.standard_normal((count, len(trunks)))[:, codes]
    own = rng.standard_normal((count, len(table)))
    return (common + of_trunk + own) / math.sqrt(3) * errors


def _rows_of_trunk(
    trunk: str | None,
    table: pd.DataFrame,
    records: dict[str, Record],
    curves: dict[str, list[dict[str, Any]]],
) -> list[dict[str, Any]]:
    """Return the rows of one trunk's checkpoints."""
    branches = [r for r in records.values() if r.trunk == trunk]
    longest = max(branches, key=lambda r: r.steps)
    like = table[table["run"] == longest.run_id].iloc[0].to_dict()
    schedule = longest.config["schedule"]
    ended = _ended(longest, records, curves)
    trained = [math.log(r.steps) for r in branches]
    rows = []
    for start in _checkpoints(curves[longest.run_id]):
        n_steps = round(start / (1 - schedule["decay"]))
        if n_steps >= longest.steps or min(abs(math.log(n_steps) - t) for t in trained) < NEAREST:
            continue
        answer = loss_after_decay(
            curves[longest.run_id],
            start=start,
            n_steps=n_steps,
            warmup_steps=schedule["warmup_steps"],
            unique_tokens=longest.unique_tokens or math.inf,
            finished=ended,
        )
        if answer is None or answer[1] > WORST_ERROR:
            continue
        share = n_steps / longest.steps
        rows.append(
            like
            | {"run": f"{trunk} annealed at step {start}", "loss": answer[0], ERROR: answer[1]}
            | {
                name: like[name] * share
                for name in ("tokens", "flops", "flops_6nd")
                if name in like
            }
            | {name: None for name in ("curve", "curve_factor") if name in like}
            | (
                {"unique_tokens": min(like["unique_tokens"], like["tokens"] * share)}
                if "unique_tokens" in like
                else {}
            )
        )
    return rows


def _checkpoints(rows: Sequence[dict[str, Any]]) -> list[int]:
    """Return the steps of a curve at the peak rate that have a test loss."""
    peak = max((r["lr"] for r in rows), default=0.0)
    return [r["step"] for r in rows if "test_loss" in r and r["lr"] >= 0.999 * peak]


def _ended(
    longest: Record, records: dict[str, Record], curves: dict[str, list[dict[str, Any]]]
) -> list[EndedCurve]:
    """Return the curves of the trunk's branches and of the nearest other cells."""
    own = [r for r in records.values() if r.trunk == longest.trunk]
    others = [r for r in records.values() if r.trunk != longest.trunk and r.schedule == "wsd"]
    others.sort(key=lambda r: abs(math.log(r.flops / longest.flops)))
    return [
        EndedCurve.of(r, curves[r.run_id], same_trunk=r.trunk == longest.trunk)
        for r in own + others[:MOST_OTHERS]
    ]
