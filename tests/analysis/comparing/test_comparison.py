"""Arms whose multipliers are known, from the command: k, P(better), rankings, refusals."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.analysis.comparing.arms_of import LAW, better_by, table_of
from tests.in_process import call

BENCHMARK = Path(__file__).parents[3] / "benchmarks" / "comparing.py"


@pytest.fixture(scope="module")
def benchmark_module():
    spec = importlib.util.spec_from_file_location("comparing_benchmark", BENCHMARK)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def compared(table: pd.DataFrame, folder, *arguments: str) -> dict:
    table.to_csv(folder / "t.csv", index=False)
    done = call(
        "analysis.compare", "runs=t.csv", "by=corpus", "intervals.resamples=200", *arguments,
        cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "compare.json").read_text()) | {"printed": done.stdout}


@pytest.fixture(scope="module")
def known(tmp_path_factory) -> dict:
    """Three corpora without noise: b is worth 1.5 of a, c is worth .7 of it."""
    arms = {"a": LAW, "b": better_by(1.5), "c": better_by(0.7)}
    table = table_of(arms, noise=1e-5)
    return compared(table, tmp_path_factory.mktemp("known"), "target.flops=1e21")


def test_the_multiplier_is_that_of_the_laws(known):
    k = {(p["a"], p["b"]): p["k"] for p in known["pairs"]}
    assert k["a", "b"] == pytest.approx(1.5, rel=0.01)
    assert k["a", "c"] == pytest.approx(0.7, rel=0.01)
    assert k["b", "c"] == pytest.approx(0.7 / 1.5, rel=0.01)


def test_the_fields_of_the_contract_are_there(known):
    assert known["comparable"] is True
    assert known["unit"] == "nats_per_token"
    arm = {"study", "law_status", "loss_at_target", "interval", "p_best", "regret"}
    pair = {"a", "b", "k", "k_interval", "p_better", "trend", "trend_interval", "paired_seeds"}
    assert all(arm <= set(a) for a in known["arms"])
    assert all(pair | {"seeds_needed"} <= set(p) for p in known["pairs"])


def test_the_best_arm_is_known_and_promoted_alone(known):
    arms = {a["study"]: a for a in known["arms"]}
    assert arms["b"]["p_best"] == 1.0
    assert arms["b"]["regret"] == 0.0
    assert arms["c"]["regret"] > arms["a"]["regret"] > 0
    promoted = {p["b"]: p["promoted"] for p in known["pairs"] if p["a"] == "a"}
    assert promoted == {"b": True, "c": False}


def test_both_rankings_stand_with_the_winner_of_the_hindcast(known):
    assert known["single_size_ranking"] == ["b", "a", "c"]
    assert known["hindcast"]["laws"] == known["hindcast"]["single_size"] == 1.0
    assert known["hindcast"]["winner"] == "neither"
    assert "By laws, best first: b, a, c." in known["printed"]


def test_the_verdict_comes_first_and_what_to_run_last(known):
    printed = known["printed"]
    order = ["Comparable", "loss at target", "P(b better)", "By laws", "Next:", "compare.json"]
    places = [printed.index(words) for words in order]
    assert places == sorted(places)


@pytest.mark.slow
def test_the_reference_comes_first_and_names_the_pairs(tmp_path):
    table = table_of({"a": LAW, "b": better_by(2.0)}, noise=1e-5)
    result = compared(table, tmp_path, "reference=b")
    (pair,) = result["pairs"]
    assert (pair["a"], pair["b"]) == ("b", "a")
    assert pair["k"] == pytest.approx(0.5, rel=0.01)
    assert result["target"]["extrapolation"] == pytest.approx(1.0)


@pytest.mark.slow
def test_a_gain_that_fades_has_a_negative_trend(tmp_path):
    faded = {**LAW, "A": LAW["A"] * 0.35, "alpha": 0.31}  # better at small N, worse at large N
    result = compared(table_of({"a": LAW, "b": faded}, noise=1e-5), tmp_path)
    (pair,) = result["pairs"]
    assert pair["k"] > 1
    assert pair["trend_interval"][1] < 0
    assert pair["fades"] is True


@pytest.mark.slow
def test_too_few_runs_of_an_arm_give_no_multiplier_and_the_single_size_ranks(tmp_path):
    table = table_of({"a": LAW, "b": better_by(2.0)}, noise=1e-4)
    few = table[(table["corpus"] == "a") | (table["params"] > 2e8)]
    result = compared(few, tmp_path, "target.flops=1e22")
    (pair,) = result["pairs"]
    assert pair["k"] is None
    assert "b has no law: 5 rows cannot carry the 5 parameters" in pair["why"]
    assert result["single_size_ranking"] == ["b", "a"]
    assert {a["study"]: a["law_status"] for a in result["arms"]}["b"] == "not_identified"


@pytest.mark.slow
def test_a_law_that_is_not_identified_gives_no_multiplier_beyond_its_data(tmp_path):
    table = table_of({"a": LAW, "b": better_by(2.0)}, noise=0.02, seed=1)
    narrow = table[table["params"].between(4e7, 1.6e8) & (table["tokens"] > 35 * table["params"])]
    wide = pd.concat([table[table["corpus"] == "a"], narrow[narrow["corpus"] == "b"]])
    result = compared(wide, tmp_path, "target.flops=1e23")
    arms = {a["study"]: a for a in result["arms"]}
    assert arms["b"]["loss_at_target"] is None
    assert result["pairs"][0]["k"] is None
    assert result["pairs"][0]["why"]


@pytest.mark.slow
def test_runs_of_one_ratio_have_laws_of_compute_alone(tmp_path):
    table = table_of({"a": LAW, "b": better_by(2.0)}, noise=1e-5)
    ray = table[table["tokens"] == 20 * table["params"]]
    result = compared(ray, tmp_path, "target.flops=1e20")
    (pair,) = result["pairs"]
    assert pair["k"] == pytest.approx(2.0, rel=0.1)
    assert any("20 tokens per parameter" in note for note in result["notes"])


@pytest.mark.slow
def test_runs_at_points_that_another_arm_lacks_are_left_out_and_counted(tmp_path):
    table = table_of({"a": LAW, "b": LAW}, noise=0.002)
    fewer = table[~((table["corpus"] == "b") & (table["params"] > 2e8))]
    result = compared(fewer, tmp_path)
    assert any("Left out of a: runs" in note and "5 of 30" in note for note in result["notes"])
    assert {a["study"]: a["runs"] for a in result["arms"]} == {"a": 25, "b": 25}


@pytest.mark.slow
def test_pairs_of_one_seed_narrow_the_interval(tmp_path):
    arms = {"a": LAW, "b": LAW}
    paired = table_of(arms, noise=0.01, shared=0.95, seed=3)
    apart = paired.assign(seed=paired["seed"] + 7 * (paired["corpus"] == "b"))
    apart.loc[apart["corpus"] == "b", "loss"] = np.random.default_rng(0).permutation(
        (apart["loss"] / table_of(arms)["loss"])[apart["corpus"] == "b"]
    ) * table_of(arms)["loss"][apart["corpus"] == "b"].to_numpy()  # fmt: skip
    widths = []
    for table in (paired, apart):
        (pair,) = compared(table, tmp_path)["pairs"]
        widths.append(np.log(pair["k_interval"][1] / pair["k_interval"][0]))
    assert widths[0] < 0.5 * widths[1]


@pytest.mark.long
def test_without_an_effect_few_are_promoted_and_a_large_one_is_seen(benchmark_module):
    tables = benchmark_module.SCENARIOS[2]  # two arms, 60 runs each
    none = [row for seed in range(25) for row in benchmark_module.repeat((tables, 0.0, seed, 100))]
    assert (
        sum(promoted for _, _, promoted, _ in none) <= 4
    )  # more than 4 of 25: 1 in 140 at a rate of 5 %
    assert sum(inside for *_, inside in none) >= 18
    large = [row for seed in range(10) for row in benchmark_module.repeat((tables, 2.0, seed, 100))]
    right = [(p > 0.5) == better for p, better, *_ in large]
    assert sum(right) >= 8
