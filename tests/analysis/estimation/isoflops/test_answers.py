"""IsoFLOP near the minimum and with all sizes, C as counted, and lines through stated optima."""

import json

import numpy as np
import pandas as pd
import pytest

from analysis import Columns, Law, fit, load_runs
from analysis.estimation.isoflops.answers import convention_of, isoflop_both, lines_of_optima
from analysis.estimation.isoflops.isoflop import isoflop
from analysis.forms.optimum import chinchilla_optimum
from analysis.page.figure_files import write_law_figures
from tests.analysis.conftest import LAWS, isoflop_table, loss_of

BENT = {"E": 1.7, "A": 400.0, "B": 60.0, "alpha": 0.465, "beta": 0.155}  # b is .75
BUDGETS = tuple(1e18 * 4.0**i for i in range(6))
HOFFMANN = pd.DataFrame(  # Hoffmann et al. 2022, table A3: Approach 2 gives these D at these C
    {
        "flops": [1.84e19, 1.20e20, 1.32e22, 6.88e23, 4.54e24, 1.18e25, 4.19e25, 1.59e26],
        "params": [4e8, 1e9, 1e10, 6.7e10, 1.75e11, 2.8e11, 5.2e11, 1e12],
        "tokens": [7.7e9, 2e10, 2.195e11, 1.7e12, 4.3e12, 7.1e12, 1.34e13, 2.65e13],
    }
)


def drifting_table(law=BENT):
    """Return budgets whose sizes are centred below the optimum first and above it last."""
    table = isoflop_table(law, budgets=BUDGETS, n=13, width=24.0)
    order = np.log(table["flops"] / BUDGETS[0]) / np.log(BUDGETS[-1] / BUDGETS[0])
    shift = 4.0 ** (2 * order - 1)
    table = table.assign(params=table["params"] * shift, tokens=table["tokens"] / shift)
    return table.assign(loss=loss_of(law, table["params"], table["tokens"]))


def test_all_sizes_of_an_asymmetric_valley_move_the_exponent_and_the_cut_repairs_it():
    both = isoflop_both(drifting_table(), resamples=50)
    true_b = chinchilla_optimum(BENT, 1e20)["b"]
    assert both.all_sizes is not None
    assert abs(both.b - true_b) < 0.02
    assert abs(both.all_sizes.b - true_b) > 2 * abs(both.b - true_b) + 0.01
    assert both.all_sizes.b_interval is not None


def test_both_answers_stand_in_the_file_and_in_one_line(tmp_path):
    law = fit(drifting_table(), resamples=30, hindcast=False, sensitivity=False)
    block = json.loads(law.write(tmp_path / "law.json").read_text())["methods"]["isoflop"]
    assert block["near"] == 6.0
    assert block["n_cut"] > 0
    assert block["all_sizes"]["b"] != block["b"]
    (line,) = [x for x in law.summary().splitlines() if "tilt the parabola" in x]
    assert f"b {block['b']:.3f} from sizes within x6 of the best" in line
    assert f"{block['all_sizes']['b']:.3f} from all" in line
    assert len(line) <= 100


def test_narrow_budgets_have_one_answer_and_the_summary_says_so(refit_law):
    law = fit(isoflop_table(refit_law, width=2.0), "isoflop", resamples=0)
    block = law.methods["isoflop"]
    assert block["n_cut"] == 0
    assert block["all_sizes"]["b"] == block["b"]
    assert "none was cut" in law.summary()


def counted_table(law):
    """Return budgets at equal counted FLOPs, which exceed 6ND by a factor that falls with N."""
    table = isoflop_table(law, n=9, width=4.0)
    over = 1 + (table["params"] / 1e8) ** -0.5
    table = table.assign(tokens=table["tokens"] / over)
    return table.assign(loss=loss_of(law, table["params"], table["tokens"]))


def test_budgets_and_lines_take_counted_flops(refit_law):
    table = counted_table(refit_law)
    counted = isoflop(table, resamples=0)
    assert [v.flops for v in counted.vertices] == pytest.approx(sorted(set(table["flops"])))
    least = table.loc[table.groupby("flops")["loss"].idxmin()]
    slope, _ = np.polyfit(np.log(least["flops"]), np.log(least["params"]), 1)
    assert counted.a == pytest.approx(slope, abs=0.1)
    by_6nd = isoflop(table.assign(flops=6 * table["params"] * table["tokens"]), resamples=0)
    assert by_6nd is None or abs(by_6nd.a - counted.a) > 0.01


@pytest.mark.slow
def test_the_output_says_what_c_is(refit_law):
    table = counted_table(refit_law)
    assert convention_of(table) == "C = column flops"
    law = fit(table.rename(columns={"flops": "C"}), "isoflop", columns=Columns(flops="C"))
    assert law.allocation["convention"] == "C = column C"
    assert "budgets and lines by C = column C" in law.summary()
    assert law.allocation["tokens_per_param"][0]["flops"] == pytest.approx(table["flops"].max())
    plain = fit(isoflop_table(refit_law).drop(columns="flops"), "isoflop", resamples=0)
    assert plain.allocation["convention"] == "C = 6 N D"
    assert "budgets and lines by C = 6 N D" in plain.summary()


def test_a_table_of_published_optima_gives_lines_with_intervals(tmp_path):
    HOFFMANN.to_csv(tmp_path / "optima.csv", index=False)
    law = fit(tmp_path / "optima.csv", "isoflop", level=0.9)
    assert law.parameters["a"] == pytest.approx(0.49, abs=0.01)
    assert law.parameters["b"] == pytest.approx(0.51, abs=0.01)
    low, high = law.intervals["parameters"]["b"]
    assert low < 0.51 < high < low + 0.02
    assert law.optimum(5.76e23).params == pytest.approx(6.1e10, rel=0.05)
    assert "Student t" in law.summary()
    again = Law.read(law.write(tmp_path / "law.json"))
    assert again.methods["isoflop"]["points"][0]["loss"] is None
    assert again.ranges["flops"] == [1.84e19, 1.59e26]


def test_figures_of_optima_are_those_of_the_lines(tmp_path):
    law = fit(HOFFMANN, "isoflop")
    runs = load_runs(HOFFMANN, needed=("params", "tokens"))
    paths = write_law_figures(law, runs.table, tmp_path / "law.json")
    assert [p.name for p in paths] == ["law_optimum_params.svg", "law_optimum_tokens.svg"]


def test_intervals_of_optima_are_those_of_least_squares():
    from scipy.stats import linregress, t

    lines = lines_of_optima(HOFFMANN, level=0.9)
    line = linregress(np.log(HOFFMANN["flops"]), np.log(HOFFMANN["params"]))
    half = t.ppf(0.95, len(HOFFMANN) - 2) * line.stderr
    assert lines.a_interval == pytest.approx([line.slope - half, line.slope + half])
    assert lines_of_optima(HOFFMANN, intervals=False).a_interval is None


def test_runs_without_a_loss_are_no_table_of_optima():
    with pytest.raises(ValueError, match=r"24 of its 28 rows share a budget .* columns.loss=NAME"):
        fit(isoflop_table(LAWS["besiroglu"]).drop(columns="loss"), "isoflop")


def test_two_optima_are_no_line():
    with pytest.raises(ValueError, match="at least 3 budgets"):
        fit(HOFFMANN.iloc[:2], "isoflop")
