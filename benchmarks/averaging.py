"""The average over forms against single forms on published runs, and the floors of its intervals.

    python benchmarks/averaging.py [--fits ../shared/fits] [--only porian] [--keep FILE]
                                   [--forms all] [--reaches 30]

Each table is fitted below cutoffs in C and the larger runs are predicted, by form=all and by
Chinchilla's form. Printed are, by family of tables and by distance in C, the median over splits of
the RMS error and the share of withheld runs inside nominal 90 % intervals of a new run, with its
95 % binomial interval as if each split were one observation. Then the least error by each e-fold of
C (`analysis.laws.form_error`) is set anew: the smallest on a grid with which the other families
together reach 90 % beyond ten times C, and what the family that was left out then has.
Where there are IsoFLOP budgets the loss at the optimum of each withheld budget (its own vertex by
`analysis.estimation.isoflops.isoflop`) is predicted too, by the laws and by the line L(C) + E
through the frontier; the medians over tables of the RMS error are printed.
--keep writes every withheld run as CSV, --forms and --reaches leave out splits and forms.
"""

import argparse
import os
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import ndtri
from scipy.stats import beta

from analysis import Law, fit, load_runs
from analysis.estimation.isoflops.isoflop import vertices
from analysis.estimation.power_laws import predict_power
from analysis.forms import column
from analysis.laws.form_error import tau_at
from analysis.runs.columns import Columns

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
FORMS = ("all", "chinchilla")
REACHES = (10.0, 30.0, 100.0)  # the largest C over the largest C that is fitted
OPTIMA = {"up to x3": (1.0, 3.0), "x3 to x12": (3.0, 12.0), "beyond x12": (12.0, np.inf)}
OPTIMUM = "optimum"  # the kind of rows about a budget's optimum
LINE = "L(C) + E"
DISTANCES = {"up to x3": (1.0, 3.0), "x3 to x10": (3.0, 10.0), "beyond x10": (10.0, np.inf)}
FEWEST_BELOW, FEWEST_ABOVE = 9, 3
LEVEL, RESAMPLES = 0.9, 100
GROWTHS = np.arange(0.0, 0.0205, 0.001)
Split = tuple[str, str, pd.DataFrame, float]


def tables(folder: Path) -> list[tuple[str, str, pd.DataFrame]]:
    """Read the published tables: family, name, runs."""
    kept = "dropped_by_authors == 0"
    found = [("Epoch", "240", load_runs(folder / "chinchilla_epoch245.csv", where=kept).table)]
    repeated = load_runs(folder / "muennighoff2023_datablations182.csv").table
    once = column(repeated, "tokens") <= 1.01 * column(repeated, "unique_tokens")
    found.append(("Muennighoff", "one pass", repeated.loc[once].drop(columns="unique_tokens")))
    for family, name, columns in (
        ("Gadre", "gadre2024_overtraining.csv", Columns(loss="loss_c4_val")),
        ("Porian", "porian2024_isoflop.csv", Columns()),
    ):
        table = load_runs(folder / name, columns=columns).table
        found += [(family, str(group), rows) for group, rows in table.groupby("group")]
    return [(f, n, t.reset_index(drop=True)) for f, n, t in found]


def splits(
    family: str, name: str, table: pd.DataFrame, reaches: Sequence[float] = REACHES
) -> list[Split]:
    """Return the cutoffs at which a table is split."""
    flops = np.sort(column(table, "flops"))
    below = [flops[flops <= flops[-1] / reach] for reach in reaches]
    cuts = dict.fromkeys(float(b[-1]) for b in below if len(b) >= FEWEST_BELOW)
    return [(family, name, table, c) for c in cuts if (flops > c).sum() >= FEWEST_ABOVE]


