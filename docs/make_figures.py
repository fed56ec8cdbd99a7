"""Draw the figures of the explanations into docs/figures: `python docs/make_figures.py`.

The numbers come from published laws, from the grid of sweeps/quick.yaml, from the tables that
sweeps/LOG.md holds and, where a folder ../shared/fits (or $SCALING_SHARED/fits) has it, from
Epoch's table of Hoffmann et al. 2022. Without that table its two figures stay as they are. The
same numbers give the same bytes.
"""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from analysis import fit, load_law, load_runs
from analysis.forms import FORMS
from analysis.forms.data_constrained import effective
from scaling.config import ScheduleConfig
from scaling.optim.schedule import lr_factor

ROOT = Path(__file__).resolve().parents[1]
FIGURES = ROOT / "docs" / "figures"
SHARED = Path(os.environ.get("SCALING_SHARED", ROOT.parent / "shared"))
EPOCH = SHARED / "fits" / "chinchilla_epoch245.csv"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe and Ito 2008
SIZE = (6.4, 3.8)  # inches
# sweeps/LOG.md, "over-optimisation by PPO": mean held-out gold reward by d = sqrt(KL), reward
# models of 125 pairs, 12 seeds; the fine-tuned model has .545.
GOLD_BEFORE = 0.545
GOLD = {0.65: 0.551, 1.25: 0.553, 1.75: 0.581, 2.25: 0.597, 2.75: 0.584} | {
    3.25: 0.582,
    3.75: 0.559,
    4.5: 0.546,
    5.5: 0.520,
}
TURNING = {
    "alpha": 0.033,
    "beta": 0.018,
}  # the law of these points there, R = d (alpha - beta log d)
LARGEST = 1e19  # FLOPs of the largest simulated run
OPERATED = 0.7  # share of d* at which a plan runs


def main() -> None:
    """Draw every figure whose numbers are at hand."""
    matplotlib.rcParams.update(
        {
            "svg.hashsalt": "scaling-laws",
            "svg.fonttype": "path",
            "font.size": 11,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.alpha": 0.3,
            "legend.frameon": False,
            "figure.constrained_layout.use": True,
        }
    )
    FIGURES.mkdir(exist_ok=True)
    save("isoflop", isoflop)
    save("repeated", repeated)
    save("overoptimisation", overoptimisation)
    save("trunk", trunk)
    save("grid", grid)
    save("ray", ray)
    if EPOCH.is_file():
        save("interval_parts", interval_parts)
        save("forms_beyond", forms_beyond)


def save(name: str, draw: Callable[[Axes], None]) -> None:
    """Draw one figure and write it as SVG on white, without the date."""
    figure, axes = plt.subplots(figsize=SIZE)
    draw(axes)
    figure.savefig(FIGURES / f"{name}.svg", metadata={"Date": None}, facecolor="white")
    plt.close(figure)


def isoflop(axes: Axes) -> None:
    """Loss against N at four budgets by Besiroglu et al. 2024, the best sizes and the frontier."""
    law = load_law("besiroglu2024")
    best = []
    for colour, flops in zip(COLOURS, (1e20, 1e21, 1e22, 1e23), strict=False):
        optimum = law.optimum(flops)
        n = optimum.params * np.geomspace(1 / 12, 12, 200)
        axes.plot(n, law.predict(n, flops / 6 / n).loss, color=colour, label=f"C = {flops:.0e}")
        best.append((optimum.params, optimum.loss))
    axes.plot(*zip(*best, strict=True), "k--o", markersize=5, label="best size")
    axes.set(xscale="log", xlabel="N, parameters", ylabel="loss, nats per token", ylim=(1.9, 3.0))
    axes.legend(fontsize=10)


def repeated(axes: Axes) -> None:
    """Worth of D tokens of which U are distinct, by the R_D of Muennighoff et al. 2023."""
    decay = load_law("muennighoff2023").parameters["R_D"]
    passes = np.geomspace(1, 200, 200)
    axes.plot(passes, passes, color="gray", linestyle=":", label="fresh tokens")
    axes.plot(passes, effective(passes, 1.0, decay), color=COLOURS[0], label="repeated tokens")
    axes.axhline(1 + decay, color=COLOURS[1], linestyle="--", label=f"most, {1 + decay:.1f} U")
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="passes over the data, D / U",
        ylabel="worth in fresh tokens, D' / U",
        ylim=(1, 100),
    )
    axes.legend(fontsize=10)


