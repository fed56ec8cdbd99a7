"""Time the usual way of fitting the Chinchilla form against ours, in one process, on one thread.

    python benchmarks/fit.py [rows.csv] [--starts 45] [--resamples 40]

(a) the usual way (Hoffmann et al. 2022, appendix D): scipy's L-BFGS-B with finite differences from
4500 starts, then 4000 bootstrap resamples from the best one. A random part of both is run, as many
as --starts and --resamples say, and its CPU time is extrapolated in proportion. (b) `analysis`: the
point estimate from its own starts and all 4000 resamples, in full. Reported too: how often (a)
reaches the objective of (b), for starts and for resamples. Without a table the rows are 240
synthetic ones.
"""

import argparse
import itertools
import os
import sys
import time

import numpy as np
import pandas as pd
from scipy.optimize import minimize
from scipy.special import huber, logsumexp

from analysis.forms import FORMS
from analysis.solve.objective import Objective, problem_of
from analysis.solve.solver import minimise
from analysis.uncertainty.bootstrap import bootstrap, unit_weights, units_of

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
DELTA = 1e-3
STARTS, RESAMPLES = 4500, 4000
EQUAL = 1e-8
TRUE = {"E": 1.8172, "A": 482.01, "B": 2085.43, "alpha": 0.3478, "beta": 0.3658}


def synthetic(rows: int = 240) -> pd.DataFrame:
    """Draw a table of the refit's law with 1 % noise over four decades of C."""
    rng = np.random.default_rng(0)
    params = 10 ** rng.uniform(7.6, 10.2, rows)
    tokens = params * 10 ** rng.uniform(0, 2.5, rows)
    loss = TRUE["E"] + TRUE["A"] * params ** -TRUE["alpha"] + TRUE["B"] * tokens ** -TRUE["beta"]
    noisy = loss * np.exp(0.01 * rng.standard_normal(rows))
    return pd.DataFrame({"params": params, "tokens": tokens, "loss": noisy})


def usual(theta: np.ndarray, x: np.ndarray, y: np.ndarray, z: np.ndarray, w: np.ndarray) -> float:
    """Return the summed Huber loss of (a, b, e, alpha, beta), as published implementations do."""
    a, b, e, alpha, beta = theta
    predicted = logsumexp([a - alpha * x, b - beta * y, np.full_like(x, e)], axis=0)
    return float((w * huber(DELTA, predicted - z)).sum())


def grid() -> list[tuple[float, ...]]:
    """Return the 4500 starts of Hoffmann et al. 2022."""
    exponents, logs = np.arange(0, 2.5, 0.5), np.arange(0, 30, 5)
    return list(itertools.product(logs, logs, np.arange(-1, 1.5, 0.5), exponents, exponents))


def run_usual(table: pd.DataFrame, starts: int, resamples: int, best: float) -> dict[str, float]:
    """Run a part of the usual way; returns CPU seconds, extrapolated, and what it reached."""
    rng = np.random.default_rng(1)
    x, y, z = (np.log(table[c].to_numpy()) for c in ("params", "tokens", "loss"))
    ones = np.ones(len(table))
    everything = grid()
    chosen = [everything[i] for i in rng.choice(len(everything), starts, replace=False)]
    options = {"method": "L-BFGS-B", "options": {"maxiter": 10_000, "maxfun": 200_000}}
    began = time.process_time()
    found = [minimize(usual, start, args=(x, y, z, ones), **options) for start in chosen]
    point_seconds = time.process_time() - began
    point = min(found, key=lambda r: r.fun)
    weights = unit_weights(units_of(table), rng, resamples)
    began = time.process_time()
    refits = [minimize(usual, point.x, args=(x, y, z, w), **options).fun for w in weights]
    resample_seconds = time.process_time() - began
    return {
        "seconds": point_seconds * STARTS / starts + resample_seconds * RESAMPLES / resamples,
        "measured": point_seconds + resample_seconds,
        "point_excess": point.fun / best - 1,
        "starts_equal": float(np.mean([r.fun <= best * (1 + EQUAL) for r in found])),
        "refits_equal": _equal(table, np.array(refits), weights),
    }


def _equal(table: pd.DataFrame, values: np.ndarray, weights: np.ndarray) -> float:
    ours = [
        minimise(problem_of(table.assign(weight=w), FORMS["chinchilla"], Objective())).value[0]
        for w in weights
    ]
    return float(np.mean(values <= np.array(ours) * (1 + EQUAL)))


def run_ours(table: pd.DataFrame) -> dict[str, float]:
    """Run the whole of ours; returns CPU seconds, objective and how many resamples converged."""
    began = time.process_time()
    problem = problem_of(table, FORMS["chinchilla"], Objective())
    found = minimise(problem)
    middle = time.process_time()
    boot = bootstrap(problem, found, units_of(table), resamples=RESAMPLES)
    ended = time.process_time()
    return {
        "seconds": ended - began,
        "point_seconds": middle - began,
        "value": float(found.value[0]),
        "converged": len(boot.draws),
    }


def main() -> None:
    """Print both times and their ratio, after a restart on one thread."""
    if os.environ.get("OMP_NUM_THREADS") != "1":
        os.environ |= dict.fromkeys(THREADS, "1")
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", nargs="?")
    parser.add_argument("--where", help="condition over the table's columns, as in analysis.fit")
    parser.add_argument("--starts", type=int, default=45)
    parser.add_argument("--resamples", type=int, default=40)
    options = parser.parse_args()
    table = pd.read_csv(options.table) if options.table else synthetic()
    table = table.query(options.where) if options.where else table
    table = table.reset_index(drop=True)
    ours = run_ours(table)
    theirs = run_usual(table, options.starts, options.resamples, ours["value"])
    print(f"{len(table)} rows, one thread, CPU seconds")
    print(
        f"(b) analysis: {ours['seconds']:.2f} s for the point ({ours['point_seconds']:.2f} s) and "
        f"{RESAMPLES} resamples, {ours['converged']} converged; objective {ours['value']:.12g}"
    )
    print(
        f"(a) L-BFGS-B, finite differences: {theirs['seconds']:.0f} s for {STARTS} starts and "
        f"{RESAMPLES} resamples, extrapolated from {options.starts} and {options.resamples} "
        f"({theirs['measured']:.1f} s measured)"
    )
    print(
        f"    its best of {options.starts} starts is {theirs['point_excess']:+.1e} from (b); "
        f"within {EQUAL:g} of the minimum: {theirs['starts_equal']:.0%} of starts, "
        f"{theirs['refits_equal']:.0%} of resamples"
    )
    print(f"ratio (a)/(b): {theirs['seconds'] / ours['seconds']:.0f}")


if __name__ == "__main__":
    main()
