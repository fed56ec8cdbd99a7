"""Published laws: sources, numbers of the sheet, and what they do not claim."""

import numpy as np
import pytest

from analysis import PUBLISHED, load_law


def test_every_law_names_its_source_and_gives_an_optimum():
    for name, law in PUBLISHED.items():
        assert "arXiv" in law.source, name
        optimum = law.optimum(1e21)
        assert 0.1 < optimum.tokens_per_param < 1000, name
        assert law.draws is None


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


def test_muennighoff_base_law():
    law = load_law("muennighoff2023")
    assert law.parameters["A"] == pytest.approx(520.8, rel=1e-3)
    assert law.parameters["B"] == pytest.approx(1487.7, rel=1e-3)
    assert law.optimum(1e20).tokens_per_param == pytest.approx(19.6, rel=1e-2)


def test_gadre_refits_describe_the_released_runs(published_fits):
    import pandas as pd

    runs = pd.read_csv(published_fits / "gadre2024_overtraining.csv")
    for name, group in {"c4": "c4_original", "rpj": "rpj", "rw": "rw_original"}.items():
        rows = runs[runs["group"] == group]
        predicted = load_law(f"gadre2024_{name}").predict(rows["params"], rows["tokens"]).loss
        assert np.median(np.abs(predicted / rows["loss"] - 1)) < 0.01


def test_an_unknown_law_names_the_choices(tmp_path):
    with pytest.raises(ValueError, match="neither a file nor one of hoffmann2022"):
        load_law("hoffman2022")
