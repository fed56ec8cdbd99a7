import re

import numpy as np
import pandas as pd
import pytest

from analysis.figures import canvas as figures
from analysis.figures import charts, check_charts, run_charts
from analysis.figures.bands import broken_at_jumps


@pytest.fixture
def cells():
    params, tokens = np.meshgrid([1e5, 3e5, 1e6], [1e6, 4e6, 1.6e7])
    table = pd.DataFrame({"params": params.ravel(), "tokens": tokens.ravel()})
    loss = 1.5 + 60 * table["params"] ** -0.35 + 300 * table["tokens"] ** -0.35
    flops = 6 * table["params"] * table["tokens"]
    return table.assign(loss=loss, predicted=loss * 1.01, flops=flops, run=range(len(table)))


@pytest.fixture
def line():
    x = np.geomspace(1e11, 1e14, 20)
    return pd.DataFrame({"x": x, "y": x**0.5, "lo": 0.9 * x**0.5, "hi": 1.1 * x**0.5})


def texts(svg: str) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


def test_loss_compute_has_units_and_a_legend(cells):
    svg = charts.loss_compute(
        cells, cells, planned={"flops": 3e14, "loss": 2.0, "interval": (1.9, 2.1)}
    )
    assert "training compute C (FLOPs)" in texts(svg)
    assert "test loss (nats/token)" in texts(svg)
    assert "forecast" in texts(svg)


@pytest.mark.parametrize("against", ["params", "tokens", "flops", "tokens_per_param"])
def test_residuals_have_units(cells, against):
    svg = charts.residuals(cells, against)
    assert figures.LABELS[against] in texts(svg)
    assert "observed over fitted loss (%)" in texts(svg)


def test_allocation_names_its_methods(line):
    svg = charts.allocation(
        {"parametric": line, "isoflop": line[["x", "y"]]}, what="params", planned=(1e13, 3e6)
    )
    assert {"law", "IsoFLOP", "plan", "optimal parameters N"} <= set(texts(svg))


def test_isoflop_draws_points_parabolas_and_vertices(cells):
    chosen = cells.assign(budget=1e12)
    parabola = pd.DataFrame({"budget": 1e12, "x": [1e5, 3e5, 1e6], "y": [3.0, 2.8, 3.1]})
    svg = charts.isoflop(chosen, parabola, pd.DataFrame({"budget": [1e12], "x": [3e5], "y": [2.8]}))
    assert "parameters N" in texts(svg)
    assert " C = 1e12" in texts(svg)


def test_observed_and_curves_and_forecast_draw(cells):
    assert "fitted test loss (nats/token)" in texts(charts.observed(cells))
    assert "training tokens D" in texts(run_charts.training_curves(cells, final=cells))
    svg = run_charts.forecast(2.5, (2.4, 2.6), level=0.9, outcome=2.45)
    assert {"90% interval", "outcome"} <= set(texts(svg))


def test_stage_curve_keeps_gaps_and_marks_the_budget():
    rows = pd.DataFrame({"step": [1, 2, 3], "kl": [0.1, None, 3.0]})
    svg = run_charts.curve(
        rows,
        {"kl": "measured"},
        name="kl",
        y="KL (nats/sequence)",
        title="KL",
        lines={"budget 6": 6},
    )
    assert {"optimiser step", "KL (nats/sequence)", "budget 6"} <= set(texts(svg))


def test_colours_are_css_and_the_ground_is_transparent(line):
    svg = charts.allocation({"parametric": line}, what="tokens")
    assert "currentColor" in svg
    assert "var(--c1" in svg
    assert not re.search(r"#0102\w\w", svg)
    assert "#ffffff" not in svg
    assert "#000000" not in svg


def test_figures_are_fragments_with_ids_of_their_own(line):
    svg = charts.allocation({"parametric": line}, what="tokens")
    assert svg.startswith("<svg ")
    assert "metadata" not in svg
    ids = re.findall(r'id="([^"]+)"', svg)
    assert all(i.startswith("allocation-tokens-") for i in ids)
    assert len(ids) == len(set(ids))
    assert "<title>Compute-optimal D against compute</title>" in svg


