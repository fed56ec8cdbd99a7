"""The report's part on over-optimisation: laws of made judges, and none where nothing was made."""

import numpy as np
import pandas as pd
import pytest

from analysis.alarms.of_fit import peak_alarm
from analysis.page import run_gallery
from analysis.page.overoptimisation import TABLE, judges_grid, of_ppo, read_best_of_n

KL = np.log(2.0 ** np.arange(1, 9)) - 1 + 0.5 ** np.arange(1, 9)


def write_table(folder, judges: dict[str, tuple[float, float]]) -> None:
    rng = np.random.default_rng(0)
    rows = [
        {
            "judge": name, "reward_params": 800 * bool(accuracy := name != "gold"),
            "reward_pairs": 50 * accuracy, "accuracy": 0.7, "trunk": f"prompt {prompt}",
            "n": 2 ** (i + 1), "kl": kl,
            "reward": np.sqrt(kl) * (alpha - beta * np.sqrt(kl)) + 0.01 * rng.normal(),
        }
        for name, (alpha, beta) in judges.items()
        for prompt in range(30)
        for i, kl in enumerate(KL)
    ]  # fmt: skip
    (folder / TABLE).parent.mkdir(parents=True)
    pd.DataFrame(rows).to_csv(folder / TABLE, index=False)


def test_each_judge_has_its_law_and_a_peak_outside_is_said(tmp_path):
    assert read_best_of_n(tmp_path) == []
    write_table(tmp_path, {"gold": (0.3, 0.02), "own, 50 pairs": (0.2, 0.07)})
    gold, own = read_best_of_n(tmp_path)
    assert own.law.parameters == pytest.approx({"alpha": 0.2, "beta": 0.07}, abs=0.01)
    assert own.budget == pytest.approx(0.49 * (0.2 / 0.14) ** 2, rel=0.1)
    assert (gold.peak, gold.budget) == ("beyond 4.55, not reached", None)
    grid = judges_grid([gold, own])
    assert [row[:3] for row in grid.rows] == [("gold", "–", "–"), ("own, 50 pairs", "800", "50")]
    assert len(grid.columns) == len(grid.rows[0])
    (picture,) = run_gallery.overoptimised("best-of-n", [gold, own])
    assert "<svg" in picture.svg
    assert "own, 50 pairs" in picture.svg


def test_ppo_is_fitted_where_the_judge_saw_enough_updates():
    kl = np.linspace(0.15, 9, 40)
    d = np.sqrt(kl)
    rows = pd.DataFrame({"kl": kl, "gold_reward": 0.5 + d * (0.2 - 0.12 * np.log(d))})
    found = of_ppo(rows, 0.5)
    assert found is not None
    assert found.law.parameters == pytest.approx({"alpha": 0.2, "beta": 0.12}, rel=1e-3)

    assert of_ppo(rows, None) is None
    assert of_ppo(rows[:5], 0.5) is None
    assert of_ppo(rows[["kl"]], 0.5) is None


def test_the_gain_is_over_the_same_prompts():
    kl = np.linspace(0.2, 9, 40)
    gain = np.sqrt(kl) * (0.2 - 0.12 * np.log(np.sqrt(kl)))
    started = pd.DataFrame({"kl": [0.0, *kl], "gold_reward": [0.58, *(0.58 + gain)]})
    held_out = started.assign(held_out_kl=[np.nan, *kl], held_out_gold=[np.nan, *(0.5 + gain)])
    for rows in (started, held_out.assign(gold_reward=0.9)):
        found = of_ppo(rows, 0.5)  # .5 is the gold of held-out prompts
        assert found is not None
        assert found.points["kl"].min() > 0.1
        assert found.law.parameters == pytest.approx({"alpha": 0.2, "beta": 0.12}, rel=1e-3)


def test_a_peak_outside_the_data_on_either_side_is_said():
    said = [peak_alarm({"variable": "kl", "at": at}, 0.5, 20.0) for at in (0.05, 5.0, 40.0, None)]
    assert [a.sentence.split(":")[0] if a else "" for a in said] == [
        "The fitted peak is at kl = 0.05, before the smallest kl seen, 0.5",
        "",
        "The fitted peak is at kl = 40, beyond the largest kl seen, 20",
        "The fitted peak is nowhere, beyond the largest kl seen, 20",
    ]
