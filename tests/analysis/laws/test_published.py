"""Published laws: sources, numbers of the sheet, and what they do not claim."""

import numpy as np
import pandas as pd
import pytest

from analysis import PUBLISHED, load_law
from analysis.estimation.lr_batch import settings
from analysis.forms import FORMS
from analysis.laws.published import PF_DAY

SURFACES = [
    name for name, law in PUBLISHED.items() if law.form in FORMS and FORMS[law.form].is_surface
]
ALLOCATIONS = [name for name, law in PUBLISHED.items() if law.form == "allocation"]
SETTINGS = [name for name, law in PUBLISHED.items() if law.form == "lr_batch"]
# With Farseer's printed constants a hopelessly large N has the least loss.
WITH_OPTIMUM = [name for name in (*SURFACES, *ALLOCATIONS) if name != "farseer2025"]


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_law_names_its_source_and_fits_the_terminal(name):
    law = load_law(name)
    assert "arXiv" in law.source
    assert law.draws is None
    assert law.alarms[0].code == "no_draws"
    assert max(map(len, law.summary().splitlines())) <= 100
    for alarm in law.alarms:
        assert alarm.sentence.endswith(".")


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_law_is_written_and_read_back(name, tmp_path):
    law = PUBLISHED[name]
    again = load_law(law.write(tmp_path / "law.json"))
    assert again.parameters == law.parameters
    assert again.allocation == law.allocation
    assert again.alarms == law.alarms


@pytest.mark.parametrize("name", WITH_OPTIMUM)
def test_a_law_of_sizes_gives_an_optimum(name):
    optimum = load_law(name).optimum(1e21)
    assert 1 < optimum.tokens_per_param < 100
    assert 6 * optimum.params * optimum.tokens == pytest.approx(1e21, rel=0.02)


@pytest.mark.parametrize("name", sorted(set(PUBLISHED) - {*WITH_OPTIMUM}))
def test_a_law_of_one_variable_or_of_settings_refuses_an_optimum(name):
    with pytest.raises(ValueError, match=f"form {PUBLISHED[name].form} has no compute optimum"):
        load_law(name).optimum(1e21)


@pytest.mark.parametrize("name", [*ALLOCATIONS, *SETTINGS])
def test_a_law_without_a_loss_refuses_to_predict_one(name):
    with pytest.raises(ValueError, match="no loss to predict"):
        load_law(name).predict(1e9, 1e10)


@pytest.mark.parametrize("name", SURFACES)
def test_losses_fall_with_size_and_tokens(name):
    law = load_law(name)
    losses = law.predict([1e9, 2e9, 1e9], [2e10, 2e10, 4e10]).loss
    assert 0.3 < losses[0] < 3.0
    assert losses[1] < losses[0] > losses[2]


@pytest.mark.parametrize(
    ("name", "params", "tokens", "lr", "batch"),
    [
        ("deepseek2024_lr_batch", 1e9, 1e11 / 6, 9.86e-4, 1.02e6),
        ("steplaw2025", 1.07e9, 2e10, 9.49e-4, 4.42e5),
        ("porian2024_lr_batch", 1e8, 2e9, 3.7 * 1e8**-0.36, 2048 * 0.00037 * 1e8**0.703),
    ],
)
def test_published_settings(name, params, tokens, lr, batch):
    by_axis = settings(load_law(name), params, tokens)
    assert by_axis["lr"] == pytest.approx([lr] * 3, rel=1e-3)
    assert by_axis["batch"] == pytest.approx([batch] * 3, rel=4e-3)


def test_deepseek_splits_by_its_own_cost_of_a_token():
    optimum = load_law("deepseek2024").optimum(1e20)
    assert 6 * optimum.params == pytest.approx(0.1715 * 1e20**0.5243)
    assert optimum.tokens == pytest.approx(5.8316 * 1e20**0.4757)
    assert 6 * optimum.params * optimum.tokens == pytest.approx(1e20, rel=2e-3)
    assert "model_scale_equivalent" in [a.code for a in load_law("deepseek2024").alarms]


@pytest.mark.parametrize(
    ("variable", "value", "loss"),
    [("params", 1e9, 2.376), ("tokens", 1e10, 2.262), ("flops", PF_DAY, 2.658)],
)
def test_kaplan_in_one_variable(variable, value, loss):
    table = pd.DataFrame({variable: [value]})
    predicted = load_law(f"kaplan2020_{variable}").predict_table(table)["loss"].item()
    assert predicted == pytest.approx(loss, abs=5e-4)


def test_kaplan_s_joint_optimum_is_said_not_to_be_the_paper_s():
    law = load_law("kaplan2020")
    assert "k_params" not in law.allocation
    assert law.optimum(1e21).a == pytest.approx(0.103 / (0.103 + 0.076))
    assert "optimum_at_convergence" in [a.code for a in law.alarms]


def test_llama_3_s_printed_rule():
    assert load_law("llama3_2024").optimum(3.8e25).tokens == pytest.approx(10.5e12, rel=0.01)


