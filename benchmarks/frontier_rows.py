"""Simulated tables: when form=all should leave out rows far from the compute frontier, and does.

    python benchmarks/frontier_rows.py [--tables 25] [--kinds sound tuned] [--processes 2]

Each table has 8 IsoFLOP budgets (1e17 to 1e20 FLOPs) of 5 to 8 sizes within x4 to x30 of the best,
from a law of Chinchilla's or the coupled form, with .2 to 2 % of noise. Kinds:
- sound: nothing else; coupled: the same of a law that Chinchilla's form does not hold;
- skew: noise with a long tail upwards, at every shape;
- tuned: models above 1.6 times the best size lose 3 to 20 % by e-fold of size (mean, exponential);
- both: models below it as well; drift: so do models above the best size of the largest budget.
Printed are how often the rows near the frontier leave at most a share of the withheld error, and
the RMS and median error of the loss at the optimum of 12 and 40 times the largest budget if they
are fitted then. `analysis.alarms.of_fit.FAR_GAIN` is read off the rows of sound tables: the largest
share at which none of them changes.
"""

import argparse
import os
import sys
import warnings
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from analysis.forms import FORMS, Array, column
from analysis.forms.optimum import optimal_split
from analysis.solve.objective import Objective, problem_of
from analysis.solve.solver import minimise
from analysis.validate.form_ranking import weights_of
from analysis.validate.near_frontier import is_near_frontier
from analysis.validate.row_choice import SHARES, compared_error, errors_near

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
BUDGETS = np.geomspace(1e17, 1e20, 8)
REACHES = (12.0, 40.0)
GAINS = (0.4, 0.5, 0.6, 0.7, 0.8, 1.0)
KINDS = ("sound", "coupled", "skew", "tuned", "both", "drift")
PLAIN = ("chinchilla", "coupled", "kaplan", "overtraining")
TRUE = {
    "chinchilla": {"E": 1.8, "A": 482.0, "B": 2085.0, "alpha": 0.35, "beta": 0.37},
    "coupled": {"E": 1.5, "A": 150.0, "B": 400.0, "alpha": 0.25, "beta": 0.27, "p": 2.0},
}
TOLERATED = 0.5  # log size beyond the best up to which a run is tuned well


def table_of(kind: str, seed: int) -> pd.DataFrame:
    """Return a simulated table."""
    rng = np.random.default_rng(seed)
    name = "coupled" if kind == "coupled" else "chinchilla"
    form, law = FORMS[name], TRUE[name]
    width, sizes = np.log(rng.choice([4.0, 8.0, 16.0, 30.0])), int(rng.integers(5, 9))
    flops = np.repeat(BUDGETS, sizes)
    x = np.tile(np.linspace(-width, width, sizes), len(BUDGETS))
    x += rng.uniform(-0.3, 0.3, len(x))
    best = np.log([float(optimal_split(form, law, c)["params"]) for c in flops])
    params = np.exp(best + x)
    tokens = flops / 6 / params
    sd = rng.choice([0.002, 0.005, 0.01, 0.02])
    error = sd * rng.standard_normal(len(x))
    if kind == "skew":
        error += rng.exponential(2 * sd, len(x))
    if kind in ("tuned", "both"):
        beyond = np.maximum((np.abs(x) if kind == "both" else x) - TOLERATED, 0.0)
        error += rng.choice([0.03, 0.1, 0.2]) * beyond * rng.exponential(1.0, len(x))
    if kind == "drift":
        error += 0.1 * np.maximum(best + x - best.max(), 0.0) ** 2
        error += 0.05 * np.maximum(x, 0.0) * rng.exponential(1.0, len(x))
    loss = form.predict(law, {"params": params, "tokens": tokens}) * np.exp(error)
    return pd.DataFrame({"params": params, "tokens": tokens, "flops": flops, "loss": loss})


