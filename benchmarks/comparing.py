"""How honest `analysis.compare` is: simulated arms with a known effect, or with none.

    python benchmarks/comparing.py --repeats 100

Each repeat draws a grid of runs for some arms from Chinchilla's form, with noise that runs of one
seed share in part, and compares the arms ten times beyond the data. The effect is a compute
multiplier k of each arm over the first. Without an effect it counts promotions (any arm in a
repeat), with log k from N(0, SPREAD^2) how often b is better where P(b better) is in a bin. Prints
a table a design, for benchmarks/RESULTS.md.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from analysis.comparing.arms import Arm
from analysis.comparing.comparability import Verdict
from analysis.comparing.comparison import compare_arms
from analysis.comparing.options import CompareConfig, DrawsConfig, TargetConfig
from analysis.forms import FORMS, Array
from analysis.runs.table import Runs
from scaling.app.process_pool import process_pool

FORM = FORMS["chinchilla"]
LAWS = {
    "chinchilla": {"E": 1.8, "A": 480.0, "B": 2100.0, "alpha": 0.35, "beta": 0.37},
    "uneven": {"E": 2.6, "A": 60.0, "B": 300.0, "alpha": 0.28, "beta": 0.30},
}
REACH = 10.0  # target, in units of the largest compute
SPREADS = (0.15, 0.4)  # deviations of log k of the arms with an effect
BINS = (0.0, 0.05, 0.2, 0.4, 0.6, 0.8, 0.95, 1.0)  # of P(better)
NOISE = 0.006  # deviation of log loss of a run
TRUNK_SHARE = 0.5  # of its variance that the branches of a trunk share


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """A grid of runs, how many arms, and the share of the noise that runs of one seed share."""

    name: str
    arms: int
    shared: float
    law: str = "chinchilla"
    trunks: bool = False

    def grid(self) -> pd.DataFrame:
        """Return the runs of one arm: sizes by tokens, or an IsoFLOP grid of trunks."""
        rows = []
        if not self.trunks:
            for n in np.geomspace(1e7, 3e8, 6):
                rows += [(n, r * n, s, "") for r in (5, 10, 20, 40, 80) for s in (0, 1)]
        else:
            for n in np.geomspace(1e7, 3e8, 9):
                for c in np.geomspace(1e17, 1e19, 5):
                    seeds = (0, 1) if c < 4e17 else (0,)
                    if 2.5 < c / 6 / n**2 < 160:
                        rows += [(n, c / 6 / n, s, f"{n:.0f}-{s}") for s in seeds]
        table = pd.DataFrame(rows, columns=["params", "tokens", "seed", "trunk"])
        return table if self.trunks else table.drop(columns="trunk")


SCENARIOS = (
    Scenario(name="2 studies of trunks, seeds shared", arms=2, shared=0.6, trunks=True),
    Scenario(name="2 studies of trunks, seeds apart", arms=2, shared=0.0, trunks=True),
    Scenario(name="2 tables, seeds apart", arms=2, shared=0.0, law="uneven"),
    Scenario(name="6 corpora of a table, seeds shared", arms=6, shared=0.5),
)


def better_by(law: dict[str, float], log_k: float) -> dict[str, float]:
    """Return the law that reaches every loss with exp(-log_k) of the compute."""
    gain = np.exp(log_k / 2)
    return {**law, "A": law["A"] * gain ** -law["alpha"], "B": law["B"] * gain ** -law["beta"]}


def simulated(scenario: Scenario, log_k: Array, rng: np.random.Generator) -> list[Arm]:
    """Return arms with given multipliers over the first."""
    grid = scenario.grid().assign(flops=lambda t: 6 * t["params"] * t["tokens"])
    values = {v: grid[v].to_numpy() for v in ("params", "tokens")}
    trunks = pd.factorize(grid["trunk"])[0] if scenario.trunks else np.arange(len(grid))

    def noise() -> Array:
        of_trunk = rng.standard_normal(trunks.max() + 1)[trunks]
        share = TRUNK_SHARE if scenario.trunks else 0.0
        return np.sqrt(share) * of_trunk + np.sqrt(1 - share) * rng.standard_normal(len(grid))

    common, arms = noise(), []
    for i, effect in enumerate(log_k):
        loss = FORM.predict(better_by(LAWS[scenario.law], effect), values)
        own = np.sqrt(scenario.shared) * common + np.sqrt(1 - scenario.shared) * noise()
        table = grid.assign(loss=loss * np.exp(NOISE * own))
        arms.append(Arm(name=f"arm{i}", runs=Runs(table=table), order=np.arange(len(table))))
    return arms


def repeat(task: tuple[Scenario, float, int, int]) -> list[tuple[float, bool, bool, bool]]:
    """Return (P(better), b is better, promoted, k is in its interval) of each pair with arm0."""
    scenario, spread, seed, draws = task
    rng = np.random.default_rng([seed, int(1e3 * spread)])
    log_k = np.concatenate([[0.0], spread * rng.standard_normal(scenario.arms - 1)])
    arms = simulated(scenario, log_k, rng)
    config = CompareConfig(
        runs="t.csv",
        by="corpus",
        target=TargetConfig(flops=REACH * float(arms[0].runs.table["flops"].max())),
        intervals=DrawsConfig(resamples=draws, seed=seed),
    )
    result = compare_arms(arms, config, Verdict(), thorough=False)
    rows = []
    for pair, effect in zip(result["pairs"], log_k[1:], strict=False):
        if pair["k"] is not None:
            low, high = pair["k_interval"]
            inside = bool(low <= np.exp(effect) <= high)
            rows.append((pair["p_better"], bool(effect > 0), pair["promoted"], inside))
    return rows


def main() -> None:
    """Simulate every scenario and print a table of each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--draws", type=int, default=300)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--only", default="", help="part of a scenario's name")
    options = parser.parse_args()
    seeds = range(options.first_seed, options.first_seed + options.repeats)
    pairs = [
        report(scenario, seeds, options.draws, options.processes)
        for scenario in SCENARIOS
        if options.only in scenario.name
    ]
    write("\nall of these arms")
    calibration(np.concatenate(pairs))


