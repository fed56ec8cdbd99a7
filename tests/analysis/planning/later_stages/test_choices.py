"""The laws of later stages: from records to a law, from a law to a plan's block, and the report."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.estimation.fit import fit
from analysis.laws.law import Law
from analysis.page.figure_files import fresh_examples, law_figures
from analysis.page.sections.stage_laws import forecast_grid, law_grid, law_pictures, stage_laws
from analysis.planning.later_stages.blocks import SftSettings, sft_block
from analysis.planning.later_stages.choices import choose_kl, choose_reward, choose_sft, laws_of
from analysis.planning.make import make_plan
from analysis.planning.plan import values_of
from analysis.planning.settings import PlanConfig
from analysis.planning.written.derivation import derivation
from analysis.runs.columns import Columns
from analysis.runs.study import default_study
from analysis.runs.table import load_runs
from scaling.config import FinalConfig
from scaling.schema import Params, Record, Shape, read_json, write_json

SHAPE = Shape(
    n_layer=2, d_model=32, n_head=2, n_kv_head=2, d_head=16, d_ff=88, vocab_size=512, context=128
)
N = SHAPE.params.total
TRUTH = {"E": 0.5, "A": 30.0, "alpha": 0.2, "beta": 0.05, "R": 3.0}


def law(form: str, parameters: dict, ranges: dict, **changed) -> Law:
    values = {"count": "total", "objective": {"name": "exact"}, "status": "converged"}
    return Law(**values | {"form": form, "parameters": parameters, "ranges": ranges} | changed)


def tuning(**changed) -> Law:
    settings = {"method": ["full"], "batch_examples": [16], "lr_fraction": [0.4]}
    inputs = {"settings": settings | changed.pop("settings", {})}
    ranges = {"examples": [64, 2000], "epochs": [1, 4]}
    parameters = TRUTH | changed.pop("parameters", {})
    return law("finetuning_epochs", parameters, ranges, inputs=inputs, **changed)


def loss(examples: float, epochs: int) -> float:
    worth = examples * (1 + TRUTH["R"] * (1 - math.exp((1 - epochs) / TRUTH["R"])))
    return TRUTH["E"] + TRUTH["A"] * N ** -TRUTH["alpha"] * worth ** -TRUTH["beta"]


def test_examples_and_epochs_are_the_cheapest_within_the_tolerance():
    found = choose_sft({"full": tuning()}, SHAPE, examples=1000, flat_nats=0.02, level=0.9)
    n, epochs = found.values["examples"], found.values["epochs"]
    best = loss(1000, 4)
    assert loss(n, epochs) <= best + 0.02
    cheaper = [
        (m, e)
        for e in range(1, 5)
        for m in range(1, 1001)
        if m * e < n * epochs and loss(m, e) <= best + 0.02
    ]
    assert not cheaper
    assert found.forecast["forecast_loss"] == pytest.approx(loss(n, epochs))
    assert "fitted on 64 to 2000" in found.reasons["examples"]


def test_more_examples_than_were_fitted_are_said():
    found = choose_sft({"full": tuning()}, SHAPE, examples=8000, flat_nats=0.0, level=0.9)
    assert found.values["examples"] == 8000
    assert "4 times the most fitted" in found.reasons["examples"]


def test_the_method_of_the_lower_forecast_is_taken_with_its_settings():
    other = tuning(settings={"method": ["lora"], "lr_fraction": [0.1]}, parameters={"A": 31.0})
    laws = {"full.json": tuning(), "lora.json": other}
    found = choose_sft(laws, SHAPE, examples=1000, flat_nats=0.01, level=0.9)
    assert found.values["method"] == "full"
    assert "others: lora" in found.reasons["method"]
    block = sft_block(SftSettings(), pretrain_lr=0.01, seed=0, by_law=found)
    assert block.peak_lr == pytest.approx(0.004)
    assert set(values_of(block)) - {"reasons"} == set(block.reasons)


def test_pairs_are_the_fewest_within_the_tolerance_and_size_is_told():
    ranges = {"pairs": [500.0, 8000.0]}
    parameters = {"A": 1.0, "alpha": 0.02, "beta": 0.05}
    judging = law("reward_model_noiseless", parameters, ranges)
    found = choose_reward({"r": judging}, SHAPE, pairs=4000, flat_nats=0.005, level=0.9)
    n = found.values["pairs"]
    at = [N**-0.02 * k**-0.05 for k in (n - 1, n, 4000)]
    assert at[1] <= at[2] + 0.005 < at[0]
    assert "twice the size would reach" in found.reasons["pairs"]


@pytest.mark.parametrize(
    ("form", "at", "budget", "said"),
    [
        ("rl_overoptimisation", 10.0, 4.9, "0.7 of d* = 3.16"),
        ("best_of_n", 4.0, 1.96, "a KL of best-of-n, which PPO's is not"),
        ("rl_overoptimisation", 40.0, 6.0, "did not reach its turning point, fitted at 40"),
        ("rl_overoptimisation", None, 6.0, "fitted nowhere"),
        (
            "rl_overoptimisation",
            0.05,
            0.5,
            "gold reward fall from the start (its peak is at KL 0.05)",
        ),
    ],
)
def test_the_kl_budget_is_short_of_the_peak_where_that_was_seen(form, at, budget, said):
    peak = {"variable": "kl", "at": at, "value": 1.0, "interval": [8.0, None]}
    one = law(form, {"alpha": 1.0, "beta": 0.2}, {"kl": [0.5, 20.0]}, allocation={"peak": peak})
    found = choose_kl({"law.json": one}, SHAPE, pairs=500, kl_budget=6.0, episodes=100, level=0.9)
    assert found.values["kl_budget"] == pytest.approx(budget, rel=0.01)
    assert said in found.reasons["kl_budget"]
    assert found.forecast["forecast_gain"] > 0


@pytest.mark.parametrize(
    ("columns", "pairs", "x", "said"),
    [
        ({"params": "reward_pairs"}, 500, 500, "read at 500 pairs, fitted on 125 to 2000;"),
        ({"params": "reward_pairs"}, 4000, 4000, "fitted on 125 to 2000, OUTSIDE them"),
        ({}, 500, N, f"read at {N} parameters of the reward model"),
    ],
)
def test_a_law_over_reward_models_is_read_at_the_planned_one(columns, pairs, x, said):
    draws = np.array([[0.5, 0.6 + e, 0.03] for e in (-0.02, 0.0, 0.02)])
    one = law(
        "rl_overoptimisation_sizes", {"alpha": 0.5, "c0": 0.6, "c1": 0.03},
        {"kl": [0.5, 200.0], "params": [125.0, 2000.0]}, draws=draws, inputs={"columns": columns},
    )  # fmt: skip
    found = choose_kl({"l": one}, SHAPE, pairs=pairs, kl_budget=6.0, episodes=100, level=0.9)
    beta = 0.6 - 0.03 * math.log(x)
    assert found.values["kl_budget"] == pytest.approx(
        0.49 * math.exp(2 * (0.5 / beta - 1)), rel=0.01
    )
    assert said in found.reasons["kl_budget"] + ";"
    d = 0.7 * math.exp(0.5 / beta - 1)
    assert found.forecast["forecast_gain"] == pytest.approx(d * (0.5 - beta * math.log(d)))


def test_a_law_of_another_form_or_of_no_use_is_refused(tmp_path):
    path = tuning().write(tmp_path / "law.json")
    with pytest.raises(ValueError, match="of form finetuning_epochs; give one of reward_model"):
        laws_of(str(path), forms=("reward_model",), key="reward.law")
    path = tuning(status="bound_hit").write(tmp_path / "law.json")
    with pytest.raises(ValueError, match=r"sft.law=.* has status bound_hit, which no plan"):
        laws_of(f"[{path}]", forms=("finetuning_epochs",), key="sft.law")
    assert laws_of("", forms=(), key="sft.law") == {}


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    """Records of a sweep of fine-tunings that follow a known law, beside one pretraining."""
    folder, rng = tmp_path_factory.mktemp("runs") / "sft", np.random.default_rng(0)
    blank = {
        "seed": 0, "tokens": 1000, "unique_tokens": 100, "flops": 1e9, "flops_6nd": 1e9,
        "test_loss_se": 0.01, "bits_per_byte": None, "train_loss": 3.0, "steps": 10,
        "batch_tokens": 100, "peak_lr": 0.01, "schedule": "cosine", "seconds": 1.0,
        "device": "cpu", "device_seconds": 1.0, "peak_memory_bytes": 0, "tokens_per_second": 1.0,
        "mfu": None, "versions": {}, "git_sha": None, "started": "", "ended": "", "status": "done",
        "study": "sft",
    }  # fmt: skip

    def write(run_id: str, n: int, value: float, *, stage: str, **more) -> None:
        params = Params(total=n, non_embedding=n, with_head=n, active=n)
        Record(
            **blank, run_id=run_id, params=params, test_loss=value, stage=stage, **more
        ).write(folder / run_id / "record.json")  # fmt: skip

    write("body", 30_000, 4.0, stage="pretrain", trunk="body", config={})
    for i, (n, examples, epochs) in enumerate(
        (n, d, e) for n in (15_000, 30_000, 60_000) for d in (64, 256, 1024) for e in (1, 2, 4)
    ):
        worth = examples * (1 + 3 * (1 - math.exp((1 - epochs) / 3)))
        value = 0.5 + 30 * n**-0.2 * worth**-0.05
        value *= 1 + 0.001 * rng.standard_normal()
        plan = {"method": "full", "examples": 4096, "epochs": epochs, "lr_fraction": 0.4}
        config = {"plan": plan, "cell": {"budget": {"tokens_per_param": 12}}, "before": {}}
        metrics = {"examples": float(examples)}
        write(f"run{i}", n, value, stage="sft", trunk=str(n), config=config, metrics=metrics)
    return folder


@pytest.mark.slow
def test_a_study_of_fine_tunings_gives_its_law(study, tmp_path):
    found = fit(study, "finetuning_epochs", resamples=100)
    assert found.n_runs == 27
    assert found.inputs["settings"]["method"] == ["full"]
    assert found.inputs["settings"]["epochs"] == [1, 2, 4]
    assert found.ranges["examples"] == [64, 1024]  # those that were there, not those asked for
    assert found.parameters["R"] == pytest.approx(3, rel=0.2)
    at = pd.DataFrame({"params": [60_000.0], "examples": [1024.0], "epochs": [4.0]})
    assert found.predict_table(at)["loss"][0] == pytest.approx(
        0.5 + 30 * 60_000**-0.2 * fresh_examples(found, at)[0] ** -0.05, rel=0.01
    )
    assert [d["why"] for d in found.dropped] == ["stage is pretrain, not sft"]
    assert law_figures(found, load_runs(study, stage="sft", needed=()).table)
    assert found.intervals is not None
    assert found.intervals["unit"] == "row"
    (said,) = (a.sentence for a in found.alarms if a.code == "few_bodies")
    assert said.startswith("The cells start from 3 pretrained models, too few to be resampled")
    path = found.write(tmp_path / "full.json")
    laws = stage_laws({"sft": [str(path), str(tmp_path / "gone.json")]})
    assert len(law_pictures(laws)) == 1
    assert [row[2] for row in law_grid(laws).rows][1] == "missing"


@pytest.mark.slow
def test_pretrained_models_are_the_unit_where_there_are_enough(study, tmp_path):
    for i, path in enumerate(sorted(study.glob("run*/record.json"))):
        record = read_json(path)
        record["trunk"] += f" seed {i % 3}"
        write_json(tmp_path / path.parent.name / "record.json", record)
    found = fit(tmp_path, "finetuning", resamples=50)
    assert found.intervals is not None
    assert (found.intervals["unit"], found.intervals["units"]) == ("trunk", 9)
    assert "few_bodies" not in {a.code for a in found.alarms}


def test_another_stage_is_named_with_its_form(study):
    with pytest.raises(ValueError, match=r"of stage pretrain and sft, none of reward; fit a form"):
        fit(study, "reward_model")


def test_as_many_examples_as_the_cells_had(study):
    found = choose_sft({"full": tuning()}, SHAPE, examples=0, flat_nats=0.0, level=0.9)
    assert found.values["examples"] == 2000
    with pytest.raises(ValueError, match=r"sft.examples=0 must be positive; 0 needs an sft.law"):
        SftSettings(examples=0)


def test_too_few_values_of_a_variable_are_an_alarm(study):
    found = fit(study, "finetuning", where="params < 50000 and epochs == 1", resamples=0)
    (said,) = (a.sentence for a in found.alarms if a.code == "too_few_levels")
    assert said.startswith("The runs have 2 params apart: a law needs at least 3")


def test_the_plan_takes_laws_of_stages_and_the_report_scores_them(tmp_path):
    path = tuning().write(tmp_path / "full.json")
    from analysis.laws.published import load_law
    from analysis.planning.budgets import Budget

    settings = PlanConfig(sft=SftSettings(law=str(path), examples=1000))
    plan = make_plan(load_law("besiroglu2024"), Budget(flops=1e18), default_study(), settings)
    assert plan.stage_laws == {"sft": [str(path)]}
    assert plan.sft.forecast_loss > 0.5
    assert any("forecast_loss" in line for line in derivation(plan))
    assert FinalConfig(stage_laws=plan.stage_laws).stage_laws == {"sft": [str(path)]}
    sft = replace(plan.sft, forecast_interval=(2.5, 2.7), forecast_loss=2.6)
    grid = forecast_grid(replace(plan, sft=sft), {})
    assert grid.rows == [("fine-tuning: test loss", "2.6", "[2.5, 2.7]", "–", "–")]


def test_ppo_cells_are_points_of_gold_gain_against_kl(study, tmp_path):
    values = {"gold_before": 0.5, "gold_after": 0.7, "kl": 2.0, "episodes": 64.0}
    record = read_json(study / "run0/record.json")
    for i in range(6):
        record |= {"stage": "ppo", "run_id": f"p{i}", "test_loss": None}
        record["metrics"] = values | {"kl": 1.0 + i, "gold_after": 0.6 + 0.02 * i}
        record["config"]["before"] = {"reward": {"pairs": 2000}}
        write_json(tmp_path / "ppo" / f"p{i}" / "record.json", record)
    found = fit(tmp_path / "ppo", "rl_overoptimisation", where="reward_pairs == 2000", resamples=0)
    assert found.n_runs == 6
    assert "peak_outside" in {a.code for a in found.alarms}


@pytest.fixture
def pilots(study, tmp_path) -> Path:
    """Six PPO runs whose held-out gold follows d (.2 - .1 log d), each a little apart."""
    record, rng = read_json(study / "run0/record.json"), np.random.default_rng(0)
    for i in range(6):
        record |= {"stage": "ppo", "run_id": f"p{i}", "test_loss": None}
        record["metrics"] = {"gold_before": 0.5, "gold_after": 0.5, "reward_before": 0.0, "kl": 9.0}
        record["config"]["before"] = {"reward": {"pairs": 125 if i < 5 else 2000}}
        folder, apart = tmp_path / "ppo" / f"p{i}", 0.02 * rng.standard_normal()
        write_json(folder / "record.json", record)
        rows: list[dict[str, float]] = [{"step": 1, "episodes": 64, "kl": 0.0}]
        for step, kl in enumerate((0.05, 0.5, 2.0, 5.0, 9.0, 16.0), start=2):
            d = math.sqrt(kl)
            gold = 0.5 + d * (0.2 + apart - 0.1 * math.log(d))
            held_out = {"held_out_kl": kl, "held_out_gold": gold, "held_out_reward": d}
            rows.append({"step": step, "episodes": 64 * step, "kl": kl, **held_out})
        (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(r)}\n" for r in rows))
    return tmp_path / "ppo"


def test_the_course_of_ppo_runs_is_fitted_with_the_run_as_unit(pilots):
    runs = load_runs(pilots, stage="ppo", needed=(), points="updates", where="reward_pairs == 125")
    assert len(runs) == 25  # neither the update without held-out scores nor the one next to d = 0
    assert runs.table["run"][0] == "p0 at 192"
    found = fit(runs, "rl_overoptimisation", resamples=200)
    assert found.intervals is not None
    assert (found.intervals["unit"], found.intervals["units"]) == ("trunk", 5)
    assert found.parameters["beta"] == pytest.approx(0.1, rel=1e-3)
    low, high = found.intervals["parameters"]["alpha"]
    assert high - low > 0.01  # the runs' own differences are in the interval
    assert found.allocation["peak"]["at"] == pytest.approx(math.exp(2), rel=0.3)
    path = found.write(pilots / "law.json")
    assert len(law_pictures(stage_laws({"ppo": [str(path)]}))) == 1


def test_episodes_are_those_of_the_pilots_that_were_fitted(pilots):
    for i in range(6):  # p5, of other pairs, passes any KL at once
        path = pilots / f"p{i}" / "record.json"
        record = read_json(path)
        record["config"]["plan"] = {"kl_budget": 50.0}
        write_json(path, record)
    rows = [json.dumps({"step": 1, "episodes": 1, "kl": 40.0, "held_out_kl": 40.0,
                        "held_out_gold": 0.5, "held_out_reward": 1.0})]  # fmt: skip
    (pilots / "p5" / "metrics.jsonl").write_text("\n".join(rows))
    where = "reward_pairs == 125"
    runs = load_runs(pilots, stage="ppo", needed=(), points="updates", where=where)
    found = choose_kl(
        {"law": fit(runs, "rl_overoptimisation", resamples=0)},
        SHAPE, pairs=0, kl_budget=6.0, episodes=4096, level=0.9,
    )  # fmt: skip
    assert 2.0 < found.values["kl_budget"] < 5.0
    assert found.values["episodes"] == 480  # 1.5 times the 320 at which KL is 5


def test_a_law_over_pairs_is_drawn_by_pairs(pilots):
    columns = Columns(params="reward_pairs")
    runs = load_runs(pilots, stage="ppo", needed=(), points="updates", columns=columns)
    found = fit(runs, "rl_overoptimisation_sizes", resamples=50)
    path = found.write(pilots / "sizes.json")
    (picture,) = law_pictures(stage_laws({"ppo": [str(path)]}))
    assert "reward pairs = 125" in picture.svg
    assert "reward pairs = 2k" in picture.svg


def test_points_that_are_not_there_are_refused(pilots):
    with pytest.raises(ValueError, match="points=updates of stage sft is not known"):
        load_runs(pilots, stage="sft", points="updates")
    (pilots / "p3" / "metrics.jsonl").unlink()
    with pytest.raises(ValueError, match=r"p3 has no gold reward .* sweep it again with ppo.eval"):
        load_runs(pilots, stage="ppo", needed=(), points="updates")
