"""Alarms: each on a table built to raise it, and none of units or copies on sound tables."""

import re

import numpy as np
import pandas as pd
import pytest

from analysis import fit
from analysis.alarms.of_fit import (
    bound_alarm,
    coverage_alarm,
    inseparable_alarm,
    offset_alarm,
    ratio_alarm,
    two_basins,
)
from analysis.alarms.of_table import residual_alarms, table_alarms
from analysis.alarms.outliers import outliers
from analysis.alarms.units import unit_alarms
from analysis.runs.columns import Columns, canonical
from analysis.runs.table import load_runs
from tests.analysis.conftest import LAWS, isoflop_table, loss_of, ray_table

OF_THE_DATA = {
    *("mixed_units", "compute_unit", "loss_unit", "swapped_columns"),
    *("duplicate_rows", "count_disagrees"),
}


def alarm_codes(table, **options):
    """Return the alarms of a point fit, {code: sentence}."""
    law = fit(table, hindcast=False, sensitivity=False, **{"resamples": 0, **options})
    return {alarm.code: alarm.sentence for alarm in law.alarms}


NAMED = {"params": "N", "tokens": "D", "unique_tokens": "U", "loss": "loss"}


@pytest.mark.parametrize(
    ("names", "where", "asked"),
    [
        ({"passes": "ep"}, None, "'where=\"ep <= 4\"'"),
        ({"passes": "data passes"}, "N > 1", "'where=\"(N > 1) and `data passes` <= 4\"'"),
        ({}, None, "where='epochs <= 4'"),
    ],
)
def test_repeated_data_name_the_condition_to_type(names, where, asked):
    table = isoflop_table(LAWS["besiroglu"])[["params", "tokens", "loss"]]
    passes = np.resize([1.0, 2.0, 8.0], len(table))
    table = table.assign(unique_tokens=table["tokens"] / passes).rename(columns=NAMED)
    table = table.assign(**dict.fromkeys(names.values(), passes))
    runs = load_runs(table, columns=Columns(**NAMED), where=where)
    (alarm,) = (a for a in table_alarms(runs.table, runs.inputs) if a.code == "repeated_data")
    assert asked in alarm.sentence
    assert "form=data_constrained" in alarm.sentence


def test_all_optima_at_the_edge_of_the_search_are_one_alarm():
    optima = [{"flops": c, "tokens_per_param": 0.5, "edge": "lower"} for c in (1e21, 1e22)]
    sentence = ratio_alarm([*optima, {"flops": 1e23, "tokens_per_param": 9.0, "edge": ""}]).sentence
    assert "C = 1e+21, 1e+22 stands at the lower edge of the search, 0.5 tokens" in sentence
    assert ratio_alarm([{"flops": 1e23, "tokens_per_param": 9.0, "edge": ""}, {"flops": 1}]) is None


@pytest.mark.parametrize(
    ("form", "asks"), [("all", "add larger runs"), ("kaplan", "form=all within")]
)
def test_low_coverage_of_all_forms_does_not_ask_for_rows_again(form, asks):
    row = {"converged": True, "n_test": 20, "coverage": 0.2}
    alarm = coverage_alarm({"rows": [row], "level": 0.9}, form, None)
    assert asks in alarm.sentence


def of_table(table):
    """Return (code, sentence) of the table's own alarms."""
    return [(alarm.code, alarm.sentence) for alarm in table_alarms(canonical(table))]


def units(table):
    return [sentence for code, sentence in of_table(table) if code == "mixed_units"]


@pytest.fixture
def good(refit_law):
    return isoflop_table(refit_law, noise=0.003)


@pytest.mark.slow
@pytest.mark.many(5)
@pytest.mark.parametrize("noise", [0.0, 0.003, 0.02, 0.1])
@pytest.mark.parametrize("budgets", [(1e18, 1e19, 1e20, 1e21), (1e15, 1e18, 1e21, 1e25)])
def test_a_sound_grid_raises_nothing(known_law, noise, budgets):
    assert of_table(isoflop_table(known_law, budgets=budgets, noise=noise)) == []


PUBLISHED = [
    "chinchilla_epoch245",
    "gadre2024_overtraining",
    "muennighoff2023_datablations182",
    "porian2024_isoflop",
]


