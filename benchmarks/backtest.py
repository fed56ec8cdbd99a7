"""Backtest on published runs: ours against plain Approach 2 and a single L-BFGS fit.

    python benchmarks/backtest.py [--fits ../shared/fits] [--cutoffs 3] [--only porian]

Each data set is fitted below cutoffs in C and the runs above them are predicted:
- ours: `analysis.fit` with its defaults; its 90 % intervals with and without tau, the hindcast
  term, which is measured below the same cutoff;
- near: the same fit with within=0.1, of the rows whose loss is within 10 % of the best at their C
  or less (errors alone, no intervals);
- L-BFGS: one scipy L-BFGS-B descent, finite differences, default tolerances, the mean of Huber
  losses, no check of convergence, from (H) the constants that Hoffmann et al. 2022 print, or (G) a
  random start of their grid: the median over several. The constants of (H) were fitted to all of
  the Epoch runs, withheld ones included, and such a descent stops near its start.
Where there are IsoFLOP budgets the optimum of each withheld budget (its own vertex by
`analysis.estimation.isoflops.isoflop`) is predicted too, by our fits, by our IsoFLOP line and our
L(C) + E, and by plain Approach 2: a parabola through all sizes of a budget, every vertex taken, N*
and the vertex loss as power laws of C, the latter with an offset from 4 budgets on. Laws that are
not usable are made to predict all the same, so that all methods answer for the same runs; how many
there were is printed. A run withheld by two cutoffs counts once a cutoff.

`python -m analysis.backtest runs=FOLDER` compares methods on anybody's tables and has the descents
and splits of this file; here are the figures of README's tables.
"""

import argparse
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import curve_fit

from analysis import Law, fit, load_runs
from analysis.backtesting.baselines import HOFFMANN, grid_starts, single_descent, surface_of
from analysis.backtesting.splits import by_distance, rms, splits
from analysis.estimation.isoflops.isoflop import budgets, vertices
from analysis.estimation.power_laws import predict_power
from analysis.forms import column
from analysis.runs.columns import Columns
from analysis.validate.hindcast import FEWEST_SIZES
from analysis.validate.near_frontier import WITHIN

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
LEVEL = 0.9
RESAMPLES = 100
BUCKETS = {"up to x3": (1.0, 3.0), "x3 to x12": (3.0, 12.0), "beyond x12": (12.0, np.inf)}
GRID_STARTS = 7
FEWEST_WITH_OFFSET = 4
N_COLUMNS = ("n_ours", "n_near", "n_isoflop", "n_approach_2")
L_COLUMNS = ("l_ours", "l_near", "l_power", "l_approach_2")
SURFACES = ("chinchilla", "coupled")
FAMILIES = ("Epoch", "Porian", "Gadre", "data-constrained")


