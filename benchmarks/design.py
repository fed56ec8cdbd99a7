"""What the sequential choice of cells saves against a fixed grid, where the truth is known.

    python benchmarks/design.py [--repeats 50] [--laws besiroglu,asymmetric] [--reaches 10,100]
    python benchmarks/design.py --study runs/base [--targets 6e11,2e12]      replays a real study

Simulation: the fixed grid is `isoflop` of benchmarks/intervals.py (4 budgets x 6 sizes), noise that
of LAWS 5.2, every cell trained alone. Its median half-width of the forecast at 10 and 100 times the
largest budget is the precision that the design must reach, from a pool of the grid's own range in
finer steps (7 budgets, 9 sizes within the same factor 4, 3 seeds), without knowing the law: it
starts from Hoffmann et al.'s. Reported are FLOPs over the grid's, and of both the share of new runs
inside the interval and the median error, since an interval is worth what it holds. `random` draws
its batches from the same pool.

Replay: the cells of a study that were trained are the pool, the trainer's rule gives the costs,
trunks shared, and the precision is what those cells of it reach that `--grid` selects, by default
sweeps/base.yaml's of a study that was grown:

    python -m scaling.sweep -m model=m2k,m4k,m7k,m14k,m25k,m39k,m56k,m83k,m150k seed=0,1 \\
        budget.flops=2e9,3.6e9,6.3e9,1.1e10,2e10,3.6e10,6.3e10,1.1e11,2e11 \\
        grid.max_flops_repeated=6.3e10
"""

import argparse
import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from intervals import DESIGNS, LAWS, deviation, draw, loss_of, simulated_by

from analysis import fit
from analysis.designing.candidates import Candidate, candidate_of, flops_of, grid_around
from analysis.designing.goal import Goal, standing
from analysis.designing.next_step import Options, Step, fit_if_identified, next_step, table_of
from analysis.estimation import fit as estimate
from analysis.laws.law import Law
from analysis.laws.published import load_law
from analysis.runs.table import Runs, load_runs
from scaling.schema import read_records

LARGEST = 1e19
GRID = DESIGNS[0]
PRIOR = "hoffmann2022"
MOST_STEPS = 60
QUICK = (  # the cells of sweeps/base.yaml
    "budget in (2e9, 6.3e9, 2e10, 6.3e10, 2e11) and width != 12 and (seed == 0 or budget < 7e9)"
)


@dataclass(frozen=True, kw_only=True)
class Job:
    """One course: contestant grid, design or random; `precision` in nats."""

    contestant: str
    law: str
    reach: float
    seed: int
    precision: float = 0.0
    resamples: int = 300


def one(job: Job) -> dict[str, Any]:
    """Return what one course cost, and whether its interval held a new run."""
    estimate.power_laws = lambda *_, **__: []
    rng = np.random.default_rng([job.seed, job.contestant == "grid"])
    goal = Goal(flops=job.reach * LARGEST, precision=job.precision)
    if job.contestant == "grid":
        table = draw(GRID, LAWS[job.law], rng)
        law = fit(table, resamples=job.resamples, sensitivity=False)
        flops, cells = float((6 * table["params"] * table["tokens"]).sum()), len(table)
        stop = "grid"
    else:
        law, flops, cells, stop = course(job, goal, rng)
    row = {"contestant": job.contestant, "law": job.law, "reach": job.reach, "seed": job.seed}
    row |= {"flops": flops, "cells": cells, "stop": stop}
    return row | (scored(law, goal, LAWS[job.law], rng) if law is not None else {})


def course(job: Job, goal: Goal, rng: np.random.Generator) -> tuple[Law | None, float, int, str]:
    """Choose and draw cells until the precision is reached."""
    prior = load_law(PRIOR)
    pool = grid_around(prior, np.geomspace(1e17, LARGEST, 7).tolist(), seeds=3)
    run: list[Candidate] = []
    losses: list[float] = []
    spent = 0.0
    options = Options(resamples=job.resamples)
    for _ in range(MOST_STEPS):
        names = {c.name for c in run}
        left = [c for c in pool if c.name not in names]
        runs = Runs(table=table_of(run, losses)) if run else None
        step = next_step(runs, left, goal, prior=prior, spent=spent, reached={}, options=options)
        if step.stop:
            return step.law, spent, len(run), step.stop
        batch = [left[p.index] for p in step.planned[: step.batch]]
        if job.contestant == "random":
            batch = [left[i] for i in rng.choice(len(left), len(batch), replace=False)]
        for cell in batch:
            true = float(loss_of(LAWS[job.law], cell.params, cell.tokens))
            losses.append(true + float(deviation(true)) * rng.standard_normal())
        run += batch
        spent += flops_of(batch)
    return step.law, spent, len(run), "steps"


def scored(
    law: Law, goal: Goal, truth: dict[str, float], rng: np.random.Generator
) -> dict[str, Any]:
    """Return half-width and error of the forecast, and whether a new run lies inside."""
    now = standing(law, goal) if law.usable else None
    if now is None:
        return {"half": np.nan, "held": False, "error": np.nan}
    at = law.optimum(goal.flops)
    true = float(loss_of(truth, at.params, at.tokens))
    new = true + float(deviation(true)) * rng.standard_normal()
    return {"half": now.half, "held": now.low <= new <= now.high, "error": abs(now.value - true)}


