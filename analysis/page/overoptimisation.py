"""Over-optimisation of a final run, as the report shows it: best-of-n by judge, and PPO.

Gao, Schulman & Hilton 2022 (2210.10760): each judge's gold gain against d = sqrt(KL) with its
fitted law. A KL of best-of-n and one of PPO are not the same distance (section 3.5 there).
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.estimation.fit import fit
from analysis.forms import column
from analysis.laws.law import Law
from analysis.number_text import number
from analysis.page.tables import Grid, Row

TABLE = Path("final/best_of_n/curve.csv")
RESAMPLES = 300
FEWEST_UPDATES = 8
NEAR = 0.1  # nats; the law of PPO does not hold nearer to the start
SHARE = 0.7  # of d*, where the plan would stop


@dataclass(frozen=True, kw_only=True)
class JudgeCurve:
    """A judge's points: mean gold gain and its standard error at each KL, and the law of them."""

    name: str
    points: pd.DataFrame  # kl, reward, error
    law: Law
    about: dict[str, float]

    @property
    def peak(self) -> str:
        """KL of the law's largest gain with its interval, or that it was not reached."""
        peak = self.law.allocation["peak"]
        largest = self.points["kl"].max()
        if peak["at"] is None or peak["at"] > largest:
            return f"beyond {largest:.3g}, not reached"
        low, high = peak["interval"]
        return f"{peak['at']:.3g} [{low:.3g}, {'∞' if high is None else f'{high:.3g}'}]"

    @property
    def budget(self) -> float | None:
        """KL at SHARE of d*, None where the peak was not reached."""
        at = self.law.allocation["peak"]["at"]
        return None if at is None or at > self.points["kl"].max() else SHARE**2 * at


def read_best_of_n(folder: str | Path) -> list[JudgeCurve]:
    """Fit every judge of a study's best-of-n table; none where there is no table."""
    path = Path(folder) / TABLE
    if not path.is_file():
        return []
    table, curves = pd.read_csv(path), []
    for name in table["judge"].unique():
        own = table[table["judge"] == name]
        by_kl = own.groupby("kl")["reward"]
        points = pd.DataFrame({"reward": by_kl.mean(), "error": by_kl.sem()}).reset_index()
        about = own.iloc[0][["accuracy", "reward_params", "reward_pairs"]].to_dict()
        law = fit(path, form="best_of_n", where=f"judge == {name!r}", resamples=RESAMPLES)
        curves.append(JudgeCurve(name=name, points=points, law=law, about=about))
    return curves


def of_ppo(rows: pd.DataFrame, gold_before: float | None) -> JudgeCurve | None:
    """Fit the gold gain of PPO's updates; None where there is no gold or are too few updates.

    Of held-out prompts where they were scored on the way (`ppo.eval_updates`), else of those that
    were trained on, whose gold before is that of the updates next to the start.
    """
    if gold_before is None or not {"kl", "gold_reward"} <= set(rows):
        return None
    names, before = ("kl", "gold_reward"), gold_before
    if "held_out_gold" in rows:
        names = ("held_out_kl", "held_out_gold")
    elif len(start := rows.query("kl < @NEAR")):
        before = float(np.mean(column(start, "gold_reward")))
    kl, gold = (rows[name] for name in names)
    points = pd.DataFrame({"kl": kl, "reward": gold - before}).dropna().query("kl > @NEAR")
    if len(points) < FEWEST_UPDATES:
        return None
    law = fit(points, form="rl_overoptimisation", resamples=RESAMPLES)
    return JudgeCurve(name="PPO", points=points.assign(error=np.nan), law=law, about={})


def judges_grid(curves: list[JudgeCurve]) -> Grid:
    """Return a row a judge: what it is, its law, its peak, the KL where one would stop."""
    rows: list[Row] = []
    for one in curves:
        accuracy = one.about.get("accuracy")
        ends = (one.law.intervals or {})["parameters"]
        values = (
            f"{number(one.law.parameters[k], 3)} [{ends[k][0]:.3g}, {ends[k][1]:.3g}]"
            for k in ("alpha", "beta")
        )
        rows.append(
            (
                one.name,
                f"{one.about['reward_params']:,.0f}" if one.about.get("reward_params") else "–",
                f"{one.about['reward_pairs']:,.0f}" if one.about.get("reward_pairs") else "–",
                f"{accuracy:.3f}" if accuracy is not None else "–",
                *values,
                one.peak,
                "–" if one.budget is None else f"{one.budget:.3g}",
                f"{one.points['reward'].max():+.3f}",
            )
        )
    columns = (
        "judge", "N", "pairs", "accuracy", "alpha", "beta", "KL of the peak, nats",
        f"KL at {SHARE} d*", "most gold gained",
    )  # fmt: skip
    name = "Over-optimisation: what choosing by a judge gains by the gold judge"
    return Grid(name=name, columns=columns, rows=rows, numeric=tuple(range(1, len(columns))))