@pytest.mark.slow
@pytest.mark.many(2)
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_runs_raise_no_alarm_of_units_copies_or_counts(name, published_fits):
    table = pd.read_csv(published_fits / f"{name}.csv")
    groups = [rows for _, rows in table.groupby("group")] if "group" in table else []
    for rows in [table, *groups]:
        assert not OF_THE_DATA & {code for code, _ in of_table(rows)}


SCALED = [
    ("params", 1e6, "millions"),
    ("params", 1e9, "billions"),
    ("tokens", 1e9, "billions"),
    ("tokens", 1e6, "millions"),
]


@pytest.mark.parametrize("with_flops", [True, False])
@pytest.mark.parametrize(("name", "factor", "unit"), SCALED)
def test_a_column_in_another_unit_is_named_with_its_repair(good, name, factor, unit, with_flops):
    table = good.assign(**{name: good[name] / factor})
    table = table if with_flops else table.drop(columns="flops")
    (sentence,) = units(table)
    assert f"Column {name} seems to be in {unit}: multiply them by {factor:.0e}" in sentence


@pytest.mark.parametrize("with_flops", [True, False])
@pytest.mark.parametrize(("name", "factor", "unit"), SCALED)
@pytest.mark.parametrize("step", [2, 5])
def test_some_rows_in_another_unit_are_listed(good, name, factor, unit, step, with_flops):
    odd = np.arange(len(good)) % step == 0
    table = good.assign(**{name: np.where(odd, good[name] / factor, good[name])})
    table = table if with_flops else table.drop(columns="flops")
    (sentence,) = units(table)
    rows = f"in {odd.sum()} of {len(good)} rows (rows 1, {step + 1}, "
    assert f"Column {name} seems to be in {unit} {rows}" in sentence


@pytest.mark.parametrize("pair", [(1e6, 1e9), (1e9, 1e9), (1e9, 1e12), (1e6, 1e6)])
@pytest.mark.parametrize("with_flops", [True, False])
def test_both_counts_in_other_units_are_said(good, pair, with_flops):
    table = good.assign(params=good["params"] / pair[0], tokens=good["tokens"] / pair[1])
    alarms = units(table if with_flops else table.drop(columns="flops"))
    for name, factor, sentence in zip(("params", "tokens"), pair, alarms, strict=True):
        assert f"Column {name} seems" in sentence
        assert f"by {factor:.0e}" in sentence


COMPUTE = [
    (1e6, "MFLOPs"),
    (1e9, "GFLOPs"),
    (1e12, "TFLOPs"),
    (1e15, "PFLOPs"),
    (1e18, "EFLOPs"),
    (8.64e19, "petaFLOP/s-days"),
    (1e21, "ZFLOPs"),
]


@pytest.mark.slow
@pytest.mark.many(4)
@pytest.mark.parametrize("counted", [0.5, 1.0, 2.0])
@pytest.mark.parametrize(("factor", "unit"), COMPUTE)
def test_compute_in_another_unit_is_named_with_the_factor_that_repairs_it(
    good, factor, unit, counted
):
    flops = counted * good["flops"] / factor
    alarms = dict(of_table(good.assign(flops=flops)))
    sentence = alarms["compute_unit"]
    assert f"Column flops seems to be in {unit}: multiply them by" in sentence
    by = float(re.search(r"by (\S+),", sentence).group(1))
    again = dict(of_table(good.assign(flops=flops * by)))
    assert set(again) == (set() if counted == 1.0 else {"count_disagrees"})


@pytest.mark.slow
@pytest.mark.parametrize("factor", [1e-6, 1e-3, 1e3, 3e7, 3e10, 1e-15])
def test_a_compute_that_no_unit_explains_blames_neither_n_nor_d(good, factor):
    ((code, sentence),) = of_table(good.assign(flops=good["flops"] / factor))
    assert code == "count_disagrees"
    assert "C is not near 6ND" in sentence
    assert "seems" not in sentence


@pytest.mark.slow
def test_compute_of_some_rows_in_another_unit_is_named_with_the_rows(good):
    odd = np.arange(len(good)) < 7
    flops = np.where(odd, good["flops"] / 1e15, good["flops"])
    ((code, sentence),) = of_table(good.assign(flops=flops))
    assert code == "compute_unit"
    assert "in PFLOPs in 7 of 28 rows (rows 1, 2, 3, 4, 5, ..)" in sentence


