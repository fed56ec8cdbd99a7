"""PPO held to the KL budget that its law of over-optimisation plans, and four times past it.

    python benchmarks/overoptimisation.py [--runs runs] [--pairs 125] [--seeds 0,1,2,3,4,5]

After sweeps=sft. Pilots without a penalty (sweeps=overoptimisation) pass the point where gold
turns; the law of their course up to d = 5 sets the budget (.7 d*), the first coefficient and the
episodes, as analysis.plan does (`analysis.planning.later_stages.choices.choose_kl`). Each seed is
then trained at that budget under the adaptive penalty. What lies past it is the pilot of the seed,
stopped where its KL first was four times the budget, or d (16 times the KL), or where it ended. All
gold is that of the programmatic judge on the same held-out prompts. The best of a pilot's own curve
is a maximum over noisy points and flatters it; beside it stands the best of the mean curve. Writes
overoptimisation.svg and law.json into the study's folder.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from analysis import fit, load_runs
from analysis.figures import run_charts
from analysis.figures.canvas import standalone
from analysis.forms import FORMS
from analysis.planning.later_stages.choices import Choice, choose_kl
from scaling.schema import Shape, initial_kl_coefficient, read_curve, read_records

STUDY, HELD = "overoptimisation", "overoptimisation_held"
FARTHEST = 25.0  # nats, d = 5: pilots beyond it say nothing of the turn
PAST = {"4 x KL": 4.0, "4 x d": 16.0}  # times the planned KL
EDGES = np.array([0.3, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0, 8.0])  # of d, for mean curves
LEVEL = 0.9


def sweep(runs: Path, *overrides: str) -> None:
    """Run what is missing of the study with some overrides."""
    command = [sys.executable, "-m", "scaling.sweep", "-m", f"sweeps={STUDY}", f"runs={runs}"]
    subprocess.run([*command, "force=true", *overrides], check=True)


def planned(runs: Path, where: str) -> Choice:
    """Fit the pilots' course and draw it; return what the law plans."""
    whole = load_runs(runs / STUDY, stage="ppo", needed=(), points="updates", where=where).table
    asked = f"{where} and kl < {FARTHEST:g}"
    near = load_runs(runs / STUDY, stage="ppo", needed=(), points="updates", where=asked)
    law = fit(near, "rl_overoptimisation", level=LEVEL)
    law.write(runs / STUDY / "law.json")
    print(law.summary())
    like = Shape(
        n_layer=1, d_model=8, n_head=1, n_kv_head=1, d_head=8, d_ff=8, vocab_size=8, context=8
    )  # of no matter to a law against one reward model
    chosen = choose_kl({"law.json": law}, like, pairs=0, kl_budget=6.0, episodes=4096, level=LEVEL)
    assert chosen is not None
    for name, value in chosen.values.items():
        print(f"{name} {value}: {chosen.reasons[name]}")
    curve = FORMS[law.form].function
    assert curve is not None
    svg = run_charts.overoptimised(
        [("pilots", whole.assign(error=0.0), lambda kl: curve(law.parameters, {"kl": kl}))],
        name="overoptimisation",
        title="Gold gained by PPO without a penalty, and its law",
    )
    (runs / STUDY / "overoptimisation.svg").write_text(standalone(svg))
    return chosen


def mean_curve(pilots: dict[int, pd.DataFrame]) -> pd.DataFrame:
    """Return mean gold and proxy, over seeds, of each interval of d that half of them reached."""
    rows = pd.concat([p.assign(seed=seed) for seed, p in pilots.items()])
    rows = rows.rename(columns={"held_out_gold": "gold", "held_out_reward": "proxy"})
    rows = rows.assign(d=pd.cut(np.sqrt(rows["held_out_kl"].clip(lower=0)), EDGES))
    by_seed = rows.groupby(["d", "seed"], observed=True)[["gold", "proxy"]].mean()
    found = by_seed.groupby("d", observed=True).agg(["mean", "sem", "size"])
    kept = found[("gold", "size")] >= len(pilots) / 2
    return pd.DataFrame(
        {
            "gold": found[("gold", "mean")],
            "gold_se": found[("gold", "sem")],
            "proxy": found[("proxy", "mean")],
            "seeds": found[("gold", "size")],
        }
    )[kept]


