"""Alarms: each on a table built to raise it, and none of units or copies on sound tables."""

import numpy as np
import pandas as pd
import pytest

from analysis import fit
from analysis.alarms import (
    bound_alarm,
    inseparable_alarm,
    offset_alarm,
    residual_alarms,
    table_alarms,
    two_basins,
)
from analysis.records import canonical

from .conftest import isoflop_table, loss_of, ray_table

OF_THE_DATA = {"mixed_units", "duplicate_rows", "count_disagrees"}


def raised(table, **options):
    """Return the alarms of a point fit, {code: sentence}."""
    law = fit(table, hindcast=False, sensitivity=False, **{"resamples": 0, **options})
    return {alarm.code: alarm.sentence for alarm in law.alarms}


def of_table(table):
    """Return (code, sentence) of the table's own alarms."""
    return [(alarm.code, alarm.sentence) for alarm in table_alarms(canonical(table))]


def units(table):
    return [sentence for code, sentence in of_table(table) if code == "mixed_units"]


@pytest.fixture
def good(refit_law):
    return isoflop_table(refit_law, noise=0.003)


@pytest.mark.parametrize("noise", [0.0, 0.003, 0.02, 0.1])
@pytest.mark.parametrize("budgets", [(1e18, 1e19, 1e20, 1e21), (1e15, 1e18, 1e21, 1e25)])
def test_a_sound_grid_raises_nothing(known_law, noise, budgets):
    assert of_table(isoflop_table(known_law, budgets=budgets, noise=noise)) == []


@pytest.mark.parametrize(
    "name",
    [
        "chinchilla_epoch245",
        "gadre2024_overtraining",
        "muennighoff2023_datablations182",
        "porian2024_isoflop",
    ],
)
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
    rows = f"in {odd.sum()} of {len(good)} rows (0, {step}, "
    assert f"Column {name} seems to be in {unit} {rows}" in sentence


@pytest.mark.parametrize("pair", [(1e6, 1e9), (1e9, 1e9), (1e9, 1e12), (1e6, 1e6)])
@pytest.mark.parametrize("with_flops", [True, False])
def test_both_counts_in_other_units_are_said(good, pair, with_flops):
    table = good.assign(params=good["params"] / pair[0], tokens=good["tokens"] / pair[1])
    found = units(table if with_flops else table.drop(columns="flops"))
    for name, factor, sentence in zip(("params", "tokens"), pair, found, strict=True):
        assert f"Column {name} seems" in sentence
        assert f"by {factor:.0e}" in sentence


@pytest.mark.parametrize(
    ("factor", "unit"), [(8.64e19, "petaFLOP/s-days"), (1e21, "ZFLOPs"), (1e18, "EFLOPs")]
)
def test_compute_in_another_unit_is_named(good, factor, unit):
    (sentence,) = units(good.assign(flops=good["flops"] / factor))
    assert f"Column flops seems to be in {unit}: multiply them by" in sentence


def test_perplexities_are_named(good):
    (sentence,) = units(good.assign(loss=np.exp(good["loss"] + 2.0)))
    assert "Column loss seems to be in perplexity" in sentence


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
    assert f"in bits in {bits.sum()} of {len(table)} rows (0, 1, 2, " in sentence


@pytest.mark.parametrize("factor", [1.1, 1.3, 1.6, 2.0])
def test_another_corpus_is_not_taken_for_bits(known_law, factor):
    one, two = (isoflop_table(known_law, noise=0.003, seed=s) for s in range(2))
    two["loss"] *= factor
    table = pd.concat([one.assign(group="a"), two.assign(group="b")], ignore_index=True)
    assert of_table(table) == []


def test_copies_are_listed_and_seeds_are_not_copies(good):
    copied = pd.concat([good, good.iloc[3:5]], ignore_index=True)
    ((code, sentence),) = of_table(copied)
    assert code == "duplicate_rows"
    assert "2 rows (28, 29, from 0)" in sentence
    rounded = copied.assign(loss=[*good["loss"], *good["loss"].iloc[3:5].round(6)])
    assert [code for code, _ in of_table(rounded)] == ["duplicate_rows"]
    seeded = copied.assign(seed=[0] * len(good) + [1, 1])
    assert of_table(seeded) == []


@pytest.mark.parametrize("power", [0.0, -0.2])
def test_counts_that_disagree_with_6nd_are_said(good, power):
    factor = 2.0 * (good["params"] / 1e9) ** power
    ((code, sentence),) = of_table(good.assign(flops=good["flops"] * factor))
    assert code == "count_disagrees"
    assert "times 6ND" in sentence
    assert "count=" in sentence


def test_a_single_ray_and_too_few_budgets(refit_law):
    assert "add runs from 1/8 to 8 times" in raised(ray_table(refit_law, noise=0.004))["single_ray"]
    few = isoflop_table(refit_law, budgets=(1e19, 2e19), noise=0.003)
    assert "at least 3 of each" in raised(few)["too_few_budgets"]