def scored(split: Split, forms: Sequence[str] = FORMS) -> pd.DataFrame:
    """Return a row a withheld run and form: its error, and what its interval is made of.

    Rows whose `kind` is optimum have the loss at the optimum of a withheld budget.
    """
    family, name, table, cutoff = split
    warnings.simplefilter("ignore")
    flops = column(table, "flops")
    below, above = table.loc[flops <= cutoff], table.loc[flops > cutoff]
    parts = []
    for form in forms:
        try:
            law = fit(below, form, resamples=RESAMPLES, level=LEVEL, sensitivity=False)
        except ValueError as error:
            print(f"{family} {name} below {cutoff:.3g}, {form}: {error}", file=sys.stderr)
            continue
        start = {"family": family, "table": name, "cutoff": cutoff, "form": form}
        start["within"] = law.inputs.get("within", np.nan)
        parts.append(pd.DataFrame(start | {"kind": "run"} | _rows(law, above)))
        optima = pd.DataFrame(_optima(law, above), columns=["form", "distance", "error"])
        parts.append(optima.assign(**{k: v for k, v in start.items() if k != "form"}, kind=OPTIMUM))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def _rows(law: Law, above: pd.DataFrame) -> dict[str, Any]:
    params, tokens = column(above, "params"), column(above, "tokens")
    found = law.predict(params, tokens, LEVEL, force=True)
    measured, nothing = column(above, "loss"), np.full(len(above), np.nan)
    distance = 6 * params * tokens / law.ranges["flops_6nd"][1]
    z, parts = ndtri((1 + LEVEL) / 2), found.parts
    inside = nothing
    if found.low is not None and found.high is not None:
        inside = ((found.low <= measured) & (measured <= found.high)).astype(float)
    tau = tau_at((law.backtest or {}).get("tau", []), np.maximum(np.log(distance), 0.0))
    return {
        "distance": distance,
        "error": np.log(found.loss / measured),
        "inside": inside,
        "half": np.log(found.high / found.low) / 2 if found.low is not None else nothing,
        "others": np.sqrt(sum(v**2 for k, v in parts.items() if k != "hindcast")) / z
        if parts
        else nothing,
        "tau": tau,
        "tested": float(bool((law.backtest or {}).get("tau"))),
    }


def _optima(law: Law, above: pd.DataFrame) -> list[tuple[str, float, float]]:
    """Return form, distance and error of the loss at the optimum of each withheld budget."""
    form = "all" if law.forecast else law.form
    power = next(p for p in law.power_laws if p["form"] == "power_flops_offset")
    rows = []
    for point in vertices(above):
        if point.params is None or point.tokens is None or not point.loss:
            continue
        flops = 6 * point.params * point.tokens
        distance = flops / law.ranges["flops_6nd"][1]
        best = law.optimum(flops, force=True).loss or np.nan
        rows.append((form, distance, float(np.log(best / point.loss))))
        if power["parameters"] and form == FORMS[0]:
            line = float(predict_power(power, np.array(point.flops)))
            rows.append((LINE, distance, float(np.log(line / point.loss))))
    return rows


def show_optima(rows: pd.DataFrame) -> None:
    """Print the error of the loss at the optimum of withheld budgets: medians over tables."""
    print("\n| loss at the optimum of withheld budgets | family | tables | " + " | ".join(OPTIMA))
    for (form, family), part in rows.groupby(["form", "family"]):
        texts = []
        for low, high in OPTIMA.values():
            here = part.loc[(part["distance"] > low) & (part["distance"] <= high)]
            errors = here.groupby("table")["error"].apply(lambda e: np.sqrt((e**2).mean()))
            texts.append(f"{errors.median():.2%}" if len(errors) else "-")
        print(f"| {form} | {family} | {part['table'].nunique()} | {' | '.join(texts)} |")


def share(values: pd.Series) -> str:
    """Return a mean over splits with its binomial interval."""
    n, mean = len(values), float(values.mean())
    k = mean * n
    low = beta.ppf(0.025, k, n - k + 1) if k > 0 else 0.0
    high = beta.ppf(0.975, k + 1, n - k) if k < n else 1.0
    return f"{mean:.0%} [{low:.0%}, {high:.0%}]"


def of_splits(rows: pd.DataFrame, value: Callable[[pd.DataFrame], float]) -> pd.Series:
    """Return a value of each split."""
    return pd.Series([value(part) for _, part in rows.groupby(["table", "cutoff"])], dtype=float)


