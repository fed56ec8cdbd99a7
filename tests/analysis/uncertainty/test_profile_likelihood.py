"""Profile likelihood: exact where theory is, and the same point and height by other coordinates."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t as student

from analysis.forms import FORMS, Form
from analysis.forms.optimum import chinchilla_optimum
from analysis.solve.objective import Objective, evaluate, problem_of
from analysis.solve.solver import minimise
from analysis.uncertainty.bootstrap import Units, units_of
from analysis.uncertainty.intervals import profiles
from analysis.uncertainty.profile_likelihood import (
    Target,
    height,
    profile_interval,
    scale_of,
    share_inside,
    targets,
)
from analysis.uncertainty.reparametrise import by_optimum, by_share
from tests.analysis.conftest import isoflop_table, ray_table

FORM = FORMS["chinchilla"]
FLOPS = 1e21
LINE = Form(
    name="line",
    formula="y = a + b x",
    source="test",
    parameters=("a", "b"),
    variables=("x",),
    target="y",
    function=lambda p, v: p["a"] + p["b"] * v["x"],
    starts=lambda table: {"a": np.array([0.0, 1.0]), "b": np.array([1.0])},
)


def solve(table, name="huber_log"):
    problem = problem_of(table, FORM, Objective(name=name))
    return problem, minimise(problem)


@pytest.mark.parametrize("level", [0.5, 0.9, 0.99])
def test_a_line_has_the_exact_interval(level):
    rng = np.random.default_rng(1)
    x = rng.uniform(1, 3, 12)
    table = pd.DataFrame({"x": x, "y": 2 + 0.5 * x + 0.1 * rng.standard_normal(12)})
    problem = problem_of(table, LINE, Objective(name="ls"))
    solution = minimise(problem)
    ends = profile_interval(
        Target(problem=problem, phi=solution.theta[0], at=1), units_of(table), level
    )
    slope, covariance = np.polyfit(x, table["y"], 1, cov=True)
    half = student.ppf((1 + level) / 2, 10) * np.sqrt(covariance[0, 0])
    assert ends == pytest.approx((slope[0] - half, slope[0] + half), rel=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["huber_log", "lad_log", "ls_log", "ls"])
def test_a_profile_contains_the_point_and_ends_at_its_threshold(refit_law, name):
    table = isoflop_table(refit_law, noise=0.005)
    problem, solution = solve(table, name)
    for target in targets(problem, solution.theta[0], FLOPS).values():
        low, high = profile_interval(target, units_of(table), 0.9)
        assert low < target.phi[target.at] < high
        reached = height(np.array([low, high]), target, scale_of(target, units_of(table)))
        limit = student.ppf(0.95, len(table) - 5)
        reached = reached[np.isfinite(reached)]  # absolute residuals: some ends are not refitted
        assert len(reached)
        assert reached == pytest.approx(limit, rel=0.02 if name != "lad_log" else 0.2)


def test_other_coordinates_say_the_same(known_law):
    table = isoflop_table(known_law, noise=0.003)
    problem, solution = solve(table)
    theta = solution.theta[0]
    values = dict(zip(FORM.parameters, problem.design.external(theta), strict=True))
    split = chinchilla_optimum(values, FLOPS)
    share, phi_share = by_share(problem.design, theta)
    optimum, phi_optimum = by_optimum(problem.design, theta, FLOPS)
    assert phi_share[3] == pytest.approx(split["a"])
    assert np.exp(phi_optimum[2]) == pytest.approx(split["params"])
    for design, phi in ((share, phi_share), (optimum, phi_optimum)):
        assert design.external(phi[None])[0] == pytest.approx(list(values.values()), rel=1e-9)


@pytest.mark.parametrize("which", [1, 2])
def test_derivatives_by_other_coordinates_are_exact(refit_law, which):
    table = isoflop_table(refit_law, noise=0.01)
    problem, solution = solve(table, "ls_log")
    target = list(targets(problem, solution.theta[0], FLOPS).values())[which]
    phi = target.phi * 1.01 + 0.01  # away from the minimum, where the gradient would vanish
    local = evaluate(phi[None], target.problem)
    for k in range(5):
        step = 1e-5 * np.eye(5)[k] * max(1.0, abs(phi[k]))
        ahead, behind = (evaluate((phi + s)[None], target.problem) for s in (step, -step))
        span = 2 * step[k]
        gradient = (ahead.value - behind.value)[0] / span
        hessian = (ahead.gradient - behind.gradient)[0] / span
        assert local.gradient[0, k] == pytest.approx(gradient, rel=1e-5, abs=1e-8)
        assert local.hessian[0, k] == pytest.approx(hessian, rel=1e-4, abs=1e-6)


@pytest.mark.slow
def test_rows_that_share_a_trunk_do_not_narrow_the_profile(refit_law):
    table = isoflop_table(refit_law, noise=0.004)
    problem, solution = solve(table)
    many = pd.concat([table] * 4, ignore_index=True)
    again, repeated = solve(many)
    trunks = Units(name="trunk", codes=np.tile(np.arange(len(table)), 4), count=len(table))
    width = {}
    for name, posed, point, units in (
        ("once", problem, solution, units_of(table)),
        ("rows", again, repeated, units_of(many)),
        ("trunks", again, repeated, trunks),
    ):
        ends = profile_interval(targets(posed, point.theta[0], FLOPS)["a"], units, 0.9)
        width[name] = ends[1] - ends[0]
    assert width["rows"] < 0.6 * width["once"]
    assert width["trunks"] == pytest.approx(width["once"], rel=0.2)


def test_an_offset_that_may_be_zero_ends_at_zero(refit_law):
    table = isoflop_table(
        {**refit_law, "E": 0.02}, budgets=(1e16, 1e17, 1e18), n=6, width=4, noise=0.02, seed=2
    )
    problem, solution = solve(table)
    ends = profile_interval(targets(problem, solution.theta[0], FLOPS)["E"], units_of(table), 0.9)
    assert ends[0] == 0.0
    assert 0.02 < ends[1] < 3.0


@pytest.mark.slow
def test_what_has_no_end_is_named(refit_law):
    problem, solution = solve(ray_table(refit_law, noise=0.01))
    intervals = profiles(problem, solution, units_of(ray_table(refit_law)), 0.9, FLOPS)
    assert {"E", "a", "tokens_per_param"} <= {*intervals, *intervals.get("unbounded", ())}
    ends = [intervals[name] for name in ("E", "a", "tokens_per_param") if name in intervals]
    assert np.isfinite(ends).all()


def test_a_fixed_exponent_leaves_the_offset_alone_to_profile(refit_law):
    table = isoflop_table(refit_law, noise=0.004)
    problem = problem_of(table, FORM, Objective(), fixed={"alpha": refit_law["alpha"]})
    assert list(targets(problem, minimise(problem).theta[0], FLOPS)) == ["E"]


@pytest.mark.parametrize("width", [0.02, 0.3, 1.0])
def test_the_share_inside_a_width_is_that_of_the_density(width):
    residuals = np.random.default_rng(0).standard_normal(4000)
    exact = student.cdf(width, 1e6) - student.cdf(-width, 1e6)
    assert share_inside(residuals, width) == pytest.approx(exact, rel=0.1)
    assert share_inside(residuals, np.inf) == 1.0