@pytest.mark.parametrize("shift", [1 / 40, 40])
def test_a_minimum_at_the_edge_of_the_sizes(refit_law, shift):
    table = isoflop_table(refit_law)
    moved = table["flops"] < 1e20
    params = np.where(moved, table["params"] * shift, table["params"])
    tokens = table["flops"] / 6 / params
    loss = loss_of(refit_law, params, tokens)
    found = raised(table.assign(params=params, tokens=tokens, loss=loss))
    assert "2 of 4 budgets (C = 1.00e+18, 1.00e+19)" in found["edge_minimum"]
    assert "widen the sizes" in found["edge_minimum"]


def test_a_second_minimum_nearly_as_good_is_said():
    values, converged = np.array([1.0, 1.004, 1.5]), np.ones(3, dtype=bool)
    exponents = np.array([[0.34, 0.36], [0.5, 0.36], [0.9, 0.9]])
    alarm = two_basins(values, exponents, converged)
    assert alarm is not None
    assert "0.500, 0.360 (best: 0.340, 0.360) is only 0.40% worse" in alarm.sentence
    assert two_basins(values, exponents, np.array([True, False, True])) is None
    assert two_basins(values, exponents[[0, 0, 2]], converged) is None


def test_a_parameter_at_its_bound_is_named():
    params, tokens = (
        v.ravel() for v in np.meshgrid(np.geomspace(1e7, 1e9, 6), np.geomspace(1e9, 1e11, 6))
    )
    loss = 2.0 + 400 * tokens**-0.3 + 0.3 * (params < 1.5e7)
    found = raised(pd.DataFrame({"params": params, "tokens": tokens, "loss": loss}))
    assert next(iter(found)) == "bound_hit"
    assert "alpha = 4 is at its bound" in found["parameter_at_bound"]
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


def test_runs_that_stop_gaining_say_so(refit_law):
    table = isoflop_table(refit_law, budgets=(1e18, 1e19, 1e20, 1e22, 1e24))
    rng = np.random.default_rng(1)
    noise = np.exp(0.004 * rng.standard_normal(len(table)))
    flat = {"E": 2.5, "A": 8e8, "B": 9e10, "alpha": 1.2, "beta": 1.2}
    found = raised(table.assign(loss=loss_of(flat, table["params"], table["tokens"]) * noise))
    assert "check them for repeated data" in found["offset_at_smallest_loss"]


@pytest.mark.parametrize(("spread", "noise"), [(0.25, 0.01), (0.3, 0.003), (0.5, 0.01)])
def test_inseparable_exponents_are_said(refit_law, spread, noise):
    rng = np.random.default_rng(2)
    params = np.repeat(np.geomspace(1e8, 6e8, 4), 6)
    tokens = 20 * params * np.exp(spread * rng.standard_normal(len(params)))
    loss = loss_of(refit_law, params, tokens)
    loss *= np.exp(noise * rng.standard_normal(len(params)))
    table = pd.DataFrame({"params": params, "tokens": tokens, "loss": loss})
    found = raised(table, resamples=100)
    assert "vary tokens per parameter" in found["exponents_inseparable"]
    assert next(iter(found)) == "not_identified"
    assert inseparable_alarm(0.5, [0.4, 0.6], 0.4) is None


@pytest.mark.parametrize("axis", ["compute", "ratio"])
def test_residuals_that_follow_c_or_the_ratio_are_said(good, axis):
    c = np.log(good["flops"] / 3e19)
    m = np.log(good["tokens"] / good["params"] / 20)
    bend = 0.004 * c**2 if axis == "compute" else 0.004 * m**2
    rng = np.random.default_rng(0)
    left = (bend - bend.mean()).to_numpy() + 0.003 * rng.standard_normal(len(good))
    (alarm,) = residual_alarms(good, left)
    assert alarm.code == "residual_trend"
    assert "form=" in alarm.sentence
    assert residual_alarms(good, 0.003 * rng.standard_normal(len(good))) == []


def test_every_sentence_is_one(good):
    odd = np.arange(len(good)) % 2 == 0
    table = good.assign(tokens=np.where(odd, good["tokens"] / 1e9, good["tokens"]))
    for _, sentence in of_table(pd.concat([table, table.iloc[:2]])):
        assert "\n" not in sentence
        assert sentence.endswith(".")


def test_runs_that_ended_hot_are_pointed_at(refit_law):
    table = canonical(isoflop_table(refit_law))
    assert not {a.code for a in table_alarms(table.assign(undercooled=False))} & {"undercooled"}
    hot = np.arange(len(table)) < 2
    found = {a.code: a.sentence for a in table_alarms(table.assign(undercooled=hot))}
    assert "2 runs (0, 1, from 0)" in found["undercooled"]