def overoptimisation(axes: Axes) -> None:
    """Gold reward of PPO against d = sqrt(KL) in sweeps/LOG.md, its law, and where a plan runs."""
    d = np.linspace(0.3, 6, 200)
    form = FORMS["rl_overoptimisation"]
    gain = form.predict(TURNING, {"kl": d**2})
    assert form.peak
    at, top = form.peak(TURNING)
    axes.plot(list(GOLD), list(GOLD.values()), "o", color=COLOURS[0], label="measured, 12 seeds")
    axes.plot(d, GOLD_BEFORE + gain, color=COLOURS[0], label="law, d (.033 - .018 log d)")
    axes.axhline(GOLD_BEFORE, color="gray", linestyle=":", label="before PPO")
    axes.plot(np.sqrt(at), GOLD_BEFORE + top, "k^", markersize=8, label="peak of the law")
    used = OPERATED * np.sqrt(at)
    there = float(form.predict(TURNING, {"kl": np.array(used**2)}))
    axes.plot(used, GOLD_BEFORE + there, "ks", markersize=7, label=".7 of the peak's d")
    axes.set(
        xlabel="d = sqrt(KL), KL in nats per sequence", ylabel="gold reward", ylim=(0.51, 0.65)
    )
    axes.legend(fontsize=9, loc="upper center", ncols=2)


def trunk(axes: Axes) -> None:
    """The learning rate of a trunk with four branches, by the project's own schedule."""
    schedule = ScheduleConfig(warmup_steps=40)
    lengths = (400, 800, 1600, 3200)
    starts = [round((1 - schedule.decay) * n) for n in lengths]
    steps = np.arange(starts[-1])
    rates = [lr_factor(int(s), schedule=schedule, n_steps=10**9, decay_start=10**9) for s in steps]
    axes.plot(steps, rates, color="black", linewidth=2.5, label="trunk, trained once")
    for colour, n, start in zip(COLOURS, lengths, starts, strict=False):
        branch = np.arange(start, n)
        decay = [lr_factor(int(s), schedule=schedule, n_steps=n, decay_start=start) for s in branch]
        axes.plot([start, *branch], [1, *decay], color=colour, linewidth=2)
        axes.plot(n, 0, "o", color=colour, clip_on=False, label=f"cell of {n} steps")
    axes.set(xlabel="step", ylabel="learning rate over its peak", ylim=(0, 1.1), xlim=(0, 3300))
    axes.legend(fontsize=9, loc="center right", bbox_to_anchor=(0.75, 0.45))


