"""The backtest as a command and a function, its figure, and the baselines of its benchmark."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import load_runs
from analysis.estimation.withheld import backtest
from analysis.forms import FORMS
from analysis.page.figure_files import MOST_POINTS, law_figures, thinned, withheld
from analysis.solve.objective import Objective
from analysis.validate.hindcast import hindcasts
from tests.analysis.conftest import LAWS, isoflop_table
from tests.analysis.figures.test_canvas import texts
from tests.in_process import call

ROOT = Path(__file__).parents[2]
BUDGETS = tuple(1e18 * 4.0**i for i in range(6))


@pytest.fixture
def noisy(refit_law):
    return isoflop_table(refit_law, budgets=BUDGETS, noise=0.002)


@pytest.fixture
def table(noisy, tmp_path) -> Path:
    noisy.to_csv(tmp_path / "table.csv", index=False)
    return tmp_path / "table.csv"


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("bench", ROOT / "benchmarks/backtest.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["bench"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def run(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


def test_rows_are_those_of_the_hindcasts(noisy):
    result = backtest(load_runs(noisy))
    tested = hindcasts(load_runs(noisy).table, FORMS["chinchilla"], Objective())
    assert result.rows == tested["rows"]
    assert result.tau == tested["tau"]


def test_a_withheld_run_has_its_own_distance_and_the_rows_error(noisy):
    runs = load_runs(noisy)
    result = backtest(runs)
    errors = withheld(runs.table, FORMS["chinchilla"], result.rows)
    for row in result.rows:
        mine = errors[errors["cutoff"] == row["cutoff_flops"]]
        assert len(mine) == row["n_test"]
        assert mine["distance"].max() == pytest.approx(row["distance"])
        assert np.sqrt((mine["error"] ** 2).mean()) == pytest.approx(row["rms_relative_error"])


@pytest.mark.slow
def test_all_forms_are_ranked_and_the_best_is_backtested(refit_law):
    small = isoflop_table(refit_law, budgets=BUDGETS[:4], n=5, noise=0.002)
    result = backtest(load_runs(small), "all")
    assert result.form == result.comparison[0]["form"]
    assert {"chinchilla", "kaplan"} <= {row["form"] for row in result.comparison}
    assert all(len(line) <= 100 for line in result.summary().splitlines())
    assert "parameters" in result.summary()


@pytest.mark.parametrize(
    ("budgets", "form", "words"),
    [
        ((1e20,), "chinchilla", "no budget can be withheld"),
        (BUDGETS, "best_of_n", "predicts reward"),
        (BUDGETS, "isoflop", "gives N and D only"),
        (BUDGETS, "power_flops_ofset", "power_flops_offset"),
        (BUDGETS, "finetuning", "examples"),
    ],
)
def test_a_mistake_is_one_sentence(refit_law, budgets, form, words):
    with pytest.raises(ValueError, match=words) as raised:
        backtest(load_runs(isoflop_table(refit_law, budgets=budgets)), form)
    assert "\n" not in str(raised.value)


@pytest.mark.slow
def test_the_command_writes_numbers_and_a_figure(table, tmp_path):
    out = tmp_path / "deep/backtest.json"
    done = run("analysis.backtest", f"runs={table}", f"out={out}", "plot=true")
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines()[:-2])) <= 100
    written = json.loads(out.read_text())
    assert written["schema"] == 1
    assert len(written["inputs"]["sha256"]) == 64
    assert "version" in written["code"]
    assert written["rows"] == backtest(load_runs(table)).rows
    labels = texts(out.with_suffix(".svg").read_text())
    assert "predicted over measured loss (%)" in labels
    assert f"{written['rows'][0]['rms_relative_error']:.2%}" in " ".join(labels)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "runs is not set"),
        (["runs=nowhere.csv"], "no table or study nowhere.csv"),
        (["runs={table}", "columns.loss=lss"], "columns.loss=loss"),
        (["runs={table}", "where=flops < 2e18"], "no budget can be withheld"),
        (["runs={table}", "frm=all"], "form"),
    ],
)
def test_a_mistake_of_the_command_ends_in_one_sentence(table, arguments, words):
    done = call("analysis.backtest", *[a.format(table=table) for a in arguments], cwd=ROOT)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert words in done.stderr


def test_the_epoch_runs_are_predicted_within_a_few_per_cent(published_fits):
    condition = "dropped_by_authors == 0"
    result = backtest(load_runs(published_fits / "chinchilla_epoch245.csv", where=condition))
    assert len(result.rows) == 5
    assert all(row["rms_relative_error"] < 0.04 for row in result.rows)
    assert result.rows[-1]["distance"] > 30


@pytest.mark.slow
def test_fit_without_plots_leaves_matplotlib_alone(table, tmp_path):
    code = (
        "import sys, runpy; sys.argv = ['fit', *sys.argv[1:]];"
        "runpy.run_module('analysis.fit', run_name='__main__');"
        "print('matplotlib' in sys.modules)"
    )
    options = [f"runs={table}", f"out={tmp_path}/law.json", "intervals.resamples=0"]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, *options, "backtest=false"],
        capture_output=True, text=True, cwd=ROOT, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "False"


@pytest.mark.slow
def test_fit_writes_its_figures_beside_law_json(table, tmp_path):
    options = ["intervals.resamples=20", "sensitivity=false", "plot=true"]
    done = call("analysis.fit", f"runs={table}", f"out={tmp_path}/law.json", *options)
    assert done.returncode == 0, done.stderr
    expected = {
        "loss": "training compute C (FLOPs)",
        "isoflop": "test loss (nats/token)",
        "residuals_flops": "observed over fitted loss (%)",
        "residuals_tokens_per_param": "tokens per parameter D/N",
        "optimum_params": "optimal parameters N",
        "optimum_tokens": "optimal training tokens D",
        "backtest": "predicted over measured loss (%)",
    }
    for name, label in expected.items():
        svg = (tmp_path / f"law_{name}.svg").read_text()
        assert label in texts(svg)
        assert "var(--" not in svg
        assert "currentColor" not in svg


def test_long_tables_are_thinned_but_keep_the_largest_run():
    long = pd.DataFrame({"flops": np.arange(1.0, 20_001.0)})
    points = thinned(long)
    assert MOST_POINTS <= len(points) <= MOST_POINTS + 1
    assert points["flops"].max() == 20_000


@pytest.mark.parametrize("form", ["best_of_n", "reward_model", "power_flops_offset"])
def test_a_form_that_is_no_surface_is_drawn_against_its_main_variable(form):
    from analysis import fit

    rng = np.random.default_rng(0)
    n, x = (v.ravel() for v in np.meshgrid([1e7, 1e8, 1e9], np.geomspace(1.0, 60.0, 9)))
    values = {"params": n, "pairs": 1e3 * x, "kl": x, "tokens": 1e8 * x, "flops": 6e8 * n * x}
    parameters = {
        "best_of_n": {"alpha": 1.0, "beta": 0.08},
        "reward_model": {"E": 0.3, "A": 30.0, "B": 10.0, "alpha": 0.3, "beta": 0.4},
        "power_flops_offset": {"E": 1.5, "k": 500.0, "exponent": 0.15},
    }[form]
    predicted = FORMS[form].predict(parameters, values)
    noise = 1 + 0.002 * rng.standard_normal(len(x))
    frame = pd.DataFrame({**values, FORMS[form].target: predicted * noise})
    needed = ("kl", "reward") if form == "best_of_n" else ("params", "loss")
    runs = load_runs(frame, needed=needed)
    law = fit(runs, form, resamples=40, hindcast=False)
    (picture,) = law_figures(law, runs.table)
    labels = {
        "best_of_n": ("KL to the initial policy (nats/sequence)", "reward (score)"),
        "reward_model": ("comparison pairs", "loss of the reward model (nats/pair)"),
        "power_flops_offset": ("training compute C (FLOPs)", "test loss (nats/token)"),
    }[form]
    assert set(labels) <= set(texts(picture.svg))


def test_plain_approach_2_finds_the_line_of_an_exact_symmetric_law(bench):
    law = {**LAWS["besiroglu"], "alpha": 0.35, "beta": 0.35}
    result = bench.approach_2(isoflop_table(law, budgets=BUDGETS))
    a, k = 0.5, np.sqrt(law["A"] / law["B"]) ** (1 / 0.35)
    assert np.exp(result["params"](1e24)) == pytest.approx(k * (1e24 / 6) ** a, rel=1e-3)
    truth = law["E"] + 2 * np.sqrt(law["A"] * law["B"]) * (1e22 / 6) ** -0.175
    assert np.exp(result["loss"](1e22)) == pytest.approx(truth, rel=0.02)


def test_a_single_descent_stays_near_its_start_and_ours_reaches_the_law(bench, refit_law):
    exact = isoflop_table(refit_law, budgets=BUDGETS)
    starts = (bench.HOFFMANN, bench.grid_starts(7)[0])
    ends = [bench.single_descent(exact, start) for start in starts]
    assert not np.allclose(*ends, rtol=0.01)
    assert all(np.isfinite(end).all() for end in ends)


@pytest.mark.slow
def test_the_benchmark_scores_exact_data_without_error(bench, refit_law):
    exact = load_runs(isoflop_table(refit_law, budgets=BUDGETS)).table
    result = bench.outcome(
        bench.Task(family="Porian", name="exact", form="chinchilla", table=exact), 2
    )
    assert result.fits == 2
    assert result.runs["ours"].abs().max() < 1e-6
    assert result.runs["near"].abs().max() < 1e-6
    assert result.optima["n_ours"].abs().max() < 0.1  # the vertex of a parabola is itself biased
    assert (result.runs["lbfgs_h"].abs() > result.runs["ours"].abs()).all()
    assert set(bench.buckets(result.runs)) <= set(bench.BUCKETS)