def report(scenario: Scenario, seeds: range, draws: int, processes: int) -> Array:
    """Print what the repeats of one scenario give; return P(better) and the truth of its pairs."""
    results: dict[float, list[list[tuple[float, bool, bool, bool]]]] = {}
    for spread in (0.0, *SPREADS):
        tasks = [(scenario, spread, seed, draws) for seed in seeds]
        if processes > 1:
            with process_pool(processes) as pool:
                results[spread] = list(pool.map(repeat, tasks))
        else:
            results[spread] = [repeat(task) for task in tasks]
    none = [rows for rows in results[0.0] if rows]
    promoted = np.mean([any(row[2] for row in rows) for rows in none])
    inside = {s: np.mean([r[3] for rows in some for r in rows]) for s, some in results.items()}
    write(f"\n{scenario.name}: {len(none)} repeats")
    write(f"  no effect: any arm promoted in {promoted:.1%}")
    write("  90 % intervals of k held " + ", ".join(f"{v:.0%}" for v in inside.values()))
    pairs = np.array([row[:2] for s in SPREADS for rows in results[s] for row in rows], float)
    calibration(pairs)
    return pairs


def calibration(pairs: Array) -> None:
    """Print how often b was better where P(b better) was in a bin, from pairs (n, 2) of both."""
    places = np.clip(np.digitize(pairs[:, 0], BINS) - 1, 0, len(BINS) - 2)
    for i in range(len(BINS) - 1):
        here = pairs[places == i]
        if len(here):
            write(
                f"  P(better) {BINS[i]:.2f} to {BINS[i + 1]:.2f}: said {here[:, 0].mean():.3f}, was"
                f" {here[:, 1].mean():.3f} of {len(here)}"
            )
    gap = pairs[:, 0].mean() - pairs[:, 1].mean()
    error = sum(
        (places == i).mean() * abs(pairs[places == i].mean(axis=0) @ [1, -1])
        for i in range(len(BINS) - 1)
        if (places == i).any()
    )
    write(f"  mean said less mean was {gap:+.3f}; mean error over the bins {error:.3f}")


def write(line: str) -> None:
    """Write a line at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
