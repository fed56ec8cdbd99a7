"""How often intervals contain the truth, and whether bad designs raise their alarm.

    python benchmarks/intervals.py [--repeats 200] [--resamples 1000] [--designs isoflop,ray]

Tables are drawn from known laws with the noise of LAWS 5.2 (deviation of a loss .002 nats at L = 3
and below, rising as a power to .05 at 7) and fitted by `analysis.fit` with its defaults; only what
has no part in these intervals (the sensitivity table, power laws in one variable) is left out for
time. Of nominal 90 % intervals it reports the coverage

    for E, a, and D*/N* at the largest budget, by percentile, bias-corrected and profile intervals;
    of the mean loss at the optimum of 1, 10 and 100 times the largest budget (`noise=False`);
    of the loss of one new run there (the whole interval: parameters, scatter, hindcasts),

the median bias and width of the forecasts, and which share of the tables of a bad design raised the
alarm that it must. A good design should cover 86-94 %; a cell outside is marked. With 200 tables
the simulation's own error is 2 %. `far` has every loss far above E: no alarm, intervals must tell.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis import fit
from analysis.estimation import fit as estimate
from analysis.forms import FORMS
from analysis.forms.optimum import chinchilla_optimum
from analysis.laws.law import Law
from analysis.solve.seed_noise import usual_deviation as deviation

LAWS = {
    "besiroglu": {"E": 1.8172, "A": 482.01, "B": 2085.43, "alpha": 0.3478, "beta": 0.3658},
    "asymmetric": {"E": 1.69, "A": 1200.0, "B": 240.0, "alpha": 0.42, "beta": 0.27},
}
REACHES = (1, 10, 100)
LEVEL = 0.9
WANTED = (0.86, 0.94)
KINDS = ("percentile", "bias_corrected", "profile")
NAMES = ("E", "a", "tokens_per_param")
BAD_SHARE = 0.15  # of the repeats: an alarm is raised always or the design is not bad


@dataclass(frozen=True, kw_only=True)
class Design:
    """Runs to draw: sizes as factors of the optimum at each budget, or sizes times ratios D/N."""

    name: str
    alarm: str | None = None  # that a bad design must raise
    budgets: tuple[float, ...] = ()
    factors: tuple[float, ...] = ()
    sizes: tuple[float, ...] = ()
    ratios: tuple[float, ...] = ()
    by_default: bool = True


Job = tuple[Design, str, int, int]  # and the law's name, resamples, seed


def spaced(low: float, high: float, n: int) -> tuple[float, ...]:
    """Return n numbers evenly spaced in logs."""
    return tuple(float(x) for x in np.geomspace(low, high, n))


DESIGNS = (
    Design(name="isoflop", budgets=spaced(1e17, 1e19, 4), factors=spaced(1 / 4, 4, 6)),
    Design(name="isoflop_wide", budgets=spaced(1e16, 1e19, 4), factors=spaced(1 / 8, 8, 6)),
    Design(name="rectangular", sizes=spaced(2e7, 8e8, 6), ratios=(5.0, 20.0, 80.0, 320.0)),
    Design(
        name="isoflop_6x7",
        budgets=spaced(3e17, 1e20, 6),
        factors=spaced(1 / 6, 6, 7),
        by_default=False,
    ),
    Design(
        name="far", budgets=spaced(1e14, 1e16, 4), factors=spaced(1 / 4, 4, 6), by_default=False
    ),
    Design(name="ray", alarm="single_ray", sizes=spaced(2e7, 8e8, 8) * 3, ratios=(20.0,)),
    Design(
        name="edge",
        alarm="edge_minimum",
        budgets=spaced(1e17, 1e19, 4),
        factors=spaced(2, 16, 6),
    ),
    Design(
        name="narrow",
        alarm="too_few_budgets",
        budgets=spaced(2e18, 1e19, 2),
        factors=spaced(1 / 4, 4, 12),
    ),
)


def loss_of(law: dict[str, float], params: Any, tokens: Any) -> Any:
    """Return the law's loss."""
    return FORMS["chinchilla"].predict(
        law, {"params": np.asarray(params, float), "tokens": np.asarray(tokens, float)}
    )


