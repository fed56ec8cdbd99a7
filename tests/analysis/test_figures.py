import re

import numpy as np
import pandas as pd
import pytest

from analysis import figures


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
    svg = figures.loss_compute(
        cells, cells, planned={"flops": 3e14, "loss": 2.0, "interval": (1.9, 2.1)}
    )
    assert "training compute C (FLOPs)" in texts(svg)
    assert "test loss (nats/token)" in texts(svg)
    assert "forecast" in texts(svg)


@pytest.mark.parametrize("against", ["params", "tokens", "flops", "tokens_per_param"])
def test_residuals_have_units(cells, against):
    svg = figures.residuals(cells, against)
    assert figures.LABELS[against] in texts(svg)
    assert "observed over fitted loss (%)" in texts(svg)


def test_allocation_names_its_methods(line):
    svg = figures.allocation(
        {"parametric": line, "isoflop": line[["x", "y"]]}, what="params", planned=(1e13, 3e6)
    )
    assert {"parametric", "isoflop", "plan", "optimal parameters N"} <= set(texts(svg))


def test_isoflop_draws_points_parabolas_and_vertices(cells):
    chosen = cells.assign(budget=1e12)
    parabola = pd.DataFrame({"budget": 1e12, "x": [1e5, 3e5, 1e6], "y": [3.0, 2.8, 3.1]})
    svg = figures.isoflop(
        chosen, parabola, pd.DataFrame({"budget": [1e12], "x": [3e5], "y": [2.8]})
    )
    assert "parameters N" in texts(svg)
    assert "1e12" in texts(svg)


def test_observed_and_curves_and_forecast_draw(cells):
    assert "fitted loss (nats/token)" in texts(figures.observed(cells))
    assert "training tokens D" in texts(figures.training_curves(cells, final=cells))
    expected = {"test_loss": 2.5, "interval": [2.4, 2.6], "level": 0.9}
    assert {"90% interval", "outcome"} <= set(texts(figures.forecast(expected, 2.45)))


def test_stage_curve_keeps_gaps_and_marks_the_budget():
    rows = pd.DataFrame({"step": [1, 2, 3], "kl": [0.1, None, 3.0]})
    svg = figures.curve(
        rows,
        {"kl": "measured"},
        name="kl",
        y="KL (nats/sequence)",
        title="KL",
        lines={"budget 6": 6},
    )
    assert {"optimiser step", "KL (nats/sequence)", "budget 6"} <= set(texts(svg))


def test_colours_are_css_and_the_ground_is_transparent(line):
    svg = figures.allocation({"parametric": line}, what="tokens")
    assert "currentColor" in svg
    assert "var(--c1" in svg
    assert not re.search(r"#0102\w\w", svg)
    assert "#ffffff" not in svg
    assert "#000000" not in svg


def test_figures_are_fragments_with_ids_of_their_own(line):
    svg = figures.allocation({"parametric": line}, what="tokens")
    assert svg.startswith("<svg ")
    assert "metadata" not in svg
    ids = re.findall(r'id="([^"]+)"', svg)
    assert all(i.startswith("allocation-tokens-") for i in ids)
    assert len(ids) == len(set(ids))
    assert "<title>Compute-optimal D against compute</title>" in svg


def test_same_table_gives_the_same_picture(line):
    draw = [figures.allocation({"parametric": line}, what="params") for _ in range(2)]
    assert draw[0] == draw[1]