def ended(runs: Path, pairs: int, budget: float) -> pd.DataFrame:
    """Return gold before and after of the runs held to a budget, by seed."""
    rows = []
    for record in read_records(runs / HELD):
        ours = record.stage == "ppo" and record.config["before"]["reward"]["pairs"] == pairs
        if ours and record.config["plan"]["kl_budget"] == budget:
            m = record.metrics
            rows.append({"seed": record.seed, "kl": m["kl"], "before": m["gold_before"],
                         "gold": m["gold_after"], "episodes": m["episodes"]})  # fmt: skip
    return pd.DataFrame(rows).set_index("seed").sort_index()


def pilots_of(runs: Path, pairs: int, seeds: list[int]) -> dict[int, pd.DataFrame]:
    """Return the held-out scores of each seed's pilot, update by update."""
    found = {}
    for record in read_records(runs / STUDY):
        if record.stage != "ppo" or record.config["plan"].get("reward_model"):
            continue
        if record.config["before"]["reward"]["pairs"] == pairs and record.seed in seeds:
            curve = read_curve(runs / STUDY / record.run_id / "metrics.jsonl")
            found[record.seed] = pd.DataFrame([r for r in curve if "held_out_gold" in r])
    return dict(sorted(found.items()))


def stopped_at(pilot: pd.DataFrame, kl: float) -> pd.Series:
    """Return the first scores of a pilot at so much KL, its last where it never got there."""
    passed = pilot[pilot["held_out_kl"] >= kl]
    return (passed if len(passed) else pilot.tail(1)).iloc[0]


def said(values: pd.Series) -> str:
    """Return a mean with its standard error over seeds."""
    return f"{values.mean():.3f} +- {values.std(ddof=1) / np.sqrt(len(values)):.3f}"


def main() -> None:
    """Run, fit, run again, compare."""
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--runs", type=Path, default=Path("runs"))
    asked.add_argument("--pairs", type=int, default=125)
    asked.add_argument("--seeds", default="0,1,2,3,4,5")
    asked.add_argument("--overrides", nargs="*", default=[], help="of every sweep")
    given = asked.parse_args()
    runs, pairs = given.runs, given.pairs
    seeds = [int(s) for s in given.seeds.split(",")]
    common = [f"reward.pairs={pairs}", f"seed={given.seeds}", *given.overrides]
    sweep(runs, *common)
    where = f"reward_pairs == {pairs} and reward_model == '' and seed in {seeds}"
    chosen = planned(runs, where)
    budget = chosen.values["kl_budget"]
    episodes = chosen.values.get("episodes", 4096)
    held = [f"study={HELD}", f"ppo.kl_budget={budget}", f"ppo.episodes={episodes}"]
    sweep(runs, *common, *held, "ppo.kl_coefficient=null", "ppo.adaptive=true")
    pilots = pilots_of(runs, pairs, seeds)
    curve = mean_curve(pilots)
    print(curve.round(3).to_string())
    table = ended(runs, pairs, budget).loc[seeds]
    table["best"] = pd.Series({s: p["held_out_gold"].max() for s, p in pilots.items()})
    for name, times in PAST.items():
        stops = pd.DataFrame({s: stopped_at(p, times * budget) for s, p in pilots.items()}).T
        table[f"KL, {name}"], table[name] = stops["held_out_kl"], stops["held_out_gold"]
    print(table.round(3).to_string())
    tell(table, curve, chosen)


def tell(table: pd.DataFrame, curve: pd.DataFrame, chosen: Choice) -> None:
    """Print what the runs at the budget have of the best, and what lies past it."""
    budget, before, gold = chosen.values["kl_budget"], table["before"], table["gold"]
    top = float(curve["gold"].max())
    share = (gold.mean() - before.mean()) / (top - before.mean())
    print(
        f"budget {budget}, first coefficient {initial_kl_coefficient(budget):.3f}; "
        f"{len(table)} seeds\n"
        f"gold before {said(before)}, at the budget (KL {table['kl'].mean():.2f}) {said(gold)}\n"
        f"best of the mean curve {top:.3f}: {gold.mean() / top:.1%} of it, {share:.0%} of the gain"
        "\n"
        f"best of each pilot's own curve {said(table['best'])}:"
        f" {gold.mean() / table['best'].mean():.1%} of it"
    )
    for name in PAST:
        print(
            f"{name} (KL {table[f'KL, {name}'].mean():.1f}): {said(table[name])}, less that at the"
            f" budget, by seed: {said(table[name] - gold)}"
        )


if __name__ == "__main__":
    main()
