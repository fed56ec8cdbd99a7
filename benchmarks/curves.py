"""How well form=schedule forecasts loss curves under schedules that were not fitted.

    python benchmarks/curves.py [--folder ../shared/curves] [--law auto] [--study runs/quick]

For each table of released curves (Luo et al. 2025, 2503.12811) the law is fitted to cosine_24000,
constant_24000 and wsdcon_9, as the paper does, and forecasts the other schedules: mean absolute
relative error, error at the end, half width of the 90 % interval, share of rows inside. With
`--study`, the curve of each cell of a study is withheld in turn from those of its size. Prints
tables for benchmarks/RESULTS.md.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from analysis.runs.study_curves import study_curves
from scaling.curves import Curve, fit_curves, make_curve

FITTED = ("cosine_24000", "constant_24000", "wsdcon_9")
WARMUP = {"warmup_steps": 2160, "peak_lr": 3e-4}  # of the released curves, not in their tables


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    root = Path(__file__).resolve().parents[1]
    parser.add_argument("--folder", type=Path, default=root.parent / "shared" / "curves")
    parser.add_argument("--law", default="auto", help="auto, multi_power or annealing")
    parser.add_argument("--study", type=Path, default=None)
    options = parser.parse_args()
    for path in sorted(options.folder.glob("*.csv")):
        released(path, options.law)
    if options.study:
        withheld(options.study)


def released(path: Path, law: str) -> None:
    """Print the errors of one table."""
    table = pd.read_csv(path)
    curves = {
        str(name): make_curve(rows["step"], rows["lr"], rows["loss"], name=str(name), **WARMUP)
        for name, rows in table.groupby("schedule")
    }
    began = time.process_time()
    fit = fit_curves([curves[name] for name in FITTED], law=law)
    took = time.process_time() - began
    weights = ", ".join(
        f"{one.law.name} {w:.2f}" for one, w in zip(fit.laws, fit.weights, strict=True)
    )
    print(f"\n{path.stem}: {fit.status}, {weights}; {took:.1f} CPU s\n")
    print("| schedule | | mean error | at the end | half interval | inside |")
    print("|---|---|---|---|---|---|")
    errors, inside = [], []
    for name, curve in curves.items():
        got = fit.predict(curve.step, curve.lr)
        error, half = got.loss / curve.loss - 1, (got.high - got.low) / 2 / got.loss
        held = (got.low <= curve.loss) & (curve.loss <= got.high)
        if name not in FITTED:
            errors.append(np.abs(error).mean())
            inside.append(held.mean())
        print(
            f"| {name} | {'fitted' if name in FITTED else 'forecast'} |"
            f" {100 * np.abs(error).mean():.3f} % | {100 * error[-1]:+.3f} % |"
            f" {100 * half.mean():.2f} % | {100 * held.mean():.0f} % |"
        )
    print(
        f"\nThe {len(errors)} forecast schedules: mean error {100 * np.mean(errors):.3f} %, worst"
        f" {100 * max(errors):.3f} %, inside {100 * np.mean(inside):.1f} %."
    )


def withheld(folder: Path) -> None:
    """Print how the end of each cell is forecast from the other cells of its size."""
    errors, inside, ends = [], [], 0
    for size in study_curves(folder).sizes:
        for curve in size.curves:
            others = [one for one in size.curves if one is not curve]
            error = _end_error(others, curve)
            ends += 1
            if error is not None:
                errors.append(error[0])
                inside.append(error[1])
    print(
        f"\n{folder}: {len(errors)} of {ends} ends forecast from the other cells of their size:"
        f" median error {100 * np.median(np.abs(errors)):.2f} %, mean"
        f" {100 * np.mean(np.abs(errors)):.2f} %, inside {100 * np.mean(inside):.0f} %."
    )


def _end_error(others: list[Curve], curve: Curve) -> tuple[float, bool] | None:
    """Return the relative error at the end and whether the interval holds; None if refused."""
    if not others:
        return None
    fit = fit_curves(others)
    try:
        got = fit.predict(
            curve.step, curve.lr, warmup_steps=curve.warmup_steps, peak_lr=curve.peak_lr
        )
    except ValueError:
        return None
    loss = curve.loss[-1]
    return float(got.loss[-1] / loss - 1), bool(got.low[-1] <= loss <= got.high[-1])


if __name__ == "__main__":
    main()