def draw(design: Design, law: dict[str, float], rng: np.random.Generator) -> pd.DataFrame:
    """Return one noisy table of a design."""
    rows = [(n, n * ratio) for n in design.sizes for ratio in design.ratios]
    for flops in design.budgets:
        best = float(chinchilla_optimum(law, flops)["params"])
        rows += [(best * f, flops / 6 / best / f) for f in design.factors]
    n, d = np.array(rows).T
    loss = loss_of(law, n, d)
    noisy = loss + deviation(loss) * rng.standard_normal(len(loss))
    return pd.DataFrame({"params": n, "tokens": d, "loss": noisy})


def one(job: Job) -> dict[str, Any]:
    """Fit one table of (design, law, resamples, seed); return which intervals held the truth."""
    design, name, resamples, seed = job
    rng = np.random.default_rng(seed)
    law = LAWS[name]
    table = draw(design, law, rng)
    estimate.power_laws = lambda *_, **__: []
    found = fit(table, resamples=resamples, level=LEVEL, seed=seed, sensitivity=False)
    row = {
        "design": design.name,
        "law": name,
        "usable": found.usable,
        "raised": design.alarm in [alarm.code for alarm in found.alarms],
    }
    if found.intervals is None or not found.usable:
        return row
    return row | _parameters(found, law) | _forecasts(found, law, rng)


def _parameters(found: Law, law: dict[str, float]) -> dict[str, bool]:
    """Tell which intervals of E, a and D*/N* hold the truth."""
    reach = found.ranges["flops_6nd"][1]
    split = chinchilla_optimum(law, reach)
    truth = {"E": law["E"], **{name: float(split[name]) for name in NAMES[1:]}}
    assert found.intervals is not None
    percentile = {**found.intervals["parameters"], **found.optimum(reach, LEVEL).intervals}
    ends = {"percentile": percentile, **{kind: found.intervals[kind] for kind in KINDS[1:]}}
    return {
        f"{kind} {name}": bool(ends[kind][name][0] <= truth[name] <= ends[kind][name][1])
        for kind in KINDS
        for name in NAMES
        if name in ends[kind]
    }


def _forecasts(found: Law, law: dict[str, float], rng: np.random.Generator) -> dict[str, Any]:
    """Tell which forecasts at the true optimum hold the mean loss and one new run."""
    row: dict[str, Any] = {}
    for factor in REACHES:
        split = chinchilla_optimum(law, factor * found.ranges["flops_6nd"][1])
        n, d = float(split["params"]), float(split["tokens"])
        true = float(loss_of(law, n, d))
        new = true + float(deviation(true)) * rng.standard_normal()
        for what, value, noise in (("mean", true, False), ("run", new, True)):
            said = found.predict(n, d, LEVEL, noise=noise)
            assert said.low is not None
            assert said.high is not None
            row[f"{what} x{factor}"] = bool(said.low <= value <= said.high)
            row[f"{what} width x{factor}"] = float(said.high - said.low) / true
            row[f"bias x{factor}"] = float(said.loss) / true - 1
    return row


def simulated(jobs: list[Job], processes: int) -> Iterator[dict[str, Any]]:
    """Yield a row a job of this harness."""
    return simulated_by(one, jobs, processes)


def simulated_by(
    work: Callable[[Any], dict[str, Any]], jobs: Sequence[Any], processes: int
) -> Iterator[dict[str, Any]]:
    """Yield a row a job, telling on stderr how many are done and what time is left."""
    began = told = time.monotonic()
    with ProcessPoolExecutor(processes) as pool:
        for done, row in enumerate(pool.map(work, jobs, chunksize=2), 1):
            yield row
            now = time.monotonic()
            if now - told > 10 or done == len(jobs):
                told, left = now, (now - began) / done * (len(jobs) - done)
                print(
                    f"{done} of {len(jobs)} tables, {now - began:.0f} s, about {left:.0f} s left",
                    file=sys.stderr,
                )


def cell(values: pd.Series | None) -> str:
    """Return a coverage in per cent, marked where it lies outside what is wanted."""
    values = pd.Series() if values is None else values.dropna()
    if not len(values):
        return "- "
    share = float(values.astype(float).mean())
    return f"{100 * share:.1f}" + (" " if WANTED[0] <= share <= WANTED[1] else "*")


