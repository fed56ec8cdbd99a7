"""Is the forecast of a running cell honest: how often does its interval hold the final loss?

    python benchmarks/running.py runs=[runs/A,runs/B] [shares=[0.3,0.5,0.7]] [cells]

Finished cells of at least FEWEST_STEPS steps are cut at shares of their steps and forecast from
what was known then: their own curve, the shorter branches of their trunk that end before the cut,
and cells of smaller models. Errors are of the final test loss, in percent. `alone` is the forecast
without any finished cell, `crude` the rule that it replaces: the last test loss, times the fall
from the test loss at the start of the decay to the end of the next shorter branch.
"""

import json
import math
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from scaling.curves.at_end import EndedCurve, loss_at_end
from scaling.schema import read_curve, read_records

FEWEST_STEPS = 200
SHARES = (0.3, 0.5, 0.7)
OTHERS = 12  # Cells of other trunks at most, nearest in size, as in training.


def crude(rows: Sequence[dict], shorter: EndedCurve | None, n_steps: int) -> float | None:
    """Return the crude rule's forecast; None without a shorter branch or a test loss."""
    tests = [r for r in rows if "test_loss" in r]
    if shorter is None or not tests:
        return None
    own = [r for r in shorter.rows if "test_loss" in r and r["step"] <= 0.8 * shorter.n_steps]
    return tests[-1]["test_loss"] * shorter.test_loss / own[-1]["test_loss"] if own else None


def print_lines(lines: dict[tuple[float, str], list[Any]]) -> None:
    """Print a line for each share and way of forecasting; with `cells`, one for each cell."""
    for (share, name), values in sorted(lines.items()):
        known = [v for v in values if v is not None]
        errors = np.array([v[0] for v in known])
        held = np.mean([v[2] for v in known])
        print(
            f"{share:.0%}  {name:14} {len(known):3} of {len(values):3} forecast"
            f"  mean error {100 * np.mean(abs(errors)):.2f} %"
            f"  median {100 * np.median(abs(errors)):.2f} %  bias {100 * errors.mean():+.2f} %"
            f"  half width {100 * np.median([v[1] for v in known]):.1f} %  held {held:.0%}"
        )
        if "cells" in sys.argv:
            for error, half, _, params, steps in known:
                print(f"      {params:8} {steps:6} {100 * error:+.2f} {100 * half:.1f}")


def main() -> None:
    """Print one line for each share and way of forecasting, and one for each size."""
    settings = dict(a.split("=", 1) for a in sys.argv[1:] if "=" in a)
    folders = [Path(f) for f in settings["runs"].strip("[]").split(",")]
    shares = json.loads(settings["shares"]) if "shares" in settings else SHARES
    lines = defaultdict(list)
    seconds = []
    for folder in folders:
        records = [r for r in read_records(folder) if r.test_loss and r.stage == "pretrain"]
        curves = {r.run_id: read_curve(folder / r.run_id / "metrics.jsonl") for r in records}
        for r in records:
            reached = r.test_loss or math.nan
            if r.steps < FEWEST_STEPS:
                continue
            for share in shares:
                cut = share * r.steps
                rows = [row for row in curves[r.run_id] if row["step"] <= cut]
                own = [o for o in records if o.trunk == r.trunk and o.steps <= cut]
                others = [
                    o for o in records if o.trunk != r.trunk and o.params.total < r.params.total
                ]
                others.sort(key=lambda o: abs(math.log(o.flops / r.flops)))
                mine = [EndedCurve.of(o, curves[o.run_id], same_trunk=True) for o in own]
                rest = [
                    EndedCurve.of(o, curves[o.run_id], same_trunk=False) for o in others[:OTHERS]
                ]
                keys = {
                    "n_steps": r.steps,
                    "warmup_steps": r.config["schedule"]["warmup_steps"],
                    "end_rate": r.config["schedule"]["floor"],
                    "unique_tokens": r.unique_tokens,
                }
                began = time.perf_counter()
                forecasts = {
                    "alone": loss_at_end(rows, **keys),
                    "own branches": loss_at_end(rows, **keys, finished=mine),
                    "smaller cells": loss_at_end(rows, **keys, finished=mine + rest),
                }
                seconds.append((time.perf_counter() - began) / 3)
                guess = crude(rows, max(mine, key=lambda c: c.n_steps, default=None), r.steps)
                for name, forecast in forecasts.items():
                    value = None
                    if forecast is not None:
                        error = math.log(reached / forecast.loss)
                        half = math.log(forecast.high / forecast.low) / 2
                        held = forecast.low <= reached <= forecast.high
                        value = (error, half, held, r.params.total, r.steps)
                    lines[share, name].append(value)
                if guess:
                    lines[share, "crude"].append(
                        (math.log(reached / guess), math.nan, False, r.params.total, r.steps)
                    )
    print_lines(lines)
    print(f"{1e3 * np.median(seconds):.2f} ms a forecast (median)")


if __name__ == "__main__":
    main()
