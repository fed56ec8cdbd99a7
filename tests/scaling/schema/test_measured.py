"""Which loss of a record is meant: fits, plans and reports of a named set, or in bits per byte."""

import json
import math
import runpy
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from analysis.estimation.envelope import curves_of
from analysis.estimation.options import FitConfig, IntervalsConfig
from analysis.laws.law import Law
from analysis.laws.published import check_measure
from analysis.page.contents import read_material
from analysis.runs.table import load_runs
from scaling.schema import Measure, Record, TestSetScore, forecast_score

# An import of the module would hide the function `analysis.fit`.
FIT = Path(__file__).parents[3] / "analysis" / "fit.py"
fit_command = runpy.run_path(str(FIT))["main"]
WEB = Measure(target="web")
BITS = Measure(unit="bits_per_byte")


@pytest.fixture
def record(done_record) -> Record:
    score = TestSetScore(loss=3.0, loss_se=0.3, bits_per_byte=1.5, bytes=288, tokens=100)
    return replace(
        done_record, test_loss=2.0, test_loss_se=0.1, bits_per_byte=1.0, test_sets={"web": score}
    )


def test_a_record_gives_the_loss_that_is_meant(record):
    assert Measure().of(record) is record
    found = [
        (r.test_loss, r.test_loss_se, r.bits_per_byte)
        for r in (m.of(record) for m in (WEB, BITS, replace(WEB, unit="bits_per_byte")))
    ]
    assert found == [(3.0, 0.3, 1.5), (1.0, 0.05, 1.0), (1.5, pytest.approx(0.15), 1.5)]
    other = Measure(target="code")
    with pytest.raises(ValueError, match="tiny/0: it has no test set code"):
        other.of(record)
    assert "no test set code (its sets: web)" in other.why_missing(record)


def test_files_are_named_by_the_measure():
    assert Measure().file("law.json") == "law.json"
    assert WEB.file("law.json") == "law.web.json"
    assert replace(WEB, unit="bits_per_byte").file("plan.yaml") == "plan.web.bits_per_byte.yaml"


def test_a_forecast_of_a_set_is_scored_on_that_set(record):
    sealed = {"test_loss": 2.9, "interval": [2.5, 3.2], "level": 0.9, "target": "web"}
    line = forecast_score(sealed, record, study="s")
    assert (line["outcome"], line["inside"], line["target"]) == (3.0, True, "web")
    del sealed["target"]  # of an earlier version
    assert forecast_score(sealed, record, study="s")["outcome"] == 2.0


@pytest.fixture
def study(record, tmp_path):
    """Twelve cells whose loss on `web` follows another law than their test loss."""
    folder = tmp_path / "runs" / "own"
    for i, n in enumerate((1e4, 2e4, 4e4, 8e4)):
        for j, d in enumerate((1e6, 2e6, 4e6)):
            test, web = (e + 30 * n**-0.4 + 200 * d**-0.4 for e in (1.0, 2.0))
            params = {k: int(n) for k in asdict(record.params)}
            score = {"loss": web, "loss_se": 0.01, "bytes": 300, "tokens": 100}
            values = asdict(record) | {
                "run_id": f"{i}{j}",
                "params": params,
                "tokens": int(d),
                "unique_tokens": int(d),
                "batch_tokens": 1024,
                "peak_lr": 0.01,
                "flops": 6 * n * d,
                "test_loss": test,
                "bits_per_byte": test / math.log(2) / 2,
                "test_sets": {"web": score | {"bits_per_byte": web / math.log(2) / 3}},
                "trunk": str(i),
            }
            (folder / values["run_id"]).mkdir(parents=True)
            (folder / values["run_id"] / "record.json").write_text(json.dumps(values))
    return folder


@pytest.mark.slow
def test_a_fit_takes_the_set_and_the_unit_and_the_page_follows_its_law(study, monkeypatch):
    options = {"runs": str(study), "backtest": False, "sensitivity": False, "prior": "none"}
    quick = IntervalsConfig(resamples=0)
    losses = {
        m: load_runs(study, measure=m).table["loss"].to_numpy() for m in (Measure(), WEB, BITS)
    }
    np.testing.assert_allclose(losses[WEB] - losses[Measure()], 1.0)
    np.testing.assert_allclose(losses[BITS], losses[Measure()] / math.log(2) / 2)
    fit_command(FitConfig(**options, target="web", intervals=quick))
    law = Law.read(study / "law.web.json")
    assert law.parameters["E"] == pytest.approx(2.0, rel=1e-3)
    assert (law.measure, law.unit) == (WEB, "nats_per_token")
    assert not (study / "law.json").exists()
    material = read_material(study, target="web")
    assert material.law is not None
    np.testing.assert_allclose(np.sort(material.cells()["loss"]), np.sort(losses[WEB]))
    fit_command(FitConfig(**options, target="web", unit="bits_per_byte", intervals=quick))
    bits = Law.read(study / "law.web.bits_per_byte.json")
    assert bits.unit == "bits_per_byte"
    assert bits.parameters["E"] == pytest.approx(2.0 / math.log(2) / 3, rel=1e-3)
    with pytest.raises(ValueError, match=r"not of the loss on web in bits .* unit=bits_per_byte"):
        check_measure(law, "law.web.json", target="web", unit="bits_per_byte")


def test_curves_are_of_the_loss_that_is_meant_or_are_not_used(study):
    for path in study.glob("*/record.json"):
        row = {"step": 1, "tokens": 9e5, "flops": 1e10, "train_loss": 3.0, "test_loss": 2.5}
        (path.parent / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    in_bits = 1 / math.log(2) / 2
    for measure, factor in ((Measure(), 1.0), (BITS, in_bits)):
        table = load_runs(study, measure=measure).table
        hulls, source = curves_of(table.loc[table["tokens"] == 1e6])
        np.testing.assert_allclose([np.exp(h.log_loss).max() for h in hulls], 2.5 * factor)
        assert source == "training curves"
    curve = read_material(study, unit="bits_per_byte").training
    on_way = curve.loc[curve["tokens"] == 9e5, "loss"]
    np.testing.assert_allclose(on_way, 2.5 * in_bits)
    web = load_runs(study, measure=WEB).table
    assert curves_of(web)[1] == "end points"
    page = read_material(study, target="web")
    assert page.training.empty
    assert "they hold the loss of the test part, not that on web" in page.why_no_curves


def test_what_no_cell_holds_is_one_sentence(study, tmp_path):
    code = Measure(target="code")
    with pytest.raises(ValueError, match=r"no test set code \(its sets: web\)"):
        load_runs(study, measure=code)
    with pytest.raises(ValueError, match=r"no test set code \(its sets: web\)"):
        read_material(study, target="code")
    (tmp_path / "t.csv").write_text("params,tokens,loss\n1,2,3\n")
    with pytest.raises(ValueError, match=r"target=web is for a study.*columns\.loss=COLUMN"):
        load_runs(tmp_path / "t.csv", measure=WEB)


def test_nats_are_converted_to_the_unit_of_the_loss():
    assert Measure().of_nats(0.002, 3.0) == 0.002
    in_bits = Measure(unit="bits_per_byte")
    assert in_bits.of_nats(0.002, 4.0) == pytest.approx(0.002 / math.log(2) / 4)
    assert in_bits.of_nats(0.002, None) == pytest.approx(0.002 / math.log(2) * 0.29335)