def grid(axes: Axes) -> None:
    """N and D of the cells of sweeps/quick.yaml, with lines of equal compute."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "scaling", "sweep", "-m", "sweeps=quick", "dry_run=true"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, check=True, env=environment
        )
    row = re.compile(r"^[0-9a-f]{10} +\S+ +\d+ +([\d,]+) +([\d,]+) +\S+ +(\S+)", re.MULTILINE)
    cells = np.array(
        [[float(v.replace(",", "")) for v in found] for found in row.findall(done.stdout)]
    )
    n, d, flops = np.unique(cells, axis=0).T
    budgets = np.unique(np.round(np.log10(flops), 1))
    colours = dict(zip(budgets, COLOURS, strict=False))
    for budget in budgets:
        here = np.round(np.log10(flops), 1) == budget
        label = f"C = {flops[here].mean():.1e}"
        order = np.argsort(n[here])
        axes.plot(n[here][order], d[here][order], "o-", color=colours[budget], label=label)
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="N, parameters with head",
        ylabel="D, training tokens",
        ylim=(1e4, 1e7),
    )
    sizes = {3e4: "30k", 6e4: "60k", 1e5: "100k", 2e5: "200k", 4e5: "400k"}
    axes.set_xticks(list(sizes), list(sizes.values()))
    axes.set_xticks([], minor=True)
    axes.legend(fontsize=10, loc="upper left", ncols=2)


def ray(axes: Axes) -> None:
    """Exponent a fitted to 12 simulated tables of 24 runs: on one ray D = 20 N, and on a grid."""
    law = load_law("besiroglu2024")
    on_ray = np.repeat(np.geomspace(LARGEST / 300, LARGEST, 8), 3)
    budgets = np.repeat(np.geomspace(LARGEST / 100, LARGEST, 4), 6)
    best = np.array([law.optimum(c).params for c in budgets])
    designs = {
        "ray, 8 sizes x 3 seeds": (np.sqrt(on_ray / 6 / 20), on_ray),
        "grid, 4 budgets x 6 sizes": (best * np.tile(np.geomspace(1 / 4, 4, 6), 4), budgets),
    }
    for place, (colour, (label, (n, flops))) in enumerate(
        zip(COLOURS, designs.items(), strict=False)
    ):
        exponents = [_exponent(n, flops / 6 / n, seed) for seed in range(12)]
        axes.plot(exponents, np.full(12, place), "o", color=colour, alpha=0.6, markersize=9)
        axes.text(0.02, place + 0.15, label, fontsize=10)
    axes.axvline(law.optimum(LARGEST).a, color="gray", linestyle="--")
    axes.set(
        xlabel="fitted a of N* = k C^a; dashed: the truth", xlim=(-0.02, 1.02), ylim=(-0.5, 1.6)
    )
    axes.set_yticks([])


def _exponent(n: np.ndarray, d: np.ndarray, seed: int) -> float:
    """Return a of a law fitted to runs (n,) that scatter by .3 % about Besiroglu et al. 2024."""
    law = load_law("besiroglu2024")
    noise = np.random.default_rng(seed).normal(0, 0.003, len(n))
    table = pd.DataFrame({"params": n, "tokens": d, "loss": law.predict(n, d).loss * np.exp(noise)})
    fitted = fit(table, resamples=0, hindcast=False, sensitivity=False, prior="none")
    return fitted.optimum(LARGEST, force=True).a


def interval_parts(axes: Axes) -> None:
    """What a 90 % interval is made of, by its distance beyond the 240 runs of Epoch's table."""
    law = fit(load_runs(EPOCH, where="dropped_by_authors == 0"))
    reach = law.ranges["flops_6nd"][1]
    names = {
        "parameters": "parameters",
        "scatter": "scatter of one run",
        "hindcast": "error by distance",
    }
    far = np.geomspace(0.1, 1000, 41)
    optima = [law.optimum(k * reach) for k in far]
    n, d = (np.array([getattr(o, v) for o in optima]) for v in ("params", "tokens"))
    prediction = law.predict(n, d)
    for colour, (part, label) in zip(COLOURS, names.items(), strict=False):
        axes.plot(far, 100 * prediction.parts[part], color=colour, label=label)
    assert prediction.low is not None
    assert prediction.high is not None
    half = np.log(prediction.high / prediction.low) / 2
    axes.plot(far, 100 * half, "k--", label="the interval")
    axes.axvline(1, color="gray", linestyle=":")
    axes.set(
        xscale="log",
        xlabel="compute over the largest fitted",
        ylabel="half-width, % of the loss",
        ylim=(0, 8),
    )
    axes.legend(fontsize=10)


def forms_beyond(axes: Axes) -> None:
    """Four forms of the same 240 runs: losses on one line of N and D, over Chinchilla's."""
    runs = load_runs(EPOCH, where="dropped_by_authors == 0")
    options = {"resamples": 0, "hindcast": False, "sensitivity": False}
    laws = {
        name: fit(runs, form=name, **options)
        for name in ("chinchilla", "overtraining", "coupled", "farseer")
    }
    first = laws["chinchilla"]
    reach = first.ranges["flops_6nd"][1]
    far = np.geomspace(1e-3, 1e3, 61)
    optima = [first.optimum(k * reach, force=True) for k in far]
    n, d = (np.array([getattr(o, v) for o in optima]) for v in ("params", "tokens"))
    base = first.predict(n, d, force=True).loss
    for colour, (name, law) in zip(COLOURS, laws.items(), strict=False):
        ratio = law.predict(n, d, force=True).loss / base
        axes.plot(far, 100 * (ratio - 1), color=colour, label=name)
    axes.axvspan(1e-3, 1, color="gray", alpha=0.12)
    axes.text(0.04, 0.05, "where the runs are", fontsize=10, transform=axes.transAxes)
    axes.set(
        xscale="log",
        xlabel="compute over the largest fitted",
        ylabel="loss against chinchilla's, %",
    )
    axes.legend(fontsize=10, loc="lower left", bbox_to_anchor=(0.0, 0.1))


if __name__ == "__main__":
    main()
