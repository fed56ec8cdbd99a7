"""The unit of the loss: read from the column's name or stated, never silently taken for nats."""

import numpy as np
import pandas as pd
import pytest

from analysis import Law, fit
from analysis.alarms.loss_units import UNITS, unit_of_name
from analysis.runs.columns import Columns
from analysis.runs.table import load_runs
from tests.analysis.conftest import isoflop_table

NAMES = {
    "perplexity": [
        "perplexity",
        "val_ppl",
        "Val PPL",
        "eval/perplexity",
        "valppl",
        "testPerplexity",
    ],
    "bits_per_token": ["bits_per_token", "bpt", "loss (bits)", "bits/token"],
    "bits_per_byte": ["val_bpb", "bits_per_byte", "bits/byte", "BPB", "bitsPerByte"],
    "nats_per_byte": ["nats_per_byte", "loss (nats/byte)"],
    "nats_per_token": [
        *("loss", "loss (nats)", "val_loss", "apple_loss", "log_perplexity", "loss_4_bits", "8bit"),
    ],
}


@pytest.mark.parametrize(("unit", "name"), [(u, n) for u, names in NAMES.items() for n in names])
def test_the_name_of_a_column_states_its_unit(unit, name):
    assert unit_of_name(name) == unit


def in_unit(loss, unit):
    return {
        "nats_per_token": loss,
        "bits_per_token": loss / np.log(2),
        "perplexity": np.exp(loss),
        "bits_per_byte": 0.3 * loss / np.log(2),
        "nats_per_byte": 0.3 * loss,
    }[unit]


def point(table, columns):
    return fit(table, columns=columns, resamples=0, hindcast=False, sensitivity=False)


@pytest.mark.slow
@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("stated", [True, False])
def test_losses_in_every_unit_give_the_law_of_nats_or_of_bits_per_byte(refit_law, unit, stated):
    table = isoflop_table(refit_law)
    name = "x" if stated else NAMES[unit][0]
    renamed = table.drop(columns="loss").assign(**{name: in_unit(table["loss"], unit)})
    law = point(renamed, Columns(loss=name, loss_unit=unit if stated else ""))
    per_byte = unit.endswith("per_byte")
    scale = 0.3 / np.log(2) if per_byte else 1.0
    assert law.parameters["E"] == pytest.approx(scale * refit_law["E"], rel=1e-5)
    assert law.parameters["alpha"] == pytest.approx(refit_law["alpha"], rel=1e-5)
    assert law.unit == ("bits_per_byte" if per_byte else "nats_per_token")
    codes = {alarm.code for alarm in law.alarms}
    assert ("loss_unit" in codes) == (per_byte or (not stated and unit != "nats_per_token"))
    assert ("loss in bits per byte" in law.summary()) == per_byte


@pytest.mark.slow
def test_the_settings_that_the_alarm_of_a_perplexity_prints_mend_it(refit_law):
    table = isoflop_table(refit_law)
    table["loss"] = np.exp(table["loss"])
    (alarm,) = [a for a in point(table, Columns()).alarms if a.code == "loss_unit"]
    assert "add columns.loss_unit=perplexity" in alarm.sentence
    law = point(table, Columns(loss_unit="perplexity"))
    assert law.parameters["E"] == pytest.approx(refit_law["E"], rel=1e-5)
    assert not [a for a in law.alarms if a.code == "loss_unit"]


@pytest.mark.slow
def test_the_unit_is_kept_by_law_json_and_absent_in_old_ones(refit_law, tmp_path):
    table = isoflop_table(refit_law).rename(columns={"loss": "bpb"})
    path = point(table, Columns(loss="bpb")).write(tmp_path / "law.json")
    assert Law.read(path).unit == "bits_per_byte"


@pytest.mark.slow
@pytest.mark.parametrize("form", ["isoflop", "power_flops"])
def test_laws_of_every_kind_say_the_unit(refit_law, form):
    table = isoflop_table(refit_law).rename(columns={"loss": "bpb"})
    law = fit(table, form, columns=Columns(loss="bpb"), resamples=0, hindcast=False)
    assert law.unit == "bits_per_byte"
    assert "loss_unit" in {a.code for a in law.alarms}


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"loss_unit": "nats"}, "choose one of nats_per_token"),
        ({"loss": "bpc"}, "bits per character"),
        ({"loss": "wikitext/word_perplexity"}, "of a word or byte"),
        ({"loss": "ppl"}, "which is above 1, but 1 of 3 rows have 0.9"),
    ],
)
def test_a_unit_that_cannot_be_read_is_refused(columns, words):
    table = pd.DataFrame({"params": 1e6, "tokens": 1e8, "loss": [2.0, 3.0, 4.0]})
    table = table.assign(
        **{"wikitext/word_perplexity": table["loss"]}, bpc=table["loss"], ppl=[0.9, 3.0, 4.0]
    )
    with pytest.raises(ValueError, match=words):
        load_runs(table, columns=Columns(**columns))
