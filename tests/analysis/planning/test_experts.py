"""Mixtures of experts: the form, the law at given experts, counts of the plan, and the choice."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from analysis import fit
from analysis.estimation.options import FitConfig
from analysis.laws.law import Law
from analysis.laws.published import load_law
from analysis.planning.budgets import Budget
from analysis.planning.experts import MixtureSettings, law_for, mixture_alarm
from analysis.planning.layout import memory_gib
from analysis.planning.make import make_plan
from analysis.planning.settings import PlanConfig
from analysis.planning.written.derivation import derivation
from analysis.planning.written.plan_file import write_plan
from analysis.runs.study import default_study
from scaling.budget import resolve
from scaling.config import ModelConfig
from scaling.stages.plan import load_plan, planned_cell

TRUE = {"E": 1.8, "A": 480.0, "B": 2000.0, "alpha": 0.35, "beta": 0.366, "delta": 0.12}
C = 1e21
DENSE = load_law("besiroglu2024")


def table(noise: float = 0.0) -> pd.DataFrame:
    """Return IsoFLOPs of 1, 4 and 16 experts, N active."""
    rows = [
        (n, c / 6 / n, c, x)
        for x in (1.0, 4.0, 16.0)
        for c in (1e18, 1e19, 1e20, 1e21)
        for n in 0.1 * (c / 6) ** 0.51 * np.geomspace(0.25, 4, 6)
    ]
    found = pd.DataFrame(rows, columns=["params", "tokens", "flops", "experts"])
    size = TRUE["A"] * found.params ** -TRUE["alpha"] * found.experts ** -TRUE["delta"]
    exact = TRUE["E"] + size + TRUE["B"] * found.tokens ** -TRUE["beta"]
    return found.assign(
        loss=exact * np.exp(noise * np.random.default_rng(0).normal(size=len(found)))
    )


@pytest.fixture(scope="module")
def law() -> Law:
    found = fit(table(0.002), "experts", resamples=60, hindcast=False, sensitivity=False)
    return replace(found, count="active")


def plan(law: Law, **moe):
    settings = {k: moe.pop(k) for k in ("max_memory_gib", "device") if k in moe}
    config = PlanConfig(moe=MixtureSettings(**moe), **settings)
    return make_plan(law, Budget(flops=C, device="h100"), default_study(), config)


def codes(made) -> list[str]:
    return [a.code for a in made.alarms]


@pytest.mark.slow
def test_the_form_is_recovered_from_noiseless_runs():
    found = fit(table(), "experts", resamples=0, hindcast=False, sensitivity=False)
    assert found.status == "converged"
    assert found.parameters == pytest.approx(TRUE, rel=1e-6)
    assert found.ranges["experts"] == [1, 16]


@pytest.mark.slow
def test_at_given_experts_it_is_a_chinchilla_law(law):
    runs = table()
    bound = law_for(law, 4)
    four = runs[runs.experts == 4]
    assert bound.form == "chinchilla"
    assert bound.predict(four.params, four.tokens).loss == pytest.approx(
        law.predict_table(four)["loss"].to_numpy(), rel=1e-12
    )
    assert bound.draws.shape == (len(law.draws), 5)
    alone = law_for(law, 1).predict(1e9, 2e10, noise=False).loss
    assert law.predict(1e9, 2e10, noise=False).loss == pytest.approx(float(alone), rel=1e-12)


def test_runs_of_one_number_of_experts_cannot_carry_it():
    dense = table().query("experts == 1")
    with pytest.raises(ValueError, match="all 24 rows have experts=1"):
        fit(dense, "experts")
    with pytest.raises(ValueError, match="no column 'experts'"):
        fit(dense.drop(columns="experts"), "experts")


def test_compute_counts_active_and_memory_counts_all_parameters(tmp_path):
    made, dense = plan(DENSE, experts=8, top_k=2, shared=1), plan(DENSE)
    pretrain = made.pretrain
    shape = ModelConfig(**pretrain.model).shape(vocab_size=32_000, context=2048)
    assert pretrain.params == shape.params.active
    assert pretrain.count == "active"
    assert pretrain.flops == pretrain.tokens * shape.flops_per_token <= C
    assert made.cost.params_total == shape.params.total > 2 * shape.params.active
    held = 16 * (shape.params.total - dense.cost.params_total) / 2**30
    alone = {"devices": 1, "precision": "fp32"}
    plain = ModelConfig(**dense.pretrain.model).shape(vocab_size=32_000, context=2048)
    more = memory_gib(shape, 1, (False, False), **alone)
    more -= memory_gib(plain, 1, (False, False), **alone)
    assert more == pytest.approx(held, rel=0.1)  # activations beside
    assert made.forecast.test_loss == pytest.approx(dense.forecast.test_loss, rel=1e-3)
    cell = planned_cell(load_plan(write_plan(tmp_path / "plan.yaml", made)))
    assert cell.model.n_experts == 8
    assert resolve(cell).flops == pytest.approx(pretrain.flops)
    assert any(line.split()[:2] == ["experts", "8"] for line in derivation(made))


@pytest.mark.parametrize(
    ("count", "counted"),
    [("total", "active"), ("with_head", "multiplying"), ("non_embedding", "active_body")],
)
def test_a_dense_laws_count_becomes_that_of_a_token(count, counted):
    made = plan(replace(DENSE, count=count), experts=8)
    shape = ModelConfig(**made.pretrain.model).shape(vocab_size=32_000, context=2048)
    assert made.pretrain.params == getattr(shape.params, counted)


@pytest.mark.slow
def test_a_law_of_dense_runs_is_an_alarm_and_one_of_the_same_experts_is_none():
    assert "experts_unseen" in codes(plan(DENSE, experts=8))
    assert "experts_unseen" not in codes(plan(DENSE))
    same = replace(DENSE, count="active", ranges={**DENSE.ranges, "experts": [8.0, 8.0]})
    assert "experts_unseen" not in codes(plan(same, experts=8))
    assert "experts_unseen" in codes(plan(same))


def test_a_count_of_idle_experts_is_refused():
    mixed = replace(DENSE, ranges={"experts": [1.0, 16.0]})
    with pytest.raises(ValueError, match="refit with count=active"):
        plan(mixed, experts=8)


@pytest.mark.slow
def test_the_law_takes_the_experts_of_least_loss_that_memory_holds(law):
    made = plan(law, experts=[1, 4, 16])
    losses = {r.experts: r.test_loss for r in made.mixtures}
    assert losses[16] < losses[4] < losses[1]
    assert made.pretrain.model["n_experts"] == 16
    assert made.forecast.test_loss == losses[16]
    assert "experts_unseen" not in codes(made)
    room = max(r.memory_gib for r in made.mixtures if r.experts < 16)
    tight = plan(law, experts=[1, 4, 16], max_memory_gib=0.4 * room)
    assert max(r.memory_gib for r in tight.mixtures) <= 0.4 * room
    assert tight.pretrain.model["n_experts"] < 16
    assert mixture_alarm(law, 64).code == "experts_unseen"


@pytest.mark.parametrize(
    ("moe", "sentence"),
    [
        ({"experts": [1, 8]}, "of form chinchilla does not know experts"),
        ({"experts": [8, 8]}, "names a number twice"),
        ({"experts": 0}, "1 for a dense model"),
        ({"experts": 2.5}, "must be a whole number"),
        ({"top_k": 2}, "need experts"),
        ({"experts": 4, "top_k": 8}, "is more than moe.experts=4"),
    ],
)
def test_a_mixture_that_cannot_be_is_one_sentence(moe, sentence):
    with pytest.raises(ValueError, match=sentence) as caught:
        plan(DENSE, **moe)
    assert "\n" not in str(caught.value)


def test_the_former_name_of_the_form_is_read_in_commands_and_laws(tmp_path):
    law = fit(table(), "mixture", resamples=0, hindcast=False, sensitivity=False)
    assert law.form == "experts"
    assert FitConfig(runs="t.csv", form="mixture").form == "experts"
    path = law.write(tmp_path / "law.json")
    path.write_text(path.read_text().replace('"form": "experts"', '"form": "mixture"'))
    assert '"form": "mixture"' in path.read_text()
    again = Law.read(path)
    assert again.form == "experts"
    assert again.predict(1e8, 1e9).loss == law.predict(1e8, 1e9).loss
