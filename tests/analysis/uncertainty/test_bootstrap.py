"""The bootstrap: its units, its convergence, and whether intervals cover."""

import numpy as np
import pytest
from scipy.special import ndtri

from analysis import fit
from analysis.forms import FORMS
from analysis.solve.objective import Objective, problem_of
from analysis.solve.residual_spread import deviation, scatter
from analysis.solve.solver import minimise
from analysis.uncertainty.bootstrap import bootstrap, unit_weights, units_of
from analysis.uncertainty.intervals import acceleration, jackknife
from analysis.uncertainty.percentiles import bias_corrected_percentiles
from tests.analysis.conftest import isoflop_table, loss_of

FORM = FORMS["chinchilla"]


def test_units_are_trunks_then_many_groups_then_rows(refit_law):
    table = isoflop_table(refit_law)
    assert units_of(table).name == "row"
    assert units_of(table.assign(group="x")).name == "row"
    assert units_of(table.assign(group=np.arange(len(table)) // 2)).name == "group"
    assert units_of(table.assign(trunk=np.arange(len(table)) // 4)).count == 7


def test_rows_of_a_unit_are_drawn_together(refit_law):
    units = units_of(isoflop_table(refit_law).assign(trunk=np.arange(28) // 4))
    weights = unit_weights(units, np.random.default_rng(0), 50)
    assert weights.shape == (50, 28)
    assert (weights.reshape(50, 7, 4).std(axis=2) == 0).all()
    assert (weights.sum(axis=1) == 28).all()


@pytest.mark.slow
def test_every_resample_is_the_minimum_many_starts_find(refit_law):
    table = isoflop_table(refit_law, noise=0.005)
    problem = problem_of(table, FORM, Objective())
    solution = minimise(problem)
    boot = bootstrap(problem, solution, units_of(table), resamples=8, seed=3)
    weights = unit_weights(units_of(table), np.random.default_rng(3), 8)
    for draw, weight in zip(boot.draws, weights, strict=True):
        again = minimise(problem_of(table.assign(weight=weight), FORM, Objective()))
        best = problem.design.external(again.theta[0])
        assert draw == pytest.approx(best, rel=1e-5)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_interval(refit_law):
    table = isoflop_table(refit_law, noise=0.005)
    one, two, other = (fit(table, resamples=40, hindcast=False, seed=s) for s in (0, 0, 1))
    assert one.intervals == two.intervals != other.intervals


@pytest.mark.slow
def test_intervals_cover_under_noise(refit_law):
    """Nominal 90 %; 40 tables, so a binomial 3.5 sd below is 29."""
    inside = np.zeros(3)
    target = loss_of(refit_law, 2.7e10, 6e11)
    for seed in range(40):
        table = isoflop_table(refit_law, n=6, width=8.0, noise=0.004, seed=seed)
        problem = problem_of(table, FORM, Objective())
        boot = bootstrap(problem, minimise(problem, n_best=4), units_of(table), resamples=100)
        alpha, beta = boot.draws[:, 3], boot.draws[:, 4]
        far = loss_of(dict(zip(FORM.parameters, boot.draws.T, strict=True)), 2.7e10, 6e11)
        truths = (
            refit_law["E"],
            refit_law["beta"] / (refit_law["alpha"] + refit_law["beta"]),
            target,
        )
        for i, values in enumerate((boot.draws[:, 0], beta / (alpha + beta), far)):
            low, high = boot.interval(values, 0.9)
            inside[i] += low <= truths[i] <= high
    assert (inside >= 29).all(), inside


@pytest.mark.slow
def test_published_intervals_are_reproduced(published_fits):
    path = published_fits / "chinchilla_epoch245.csv"
    law = fit(path, where="dropped_by_authors == 0", level=0.95, resamples=1000, hindcast=False)
    printed = {
        "A": (285, 744),
        "E": (1.769, 1.871),
        "alpha": (0.317, 0.373),
        "beta": (0.331, 0.415),
    }
    for name, interval in printed.items():
        assert law.intervals["parameters"][name] == pytest.approx(interval, rel=0.05)
    assert law.intervals["converged"] == 1000


def test_symmetric_draws_need_no_correction():
    draws = ndtri((np.arange(2000) + 0.5) / 2000)
    expected = np.quantile(draws, [0.05, 0.95])
    assert bias_corrected_percentiles(draws, np.array(0.0), 0.9) == pytest.approx(
        expected, abs=1e-3
    )


def test_corrections_move_both_ends_towards_the_longer_tail():
    draws = ndtri((np.arange(4000) + 0.5) / 4000)
    low, high = bias_corrected_percentiles(draws, np.array(0.0), 0.9)
    for moved in (
        bias_corrected_percentiles(draws, np.array(0.3), 0.9),  # most draws lie below the point
        bias_corrected_percentiles(draws, np.array(0.0), 0.9, acceleration=0.1),
    ):
        assert moved[0] > low + 0.1
        assert moved[1] > high + 0.1
    wider = bias_corrected_percentiles(draws, np.array(0.0), 0.9, z=2.0)
    assert wider == pytest.approx((-2.0, 2.0), abs=0.01)


def test_a_correction_follows_a_monotone_change_of_the_quantity():
    draws = np.random.default_rng(0).standard_normal(1000)
    plain = bias_corrected_percentiles(draws, np.array(0.2), 0.9, acceleration=0.05)
    changed = bias_corrected_percentiles(np.exp(draws), np.exp(0.2), 0.9, acceleration=0.05)
    assert np.exp(plain) == pytest.approx(changed, rel=0.01)


def test_a_lopsided_bootstrap_corrects_no_further_than_its_limit():
    draws = np.random.default_rng(0).standard_normal((1000, 3))
    low, high = bias_corrected_percentiles(draws, np.array([-9.0, 0.0, 9.0]), 0.9)
    assert np.isfinite([low, high]).all()
    assert (np.diff(low) > 0).all()
    assert (np.diff(high) > 0).all()


def test_acceleration_of_a_mean_is_its_skewness():
    """Efron 1987: a = skewness / (6 sqrt n), since a mean left out differs by (x - mean) / n."""
    x = np.random.default_rng(0).exponential(size=200)
    without = (x.sum() - x) / 199
    skewness = ((x - x.mean()) ** 3).mean() / x.std() ** 3
    assert acceleration(without) == pytest.approx(skewness / 6 / np.sqrt(200))
    assert acceleration(np.ones(5)) == 0.0


def test_a_jackknife_leaves_out_whole_units(refit_law):
    table = isoflop_table(refit_law, noise=0.005)
    problem = problem_of(table, FORM, Objective())
    trunks = units_of(table.assign(trunk=np.arange(28) // 4))
    estimates = jackknife(problem, minimise(problem), trunks)
    assert estimates.shape == (7, 5)
    again = minimise(problem_of(table.iloc[4:], FORM, Objective()))
    best = problem_of(table.iloc[4:], FORM, Objective()).design.external(again.theta[0])
    assert estimates[0] == pytest.approx(best, rel=1e-5)


@pytest.mark.slow
def test_a_fit_says_every_kind_of_interval(refit_law):
    law = fit(isoflop_table(refit_law, noise=0.004), resamples=200, sensitivity=False)
    reach = law.ranges["flops_6nd"][1]
    kinds = [law.intervals[kind] for kind in ("bias_corrected", "profile")]
    percentile = {**law.intervals["parameters"], **law.optimum(reach).intervals}
    assert kinds[1]["flops"] == reach
    for name in ("E", "a", "tokens_per_param"):
        width = percentile[name][1] - percentile[name][0]
        for kind in kinds:
            assert 0.4 * width < kind[name][1] - kind[name][0] < 2.5 * width
            assert abs(kind[name][0] - percentile[name][0]) < width


def test_scatter_follows_the_loss():
    rng = np.random.default_rng(0)
    loss = np.geomspace(2.0, 5.0, 4000)
    noise = scatter(0.001 * (loss / 2) ** 2 * rng.standard_normal(4000), np.log(loss), 5)
    assert noise["growth"] == pytest.approx(2.0, abs=0.15)
    at = np.array([1.5, 2.0, 4.0])
    assert deviation(noise, at) == pytest.approx([0.001, 0.001, 0.004], rel=0.1)


def test_few_rows_of_even_scatter_show_little_growth():
    rng = np.random.default_rng(0)
    logs = np.linspace(1.0, 1.3, 24)
    noises = [scatter(0.002 * rng.standard_normal(24), logs, 5) for _ in range(40)]
    assert abs(np.median([f["growth"] for f in noises])) < 0.7
    assert np.median([f["sd_log_least"] for f in noises]) == pytest.approx(0.002, rel=0.25)
    assert scatter(np.zeros(24), logs, 5)["sd_log_least"] == 0.0
