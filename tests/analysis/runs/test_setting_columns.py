"""Columns of settings are known by their names, whatever the table calls them."""

import pandas as pd
import pytest

from analysis.runs.columns import Columns, canonical
from analysis.runs.setting_columns import kind_of_setting, settings_in


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *((name, "lr") for name in ("lr", "peak_lr", "max_lr", "Learning Rate", "learningRate")),
        *((name, "lr") for name in ("learning_rate", "lr_max", "eta", "optim.lr_embedding")),
        *((name, "batch") for name in ("bs", "batch", "batch_size", "batchSize", "Batch (tokens)")),
        *((name, "batch") for name in ("batch_tokens", "global_batch_size", "batch_sequences")),
        *((name, "other") for name in ("weight_decay", "wd", "warmup_steps", "optimizer", "beta2")),
        ("schedule.decay", "other"),
        *(
            (name, None)
            for name in ("loss", "loss_at_lr", "batch_id", "step_time", "critical_batch")
        ),
        *(
            (name, None)
            for name in ("model", "n_layer", "params", "tokens", "seed", "colr", "meta")
        ),
    ],
)
def test_names_of_settings(name, kind):
    assert kind_of_setting(name) == kind


def test_a_table_keeps_its_settings_and_drops_other_columns():
    raw = pd.DataFrame(
        {
            "params": [1e6],
            "tokens": [1e8],
            "loss": [3.0],
            "peak_lr": [0.1],
            "note": ["x"],
            "bs": [2],
        }
    )
    table = canonical(raw, Columns(batch="bs"))
    assert settings_in(table) == {"batch": "batch", "setting peak_lr": "lr"}
    assert not [c for c in table if "note" in c]


def test_an_empty_column_is_no_setting():
    raw = pd.DataFrame({"params": [1e6], "tokens": [1e8], "loss": [3.0], "lr": [None]})
    assert settings_in(canonical(raw)) == {}