def report(frame: pd.DataFrame) -> str:
    """Return the tables: parameters, forecasts, alarms."""
    groups = [
        (f"{d:<13} {law:<11}", g) for (d, law), g in frame.groupby(["design", "law"], sort=False)
    ]
    alarms = {d.name: d.alarm for d in DESIGNS}
    good = [(head, g) for head, g in groups if alarms[g["design"].iloc[0]] is None]
    bad = [(head, g) for head, g in groups if alarms[g["design"].iloc[0]] is not None]
    blocks = []
    if good:
        blocks += [_parameter_table(good), _forecast_table(good)]
    if bad:
        lines = [f"{'bad design':<26}{'tables':>7}{'usable':>8}  alarm"]
        for head, g in bad:
            share = f"{alarms[g['design'].iloc[0]]} in {g['raised'].mean():.0%}"
            lines.append(f"{head:<26}{len(g):>7}{g['usable'].mean():>8.0%}  {share}")
        blocks.append(lines)
    note = f"* outside {WANTED[0]:.0%}-{WANTED[1]:.0%}; widths and bias: medians, of the loss"
    return "\n\n".join("\n".join(block) for block in blocks) + f"\n\n{note}"


def _parameter_table(groups: list[tuple[str, pd.DataFrame]]) -> list[str]:
    short = {"percentile": "perc", "bias_corrected": "BCa", "profile": "prof"}
    columns = [f"{kind} {name}" for name in NAMES for kind in KINDS]
    first = "".join(f"{name:>21}" for name in ("E", "a", "D*/N*"))
    second = "".join(f"{short[c.split()[0]]:>7}" for c in columns)
    lines = [f"{'':<26}{'':>7}{first}", f"{'parameters, % covered':<26}{'tables':>7}{second}"]
    for head, g in groups:
        cells = "".join(f"{cell(g.get(c)):>7}" for c in columns)
        lines.append(f"{head:<26}{g['usable'].sum():>7}{cells}")
    return lines


def _forecast_table(groups: list[tuple[str, pd.DataFrame]]) -> list[str]:
    covered = [f"{what} x{factor}" for what in ("mean", "run") for factor in REACHES]
    lines = [
        f"{'':<26}{'mean loss':>21}{'one new run':>21}{'bias':>8}{'width of run':>15}",
        f"{'forecasts, % covered':<26}"
        + "".join(f"{'x' + str(f):>7}" for _ in range(2) for f in REACHES)
        + f"{'x100':>8}{'x10':>7}{'x100':>8}",
    ]
    for head, g in groups:
        cells = "".join(f"{cell(g[c]):>7}" for c in covered)
        sizes = f"{g['bias x100'].median():>8.2%}{g['run width x10'].median():>7.2%}"
        lines.append(f"{head:<26}{cells}{sizes}{g['run width x100'].median():>8.2%}")
    return lines


def main() -> None:
    """Simulate every design and print its tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=200, help="tables a good design and law")
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--designs", help=f"of {', '.join(d.name for d in DESIGNS)}, or all")
    parser.add_argument("--laws", default=",".join(LAWS))
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--out", help="CSV of every table's row")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    rows = []
    try:
        for row in simulated(_jobs(options), options.processes):
            rows.append(row)
    except KeyboardInterrupt:
        print(f"stopped: {len(rows)} tables", file=sys.stderr)
    frame = pd.DataFrame(rows)
    if options.out:
        frame.to_csv(options.out, index=False)
    print(report(frame))


def _jobs(options: argparse.Namespace) -> list[Job]:
    """Return what to simulate, by seed first, so that a run that is stopped is balanced."""
    asked = (options.designs or "").split(",")
    chosen = [d for d in DESIGNS if d.name in asked or asked == ["all"]]
    chosen = chosen if options.designs else [d for d in DESIGNS if d.by_default]
    return [
        (design, name, options.resamples, seed)
        for seed in range(options.repeats)
        for design in chosen
        for name in options.laws.split(",")
        if not design.alarm or seed < BAD_SHARE * options.repeats
    ]


if __name__ == "__main__":
    main()