@dataclass(frozen=True, kw_only=True)
class Task:
    """One data set under one form."""

    family: str
    name: str
    form: str
    table: pd.DataFrame

    @property
    def title(self) -> str:
        """Name of data set and form."""
        return f"{self.family} {self.name}".strip() + f", form {self.form}"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Rows of withheld runs and of withheld optima, and how many laws were usable."""

    runs: pd.DataFrame
    optima: pd.DataFrame
    usable: int
    fits: int


def tasks(folder: Path) -> list[Task]:
    """Read the published tables; the slowest first."""
    repeated = load_runs(folder / "muennighoff2023_datablations182.csv").table
    found = [
        Task(family="data-constrained", name="", form=form, table=repeated)
        for form in ("data_constrained", *SURFACES)
    ]
    kept = "dropped_by_authors == 0"
    table = load_runs(folder / "chinchilla_epoch245.csv", where=kept).table
    found += [Task(family="Epoch", name="240", form=form, table=table) for form in SURFACES]
    for name, table in _groups(folder / "gadre2024_overtraining.csv", Columns(loss="loss_c4_val")):
        found += [
            Task(family="Gadre", name=name, form=form, table=table)
            for form in (*SURFACES, "overtraining")
        ]
    for name, table in _groups(folder / "porian2024_isoflop.csv", Columns()):
        found += [Task(family="Porian", name=name, form=form, table=table) for form in SURFACES]
    return found


def _groups(path: Path, columns: Columns) -> list[tuple[str, pd.DataFrame]]:
    table = load_runs(path, columns=columns).table
    return [(str(name), rows.reset_index(drop=True)) for name, rows in table.groupby("group")]


def outcome(task: Task, most_cutoffs: int) -> Outcome:
    """Fit below each cutoff and score what lies above."""
    table, flops = task.table, column(task.table, "flops")
    runs, optima, usable = [], [], 0
    chosen = splits(table, flops, task.form, most_cutoffs)
    for cutoff in chosen:
        below, above = table.loc[flops <= cutoff], table.loc[flops > cutoff]
        law = fit(below, task.form, resamples=RESAMPLES, level=LEVEL, sensitivity=False)
        usable += law.usable
        extras = {"resamples": 0, "hindcast": False, "sensitivity": False}
        near = fit(below, task.form, within=WITHIN, **extras)
        reach = flops[flops <= cutoff].max()
        runs.append(scored_runs(law, near, below, above, column(above, "flops") / reach))
        optima.append(scored_optima(law, near, below, above, reach))
    return Outcome(
        runs=pd.concat(runs, ignore_index=True),
        optima=pd.concat(optima, ignore_index=True),
        usable=usable,
        fits=len(chosen),
    )


def scored_runs(
    law: Law, near: Law, below: pd.DataFrame, above: pd.DataFrame, distance: np.ndarray
) -> pd.DataFrame:
    """Return a row a withheld run: relative errors, and whether intervals held it."""
    measured = column(above, "loss")
    rows: dict[str, Any] = {"distance": distance}
    for name, shown in (("covered", law), ("covered_without_tau", replace(law, backtest=None))):
        found = shown.predict_table(above, LEVEL, force=True)
        rows["ours"] = np.log(column(found, "loss") / measured)
        low, high = (
            column(found, end) if end in found else np.full(len(found), np.nan)
            for end in ("low", "high")
        )
        inside = (low <= measured) & (measured <= high)
        rows[name] = np.where(np.isfinite(low), inside, np.nan)
        rows[f"{name}_half"] = np.log(high / low) / 2
    rows["near"] = np.log(column(near.predict_table(above, force=True), "loss") / measured)
    rows["lbfgs_h"] = np.log(surface_of(single_descent(below, HOFFMANN), above) / measured)
    for i, start in enumerate(grid_starts(GRID_STARTS)):
        predicted = surface_of(single_descent(below, start), above)
        rows[f"lbfgs_g{i}"] = np.log(np.maximum(predicted, 1e-3) / measured)
    return pd.DataFrame(rows).astype(float)


def scored_optima(
    law: Law, near: Law, below: pd.DataFrame, above: pd.DataFrame, reach: float
) -> pd.DataFrame:
    """Return a row a withheld budget with a vertex: errors of log N* and log L*."""
    plain = None if "unique_tokens" in below else approach_2(below)  # repetition tilts profiles
    if plain is None:
        return pd.DataFrame()
    line = law.methods.get("isoflop")
    power = next(p for p in law.power_laws if p["form"] == "power_flops_offset")
    rows = []
    for point in vertices(above):
        if point.params is None or point.tokens is None or point.loss is None:
            continue
        log_n, log_l = np.log(point.params), np.log(point.loss)
        row = {"distance": point.flops / reach}
        for name, shown in (("ours", law), ("near", near)):
            best = shown.optimum(6 * point.params * point.tokens, force=True)
            row[f"n_{name}"] = np.log(best.params) - log_n
            row[f"l_{name}"] = np.log(best.loss or np.nan) - log_l
        isoflop = np.log(line["k_params"] * point.flops ** line["a"]) if line else np.nan
        frontier = predict_power(power, np.array(point.flops)) if power["parameters"] else np.nan
        row |= {
            "n_isoflop": isoflop - log_n,
            "n_approach_2": plain["params"](point.flops) - log_n,
            "l_power": float(np.log(frontier)) - log_l,
            "l_approach_2": plain["loss"](point.flops) - log_l,
        }
        rows.append(row)
    return pd.DataFrame(rows)


def approach_2(table: pd.DataFrame) -> dict[str, Any] | None:
    """Fit plain Approach 2; returns log N*(C) and log L*(C), None with fewer than 3 budgets."""
    found = []
    for rows in budgets(table):
        log_n, loss = np.log(column(table, "params")[rows]), column(table, "loss")[rows]
        c2, c1, c0 = np.polyfit(log_n - log_n.mean(), loss, 2)
        at = -c1 / (2 * c2)
        log_c = np.log(column(table, "flops")[rows]).mean()
        found.append((log_c, at + log_n.mean(), c0 + c1 * at / 2))
    if len(found) < FEWEST_SIZES:
        return None
    log_c, log_n, loss = np.array(found).T
    slope, intercept = np.polyfit(log_c, log_n, 1)
    return {
        "params": lambda flops: intercept + slope * np.log(flops),
        "loss": _loss_line(log_c, loss),
    }


def _loss_line(log_c: np.ndarray, loss: np.ndarray) -> Any:
    """Return log L*(C): a power law, with an offset where budgets allow it and it can be fitted."""
    positive = loss > 0
    slope, intercept = np.polyfit(log_c[positive], np.log(loss[positive]), 1)
    if len(loss) >= FEWEST_WITH_OFFSET:
        middle = log_c.mean()

        def curve(x: np.ndarray, offset: float, k: float, gamma: float) -> np.ndarray:
            return offset + k * np.exp(-gamma * (x - middle))

        try:
            start = (loss.min() / 2, loss.mean() - loss.min() / 2, 0.1)
            best, _ = curve_fit(curve, log_c, loss, p0=start)
        except RuntimeError:  # no minimum found: the plain power law stands
            pass
        else:
            return lambda flops: np.log(max(curve(np.log(flops), *best), 1e-3))
    return lambda flops: intercept + slope * np.log(flops)


def buckets(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Split rows by the distances of README's table; empty ones are left out."""
    return by_distance(rows, BUCKETS)