def simulate(options: argparse.Namespace) -> None:
    """Simulate grids, then designs to the grids' median precision; print the table."""
    cases = [(law, r) for law in options.laws.split(",") for r in options.reaches]
    grids = [
        Job(contestant="grid", law=law, reach=reach, seed=seed, resamples=options.resamples)
        for seed in range(options.repeats)
        for law, reach in cases
    ]
    frame = pd.DataFrame(simulated_by(one, grids, options.processes))
    wanted = frame.groupby(["law", "reach"])["half"].median()
    jobs = [
        replace(job, contestant=name, precision=float(wanted[job.law, job.reach]))
        for job in grids
        for name in options.contestants.split(",")
    ]
    frame = pd.concat([frame, pd.DataFrame(simulated_by(one, jobs, options.processes))])
    if options.out:
        frame.to_csv(options.out, index=False)
    print(report(frame))


def report(frame: pd.DataFrame) -> str:
    """Return a line a case and contestant."""
    lines = [
        f"{'law':<11}{'target':>8} {'':<9}{'repeats':>8}{'half-width':>11}{'cells':>7}"
        f"{'FLOPs / grid':>20}{'<= 1/2':>8}{'held':>7}{'|error|':>9}"
    ]
    for (law, reach), case in frame.groupby(["law", "reach"], sort=False):
        grid = float(case.loc[case["contestant"] == "grid", "flops"].median())
        for name, g in case.groupby("contestant", sort=False):
            ratio = g["flops"] / grid
            spread = f"{ratio.median():.2f} [{ratio.quantile(0.1):.2f}, {ratio.quantile(0.9):.2f}]"
            lines.append(
                f"{law:<11}{'x' + format(reach, 'g'):>8} {name:<9}{len(g):>8}"
                f"{g['half'].median():>11.4f}{g['cells'].median():>7.0f}{spread:>20}"
                f"{(ratio <= 0.5).mean():>8.0%}{g['held'].astype(float).mean():>7.0%}"
                f"{g['error'].median():>9.4f}"
            )
    lines.append("half-width and |error| in nats, medians; FLOPs: median [10 %, 90 %]")
    return "\n".join(lines)


def replay(options: argparse.Namespace) -> None:
    """Let the design choose among a study's trained cells until it knows what its grid does."""
    folder = Path(options.study)
    records = [r for r in read_records(folder) if r.status == "done" and r.stage == "pretrain"]
    cells = {r.run_id: candidate_of(r, "total") for r in records}
    runs = load_runs(folder)
    asked = pd.DataFrame(
        {
            "run": r.run_id,
            "budget": r.config["budget"]["flops"],
            "width": r.config["model"]["d_model"],
            "seed": r.seed,
        }
        for r in records
    )
    grid = asked.query(options.grid)["run"].tolist()
    paid = flops_of(cells[i] for i in grid)
    print(f"{'target':>8} {'batch':>5} {'grid':>21} {'design':>21} {'FLOPs / grid':>13}  ended")
    for reach, batch in itertools.product(
        map(float, options.targets.split(",")), map(int, options.batches.split(","))
    ):
        plan = Options(batch=batch)
        law, _ = fit_if_identified(_some(runs, grid), Goal(flops=reach), plan)
        before = standing(law, Goal(flops=reach)) if law else None
        if before is None:
            print(f"{reach:8.2g} the grid's law is none")
            continue
        goal = Goal(flops=reach, precision=before.half)
        step, run, spent = _replayed(runs, cells, goal, plan)
        now = step.standing
        told = f"{now.value:.4f} +- {now.half:.4f}" if now else "not identified"
        print(
            f"{reach:8.2g} {batch:5} {before.value:.4f} +- {before.half:.4f} {len(grid):3}"
            f" {told:>17} {len(run):3} {spent / paid:13.2f}  {step.stop}",
            flush=True,
        )


def _replayed(
    runs: Runs, cells: dict[str, Candidate], goal: Goal, options: Options
) -> tuple[Step, list[str], float]:
    run: list[str] = []
    spent, reached = 0.0, {}
    while True:
        left = [c for i, c in cells.items() if i not in run]
        step = next_step(
            _some(runs, run) if run else None,
            left,
            goal,
            prior=load_law(PRIOR),
            spent=spent,
            reached=reached,
            options=options,
        )
        if step.stop:
            return step, run, spent
        batch = [left[p.index] for p in step.planned[: step.batch]]
        spent += sum(p.flops for p in step.planned[: step.batch])
        run += [c.name for c in batch]
        for cell in sorted(batch, key=lambda c: c.leaves):
            reached[cell.trunk] = cell.leaves


def _some(runs: Runs, names: Sequence[str]) -> Runs:
    table = runs.table[runs.table["run"].isin(names)]
    return replace(runs, table=table.reset_index(drop=True))


def main() -> None:
    """Simulate, or replay a study."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--resamples", type=int, default=300)
    parser.add_argument("--laws", default=",".join(LAWS))
    parser.add_argument(
        "--reaches", type=lambda s: [float(x) for x in s.split(",")], default="10,100"
    )
    parser.add_argument("--contestants", default="design", help="of design, random")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--out", help="CSV of every course")
    parser.add_argument("--study", help="folder of records that are the pool")
    parser.add_argument("--grid", default=QUICK, help="which cells are the fixed grid, a query")
    parser.add_argument("--targets", default="6e11", help="FLOPs of the replay's final runs")
    parser.add_argument("--batches", default="4", help="cells a batch of the replay")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    replay(options) if options.study else simulate(options)


if __name__ == "__main__":
    main()
