"""mixture.json as a whole: recovery of the true best, calibrated intervals, alarms, refusals."""

import json

import numpy as np
import pytest

from analysis.mixing.options import DrawsConfig, MixtureConfig
from analysis.mixing.result import mixture
from tests.analysis.mixing.swarm_of import SOURCES, losses_at, table_of


def result_of(tmp_path, table, **settings):
    path = tmp_path / "t.csv"
    table.to_csv(path, index=False)
    draws = DrawsConfig(resamples=20)
    return mixture(MixtureConfig(runs=str(path), intervals=draws, **settings))


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mixture")
    table_of(20, seed=5).to_csv(folder / "others.csv", index=False)
    result, predicted = result_of(
        folder, table_of(40, noise=0.003), predict=str(folder / "others.csv"), target={"code": 3}
    )
    return result, predicted


def test_the_proposal_is_near_the_true_best_and_predicted_with_its_interval(found):
    result, _ = found
    json.dumps(result, allow_nan=False)
    shares = np.array([result["weights"][s] for s in SOURCES])
    assert shares.sum() == pytest.approx(1)
    truth = losses_at(shares[None])[0]
    grid = np.random.default_rng(0).dirichlet(np.ones(3), size=4000)
    assert truth[0] <= losses_at(grid)[:, 0].min() * 1.01
    low, high = result["intervals"]["predicted"]["code"]
    assert low <= truth[0] <= high
    for source in SOURCES:
        low, high = result["intervals"]["weights"][source]
        assert low <= result["weights"][source] <= high
    assert result["target"] == {"code": 1.0, "books": 0.0}


def test_the_gain_is_that_of_the_true_law(found):
    result, _ = found
    both = [[result[k][s] for s in SOURCES] for k in ("natural", "weights")]
    truth = losses_at(np.array(both))[:, 0]
    low, high = result["intervals"]["gain_over_natural"]
    assert low - 0.01 <= truth[0] - truth[1] <= high + 0.01
    assert result["gain_over_natural"] == pytest.approx(truth[0] - truth[1], abs=0.02)


def test_predictions_keep_rows_and_columns(found):
    _, predicted = found
    others = table_of(20, seed=5)
    assert list(predicted.columns) == ["loss_code", "loss_books"]
    np.testing.assert_allclose(predicted["loss_code"], others["loss_code"], rtol=0.02)


def test_withheld_mixtures_are_ranked(found):
    result, _ = found
    assert result["validation"]["rank_of_target"] > 0.98
    assert result["status"] == "converged"


def test_alarms_name_the_edge_few_rows_and_repeats(tmp_path):
    table = table_of(12, noise=0.003)
    result, _ = result_of(tmp_path, table, tokens=1e9, unique={"code": 2e7}, target={"code": 1})
    codes = {a["code"] for a in result["alarms"]}
    assert {"mixture_few_rows", "mixture_repeats"} <= codes
    assert result["epochs"]["code"] == pytest.approx(result["weights"]["code"] * 50)
    assert result["epochs"]["web"] is None


def test_losses_without_any_relation_to_shares_give_no_proposal(tmp_path):
    table = table_of(30)
    table["loss_code"] = 3 + np.random.default_rng(3).standard_normal(30) * 0.1
    with pytest.raises(ValueError, match="hardly better than their mean"):
        result_of(tmp_path, table, target={"code": 1})
