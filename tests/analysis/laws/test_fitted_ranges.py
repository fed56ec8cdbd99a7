"""The ranges of published laws are those of the released tables, and plans alarm beyond them."""

import pandas as pd
import pytest

from analysis.laws.fitted_ranges import FITTED
from analysis.laws.published import PUBLISHED, load_law
from analysis.planning.written.plan_alarms import reached_flops

TABLES = {  # law: table, condition on its rows
    "hoffmann2022": ("chinchilla_epoch245", "params > 0"),
    "besiroglu2024": ("chinchilla_epoch245", "dropped_by_authors == 0"),
    "muennighoff2023": ("muennighoff2023_datablations182", "params > 0"),
    "gadre2024_c4": ("gadre2024_overtraining", "group == 'c4_original'"),
    "gadre2024_rpj": ("gadre2024_overtraining", "group == 'rpj'"),
    "gadre2024_rw": ("gadre2024_overtraining", "group == 'rw_original'"),
    "porian2024_rw": ("porian2024_isoflop", "group == 'rw_tuned_short_const_standard_val'"),
    "porian2024_owt2": ("porian2024_isoflop", "group == 'owt2_tuned_short_const_standard_val'"),
}


@pytest.mark.parametrize("name", TABLES)
def test_ranges_are_those_of_the_released_table(name, published_fits):
    table, where = TABLES[name]
    rows = pd.read_csv(published_fits / f"{table}.csv").query(where)
    rows = rows.assign(flops_6nd=6.0 * rows["params"] * rows["tokens"])
    for column, ends in load_law(name).ranges.items():
        assert ends == pytest.approx([rows[column].min(), rows[column].max()], rel=1e-3)


@pytest.mark.parametrize("name", [n for n, law in PUBLISHED.items() if law.form != "lr_batch"])
def test_every_law_of_losses_or_sizes_says_up_to_which_compute_it_was_fitted(name):
    reach = reached_flops(load_law(name))
    assert (reach is None) == (name == "farseer2025")
    assert reach is None or 1e19 < reach < 2e22


def test_no_range_is_of_an_unknown_law():
    assert set(FITTED) <= set(PUBLISHED)