def test_same_table_gives_the_same_picture(line):
    draw = [charts.allocation({"parametric": line}, what="params") for _ in range(2)]
    assert draw[0] == draw[1]


def test_a_figure_of_its_own_has_colours_ground_and_size(line):
    svg = figures.standalone(charts.allocation({"parametric": line}, what="params"))
    assert "currentColor" not in svg
    assert "var(--" not in svg
    assert re.search(r'width="[0-9.]+pt" height="[0-9.]+pt"', svg)
    assert '<rect width="360" height="236.52" fill="#ffffff"/>' in svg


def test_backtest_draws_runs_against_distance_with_shares_in_the_legend():
    withheld = pd.DataFrame({"cutoff": 1e18, "distance": [2.0, 4.0], "error": [0.01, -0.02]})
    tau = pd.DataFrame({"x": [1.0, 4.0], "y": 0.0, "lo": [0.0, -0.02], "hi": [0.0, 0.02]})
    shown = texts(check_charts.backtest(withheld, {1e18: "rms 1.5%, 50% covered"}, tau))
    assert "C of the withheld run over the largest C fitted (times)" in shown
    assert "predicted over measured loss (%)" in shown
    assert "rms 1.5%, 50% covered" in shown


def test_target_draws_one_curve_a_series():
    x = np.geomspace(1e3, 1e5, 5)
    runs = pd.DataFrame({"pairs": x, "loss": 0.5, "series": ["a", "a", "b", "b", None]})
    bands = {name: pd.DataFrame({"x": x, "y": 0.5}) for name in ("a", "b")}
    shown = texts(charts.target(runs, bands, x="pairs", y="loss"))
    assert {"a", "b", "comparison pairs", "test loss (nats/token)"} <= set(shown)


@pytest.mark.slow
def test_many_sizes_share_one_legend_of_six(cells):
    many = pd.concat([cells.assign(params=cells["params"] * f) for f in np.geomspace(1, 2, 40)])
    shown = texts(charts.residuals(many, "flops"))
    assert sum(text.startswith("N = ") for text in shown) == 6


def test_points_say_what_run_they_are():
    cells = pd.DataFrame(
        {
            "run": ["a1", "b2"],
            "params": [1e4, 2e4],
            "tokens": [1e5, 2e5],
            "flops": [6e9, 2.4e10],
            "loss": [4.0, 3.5],
        }
    )
    svg = charts.loss_compute(cells.iloc[:0], cells)
    assert re.findall(r'<g class="tip"><title>(\w\w), N 10k, D 100k', svg) == ["a1"]
    assert svg.count('<g class="tip"><title>') == 2
    assert "tip:" not in svg
    assert "<a " not in svg
    many = pd.concat([cells] * 300, ignore_index=True)
    assert "<g><title>" not in charts.loss_compute(cells.iloc[:0], many)


@pytest.mark.parametrize(("label", "wanted"), [("compute C (FLOPs)", "5e12"), ("tokens D", "5T")])
def test_flops_have_one_format_on_axes(label, wanted):
    with figures.panel("one", x=label, y="loss", title="a test") as drawn:
        drawn.ax.plot([1e12, 2e13], [1.0, 2.0])
    assert wanted in texts(drawn.svg)


def test_a_band_that_jumps_is_broken_there_and_a_smooth_one_is_not():
    x = np.geomspace(1e10, 1e12, 20)
    smooth = pd.DataFrame({"x": x, "y": x**0.5, "lo": 0.7 * x**0.4, "hi": 1.5 * x**0.9})
    assert broken_at_jumps(smooth) is smooth
    jumping = smooth.assign(hi=np.where(np.arange(20) < 8, 1, 4) * smooth["hi"])
    broken = broken_at_jumps(jumping)
    gap = broken.index[broken["hi"].isna()]
    assert len(broken) == 21
    assert len(gap) == 1
    (at,) = broken.loc[broken["hi"].isna(), "x"]
    assert x[7] < at < x[8]
    assert broken["y"].notna().all()
    assert broken["x"].is_monotonic_increasing