@pytest.mark.slow
@pytest.mark.many(4)
@pytest.mark.parametrize(("factor", "unit"), COMPUTE)
@pytest.mark.parametrize("name", ["params", "tokens"])
def test_compute_beside_a_count_in_another_unit_ends_right(good, factor, unit, name):
    """Each step multiplies by what the alarms say, until none is left."""
    table = good.assign(
        **{name: good[name] / (1e6 if name == "params" else 1e9)}, flops=good["flops"] / factor
    )
    for _ in range(3):
        for code, sentence in of_table(table):
            match = re.search(r"Column (\w+) seems to be in .*by (\S+),", sentence)
            assert match, code
            table[match.group(1)] = table[match.group(1)] * float(match.group(2))
    for column in ("params", "tokens", "flops"):
        assert table[column].to_numpy() == pytest.approx(good[column].to_numpy(), rel=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("shift", [0.5, 2.0])
def test_a_column_of_perplexities_is_judged_as_a_whole(good, shift):
    """Whatever the largest: with the smaller shift most are below 13.8."""
    ((code, sentence),) = of_table(good.assign(loss=np.exp(good["loss"] + shift)))
    assert code == "loss_unit"
    assert "add columns.loss_unit=perplexity" in sentence


@pytest.mark.slow
def test_a_diverged_run_does_not_make_a_column_perplexity(good):
    loss = good["loss"].to_numpy().copy()
    loss[3] = 14.0
    alarms = dict(of_table(good.assign(loss=loss)))
    assert set(alarms) == {"outlier_rows"}
    assert "row 4: " in alarms["outlier_rows"]


@pytest.mark.slow
@pytest.mark.parametrize("with_flops", [True, False])
@pytest.mark.parametrize("law", list(LAWS))
def test_swapped_columns_are_said_and_the_settings_mend_them(law, with_flops):
    table = isoflop_table(LAWS[law], noise=0.003)
    table = table if with_flops else table.drop(columns="flops")
    swapped = table.rename(columns={"params": "tokens", "tokens": "params"})
    if table["tokens"].median() < table["params"].median():
        pytest.skip("this law's own optimum has fewer tokens than parameters")
    ((code, sentence),) = of_table(swapped)
    assert code == "swapped_columns"
    assert "add columns.params=tokens columns.tokens=params" in sentence
    mended = canonical(swapped, Columns(params="tokens", tokens="params"))
    assert table_alarms(mended) == []


@pytest.mark.slow
def test_settings_for_swapped_columns_name_the_columns_of_the_file(good):
    table = good.rename(columns={"params": "n (D)", "tokens": "d"})
    runs = load_runs(table, columns=Columns(params="d", tokens="n (D)"))
    (alarm,) = table_alarms(runs.table, runs.inputs)
    assert "add 'columns.params=\"n (D)\"' columns.tokens=d, or" in alarm.sentence


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_runs_with_n_and_d_swapped_are_said(name, published_fits):
    table = pd.read_csv(published_fits / f"{name}.csv")
    table = table.rename(columns={"params": "tokens", "tokens": "params"})
    groups = [rows for _, rows in table.groupby("group")] if "group" in table else []
    for rows in [table, *groups[:5]]:
        assert "swapped_columns" in {a.code for a in unit_alarms(canonical(rows), {})}


@pytest.mark.slow
@pytest.mark.many(5)
@pytest.mark.parametrize("with_flops", [True, False])
@pytest.mark.parametrize(
    ("name", "factor"), [("params", 1e3), ("tokens", 1e3), ("loss", 1e3), ("params", 1e-3)]
)
@pytest.mark.parametrize("row", [0, 6, 13, 27])
def test_one_number_typed_wrong_is_named(good, name, factor, row, with_flops):
    values = good[name].to_numpy().copy()
    values[row] *= factor
    table = good.assign(**{name: values})
    alarms = dict(of_table(table if with_flops else table.drop(columns="flops")))
    assert set(alarms) == {"outlier_rows"}
    sentence = alarms["outlier_rows"]
    assert sentence.startswith("1 of 28 rows do not belong to the others (row ")
    assert f"(row {row + 1}: " in sentence
    size = "1000 times too " + ("large" if factor > 1 else "small")
    assert f"as if {name} were {size}" in sentence or with_flops or row in (0, 27)


@pytest.mark.slow
def test_two_bad_rows_do_not_hide_each_other(good):
    params = good["params"].to_numpy().copy()
    params[[2, 20]] *= 1e3
    alarms = dict(of_table(good.drop(columns="flops").assign(params=params)))
    assert "2 of 28 rows" in alarms["outlier_rows"]
    assert {"row 3", "row 21"} <= set(re.findall(r"row \d+", alarms["outlier_rows"]))


@pytest.mark.slow
def test_an_outlier_is_named_by_its_row_in_the_file_before_where(good):
    loss = good["loss"].to_numpy().copy()
    loss[20] *= 3
    runs = load_runs(good.assign(loss=loss), where="flops > 1e18")
    (alarm,) = table_alarms(runs.table)
    assert "(row 21: " in alarm.sentence


@pytest.mark.slow
@pytest.mark.many(5)
@pytest.mark.parametrize("noise", [0.0, 0.003, 0.02, 0.1])
@pytest.mark.parametrize("seed", range(4))
def test_clean_tables_have_no_outliers(known_law, noise, seed):
    assert outliers(isoflop_table(known_law, noise=noise, seed=seed)).rows == ()


@pytest.mark.slow
def test_a_raw_sweep_of_settings_is_no_list_of_outliers(good):
    rng = np.random.default_rng(0)
    table = pd.concat([good] * 8, ignore_index=True)
    table["loss"] *= np.exp(np.where(rng.random(len(table)) < 0.3, 0.5, 0.003) * rng.random(224))
    assert outliers(table).rows == ()


@pytest.mark.slow
def test_the_highest_published_losses_are_named_as_the_authors_found_them(published_fits):
    table = pd.read_csv(published_fits / "chinchilla_epoch245.csv")
    dropped = set(np.flatnonzero(table["dropped_by_authors"]).tolist())
    assert {o.row for o in outliers(canonical(table)).rows} <= dropped
    assert outliers(canonical(table[table["dropped_by_authors"] == 0])).rows == ()


@pytest.mark.slow
@pytest.mark.parametrize("group", ["c4_original", "rw_original"])
def test_a_low_loss_of_the_shortest_run_is_no_slip_of_units(published_fits, group):
    table = pd.read_csv(published_fits / "gadre2024_overtraining.csv").query(f"group == '{group}'")
    loss = table["loss_paloma_dolma_100_programing_languages"]
    assert outliers(canonical(table.assign(loss=loss))).rows == ()


@pytest.mark.slow
@pytest.mark.parametrize("n", [60, 200])
def test_runs_at_any_compute_are_not_too_few_budgets(refit_law, n):
    rng = np.random.default_rng(1)
    params = np.exp(rng.uniform(np.log(1e7), np.log(3e9), n))
    tokens = params * np.exp(rng.uniform(0.0, 6.0, n))
    loss = loss_of(refit_law, params, tokens)
    assert of_table(pd.DataFrame({"params": params, "tokens": tokens, "loss": loss})) == []


def test_budgets_close_to_each_other_are_not_too_few(refit_law):
    assert of_table(isoflop_table(refit_law, budgets=1e18 * 1.23 ** np.arange(34))) == []


@pytest.mark.slow
def test_two_budgets_whose_compute_jitters_are_too_few(refit_law):
    table = isoflop_table(refit_law, budgets=(1e18, 1e20))
    jitter = np.exp(np.random.default_rng(0).uniform(-0.1, 0.1, len(table)))
    table = table.assign(tokens=table["tokens"] * jitter, flops=table["flops"] * jitter)
    assert "2 budgets over" in dict(of_table(table))["too_few_budgets"]


@pytest.mark.parametrize("noise", [0.0, 0.003, 0.01])
@pytest.mark.parametrize("step", [2, 3, 7])
def test_some_losses_in_bits_are_found(known_law, noise, step):
    table = isoflop_table(known_law, noise=noise)
    bits = np.arange(len(table)) % step == 0
    loss = np.where(bits, table["loss"] / np.log(2), table["loss"])
    (sentence,) = units(table.assign(loss=loss))
    assert f"Column loss seems to be in bits in {bits.sum()} of {len(table)} rows" in sentence
    assert "multiply them by ln 2" in sentence


@pytest.mark.parametrize("size", [1, 3])
def test_a_group_whose_losses_are_in_bits_is_found(known_law, size):
    parts = [isoflop_table(known_law, noise=0.003, seed=s).assign(group=s) for s in range(4)]
    table = pd.concat(parts, ignore_index=True)
    bits = table["group"] < size
    loss = np.where(bits, table["loss"] / np.log(2), table["loss"])
    (sentence,) = units(table.assign(loss=loss))
    assert f"in bits in {bits.sum()} of {len(table)} rows (rows 1, 2, 3, " in sentence


@pytest.mark.slow
@pytest.mark.many(5)
@pytest.mark.parametrize("factor", [1.1, 1.3, 1.6, 2.0])
def test_another_corpus_is_not_taken_for_bits(known_law, factor):
    one, two = (isoflop_table(known_law, noise=0.003, seed=s) for s in range(2))
    two["loss"] *= factor
    table = pd.concat([one.assign(group="a"), two.assign(group="b")], ignore_index=True)
    assert of_table(table) == []


@pytest.mark.slow
def test_copies_are_listed_and_seeds_are_not_copies(good):
    copied = pd.concat([good, good.iloc[3:5]], ignore_index=True)
    ((code, sentence),) = of_table(copied)
    assert code == "duplicate_rows"
    assert "2 rows (rows 29, 30, counted from 1)" in sentence
    rounded = copied.assign(loss=[*good["loss"], *good["loss"].iloc[3:5].round(6)])
    assert [code for code, _ in of_table(rounded)] == ["duplicate_rows"]
    seeded = copied.assign(seed=[0] * len(good) + [1, 1])
    assert of_table(seeded) == []


@pytest.mark.slow
@pytest.mark.parametrize("power", [0.0, -0.2])
def test_counts_that_disagree_with_6nd_are_said(good, power):
    factor = 2.0 * (good["params"] / 1e9) ** power
    ((code, sentence),) = of_table(good.assign(flops=good["flops"] * factor))
    assert code == "count_disagrees"
    assert "times 6ND" in sentence
    assert "count=" in sentence


@pytest.mark.slow
def test_a_single_ray_and_too_few_budgets(refit_law):
    assert (
        "add runs from 1/8 to 8 times"
        in alarm_codes(ray_table(refit_law, noise=0.004))["single_ray"]
    )
    few = isoflop_table(refit_law, budgets=(1e19, 2e19), noise=0.003)
    assert "at least 3 of each" in alarm_codes(few)["too_few_budgets"]


@pytest.mark.slow
@pytest.mark.parametrize("shift", [1 / 40, 40])
def test_a_minimum_at_the_edge_of_the_sizes(refit_law, shift):
    table = isoflop_table(refit_law)
    cheap = table["flops"] < 1e20
    params = np.where(cheap, table["params"] * shift, table["params"])
    tokens = table["flops"] / 6 / params
    loss = loss_of(refit_law, params, tokens)
    codes = alarm_codes(table.assign(params=params, tokens=tokens, loss=loss))
    assert "2 of 4 budgets (C = 1.00e+18, 1.00e+19)" in codes["edge_minimum"]
    assert "widen the sizes" in codes["edge_minimum"]


def test_a_second_minimum_nearly_as_good_is_said():
    values, converged = np.array([1.0, 1.004, 1.5]), np.ones(3, dtype=bool)
    exponents = np.array([[0.34, 0.36], [0.5, 0.36], [0.9, 0.9]])
    alarm = two_basins(values, exponents, converged)
    assert alarm is not None
    assert "0.500, 0.360 (best: 0.340, 0.360) is only 0.40% worse" in alarm.sentence
    assert two_basins(values, exponents, np.array([True, False, True])) is None
    assert two_basins(values, exponents[[0, 0, 2]], converged) is None


@pytest.mark.slow
def test_a_parameter_at_its_bound_is_named():
    params, tokens = (
        v.ravel() for v in np.meshgrid(np.geomspace(1e7, 1e9, 6), np.geomspace(1e9, 1e11, 6))
    )
    loss = 2.0 + 400 * tokens**-0.3 + 0.3 * (params < 1.5e7)
    codes = alarm_codes(pd.DataFrame({"params": params, "tokens": tokens, "loss": loss}))
    assert next(iter(codes)) == "bound_hit"
    assert "alpha = 8 is at its bound, where its term is a step" in codes["parameter_at_bound"]
    assert bound_alarm([], [], "chinchilla") is None


@pytest.mark.parametrize(
    ("offset", "interval", "scatter", "code"),
    [
        (1.99, None, 0.004, "offset_at_smallest_loss"),
        (1.995, None, 0.0, "offset_at_smallest_loss"),
        (0.0, None, 0.004, "offset_at_bound"),
        (1.0, [0.0, 1.5], 0.004, "offset_not_identified"),
        (1.98, [1.9, 1.99], 0.004, None),
    ],
)
def test_e_against_its_bound_and_the_smallest_loss(offset, interval, scatter, code):
    alarm = offset_alarm(offset, interval, 2.0, scatter=scatter)
    assert (alarm.code if alarm else None) == code


@pytest.mark.slow
def test_runs_that_stop_gaining_say_so(refit_law):
    table = isoflop_table(refit_law, budgets=(1e18, 1e19, 1e20, 1e22, 1e24))
    rng = np.random.default_rng(1)
    noise = np.exp(0.004 * rng.standard_normal(len(table)))
    flat = {"E": 2.5, "A": 8e8, "B": 9e10, "alpha": 1.2, "beta": 1.2}
    codes = alarm_codes(table.assign(loss=loss_of(flat, table["params"], table["tokens"]) * noise))
    assert "check them for repeated data" in codes["offset_at_smallest_loss"]


@pytest.mark.slow
@pytest.mark.many(2)
@pytest.mark.parametrize(("spread", "noise"), [(0.25, 0.01), (0.3, 0.003), (0.5, 0.01)])
def test_inseparable_exponents_are_said(refit_law, spread, noise):
    rng = np.random.default_rng(2)
    params = np.repeat(np.geomspace(1e8, 6e8, 4), 6)
    tokens = 20 * params * np.exp(spread * rng.standard_normal(len(params)))
    loss = loss_of(refit_law, params, tokens)
    loss *= np.exp(noise * rng.standard_normal(len(params)))
    table = pd.DataFrame({"params": params, "tokens": tokens, "loss": loss})
    codes = alarm_codes(table, resamples=100)
    assert "vary tokens per parameter" in codes["exponents_inseparable"]
    assert next(iter(codes)) == "not_identified"
    assert inseparable_alarm(0.5, [0.4, 0.6], 0.4) is None


@pytest.mark.parametrize("axis", ["compute", "ratio"])
def test_residuals_that_follow_c_or_the_ratio_are_said(good, axis):
    c = np.log(good["flops"] / 3e19)
    m = np.log(good["tokens"] / good["params"] / 20)
    bend = 0.004 * c**2 if axis == "compute" else 0.004 * m**2
    rng = np.random.default_rng(0)
    errors = (bend - bend.mean()).to_numpy() + 0.003 * rng.standard_normal(len(good))
    (alarm,) = residual_alarms(good, errors)
    assert alarm.code == "residual_trend"
    assert "form=" in alarm.sentence
    assert residual_alarms(good, 0.003 * rng.standard_normal(len(good))) == []


def test_every_sentence_is_one(good):
    odd = np.arange(len(good)) % 2 == 0
    table = good.assign(tokens=np.where(odd, good["tokens"] / 1e9, good["tokens"]))
    for _, sentence in of_table(pd.concat([table, table.iloc[:2]])):
        assert "\n" not in sentence
        assert sentence.endswith(".")


@pytest.mark.slow
def test_runs_that_ended_hot_are_pointed_at(refit_law):
    table = canonical(isoflop_table(refit_law))
    assert not {a.code for a in table_alarms(table.assign(undercooled=False))} & {"undercooled"}
    hot = np.arange(len(table)) < 2
    alarms = {a.code: a.sentence for a in table_alarms(table.assign(undercooled=hot))}
    assert "2 runs (rows 1, 2)" in alarms["undercooled"]


def test_a_study_whose_test_set_has_few_blocks_says_so():
    table = canonical(isoflop_table(LAWS["besiroglu"]))
    codes = [[a.code for a in table_alarms(table, {"test_blocks": n})] for n in (4, 10)]
    assert ["few_test_blocks" in c for c in codes] == [True, False]