def scored(kind: str, seed: int) -> dict[str, Any]:
    """Return errors of withheld runs and of the loss at larger optima, by rows that are fitted."""
    warnings.simplefilter("ignore")
    table = table_of(kind, seed)
    tested, every = is_near_frontier(table), np.ones(len(table), dtype=bool)
    row: dict[str, Any] = {"kind": kind, "seed": seed}
    for name, fitted, forms in (
        ("all", every, PLAIN),
        *((f"{s}", is_near_frontier(table, s), (*PLAIN, "frontier")) for s in SHARES),
    ):
        errors = {f: errors_near(table, FORMS[f], None, fitted, tested) for f in forms}
        row |= {f"score_{name}": compared_error(errors)}
        row |= {f"far_{name}_{r:g}": e for r, e in _beyond(kind, table, fitted, errors).items()}
    return row


def _beyond(
    kind: str, table: pd.DataFrame, fitted: Array, errors: dict[str, dict[float, Array]]
) -> dict[float, float]:
    """Return the error of the average's loss at the true optimum of larger budgets."""
    cuts = sorted(set().union(*errors.values()))
    scores = {
        f: float(np.exp(np.mean([np.log(np.sqrt((one[c] ** 2).mean())) for c in cuts if c in one])))
        for f, one in errors.items()
        if one
    }
    weights = weights_of([{"form": f, "score": s} for f, s in scores.items()])
    name = "coupled" if kind == "coupled" else "chinchilla"
    logs = dict.fromkeys(REACHES, 0.0)
    for f, weight in weights.items():
        problem = problem_of(table.loc[fitted], FORMS[f], Objective())
        theta = minimise(problem, n_best=4).theta[:1]
        law = dict(zip(FORMS[f].parameters, problem.design.external(theta)[0], strict=True))
        for reach in REACHES:
            c = reach * BUDGETS[-1]
            n = np.asarray(optimal_split(FORMS[name], TRUE[name], c)["params"])
            values = {"params": n, "tokens": c / 6 / n}
            true = FORMS[name].predict(TRUE[name], values)
            logs[reach] += weight * float(np.log(FORMS[f].predict(law, values) / true))
    return logs


def show(rows: pd.DataFrame) -> None:
    """Print how often rows are left out, and the errors then, by kind and share of the error."""
    print("| kind | tables | gain | left out | rms x12 | median | rms x40 | median |")
    print("|---|---|---|---|---|---|---|---|")
    near = np.stack([column(rows, f"score_{s}") for s in SHARES])
    at = near.argmin(axis=0)
    ratio = near.min(axis=0) / column(rows, "score_all")
    for kind, part in rows.groupby("kind", sort=False):
        here = np.flatnonzero(rows["kind"] == kind)
        for gain in (0.0, *GAINS, np.inf):
            changed = ratio[here] <= gain
            texts = []
            for reach in REACHES:
                of_near = np.stack([column(part, f"far_{s}_{reach:g}") for s in SHARES])
                chosen = of_near[at[here], np.arange(len(here))]
                error = np.abs(np.where(changed, chosen, column(part, f"far_all_{reach:g}")))
                texts += [f"{np.sqrt((error**2).mean()):.2%}", f"{np.median(error):.2%}"]
            shown = f"| {kind} | {len(part)} | {gain:g} | {changed.mean():.0%}"
            print(f"{shown} | {' | '.join(texts)} |")


def main() -> None:
    """Simulate and print, after a restart on one thread a process."""
    if os.environ.get("OMP_NUM_THREADS") != "1":
        os.environ |= dict.fromkeys(THREADS, "1")
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tables", type=int, default=25, help="of each kind")
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    options = parser.parse_args()
    found = []
    with ProcessPoolExecutor(options.processes) as pool:
        for kind in options.kinds:
            found += pool.map(partial(scored, kind), range(options.tables))
            print(f"{kind}: {options.tables} tables", file=sys.stderr)
    show(pd.DataFrame(found))


if __name__ == "__main__":
    main()
