"""The estimator: exact recovery, published optima, units, statuses and the command."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize

from analysis import Law, Objective, fit
from analysis.estimation.options import ObjectiveConfig
from analysis.forms import FORMS
from analysis.solve.objective import OBJECTIVES, Problem, evaluate, problem_of
from analysis.solve.solver import minimise, starts
from analysis.uncertainty.bootstrap import bootstrap, units_of
from tests.analysis.conftest import isoflop_table, loss_of, ray_table
from tests.in_process import call

ROOT = Path(__file__).parents[2]
CHINCHILLA = FORMS["chinchilla"]
CLOSE = {"xatol": 1e-12, "fatol": 1e-16, "maxiter": 4000, "maxfev": 4000}  # of Nelder-Mead


def point(table, **options):
    return fit(table, resamples=0, hindcast=False, sensitivity=False, **options)


@pytest.mark.slow
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_noiseless_law_is_recovered(known_law, objective):
    law = point(isoflop_table(known_law), objective=Objective(name=objective))
    assert law.parameters == pytest.approx(known_law, rel=1e-6)
    assert law.status == "converged"


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("width", [None, 0.02])
def test_gradient_and_hessian_match_finite_differences(refit_law, name, width):
    objective = Objective(name=name if name != "lad_log" else "huber_log", delta=0.02)
    problem = problem_of(isoflop_table(refit_law, noise=0.03), CHINCHILLA, objective)
    theta = minimise(problem).theta[:1] * 1.01
    local = evaluate(theta, problem, width=width)
    step = 1e-6
    for i in range(theta.shape[1]):
        shifted = [theta + sign * step * np.eye(theta.shape[1])[i] for sign in (1, -1)]
        ahead, behind = (evaluate(m, problem, width=width) for m in shifted)
        slope = (ahead.value - behind.value) / (2 * step)
        curve = (ahead.gradient - behind.gradient) / (2 * step)
        scale = np.abs(local.hessian[0]).max()
        assert slope == pytest.approx(local.gradient[:, i], rel=1e-5, abs=1e-8 * scale)
        assert curve[0] == pytest.approx(local.hessian[0, i], rel=1e-4, abs=1e-5 * scale)


def expected_rows():
    path = Path(__file__).parents[2].parent / "shared" / "fits" / "EXPECTED.csv"
    rows = pd.read_csv(path) if path.exists() else pd.DataFrame({"kind": [], "name": []})
    return rows[rows["kind"] == "exact_optimum"].to_dict(orient="records") or [None]


def source_of(row, folder):
    table = pd.read_csv(folder / row["csv"])
    query = row["filter"].split(";")[0]
    return table if query == "all" else table.query(query)


def row_name(row):
    return row["name"] if row else "absent"


@pytest.mark.slow
@pytest.mark.parametrize("row", expected_rows(), ids=row_name)
def test_the_best_known_objective_is_reached(row, published_fits):
    if row is None:
        pytest.skip("EXPECTED.csv is absent")
    table = source_of(row, published_fits)
    law = point(table, objective=Objective(delta=row["delta"]))
    assert law.n_runs == row["n"]
    assert law.objective["value"] <= row["objective_sum"] * (1 + 1e-8)


@pytest.mark.slow
def test_units_change_nothing_but_the_amplitudes(published_fits):
    table = pd.read_csv(published_fits / "chinchilla_epoch245.csv").query("dropped_by_authors == 0")
    scaled = table.assign(params=table["params"] * 1e-6, tokens=table["tokens"] * 1e-9)
    here, there = point(table), point(scaled)
    assert there.objective["value"] == pytest.approx(here.objective["value"], rel=1e-9)
    for name in ("E", "alpha", "beta"):
        assert there.parameters[name] == pytest.approx(here.parameters[name], rel=1e-6)
    expected = here.parameters["A"] * 1e-6 ** here.parameters["alpha"]
    assert there.parameters["A"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.slow
def test_least_absolute_deviation_gives_the_printed_refit(published_fits):
    table = pd.read_csv(published_fits / "chinchilla_epoch245.csv").query("dropped_by_authors == 0")
    law = point(table, objective=Objective(name="lad_log"))
    values = [law.parameters[k] for k in ("E", "A", "B", "alpha", "beta")]
    assert values[0] == pytest.approx(1.817, rel=1e-3)
    assert values[1] == pytest.approx(482.0, rel=1e-2)
    assert values[2] == pytest.approx(2085.0, rel=2e-2)


@pytest.mark.slow
def test_resamples_of_least_absolute_deviation_end_at_a_minimum(refit_law):
    """Their minimum meets as many rows as there are parameters, whatever the start."""
    rng = np.random.default_rng(0)
    n, d = np.exp(rng.uniform(17, 21, 400)), np.exp(rng.uniform(20, 25, 400))
    loss = loss_of(refit_law, n, d) * np.exp(rng.normal(0, 0.01, 400))
    table = pd.DataFrame({"params": n, "tokens": d, "loss": loss})
    problem = problem_of(table, FORMS["chinchilla"], Objective(name="lad_log"))
    boot = bootstrap(problem, minimise(problem), units_of(table), resamples=60)
    assert boot.lost <= 2  # a minimum along an edge is no single point


@pytest.mark.slow
def test_weights_count_like_repeated_rows(refit_law):
    table = isoflop_table(refit_law, noise=0.01)
    repeated = pd.concat([table, table.iloc[:5]], ignore_index=True)
    weighted = table.assign(weight=[2.0] * 5 + [1.0] * (len(table) - 5))
    one, two = point(repeated), point(weighted)
    assert one.objective["value"] == pytest.approx(two.objective["value"], rel=1e-9)


@pytest.mark.slow
def test_a_ray_is_not_identified(refit_law):
    law = fit(ray_table(refit_law, noise=0.004), resamples=50)
    assert law.status == "not_identified"
    assert "single_ray" in {a.code for a in law.alarms}
    assert law.draws is None
    assert law.allocation["a_interval"] is None


@pytest.mark.slow
def test_an_offset_at_its_bound_is_said(refit_law):
    law = point(isoflop_table({**refit_law, "E": 0.0}, noise=0.002, seed=1))
    assert law.status in ("offset_not_identified", "converged")
    table = isoflop_table(refit_law)
    lower = table.assign(loss=table["loss"] - refit_law["E"] - 0.02)
    law = point(lower)
    assert law.parameters["E"] == 0.0
    assert law.status == "offset_not_identified"
    assert "offset_at_bound" in {a.code for a in law.alarms}


def codes(table, **options):
    return {a.code for a in fit(table, hindcast=False, **{"resamples": 0, **options}).alarms}


@pytest.mark.slow
def test_a_good_design_raises_no_alarm(refit_law):
    assert codes(isoflop_table(refit_law, noise=0.003), resamples=200) == set()


@pytest.mark.slow
def test_alarms_of_the_table(refit_law):
    table = isoflop_table(refit_law, noise=0.003)
    repeated = pd.concat([table, table.iloc[:2]], ignore_index=True)
    billions = table.assign(tokens=table["tokens"] * 1e-9)
    counted = table.assign(flops=2 * table["flops"])
    scarce = table.assign(unique_tokens=2e9)
    bits = table.assign(loss=table["loss"] / np.where(np.arange(len(table)) % 9, 1, np.log(2)))
    assert "duplicate_rows" in codes(repeated)
    assert "mixed_units" in codes(billions)
    assert "mixed_units" in codes(bits)
    assert "count_disagrees" in codes(counted)
    assert "repeated_data" in codes(scarce)
    assert "too_few_budgets" in codes(isoflop_table(refit_law, budgets=(1e19, 2e19)))


@pytest.mark.slow
def test_a_wrong_form_leaves_a_trend(refit_law):
    table = isoflop_table(refit_law, noise=0.0005, width=16, n=9)
    bent = table.assign(loss=table["loss"] * (1 + 0.02 * np.log10(table["flops"] / 3e19) ** 2))
    assert "residual_trend" in codes(bent)


@pytest.mark.slow
def test_an_off_centre_grid_raises_the_edge_alarm(refit_law):
    table = isoflop_table(refit_law)
    shifted = table.assign(params=table["params"] * 40, tokens=table["tokens"] / 40)
    shifted["loss"] = loss_of(refit_law, shifted["params"], shifted["tokens"])
    assert "edge_minimum" in codes(shifted)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.iloc[:6], "needs at least 7"),
        (lambda t: t.assign(params=1e6), "all 28 rows have params=1e\\+06"),
    ],
)
def test_a_table_that_cannot_carry_the_form_is_refused(refit_law, change, words):
    with pytest.raises(ValueError, match=words):
        point(change(isoflop_table(refit_law)), prior="none")


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.assign(loss=3.0),
        lambda t: t.assign(loss=3 + np.random.default_rng(0).random(len(t))),
        lambda t: t.assign(loss=1 + (t["params"] / 1e8) ** 0.2),
        lambda t: t.assign(loss=1 + (t["params"] / 1e8) ** 0.2 + (t["tokens"] / 1e10) ** 0.2),
        lambda t: t.assign(loss=np.where(t["params"] > 1e8, 2.0, 4.0)),
    ],
    ids=["constant", "noise", "rising in N", "rising in both", "a step"],
)
def test_a_table_without_a_law_is_never_called_converged(refit_law, change, tmp_path):
    law = fit(change(isoflop_table(refit_law)), resamples=20, hindcast=False)
    assert not law.usable
    assert law.alarms[0].code == law.status
    assert Law.read(law.write(tmp_path / "law.json")).status == law.status


def test_options_are_checked(refit_law):
    table = isoflop_table(refit_law)
    with pytest.raises(ValueError, match="choose one of"):
        fit(table, form="chinchila")
    with pytest.raises(ValueError, match="choose one of"):
        Objective(name="huber")
    with pytest.raises(ValueError, match="between 0 and 1"):
        fit(table, level=95)


def test_single_variable_forms_fit(refit_law):
    params = np.geomspace(1e6, 1e9, 12)
    table = pd.DataFrame({"params": params, "tokens": 1e10, "loss": 2 + 50 * params**-0.3})
    law = point(table, form="power_params_offset")
    assert law.parameters == pytest.approx({"E": 2.0, "k": 50.0, "exponent": 0.3}, rel=1e-6)


@pytest.mark.slow
def test_many_rows_stay_quick_and_small(refit_law):
    table = isoflop_table(refit_law, n=2500, noise=0.01)
    law = point(table)
    assert law.parameters["alpha"] == pytest.approx(refit_law["alpha"], rel=0.05)


def test_starts_are_finite_whatever_the_scale(refit_law):
    table = isoflop_table(refit_law)
    problem: Problem = problem_of(table.assign(loss=table["loss"] * 1e3), CHINCHILLA, Objective())
    assert np.isfinite(starts(problem)).all()


def test_the_function_is_not_shadowed_by_the_application():
    from analysis import fit as function
    from analysis.estimation.options import FitConfig

    assert callable(function)
    assert FitConfig(runs="x").form == "chinchilla"


@pytest.mark.slow
def test_nothing_imports_the_module_that_would_hide_the_function():
    places = ("analysis", "scaling", "hydra_plugins", "benchmarks", "tests")
    for path in (p for place in places for p in (ROOT / place).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert "analysis.fit" not in names, path


@pytest.mark.slow
def test_every_room_of_the_analysis_leaves_the_function_in_its_place():
    code = (
        "import analysis, importlib, pkgutil\n"
        "for room in pkgutil.iter_modules(analysis.__path__):\n"
        "    if room.ispkg:\n"
        "        path = importlib.import_module(f'analysis.{room.name}').__path__\n"
        "        for module in pkgutil.walk_packages(path, f'analysis.{room.name}.'):\n"
        "            importlib.import_module(module.name)\n"
        "assert callable(analysis.fit), analysis.fit"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def command(*arguments, cwd):
    return subprocess.run(
        [sys.executable, "-m", "analysis.fit", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"},
    )


@pytest.mark.slow
def test_the_command_fits_a_csv_end_to_end(tmp_path, refit_law):
    table = isoflop_table(refit_law, noise=0.003).rename(columns={"params": "N"})
    table = table.assign(group="x")
    other = table.assign(group="y", loss=9.0)
    pd.concat([table, other]).to_csv(tmp_path / "runs.csv", index=False)
    done = command(
        "runs=runs.csv", "where=group == 'x'", "columns.params=N", "intervals.resamples=100",
        "intervals.level=0.95", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    *printed, folder, following = done.stdout.splitlines()
    assert following.startswith("Next: scaling plan law=law.json flops=")
    assert folder == f"in the current folder (out=FILE writes elsewhere): {tmp_path}"
    assert max(map(len, printed)) <= 100
    written = json.loads((tmp_path / "law.json").read_text())
    assert set(written["parameters"]) == {"E", "A", "B", "alpha", "beta"}
    assert written["intervals"]["level"] == 0.95
    assert written["n_runs"] == 28
    assert len(written["draws"]) == written["intervals"]["converged"]
    assert Law.read(tmp_path / "law.json").parameters["A"] == written["parameters"]["A"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["runs=absent.csv"], "no table or study absent.csv"),
        ([], "runs is not set"),
        (["runs=x.csv", "objective.delt=1"], "objective.delta"),
    ],
)
def test_the_command_says_mistakes_in_one_line(tmp_path, arguments, words):
    done = call("analysis.fit", *arguments, cwd=tmp_path)
    assert done.returncode == 1
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "law.json").exists()


def badly_tuned_table(law, *, share=0.3, seed=0):
    """Return a grid whose runs reach the law within .1 %, but for a share that is badly tuned."""
    rng = np.random.default_rng(seed)
    table = isoflop_table(law, noise=1e-3, seed=seed)
    excess = rng.exponential(0.05, len(table)) * (rng.random(len(table)) < share)
    return table.assign(loss=table["loss"] * np.exp(excess))


def envelope_value(parameters, table, objective):
    """Return the envelope's objective, written out row by row."""
    total = 0.0
    for params, tokens, loss in table[["params", "tokens", "loss"]].itertuples(index=False):
        r = np.log(loss_of(parameters, params, tokens) / loss)
        size = abs(r)
        huber = (
            r**2 / 2 if size <= objective.delta else objective.delta * (size - objective.delta / 2)
        )
        total += huber * (objective.over_weight if r > 0 else 1.0)
    return total


