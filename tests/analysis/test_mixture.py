"""The command `analysis.mixture`: its files, its lines, what it refuses; published mixtures."""

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from tests.analysis.mixing.swarm_of import table_of
from tests.in_process import call

SHARED = Path(os.environ.get("SCALING_SHARED", Path(__file__).resolve().parents[3] / "shared"))
MIXTURES = SHARED / "mixtures"


def test_the_command_writes_the_proposal_and_the_predictions(tmp_path):
    table_of(30, noise=0.003).to_csv(tmp_path / "t.csv", index=False)
    table_of(5, seed=4).to_csv(tmp_path / "u.csv", index=False)
    done = call(
        "analysis.mixture", "runs=t.csv", "predict=u.csv", "out=m.json", "intervals.resamples=20",
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Gain over the natural shares (the mean of the table's shares)" in done.stdout
    assert max(map(len, done.stdout.split("\n"))) <= 110
    result = json.loads((tmp_path / "m.json").read_text())
    assert set(result["weights"]) == {"code", "books", "web"}
    assert len(pd.read_csv(tmp_path / "m_predicted.csv")) == 5


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "runs is not set"),
        (["runs=t.csv", "target={cod: 1}"], "did you mean code"),
        (["runs=t.csv", "target={code: 0}"], "weighs every domain 0"),
        (["runs=t.csv", "natural={code: 0.4}"], "adds to 0.4 and not to 1"),
        (["runs=t.csv", "natural={cod: 1}"], "is no source of runs"),
        (["runs=t.csv", "unique={code: 1e6}"], "set tokens"),
        (["runs=t.csv", "tokens=1e9", "epochs=4"], "epochs limits sources"),
        (["runs=t.csv", "caps={code: 0.1, books: 0.1, web: 0.1}"], "leave room for 0.3"),
        (["runs=t.csv", "caps={code: 2}"], "out of range"),
        (["runs=t.csv", "losses=x_*"], "no column that meets losses=x_*"),
        (["runs=t.csv", "shares=share"], "needs one *"),
        (["runs=t.csv", "form=linea"], "did you mean linear"),
        (["runs=few.csv"], "6 different mixtures, and effective_data has 7 parameters"),
        (["runs=sum.csv"], "the shares of row 3 add to 1.5 and not to 1"),
        (["runs=constant.csv"], "share_web is 0.5 in every row"),
        (["runs=gap.csv"], "column loss_code holds no number in row 2;"),
        (["runs=t.csv", "predict=lacking.csv"], "no column share_web"),
        (["runs=t.csv", "where=loss_code > 100"], "matches no row"),
    ],
)
def test_mistakes_are_answered_in_one_sentence(tmp_path, arguments, words):
    table = table_of(30)
    table.to_csv(tmp_path / "t.csv", index=False)
    table.head(6).to_csv(tmp_path / "few.csv", index=False)
    table.drop(columns="share_web").to_csv(tmp_path / "lacking.csv", index=False)
    wrong = table.copy()
    wrong.loc[2, "share_web"] += 0.5
    wrong.to_csv(tmp_path / "sum.csv", index=False)
    constant = table.copy()
    constant["share_web"] = 0.5
    constant["share_books"] = 0.5 * np.linspace(0.1, 0.9, 30)
    constant["share_code"] = 0.5 - constant["share_books"]
    constant.to_csv(tmp_path / "constant.csv", index=False)
    gap = table.copy()
    gap.loc[1, "loss_code"] = np.nan
    gap.to_csv(tmp_path / "gap.csv", index=False)
    done = call("analysis.mixture", *arguments, cwd=tmp_path)
    assert done.returncode in (1, 2)
    assert done.stderr.count("error: ") == 1
    assert words in done.stderr
    assert not (tmp_path / "mixture.json").exists()


@pytest.mark.long
@pytest.mark.skipif(not MIXTURES.is_dir(), reason="the published mixtures are not in ../shared")
def test_published_mixtures_are_ranked_as_the_best_known_law_ranks_them(tmp_path):
    ranks = {}
    for name in ("1m", "60m"):
        test = MIXTURES / f"regmix_{name}_test.csv"
        done = call(
            "analysis.mixture", f"runs={MIXTURES / 'regmix_1m_train.csv'}", f"predict={test}",
            f"out={tmp_path / name}.json", "intervals.resamples=20", cwd=tmp_path,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        predicted = pd.read_csv(tmp_path / f"{name}_predicted.csv")
        seen = pd.read_csv(test)[list(predicted.columns)]
        ranks[name] = (
            spearmanr(predicted.mean(axis=1), seen.mean(axis=1)).statistic,
            spearmanr(predicted["loss_pile_cc"], seen["loss_pile_cc"]).statistic,
        )
    assert ranks["1m"][0] >= 0.991 - 0.005
    assert ranks["60m"][0] >= 0.962 - 0.005
    assert ranks["1m"][1] >= 0.992 - 0.005
    assert ranks["60m"][1] >= 0.989 - 0.005
