"""What the settings of `form=surface` lose at withheld points of a sweep: the table of splits.

    python benchmarks/surface.py [--table TABLE.csv] [--context 2048] [--variants] [--draws 200]

Each split withholds some (N, D) of Step Law's smaller dense models (Li et al. 2025, 2503.04715;
`../shared/hyper`), fits the others and chooses settings for what is withheld. A setting loses the
loss of the tried setting nearest to it (log lr, log batch) over the best tried one. Beside it stand
the same for `form=lr_batch` (a regression on the optimum of each point) and for Step Law's
published rule, which has seen all points; and `floor`, which a smooth function fitted to the
withheld point itself loses: the best of a hundred noisy rows is partly luck. `smooth` is the loss
of the law's settings by that function, without the noise of single rows. `held` is the share of
optima of withheld points, by that function, inside the 90 % intervals. `--variants` prints a line
for each variant of the method.
"""

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from analysis import fit, load_law, load_runs
from analysis.estimation.lr_batch import settings
from analysis.estimation.surfaces import grid, valley
from analysis.estimation.surfaces.fit import NEEDED, nearest_row
from analysis.laws.law import Law

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("SCALING_SHARED", ROOT.parent / "shared"))
NEAR = 0.03  # share above the best of the rows that the smooth function of a point is fitted to
NONE = (np.log(1e-9), 0.01)  # prior of a curvature that is left out
VARIANTS = {
    "as it is": {},
    "rows within 5 %": {"BOUND": 0.05},
    "rows within 10 %": {"BOUND": 0.1},
    "rows within 25 %": {"BOUND": 0.25},
    "all rows": {"BOUND": 1e9},
    "without the cube": {"q_3": NONE},
    "without the cube, rows within 5 %": {"q_3": NONE, "BOUND": 0.05},
    "rate apart from the batch (rho = 0)": {"rho": (0.0, 1e-3)},
    "rho = 1/2": {"rho": (0.5, 1e-3)},
    "one curvature at all D (s = 0)": {"s": (0.0, 1e-3)},
    "batch in D alone": {"p_batch": (0.0, 1e-3)},
    "hardly a prior": {"ALIKE": 0.01},
    "prior ten times as strong": {"ALIKE": 30.0},
}


@contextmanager
def variant(changes: dict[str, object]) -> Iterator[None]:
    """Run with other constants of the method: a bound, the prior's weight, or one prior."""
    before = (grid.BOUND, valley.ALIKE, dict(valley.PRIORS))
    grid.BOUND = changes.get("BOUND", grid.BOUND)
    valley.ALIKE = changes.get("ALIKE", valley.ALIKE)
    valley.PRIORS.update({k: v for k, v in changes.items() if k in valley.PRIORS})
    try:
        yield
    finally:
        grid.BOUND, valley.ALIKE = before[:2]
        valley.PRIORS.update(before[2])


def splits(table: pd.DataFrame) -> dict[str, pd.Series]:
    """Return the withheld rows of each split, those that reach beyond the fitted points first."""
    n, d, c = table["params"], table["tokens"], table["params"] * table["tokens"]
    sizes, levels = np.unique(n), np.unique(c)
    most = d == d.groupby(n).transform("max")
    return {
        "largest N": n == sizes[-1],
        "largest D of each N": most,
        "D above 3e10": d > 3e10,
        "largest N, or D above 3e10": (n == sizes[-1]) | (d > 3e10),
        "largest N with D above 2e10": (n == sizes[-1]) & (d > 2e10),
        "5 largest C": c >= levels[-5] * (1 - 1e-9),
        "6 largest C": c >= levels[-6] * (1 - 1e-9),
        "D from 2e10 (5 points left)": d >= 2e10,
        "smallest N": n == sizes[0],
    }


def smooth(rows: pd.DataFrame) -> tuple[np.ndarray, object]:
    """Return the optimum (log lr, log batch) of a point's own rows, and its excess log loss."""
    near = rows[rows["loss"] <= rows["loss"].min() * (1 + NEAR)]
    x, y = np.log(near["lr"].to_numpy()), np.log(near["batch"].to_numpy())
    middle = np.array([x.mean(), y.mean()])

    def terms(x, y):
        u, v = x - middle[0], y - middle[1]
        return np.stack([np.ones_like(u), u, v, u * u, v * v, u * v, u**3, v**3], axis=-1)

    fitted = np.linalg.lstsq(terms(x, y), np.log(near["loss"].to_numpy()), rcond=None)[0]
    inside = [np.linspace(v.min(), v.max(), 80) for v in (x, y)]
    at = np.stack(np.meshgrid(*inside), axis=-1).reshape(-1, 2)
    height = terms(*at.T) @ fitted

    def excess(lr: float, batch: float) -> float:
        place = [
            np.clip(np.log(v), v_in[0], v_in[-1])
            for v, v_in in zip((lr, batch), inside, strict=True)
        ]
        return float(terms(*map(np.asarray, place)) @ fitted - height.min())

    return at[height.argmin()], excess