@pytest.mark.slow
@pytest.mark.parametrize("over_weight", [3.0, 10.0])
def test_the_envelope_reaches_the_minimum_that_scipy_finds(refit_law, over_weight):
    table = badly_tuned_table(refit_law).iloc[::2].reset_index(drop=True)
    objective = Objective(name="envelope", delta=5e-3, over_weight=over_weight)
    law = point(table, objective=objective)
    assert law.objective["value"] == pytest.approx(
        envelope_value(law.parameters, table, objective), rel=1e-9
    )
    names = ("E", "A", "B", "alpha", "beta")

    def value(theta):
        e, a, b, alpha, beta = theta
        by_name = dict(zip(names, (e, np.exp(a), np.exp(b), alpha, beta), strict=True))
        return envelope_value(by_name, table, objective)

    best = np.inf
    for start in (law.parameters, refit_law):
        theta = np.array([start["E"], np.log(start["A"]), np.log(start["B"]), 0.0, 0.0])
        theta[3:] = start["alpha"], start["beta"]
        for _ in range(3):
            found = minimize(value, theta, method="Nelder-Mead", options=CLOSE)
            theta = found.x
        best = min(best, found.fun)
    assert law.objective["value"] <= best * (1 + 1e-9)
    assert law.objective["value"] == pytest.approx(best, rel=1e-4)