def covered(rows: pd.DataFrame, growth: float) -> pd.Series:
    """Return the share of each split's runs inside intervals with another least error."""
    rows = rows.dropna(subset=["others"])
    floor = growth * np.maximum(np.log(rows["distance"]), 0.0)
    sd = np.hypot(rows["others"], np.maximum(rows["tau"], floor))
    inside = rows.assign(held=np.abs(rows["error"]) <= ndtri((1 + LEVEL) / 2) * sd)
    return of_splits(inside, lambda part: float(part["held"].mean()))


def show(rows: pd.DataFrame) -> None:
    """Print the tables in Markdown."""
    optima, rows = (rows.loc[(rows["kind"] == OPTIMUM) == is_of] for is_of in (True, False))
    print("| form | family | distance | splits | error | covered | half-width |")
    print("|---|---|---|---|---|---|---|")
    forms = list(dict.fromkeys(rows["form"]))
    for form in forms:
        for family in [*dict.fromkeys(rows["family"]), "all"]:
            for name, (low, high) in DISTANCES.items():
                at = (rows["form"] == form) & rows["distance"].between(low, high)
                part = rows.loc[at & ((rows["family"] == family) | (family == "all"))]
                if not len(part):
                    continue
                error = of_splits(part, lambda p: float(np.sqrt((p["error"] ** 2).mean())))
                held = part.dropna(subset=["inside"])
                inside = of_splits(held, lambda p: float(p["inside"].mean()))
                half = of_splits(held, lambda p: float(p["half"].median()))
                print(
                    f"| {form} | {family} | {name} | {len(error)} | {error.median():.2%} "
                    f"| {share(inside)} | {half.median():.2%} |"
                )
    print("\n| form | left out | least error by e-fold from the others | it then covers |")
    print("|---|---|---|---|")
    far = rows.loc[rows["distance"] >= DISTANCES["beyond x10"][0]]
    for form in forms:
        of_form = far.loc[far["form"] == form]
        for family in [*dict.fromkeys(of_form["family"]), ""]:
            others = of_form.loc[of_form["family"] != family]
            if not len(others):  # --only one family
                continue
            enough = [g for g in GROWTHS if covered(others, g).mean() >= LEVEL]
            growth = enough[0] if enough else GROWTHS[-1]
            own = of_form.loc[of_form["family"] == family] if family else others
            print(f"| {form} | {family or 'none'} | {growth:.1%} | {share(covered(own, growth))} |")
    if len(optima):
        show_optima(optima)


def main() -> None:
    """Score every split and print the tables, after a restart on one thread a process."""
    if os.environ.get("OMP_NUM_THREADS") != "1":
        os.environ |= dict.fromkeys(THREADS, "1")
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    default = Path(__file__).resolve().parents[2] / "shared"
    fits = Path(os.environ.get("SCALING_SHARED", default)) / "fits"
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--fits", type=Path, default=fits, help="folder of the published runs")
    parser.add_argument("--only", default="", help="part of a family's or table's name")
    parser.add_argument("--keep", type=Path, help="CSV of all withheld runs")
    parser.add_argument("--forms", nargs="+", default=FORMS, help="forms that are compared")
    parser.add_argument("--reaches", nargs="+", type=float, default=REACHES, help="of the splits")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    options = parser.parse_args()
    if not options.fits.is_dir():
        print(f"skipped: no published runs in {options.fits}; give --fits or set SCALING_SHARED")
        return
    todo = [s for one in tables(options.fits) for s in splits(*one, options.reaches)]
    todo = [s for s in todo if options.only.lower() in f"{s[0]} {s[1]}".lower()]
    began, done = time.monotonic(), []
    with ProcessPoolExecutor(options.processes) as pool:
        for future in as_completed([pool.submit(scored, s, options.forms) for s in todo]):
            done.append(future.result())
            spent = time.monotonic() - began
            left = spent / len(done) * (len(todo) - len(done))
            print(f"{len(done)} of {len(todo)}: {spent:.0f} s, {left:.0f} s left", file=sys.stderr)
            if options.keep:
                pd.concat(done, ignore_index=True).to_csv(options.keep, index=False)
    show(pd.concat(done, ignore_index=True))


if __name__ == "__main__":
    main()