def lost(rows: pd.DataFrame, lr: float, batch: float) -> float:
    """Return what the row nearest to a setting loses to the best row."""
    losses = rows["loss"].to_numpy()
    return losses[nearest_row(rows, lr, batch)] / losses.min() - 1


def judged(law: Law, points: list[tuple[float, float, pd.DataFrame]]) -> pd.DataFrame:
    """Return one row for each withheld point (N, D, its rows)."""
    rule, records = load_law("steplaw2025"), []
    for n, d, rows in points:
        at, (own, excess) = law.settings(n, d), smooth(rows)
        record = {
            "surface": lost(rows, at.lr, at.batch),
            "smooth": excess(at.lr, at.batch),
            "floor": lost(rows, *np.exp(own)),
            "step_law": lost(rows, *(settings(rule, n, d)[a][0] for a in ("lr", "batch"))),
            "error": float(law.predict(n, d, force=True).loss) / rows["loss"].min() - 1,
        }
        for axis, value in zip(("lr", "batch"), np.exp(own), strict=True):
            if at.intervals:
                low, high = at.intervals[axis]
                record[f"held_{axis}"] = low <= value <= high
        records.append(record)
    return pd.DataFrame(records)


def of_split(table: pd.DataFrame, withheld: pd.Series, draws: int) -> pd.DataFrame:
    """Fit what is not withheld, and judge its settings at what is."""
    law = fit(table[~withheld].reset_index(drop=True), "surface", resamples=draws)
    groups = table[withheld].groupby(["params", "tokens"])
    return judged(law, [(n, d, rows) for (n, d), rows in groups])


def regression(table: pd.DataFrame, withheld: pd.Series) -> pd.Series:
    """Return what the settings of form=lr_batch lose, NaN where too few points carry it."""
    losses = []
    try:
        law = fit(table[~withheld].reset_index(drop=True), "lr_batch", resamples=0)
    except ValueError:
        return pd.Series([np.nan])
    for (n, d), rows in table[withheld].groupby(["params", "tokens"]):
        at = settings(law, n, d)
        if len(at) == 2:
            losses.append(lost(rows, at["lr"][0], at["batch"][0]))
    return pd.Series(losses or [np.nan])


def main() -> None:
    """Print the table of splits, or of variants."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", default=str(SHARED / "hyper" / "steplaw_dense_small.csv"))
    parser.add_argument("--context", type=float, default=2048)
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--variants", action="store_true")
    options = parser.parse_args()
    table = load_runs(options.table, needed=NEEDED, context=options.context).table
    parts = splits(table)
    write = sys.stdout.write
    if options.variants:
        write("| variant | mean lost | worst | smooth mean | smooth worst | loss, mean error |\n")
        write("|---|---|---|---|---|---|\n")
        for name, changes in VARIANTS.items():
            with variant(changes):
                every = pd.concat([of_split(table, rows, 0) for rows in parts.values()])
            write(
                f"| {name} | {every['surface'].mean():.3%} | {every['surface'].max():.2%} |"
                f" {every['smooth'].mean():.3%} | {every['smooth'].max():.2%} |"
                f" {every['error'].abs().mean():.2%} |\n"
            )
            sys.stdout.flush()
        return
    write("| withheld | points left | lost: mean, worst | smooth: mean, worst | floor | lr_batch |")
    write(" Step Law | best loss: mean, worst error | held: lr, batch |\n")
    write("|---|---|---|---|---|---|---|---|---|\n")
    for name, rows in parts.items():
        one, line = of_split(table, rows, options.draws), regression(table, rows)
        left = len(table[~rows].groupby(["params", "tokens"]))
        held = [f"{one[f'held_{a}'].sum()}" for a in ("lr", "batch") if f"held_{a}" in one]
        write(
            f"| {name} | {left} | {one['surface'].mean():.3%}, {one['surface'].max():.2%} |"
            f" {one['smooth'].mean():.3%}, {one['smooth'].max():.2%} | {one['floor'].mean():.3%} |"
            f" {line.mean():.3%}, {line.max():.2%} | {one['step_law'].mean():.3%} |"
            f" {one['error'].abs().mean():.2%}, {one['error'].abs().max():.2%} |"
            f" {', '.join(held)} of {len(one)} |\n"
        )
        sys.stdout.flush()


if __name__ == "__main__":
    main()