def test_the_envelope_is_least_where_its_subgradient_vanishes(refit_law):
    table = badly_tuned_table(refit_law)
    problem = problem_of(table, CHINCHILLA, Objective(name="envelope"))
    solution = minimise(problem)
    assert solution.converged[0]
    r = np.log(problem.design.predict(solution.theta[:1])[0] / problem.target)
    slope = np.clip(r, -1e-3, 1e-3) * np.where(r > 0, 10.0, 1.0)
    jacobian = problem.design.row_sums(solution.theta[:1]).jacobian()[0] / np.exp(r + problem.logs)
    assert np.abs(jacobian @ slope).max() <= 1e-7 * np.abs(jacobian * slope).sum(axis=1).max()


@pytest.mark.slow
def test_the_envelope_finds_the_law_below_badly_tuned_runs(known_law):
    table = badly_tuned_table(known_law, share=0.5)
    n, d = 1e10, 2e11
    truth = loss_of(known_law, n, d)
    errors = {}
    for name in ("envelope", "huber_log"):
        law = point(table, objective=Objective(name=name))
        assert law.status == "converged"
        errors[name] = abs(float(law.predict(n, d).loss) / truth - 1)
    assert errors["envelope"] < 0.01
    assert errors["envelope"] < errors["huber_log"] / 2


@pytest.mark.slow
def test_resamples_of_an_envelope_converge(refit_law):
    table = badly_tuned_table(refit_law)
    law = fit(
        table, objective=Objective(name="envelope"), resamples=60, hindcast=False, sensitivity=False
    )
    assert law.intervals is not None
    assert law.intervals["converged"] >= 57
    assert law.intervals["parameters"]["alpha"][0] < refit_law["alpha"]
    assert law.intervals["parameters"]["alpha"][1] > refit_law["alpha"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"name": "envelope", "over_weight": 1.0},
            "over_weight=1.0 is out of range; set a number above 1",
        ),
        ({"name": "huber_log", "over_weight": 3.0}, "read by objective.name=envelope alone"),
        ({"over_weight": 3.0}, "set objective.name=envelope"),
    ],
)
def test_an_envelope_from_above_and_a_weight_nobody_reads_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        ObjectiveConfig(**options).chosen()


def test_an_envelope_of_a_reward_is_refused():
    form = next(f for f in FORMS.values() if f.target != "loss")
    table = pd.DataFrame({v: [1.0, 2, 4, 8] for v in (*form.variables, form.target)})
    with pytest.raises(ValueError, match="follows the lowest losses"):
        problem_of(table, form, Objective(name="envelope"))