def lbfgs_g(rows: pd.DataFrame) -> float:
    """Return the median over grid starts of the rms error."""
    return float(np.median([rms(rows[f"lbfgs_g{i}"]) for i in range(GRID_STARTS)]))


def show(task: Task, found: Outcome) -> None:
    """Print the tables of one data set, at most 100 columns wide."""
    print(f"\n{task.title}: {len(task.table)} runs, {found.usable} of {found.fits} laws usable")
    print(
        f"  {'loss, rms':<12}{'runs':>6}{'ours':>9}{'covered':>9}{'width':>9}{'no tau':>8}"
        f"{'width':>9}{'near':>9}{'L-BFGS H':>10}{'L-BFGS G':>10}"
    )
    for name, rows in buckets(found.runs).items():
        with_tau, without = (
            (_share(rows[c]), _width(rows[f"{c}_half"])) for c in ("covered", "covered_without_tau")
        )
        print(
            f"  {name:<12}{len(rows):>6}{rms(rows['ours']):>9.2%}{with_tau[0]:>9}{with_tau[1]:>9}"
            f"{without[0]:>8}{without[1]:>9}{rms(rows['near']):>9.2%}{rms(rows['lbfgs_h']):>10.2%}"
            f"{lbfgs_g(rows):>10.2%}"
        )
    if not len(found.optima):
        return
    print(
        f"  {'optima, rms':<12}{'number':>6}{'N* ours':>9}{'near':>8}{'IsoFLOP':>9}{'App. 2':>8}"
        f"{'L* ours':>9}{'near':>8}{'L(C)+E':>8}{'App. 2':>9}"
    )
    for name, rows in buckets(found.optima).items():
        n, level = ([rms(rows[c]) for c in names] for names in (N_COLUMNS, L_COLUMNS))
        print(
            f"  {name:<12}{len(rows):>6}{n[0]:>9.3f}{n[1]:>8.3f}{n[2]:>9.3f}{n[3]:>8.3f}"
            f"{level[0]:>9.2%}{level[1]:>8.2%}{level[2]:>8.2%}{level[3]:>9.2%}"
        )


def _share(values: Any) -> str:
    kept = np.asarray(values, dtype=float)
    return f"{np.nanmean(kept):.0%}" if np.isfinite(kept).any() else "-"


def _width(values: Any) -> str:
    kept = np.asarray(values, dtype=float)
    return f"±{np.nanmedian(kept):.2%}" if np.isfinite(kept).any() else "-"