@pytest.mark.parametrize(("name", "low", "high"), [("rw", 14, 17), ("owt2", 10, 17)])
def test_porian_s_allocations_are_those_released(name, low, high, published_fits):
    table = pd.read_csv(published_fits / "porian2024_published_fits.csv", index_col="config")
    row = table.loc[f"{name}_tuned_short_const_standard_val"]
    allocation = load_law(f"porian2024_{name}").allocation
    assert [allocation["a"], allocation["k_params"]] == pytest.approx(
        [row["a"], row["a_coef"]], rel=1e-12
    )
    assert allocation["a_interval"] == pytest.approx([row["a_lo"], row["a_hi"]], rel=1e-12)
    assert low < load_law(f"porian2024_{name}").optimum(1e20).tokens_per_param < high


def test_farseer_says_its_unit():
    law = load_law("farseer2025")
    assert "unit_bits_per_character" in [a.code for a in law.alarms]
    p, n, d = law.parameters, 1e9, 2e10
    by_size = np.exp(p["a3"] * n ** p["gamma"] + p["b3"])
    slope = np.exp(p["a1"] * n ** p["alpha"] + p["b1"])
    by_data = np.exp(p["a2"] * n ** p["beta"] + p["b2"]) * d**-slope
    assert law.predict(n, d).loss == pytest.approx(by_size + by_data)


def test_a_published_forecast_has_no_interval_and_says_why():
    law = load_law("besiroglu2024")
    assert law.predict(1e9, 2e10).low is None
    assert law.optimum(1e21).intervals == {}
    assert [a.code for a in law.alarms] == ["no_draws"]


@pytest.mark.parametrize(("flops", "params"), [(1.92e19, 4e8), (1.21e20, 1e9), (5.76e23, 6.7e10)])
def test_approach_one_gives_its_table(flops, params):
    assert load_law("hoffmann2022_approach1").optimum(flops).params == pytest.approx(
        params, rel=0.05
    )


def test_the_bloomberg_case():
    first, second = (load_law(f"hoffmann2022_approach{i}") for i in (1, 2))
    flops = 3.5e23
    assert first.optimum(flops).params == pytest.approx(52.993e9, rel=0.02)
    assert first.optimum(flops).tokens == pytest.approx(1111.112e9, rel=0.02)
    assert second.optimum(flops).params == pytest.approx(49.753e9, rel=0.02)
    assert second.optimum(flops).tokens == pytest.approx(1175.766e9, rel=0.02)


def test_an_allocation_has_no_loss():
    law = load_law("hoffmann2022_approach1")
    assert law.optimum(1e21).loss is None
    with pytest.raises(ValueError, match="no loss to predict"):
        law.predict(1e9, 1e10)


def test_muennighoff_base_law_and_the_worth_of_repeated_tokens():
    law = load_law("muennighoff2023")
    p = law.parameters
    assert p["E"] == pytest.approx(1.8691, rel=1e-4)
    assert p["A"] == pytest.approx(520.8, rel=1e-3)
    assert p["B"] == pytest.approx(1487.7, rel=1e-3)
    optimum = law.optimum(1e20)
    assert optimum.tokens_per_param == pytest.approx(19.6, rel=1e-2)
    unique = 1e9
    for epochs, worth in {1: 1, 4: 0.931, 16: 0.661}.items():
        loss = law.predict(1e7, epochs * unique, unique_tokens=unique).loss
        fresh = (p["B"] / (loss - p["E"] - p["A"] * 1e7 ** -p["alpha"])) ** (1 / p["beta"])
        assert fresh / (epochs * unique) == pytest.approx(worth, abs=6e-4)


def test_gadre_refits_describe_the_released_runs(published_fits):
    runs = pd.read_csv(published_fits / "gadre2024_overtraining.csv")
    for name, group in {"c4": "c4_original", "rpj": "rpj", "rw": "rw_original"}.items():
        rows = runs[runs["group"] == group]
        law = load_law(f"gadre2024_{name}")
        predicted = law.predict(rows["params"], rows["tokens"]).loss
        assert np.median(np.abs(predicted / rows["loss"] - 1)) < 0.01
        errors = load_law(f"gadre2024_{name}_error").predict_table(
            pd.DataFrame({"loss": predicted})
        )
        assert errors["error"].between(0.3, 0.87).all()


def test_gadre_in_chinchilla_s_terms():
    p = load_law("gadre2024_c4").parameters
    a, b = (p[name] / 6 ** p["eta"] for name in ("a", "b"))
    expected = p["E"] + a * 1e9 ** (-2 * p["eta"]) + b * 2e10 ** (-2 * p["eta"])
    assert load_law("gadre2024_c4").predict(1e9, 2e10).loss == pytest.approx(expected)


def test_an_unknown_law_names_the_choices(tmp_path):
    with pytest.raises(ValueError, match="neither a file nor one of hoffmann2022"):
        load_law("hoffman2022")
