"""The best of n: its estimator by brute force, its table, and what it refuses."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from analysis import fit
from scaling import best_of_n, final
from scaling.stages.best_of_n import BestOfNConfig, Judge, Pool, best_of, curve, kl_of_best
from scaling.stages.plan import final_folder


def test_the_estimate_is_the_mean_over_all_draws():
    rng = np.random.default_rng(0)
    values, scores = rng.normal(size=(2, 7)), rng.normal(size=(2, 7))
    scores[1, :4] = 0.5  # ties, of which any may be taken
    for n in (1, 2, 5, 7):
        for row in range(2):
            drawn = []
            for chosen in combinations(range(7), n):
                top = scores[row, list(chosen)].max()
                drawn.append(np.mean([values[row, i] for i in chosen if scores[row, i] == top]))
            assert best_of(values, scores, n)[row] == pytest.approx(np.mean(drawn))


def test_the_kl_is_that_of_the_table():
    table = {2: 0.1931, 4: 0.6363, 16: 1.8351, 64: 3.1745, 256: 4.5491, 1000: 5.9088}  # LAWS 7.2
    assert {n: round(kl_of_best(n), 4) for n in table} == table


def test_a_judge_that_errs_more_the_higher_it_scores_is_over_optimised(tmp_path):
    rng = np.random.default_rng(1)
    quality = rng.normal(size=(40, 256))
    proxy = quality + 0.3 * rng.normal(size=quality.shape)
    fooled = np.where(
        proxy > 1.5, quality - 4 * (proxy - 1.5), quality
    )  # what it likes most is bad
    pool = Pool(prompts=[], completions=[], gold=fooled)
    rows = curve(Judge(name="own", scores=proxy), pool)
    gold = curve(Judge(name="gold", scores=fooled), pool)
    path = tmp_path / "curve.csv"
    header = ",".join(rows[0])
    lines = [",".join(str(v) for v in r.values()) for r in [*rows, *gold]]
    path.write_text("\n".join([header, *lines]) + "\n")
    law = fit(path, form="best_of_n", where="judge == 'own'", resamples=50)
    assert law.parameters["beta"] > 0
    assert law.intervals is not None
    assert law.intervals["parameters"]["beta"][0] > 0
    control = fit(path, form="best_of_n", where="judge == 'gold'", resamples=50)
    assert control.parameters["beta"] < law.parameters["beta"]
    gains = [np.mean([r["reward"] for r in gold if r["n"] == n]) for n in (2, 4, 64, 256)]
    assert gains[0] > 0
    assert gains == sorted(gains)


@pytest.fixture
def done(final_config, pretrained, tmp_path, monkeypatch):
    """A final run up to its reward model, as `scaling.best_of_n` finds it."""
    pretrained("sft")
    for name in ("sft", "reward"):
        config = replace(final_config, stages=name)
        final.run_final(config)
    monkeypatch.setattr(best_of_n, "load_plan", lambda plan: final_config)
    return final_config


@pytest.mark.slow
def test_reward_models_are_compared_and_nothing_is_done_twice(done, capsys, monkeypatch):
    config = BestOfNConfig(plan="plan.yaml", prompts=4, n=8, pairs=[10, 30])
    best_of_n.main(config)
    first = capsys.readouterr().out
    folder = final_folder(done) / "best_of_n"
    table = (folder / "curve.csv").read_text()
    assert table.count("\n") == 1 + 4 * 4 * 3  # judges, prompts, n = 2, 4, 8
    assert "fine-tuned, 10 pairs" in first
    assert "form=best_of_n" in first

    def never(*args, **kwargs):
        raise AssertionError("sampled or trained again")

    monkeypatch.setattr("scaling.stages.best_of_n.generate", never)
    monkeypatch.setattr("scaling.stages.best_of_n.train_reward_model", never)
    best_of_n.main(config)
    assert capsys.readouterr().out == first
    assert (folder / "curve.csv").read_text() == table
    with pytest.raises(ValueError, match=r"pairs=9000 are more than the \d+ of the reward stage"):
        best_of_n.main(replace(config, pairs=[9000]))


def test_what_cannot_be_asked_is_refused():
    with pytest.raises(ValueError, match="plan"):
        BestOfNConfig()
    with pytest.raises(ValueError, match="n"):
        BestOfNConfig(plan="x", n=1)
    with pytest.raises(ValueError, match="give pairs"):
        BestOfNConfig(plan="x", bodies=["y"])