def summary(results: list[tuple[Task, Outcome]]) -> str:
    """Return Markdown: runs by family and distance, then optima, medians over data sets."""
    lines = [
        "| data, form (data sets) | distance | ours | covered | without tau | near | L-BFGS H "
        "| L-BFGS G |",
        "|---|---|---|---|---|---|---|---|",
    ]
    keys = list(dict.fromkeys((t.family, t.form) for t, _ in results))
    keys.sort(key=lambda key: (FAMILIES.index(key[0]), key[1]))
    for key in keys:
        lines += _run_lines(f"{key[0]}, {key[1]}", [f for t, f in results if _key(t) == key])
    lines += _run_lines("all, chinchilla", [f for t, f in results if t.form == "chinchilla"])
    optima = [f for t, f in results if t.form == "chinchilla" and len(f.optima)]
    if optima:
        lines += [
            "",
            "| optimum of withheld budgets | N* ours | N* near | N* our IsoFLOP | N* Approach 2 "
            "| L* ours | L* near | L* our L(C) + E | L* Approach 2 |",
            "|---|---|---|---|---|---|---|---|---|",
            *_optimum_lines(optima),
        ]
    return "\n".join(lines)


def _key(task: Task) -> tuple[str, str]:
    return task.family, task.form


def _run_lines(label: str, found: list[Outcome]) -> list[str]:
    lines = []
    for name in BUCKETS:
        parts = [buckets(f.runs)[name] for f in found if name in buckets(f.runs)]
        if not parts:
            continue
        ours, near, theirs = (
            np.median([rms(p[c]) for p in parts]) for c in ("ours", "near", "lbfgs_h")
        )
        grid = np.median([lbfgs_g(p) for p in parts])
        shares = [_share(pd.concat(parts)[c]) for c in ("covered", "covered_without_tau")]
        lines.append(
            f"| {label} ({len(parts)}) | {name} | {ours:.2%} | {shares[0]} | {shares[1]} "
            f"| {near:.2%} | {theirs:.2%} | {grid:.2%} |"
        )
    return lines


def _optimum_lines(found: list[Outcome]) -> list[str]:
    lines = []
    for name in BUCKETS:
        parts = [buckets(f.optima)[name] for f in found if name in buckets(f.optima)]
        if not parts:
            continue
        n, level = (
            [np.nanmedian([rms(p[c]) for p in parts]) for c in names]
            for names in (N_COLUMNS, L_COLUMNS)
        )
        shown = [f"x{np.exp(m):.3f}" for m in n] + [f"{m:.2%}" for m in level]
        lines.append(f"| {name} ({len(parts)} data sets) | {' | '.join(shown)} |")
    return lines


def folder_of(given: str | None) -> Path:
    """Return the folder of published runs: --fits, $SCALING_SHARED/fits or ../shared/fits."""
    default = Path(__file__).resolve().parents[2] / "shared"
    return Path(given or Path(os.environ.get("SCALING_SHARED", default)) / "fits")


def main() -> None:
    """Print a table a data set and the summary, after a restart on one thread a process."""
    if os.environ.get("OMP_NUM_THREADS") != "1":
        os.environ |= dict.fromkeys(THREADS, "1")
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--fits", help="folder of the published runs")
    parser.add_argument("--cutoffs", type=int, default=3, help="a data set")
    parser.add_argument("--only", default="", help="part of a data set's name")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    options = parser.parse_args()
    folder = folder_of(options.fits)
    if not folder.is_dir():
        print(f"skipped: no published runs in {folder}; give --fits or set SCALING_SHARED")
        return
    todo = [t for t in tasks(folder) if options.only.lower() in t.title.lower()]
    if not todo:
        sys.exit(f"--only {options.only} names none of the data sets; families: {FAMILIES}")
    began = time.monotonic()
    done: dict[int, Outcome] = {}
    with ProcessPoolExecutor(options.processes) as pool:
        futures = {pool.submit(outcome, t, options.cutoffs): i for i, t in enumerate(todo)}
        for future in as_completed(futures):
            done[futures[future]] = future.result()
            spent = time.monotonic() - began
            left = spent / len(done) * (len(todo) - len(done))
            print(f"{len(done)} of {len(todo)}: {spent:.0f} s, {left:.0f} s left", file=sys.stderr)
    results = [(todo[i], done[i]) for i in sorted(done)]
    for task, found in results:
        show(task, found)
    print(f"\nmedian over data sets of the rms error; shares over all runs\n\n{summary(results)}")


if __name__ == "__main__":
    main()
